"""Convolutions of 3x3 taps by products at points: which tasks, what they would take, and the calls."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mapsto.devices.contraction.core import Core
from mapsto.devices.contraction.form import ContractionForm, LoopAxis
from mapsto.devices.contraction.reach import reach
from mapsto.devices.contraction.toom_cook import as_floats, operations, short_convolution
from mapsto.devices.contraction.winograd import winograd
from mapsto.devices.contraction.winograd_plan import (
    EDGES,
    EXACT_EDGES,
    TAPS,
    WinogradPlan,
    is_taken,
    near_winograd,
    plan_winograd,
    read_winograd,
    winograd_text,
)
from mapsto.devices.generic.cost import estimate
from mapsto.devices.generic.processor import Processor
from mapsto.devices.maker import KernelCall
from mapsto.devices.making.borders import border_calls
from mapsto.devices.making.code import MadeKernel, TaskCode, Ways, grain_of
from mapsto.devices.making.contractions import (
    OperandAccess,
    key_of_source,
    shape_of,
    template_reach,
)
from mapsto.devices.making.epilogues import Shaped, ShapedEpilogue
from mapsto.devices.making.packed import direct_b, logical_b, packing_key
from mapsto.devices.making.template_names import WINOGRAD
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, add, loads, mul, sym
from mapsto.kernel.ast import Const, Iter, Load, Op, Reduce, Scalar, Stmt, Where
from mapsto.loop.ast import Function, Param
from mapsto.machine.tuning import key_of_form
from mapsto.plan.contraction import Contraction
from mapsto.plan.contraction_tally import Extents, TemplateShare, WinogradShare
from mapsto.plan.kernels import Renamer
from mapsto.plan.task import Task
from mapsto.runtime.arrays import Deferred

# Elements of products in f64: what stays in a cache, and too little for a library to share out among threads that are
# busy with other things.
_AT_ONCE = 1 << 14


def winograd_reach(task: Task, code: TaskCode, core: Core) -> list[OperandAccess] | None:
    """How each phase reaches its operands, where all of them can be done by products at points; else None."""
    reached = template_reach(task, code)
    if reached is None or not all(
        _has_taps(c, code) and is_taken(_bare_form(task, c, reach, code), core)
        for c, reach in zip(task.phases, reached, strict=True)
    ):
        return None
    return reached


def _has_taps(c: Contraction, code: TaskCode) -> bool:
    """Whether B's elements are where its index says: those of constants are looked up when compiling, others in a run.
    """
    return c.b.tensor in code.constants or (c.b.tensor in code.homes and not any(map(loads, c.b.index)))


def _edges(c: Contraction, code: TaskCode) -> tuple[int, ...]:
    """Sizes of tiles. Taps that a run brings are trained, mostly: what a step rounds is in all steps after it."""
    return EDGES if c.b.tensor in code.constants else EXACT_EDGES


def _bare_form(task: Task, c: Contraction, reach: OperandAccess, code: TaskCode) -> ContractionForm:
    """The form, as far as choices look at it: no names, no epilogue."""
    a, out = reach.a, reach.out

    def axis(name: str, extent: Dim) -> LoopAxis:
        return LoopAxis(extent, a.strides.get(name, 0), 0, out.strides.get(name, 0))

    return ContractionForm(
        name="kernel",
        a=Param("a", c.a.dtype),
        b=Param("b", c.b.dtype),
        out=Param("out", code.homes[task.targets[-1]].dtype, True),
        accumulator=c.dtype,
        columns=c.cols[0].extent,
        rows=tuple(axis(i.name, i.extent) for i in c.rows if i.extent != 1) or (LoopAxis(1),),
        channels=c.channels[0].extent,
        batch=tuple(axis(i.name, i.extent) for i in c.batch),
        window=tuple(axis(i.name, i.extent) for i in c.windows),
        channel_block=a.block or 0,
        channel_block_stride=a.block_stride,
        out_block=out.block or 0,
        out_block_stride=out.block_stride,
    )


def winograd_share(task: Task, c: Contraction, reached: OperandAccess, code: TaskCode, core: Core) -> WinogradShare:
    """What it does for a phase, in closed form."""
    form = _bare_form(task, c, reached, code)
    plan = plan_winograd(form, core, _edges(c, code))
    assert isinstance(form.columns, int) and isinstance(form.channels, int)
    short, lanes = short_convolution(plan.edge, TAPS), plan.lanes
    tiles, count = plan.blocks * plan.tiles, short.products
    extents = Extents(1, (plan.tiles,), form.columns, form.channels, 1, plan.depth * 4, 0, False, False)
    share = reach(core, extents, DType.F32, DType.F32, DType.F32, DType.F32).share
    columns = -(-plan.columns // lanes) * lanes
    given, made = tiles * plan.depth, tiles * columns
    block = 4.0 * plan.points * plan.tiles * (plan.depth + plan.product.tiling.width)
    taps = 4.0 * plan.points * form.columns * form.channels
    made_here = 0 if c.b.tensor in code.constants else form.columns * form.channels
    directly = TAPS**2 * plan.geometry.images * plan.geometry.height * plan.geometry.width
    fewer = directly / (plan.points * tiles)  # products at the points, against those of the taps
    return WinogradShare(
        products=TemplateShare(
            share * fewer, passes_b=plan.blocks, between_b=taps + block, shares=plan.extent, bytes_b=taps
        ),
        added=given * 2.0 * count * operations(short.inputs)
        + made * ((count + plan.edge) * operations(short.results) + plan.edge**2)
        + made_here * float(plan.points * TAPS**2),
        moved=given * 2.0 * plan.points
        + made * (plan.points + plan.edge**2)
        + made_here * float(plan.points * (TAPS**2 + 1) + 2 * TAPS**2),
        values=8.0 * plan.points * (given + made + made_here),
        between=block,
    )


def tuned_template(task: Task, code: TaskCode, core: Core) -> str | None:
    """The template that was measured to be faster for a contraction of one phase on this machine, if that is known."""
    reached = template_reach(task, code) if len(task.phases) == 1 else None
    if reached is None:
        return None
    (c,), (access,) = task.phases, reached
    direct = None if access.a.block else direct_b(c, code)
    shaped, _ = shape_of(task, c, access, direct, code, Renamer(), core)
    found = code.shared.tuning.kernels.get(key_of_form(shaped))
    if found is None or (found.template == WINOGRAD and winograd_reach(task, code, core) is None):
        return None
    return found.template


@dataclass(frozen=True)
class UnwrittenWinograd:
    """A `making.code.Unwritten`: a convolution by products at points."""

    shaped: Shaped
    plan: WinogradPlan
    processor: Processor

    @property
    def key(self) -> str:
        return key_of_source(WINOGRAD, self.shaped, winograd_text(self.plan), self.processor)

    def write(self) -> Function:
        return winograd(self.plan, ShapedEpilogue(self.shaped, self.processor))[0]


def winograd_calls(task: Task, code: TaskCode, core: Core) -> list[KernelCall] | None:
    """The calls that compute a contraction task so; None where it cannot be."""
    reached = winograd_reach(task, code, core)
    if reached is None:
        return None
    calls: list[KernelCall] = border_calls(task, code)
    for c, own in zip(task.phases, reached, strict=True):
        calls += _phase_calls(task, c, own, code, core)
    return calls


def _phase_calls(task: Task, c: Contraction, reached: OperandAccess, code: TaskCode, core: Core) -> list[KernelCall]:
    names = Renamer()
    shaped, tensors = shape_of(task, c, reached, None, code, names, core)
    form = shaped.form
    if not is_taken(form, core):
        raise ValueError(f"{task.name} has no form for products at points")
    plan = code.schedules.take(
        Ways(
            WINOGRAD,
            shaped,
            lambda: plan_winograd(form, core, _edges(c, code)),
            winograd_text,
            lambda text: read_winograd(text, form, core),
            lambda: near_winograd(form, core, _edges(c, code)),
        )
    )

    def made() -> MadeKernel:
        source = UnwrittenWinograd(shaped, plan, code.target.processor)
        return MadeKernel(code.add_unwritten(source, "none"), plan.extent, (), form.dims)

    kernel = code.shared.kernel((shaped, winograd_text(plan)), made)
    scratch = code.fresh(f"{c.target}.points")
    code.add_scratch(scratch, DType.F32, (plan.extent, plan.region))
    before: list[KernelCall] = []
    if c.b.tensor in code.constants:
        taps = _constant(c, "points", plan, code), _constant(c, "taps", plan, code)
    else:
        taps = taps_in_a_run(c, plan, code, before)
    operands = (c.a.tensor, taps[0], task.targets[-1], *reached.also, *tensors, taps[1], scratch)
    writes = (*range(2, 3 + len(reached.also)), len(operands) - 1)
    work = estimate(c.multiplications())
    share = winograd_share(task, c, reached, code, core).products.share
    cycles = work / share / (core.accumulator_lanes * core.fma_per_cycle)
    grain = grain_of(cycles, kernel.extent, code.target.processor)
    sizes: Mapping[str, Dim] = names.actual_sizes()
    dims = tuple(sizes[d] for d in kernel.dims)
    return [*before, KernelCall(kernel.function, operands, writes, dims, kernel.extent, task, grain, work)]


def _constant(c: Contraction, kind: str, plan: WinogradPlan, code: TaskCode) -> str:
    """The taps at the points (packed), or as they are; equal for all contractions that have them in one way."""
    key = repr((kind, plan.edge, plan.depth, plan.taps_columns, plan.geometry.window, *packing_key(c, plan.packing)))
    name = f"{c.b.tensor}.{kind}.{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    size = plan.packing.size
    assert isinstance(size, int)
    constants = code.constants

    def pack(out: np.ndarray) -> None:
        taps = logical_b(c, constants[c.b.tensor])  # [column, channel, window, window]
        if plan.geometry.window == (1, 0):
            taps = taps.swapaxes(2, 3)
        if kind == "taps":
            whole = out.reshape(TAPS, TAPS, plan.depth, plan.taps_columns)
            whole[:, :, : taps.shape[1], : taps.shape[0]] = taps.transpose(2, 3, 1, 0)
        else:
            _write_points(out.reshape(plan.points, size), taps.transpose(2, 3, 1, 0), plan)

    count = TAPS * TAPS * plan.depth * plan.taps_columns if kind == "taps" else plan.points * size
    code.add_packed(name, Deferred((count,), DType.F32.numpy, pack))
    return name


def _write_points(made: np.ndarray, taps: np.ndarray, plan: WinogradPlan) -> None:
    """Taps [down, across, channel, column] at the points, packed for each point; computed in f64."""
    form, packing = plan.form, plan.packing
    assert isinstance(form.columns, int) and isinstance(form.channels, int)
    to = as_floats(short_convolution(plan.edge, TAPS).taps)
    both = np.kron(to, to)
    for first in range(0, form.columns, packing.panel):
        count = min(packing.panel, form.columns - first)
        width = packing.last if packing.last and first + packing.panel >= form.columns else packing.panel
        panel = made[:, first * form.channels :][:, : width * form.channels].reshape(plan.points, form.channels, width)
        few = max(1, _AT_ONCE // (plan.points * count))
        for channel in range(0, form.channels, few):
            end = min(form.channels, channel + few)
            given = taps[:, :, channel:end, first : first + count].astype(np.float64).reshape(TAPS * TAPS, -1)
            panel[:, channel:end, :count] = (both @ given).reshape(plan.points, end - channel, count)


def taps_in_a_run(c: Contraction, plan: WinogradPlan, code: TaskCode, calls: list[KernelCall]) -> tuple[str, str]:
    """The names of taps that are made at run time, at the points (packed) and as they are; the steps that lay them so
    are added to the calls. Computed in f32, as the inputs at the points are.
    """
    whole, points = code.fresh(f"{c.b.tensor}.taps"), code.fresh(f"{c.b.tensor}.points")
    code.add_scratch(whole, DType.F32, (TAPS, TAPS, plan.depth, plan.taps_columns))
    code.add_scratch(points, DType.F32, (plan.points, plan.packing.size))
    calls.append(code.rows_call([_laid_taps(c, plan, whole)]))
    to = as_floats(short_convolution(plan.edge, TAPS).taps)
    matrix = f"points.{plan.edge}.{hashlib.sha256(to.tobytes()).hexdigest()[:12]}"
    both = np.kron(to, to).reshape(plan.points, TAPS, TAPS).astype(np.float32)
    _, new = code.shared.packing(matrix, Deferred(both.shape, both.dtype, lambda out: np.copyto(out, both)))
    code.add_constant(matrix, both, new)
    calls.append(code.rows_call(_taps_at_points(plan, whole, points, matrix, code)))
    return points, whole


def _laid_taps(c: Contraction, plan: WinogradPlan, name: str) -> Stmt:
    """[down, across, channel, column], zeros past the last channel and column."""
    (column,), (channel,) = c.cols, c.channels
    window = [c.windows[k] for k in plan.geometry.window]
    iters = (*window, Iter(channel.name, plan.depth), Iter(column.name, plan.taps_columns))
    inside = tuple(
        add(before.extent, mul(add(sym(before.name), 1), -1))
        for before, now in zip((channel, column), iters[2:], strict=True)
        if before.extent != now.extent
    )
    value: Scalar = c.b
    return Stmt(name, DType.F32, iters, Where(inside, value, Const(0.0, DType.F32)) if inside else value)


def _taps_at_points(plan: WinogradPlan, whole: str, points: str, matrix: str, code: TaskCode) -> list[Stmt]:
    """[point][panel][channel][column]: the full panels, and the narrower last one."""
    packing = plan.packing
    full, width = packing.full_panels, packing.panel
    assert isinstance(full, int)
    made = []
    if full:
        made.append(_panels_at_points(plan, (whole, points, matrix), code, 0, full, width))
    if packing.last:
        made.append(_panels_at_points(plan, (whole, points, matrix), code, full * width, 1, packing.last))
    return made


def _panels_at_points(
    plan: WinogradPlan, names: tuple[str, str, str], code: TaskCode, first: int, panels: int, width: int
) -> Stmt:
    whole, points, matrix = names
    channels, columns = plan.form.channels, plan.form.columns
    assert isinstance(channels, int) and isinstance(columns, int)
    extents = plan.points, panels, channels, width
    p, n, k, j = (Iter(code.fresh(hint), extent) for hint, extent in zip("pnkj", extents, strict=True))
    down, across = Iter(code.fresh("d"), TAPS), Iter(code.fresh("a"), TAPS)
    column = add(first, add(mul(sym(n.name), width), sym(j.name)))
    factor = Load(matrix, (sym(p.name), sym(down.name), sym(across.name)), DType.F32)
    tap = Load(whole, (sym(down.name), sym(across.name), sym(k.name), column), DType.F32)
    value: Scalar = Reduce("sum", (down, across), Op("mul", (factor, tap), DType.F32))
    if first + panels * width > columns:
        value = Where((add(columns - 1, mul(column, -1)),), value, Const(0.0, DType.F32))
    place = add(first * channels, add(mul(add(mul(sym(n.name), channels), sym(k.name)), width), sym(j.name)))
    return Stmt(points, DType.F32, (p, n, k, j), value, (sym(p.name), place))
