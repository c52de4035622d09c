"""Between which bounds the elements of an integer tensor lie, as far as the nodes that made it tell.

Bounds are dims, so they follow open sizes: an argmax over an axis of n elements lies in 0 .. n-1. A *part* is one place
of one axis (a column of indices), whose elements may have narrower bounds than the whole tensor's. Sums and products
are those of the integers themselves; where a result might leave its type, nothing is known.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from mapsto.ir.bounds import count, lowest_allowed
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Call, Dim, Expr, Sym, floordiv, maximum, minimum, product, sym, terms_of
from mapsto.ir.expr_proofs import known_at_least
from mapsto.ir.expr_rewrite import substitute
from mapsto.ir.graph import Node, Value
from mapsto.ir.rewrite import GraphView

Interval = tuple[Dim | None, Dim | None]
"""(lowest, highest), both inclusive; None where no bound is known."""
Selected = tuple[int, int] | None
"""(axis, place on it); None: all elements."""

UNKNOWN: Interval = (None, None)
# Nodes that are looked through, one after the other.
_DEPTH = 32
# Sums and products of sizes up to this one are known to stay in 64 bits where they do.
_LARGEST = 1 << 31
# The longest text of a bound: what is longer is not followed.
_LENGTH = 400
# The most different sizes in a tensor that are compared with each other.
_SIZES = 16


@dataclass(frozen=True)
class Noted:
    """What a check sees to: elements of these columns of the last axis (-1: all) are allowed (`ir.bounds`)."""

    kind: str
    columns: tuple[int, ...]
    extents: tuple[Dim, ...]

    def narrowed(self, found: Interval, value: Value, part: Selected) -> Interval:
        """Bounds with those of the check where they are not narrower by themselves."""
        place = part[1] if part is not None and part[0] == value.rank - 1 else -1
        for column, extent in zip(self.columns, self.extents, strict=True):
            if column not in (place, -1):
                continue
            low = lowest_allowed(self.kind, extent)
            high = low + count(self.kind, extent) - 1
            above = found[0] is not None and known_at_least(found[0] - low, 0)
            below = found[1] is not None and known_at_least(high - found[1], 0)
            found = (found[0] if above else low), (found[1] if below else high)
        return found


class Known(GraphView, Protocol):
    """What is asked here of a graph in the making (a `Builder` is one)."""

    def content(self, value: Value | None) -> np.ndarray | None:
        """The known integer elements of a small tensor, as an object array of dims, else None."""

    def proves(self, e: Dim) -> bool:
        """Whether e >= 0 for all sizes that get past what a run has checked by now."""

    def noted_bounds(self, value: Value) -> list[Noted]:
        """What a run has checked of a value's elements by now."""


def interval(b: Known, value: Value, part: Selected = None) -> Interval:
    """Bounds of the elements of an integer (or bool) tensor, or of a part of it."""
    return _Ranges(b, {}).of(value, part, _DEPTH)


@dataclass
class _Ranges:
    """One question; `known` keeps what was found on the way."""

    b: Known
    known: dict[tuple[str, Selected], Interval]

    def of(self, value: Value, part: Selected, depth: int) -> Interval:
        key = (value.name, part)
        if key not in self.known:
            self.known[key] = UNKNOWN  # for a chain that is too long to follow
            found = _within(value.dtype, self._found(value, part, depth))
            for noted in self.b.noted_bounds(value):
                found = noted.narrowed(found, value, part)
            self.known[key] = found
        return self.known[key]

    def _found(self, value: Value, part: Selected, depth: int) -> Interval:
        array = self.b.array(value)
        if array is not None:
            return _of_array(array, part)
        content = self.b.content(value)
        if content is not None:
            return _of_content(content, part)
        node = self.b.producer(value)
        rule = _RULES.get(node.op) if node is not None else None
        if node is None or rule is None or depth == 0:
            return UNKNOWN
        return rule(_Site(self, node, value, part, depth - 1))


@dataclass(frozen=True)
class _Site:
    """A node whose output (or part of it) is asked about."""

    ranges: _Ranges
    node: Node
    value: Value
    part: Selected
    depth: int

    @property
    def attrs(self) -> Mapping[str, Any]:
        return self.node.attrs

    def operand(self, i: int) -> Value:
        return self.ranges.b.lookup(self.node.inputs[i])

    def operands(self) -> list[Value]:
        return [self.operand(i) for i, name in enumerate(self.node.inputs) if name]

    def of(self, value: Value, part: Selected = None) -> Interval:
        return self.ranges.of(value, part, self.depth)

    def aligned(self, value: Value) -> Interval:
        """An operand's bounds where the result reads it by broadcasting."""
        if self.part is None:
            return self.of(value)
        axis = self.part[0] - (self.value.rank - value.rank)
        if axis < 0 or value.shape[axis] not in (1, self.value.shape[self.part[0]]):
            return self.of(value)  # along an open axis that may be 1 it is not known which element is read
        return self.of(value, (axis, 0 if value.shape[axis] == 1 else self.part[1]))


_Rule = Callable[[_Site], Interval]


# ---- leaves ----------------------------------------------------------------------------------------------------------


def _of_array(array: np.ndarray, part: Selected) -> Interval:
    chosen = array if part is None else np.take(array, [part[1]], axis=part[0])
    if chosen.dtype.kind not in "iub" or chosen.size == 0:
        return UNKNOWN
    return int(chosen.min()), int(chosen.max())


def _of_content(content: np.ndarray, part: Selected) -> Interval:
    chosen = content if part is None else np.take(content, [part[1]], axis=part[0])
    found: list[Interval] = [(e, e) for e in dict.fromkeys(chosen.reshape(-1))]
    return union(found) if 0 < len(found) <= _SIZES else UNKNOWN


def _within(dtype: DType, found: Interval) -> Interval:
    """The bounds, if the type holds them; a narrow type's own where there are none."""
    low, high = found
    if not (dtype.is_integer or dtype is DType.BOOL):
        return UNKNOWN
    first, last = (0, 1) if dtype is DType.BOOL else (int(np.iinfo(dtype.numpy).min), int(np.iinfo(dtype.numpy).max))
    if any(bound is not None and not _fits(bound, first, last) for bound in found):
        low, high = None, None
    if dtype.size < 8:
        return (first if low is None else low), (last if high is None else high)
    return (0 if low is None and first == 0 else low), high


def _fits(bound: Dim, first: int, last: int) -> bool:
    if isinstance(bound, int):
        return first <= bound <= last
    return len(str(bound)) <= _LENGTH and _magnitude(bound) <= min(last, -first if first else last)


def _magnitude(e: Dim) -> int:
    """At least |e| for all sizes up to _LARGEST."""
    total = 0
    for monomial, coefficient in terms_of(e):
        term = abs(coefficient)
        for atom in monomial:
            if isinstance(atom, Sym):
                term *= _LARGEST
            elif atom.fn == "equal":
                continue
            elif atom.fn in ("min", "max", "broadcast"):
                term *= max(_magnitude(arg) for arg in atom.args)
            else:
                term *= _magnitude(atom.args[atom.fn == "mod"])
        total += term
    return total


# ---- arithmetic on bounds --------------------------------------------------------------------------------------------


def _both(fn: Callable[[Dim, Dim], Dim], a: Dim | None, b: Dim | None) -> Dim | None:
    return None if a is None or b is None else fn(a, b)


def _either(fn: Callable[[Dim, Dim], Dim], a: Dim | None, b: Dim | None) -> Dim | None:
    return b if a is None else a if b is None else fn(a, b)


def union(found: list[Interval]) -> Interval:
    low, high = found[0]
    for a, b in found[1:]:
        low, high = _both(minimum, low, a), _both(maximum, high, b)
    return low, high


def _sum(a: Interval, b: Interval) -> Interval:
    return _both(lambda p, q: p + q, a[0], b[0]), _both(lambda p, q: p + q, a[1], b[1])


def _negated(a: Interval) -> Interval:
    return (None if a[1] is None else -a[1]), (None if a[0] is None else -a[0])


def _product(a: Interval, b: Interval) -> Interval:
    for one, other in ((a, b), (b, a)):
        factor = one[0]
        if factor is not None and factor == one[1]:  # one number
            low, high = (None if bound is None else bound * factor for bound in other)
            if known_at_least(factor, 0):
                return low, high
            return (high, low) if known_at_least(-factor, 0) else UNKNOWN
    (p, q), (r, s) = a, b
    if p is None or r is None or not known_at_least(p, 0) or not known_at_least(r, 0):
        return UNKNOWN
    return p * r, _both(lambda x, y: x * y, q, s)


# ---- rules -----------------------------------------------------------------------------------------------------------


def _same_places(site: _Site) -> Interval:
    return site.aligned(site.operand(0))


def _all_elements(site: _Site) -> Interval:
    """Some of the first operand's elements, wherever they are."""
    return site.of(site.operand(0))


def _reshape(site: _Site) -> Interval:
    source = site.operand(0)
    if site.part is None:
        return site.of(source)
    axis, place = site.part  # an axis keeps its places where what is before it and it itself stay as they are
    before, own = source.shape[: axis + 1], site.value.shape[: axis + 1]
    if before == own and product(source.shape) == product(site.value.shape):
        return site.of(source, (axis, place))
    behind = site.value.rank - axis
    if behind <= source.rank and source.shape[source.rank - behind :] == site.value.shape[axis:]:
        return site.of(source, (source.rank - behind, place))
    return site.of(source)


def _transpose(site: _Site) -> Interval:
    perm = site.attrs["perm"]
    return site.of(site.operand(0), None if site.part is None else (int(perm[site.part[0]]), site.part[1]))


def _slice(site: _Site) -> Interval:
    starts, steps, shape = (site.attrs[k] for k in ("starts", "steps", "shape"))
    if site.part is not None:
        axis, place = site.part
        at = starts[axis] + steps[axis] * place
        return site.of(site.operand(0), (axis, at) if isinstance(at, int) else None)
    for axis, (start, extent) in enumerate(zip(starts, shape, strict=True)):
        if extent == 1 and isinstance(start, int) and site.operand(0).shape[axis] != 1:
            return site.of(site.operand(0), (axis, start))
    return site.of(site.operand(0))


def _concat(site: _Site) -> Interval:
    axis = int(site.attrs["axis"]) % site.value.rank
    parts = site.operands()
    if site.part is None:
        return union([site.of(p) for p in parts])
    if site.part[0] != axis:
        return union([site.of(p, site.part) for p in parts])
    place = site.part[1]
    for p in parts:
        extent = p.shape[axis]
        if not isinstance(extent, int):
            break
        if place < extent:
            return site.of(p, (axis, place))
        place -= extent
    return union([site.of(p) for p in parts])


def _select(site: _Site) -> Interval:
    return union([site.aligned(site.operand(1)), site.aligned(site.operand(2))])


def _extreme(site: _Site) -> Interval:
    a, b = (site.aligned(v) for v in site.operands())
    if site.node.op == "max":
        return _either(maximum, a[0], b[0]), _both(maximum, a[1], b[1])
    return _both(minimum, a[0], b[0]), _either(minimum, a[1], b[1])


def _arithmetic(site: _Site) -> Interval:
    a, b = (site.aligned(v) for v in site.operands())
    if site.node.op == "mul":
        return _product(a, b)
    return _sum(a, b if site.node.op == "add" else _negated(b))


def _neg(site: _Site) -> Interval:
    return _negated(_same_places(site))


def _abs(site: _Site) -> Interval:
    low, high = _same_places(site)
    return 0, _both(maximum, high, None if low is None else -low)


def _relu(site: _Site) -> Interval:
    low, high = _same_places(site)
    return _either(maximum, low, 0), None if high is None else maximum(high, 0)


def _mod(site: _Site) -> Interval:
    """With the divisor's sign, below it; an integer modulo zero is zero."""
    if site.attrs["fmod"]:
        return UNKNOWN
    low, high = site.aligned(site.operand(1))
    if low is None or high is None or not known_at_least(low, 0):
        return UNKNOWN
    return 0, maximum(high - 1, 0)


def _div(site: _Site) -> Interval:
    """By a positive number; the division truncates, so only what is not negative goes down."""
    a, b = (site.aligned(v) for v in site.operands())
    divisor = b[0]
    if not isinstance(divisor, int) or divisor != b[1] or divisor < 1 or a[0] is None or not known_at_least(a[0], 0):
        return UNKNOWN
    return floordiv(a[0], divisor), None if a[1] is None else floordiv(a[1], divisor)


def _truth(site: _Site) -> Interval:
    return 0, 1


def _cast(site: _Site) -> Interval:
    """Of integers: the bounds hold where the new type holds them, which is looked at for every value."""
    source = site.operand(0)
    return _same_places(site) if source.dtype.is_integer or source.dtype is DType.BOOL else UNKNOWN


def _iota(site: _Site) -> Interval:
    start, step, (extent,) = (site.attrs[k] for k in ("start", "step", "shape"))
    if not isinstance(start, (int, Expr)) or not isinstance(step, int):
        return UNKNOWN
    last = start + step * (extent - 1)
    return (start, last) if step >= 0 else (last, start)


def _full(site: _Site) -> Interval:
    value = site.attrs["value"]
    return (value, value) if isinstance(value, (int, Expr)) else UNKNOWN


def _arg(site: _Site) -> Interval:
    """Needs an element, which a condition on sizes sees to."""
    x = site.operand(0)
    return 0, x.shape[int(site.attrs["axis"]) % x.rank] - 1


def _topk(site: _Site) -> Interval:
    x = site.operand(0)
    if site.value.name != site.node.outputs[1].name:
        return site.of(x)
    return 0, x.shape[int(site.attrs["axis"]) % x.rank] - 1


def _nonzero(site: _Site) -> Interval:
    """A row for each axis; zeros where there are no more."""
    x = site.operand(0)
    if site.value.name != site.node.outputs[0].name:
        return 0, product(x.shape)
    if site.part is not None and site.part[0] == 0:
        return 0, maximum(x.shape[site.part[1]] - 1, 0)
    return union([(0, maximum(d - 1, 0)) for d in x.shape]) if x.rank else (0, 0)


def _suppressed(site: _Site) -> Interval:
    """Columns: batch, class, box; zeros where there are no more."""
    boxes, scores = site.operand(0), site.operand(1)
    extents = (scores.shape[0], scores.shape[1], boxes.shape[1])
    if site.value.name != site.node.outputs[0].name:
        return UNKNOWN
    if site.part is not None and site.part[0] == 1:
        return 0, maximum(extents[site.part[1]] - 1, 0)
    return union([(0, maximum(d - 1, 0)) for d in extents])


def _pool_places(site: _Site) -> Interval:
    """Every window has an element where none is wider than the border that it may lie in."""
    attrs, x = site.attrs, site.operand(0)
    kernel, pads, dilations = (attrs[k] for k in ("kernel", "pads", "dilations"))
    inside = all(d == 1 for d in dilations) and all(
        pads[k] < width and pads[len(kernel) + k] < width and known_at_least(x.shape[2 + k], 1)
        for k, width in enumerate(kernel)
    )
    return (0, product(x.shape) - 1) if inside else UNKNOWN


def _scatter(site: _Site) -> Interval:
    if site.attrs["reduction"] != "none":
        return UNKNOWN
    return union([site.of(site.operand(0)), site.of(site.operand(2))])


def _reduce(site: _Site) -> Interval:
    kind, x = site.attrs["kind"], site.operand(0)
    if kind not in ("max", "min") or not all(known_at_least(d, 1) for d in x.shape):
        return UNKNOWN
    return site.of(x)


_COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge", "and", "or", "xor", "not", "isnan", "isinf")
_RULES: dict[str, _Rule] = {
    "reshape": _reshape, "transpose": _transpose, "slice": _slice, "concat": _concat, "select": _select,
    "expand": _same_places, "copy": _same_places, "tile": _all_elements,
    "gather": _all_elements, "gather_elements": _all_elements, "gather_nd": _all_elements,
    "scatter_elements": _scatter, "scatter_nd": _scatter,
    "min": _extreme, "max": _extreme, "add": _arithmetic, "sub": _arithmetic, "mul": _arithmetic,
    "neg": _neg, "abs": _abs, "relu": _relu, "mod": _mod, "div": _div, "cast": _cast, "reduce": _reduce,
    "iota": _iota, "full": _full, "argmax": _arg, "argmin": _arg, "topk": _topk, "nonzero": _nonzero,
    "non_max_suppression": _suppressed, "max_pool_indices": _pool_places,
    **dict.fromkeys(_COMPARISONS, _truth),
}  # fmt: skip


# ---- proofs ----------------------------------------------------------------------------------------------------------


def is_proved(b: Known, e: Dim, positive: list[Dim]) -> bool:
    """Whether e >= 0 is proved for all sizes for which each of `positive` is at least 1."""
    if b.proves(e):
        return True
    if isinstance(e, int):
        return False
    return known_at_least(_raised(e, positive), 0)


def _raised(e: Dim, positive: list[Dim]) -> Dim:
    """e over symbols that count from 1: those that are factors of something positive."""
    names: set[str] = set()
    for dim in positive:
        terms = terms_of(dim)
        if len(terms) == 1 and terms[0][1] > 0 and not any(isinstance(a, Call) for a in terms[0][0]):
            names |= {a.name for a in terms[0][0] if isinstance(a, Sym)}
    return substitute(e, {name: sym(name) + 1 for name in names})
