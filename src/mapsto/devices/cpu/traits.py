"""What the CPU asks of a plan, the same for every instruction set, so that they differ in code alone; and what generic
loops know of it.
"""

from __future__ import annotations

from mapsto.devices.cpu.isa import Isa
from mapsto.devices.generic.processor import Cycles, NearCache, Processor
from mapsto.ir.dtypes import DType
from mapsto.loop.llvm_convert import TABLE_LANES
from mapsto.plan.traits import Traits

TRAITS = Traits(
    block=16,  # f32 lanes of the widest vector; two, or four, of narrower ones
    least_blocked=8,  # half of a block: of a shorter dim most lanes would be empty
    least_columns=4,  # fewer leave most lanes of the template idle: the generic lowering does as well
    least_channels=16,  # fill a vector
    least_of_a_group=16,  # below (a depthwise layer with a multiplier) loops over all groups fill the lanes better
    most_waiting=8,  # half of the registers of the smaller instruction sets
    crowded_bytes=4096,  # what the sets of a first cache go round in: 64 of them, of a line of 64 bytes each
    correlation_block=16,  # whole vectors of the widest ones
    block_bytes=64 << 10,  # an eighth of a common second cache: what rows are multiplied by has the rest
)

_CYCLES = Cycles(
    contiguous=1.0,
    uniform=0.5,
    near=0.5,
    strided_load=1.2,
    strided_store=1.8,
    shuffled=2.0,
    shuffle=1.0,
    gather=0.4,
    simple=0.5,
    operation=1.0,
    division=5.0,
    function=12.0,
    far_function=40.0,
    fold=8.0,
    row=4.0,
    round=1.0,
)
_WORTH_A_THREAD = 12_000.0  # cycles: a few meetings at a barrier
# Of a stack of 8 MiB, which threads share with what called them; more would not stay in the second cache either.
_ARRAY_BYTES, _STACK_BYTES = 64 << 10, 256 << 10
_CHUNK_BYTES = 16  # wider registers interleave each 16 bytes by themselves
_FAR_BYTES = 16 << 20  # half of what a typical core has of the last cache, which other operands share
# The first cache of a typical core. Larger ones have more lines in a set, not more sets: a page is what they go round.
_NEAR = NearCache(bytes=32 << 10, line=64, ways=8)


def processor_of(isa: Isa) -> Processor:
    """A core with this instruction set."""
    return Processor(
        isa.lanes(DType.F32), isa.registers, _ARRAY_BYTES, _STACK_BYTES, _WORTH_A_THREAD, _CHUNK_BYTES, _FAR_BYTES,
        _CYCLES, _NEAR, TABLE_LANES if isa.has("permute_words") else 0,
    )  # fmt: skip
