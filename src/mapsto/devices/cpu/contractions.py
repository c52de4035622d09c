"""Contraction groups into calls of the template: forms from homes, packed operands, epilogues, borders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mapsto.devices.cpu.contraction import Plan as TilePlan
from mapsto.devices.cpu.contraction import contraction, plan_contraction
from mapsto.devices.cpu.contraction_form import Axis, ContractionForm, Epilogue, Place
from mapsto.devices.cpu.contraction_packing import Packing
from mapsto.devices.generic import EpilogueContext, emit_scalar
from mapsto.devices.generic.cost import estimate
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Call as ExprCall
from mapsto.ir.expr import Dim, Expr, Sym, add, linear, mul, substitute, sym, symbols
from mapsto.kernel.ast import Const, Iter, Load, Scalar, Stmt, Where
from mapsto.kernel.compose import loads_of
from mapsto.loop.ast import Param, Statement, Value
from mapsto.plan.contraction import ACCUMULATOR, Contraction
from mapsto.plan.group import Group
from mapsto.plan.homes import Access, Home, access
from mapsto.plan.kernels import Renamer
from mapsto.plan.layout import Layout

if TYPE_CHECKING:
    from mapsto.devices.cpu.codegen import Call, Code


@dataclass(frozen=True)
class Shaped:
    """One phase with its operands' strides: all that the form needs, in canonical names."""

    form: ContractionForm
    packed: bool
    order: tuple[tuple[str, ...], tuple[str, ...], str]
    stmts: tuple[Stmt, ...]
    layouts: tuple[tuple[str, Layout], ...]
    index: tuple[Dim, ...]
    accumulators: tuple[str, ...]


def template_calls(group: Group, code: Code) -> list[Call] | None:
    """The calls that compute a contraction group with the template; None where an operand cannot be reached by
    strides.
    """
    calls: list[Call] = border_calls(group, code)
    for c in group.phases:
        made = _phase_calls(group, c, code)
        if made is None:
            return None
        calls.extend(made)
    return calls


def _phase_calls(group: Group, c: Contraction, code: Code) -> list[Call] | None:
    from mapsto.devices.cpu.codegen import Call, grain_of

    final = group.targets()[-1]
    a_layout, out_layout = code.homes.layout(c.a.tensor), code.homes.layout(final)
    border = c.border(a_layout.shape)
    if border is None:
        return None
    reach_a = access(c, c.a.index, a_layout, c.channels[0].name, border)
    reach_out = access(c, c.index, out_layout, c.cols[0].name, None)
    if reach_a is None or reach_out is None or (reach_a.block and not isinstance(c.channels[0].extent, int)):
        return None
    if c.b.tensor in code.constants and not all(isinstance(i.extent, int) for i in _packed_iters(c)):
        return None  # a constant that is read over a size: only the run can say that the two agree
    direct = None if reach_a.block else _direct_b(c, code)  # channels in blocks are met by a packed B alone
    names = Renamer()
    shaped, tensors = _shape(group, c, reach_a, reach_out, direct, code, names)
    plan = plan_contraction(shaped.form, code.isa)
    calls: list[Call] = []
    if direct is None:
        packing = _actual(plan.packing, names)
        b_name = _packed_b(group, c, packing, code, calls)
        b_batch = _packed_strides(c, packing)
        batch = tuple(replace(x, b=names.dim(s)) for x, s in zip(shaped.form.batch, b_batch, strict=True))
        form = replace(shaped.form, batch=batch, dims=_size_names(names))
        shaped, plan = replace(shaped, form=form), replace(plan, form=form)
    else:
        b_name = c.b.tensor
    key = shaped
    if key not in code.made:
        function, extent = contraction(plan, _epilogue(shaped))
        name = code.add_function(function, "none")
        code.made[key] = (name, extent, (), function.dims, _schedule_text(plan))
    function_name, extent, _, dims, schedule = code.made[key]
    sizes = names.actual_sizes()
    operands = (c.a.tensor, b_name, final, *tensors)
    grain = grain_of(
        estimate(c.multiplications()) / (code.isa.accumulator_lanes * code.isa.fma_per_cycle * shaped.form.interleave),
        extent,
    )
    calls.append(
        Call(
            function_name,
            operands,
            (2,),
            tuple(sizes[d] for d in dims),
            substitute(extent, sizes),
            group,
            schedule,
            grain,
        )
    )
    return calls


def _schedule_text(plan: TilePlan) -> str:
    order = "row blocks outside, panels inside" if plan.rows_outer else "panels outside, row blocks inside"
    rows = "/".join(map(str, plan.tiling.sizes))
    return f"tile {plan.tiling.width} columns x {rows} rows; {order}; {plan.chunk} units a block"


# -- shapes ----------------------------------------------------------------------------------------------------------


def _shape(
    group: Group, c: Contraction, a: Access, out: Access, b: Access | None, code: Code, names: Renamer
) -> tuple[Shaped, list[str]]:
    final = group.targets()[-1]
    others = _other_tensors(group, c, code)
    rows = _collapsed(c, a, out, group, code)
    names.learn(i.extent for i in (*c.iters, *c.reds))
    for tensor in (c.a.tensor, final, *others):
        names.learn(code.homes.values[tensor].shape)
    for it in c.iters + c.reds:
        names.iter(it)
    b_stride = b.strides if b is not None else {}
    batch = tuple(_axis(i, a, b_stride, out, names) for i in c.batch)
    row_axes = tuple(_axis(i, a, b_stride, out, names) for i in rows) or (Axis(1),)
    window = tuple(_axis(i, a, b_stride, None, names) for i in c.windows)
    channel, column = c.channels[0], c.cols[0]
    for tensor in others:
        names.tensor(tensor)
    stmts = tuple(names.stmt(s) for s in group.stmts)
    layouts = tuple((names.tensors[t], names.layout(code.homes.layout(t))) for t in others)
    form = ContractionForm(
        name="kernel",
        a=Param("a", c.a.dtype),
        b=Param("b", c.b.dtype),
        out=Param("out", code.homes.values[final].dtype, True),
        accumulator=c.dtype,
        columns=names.dim(column.extent),
        rows=row_axes,
        channels=names.dim(channel.extent),
        batch=batch,
        window=window,
        channel_stride=1,
        channel_block=a.block or 0,
        channel_block_stride=names.dim(a.block_stride),
        interleave=4 // c.b.dtype.size,
        b_channel_stride=None if b is None else names.dim(b.strides.get(channel.name, 0)),
        out_block=out.block or 0,
        out_block_stride=names.dim(out.block_stride),
        a_start=names.dim(_relative(a.base, code.homes.layout(c.a.tensor))),
        b_start=0 if b is None else names.dim(_relative(b.base, code.homes.layout(c.b.tensor))),
        out_start=names.dim(_relative(out.base, code.homes.layout(final))),
        others=tuple(Param(names.tensors[t], code.homes.values[t].dtype) for t in others),
    )
    index = names.dims(c.index)
    form = replace(form, dims=_size_names(names))
    order = (
        tuple(names.iters[i.name] for i in c.batch),
        tuple(names.iters[i.name] for i in rows),
        names.iters[column.name],
    )
    walked = {i.name for i in rows}
    joined: dict[str, Dim] = {names.iters[i.name]: 0 for i in c.rows if i.name not in walked}
    index = tuple(substitute(e, joined) for e in index)
    sums = tuple(names.tensors[t] for t in (ACCUMULATOR, c.target) if t in names.tensors)
    return Shaped(form, b is None, order, stmts, layouts, index, sums), others


def _size_names(names: Renamer) -> tuple[str, ...]:
    return tuple(sorted(names.sizes.values(), key=lambda s: int(s[1:])))


def _relative(base: Dim, layout: Layout) -> Dim:
    """A place relative to the layout's offset, which the step's pointer already has."""
    return add(base, mul(layout.offset, -1))


def _axis(it: Iter, a: Access, b: Mapping[str, Dim], out: Access | None, names: Renamer) -> Axis:
    return Axis(
        names.dim(it.extent),
        names.dim(a.strides.get(it.name, 0)),
        names.dim(b.get(it.name, 0)),
        0 if out is None else names.dim(out.strides.get(it.name, 0)),
    )


def _other_tensors(group: Group, c: Contraction, code: Code) -> list[str]:
    """Operands of the epilogue, in order."""
    own = set(group.targets()) | {ACCUMULATOR}
    return list(dict.fromkeys(load.tensor for s in group.stmts for load in loads_of(s) if load.tensor not in own))


def _collapsed(c: Contraction, a: Access, out: Access, group: Group, code: Code) -> tuple[Iter, ...]:
    """The row iterators, neighbours joined into one where every operand walks on evenly from one's end to the other's
    next step.
    """
    rows = [i for i in c.rows if i.extent != 1]
    if not rows:
        return ()
    walks: list[Mapping[str, Dim]] = [a.strides, out.strides]
    for stmt in group.stmts:
        walk = _epilogue_walks(stmt, c, group, code)
        if walk is None:
            return tuple(rows)
        walks.extend(walk)
    done = [rows[0]]
    for it in rows[1:]:
        last = done[-1]
        even = all(w.get(last.name, 0) == mul(it.extent, w.get(it.name, 0)) for w in walks)
        done[-1:] = [Iter(it.name, mul(last.extent, it.extent))] if even else [last, it]
    return tuple(done)


def _epilogue_walks(stmt: Stmt, c: Contraction, group: Group, code: Code) -> list[dict[str, Dim]] | None:
    """Strides by row iterator of every operand of an epilogue statement; None where it does more than load (indices
    as values, guards).
    """
    from mapsto.kernel.ast import Index, walk

    if any(isinstance(n, (Index, Where)) for n in walk(stmt.value)):
        return None
    at = {i.name: e for i, e in zip(stmt.iters, c.index, strict=True)}
    own = set(group.targets()) | {ACCUMULATOR}
    found = []
    for load in loads_of(stmt):
        if load.tensor in own:
            continue
        place = code.homes.layout(load.tensor).place(tuple(substitute(e, at) for e in load.index), c.ranges)
        strides: dict[str, Dim] = {}
        for row in c.rows:
            one = linear(place, row.name)
            if one is None:
                return None
            strides[row.name] = one[0]
        found.append(strides)
    return found


# -- the packed operand ----------------------------------------------------------------------------------------------


def _direct_b(c: Contraction, code: Code) -> Access | None:
    """B by strides as it lies, where its columns are contiguous and it is made at run time; None: it must be packed."""
    if c.b.tensor in code.constants or c.b.tensor not in code.homes.homes or c.b.dtype.size < 4:
        return None
    found = access(c, c.b.index, code.homes.layout(c.b.tensor), c.cols[0].name, None)
    return None if found is None or found.block else found


def _packed_b(group: Group, c: Contraction, packing: Packing, code: Code, calls: list[Call]) -> str:
    key = ("packed", c.b, tuple(i.extent for i in c.batch + c.cols + c.channels + c.windows), packing)
    canonical = _packing_key(c, packing) if c.b.tensor in code.constants else key
    known = code.packed.get(canonical)
    if known is not None:
        return known
    name = code.fresh(f"{c.b.tensor}.packed")
    if c.b.tensor in code.constants:
        array = packing.pack(_logical_b(c, code.constants[c.b.tensor]))
        code.add_constant(name, np.ascontiguousarray(array.reshape(-1)))
    else:
        shape = (*(i.extent for i in c.batch), packing.size)
        code.add_scratch(name, c.b.dtype, shape)
        code.kept.add(name)
        calls.append(code.rows_call(group, _pack_stmts(c, packing, name, code)))
    code.packed[canonical] = name
    return name


def _packed_iters(c: Contraction) -> tuple[Iter, ...]:
    return (*c.batch, *c.cols, *c.channels, *c.windows)


def _packing_key(c: Contraction, packing: Packing) -> object:
    """Equal for contractions that pack one constant in one way."""
    names = Renamer()
    for it in _packed_iters(c):
        names.iter(it)
    return (
        "packed",
        c.b.tensor,
        names.dims(c.b.index),
        tuple(i.extent for i in (*c.batch, *c.cols, *c.channels, *c.windows)),
        packing,
    )


def _actual(packing: Packing, names: Renamer) -> Packing:
    """The packing in the graph's own sizes instead of canonical ones."""
    sizes = names.actual_sizes()
    window = tuple(substitute(w, sizes) for w in packing.window)
    return replace(
        packing, columns=substitute(packing.columns, sizes), channels=substitute(packing.channels, sizes), window=window
    )


def _packed_strides(c: Contraction, packing: Packing) -> tuple[Dim, ...]:
    """Elements of packed B from one batch element to the next; 0 where B is constant and has none."""
    strides: list[Dim] = []
    step = packing.size
    for it in reversed(c.batch):
        strides.insert(0, step)
        step = mul(step, it.extent)
    return tuple(strides)


def _logical_b(c: Contraction, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A constant B as an array (batch..., columns, channels, windows...)."""
    iters = _packed_iters(c)
    grids: dict[str, Any] = {}
    for axis, it in enumerate(iters):
        assert isinstance(it.extent, int)
        shape = [1] * len(iters)
        shape[axis] = it.extent
        grids[it.name] = np.arange(it.extent).reshape(shape)
    full = tuple(int(it.extent) for it in iters if isinstance(it.extent, int))
    index = tuple(np.broadcast_to(_evaluate(e, grids), full) for e in c.b.index)
    return array[index] if index else np.broadcast_to(array, full)


def _evaluate(e: Dim, grids: Mapping[str, Any]) -> Any:
    """An index expression over arrays of iterator values."""
    if not isinstance(e, Expr):
        return np.asarray(e)
    total: Any = 0
    for monomial, scale in e.terms:
        term: Any = scale
        for atom in monomial:
            if isinstance(atom, Sym):
                term = term * grids[atom.name]
            else:
                assert isinstance(atom, ExprCall)
                a, b = (_evaluate(x, grids) for x in atom.args)
                table = {"floordiv": np.floor_divide, "mod": np.mod, "min": np.minimum, "max": np.maximum}
                term = term * table[atom.fn](a, b)
        total = total + term
    return np.asarray(total)


def _pack_stmts(c: Contraction, packing: Packing, name: str, code: Code) -> list[Stmt]:
    """Packing at run time as ordinary statements: the full panels, and the narrower last one."""
    if packing.block or packing.interleave != 1 or c.windows:
        return [_element_stmt(c, packing, name)]
    batch = tuple(Iter(code.fresh("n"), i.extent) for i in c.batch)
    full, width = packing.full_panels, packing.panel
    stmts = []
    if full != 0:
        stmts.append(_panel_stmt(c, packing, name, batch, full, width, 0, code))
    if packing.last:
        stmts.append(_panel_stmt(c, packing, name, batch, 1, packing.last, mul(full, width), code))
    return stmts


def _element_stmt(c: Contraction, packing: Packing, name: str) -> Stmt:
    """Any operand, element by element to its place. Columns that only fill up a vector stay as they are: their
    results are never stored.
    """
    (column,), (channel,) = c.cols, c.channels
    place = packing.index(sym(column.name), sym(channel.name), tuple(sym(w.name) for w in c.windows))
    iters = (*c.batch, column, channel, *c.windows)
    return Stmt(name, c.b.dtype, iters, c.b, (*(sym(i.name) for i in c.batch), place))


def _panel_stmt(
    c: Contraction,
    packing: Packing,
    name: str,
    batch: tuple[Iter, ...],
    panels: Dim,
    width: int,
    first: Dim,
    code: Code,
) -> Stmt:
    p, k, j = Iter(code.fresh("p"), panels), Iter(code.fresh("k"), packing.channels), Iter(code.fresh("j"), width)
    column = add(first, add(mul(sym(p.name), width), sym(j.name)))
    at: dict[str, Dim] = {c.cols[0].name: column, c.channels[0].name: sym(k.name)}
    at.update({i.name: sym(b.name) for i, b in zip(c.batch, batch, strict=True)})
    load = Load(c.b.tensor, tuple(substitute(e, at) for e in c.b.index), c.b.dtype)
    inside: Dim = add(packing.columns, mul(add(column, 1), -1))
    value: Scalar = Where((inside,), load, Const(0.0, c.b.dtype))
    start = mul(first, packing.channels)
    place = add(start, add(mul(add(mul(sym(p.name), packing.channels), sym(k.name)), width), sym(j.name)))
    return Stmt(name, c.b.dtype, (*batch, p, k, j), value, (*(sym(b.name) for b in batch), place))


# -- the epilogue ----------------------------------------------------------------------------------------------------


def _epilogue(shaped: Shaped) -> Epilogue:
    """What is computed on the accumulators before they are stored."""
    layouts = dict(shaped.layouts)

    def emit(accumulators: Value, place: Place) -> tuple[list[Statement], Value | None]:
        batch, rows, column = shaped.order
        at: dict[str, Dim] = dict(zip(batch, place.batch, strict=True))
        at.update(dict(zip(rows, place.rows, strict=False)))
        at[column] = place.column
        statements: list[Statement] = []
        known: dict[str, Value] = dict.fromkeys(shaped.accumulators, accumulators)
        result = accumulators
        for stmt in shaped.stmts:
            bindings = {i.name: substitute(e, at) for i, e in zip(stmt.iters, shaped.index, strict=True)}
            wide = next(i.name for i, e in zip(stmt.iters, shaped.index, strict=True) if column in symbols(e))
            context = EpilogueContext(bindings, wide, place.lanes, layouts, known, place.mask, place.fresh)
            more, result = emit_scalar(stmt.value, context)
            statements.extend(more)
            known[stmt.target] = result
        return statements, result

    return emit


# -- borders ---------------------------------------------------------------------------------------------------------


def border_calls(group: Group, code: Code) -> list[Call]:
    """Zeros into the border of what the template writes: slabs before and past each bordered dim, of the tensor with
    its border as a whole.
    """
    final = group.targets()[-1]
    layout = code.homes.layout(final)
    if not layout.has_border:
        return []
    value = code.homes.values[final]
    shape = tuple(add(extent, b + a) for extent, (b, a) in zip(layout.shape, layout.border, strict=True))
    name = code.fresh(f"{final}.bordered")
    code.homes.values[name] = replace(value, name=name, shape=shape)
    whole = replace(layout, shape=shape, border=((0, 0),) * len(shape))
    code.homes.homes[name] = Home(code.homes.homes[final].buffer, whole, f"{final} with its border")
    code.kept.add(name)
    stmts = []
    for d, (before, after) in enumerate(layout.border):
        for start, count in ((0, before), (add(before, layout.shape[d]), after)):
            if count:
                stmts.append(_slab(name, value.dtype, shape, d, start, count, code))
    return [code.rows_call(group, stmts)]


def _slab(name: str, dtype: DType, shape: tuple[Dim, ...], d: int, start: Dim, count: int, code: Code) -> Stmt:
    iters = tuple(Iter(code.fresh("z"), count if axis == d else extent) for axis, extent in enumerate(shape))
    index = tuple(add(start if axis == d else 0, sym(i.name)) for axis, i in enumerate(iters))
    return Stmt(name, dtype, iters, Const(0, dtype), index)
