"""What of B a tile asks for before others read it: the next panel, or the next slice, while this one is multiplied."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mapsto.devices.contraction.planes import LINE
from mapsto.devices.contraction.tile_plan import ASKED_BYTES, NEAR_BYTES, TilePlan
from mapsto.ir.expr import Dim, add, floordiv, mul


def elements_ahead(plan: TilePlan) -> int:
    """How many elements before their use those of B are asked for: the next panel's, where B was in no near cache
    since the last run, both panels have room in the second-level cache, and there is something to do meanwhile; else
    none.
    """
    pack, element = plan.packing, plan.form.b.element.size
    if plan.form.b_channel_stride is not None or plan.form.scale is not None or not isinstance(pack.size, int):
        return 0
    if all(axis.extent == 1 for axis in plan.form.rows):
        return 0
    if plan.slice:
        return plan.slice * plan.sliced.elements
    panel = mul(pack.panel, pack.column_elements)
    assert isinstance(panel, int)
    return panel if pack.size > panel and pack.size * element > ASKED_BYTES and 2 * panel * element <= NEAR_BYTES else 0


@dataclass(frozen=True)
class Ahead:
    """Elements of B that are asked for: from `start` on, `pace` of them with each step of `width` elements."""

    start: Dim
    width: int
    pace: int

    def paced(self, elements: Dim) -> Dim:
        """How far this is when the steps have come that far. elements: of whole steps."""
        return mul(floordiv(elements, self.width), self.pace)

    def share(self, first: Dim, number: int, axis_b: Dim, steps: int, size: int) -> Ahead | None:
        """What one of the steps of a round asks for, in whole lines. first, number: of the round's first step, and of
        the step in it. axis_b: elements of B from a step to the next. size: bytes of an element.
        """
        if axis_b != self.width:  # steps do not follow one another in B
            return replace(self, start=add(self.start, mul(add(first, number), self.paced(axis_b))))
        lines, line = -(-self.pace * steps * size // LINE), LINE // size
        low, high = lines * number // steps, lines * (number + 1) // steps
        start = add(add(self.start, mul(first, self.pace)), low * line)
        return replace(self, start=start, pace=(high - low) * line) if low < high else None
