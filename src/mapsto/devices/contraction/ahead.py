"""What a tile asks for before it is read: of B the next panel, or the next slice, while this one is multiplied; of the
epilogue's operands what is read at its own points, while these are summed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from mapsto.devices.contraction.form import ContractionForm
from mapsto.devices.contraction.tile_plan import ASKED_BYTES, NEAR_BYTES, TilePlan
from mapsto.ir.expr import Dim, add, floordiv, mul
from mapsto.loop import ast as loop

LINE = 64  # bytes of the caches
_MANY_TERMS = 64


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


def is_worth_asking(form: ContractionForm) -> bool:
    """Whether sums have so many terms that what is read after them is there by then, and asking is a small part."""
    terms = mul(form.channels, form.windows)
    return bool(form.others) and isinstance(terms, int) and terms >= _MANY_TERMS * form.interleave


def lines_read(statements: Iterable[loop.Statement], form: ContractionForm) -> list[loop.Prefetch]:
    """Lines of the epilogue's operands that statements read a vector of, at places that are known before them."""
    names = {param.name for param in form.others}
    found: list[loop.Prefetch] = []
    waiting: list[object] = list(statements)
    while waiting:
        node = waiting.pop()
        if isinstance(node, tuple | list):
            waiting += node
        elif isinstance(node, loop.Load) and node.buffer in names:
            if node.type.lanes > 1:
                found.append(loop.Prefetch(node.buffer, node.base, level=2))
        elif isinstance(node, loop.LetIndex):
            return []
        elif hasattr(node, "__dataclass_fields__") and not isinstance(node, loop.Type):
            waiting += [getattr(node, name) for name in loop.fields_of(type(node))]
    return found


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
