"""How B is packed: in the order in which the template reads it, so that its pointer only ever moves forward.

    panel -> channel block -> window position -> dot group of channels -> column in the panel -> channel in the group

The columns of a panel are those of its vectors, one after the other. The last panel may be narrower, the last channel
block shorter: nothing is padded but the columns of a last vector and the channels of a last dot group, and those hold
0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

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
        assert isinstance(self.size, int)
        lead = weights.shape[: weights.ndim - 2 - len(self.window)]
        made: Array = np.zeros((*lead, self.size), weights.dtype)
        self.pack_into(made.reshape(-1), weights)
        return made

    def pack_into(self, out: Array, weights: Array) -> None:
        """The same into elements that are 0, of any type that holds the weights'."""
        assert isinstance(self.columns, int) and isinstance(self.channels, int)
        assert isinstance(self.size, int) and isinstance(self.column_elements, int)
        windows = math.prod(weights.shape[weights.ndim - len(self.window) :])
        count = math.prod(weights.shape[: weights.ndim - 2 - len(self.window)])
        flat = weights.reshape(count, self.columns, self.channels, windows)
        made = out.reshape(count, self.size)
        filled = self.columns // self.panel if not self.last else self.full_panels
        assert isinstance(filled, int)
        for first, panels, width in ((0, filled, self.panel), (filled * self.panel, 1, self.last or self.panel)):
            end = min(self.columns, first + panels * width)
            if first < end:
                place = made[:, first * self.column_elements :][:, : panels * width * self.column_elements]
                rows = flat[:, first:end].reshape(count, panels, (end - first) // panels, self.channels, windows)
                self._pack_panels(rows, place.reshape(count, panels, width * self.column_elements), width)

    def _pack_panels(self, rows: Array, place: Array, width: int) -> None:
        """(.., panels, columns, channels, windows) into (.., panels, elements): in each block of channels by window
        position, group, column, channel in the group. All panels at once: a call of numpy takes microseconds.
        """
        assert isinstance(self.channels, int)
        lead, (columns, _, windows), size = rows.shape[:2], rows.shape[2:], self.interleave
        before = 0
        for first in range(0, self.channels, self.block or max(1, self.channels)):
            count = min(self.block or self.channels, self.channels - first)
            whole, rest = divmod(count, size)
            groups = -(-count // size)
            elements = windows * groups * width * size
            to = place[..., before : before + elements].reshape(*lead, windows, groups, width, size)
            given = rows[:, :, :, first : first + whole * size].reshape(*lead, columns, whole, size, windows)
            to[:, :, :, :whole, :columns] = given.transpose(0, 1, 5, 3, 2, 4)
            if rest:
                to[:, :, :, whole, :columns, :rest] = rows[:, :, :, first + count - rest : first + count].transpose(
                    0, 1, 4, 2, 3
                )
            before += elements


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


def packed_scales(packing: Packing, scales: int) -> Packing:
    """The same of B's scales, of which each column has so many."""
    return replace(packing, channels=scales)
