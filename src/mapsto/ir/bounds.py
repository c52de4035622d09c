"""Which integers may index an axis, and what is said of one that may not: the same words at compile time, in the
reference and in a run.

    signed   -extent .. extent-1   an index, which counts from the end where it is negative
    place    0 .. extent-1         an index that may not be negative
    length   0 .. extent           how many elements of the axis are meant
    axis     -extent .. extent-1   an axis of a tensor of `extent` axes, counted from the end where it is negative

Whether an integer i is allowed is one unsigned comparison: i - lowest, modulo 2^64, is less than the count of those
that are allowed. So the largest of these distances tells of a whole tensor, and the integer can be got back from it.
"""

from __future__ import annotations

from dataclasses import dataclass

from mapsto.ir.expr import Dim

BOUND_KINDS = ("signed", "place", "length", "axis")
_FROM_THE_END = ("signed", "axis")
ALL = -1
"""In the place of a column: all elements."""
_WORD = 1 << 64


@dataclass(frozen=True)
class Allowed:
    """What the elements of an integer tensor may be: an axis and its extent for each of `columns`, which are those of
    the last axis, or `ALL`. kind: one of `BOUND_KINDS`. what: what an element is called.
    """

    axes: tuple[int, ...]
    extents: tuple[Dim, ...]
    kind: str = "signed"
    what: str = "index"
    columns: tuple[int, ...] = (ALL,)


def lowest_allowed(kind: str, extent: Dim) -> Dim:
    """The least integer that is allowed."""
    return -extent if kind in _FROM_THE_END else 0


def count(kind: str, extent: Dim) -> Dim:
    """How many integers are allowed."""
    if kind in _FROM_THE_END:
        return 2 * extent
    return extent + 1 if kind == "length" else extent


def distance(value: int, kind: str, extent: int) -> int:
    """value - lowest, modulo 2^64."""
    low = lowest_allowed(kind, extent)
    assert isinstance(low, int)
    return (value - low) % _WORD


def value_at(distance: int, kind: str, extent: int) -> int:
    """The 64-bit integer at a distance from the lowest."""
    low = lowest_allowed(kind, extent)
    assert isinstance(low, int)
    value = (distance + low) % _WORD
    return value - _WORD if value >= _WORD // 2 else value


def is_within(distance: int, kind: str, extent: int) -> bool:
    """Whether the integer at a distance from the lowest is allowed."""
    number = count(kind, extent)
    assert isinstance(number, int)
    return distance < number


def is_allowed(value: int, kind: str, extent: int) -> bool:
    return is_within(distance(value, kind, extent), kind, extent)


def message(where: str, what: str, value: int, kind: str, axis: int, extent: int) -> str:
    """What a user is told of an integer that is not allowed. where: the node; what: `index`, `length`..."""
    low, number = lowest_allowed(kind, extent), count(kind, extent)
    allowed = f"allowed: {low} to {low + number - 1}" if number != 0 else "none is allowed"
    if kind == "axis":
        axes = f"{extent} {'axis' if extent == 1 else 'axes'}"
        said = f"{what} {value} does not exist in a tensor of {axes} ({allowed})"
    else:
        elements = f"{extent} element{'' if extent == 1 else 's'}"
        said = f"{what} {value} is outside of axis {axis}, which has {elements} ({allowed})"
    return f"{where}: {said}" if where else said
