"""What is asked for ahead: what the next tiles are read from, each line once, a few at a time."""

from __future__ import annotations

import pytest

from mapsto.devices.contraction.coming import Coming, Turn, asked_for
from mapsto.ir.expr import Dim, evaluate, sym
from mapsto.loop import ast as loop

# images of 4 blocks of 16 channels, 12 x 12 places in tiles of 2 x 2, and what lies between images
IMAGES = Coming("x", 32, (24,), (4 * 2304 + 64,), 4, 2304, 144 * 16, 36)
ROW_MAJOR = Coming("x", 0, (4, 3), (3 * 9216, 9216), 1, 0, 144 * 64, 36)
ONE = Coming("x", 0, (), (), 4, 65536, 64 * 64 * 16, 1024)


def _lines(coming: Coming, first: int, count: int, points: int, units: int) -> list[int]:
    """The lines that all turns of a block ask for, in order."""
    indices: dict[str, Dim] = {}

    def let(out: list[loop.Statement], prefix: str, value: Dim) -> Dim:
        name = f"{prefix}{len(indices)}"
        indices[name] = value
        return sym(name)

    turn = Turn(sym("point"), points, sym("unit"), units)
    _, inside = asked_for([coming], sym("first"), count, turn, let)
    found = []
    for point in range(points):
        for unit in range(units):
            known = {"first": first, "point": point, "unit": unit}
            for name, value in indices.items():
                known[name] = evaluate(value, known)
            for asked in inside:
                assert isinstance(asked, loop.Prefetch) and asked.buffer == coming.buffer
                found.append(evaluate(asked.base, known) // 16)
    return found


def _read(coming: Coming, first: int, count: int) -> set[int]:
    """The lines of the tiles' own places, as these lie one tile after the other."""
    found: set[int] = set()
    for tile in range(min(first, max(coming.tiles - count, 0)), min(first, max(coming.tiles - count, 0)) + count):
        image, within = divmod(tile, coming.grid)
        at, rest = coming.start, image
        for extent, stride in zip(reversed(coming.extents), reversed(coming.strides), strict=True):
            at, rest = at + rest % extent * stride, rest // extent
        for block in range(coming.blocks):
            begin = at + block * coming.block_stride + within * coming.plane // coming.grid
            found |= set(range(begin // 16, (begin + coming.plane // coming.grid - 1) // 16 + 1))
    return found


@pytest.mark.parametrize(
    ("coming", "first", "count", "points", "units"),
    [
        (IMAGES, 36, 36, 16, 9),
        (IMAGES, 0, 18, 16, 5),
        (IMAGES, 860, 18, 16, 9),  # past the last one
        (IMAGES, 36, 36, 3, 9),  # fewer turns than blocks of channels
        (ROW_MAJOR, 36, 36, 16, 9),
        (ONE, 72, 36, 16, 4),
    ],
)
def test_all_that_is_read_is_asked_for(coming: Coming, first: int, count: int, points: int, units: int) -> None:
    assert coming.is_far
    asked = _lines(coming, first, count, points, units)
    assert _read(coming, first, count) <= set(asked)
    assert len(asked) <= 1.6 * len(_read(coming, first, count)) + points


def test_what_is_near_and_what_would_be_many_lines_at_once_is_not_asked_for() -> None:
    near = Coming("x", 0, (1,), (0,), 1, 0, 144 * 16, 36)
    assert not near.is_far
    assert not _lines(near, 0, 36, 16, 9)
    assert not _lines(IMAGES, 0, 200, 1, 1)
