"""The innermost loop of the contraction template: steps of the reduction, several a round, and what each does."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from mapsto.devices.contraction import nibbles, stage
from mapsto.devices.contraction.form import ContractionForm, LoopAxis
from mapsto.devices.contraction.planes import LINE
from mapsto.devices.contraction.products import dot_of
from mapsto.devices.contraction.reduction import ReductionPart
from mapsto.devices.contraction.sums import TileSums
from mapsto.devices.contraction.tile_plan import TilePlan
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, add, floordiv, mul, sym
from mapsto.loop import ast as loop

_STEPS = 8  # of the innermost loop in a round; 16 take more of the cache of decoded instructions, and gain nothing
_WHOLE = 16  # steps that are no loop: a channel block


@dataclass(frozen=True)
class InnerSteps:
    """What a planned contraction does in a step. fresh: gives names that the function has not."""

    plan: TilePlan
    fresh: Callable[[str], str]

    @property
    def form(self) -> ContractionForm:
        return self.plan.form

    def groups(self, sums: TileSums, a: Dim, part: ReductionPart) -> list[loop.Value]:
        """What is broadcast in one step, of each row."""
        rows = range(len(sums.accumulators))
        return [self.group(add(a, mul(row, self.form.rows[-1].a)), part.group) for row in rows]

    def pieces(self, sums: TileSums, a: Dim, b: Dim, axis: LoopAxis) -> Iterator[loop.Statement]:
        """A loop over dot groups that adjoin in A, piece by piece by way of the local array."""
        k, rows = self.form.interleave, len(sums.accumulators)
        for piece in stage.pieces(self.form, axis.extent, self.fresh("piece")):
            start, now = add(a, mul(piece.first, k)), sums
            if sums.ahead is not None:
                asked = add(sums.ahead.start, mul(piece.first, sums.ahead.paced(axis.b)))
                now = replace(sums, ahead=replace(sums.ahead, start=asked))
            steps = self.rounds(
                now, self.fresh("k"), replace(axis, extent=piece.groups), add(b, mul(piece.first, axis.b)),
                lambda at: [stage.group(self.form, row, at) for row in range(rows)],
            )  # fmt: skip
            body = (*stage.filled(self.plan, start, rows, mul(piece.groups, k), self.fresh), *steps)
            yield from body if piece.count == 1 else (loop.For(piece.name, 0, piece.count, body),)

    def rounds(
        self, sums: TileSums, name: str, axis: LoopAxis, b: Dim, groups: Callable[[Dim], list[loop.Value]]
    ) -> Iterator[loop.Statement]:
        """The innermost loop, several steps a round (`_steps_a_round`): what counts and branches takes a quarter of a
        step's instructions where registers are few. groups: what a step broadcasts, given its number. Fences keep the
        loads of a step in it: moved up, they push accumulators out of the registers; a device that keeps none does a
        step a round. So do vectors of different widths: sums of the narrow ones then move from register to register,
        and one more than there are is needed.
        """
        several = self.plan.core.has("fence") and len(set(sums.panel.vectors)) == 1
        count, rest = _steps_a_round(axis.extent) if several else (1, 0)
        whole, size = floordiv(axis.extent, count), self.form.b.element.size

        kept = tuple(itertools.chain(*sums.accumulators)) if self.form.adds_apart else ()

        def round_(first: Dim, steps: int) -> Iterator[loop.Statement]:
            for number in range(steps):
                at, asked = add(first, number), None
                if sums.ahead is not None:
                    asked = sums.ahead.share(first, number, axis.b, steps, size)
                yield from (loop.Fence(kept),) if number else ()
                yield from self._step(replace(sums, ahead=asked), groups(at), add(b, mul(at, axis.b)))

        if whole == 1:
            yield from round_(0, count)
        else:
            yield loop.For(name, 0, whole, tuple(round_(mul(sym(name), count), count)))
        yield from round_(mul(whole, count), rest)

    def _step(self, sums: TileSums, groups: list[loop.Value], b: Dim) -> list[loop.Statement]:
        """One reduction step: every vector of B against the broadcast of every row's group of A."""
        form, k = self.form, self.form.interleave
        out: list[loop.Statement] = []
        if sums.ahead is not None:
            for first in range(0, sums.ahead.pace, LINE // form.b.element.size):
                out.append(loop.Prefetch(form.b.name, add(sums.ahead.start, first), level=2))
        if form.widens:
            return [*out, *self._widened_step(sums, groups, b)]
        vectors: list[loop.Value] = []
        column = 0
        for lanes, valid in zip(sums.panel.vectors, sums.panel.masks, strict=True):
            mask = None if form.b_channel_stride is None else valid  # packed B has all columns
            loaded = loop.Load(form.b.name, add(b, column * k), loop.Type(form.b.element, lanes * k), mask=mask)
            vectors.append(self.let(out, "b", loaded))
            column += lanes
        for group, names in zip(groups, sums.accumulators, strict=True):
            scalar = self.let(out, "a", group)
            for name, vector in zip(names, vectors, strict=True):
                total = loop.Var(name, loop.Type(form.accumulator, vector.type.lanes // k))
                out.append(loop.Assign(name, self._multiply(scalar, vector, total)))
        return out

    def _widened_step(self, sums: TileSums, groups: list[loop.Value], b: Dim) -> list[loop.Statement]:
        """The same where B is widened as it comes: a vector is multiplied as soon as it is, so that few wait in
        registers beside the broadcasts of a few rows.
        """
        form, rows, column = self.form, len(sums.accumulators), 0
        out: list[loop.Statement] = []
        vectors: list[loop.Value] = []
        for lanes in sums.panel.vectors if form.nibbles else ():
            word = loop.Type(form.b.element, lanes)
            vectors.append(self.let(out, "b", loop.Load(form.b.name, add(b, column), word)))
            column += lanes
        for first in range(0, len(groups), rows):
            scalars = [self.let(out, "a", group) for group in groups[first : first + rows]]
            column = 0
            for position, lanes in enumerate(sums.panel.vectors):
                if form.nibbles:
                    wide = nibbles.channel_of(vectors[position], first // rows)
                else:
                    loaded = loop.Load(form.b.name, add(b, column), loop.Type(form.b.element, lanes))
                    wide = _converted(loaded, form.accumulator)
                vector = self.let(out, "b", wide)
                for scalar, names in zip(scalars, sums.accumulators, strict=True):
                    total = loop.Var(names[position], loop.Type(form.accumulator, lanes))
                    out.append(loop.Assign(total.name, self._multiply(scalar, vector, total)))
                column += lanes
        return out

    def let(self, out: list[loop.Statement], prefix: str, value: loop.Value) -> loop.Value:
        name = self.fresh(prefix)
        out.append(loop.Let(name, value))
        return loop.Var(name, value.type)

    def group(self, at: Dim, group: int) -> loop.Value:
        """One channel of A as an accumulator's element, or a dot group as the 32 bits that hold it."""
        form, k = self.form, self.form.interleave
        if k == 1:
            return _converted(loop.Load(form.a.name, at, loop.Type(form.a.element)), form.accumulator)
        if form.staged is not None:
            return stage.lone_group(form, at, group)
        t = loop.Type(form.a.element, k)
        mask = None if group == k else loop.LaneMask(group, loop.Type(DType.BOOL, k))
        return loop.Bitcast(loop.Load(form.a.name, at, t, mask=mask), loop.Type(DType.I32))

    def _multiply(self, scalar: loop.Value, vector: loop.Value, total: loop.Value) -> loop.Value:
        form, lanes = self.form, total.type.lanes
        if form.interleave == 1:
            spread = loop.Broadcast(scalar, total.type)
            if form.accumulator.is_float and self.plan.core.has("fma"):
                return loop.Fma(spread, vector, total)
            return loop.Binary("add", total, loop.Binary("mul", spread, vector))
        group = loop.Bitcast(
            loop.Broadcast(scalar, loop.Type(DType.I32, lanes)), loop.Type(form.multiplied, lanes * form.interleave)
        )
        return loop.Dot(dot_of(form.multiplied), group, vector, total)


def _steps_a_round(extent: Dim) -> tuple[int, int]:
    """How many steps of the innermost loop are written out, and how many are left after whole rounds of them: a channel
    block whole, so that it is no loop; else as many as divide the loop, or nearly `_STEPS`.
    """
    if not isinstance(extent, int):
        return 1, 0
    if extent <= _WHOLE:
        return max(extent, 1), 0
    count = next((n for n in range(_STEPS, _STEPS // 2, -1) if extent % n == 0), _STEPS)
    return count, extent % count


def _converted(value: loop.Value, element: DType) -> loop.Value:
    return value if value.type.element is element else loop.Cast(value, loop.Type(element, value.type.lanes))
