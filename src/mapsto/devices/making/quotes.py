"""What makers quote for a task: tallies of the kernels that they would make, in closed form; nothing is lowered."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from mapsto.devices.making.code import Shared, TaskCode
from mapsto.devices.making.sums import contraction_stmts
from mapsto.devices.making.template_names import BLOCKS, LOOPS, NOTHING, ROUTINE, SLICES, TILES, WINOGRAD
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Expr
from mapsto.ir.graph import Value
from mapsto.kernel.ast import Stmt
from mapsto.kernel.compose import reads
from mapsto.machine.cost import Stream, Tally
from mapsto.machine.spec import MULTIPLY_ADD, DeviceSpec
from mapsto.plan.asked import Quote, quoted
from mapsto.plan.chain import CHAIN, form_of
from mapsto.plan.contraction import Contraction
from mapsto.plan.contraction_tally import (
    Extents,
    TemplateShare,
    WinogradShare,
    contraction_tally,
    extents_of,
    winograd_tally,
)
from mapsto.plan.home import Home
from mapsto.plan.layout import Layout, in_panels, plain
from mapsto.plan.patterns import Sizes, extent, number
from mapsto.plan.routine_tally import routine_tally
from mapsto.plan.row_tally import rows_tally
from mapsto.plan.rules.base import Refusal
from mapsto.plan.sliced import layout_of_slice, lead_of_slices
from mapsto.plan.task import SLICED, Task

# What counts of kernels of different kinds are good for: loops must take less by that before they displace a template.
GOOD_TO = 1.5
# The same of one that packs an operand of an open size in each run: it moves that twice more, and from farther away
# than the guess says where it turns out large.
GOOD_TO_OPEN = 1.0
# Products at points take more memory and lose some bits: they must take less by that.
WORTH_POINTS = 1.1


class Template(Protocol):
    """A device's template for contractions, in closed form."""

    def reaches(self, task: Task, code: TaskCode) -> bool:
        """Whether it can do a task whose operands lie so."""

    def reads_directly(self, c: Contraction, code: TaskCode) -> bool:
        """Whether B is read as it lies, or packed by a step of its own; constants are packed when compiling."""

    def reach(self, extents: Extents, a: DType, b: DType, total: DType, out: DType) -> TemplateShare:
        """What it makes of the device's peak."""

    def winograd(self, task: Task, code: TaskCode) -> list[WinogradShare] | None:
        """What products at points take for each phase; None where it cannot be done by them."""


@dataclass(frozen=True)
class Quoting:
    """Quotes of one maker for the tasks of one graph. template: None where contractions are made as loops."""

    shared: Shared
    constants: Mapping[str, np.ndarray]
    spec: DeviceSpec
    template: Template | None

    def offers(
        self,
        task: Task,
        homes: Mapping[str, Home],
        sizes: Mapping[str, int],
        distances: Mapping[str, float] | None = None,
    ) -> tuple[Quote | Refusal, ...]:
        """See `plan.asked.Asked`."""
        one = _Quoted(self, task, homes, Sizes.of(sizes), distances or {})
        if all(0 in homes[name].layout.shape for name in task.targets if name in homes):
            return (Quote(NOTHING, quoted(NOTHING, (), self.spec).cost),)
        if task.kind == CHAIN:
            return (self.chain(task, homes, sizes, distances or {}),)
        if task.kind == SLICED:
            return (self.slices(task, homes, sizes, distances or {}),)
        if task.kind == "routine":
            return (quoted(ROUTINE, (one.routine(),), self.spec),)
        if task.kind == "rows":
            return (quoted(LOOPS, (one.rows(task.stmts),), self.spec),)
        return tuple(one.contraction())


    def chain(
        self, task: Task, homes: Mapping[str, Home], sizes: Mapping[str, int], distances: Mapping[str, float]
    ) -> Quote:
        """The stages one after the other, with what passes between them near."""
        form = form_of(task)
        shape = task.stages[0].phases[0].shape
        types = {form.x: form.x_type, form.w: form.w_type}
        passing = {name: Home(name, dtype, plain(shape), "by blocks") for name, dtype in types.items()}
        near = dict.fromkeys(types, float(task.stages[0].phases[0].traits.block_bytes))
        tallies: list[Tally] = []
        for stage in task.stages:
            offers = self.offers(stage, {**homes, **passing}, sizes, {**distances, **near})
            tallies += next(offer for offer in offers if isinstance(offer, Quote)).tallies
        return quoted(BLOCKS, tallies, self.spec)

    def slices(
        self, task: Task, homes: Mapping[str, Home], sizes: Mapping[str, int], distances: Mapping[str, float]
    ) -> Quote:
        """The stages one after the other, with what passes between them a slice away."""
        count = len(lead_of_slices(task))
        of_slices = {name: layout_of_slice(homes[name].layout, count) for name in task.passing if name in homes}
        near = {
            name: float(number(layout.elements, Sizes.of(sizes)) * homes[name].dtype.size)
            for name, layout in of_slices.items()
            if layout is not None
        }
        tallies: list[Tally] = []
        for stage in task.stages:
            offers = self.offers(stage, homes, sizes, {**distances, **near})
            tallies += next(offer for offer in offers if isinstance(offer, Quote)).tallies
        return quoted(SLICES, tallies, self.spec)


@dataclass(frozen=True)
class _Quoted:
    """One task."""

    by: Quoting
    task: Task
    homes: Mapping[str, Home]
    sizes: Sizes
    distances: Mapping[str, float]

    def values(self) -> dict[str, Value]:
        task, homes = self.task, self.homes
        return {**task.values, **{n: homes[n].value(n) for n in (*task.reads, *task.targets) if n in homes}}

    def routine(self) -> Tally:
        (node,) = self.task.nodes
        known = [self.homes[n].value(n) if n else None for n in node.inputs]
        return routine_tally(node, known, self.sizes, self.distances)

    def rows(self, stmts: tuple[Stmt, ...] | list[Stmt]) -> Tally:
        touched = {s.target for s in stmts}.union(*(reads(s) for s in stmts))
        layouts = {n: self.homes[n].layout for n in touched if n in self.homes}
        return rows_tally(stmts, self.values(), layouts, self.sizes, self.by.spec, self.distances)

    def contraction(self) -> Iterator[Quote | Refusal]:
        """By the template where it can; as loops where that could be less."""
        spec, template = self.by.spec, self.by.template
        code = TaskCode.of(self.by.shared, self.task, self.homes, self.by.constants)
        points = None if template is None else self.winograd(template, code)
        if template is None or not template.reaches(self.task, code):
            loops = quoted(LOOPS, (self.rows(contraction_stmts(self.task, code)),), spec)
            if template is not None:
                yield Refusal(f"{TILES}: an operand cannot be reached by strides")
            yield from (loops,) if points is None else _cheaper(points, loops)
            return
        tiles = quoted(TILES, tuple(self.tiles(template, code)), spec)
        if points is not None:
            yield from _cheaper(points, tiles)
            return
        least = quoted(LOOPS, (self.least(tiles.tallies[-1]),), spec).cost.seconds
        if least >= tiles.cost.seconds:
            yield tiles
            yield Refusal(f"{LOOPS}: they would take {least:.2g} s at least")
            return
        loops = quoted(LOOPS, (self.rows(contraction_stmts(self.task, code)),), spec)
        factor = GOOD_TO_OPEN if any(self.packs_open(phase, template, code) for phase in self.task.phases) else GOOD_TO
        yield from (loops, tiles) if loops.cost.seconds * factor < tiles.cost.seconds else (tiles, loops)

    def least(self, tiles: Tally) -> Tally:
        """What loops do at least: a multiply-add and an element brought for each product, and operands come and go as
        often as with the template.
        """
        products = sum(float(number(c.multiplications(), self.sizes)) for c in self.task.phases)
        return Tally(
            elements={MULTIPLY_ADD: products},
            moves={"contiguous": products},
            streams=tiles.streams,
            shares=tiles.shares,
        )

    def tiles(self, template: Template, code: TaskCode) -> Iterator[Tally]:
        task, values, final = self.task, self.values(), self.task.targets[-1]
        layouts = {n: self.homes[n].layout for n in (*task.reads, *task.targets) if n in self.homes}
        for name in (t for t in task.targets if t in self.homes):
            yield from self.border(layouts[name], values[name])
        for phase in task.phases:
            if self.packs(phase, template, code):
                yield self.packing(phase, code, values)
            extents = extents_of(phase, final, layouts, self.sizes)
            made = template.reach(extents, phase.a.dtype, phase.b.dtype, phase.dtype, values[final].dtype)
            yield self.products(phase, made)

    def winograd(self, template: Template, code: TaskCode) -> Quote | None:
        """By products at points, where it can be done so."""
        shares = template.winograd(self.task, code)
        if shares is None:
            return None
        layouts = {n: self.homes[n].layout for n in self.task.targets if n in self.homes}
        values = self.values()
        borders = [tally for name, layout in layouts.items() for tally in self.border(layout, values[name])]
        made = (
            winograd_tally(self.products(phase, share.products), share)
            for phase, share in zip(self.task.phases, shares, strict=True)
        )
        return quoted(WINOGRAD, (*borders, *made), self.by.spec)

    def products(self, phase: Contraction, share: TemplateShare) -> Tally:
        """Of one phase, with the task's statements on its sums."""
        layouts = {n: self.homes[n].layout for n in (*self.task.reads, *self.task.targets) if n in self.homes}
        stmts, values = self.task.stmts, self.values()
        return contraction_tally(phase, stmts, values, layouts, self.sizes, self.by.spec, share, self.distances)

    def packs(self, c: Contraction, template: Template, code: TaskCode) -> bool:
        """Whether a run packs B before."""
        return c.b.tensor not in code.constants and not template.reads_directly(c, code)

    def packs_open(self, c: Contraction, template: Template, code: TaskCode) -> bool:
        """Whether it does, and only the run knows how much that is."""
        return self.packs(c, template, code) and any(isinstance(d, Expr) for d in code.layout(c.b.tensor).shape)

    def packing(self, c: Contraction, code: TaskCode, values: Mapping[str, Value]) -> Tally:
        """An operand that is made at run time and whose columns are not contiguous."""
        iters = (*c.batch, *c.channels, *c.windows, *c.cols)
        name, shape = f"{c.b.tensor} packed", tuple(i.extent for i in iters)
        own = {**values, name: Value(name, c.b.dtype, shape)}
        panels = in_panels(shape, len(shape) - 1, c.traits.block) if c.traits.block else plain(shape)
        layouts = {c.b.tensor: code.layout(c.b.tensor), name: panels}
        return rows_tally([Stmt(name, c.b.dtype, iters, c.b)], own, layouts, self.sizes, self.by.spec, self.distances)

    def border(self, layout: Layout, value: Value) -> Iterator[Tally]:
        """The zeros around what the template writes: a step of its own."""
        if not layout.has_border:
            return
        inside = math.prod(extent(d, self.sizes) for d in layout.shape)
        whole = (extent(d, self.sizes) + sum(b) for d, b in zip(layout.shape, layout.border, strict=True))
        size = float((math.prod(whole) - inside) * value.dtype.size)
        yield Tally(moves={"store": size / 4}, streams=(Stream(size, size, True),))


def _cheaper(points: Quote, other: Quote) -> tuple[Quote, Quote]:
    """Products at points and another way, what is to be taken first."""
    return (points, other) if points.cost.seconds * WORTH_POINTS < other.cost.seconds else (other, points)
