"""What the template must know of the core that it makes code for: a device says it, and none is named here."""

from __future__ import annotations

from dataclasses import dataclass

from mapsto.ir.dtypes import DType

# A register is filled with elements of at least this size: narrower ones are multiplied into 32-bit lanes.
_ACCUMULATOR_BYTES = 4


@dataclass(frozen=True)
class Core:
    """A core (or a device's compute unit): its registers, and what it does of the template's code in a cycle.

    `abilities`: of "fma", "dot_u8s8", "dot_bf16", those that it has an instruction for, and "fence", where its code
    keeps the order that fences ask for. `mask_registers`: whether masks lie in registers of their own.
    `fma_per_cycle` counts vector multiply-adds (or multiply, add pairs) of full width that it starts per cycle,
    `loads_per_cycle` vector loads, `narrow_cost` is what a multiply-add on half a register or less takes, against one
    on a whole register: the cost rule of tiles reads them.
    """

    vector_bits: int
    registers: int
    abilities: frozenset[str]
    mask_registers: bool
    fma_per_cycle: float = 1.0
    loads_per_cycle: float = 2.0
    narrow_cost: float = 1.0

    @property
    def accumulator_lanes(self) -> int:
        """32-bit lanes of one register."""
        return self.vector_bits // (8 * _ACCUMULATOR_BYTES)

    def lanes(self, element: DType) -> int:
        """Elements of a type in one register."""
        return self.vector_bits // (8 * element.size)

    def has(self, ability: str) -> bool:
        return ability in self.abilities
