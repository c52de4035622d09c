"""Elements read at places that are data, between the elements of an input: `grid_sample`, spelt out in ops."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product as combinations

from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, maximum, product
from mapsto.ir.graph import Value
from mapsto.ops.arranging import reshape, slice_axis
from mapsto.ops.builder import Builder
from mapsto.ops.composite import scalar

_TAPS = {"linear": (0, 1), "cubic": (-1, 0, 1, 2)}


def grid_sample(b: Builder, x: Value, grid: Value, mode: str, padding: str, aligned: bool) -> Value:
    """x[N, C, space...] read at grid[N, out..., rank], whose last axis counts space backwards, each from -1 to 1: the
    centres of the first and last elements (aligned), or their outer edges. mode: "nearest", "linear" or "cubic";
    padding, of what is outside: "zeros", "border" or "reflection".
    """
    rank = x.rank - 2
    for extent in x.shape[2:]:
        b.require(maximum(extent - 1, -product(grid.shape[1:-1])), f"an axis of {extent} elements cannot be sampled")
    at = _GridReading(b, x, padding, aligned)
    places = []
    for axis in range(rank):
        part = slice_axis(b, grid, grid.rank - 1, rank - 1 - axis, 1)
        places.append(at.place(reshape(b, part, grid.shape[:-1]), axis))
    if mode == "nearest":
        return at.read([b.one("round", [at.inside(p, k)]) for k, p in enumerate(places)])
    if padding != "zeros" and mode == "linear":
        places = [at.inside(p, k) for k, p in enumerate(places)]
    return _interpolated(at, places, _TAPS[mode])


class _GridReading:
    """Coordinates into the space of an input, and the reading of elements there with the padding that was asked for."""

    def __init__(self, b: Builder, x: Value, padding: str, aligned: bool) -> None:
        self.b, self.x, self.space = b, x, x.shape[2:]
        self.padding, self.aligned = padding, aligned

    def number(self, dim: Dim, like: Value) -> Value:
        return self.b.one("cast", [self.b.known(dim)], to=like.dtype)

    def op(self, name: str, a: Value, other: Value | float) -> Value:
        return self.b.one(name, [a, other if isinstance(other, Value) else scalar(self.b, other, a)])

    def place(self, g: Value, axis: int) -> Value:
        """-1..1 to element coordinates: the corners are the first and last elements, or their outer edges."""
        extent = self.number(self.space[axis], g)
        if self.aligned:
            return self.op("mul", self.op("div", self.op("add", g, 1), 2), self.op("sub", extent, 1))
        return self.op("div", self.op("sub", self.op("mul", self.op("add", g, 1), extent), 1), 2)

    def inside(self, at: Value, axis: int) -> Value:
        """Coordinates after the padding mode: as they are for zeros."""
        extent = self.number(self.space[axis], at)
        if self.padding == "border":
            return self.op("min", self.op("max", at, 0), self.op("sub", extent, 1))
        if self.padding == "zeros":
            return at
        low = scalar(self.b, 0 if self.aligned else -0.5, at)
        span = self.op("sub", extent, 1) if self.aligned else extent
        return self.reflected(at, low, span)

    def reflected(self, at: Value, low: Value, span: Value) -> Value:
        """Mirrored at both borders as often as it takes: distance from the border modulo twice the span."""
        distance = self.b.one("abs", [self.op("sub", at, low)])
        safe = self.op("max", span, 1)
        rest = self.b.one("mod", [distance, self.op("mul", safe, 2)], fmod=True)
        folded = self.op("min", rest, self.op("sub", self.op("mul", safe, 2), rest))
        return self.op("add", folded, low)

    def read(self, places: Sequence[Value]) -> Value:
        """x at whole coordinates [N, out...], one for each spatial axis: [N, C, out...]; zero outside for zeros."""
        b, n, c = self.b, self.x.shape[0], self.x.shape[1]
        out = places[0].shape[1:]
        flat: Value | None = None
        valid: Value | None = None
        for axis, place in enumerate(places):
            index = b.one("cast", [self.inside(place, axis)], to=DType.I64)
            extent = b.known(self.space[axis])
            last = b.one("sub", [extent, scalar(self.b, 1, extent)])
            zero = scalar(self.b, 0, index)
            clamped = b.one("min", [b.one("max", [index, zero]), last])
            if self.padding == "zeros":
                ok = b.one("eq", [index, clamped])
                valid = ok if valid is None else b.one("and", [valid, ok])
            flat = clamped if flat is None else b.one("add", [b.one("mul", [flat, extent]), clamped])
        assert flat is not None
        size = product(out)
        where = b.one("expand", [reshape(b, flat, (n, 1, size))], shape=(n, c, size))
        rows = reshape(b, self.x, (n, c, product(self.space)))
        found = reshape(b, b.one("gather_elements", [rows, where], axis=2), (n, c, *out))
        if valid is None:
            return found
        return b.one("select", [reshape(b, valid, (n, 1, *out)), found, scalar(self.b, 0, found)])


def _interpolated(at: _GridReading, places: Sequence[Value], taps: Sequence[int]) -> Value:
    """The sum over the neighbours of each place, weighted by the product of their weights along the axes."""
    b = at.b
    floors = [b.one("floor", [p]) for p in places]
    weights = [_weights(at, b.one("sub", [p, f]), taps) for p, f in zip(places, floors, strict=True)]
    total: Value | None = None
    for choice in combinations(range(len(taps)), repeat=len(places)):
        found = at.read([at.op("add", f, taps[k]) for f, k in zip(floors, choice, strict=True)])
        for axis, k in enumerate(choice):
            w = weights[axis][k]
            w = w if w.dtype is found.dtype else b.one("cast", [w], to=found.dtype)
            found = b.one("mul", [found, reshape(b, w, (w.shape[0], 1, *w.shape[1:]))])
        total = found if total is None else b.one("add", [total, found])
    assert total is not None
    return total


def _weights(at: _GridReading, t: Value, taps: Sequence[int]) -> list[Value]:
    """Linear: 1-t, t. Cubic (Keys 1981, a = -3/4): of distances 1+t, t, 1-t, 2-t."""
    if len(taps) == 2:
        return [at.op("sub", scalar(at.b, 1, t), t), t]
    a = -0.75

    def near(d: Value) -> Value:
        """((a + 2) d - (a + 3)) d^2 + 1"""
        inner = at.op("sub", at.op("mul", d, a + 2), a + 3)
        return at.op("add", at.op("mul", at.op("mul", inner, d), d), 1)

    def far(d: Value) -> Value:
        """((a d - 5 a) d + 8 a) d - 4 a"""
        inner = at.op("add", at.op("mul", at.op("sub", at.op("mul", d, a), 5 * a), d), 8 * a)
        return at.op("sub", at.op("mul", inner, d), 4 * a)

    rest = at.op("sub", scalar(at.b, 1, t), t)
    return [far(at.op("add", t, 1)), near(t), near(rest), far(at.op("add", rest, 1))]
