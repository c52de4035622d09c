"""How an access moves through memory, in numbers: one guess for each open size, and the algebra is done."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mapsto.ir.expr import Call, Dim, Expr, Sym, atoms, evaluate, of_atom
from mapsto.plan.layout import Layout

# What an open size is taken to be that nobody guessed.
USUAL_SIZE = 64
MOST_ELEMENTS = 1 << 40  # elements of one dim: what has more is not priced any higher
# Points of an iterator whose places tell how evenly it walks: these, from these on.
_STARTS, _LOOKED_AT = (0, 48), (1, 2, 3, 4, 8, 15)


class Points(dict[str, int]):
    """Numbers for symbols; `USUAL_SIZE` for those without one."""

    def __missing__(self, key: str) -> int:
        return USUAL_SIZE


class Sizes(Points):
    """A guess for each open size; `USUAL_SIZE` for those without one. It is not changed once it is made."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        super().__init__(sizes)
        self.known: dict[Expr, int] = {}

    @staticmethod
    def of(sizes: Mapping[str, int]) -> Sizes:
        """The same guesses, and what is known of them."""
        return sizes if isinstance(sizes, Sizes) else Sizes(sizes)


def number(e: Dim, sizes: Mapping[str, int]) -> int:
    """What an expression is for these sizes; elements that it loads count as 0, and so does what is divided by 0."""
    if isinstance(e, int):
        return e
    if not isinstance(sizes, Sizes):
        return _evaluated(e, sizes)
    found = sizes.known.get(e)
    if found is None:
        found = sizes.known[e] = _evaluated(e, sizes)
    return found


def _evaluated(e: Expr, sizes: Mapping[str, int]) -> int:
    try:
        return evaluate(e, sizes, lambda tensor, at: 0)
    except ZeroDivisionError:  # guesses that do not go together
        return 0


def extent(e: Dim, sizes: Mapping[str, int]) -> int:
    """An extent as a number: not below 0, where guesses do not go together, and not above `MOST_ELEMENTS`."""
    return min(max(number(e, sizes), 0), MOST_ELEMENTS)


@dataclass(frozen=True)
class Stepping:
    """How a place moves along one iterator: by `step` elements for `run` points from a multiple of `run` on (inf:
    throughout; 0: nobody knows), by `average` over its whole extent.
    """

    step: float
    run: float
    average: float


class PlacedAxis(NamedTuple):
    """A physical axis in numbers: by what its dim is divided and wrapped (0: not at all), its stride in elements."""

    div: int
    size: int
    stride: int


@dataclass(frozen=True)
class Placed:
    """A layout in numbers: for each dim its axes, and the border before it."""

    axes: tuple[tuple[PlacedAxis, ...], ...]
    before: tuple[int, ...]
    elements: int

    def place(self, index: Sequence[int]) -> int:
        total = 0
        for at, axes, before in zip(index, self.axes, self.before, strict=True):
            for div, size, stride in axes:
                inner = (at + before) // div
                total += (inner % size if size else inner) * stride
        return total


def placed(layout: Layout, sizes: Mapping[str, int]) -> Placed:
    """The layout for these sizes."""
    by_dim: list[list[PlacedAxis]] = [[] for _ in layout.shape]
    for axis in layout.axes:
        by_dim[axis.dim].append(PlacedAxis(axis.div, axis.size or 0, number(axis.stride, sizes)))
    border = tuple(before for before, _ in layout.border) or (0,) * len(layout.shape)
    return Placed(tuple(tuple(axes) for axes in by_dim), border, number(layout.elements, sizes))


@functools.lru_cache(maxsize=1 << 16)
def _coefficients(e: Dim) -> dict[str, int] | None:
    """The factor of each symbol in a sum of symbols; None for anything else."""
    if isinstance(e, int):
        return {}
    found: dict[str, int] = {}
    for monomial, coefficient in e.terms:
        if not monomial:
            continue
        if len(monomial) != 1 or not isinstance(monomial[0], Sym):
            return None
        found[monomial[0].name] = coefficient
    return found


def coefficients_of(e: Dim, sizes: Mapping[str, int], extents: Mapping[str, int]) -> dict[str, int] | None:
    """The factor of each iterator where an expression is a sum of their multiples and of sizes; else None."""
    if isinstance(e, int):
        return {}
    found: dict[str, int] = {}
    for monomial, coefficient in e.terms:
        own = [a for a in monomial if isinstance(a, Sym) and a.name in extents]
        if any(isinstance(a, Call) and not _names(a).isdisjoint(extents) for a in monomial) or len(own) > 1:
            return None
        if own:
            rest = [a for a in monomial if a is not own[0]]
            scale = coefficient * math.prod(number(of_atom(a), sizes) for a in rest)
            found[own[0].name] = found.get(own[0].name, 0) + scale
    return found


def _names(call: Call) -> set[str]:
    """Symbols in a call's arguments."""
    return {name for arg in call.args if not isinstance(arg, int) for name in arg.names}


@functools.lru_cache(maxsize=1 << 16)
def _loaded(e: Dim) -> frozenset[str]:
    """Symbols that choose which element is loaded as an index."""
    calls = (a for a in atoms(e) if isinstance(a, Call) and a.fn == "load") if not isinstance(e, int) else ()
    return frozenset(name for call in calls for arg in call.args if not isinstance(arg, int) for name in arg.names)


def walks(
    where: Placed, index: Sequence[Dim], extents: Mapping[str, int], sizes: Mapping[str, int]
) -> dict[str, Stepping]:
    """How the place of an element moves along each iterator that it depends on."""
    found: dict[str, Stepping] = {}
    hard: set[str] = set()
    for dim, e in enumerate(index):
        if isinstance(e, int):
            continue
        own = [name for name in e.names if extents.get(name, 0) > 1]
        if not own:
            continue
        factors = _coefficients(e)
        axes = where.axes[dim]
        for name in own:
            if factors is None or name in found:
                hard.add(name)
                continue
            walk = _along(axes, factors[name])
            if walk is None:
                hard.add(name)
            else:
                found[name] = walk
    for name in hard:
        found[name] = _looked_at(where, index, name, extents, sizes)
    return found


def _along(axes: tuple[PlacedAxis, ...], factor: int) -> Stepping | None:
    """A plain dim, or a blocked one that is walked element by element."""
    if len(axes) == 1 and axes[0].div == 1 and not axes[0].size:
        step = float(factor * axes[0].stride)
        return Stepping(step, math.inf, step)
    if factor != 1 or len(axes) != 2:
        return None
    coarse, fine = sorted(axes, key=lambda axis: axis.div == 1)
    if coarse.div == 1 or fine.div != 1 or not fine.size:
        return None
    return Stepping(float(fine.stride), float(fine.size), coarse.stride / coarse.div)


def _looked_at(
    where: Placed, index: Sequence[Dim], name: str, extents: Mapping[str, int], sizes: Mapping[str, int]
) -> Stepping:
    """By the places of the first points, and of the last one."""
    if any(name in _loaded(e) for e in index):
        return Stepping(0.0, 0.0, where.elements / max(extents[name], 1))
    values = Points({**sizes, **dict.fromkeys(extents, 0)})
    extent = extents[name]

    def at(point: int) -> int:
        values[name] = point
        return where.place([number(e, values) for e in index])

    average = abs(at(extent - 1) - at(0)) / (extent - 1)
    step, run = float(at(1) - at(0)), math.inf
    for others in (0, 1, 2):  # a wrap that depends on the other iterators shows where they are not 0
        values.update({n: min(others, e - 1) for n, e in extents.items()})
        for start in _STARTS:
            first = at(start) if start < extent else 0
            for k in _LOOKED_AT:
                if k >= run or start + k >= extent:
                    break
                if at(start + k) - first != step * k:
                    run = float(k)
    return Stepping(step, run, average)
