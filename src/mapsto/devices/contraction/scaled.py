"""The reduction of B in blocks of integers: block by block of those channels that have a scale in common."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

from mapsto.devices.contraction import nibbles
from mapsto.devices.contraction.reduction import ReductionPart
from mapsto.devices.contraction.steps import InnerSteps
from mapsto.devices.contraction.sums import TileSums, zeroed
from mapsto.ir.expr import Dim, add, mul, sym
from mapsto.loop import ast as loop


@dataclass(frozen=True)
class ScaledBlocks:
    """Sums of blocks, settled times their scales."""

    steps: InnerSteps

    def blocks(self, part: ReductionPart, sums: TileSums, a_base: Dim, b_base: Dim) -> Iterator[loop.Statement]:
        """Block by block of those channels that have a scale in common."""
        blocks, axis = part.loops
        name, inner = self.steps.fresh("k"), self.steps.fresh("k")
        a, b = add(a_base, mul(sym(name), blocks.a)), add(b_base, mul(sym(name), blocks.b))
        starts = [add(a, mul(row, self.steps.form.rows[-1].a)) for row in range(len(sums.accumulators))]
        cleared = zeroed(self.steps.form.accumulator, sums.panel, sums.accumulators, loop.Assign)
        before: list[loop.Statement] = []
        offsets = self._spread(part, starts, before) if self.steps.form.nibbles else []
        steps = self.steps.rounds(sums, inner, axis, b, lambda at: self._scalars(part, starts, at))
        settled = self._scaled(part, sums, sym(name), offsets)
        yield loop.For(name, 0, blocks.extent, (*before, *cleared, *steps, *settled))

    def _spread(self, part: ReductionPart, starts: list[Dim], out: list[loop.Statement]) -> list[loop.Value]:
        """Elements of A for a block of nibbles, and what its sums are too large by, of each row."""
        form, elements = self.steps.form, part.loops[1].extent
        if part.group < form.nibbles:
            return [self.steps.let(out, "offset", nibbles.offset_of_cut(form.a.name, at, part.group)) for at in starts]
        assert isinstance(elements, int)
        return nibbles.spread(form.a.name, starts, elements, self.steps.fresh, out)

    def _scalars(self, part: ReductionPart, starts: list[Dim], at: Dim) -> list[loop.Value]:
        """What is broadcast in a step: of each row, channel by channel of an element of B."""
        form, (_, axis) = self.steps.form, part.loops
        if not form.nibbles:
            return [self.steps.group(add(start, mul(at, axis.a)), part.group) for start in starts]
        channels, rows, elements = range(part.group), range(len(starts)), axis.extent
        if part.group < form.nibbles:
            return [nibbles.alone(form.a.name, add(start, n), n) for n in channels for start in starts]
        assert isinstance(elements, int)
        return [nibbles.multiplied(elements, row, at, n) for n in channels for row in rows]

    def _scaled(
        self, part: ReductionPart, sums: TileSums, block: Dim, offsets: list[loop.Value]
    ) -> Iterator[loop.Statement]:
        """A block's sums times their scales, added to what is settled. block: its number in this part. offsets: what
        each row's sums are too large by.
        """
        form, panel = self.steps.form, sums.panel
        assert form.scale is not None and sums.settled is not None and isinstance(part.b_start, int)
        width = sum(panel.vectors)
        first = part.b_start // width // form.scaled * width
        at = add(mul(panel.column, form.scales), add(first, mul(block, width)))
        for position, lanes in enumerate(panel.vectors):
            t, scales = loop.Type(form.accumulator, lanes), list[loop.Statement]()
            place = add(at, sum(panel.vectors[:position]))
            scale = self.steps.let(scales, "scale", loop.Load(form.scale.name, place, t))
            yield from scales
            for row, (names, totals) in enumerate(zip(sums.accumulators, sums.settled, strict=True)):
                total, own = loop.Var(totals[position], t), cast(loop.Value, loop.Var(names[position], t))
                own = loop.Binary("sub", own, loop.Broadcast(offsets[row], t)) if offsets else own
                if self.steps.plan.core.has("fma"):
                    yield loop.Assign(total.name, loop.Fma(own, scale, total))
                else:
                    yield loop.Assign(total.name, loop.Binary("add", total, loop.Binary("mul", own, scale)))
