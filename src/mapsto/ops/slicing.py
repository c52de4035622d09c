"""Where a slice begins and how many elements it takes: negative places count from the end, ends are clamped; extents
kept as simple as can be proved.
"""

from __future__ import annotations

from mapsto.ir.expr import Dim, ceildiv, sym, symbols
from mapsto.ir.expr_proofs import known_at_least
from mapsto.ir.expr_rewrite import substitute
from mapsto.ops.builder import Builder
from mapsto.ops.shapes import dim_max, dim_min

# Exporters write "to the end" as the largest integer of some width.
FAR = (1 << 31) - 1


def slice_extent(b: Builder, start: Dim, end: Dim, step: int, dim: Dim) -> tuple[Dim, Dim]:
    """(first element, number of elements) of a slice with ONNX's rules: negative places count from the end, then both
    are clamped. Where there are no elements the first one may be anything.
    """
    if step > 0:
        first = _start(b, start, dim)
        length = _end(b, end, dim) - first
    else:
        first = _start_downwards(b, start, dim)
        length = first - _end_downwards(b, end, dim)
    if not b.proves(length):
        length = dim_max(length, 0)
    extent = ceildiv(length, abs(step))
    is_past = isinstance(first, int) and isinstance(dim, int) and first >= dim
    return (0 if extent == 0 or is_past else first), extent


def _start(b: Builder, at: Dim, dim: Dim) -> Dim:
    """Where a slice that goes upwards begins. One that begins past the end has a negative length."""
    if not isinstance(at, int):
        return _clamped(b, at, dim, 0, dim)
    if at >= FAR:
        return dim
    if at >= 0:
        return at
    return 0 if at <= -FAR else dim - _least(b, -at, dim)


def _end(b: Builder, at: Dim, dim: Dim) -> Dim:
    """The place after the last element of a slice that goes upwards. Before the first place the length is negative."""
    if not isinstance(at, int):
        return _clamped(b, at, dim, 0, dim)
    if at >= FAR:
        return dim
    if at >= 0:
        return _least(b, at, dim)
    return 0 if at <= -FAR else dim + at


def _start_downwards(b: Builder, at: Dim, dim: Dim) -> Dim:
    """Where a slice that goes downwards begins: clamped to the axis, so that one far before it begins at 0."""
    if not isinstance(at, int):
        return _clamped(b, at, dim, 0, dim - 1)
    if at >= FAR:
        return dim - 1
    if at >= 0:
        return _least(b, at, dim - 1)
    return _most(b, dim + max(at, -FAR), _least(b, 0, dim - 1))


def _end_downwards(b: Builder, at: Dim, dim: Dim) -> Dim:
    """The place after the last element of a slice that goes downwards: -1 is before the first."""
    if not isinstance(at, int):
        return _clamped(b, at, dim, -1, dim - 1)
    if at >= FAR:
        return dim - 1
    if at >= 0:
        return _least(b, at, dim - 1)
    return -1 if at <= -FAR else _most(b, dim + at, -1)


def _least(b: Builder, x: Dim, y: Dim) -> Dim:
    return x if b.proves(y - x) else dim_min(x, y)


def _most(b: Builder, x: Dim, y: Dim) -> Dim:
    return x if b.proves(x - y) else dim_max(x, y)


def _clamped(b: Builder, at: Dim, dim: Dim, lowest: int, highest: Dim) -> Dim:
    return _least(b, _most(b, _from_front(b, at, dim), lowest), highest)


def _from_front(b: Builder, at: Dim, dim: Dim) -> Dim:
    """at + dim where at is negative. Whether it is may hang on no size being 0, which then becomes a condition of the
    run.
    """
    if b.proves(at):
        return at
    if b.proves(-at - 1):
        return at + dim
    names = sorted(symbols(at))
    if known_at_least(substitute(at, {name: sym(name) + 1 for name in names}), 0):
        for name in names:
            b.require(sym(name) - 1, f"{name} must be at least 1")
        return at
    negative = dim_min(dim_max(-at, 0), 1)  # 1 where at < 0, else 0
    return at + dim * negative
