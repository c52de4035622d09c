"""The form of a contraction: where its operands lie. Convolutions, matrix products and their kin are instances.

    out[batch, rows, column] = epilogue( sum over channel blocks, windows, channels of  A[...] * B[...] )

All strides are in elements of the operand. An iterator of the output over which A varies is a row, one over which B
varies is a column (there is one, flattened), one over which both vary is a batch axis (groups are a batch axis too).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, ceildiv, product
from mapsto.loop import ast as loop
from mapsto.loop.ast import Param


def adds_apart(multiplied: DType, accumulator: DType) -> bool:
    """Whether products of A's elements in this type are added by an instruction of their own: only bytes are multiplied
    where one does both (`products`), of integers.
    """
    return not accumulator.is_float and multiplied is not DType.U8


@dataclass(frozen=True)
class LoopAxis:
    """A loop and how far each operand moves per round.

    `b` counts elements of B as it lies in memory (packed, or direct).
    """

    extent: Dim
    a: Dim = 0
    b: Dim = 0
    out: Dim = 0


@dataclass(frozen=True)
class TilePlace:
    """Where an accumulator stands, for the epilogue: indices of the batch and row axes, first column, lanes.

    `valid`: how many of the lanes are columns of the output; None: all of them. Where it is not None, `mask` is `lane
    < valid`; elements of other operands must be loaded under it unless they lie in a layout that has the tail lanes.
    """

    batch: tuple[Dim, ...]
    rows: tuple[Dim, ...]
    column: Dim
    lanes: int
    valid: Dim | None
    mask: loop.Value | None
    fresh: Callable[[str], str]


# (accumulators, place) -> statements to run and the values to store (the element type of `out`, as many lanes, then
# those of `also`); none: it stored by itself.
Epilogue = Callable[[loop.Value, TilePlace], tuple[list[loop.Statement], tuple[loop.Value, ...]]]


@dataclass(frozen=True)
class Also:
    """A further result at the same points: its element at start + batch . strides + rows . strides + its column, which
    lies in blocks as those of `out` do.
    """

    param: Param
    start: Dim
    batch: tuple[Dim, ...]
    rows: tuple[Dim, ...]
    block_stride: Dim = 0


@dataclass(frozen=True)
class ContractionForm:
    """A contraction. The last of `rows` is the axis along which registers tile; give the one whose extent fills tiles
    well.

    A: element at a_start + batch.a + rows.a + window.a + (channel // channel_block)*channel_block_stride
       + (channel % channel_block)*channel_stride. `channel_block` 0: the channels are one block. A holds materialised
       borders: no read is guarded.
    B: packed (see `packing`) at b_start + batch.b; or, with `b_channel_stride` given, direct: columns contiguous, or
       in blocks of `b_block`, channel and windows (their `b`) by strides, `interleave` 1.
    out: element at out_start + batch.out + rows.out + (column // out_block)*out_block_stride + column % out_block.
       `out_block` 0: columns are contiguous and the last store is masked; else whole blocks are stored and tail lanes
       get 0.
    `interleave`: channels multiplied into one 32-bit lane by a dot instruction: 1, 2 (bf16, i16) or 4 (u8 by s8). In
       memory A's groups are adjacent (`channel_stride` 1), and where A is multiplied as it lies, 4 bytes can be read
       for the last one unless `channels` is known and no multiple.
    `staged`: A's elements are multiplied in this type, wider than they lie in memory; None: as they lie. B is packed in
       the type that it is multiplied in, or, with `interleave` 1, converted as it comes.
    `scale`: B's elements are integers (`kernel.blocks`), which are multiplied in f32, and sums of `scaled` channels by
       this operand, which is packed as B is, with an element for as many channels. `nibbles`: so many channels, which
       lie side by side in A, are in one element of B, four bits each (see `nibbles`); 0: one is. `channels` counts
       elements then, and the last one holds `cut` of them, or all (0).
    `also`: further results. `others`: the epilogue's operands; `dims`: every size symbol that occurs.
    `is_part`: of a function that has more to do, and whose local arrays are its own.
    """

    name: str
    a: Param
    b: Param
    out: Param
    accumulator: DType
    columns: Dim
    rows: tuple[LoopAxis, ...]
    channels: Dim
    batch: tuple[LoopAxis, ...] = ()
    window: tuple[LoopAxis, ...] = ()
    channel_stride: Dim = 1
    channel_block: int = 0
    channel_block_stride: Dim = 0
    interleave: int = 1
    staged: DType | None = None
    b_channel_stride: Dim | None = None
    b_block: int = 0
    b_block_stride: Dim = 0
    out_block: int = 0
    out_block_stride: Dim = 0
    a_start: Dim = 0
    b_start: Dim = 0
    out_start: Dim = 0
    also: tuple[Also, ...] = ()
    others: tuple[Param, ...] = ()
    dims: tuple[str, ...] = ()
    is_part: bool = False
    scale: Param | None = None
    scaled: int = 0
    nibbles: int = 0
    cut: int = 0

    def __post_init__(self) -> None:
        assert self.rows, "a contraction has at least one row axis (of extent 1 if need be)"
        assert self.interleave in (1, 2, 4)
        assert not self.out_block or isinstance(self.columns, int), "a blocked output needs a known number of columns"
        assert self.out_block & (self.out_block - 1) == 0, "blocks of the output are powers of two"
        if self.channel_block:
            assert isinstance(self.channels, int) and self.channel_block % self.interleave == 0
        if self.interleave > 1:
            assert self.channel_stride == 1 and self.b_channel_stride is None
        if self.scale is not None:
            assert isinstance(self.channels, int) and self.scaled > 0 and self.interleave == 1
            assert self.b_channel_stride is None and not self.channel_block and not self.window

    @property
    def joined(self) -> ContractionForm:
        """The form whose dot groups reach from one position of the innermost window into the next, where those adjoin
        in A and channels fill no whole groups: 7 positions of 3 channels are 21 channels. B is packed as that form's.
        """
        if not self.window or self.channel_block or self.interleave == 1 or not isinstance(self.channels, int):
            return self
        *outer, inner = self.window
        if self.channels % self.interleave == 0 or inner.a != self.channels or not isinstance(inner.extent, int):
            return self
        return replace(self, channels=self.channels * inner.extent, window=tuple(outer))

    @property
    def multiplied(self) -> DType:
        """The type in which A is multiplied."""
        return self.a.element if self.staged is None else self.staged

    @property
    def adds_apart(self) -> bool:
        """Whether a product is added to its sum by an instruction of its own."""
        return adds_apart(self.multiplied, self.accumulator)

    @property
    def groups(self) -> Dim:
        """Dot groups of all channels: the reduction's steps per window position."""
        return ceildiv(self.channels, self.interleave)

    @property
    def widens(self) -> bool:
        """Whether a packed B is brought to the type of the sums as it comes."""
        return self.interleave == 1 and self.b_channel_stride is None and self.b.element is not self.accumulator

    @property
    def scales(self) -> int:
        """How many scales a column has."""
        assert isinstance(self.channels, int)
        return -(-self.channels // self.scaled)

    @property
    def windows(self) -> Dim:
        """Window positions."""
        return product(axis.extent for axis in self.window)

    @property
    def blocks(self) -> tuple[int, int]:
        """(whole channel blocks, channels in the cut block that follows); for blocked layouts."""
        assert isinstance(self.channels, int) and self.channel_block
        return divmod(self.channels, self.channel_block)
