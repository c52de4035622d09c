"""What an OpenCL device asks of a plan, and what generic loops know of it. No device is measured: only the figures of a
core are known, and those are taken for all.
"""

from __future__ import annotations

from mapsto.devices.contraction.core import Core
from mapsto.devices.generic.processor import Cycles, Processor
from mapsto.devices.opencl.device import Device
from mapsto.plan.traits import Traits

# 16 lanes have the widest vectors of OpenCL C; two, or four, of narrower ones. The others are the CPU's, for the same
# reasons: fewer columns or channels leave most of them empty.
TRAITS = Traits(16, least_blocked=8, least_columns=4, least_channels=16, least_of_a_group=16, most_waiting=8)

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
_ARRAY_BYTES, _STACK_BYTES = 64 << 10, 256 << 10  # of private memory, which on a core is a stack
_WORTH_A_THREAD = 12_000.0
_CHUNK_BYTES = 16  # four elements, which every device has vectors of
_FAR_BYTES = 16 << 20  # half of what a typical core has of the last cache, which other operands share


def registers_of(device: Device) -> int:
    """Of the device's vectors; a core that likes the widest ones has more."""
    return 32 if device.lanes == 16 else 16


def processor_of(device: Device) -> Processor:
    """A compute unit of a device, by the vectors that it says it likes: how many it holds at a time, no device says."""
    return Processor(
        device.lanes, registers_of(device), _ARRAY_BYTES, _STACK_BYTES, _WORTH_A_THREAD, _CHUNK_BYTES, _FAR_BYTES,
        _CYCLES,
    )  # fmt: skip


def core_of(device: Device) -> Core:
    """The same for the contraction template."""
    abilities = frozenset({"fma"} if device.fused else ())
    return Core(32 * device.lanes, registers_of(device), abilities, mask_registers=device.lanes == 16)
