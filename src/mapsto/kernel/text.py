"""Kernels printed as mathematics.

    kernel conv_relu(x: f32[1, 64, 56, 56], w: f32[64, 64, 3, 3], b: f32[64]) -> (out: f32[1, 64, 56, 56])
      out[n, o, y, x] = max(b[o] + sum[c<64, i<3, j<3] (x[n, c, i + y - 1, j + x - 1] else 0) * w[o, c, i, j], 0)

Where the iterators are not the target's axes in order, they follow: `for i < 4, k < n`. `(x[..] else v)` stands for v
where the index leaves x; any other guard is written out, `(a if e >= 0, .. else b)`.

A fold shows each running value as `name = start -> step & merge`, then what is made of them in the end; in a merge,
`name'` is the value of the second partial state: `fold[i<n](a = 0 -> a + x[i] & a + a'; k = 0 -> k + 1 & k + k': a/k)`.
"""

from __future__ import annotations

from collections.abc import Mapping

from mapsto.ir.expr import Dim, sym
from mapsto.kernel.ast import (
    Cast,
    Const,
    Fold,
    Index,
    Iter,
    Kernel,
    Load,
    Op,
    Reduce,
    Scalar,
    State,
    Stmt,
    Tensor,
    Where,
)

# Infix functions and how tightly they bind.
_INFIX = {
    "or": ("or", 2), "xor": ("xor", 2), "and": ("and", 4),
    "eq": ("==", 6), "ne": ("!=", 6), "lt": ("<", 6), "le": ("<=", 6), "gt": (">", 6), "ge": (">=", 6),
    "bitor": ("|", 8), "bitxor": ("^", 8), "bitand": ("&", 10), "shl": ("<<", 12), "shr": (">>", 12),
    "add": ("+", 14), "sub": ("-", 14), "mul": ("*", 16), "div": ("/", 16), "pow": ("**", 20),
}  # fmt: skip
# A reduction reaches over a product, not over a sum: `sum[i<3] a * b + c` is `(sum a*b) + c`.
_REDUCE, _PRODUCT, _NEGATIVE, _ATOM = 15, 16, 18, 40

TensorShapes = Mapping[str, tuple[Dim, ...]]


def kernel_text(kernel: Kernel) -> str:
    """The kernel, a line a statement."""
    shapes = {t.name: t.shape for t in (*kernel.inputs, *kernel.outputs, *kernel.temps)}
    head = f"kernel {kernel.name}({_tensors(kernel.inputs)}) -> ({_tensors(kernel.outputs)})"
    if kernel.temps:
        head += f" with ({_tensors(kernel.temps)})"
    return "\n".join([head, *(f"  {statement_text(s, shapes)}" for s in kernel.stmts)]) + "\n"


def _tensors(tensors: tuple[Tensor, ...]) -> str:
    return ", ".join(f"{t.name}: {t.dtype.value}[{', '.join(str(d) for d in t.shape)}]" for t in tensors)


def statement_text(stmt: Stmt, shapes: TensorShapes | None = None) -> str:
    """`target[index] = value`; with the tensors' shapes, guards that only keep an index inside are short."""
    shapes = shapes or {}
    own = tuple(sym(i.name) for i in stmt.iters)
    index = own if stmt.index is None else stmt.index
    value = scalar_text(stmt.value, shapes)
    if stmt.scan is not None:
        scan = stmt.scan
        how = [scan.kind, *(["exclusive"] if scan.exclusive else []), *(["reverse"] if scan.reverse else [])]
        value = f"scan[{scan.iter}: {', '.join(how)}] {value}"
    text = f"{stmt.target}[{', '.join(str(i) for i in index)}] = {value}"
    plain = index == own and shapes.get(stmt.target) == tuple(i.extent for i in stmt.iters)
    return text if plain or not stmt.iters else f"{text}  for {_iters(stmt.iters, ' < ')}"


def _iters(iters: tuple[Iter, ...], sign: str) -> str:
    return ", ".join(f"{i.name}{sign}{i.extent}" for i in iters)


def scalar_text(value: Scalar, shapes: TensorShapes | None = None) -> str:
    return _text(value, shapes or {})[0]


def _text(value: Scalar, shapes: TensorShapes) -> tuple[str, int]:
    """(text, how tightly it binds)"""
    if isinstance(value, Const):
        shown = _number_text(value.value)
        return shown, _NEGATIVE if shown.startswith("-") else _ATOM
    if isinstance(value, Index):
        return f"<{value.expr}>", _ATOM
    if isinstance(value, Load):
        return f"{value.tensor}[{', '.join(str(i) for i in value.index)}]", _ATOM
    if isinstance(value, Cast):
        return f"{value.dtype.value}({scalar_text(value.arg, shapes)})", _ATOM
    if isinstance(value, Where):
        return _where_text(value, shapes), _ATOM
    if isinstance(value, Reduce):
        return f"{value.kind}[{_iters(value.iters, '<')}] {_inside(value.body, shapes, _PRODUCT)}", _REDUCE
    if isinstance(value, State):
        return f"{value.name}'" if value.other else value.name, _ATOM
    if isinstance(value, Fold):
        return _fold_text(value, shapes), _ATOM
    return _op_text(value, shapes)


def _fold_text(value: Fold, shapes: TensorShapes) -> str:
    running = [
        f"{r.name} = {scalar_text(r.start, shapes)} -> {scalar_text(r.step, shapes)} & {scalar_text(r.merge, shapes)}"
        for r in value.running
    ]
    return f"fold[{_iters(value.iters, '<')}]({'; '.join(running)}: {scalar_text(value.result, shapes)})"


def _number_text(value: float | int | bool) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else repr(value)


def _inside(value: Scalar, shapes: TensorShapes, least: int) -> str:
    text, binds = _text(value, shapes)
    return text if binds >= least else f"({text})"


def _op_text(value: Op, shapes: TensorShapes) -> tuple[str, int]:
    if value.fn == "neg":
        return f"-{_inside(value.args[0], shapes, _NEGATIVE)}", _NEGATIVE
    if value.fn not in _INFIX:
        return f"{value.fn}({', '.join(scalar_text(a, shapes) for a in value.args)})", _ATOM
    sign, binds = _INFIX[value.fn]
    left, right = value.args
    return f"{_inside(left, shapes, binds)} {sign} {_inside(right, shapes, binds + 1)}", binds


def _where_text(value: Where, shapes: TensorShapes) -> str:
    then, otherwise = scalar_text(value.then, shapes), scalar_text(value.otherwise, shapes)
    if isinstance(value.then, Load) and set(value.conds) <= set(_bounds(value.then, shapes)):
        return f"({then} else {otherwise})"
    return f"({then} if {', '.join(f'{c} >= 0' for c in value.conds)} else {otherwise})"


def _bounds(load: Load, shapes: TensorShapes) -> list[Dim]:
    """The conditions under which a load's index is inside of its tensor."""
    shape = shapes.get(load.tensor)
    if shape is None:
        return []
    return [c for at, extent in zip(load.index, shape, strict=True) for c in (at, extent - 1 - at)]
