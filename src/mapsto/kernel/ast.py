"""Kernels: what is computed, element by element, free of layout, order and device.

A kernel is a list of statements. A statement defines `target[index] = value` for every point of its iterators.
`value` is a scalar
expression over loads at index maps. Reductions carry iterators of their own. Statements run as if one after the other.

Guards: `Where(conds, a, b)` is `a` where every integer expression in `conds` is >= 0, else `b`; loads inside `a` are
only made where the guard holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim
from mapsto.ir.expr_proofs import Ranges
from mapsto.ir.expr_rewrite import simplify, substitute


@dataclass(frozen=True)
class Iter:
    """A named iterator over 0 .. extent-1."""

    name: str
    extent: Dim


@dataclass(frozen=True)
class Const:
    value: float | int | bool
    dtype: DType


@dataclass(frozen=True)
class Index:
    """An integer expression over iterators and sizes, as a value."""

    expr: Dim
    dtype: DType = DType.I64


@dataclass(frozen=True)
class Load:
    tensor: str
    index: tuple[Dim, ...]
    dtype: DType


@dataclass(frozen=True)
class Op:
    """A scalar function of scalars. `fn` is one of `SCALAR_FNS`; comparisons and logic yield bool."""

    fn: str
    args: tuple[Scalar, ...]
    dtype: DType


@dataclass(frozen=True)
class Cast:
    """Conversion by numpy's `astype` rules; float to integer truncates towards zero, to bool is `!= 0`."""

    arg: Scalar
    dtype: DType


@dataclass(frozen=True)
class Where:
    conds: tuple[Dim, ...]
    then: Scalar
    otherwise: Scalar

    @property
    def dtype(self) -> DType:
        return self.then.dtype


@dataclass(frozen=True)
class Reduce:
    """`kind` over the iterators: sum, prod, max, min (NaN wins in max and min), any, all. Empty: 0, 1, -inf/lowest,
    +inf/highest, False, True.
    """

    kind: str
    iters: tuple[Iter, ...]
    body: Scalar

    @property
    def dtype(self) -> DType:
        return self.body.dtype


Scalar = Const | Index | Load | Op | Cast | Where | Reduce

# name -> number of arguments. Float functions follow numpy, max/min propagate NaN; `div` of integers truncates (C,
# ONNX), `mod` takes the divisor's sign (Python), `fmod` the dividend's (C); `select(c, a, b)`; shifts and bit functions
# on integers.
_UNARY = (
    "neg abs sign sqrt exp log tanh erf sigmoid sin cos tan floor ceil round not isnan isinf"
    " asin acos atan sinh cosh asinh acosh atanh bitnot log1p expm1"
)
_BINARY = "add sub mul div pow mod fmod min max eq ne lt le gt ge and or xor bitand bitor bitxor shl shr"
SCALAR_FNS: dict[str, int] = {
    **dict.fromkeys(_UNARY.split(), 1),
    **dict.fromkeys(_BINARY.split(), 2),
    "select": 3,
    "fma": 3,
}  # fmt: skip


@dataclass(frozen=True)
class Scan:
    """The statement accumulates along one of its iterators: target[.., i, ..] = value[.., 0, ..] (kind) ... (kind)
    value[.., i, ..].
    """

    iter: str
    kind: str = "sum"
    exclusive: bool = False
    reverse: bool = False


@dataclass(frozen=True)
class Stmt:
    """`target[index] = value` for all points of `iters`. `index` None stands for the iterators in order.

    Several statements may write one target (concat, scatter); a later one wins where they overlap. A statement whose
    index holds loaded integers (scatter) runs in the order of its iterators.
    """

    target: str
    dtype: DType
    iters: tuple[Iter, ...]
    value: Scalar
    index: tuple[Dim, ...] | None = None
    scan: Scan | None = None


@dataclass(frozen=True)
class Tensor:
    """A kernel's operand: its name, element type and logical shape."""

    name: str
    dtype: DType
    shape: tuple[Dim, ...]


@dataclass(frozen=True)
class Kernel:
    """Statements over tensors. `temps` are targets that nobody outside reads."""

    name: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    temps: tuple[Tensor, ...]
    stmts: tuple[Stmt, ...]


def children(e: Scalar) -> tuple[Scalar, ...]:
    if isinstance(e, Op):
        return e.args
    if isinstance(e, Cast):
        return (e.arg,)
    if isinstance(e, Where):
        return (e.then, e.otherwise)
    return (e.body,) if isinstance(e, Reduce) else ()


def walk(e: Scalar) -> Iterator[Scalar]:
    """Every node, from the top, left before right."""
    waiting = [e]
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(reversed(children(node)))


def transform(e: Scalar, leaf: Callable[[Scalar], Scalar | None], index: Callable[[Dim], Dim] = lambda d: d) -> Scalar:
    """Rewrite from the top: `leaf` may replace a node (and is not asked about what it returned); `index` rewrites
    every integer expression.
    """
    replaced = leaf(e)
    if replaced is not None:
        return replaced
    if isinstance(e, Load):
        return Load(e.tensor, tuple(index(i) for i in e.index), e.dtype)
    if isinstance(e, Index):
        return Index(index(e.expr), e.dtype)
    if isinstance(e, Op):
        return Op(e.fn, tuple(transform(a, leaf, index) for a in e.args), e.dtype)
    if isinstance(e, Cast):
        return Cast(transform(e.arg, leaf, index), e.dtype)
    if isinstance(e, Where):
        return Where(
            tuple(index(c) for c in e.conds), transform(e.then, leaf, index), transform(e.otherwise, leaf, index)
        )
    if isinstance(e, Reduce):
        iters = tuple(Iter(i.name, index(i.extent)) for i in e.iters)
        return Reduce(e.kind, iters, transform(e.body, leaf, index))
    return e


def substitute_iters(e: Scalar, values: dict[str, Dim]) -> Scalar:
    return transform(e, lambda s: None, lambda d: substitute(d, values))


def simplify_scalar(e: Scalar, ranges: Ranges) -> Scalar:
    """Simplify every integer expression under the iterators' ranges (those of inner reductions are added here)."""
    inner = dict(ranges)
    for node in walk(e):
        if isinstance(node, Reduce):
            inner.update({i.name: (0, i.extent - 1) for i in node.iters})
    return transform(e, lambda s: None, lambda d: simplify(d, inner))


def ranges_of(iters: tuple[Iter, ...]) -> dict[str, tuple[Dim, Dim]]:
    return {i.name: (0, i.extent - 1) for i in iters}


def with_value(stmt: Stmt, value: Scalar) -> Stmt:
    """The statement with another value."""
    if value is stmt.value:
        return stmt
    return Stmt(stmt.target, stmt.dtype, stmt.iters, value, stmt.index, stmt.scan)
