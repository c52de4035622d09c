"""Steps over flat buffers: layouts turn indices into places, iterators that run on in memory collapse into one.

"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from mapsto.devices.generic.normal import settle_guards
from mapsto.devices.generic.rows import Segment
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Call, Dim, Sym, add, bare_symbol, load, mul, of_atom, product, sym, symbols
from mapsto.ir.expr_proofs import Ranges, known_in
from mapsto.ir.expr_rewrite import rebuild, rejoined, simplify, substitute
from mapsto.kernel.ast import (
    Index,
    Iter,
    Load,
    Reduction,
    Scalar,
    Scan,
    Where,
    bodies,
    children,
    ranges_of,
    reduced,
    transform,
)
from mapsto.plan.layout import Layout, plain


@dataclass(frozen=True)
class FlatLoad(Load):
    """A load at a place in a buffer; its index, which all that rewrites integers reaches, is read by name."""

    @staticmethod
    def of(tensor: str, dtype: DType, place: Dim, inside: bool = True, padded: Dim = 0) -> FlatLoad:
        return FlatLoad(tensor, (place, int(inside), padded), dtype)

    @property
    def place(self) -> Dim:
        """The element's place in the buffer."""
        return self.index[0]

    @property
    def inside(self) -> bool:
        """Whether every point of the iterators is proved to be inside the tensor: the load may be made under a guard
        that is off.
        """
        return self.index[1] == 1

    @property
    def padded(self) -> Dim:
        """The iterator along which the buffer is padded to whole blocks (a vector along it needs no mask), or 0."""
        return self.index[2]


@dataclass(frozen=True)
class FlatStep:
    """`target[place] = value`.

    `padded`: the iterator along which the target's blocks are filled up with zeros, or ''.
    """

    target: str
    dtype: DType
    place: Dim
    value: Scalar
    scan: Scan | None = None
    ordered: bool = False
    padded: str = ""

    def exprs(self) -> list[Dim]:
        own = [self.place, sym(self.padded)] if self.padded else [self.place]
        return own + expressions(self.value)


@dataclass(frozen=True)
class FlatGroup:
    steps: tuple[FlatStep, ...]
    inner: tuple[Iter, ...]


@dataclass(frozen=True)
class FlatSegment:
    """`lane`: the lanes of a row vector, where an iterator was split into vectors and lanes."""

    rows: tuple[Iter, ...]
    groups: tuple[FlatGroup, ...]
    lane: Iter | None = None

    @property
    def steps(self) -> tuple[FlatStep, ...]:
        return tuple(s for g in self.groups for s in g.steps)

    def exprs(self) -> list[Dim]:
        return [e for s in self.steps for e in s.exprs()]


def expressions(e: Scalar) -> list[Dim]:
    """Every integer expression of a scalar, those inside reductions included."""
    if isinstance(e, Load):
        return list(e.index)
    own = [e.expr] if isinstance(e, Index) else list(e.conds) if isinstance(e, Where) else []
    return own + [d for child in children(e) for d in expressions(child)]


def reductions(e: Scalar) -> list[Reduction]:
    found = [e] if isinstance(e, Reduction) else []
    return found + [r for child in children(e) for r in reductions(child)]


# ---- flattening ----------------------------------------------------------------------------------------------------


def flatten(segment: Segment, layouts: Mapping[str, Layout], shapes: Mapping[str, tuple[Dim, ...]]) -> FlatSegment:
    """Places for indices. A tensor without a layout is a temporary of one row: its row dims take no space."""
    row_dims = dict(segment.row_dims)
    local = {t: _row_layout(shapes[t], row_dims.get(t, frozenset())) for t in shapes if t not in layouts}
    flattener = Flattener({**layouts, **local})
    row_ranges = ranges_of(segment.rows)
    groups = []
    for group in segment.groups:
        ranges = {**row_ranges, **ranges_of(group.inner)}
        steps = tuple(
            FlatStep(
                s.target,
                s.dtype,
                flattener.place(s.target, s.index, ranges)[0],
                flattener.scalar(s.value, ranges),
                s.scan,
                s.ordered,
                flattener.filled(s.target, s.index, ranges),
            )
            for s in group.steps
        )
        groups.append(FlatGroup(steps, group.inner))
    return _collapsed_inner(FlatSegment(segment.rows, tuple(groups)))


def _row_layout(shape: Sequence[Dim], row_dims: frozenset[int]) -> Layout:
    """Row-major over the dims that are not the row's own."""
    layout = plain([1 if d in row_dims else extent for d, extent in enumerate(shape)])
    axes = tuple(replace(a, stride=0) if a.dim in row_dims else a for a in layout.axes)
    return replace(layout, axes=axes, shape=tuple(shape))


@dataclass
class Flattener:
    """Turns indices into places.

    `known`: tensors that need none. `proved`: every load outside of a guard is inside its tensor.
    """

    layouts: Mapping[str, Layout]
    known: frozenset[str] = frozenset()
    proved: bool = False

    def place(self, tensor: str, index: Sequence[Dim], ranges: Ranges) -> tuple[Dim, bool]:
        """(place, whether it is proved to be inside)."""
        layout = self.layouts[tensor]
        flat = tuple(self.index(e, ranges) for e in index)
        safe = all(known_in(e, extent, ranges) for e, extent in zip(index, layout.shape, strict=True) if e != 0)
        safe = safe and all(e != 0 or (isinstance(x, int) and x > 0) for e, x in zip(index, layout.shape, strict=True))
        return self.placed(tensor, flat, ranges), safe

    def placed(self, tensor: str, index: Sequence[Dim], ranges: Ranges) -> Dim:
        return simplify(rejoined(self.layouts[tensor].place(index, ranges)), ranges)

    def padded(self, tensor: str, index: Sequence[Dim]) -> str:
        layout = self.layouts[tensor]
        if layout.block is None or not layout.has_tail or layout.border[layout.block.dim] != (0, 0):
            return ""
        return bare_symbol(index[layout.block.dim]) or ""

    def filled(self, tensor: str, index: Sequence[Dim], ranges: Ranges) -> str:
        """The iterator that covers the whole of a target's padded dim, or ''."""
        name = self.padded(tensor, index)
        layout = self.layouts[tensor]
        if not name or layout.block is None or ranges[name] != (0, add(layout.shape[layout.block.dim], -1)):
            return ""
        return name

    def index(self, e: Dim, ranges: Ranges) -> Dim:
        """Loaded integers at their places."""

        def call(c: Call, args: tuple[Dim, ...]) -> Dim | None:
            return load(c.tensor, (self.placed(c.tensor, args, ranges),)) if c.fn == "load" else None

        return rebuild(e, lambda atom: None, call)

    def load(self, e: Load, ranges: Ranges) -> Load:
        if e.tensor in self.known:
            return FlatLoad.of(e.tensor, e.dtype, 0)
        place, safe = self.place(e.tensor, e.index, ranges)
        padded = self.padded(e.tensor, e.index)
        return FlatLoad.of(e.tensor, e.dtype, place, self.proved or safe, sym(padded) if padded else 0)

    def scalar(self, e: Scalar, ranges: Ranges) -> Scalar:
        def leaf(node: Scalar) -> Scalar | None:
            if isinstance(node, Load):
                return self.load(node, ranges)
            if isinstance(node, Where) and self.proved:
                conds = tuple(self.index(c, ranges) for c in node.conds)
                return Where(
                    conds, replace(self, proved=False).scalar(node.then, ranges), self.scalar(node.otherwise, ranges)
                )
            if isinstance(node, Reduction):
                inner = {**ranges, **ranges_of(node.iters)}
                return _collapsed_reduction(reduced(node, node.iters, lambda part: self.scalar(part, inner)))
            return None

        return transform(e, leaf, lambda d: self.index(d, ranges))


# ---- collapsing ----------------------------------------------------------------------------------------------------


def expressible(e: Dim, outer: str, inner: str, extent: Dim) -> bool:
    """Whether `e` depends on the two iterators only through extent*outer + inner."""
    if isinstance(e, int):
        return True
    coefficients: dict[str, Dim] = {outer: 0, inner: 0}
    for monomial, c in e.terms:
        own = [a for a in monomial if isinstance(a, Sym) and a.name in coefficients]
        calls = [a for a in monomial if isinstance(a, Call) and symbols(of_atom(a)) & coefficients.keys()]
        if len(own) > 1 or (own and calls):
            return False
        if own:
            name = own[0].name
            rest = product([c, *(of_atom(a) for a in monomial if a is not own[0])])
            coefficients[name] = add(coefficients[name], rest)
        elif not all(expressible(arg, outer, inner, extent) for a in calls for arg in a.args):
            return False
    return coefficients[outer] == mul(extent, coefficients[inner])


def collapse(iters: Sequence[Iter], exprs: Iterable[Dim]) -> tuple[tuple[Iter, ...], dict[str, Dim]]:
    """Neighbours joined wherever every expression allows it, and the substitution that does it."""
    exprs = list(exprs)
    values: dict[str, Dim] = {}
    kept = list(iters)
    at = len(kept) - 2
    while at >= 0:
        outer, inner = kept[at], kept[at + 1]
        if all(expressible(e, outer.name, inner.name, inner.extent) for e in exprs):
            values[outer.name] = 0
            exprs = [substitute(e, {outer.name: 0}) for e in exprs]
            kept[at : at + 2] = [Iter(inner.name, mul(outer.extent, inner.extent))]
            at = min(at, len(kept) - 2)
            if at < 0:
                break
        at -= 1
    return tuple(kept), values


def _collapsed_reduction(e: Reduction) -> Scalar:
    iters, values = collapse(e.iters, [d for part in bodies(e) for d in expressions(part)])
    if not values:
        return e
    return reduced(e, iters, lambda part: substituted(part, values))


def _collapsed_inner(segment: FlatSegment) -> FlatSegment:
    groups = []
    for group in segment.groups:
        steps = group.steps
        scanned = {s.scan.iter for s in steps if s.scan}
        if scanned:
            groups.append(group)
            continue
        inner, values = collapse(group.inner, [e for s in steps for e in s.exprs()])
        steps = tuple(_moved(s, values) for s in steps) if values else steps
        groups.append(FlatGroup(steps, inner))
    return replace(segment, groups=tuple(groups))


def collapsed_rows(segment: FlatSegment, extra: Iterable[Dim] = (), keep: str = "") -> FlatSegment:
    """The segment with its row iterators collapsed; `keep` stays by itself; `extra` expressions must be expressible
    too.
    """
    movable = [i for i in segment.rows if i.name != keep]
    rows, values = collapse(movable, [*segment.exprs(), *extra])
    kept = tuple(i for i in segment.rows if i.name == keep)
    segment = replace(segment, rows=(*rows, *kept))
    return simplified(substituted_segment(segment, values)) if values else segment


def substituted(e: Scalar, values: Mapping[str, Dim]) -> Scalar:
    return transform(e, lambda s: None, lambda d: substitute(d, values))


def _moved(step: FlatStep, values: Mapping[str, Dim]) -> FlatStep:
    return replace(step, place=substitute(step.place, values), value=substituted(step.value, values))


def substituted_segment(segment: FlatSegment, values: Mapping[str, Dim]) -> FlatSegment:
    groups = tuple(replace(g, steps=tuple(_moved(s, values) for s in g.steps)) for g in segment.groups)
    return replace(segment, groups=groups)


def simplified(segment: FlatSegment) -> FlatSegment:
    """Expressions simplified under the present iterators."""
    groups = []
    lanes = ranges_of((segment.lane,)) if segment.lane is not None else {}
    for group in segment.groups:
        ranges = {**ranges_of(segment.rows), **ranges_of(group.inner), **lanes}
        steps = tuple(
            replace(s, place=simplify(s.place, ranges), value=settle_guards(s.value, ranges)) for s in group.steps
        )
        groups.append(FlatGroup(steps, group.inner))
    return replace(segment, groups=tuple(groups))
