"""Correlations of images by products at points: which tasks, what they would take, and the calls."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from mapsto.devices.contraction.core import Core
from mapsto.devices.contraction.correlation import point_sums, shift_results
from mapsto.devices.contraction.correlation_plan import (
    Correlation,
    CorrelationPlan,
    Images,
    correlation_text,
    is_correlation,
    near_correlation,
    plan_correlation,
    read_correlation,
)
from mapsto.devices.contraction.reach import reach
from mapsto.devices.contraction.toom_cook import operations, short_convolution
from mapsto.devices.generic.cost import estimate
from mapsto.devices.generic.processor import Processor
from mapsto.devices.maker import KernelCall
from mapsto.devices.making.borders import border_calls
from mapsto.devices.making.code import MadeKernel, TaskCode, Ways, grain_of
from mapsto.devices.making.contractions import OperandAccess, also_stored, shape_of
from mapsto.devices.making.epilogues import Shaped, ShapedEpilogue
from mapsto.devices.making.template_names import WINOGRAD
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import add, mul
from mapsto.loop.ast import Function, Param
from mapsto.machine.tuning import key_of_form
from mapsto.plan.access import Access, access
from mapsto.plan.contraction import Contraction
from mapsto.plan.contraction_tally import Extents, TemplateShare, WinogradShare
from mapsto.plan.correlation import SHIFTS, SlidingAccess, sliding_access
from mapsto.plan.kernels import Renamer
from mapsto.plan.layout import Layout
from mapsto.plan.task import Task


class CorrelationReach(NamedTuple):
    """A task's contraction as one: its form, and how the results are reached."""

    contraction: Contraction
    form: Correlation
    results: OperandAccess


def correlation_reach(task: Task, code: TaskCode, core: Core) -> CorrelationReach | None:
    """How a task's operands are reached, where it is one contraction that can be done so; else None."""
    if len(task.phases) != 1:
        return None
    (c,) = task.phases
    border = c.border(code.layout(c.a.tensor).shape)
    if border is None or c.b.tensor not in code.homes:
        return None
    reached = sliding_access(c, code.layout(c.a.tensor), code.layout(c.b.tensor), border)
    column = c.cols[0].name
    out = access(c, c.index, code.layout(task.targets[-1]), column, None)
    if reached is None or out is None:
        return None
    others = {t: access(c, c.index, code.layout(t), column, None) for t in also_stored(task, code)}
    also = {t: reached for t, reached in others.items() if reached is not None and reached.block == out.block}
    form = _form(c, reached, code)
    if form is None or len(also) != len(others) or not is_correlation(form, core):
        return None
    nothing = Access(0, {}, None, 0)  # what is left to do after the products reads sums alone
    return CorrelationReach(c, form, OperandAccess(nothing, out, also))


def _form(c: Contraction, reached: SlidingAccess, code: TaskCode) -> Correlation | None:
    """The form in numbers; None where a run decides one."""
    walks, a, b = reached
    (y, x), outer = walks.places, walks.outer
    rows = [i for i in c.rows if i.extent != 1]

    def images(name: str, found: Access, layout: Layout) -> Images | None:
        start = add(found.base, mul(layout.offset, -1))
        strides = [found.strides.get(i.name, 0) for i in (*outer, y, x)]
        numbers = [d for d in (start, *strides, found.block_stride) if isinstance(d, int)]
        if len(numbers) != len(strides) + 2:
            return None
        first, *steps, block_stride = numbers
        *around, down, across = steps
        return Images(Param(name, DType.F32), first, tuple(around), down, across, found.block or 0, block_stride)

    of_a, of_b = images("a", a, code.layout(c.a.tensor)), images("b", b, code.layout(c.b.tensor))
    extents = [i.extent for i in (*outer, y, x, walks.channel, c.cols[0])]
    known = [e for e in extents if isinstance(e, int)]
    if of_a is None or of_b is None or len(known) != len(extents):
        return None
    *around, height, width, channels, columns = known
    dy, dx, channel = (rows.index(i) for i in (*walks.shifts, walks.channel))
    return Correlation(of_a, of_b, tuple(around), height, width, channels, columns, (dy, dx, channel))


def correlation_share(found: CorrelationReach, core: Core) -> WinogradShare:
    """What it does for a task, in closed form."""
    form, plan = found.form, plan_correlation(found.form, core)
    short, points = short_convolution(SHIFTS, plan.edge), plan.points
    tiles = plan.blocks * plan.tiles
    extents = Extents(1, (plan.channels,), plan.columns, plan.tiles, 1, 4, 0, False, False)
    share = reach(core, extents, DType.F32, DType.F32, DType.F32, DType.F32).share
    of_a, of_b = tiles * form.channels * plan.column_blocks, tiles * form.columns * plan.channel_blocks
    sums = float(points * form.channels * form.columns)
    passes = plan.blocks + 2 * plan.parts  # of all sums
    directly = SHIFTS**2 * form.places
    count = short.products
    return WinogradShare(
        products=TemplateShare(share * directly / (points * tiles), shares=plan.extent),
        added=of_a * 2.0 * count * operations(short.inputs)
        + of_b * (count + plan.edge) * operations(short.taps)
        + sums * passes,
        moved=of_a * 2.0 * points + of_b * (points + plan.edge**2) + 2.0 * sums * passes,
        values=8.0 * points * (of_a + of_b) + 8.0 * sums * plan.blocks,
        between=4.0 * (plan.region + plan.held),
    )


@dataclass(frozen=True)
class Correlated:
    """A correlation with what is done with its results: all that its functions need, in canonical names."""

    form: Correlation
    results: Shaped


@dataclass(frozen=True)
class UnwrittenSums:
    """A `making.code.Unwritten`: the sums of a correlation at the points."""

    plan: CorrelationPlan

    @property
    def key(self) -> str:
        return f"{WINOGRAD} sums {key_of_form(self.plan.form)} {correlation_text(self.plan)} {self.plan.core}"

    def write(self) -> Function:
        return point_sums(self.plan)


@dataclass(frozen=True)
class UnwrittenShifts:
    """A `making.code.Unwritten`: the results of a correlation from its sums at the points."""

    correlated: Correlated
    plan: CorrelationPlan
    processor: Processor

    @property
    def key(self) -> str:
        head = f"{WINOGRAD} shifts {key_of_form(self.correlated)} {correlation_text(self.plan)}"
        return f"{head} {self.plan.core} {self.processor}"

    def write(self) -> Function:
        results = self.correlated.results
        return shift_results(self.plan, results.form, ShapedEpilogue(results, self.processor))[0]


def correlation_calls(task: Task, code: TaskCode, core: Core) -> list[KernelCall] | None:
    """The calls that compute a task so; None where it cannot be."""
    found = correlation_reach(task, code, core)
    if found is None:
        return None
    c, form, names = found.contraction, found.form, Renamer()
    shaped, tensors = shape_of(task, c, found.results, None, code, names, core, joined_rows=False)
    correlated = Correlated(form, shaped)
    plan = code.schedules.take(
        Ways(
            WINOGRAD,
            correlated,
            lambda: plan_correlation(form, core),
            correlation_text,
            lambda text: read_correlation(text, form, core),
            lambda: near_correlation(form, core),
        )
    )
    processor = code.target.processor
    values, sums = code.fresh(f"{c.target}.points"), code.fresh(f"{c.target}.sums")
    code.add_scratch(values, DType.F32, (plan.extent, plan.region))
    code.add_scratch(sums, DType.F32, (plan.extent, plan.held))

    def made_sums() -> MadeKernel:
        return MadeKernel(code.add_unwritten(UnwrittenSums(plan), "none"), plan.extent, (), ())

    def made_shifts() -> MadeKernel:
        source = UnwrittenShifts(correlated, plan, processor)
        return MadeKernel(code.add_unwritten(source, "none"), form.channels, (), shaped.form.dims)

    text = correlation_text(plan)
    first = code.shared.kernel(("sums", form, text), made_sums)
    last = code.shared.kernel(("shifts", correlated, text), made_shifts)
    work = estimate(c.multiplications())
    multiplied = core.accumulator_lanes * core.fma_per_cycle
    share = correlation_share(found, core).products.share
    grain = grain_of(work / share / multiplied, first.extent, processor)
    added = float(form.channels * form.columns * plan.points * (plan.parts + 2))
    sizes = names.actual_sizes()
    dims = tuple(sizes[d] for d in last.dims)
    also = tuple(found.results.also)
    results = (task.targets[-1], *also, *tensors, c.a.tensor, c.b.tensor, sums)
    return [
        *border_calls(task, code),
        KernelCall(first.function, (c.a.tensor, c.b.tensor, sums, values), (2, 3), (), first.extent, task, grain, work),
        KernelCall(
            last.function, results, tuple(range(1 + len(also))), dims, last.extent, task,
            grain_of(added / core.accumulator_lanes, last.extent, processor), added,
        ),
    ]  # fmt: skip
