"""What the next tiles of images are read from, asked for while this block's products are made.

Transforms of tiles wait for memory and do little else, products wait for nothing: one after the other, each leaves
half of the core idle. So each product of a block asks for a share of the next block's elements, a few lines with each
of its units.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mapsto.devices.contraction.planes import LINE
from mapsto.devices.contraction.tile_plan import CACHED_BYTES
from mapsto.ir.expr import Dim, add, floordiv, minimum, mod, mul
from mapsto.loop import ast as loop

_LINE = LINE // 4  # f32 elements
_LEVEL = 2
_MOST_LINES = 32  # that a unit asks for: a core waits for few lines at a time

LetIndices = Callable[[list[loop.Statement], str, Dim], Dim]
Asking = tuple[list[loop.Statement], list[loop.Statement]]


@dataclass(frozen=True)
class Turn:
    """Products over the tiles of a block: one of so many, and a unit of it, of so many."""

    number: Dim
    count: int
    unit: Dim
    units: int


@dataclass(frozen=True)
class Coming:
    """An operand: where it begins, extents and strides of what is outside of an image, how many blocks of channels are
    read, how far they are apart; elements of one of an image, and the tiles of an image.
    """

    buffer: str
    start: Dim
    extents: tuple[int, ...]
    strides: tuple[int, ...]
    blocks: int
    block_stride: int
    plane: int
    grid: int

    @property
    def tiles(self) -> int:
        return math.prod(self.extents) * self.grid

    @property
    def is_far(self) -> bool:
        """Whether it is larger than what stays in the near caches beside what products pass through them."""
        return 4 * math.prod(self.extents) * self.blocks * self.plane > CACHED_BYTES

    def asked(self, first: Dim, count: int, turn: Turn, let: LetIndices) -> Asking:
        """What one of the turns asks for, of count tiles from the first on (of all: past the last ones, of those): what
        is to be known before its units, and what each of these does.
        """
        before: list[loop.Statement] = []
        inside: list[loop.Statement] = []
        pieces = max(turn.count // self.blocks, 1)  # of a block of channels
        runs, tiles = -(-self.blocks * pieces // turn.count), -(-count // pieces)
        lines = -(-tiles * self.plane // (self.grid * _LINE * turn.units))
        if runs * lines > _MOST_LINES:
            return [], []
        begin = minimum(first, max(self.tiles - count, 0))
        for number in range(runs):
            run = add(mul(turn.number, runs), number)
            tile = let(before, "tile", add(begin, mul(minimum(floordiv(run, self.blocks), pieces - 1), tiles)))
            within = floordiv(mul(mod(tile, self.grid), self.plane), self.grid)
            place = add(self._image(floordiv(tile, self.grid)), within)
            base = let(before, "ask", add(add(self.start, place), mul(mod(run, self.blocks), self.block_stride)))
            at = add(base, mul(turn.unit, lines * _LINE))
            inside += [loop.Prefetch(self.buffer, add(at, line * _LINE), level=_LEVEL) for line in range(lines)]
        return before, inside

    def _image(self, number: Dim) -> Dim:
        """Where an image begins, from the first one on."""
        at: Dim = 0
        for extent, stride in zip(reversed(self.extents), reversed(self.strides), strict=True):
            at = add(at, mul(mod(number, extent), stride))
            number = floordiv(number, extent)
        return at


def asked_for(coming: Sequence[Coming], first: Dim, count: int, turn: Turn, let: LetIndices) -> Asking:
    """The same of all operands that are far."""
    found = [each.asked(first, count, turn, let) for each in coming if each.is_far]
    return [s for before, _ in found for s in before], [s for _, inside in found for s in inside]
