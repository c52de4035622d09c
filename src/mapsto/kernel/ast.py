"""Kernels: what is computed, element by element, free of layout, order and device.

A kernel is a list of statements. A statement defines `target[index] = value` for every point of its iterators.
`value` is a scalar expression over loads at index maps. Reductions (of one value, or folds of several) carry iterators
of their own. Statements run as if one after the other.

Guards: `Where(conds, a, b)` is `a` where every integer expression in `conds` is >= 0, else `b`; loads inside `a` are
only made where the guard holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
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


@dataclass(frozen=True)
class State:
    """A running value of the fold around, as it is before a step; in a merge that of the first partial state, or with
    `other` that of the second; in the result that of the whole.
    """

    name: str
    dtype: DType
    other: bool = False


@dataclass(frozen=True)
class Running:
    """A running value of a fold: what it is before the first point, after one more, and of two partial states. A merge
    reads states alone.
    """

    name: str
    start: Const
    step: Scalar
    merge: Scalar

    @property
    def dtype(self) -> DType:
        return self.start.dtype


@dataclass(frozen=True)
class Fold:
    """Several running values at once over the iterators, and what is made of them in the end (over states alone).

    Partial states are of any points, each in the order of the iterators, the last one fastest; two that are merged may
    interleave. So a step may rely on order (a tie goes to the place that was first), a merge may not, and step(s, x)
    means the same as merge(s, step(start, x)), but for rounding. Over no points the result is that of `start`.
    """

    iters: tuple[Iter, ...]
    running: tuple[Running, ...]
    result: Scalar

    @property
    def dtype(self) -> DType:
        return self.result.dtype

    @property
    def steps(self) -> tuple[Scalar, ...]:
        return tuple(r.step for r in self.running)


Reduction = Reduce | Fold
Scalar = Const | Index | Load | Op | Cast | Where | Reduce | State | Fold

# name -> number of arguments. Float functions follow numpy, max/min propagate NaN; `div` of integers truncates (C,
# ONNX), `mod` takes the divisor's sign (Python), `fmod` the dividend's (C); `select(c, a, b)`; shifts and bit functions
# on integers.
_UNARY = (
    "neg abs sign sqrt exp log tanh erf sigmoid sin cos tan floor ceil round not isnan isinf"
    " asin acos atan sinh cosh asinh acosh atanh bitnot bitcast log1p expm1"
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
    if isinstance(e, Reduce):
        return (e.body,)
    return (*e.steps, *(r.merge for r in e.running), e.result) if isinstance(e, Fold) else ()


def bodies(e: Reduction) -> tuple[Scalar, ...]:
    """What a reduction evaluates at each of its points."""
    return e.steps if isinstance(e, Fold) else (e.body,)


def reduced(e: Reduction, iters: tuple[Iter, ...], rewritten: Callable[[Scalar], Scalar]) -> Reduction:
    """The same reduction over other iterators, with every expression rewritten."""
    if isinstance(e, Reduce):
        return Reduce(e.kind, iters, rewritten(e.body))
    running = tuple(Running(r.name, r.start, rewritten(r.step), rewritten(r.merge)) for r in e.running)
    return Fold(iters, running, rewritten(e.result))


def with_states(e: Scalar, values: Mapping[str, Scalar]) -> Scalar:
    """An expression with the states of the fold around replaced; those of folds inside are their own."""

    def leaf(node: Scalar) -> Scalar | None:
        if isinstance(node, Fold):
            inner = {name: v for name, v in values.items() if all(r.name != name for r in node.running)}
            return reduced(node, node.iters, lambda part: with_states(part, inner))
        return values.get(node.name, node) if isinstance(node, State) else None

    return transform(e, leaf)


def over_nothing(e: Fold) -> Scalar:
    """What a fold gives over no points."""
    return with_states(e.result, {r.name: r.start for r in e.running})


def over_one_point(e: Fold) -> Scalar:
    """What a fold gives over a single point."""
    start: dict[str, Scalar] = {r.name: r.start for r in e.running}
    return with_states(e.result, {r.name: with_states(r.step, start) for r in e.running})


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
        return type(e)(e.tensor, tuple(index(i) for i in e.index), e.dtype)  # there are kinds that know more
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
    if isinstance(e, Reduction):
        iters = tuple(Iter(i.name, index(i.extent)) for i in e.iters)
        return reduced(e, iters, lambda part: transform(part, leaf, index))
    return e


def substitute_iters(e: Scalar, values: dict[str, Dim]) -> Scalar:
    return transform(e, lambda s: None, lambda d: substitute(d, values))


def simplify_scalar(e: Scalar, ranges: Ranges) -> Scalar:
    """Simplify every integer expression under the iterators' ranges (those of inner reductions are added here)."""
    inner = dict(ranges)
    for node in walk(e):
        if isinstance(node, Reduction):
            inner.update({i.name: (0, i.extent - 1) for i in node.iters})
    return transform(e, lambda s: None, lambda d: simplify(d, inner))


def ranges_of(iters: Iterable[Iter]) -> dict[str, tuple[Dim, Dim]]:
    return {i.name: (0, i.extent - 1) for i in iters}


def with_value(stmt: Stmt, value: Scalar) -> Stmt:
    """The statement with another value."""
    if value is stmt.value:
        return stmt
    return Stmt(stmt.target, stmt.dtype, stmt.iters, value, stmt.index, stmt.scan)
