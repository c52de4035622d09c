"""How B is packed: in the order in which the template reads it, so that its pointer only ever moves forward.

    panel -> channel block -> window position -> dot group of channels -> column in the panel -> channel in the group

The columns of a panel are those of its vectors, one after the other. The last panel may be narrower, the last channel
block shorter: nothing is padded but the columns of a last vector and the channels of a last dot group, and those hold
0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mapsto.devices.contraction.form import ContractionForm
from mapsto.devices.contraction.tile import Tiling
from mapsto.ir.dtypes import Array
from mapsto.ir.expr import Dim, add, ceildiv, floordiv, minimum, mod, mul, product


@dataclass(frozen=True)
class Packing:
    """The layout of a packed B. `interleave` channels per group, `block` channels per block (0: one block of all)."""

    columns: Dim
    channels: Dim
    window: tuple[Dim, ...]
    interleave: int
    block: int
    panel: int
    last: int

    @property
    def column_elements(self) -> Dim:
        """Elements that one column takes."""
        windows = product(self.window)
        if not self.block:
            return mul(mul(ceildiv(self.channels, self.interleave), windows), self.interleave)
        assert isinstance(self.channels, int)
        full, rest = divmod(self.channels, self.block)
        return mul(full * self.block + -(-rest // self.interleave) * self.interleave, windows)

    @property
    def full_panels(self) -> Dim:
        """Panels before the last one, where that stands apart (it may be as wide as they are), else all."""
        panels = ceildiv(self.columns, self.panel)
        return add(panels, -1) if self.last else panels

    @property
    def panels(self) -> Dim:
        return ceildiv(self.columns, self.panel)

    @property
    def size(self) -> Dim:
        """Elements of the packed operand."""
        padded = add(mul(self.full_panels, self.panel), self.last)
        return mul(padded, self.column_elements)

    def index(self, column: Dim, channel: Dim, window: tuple[Dim, ...] = ()) -> Dim:
        """The packed position of a logical element; expressions over iterators are welcome."""
        panel = floordiv(column, self.panel)
        width = self._width(panel)
        position: Dim = 0
        for extent, i in zip(self.window, window, strict=True):
            position = add(mul(position, extent), i)
        windows, groups = product(self.window), ceildiv(self.channels, self.interleave)
        before: Dim = 0
        if self.block:
            block, channel = floordiv(channel, self.block), mod(channel, self.block)
            before = mul(mul(block, self.block), windows)
            groups = self._groups_of_block(block)
        step = add(mul(position, groups), floordiv(channel, self.interleave))
        in_panel = add(mul(before, width), mul(mul(step, width), self.interleave))
        in_step = add(mul(mod(column, self.panel), self.interleave), mod(channel, self.interleave))
        return add(add(mul(mul(panel, self.panel), self.column_elements), in_panel), in_step)

    def _width(self, panel: Dim) -> Dim:
        """Columns of a panel: all are full but perhaps the last."""
        if not self.last or not isinstance(self.full_panels, int):
            return self.panel
        if self.full_panels == 0:
            return self.last
        is_last = minimum(floordiv(panel, self.full_panels), 1)
        return add(self.panel, mul(is_last, self.last - self.panel))

    def _groups_of_block(self, block: Dim) -> Dim:
        assert isinstance(self.channels, int)
        return ceildiv(minimum(self.block, self.channels - mul(block, self.block)), self.interleave)

    def pack(self, weights: Array) -> Array:
        """Pack an array of shape (columns, channels, *window); leading axes beyond those are packed each for itself.

        Sizes must be numbers.
        """
        assert isinstance(self.columns, int) and isinstance(self.channels, int)
        tail = 2 + len(self.window)
        lead = weights.shape[: weights.ndim - tail]
        flat = weights.reshape(-1, *weights.shape[weights.ndim - tail :])
        return np.stack([self._pack_one(w) for w in flat]).reshape(*lead, -1)

    def _pack_one(self, weights: Array) -> Array:
        assert isinstance(self.columns, int) and isinstance(self.channels, int)
        pieces = []
        for start in range(0, self.columns, self.panel):
            columns = min(self.panel, self.columns - start)
            width = self.panel if columns == self.panel or not self.last else self.last
            rows = weights[start : start + columns]
            for first in range(0, self.channels, self.block or self.channels):
                count = min(self.block or self.channels, self.channels - first)
                pieces.append(self._pack_block(rows[:, first : first + count], width))
        return np.concatenate(pieces) if pieces else np.zeros(0, weights.dtype)

    def _pack_block(self, block: Array, width: int) -> Array:
        """(columns, channels, *window) -> window, group, column, channel in group."""
        columns, channels = block.shape[:2]
        groups = -(-channels // self.interleave)
        padded = np.zeros((width, groups * self.interleave, int(np.prod(block.shape[2:]))), block.dtype)
        padded[:columns, :channels] = block.reshape(columns, channels, -1)
        split = padded.reshape(width, groups, self.interleave, -1)
        return split.transpose(3, 1, 0, 2).reshape(-1)


def packing(form: ContractionForm, tiling: Tiling) -> Packing:
    """The packing that the template expects of B."""
    return Packing(
        form.columns,
        form.channels,
        tuple(axis.extent for axis in form.window),
        form.interleave,
        form.channel_block,
        tiling.width,
        sum(tiling.last),
    )
