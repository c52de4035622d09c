"""Contraction tasks into calls of the template: forms from homes, joined rows, epilogues."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import cast

from mapsto.devices.contraction.core import Core
from mapsto.devices.contraction.form import Also, ContractionForm, LoopAxis
from mapsto.devices.contraction.nibbles import CHANNELS
from mapsto.devices.contraction.products import multiply
from mapsto.devices.contraction.template import contraction, plan_contraction
from mapsto.devices.contraction.tile_plan import TilePlan, near_tiles, read_tiles, streamed_cycles, tiles_text
from mapsto.devices.generic.cost import estimate
from mapsto.devices.generic.processor import Processor
from mapsto.devices.maker import KernelCall
from mapsto.devices.making.borders import border_calls
from mapsto.devices.making.code import MadeKernel, TaskCode, Ways, grain_of
from mapsto.devices.making.epilogues import LoopNames, Shaped, ShapedEpilogue
from mapsto.devices.making.packed import (
    direct_b,
    in_actual_sizes,
    is_of_nibbles,
    is_read_once,
    packed_b,
    packed_iters,
    packed_scale,
    packed_strides,
    why_widened,
)
from mapsto.devices.making.rounding import unrounded
from mapsto.devices.making.template_names import TILES
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, add, ceildiv, linear, mul
from mapsto.ir.expr_rewrite import substitute
from mapsto.kernel.ast import Iter, Stmt, Where
from mapsto.kernel.compose import loads_of
from mapsto.loop.ast import Function, Param
from mapsto.machine.tuning import key_of_form
from mapsto.plan.access import Access, access
from mapsto.plan.contraction import ACCUMULATOR, Contraction
from mapsto.plan.kernels import Renamer
from mapsto.plan.layout import Layout
from mapsto.plan.task import Task


@dataclass(frozen=True)
class OperandAccess:
    """How a phase reaches its input and its results: the last one, and others that are in memory."""

    a: Access
    out: Access
    also: Mapping[str, Access]


def key_of_source(template: str, shaped: Shaped, schedule: str, processor: Processor) -> str:
    """What a function of a template depends on, as `making.code.Unwritten` has it."""
    return f"{template} {key_of_form(shaped)} {schedule} {processor}"


@dataclass(frozen=True)
class UnwrittenTiles:
    """A `making.code.Unwritten`: a contraction in tiles."""

    shaped: Shaped
    plan: TilePlan
    processor: Processor

    @property
    def key(self) -> str:
        return key_of_source(TILES, self.shaped, tiles_text(self.plan), self.processor)

    def write(self) -> Function:
        return contraction(self.plan, ShapedEpilogue(self.shaped, self.processor))[0]


def template_calls(task: Task, code: TaskCode, core: Core) -> list[KernelCall] | None:
    """The calls that compute a contraction task with the template; None where an operand cannot be reached by
    strides.
    """
    reached = template_reach(task, code)
    if reached is None:
        return None
    calls: list[KernelCall] = border_calls(task, code)
    for c, reach in zip(task.phases, reached, strict=True):
        calls.extend(_phase_calls(task, c, reach, code, core))
    return calls


def template_reach(task: Task, code: TaskCode) -> list[OperandAccess] | None:
    """How each phase reaches its operands by strides; None where one cannot."""
    reached = [_reach(task, c, code) for c in task.phases]
    known = [r for r in reached if r is not None]
    return known if len(known) == len(reached) else None


def _reach(task: Task, c: Contraction, code: TaskCode) -> OperandAccess | None:
    a_layout, out_layout = code.layout(c.a.tensor), code.layout(task.targets[-1])
    border = c.border(a_layout.shape)
    if border is None:
        return None
    a = access(c, c.a.index, a_layout, c.channels[0].name, border)
    out = access(c, c.index, out_layout, c.cols[0].name, None)
    if a is None or out is None or (a.block and not isinstance(c.channels[0].extent, int)):
        return None
    if c.scale is not None and (a.block or not {c.b.tensor, c.scale.tensor} <= code.constants.keys()):
        return None
    if c.b.tensor in code.constants and not all(isinstance(i.extent, int) for i in packed_iters(c)):
        return None  # a constant that is read over a size: only the run can say that the two agree
    others = {t: access(c, c.index, code.layout(t), c.cols[0].name, None) for t in also_stored(task, code)}
    also = {t: reached for t, reached in others.items() if reached is not None and reached.block == out.block}
    return OperandAccess(a, out, also) if len(also) == len(others) else None


def also_stored(task: Task, code: TaskCode) -> list[str]:
    """Results besides the last one that are in memory."""
    return [t for t in task.targets[:-1] if t in code.homes and t not in code.temps]


@dataclass(frozen=True)
class WholeOperand:
    """B of a contraction that is done by parts: it is packed once, for the whole, and by whoever does that. starts: of
    the part's batch axes in it, by iterator.
    """

    contraction: Contraction
    starts: Mapping[str, Dim]
    code: TaskCode


def _phase_calls(task: Task, c: Contraction, reach: OperandAccess, code: TaskCode, core: Core) -> list[KernelCall]:
    return phase_calls(task, c, reach, code, core, WholeOperand(c, {}, code))


def phase_calls(
    task: Task, c: Contraction, reach: OperandAccess, code: TaskCode, core: Core, whole: WholeOperand
) -> list[KernelCall]:
    """The calls of a phase; the last one is the product's, those before it pack B."""
    final, zero = task.targets[-1], cast(Dim, 0)
    direct = None
    if direct_b(whole.contraction, code, bool(reach.a.block)) is not None:
        direct = access(c, c.b.index, code.layout(c.b.tensor), c.cols[0].name, None)
    names = Renamer()
    shaped, tensors = shape_of(task, c, reach, direct, code, names, core)
    asked = shaped.form
    plan = code.schedules.take(
        Ways(
            TILES,
            shaped,
            lambda: plan_contraction(asked, core),
            tiles_text,
            lambda text: read_tiles(text, asked, core),
            lambda: near_tiles(asked, core),
        )
    )
    calls: list[KernelCall] = []
    if direct is None:
        packing = in_actual_sizes(plan.packing, names)
        b_name = packed_b(whole.contraction, packing, shaped.form.b.element, whole.code, calls)
        b_batch = packed_strides(whole.contraction, packing)
        batch = tuple(replace(x, b=names.dim(s)) for x, s in zip(shaped.form.batch, b_batch, strict=True))
        starts = (mul(whole.starts.get(i.name, 0), s) for i, s in zip(whole.contraction.batch, b_batch, strict=True))
        form = replace(shaped.form, batch=batch, b_start=names.dim(functools.reduce(add, starts, zero)))
        form = replace(form, dims=size_names(names))
        shaped, plan = replace(shaped, form=form), replace(plan, form=form)
    else:
        b_name = c.b.tensor
    scales: tuple[str, ...] = ()
    if shaped.form.scale is not None:
        scales = (packed_scale(whole.contraction, plan.packing, whole.code),)
    elif c.scale is not None:
        code.schedules.explain(f"{c.b.tensor} is packed as f32: {why_widened(c)}")

    def made() -> MadeKernel:
        source = UnwrittenTiles(shaped, plan, code.target.processor)
        return MadeKernel(code.add_unwritten(source, "none"), plan.extent, (), shaped.form.dims)

    kernel = code.shared.kernel((shaped, tiles_text(plan)), made)
    sizes = names.actual_sizes()
    operands = (c.a.tensor, b_name, final, *reach.also, *tensors, *scales)
    work = estimate(c.multiplications())
    multiplied = core.accumulator_lanes * core.fma_per_cycle * shaped.form.interleave  # in a cycle
    cycles = max(work / multiplied, streamed_cycles(shaped.form))
    grain = grain_of(cycles, kernel.extent, code.target.processor)
    dims = tuple(sizes[d] for d in kernel.dims)
    writes = tuple(range(2, 3 + len(reach.also)))
    extent = substitute(kernel.extent, sizes)
    calls.append(KernelCall(kernel.function, operands, writes, dims, extent, task, grain, work))
    return calls


def shape_of(
    task: Task,
    c: Contraction,
    reach: OperandAccess,
    b: Access | None,
    code: TaskCode,
    names: Renamer,
    core: Core,
    joined_rows: bool = True,
) -> tuple[Shaped, list[str]]:
    """A phase in canonical names, and the tensors that its epilogue reads. b: None where B is packed. joined_rows:
    whether neighbours among its rows become one where they can.
    """
    a, out, is_open = reach.a, reach.out, not isinstance(c.channels[0].extent, int)
    by = multiply(core, c.a.dtype, c.b.dtype, is_open)
    final = task.targets[-1]
    others = _other_tensors(task, c, code)
    rows = _collapsed(c, reach, task, code) if joined_rows else tuple(i for i in c.rows if i.extent != 1)
    names.learn(i.extent for i in (*c.iters, *c.reds))
    for tensor in (c.a.tensor, final, *reach.also, *others):
        names.learn(code.layout(tensor).shape)
    for it in c.iters + c.reds:
        names.iter(it)
    b_stride = b.strides if b is not None else {}
    batch = tuple(_axis(i, a, b_stride, out, names) for i in c.batch)
    row_axes = tuple(_axis(i, a, b_stride, out, names) for i in rows) or (LoopAxis(1),)
    window = tuple(_axis(i, a, b_stride, None, names) for i in c.windows)
    channel, column = c.channels[0], c.cols[0]
    once = b is None and is_read_once(c, by)
    nibbles = CHANNELS if once and is_of_nibbles(c) else 0
    held = nibbles or 1  # channels of an element of B
    own = dict(names.iters)
    for tensor in others:
        names.tensor(tensor)
    stmts = tuple(names.stmt(s) for s in unrounded(task.stmts))
    layouts = tuple((names.tensors[t], names.layout(code.layout(t))) for t in others)
    form = ContractionForm(
        name="kernel",
        a=Param("a", c.a.dtype),
        b=Param("b", DType.I32 if nibbles else c.b.dtype if b is not None or once else by.b),
        out=Param("out", code.homes[final].dtype, True),
        accumulator=c.dtype,
        columns=names.dim(column.extent),
        rows=row_axes,
        channels=names.dim(ceildiv(channel.extent, held)),
        batch=batch,
        window=window,
        channel_stride=held,
        channel_block=a.block or 0,
        channel_block_stride=names.dim(a.block_stride),
        interleave=by.interleave,
        staged=None if by.a is c.a.dtype else by.a,
        b_channel_stride=None if b is None else names.dim(b.strides.get(channel.name, 0)),
        b_block=0 if b is None else b.block or 0,
        b_block_stride=0 if b is None else names.dim(b.block_stride),
        out_block=out.block or 0,
        out_block_stride=names.dim(out.block_stride),
        a_start=names.dim(_relative(a.base, code.layout(c.a.tensor))),
        b_start=0 if b is None else names.dim(_relative(b.base, code.layout(c.b.tensor))),
        out_start=names.dim(_relative(out.base, code.layout(final))),
        also=tuple(_also(t, reached, c.batch, rows, code, names) for t, reached in reach.also.items()),
        others=tuple(Param(names.tensors[t], code.homes[t].dtype) for t in others),
        scale=Param("scale", DType.F32) if once and c.scale is not None else None,
        scaled=-(-min(c.block, channel.extent) // held) if once and isinstance(channel.extent, int) else 0,
        nibbles=nibbles,
        cut=channel.extent % held if isinstance(channel.extent, int) else 0,
    )
    form = form.joined if b is None and c.b.tensor in code.constants else form
    names.rename(own)  # statements have names of their own
    index = names.dims(c.index)
    form = replace(form, dims=size_names(names))
    order = LoopNames(
        tuple(own[i.name] for i in c.batch),
        tuple(own[i.name] for i in rows),
        own[column.name],
    )
    walked = {i.name for i in rows}
    joined: dict[str, Dim] = {own[i.name]: 0 for i in c.rows if i.name not in walked}
    index = tuple(substitute(e, joined) for e in index)
    sums = tuple(names.tensors[t] for t in (ACCUMULATOR, c.target) if t in names.tensors)
    also = tuple(names.tensors[t] for t in reach.also)
    return Shaped(form, b is None, order, stmts, layouts, index, sums, also), others


def _also(
    tensor: str, reached: Access, batch: tuple[Iter, ...], rows: tuple[Iter, ...], code: TaskCode, names: Renamer
) -> Also:
    def strides(iters: tuple[Iter, ...]) -> tuple[Dim, ...]:
        return tuple(names.dim(reached.strides.get(i.name, 0)) for i in iters)

    home = code.homes[tensor]
    return Also(
        Param(f"also_{names.tensor(tensor)}", home.dtype, True),
        names.dim(_relative(reached.base, home.layout)),
        strides(batch),
        strides(rows) or (0,),
        names.dim(reached.block_stride),
    )


def size_names(names: Renamer) -> tuple[str, ...]:
    return tuple(sorted(names.sizes.values(), key=lambda s: int(s[1:])))


def _relative(base: Dim, layout: Layout) -> Dim:
    """A place relative to the layout's offset, which the step's pointer already has."""
    return add(base, mul(layout.offset, -1))


def _axis(it: Iter, a: Access, b: Mapping[str, Dim], out: Access | None, names: Renamer) -> LoopAxis:
    return LoopAxis(
        names.dim(it.extent),
        names.dim(a.strides.get(it.name, 0)),
        names.dim(b.get(it.name, 0)),
        0 if out is None else names.dim(out.strides.get(it.name, 0)),
    )


def _other_tensors(task: Task, c: Contraction, code: TaskCode) -> list[str]:
    """Operands of the epilogue, in order."""
    own = set(task.targets) | {ACCUMULATOR}
    return list(dict.fromkeys(load.tensor for s in task.stmts for load in loads_of(s) if load.tensor not in own))


def _collapsed(c: Contraction, reach: OperandAccess, task: Task, code: TaskCode) -> tuple[Iter, ...]:
    """The row iterators, neighbours joined into one where every operand walks on evenly from one's end to the other's
    next step.
    """
    rows = [i for i in c.rows if i.extent != 1]
    if not rows:
        return ()
    walks: list[Mapping[str, Dim]] = [reach.a.strides, reach.out.strides, *(a.strides for a in reach.also.values())]
    for stmt in task.stmts:
        walk = _epilogue_walks(stmt, c, task, code)
        if walk is None:
            return tuple(rows)
        walks.extend(walk)
    done = [rows[0]]
    for it in rows[1:]:
        last = done[-1]
        even = all(w.get(last.name, 0) == mul(it.extent, w.get(it.name, 0)) for w in walks)
        done[-1:] = [Iter(it.name, mul(last.extent, it.extent))] if even else [last, it]
    return tuple(done)


def _epilogue_walks(stmt: Stmt, c: Contraction, task: Task, code: TaskCode) -> list[dict[str, Dim]] | None:
    """Strides by row iterator of every operand of an epilogue statement; None where it does more than load (indices
    as values, guards).
    """
    from mapsto.kernel.ast import Index, walk

    if any(isinstance(n, (Index, Where)) for n in walk(stmt.value)):
        return None
    at = {i.name: e for i, e in zip(stmt.iters, c.index, strict=True)}
    own = set(task.targets) | {ACCUMULATOR}
    found = []
    for load in loads_of(stmt):
        if load.tensor in own:
            continue
        place = code.layout(load.tensor).place(tuple(substitute(e, at) for e in load.index), c.ranges)
        strides: dict[str, Dim] = {}
        for row in c.rows:
            one = linear(place, row.name)
            if one is None:
                return None
            strides[row.name] = one.coefficient
        found.append(strides)
    return found
