"""What loops must know of the processor that they are made for: its maker says it, and no number of one stands here."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import gcd


@dataclass(frozen=True)
class Cycles:
    """Rough cycles of a vector, enough to choose which iterator runs along the lanes.

    contiguous, uniform: neighbours; one element for all lanes. near: what lies in registers or a local array, either
    way. strided_load, strided_store: of each lane where elements lie apart; shuffled: of a vector for each element that
    its neighbours lie apart, as far as whole vectors are loaded and shuffled. shuffle: of two vectors to one. gather:
    of each lane on top where places are computed. simple: conversions, constants, indices. operation: any other.
    division, function, far_function: division and roots; exponentials and their kind; sines, powers and their kind.
    fold: lanes to one value. row: what a round of rows takes besides, where there are loops inside; round: where there
    are none.
    """

    contiguous: float
    uniform: float
    near: float
    strided_load: float
    strided_store: float
    shuffled: float
    shuffle: float
    gather: float
    simple: float
    operation: float
    division: float
    function: float
    far_function: float
    fold: float
    row: float
    round: float


@dataclass(frozen=True)
class NearCache:
    """The first cache: `bytes`, in lines of `line` bytes; `ways` lines fall into one set."""

    bytes: int
    line: int
    ways: int

    @property
    def lines(self) -> int:
        return self.bytes // self.line

    def room(self, stride: int) -> int:
        """How many lines whose addresses lie `stride` bytes apart stay there together."""
        around = self.bytes // self.ways
        return self.ways * (around // max(gcd(stride, around), self.line))


@dataclass(frozen=True)
class Processor:
    """A processor. `lanes`: elements of 32 bits in a vector register; `registers`: how many there are.

    `array_bytes`, `stack_bytes`: of a local array, and of all of a function. `worth_a_thread`: cycles that a thread
    must have to do before it is woken for a step. `chunk_bytes`: within which one instruction interleaves two vectors.
    `far_bytes`: of a row that comes from far away in memory each time that it is read. `near`: the first cache, where
    there is one whose sets matter. `table_lanes`: in which a table of 256 bytes is looked up in registers, where it is.
    """

    lanes: int
    registers: int
    array_bytes: int
    stack_bytes: int
    worth_a_thread: float
    chunk_bytes: int
    far_bytes: int
    cycles: Cycles
    near: NearCache | None = None
    table_lanes: int = 0

    def with_lanes(self, lanes: int) -> Processor:
        """The same with vectors of another width, as narrow elements have them."""
        return replace(self, lanes=lanes)
