"""The second operand of a contraction: as it lies where it can be walked, else packed, when compiling or in a step."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from mapsto.devices.contraction.nibbles import CHANNELS, MOST_CHANNELS, packed_nibbles
from mapsto.devices.contraction.packing import Packing, packed_scales
from mapsto.devices.contraction.products import Multiply
from mapsto.devices.contraction.tile_plan import NEAR_BYTES
from mapsto.devices.maker import KernelCall
from mapsto.devices.making.code import TaskCode
from mapsto.ir.dtypes import DType, from_numpy
from mapsto.ir.expr import Call, Dim, Expr, Sym, add, bare_symbol, ceildiv, linear, mul, product, sym
from mapsto.ir.expr_rewrite import substitute
from mapsto.kernel.ast import Cast, Const, Iter, Load, Scalar, Stmt, Where
from mapsto.plan.access import Access, access
from mapsto.plan.contraction import Contraction
from mapsto.plan.kernels import Renamer
from mapsto.runtime.arrays import Deferred

# Rows from which on B is packed whatever its strides: what lies together stays in the caches from tile to tile. With
# 512 rows products ran 1.0 to 2.5 times as fast, packing counted, with 128 0.9 to 1.8 (docs/performance-log.md).
MANY_ROWS = 128
FEW_ROWS = 4  # of one tile: with more, conversions are what takes longest


def direct_b(c: Contraction, code: TaskCode, in_blocks: bool = False) -> Access | None:
    """B by strides as it lies, where its columns are contiguous or in blocks, it is made at run time and does not meet
    many rows; None: it is packed. in_blocks: whether A's channels are, which meet a B in panels or a packed one.
    """
    if c.b.tensor in code.constants or c.b.tensor not in code.homes or c.b.dtype.size < 4:
        return None
    found = access(c, c.b.index, code.layout(c.b.tensor), c.cols[0].name, None)
    if found is None or _is_in_panels(c, found):
        return found  # it cannot be walked, or lies as if it were packed
    rows = product(i.extent for i in c.rows)
    return None if in_blocks or (isinstance(rows, int) and rows >= MANY_ROWS) else found


def _is_in_panels(c: Contraction, b: Access) -> bool:
    """Whether what is summed over follows one after the other, block by block of the columns."""
    step: Dim = b.block or 0
    left = list(c.reds)
    while left and step != 0:
        following = next((red for red in left if b.strides.get(red.name) == step), None)
        if following is None:
            return False
        left.remove(following)
        step = mul(step, following.extent)
    return step != 0


def is_read_once(c: Contraction, by: Multiply) -> bool:
    """Whether a wide B would come from far and meet a few rows, which are one tile: it is packed as it lies then, and
    widened as it comes, which is fewer bytes for a conversion of each vector.
    """
    rows, elements = (product(i.extent for i in iters) for iters in (c.rows, (*c.cols, *c.reds)))
    if c.scale is not None:  # there are as many bytes again of no other operand: they come from far whatever these are
        return isinstance(rows, int) and rows <= FEW_ROWS and not is_cut(c)
    if by.interleave != 1 or not isinstance(rows, int) or not isinstance(elements, int):
        return False
    return rows <= FEW_ROWS and elements * by.b.size > NEAR_BYTES


def is_of_nibbles(c: Contraction) -> bool:
    """Whether elements of B have 4 bits, of which several are packed in one."""
    return c.scale is not None and c.b.dtype.packed_size < 1


def is_cut(c: Contraction) -> bool:
    """Whether an element of such a packed B would have channels of two scales, or a block too many channels."""
    channels = c.channels[0].extent
    assert isinstance(channels, int)
    block = min(c.block, channels)
    return is_of_nibbles(c) and (block > MOST_CHANNELS or (c.block < channels and c.block % CHANNELS != 0))


def why_widened(c: Contraction) -> str:
    """Why B in blocks is not widened as it comes."""
    return f"blocks of {c.block} are not packed" if is_cut(c) else f"more than {FEW_ROWS} rows meet it, or any number"


def packed_b(c: Contraction, packing: Packing, dtype: DType, code: TaskCode, calls: list[KernelCall]) -> str:
    """The name of B as the template reads it, of a type that holds its own; what packs it, where a run must, is added
    to the calls.
    """
    if c.b.tensor in code.constants:
        return _packed_constant(c, packing, dtype, code)
    name = code.fresh(f"{c.b.tensor}.packed")
    code.add_scratch(name, dtype, (*(i.extent for i in c.batch), packing.size))
    calls.append(code.rows_call(_pack_stmts(c, packing, name, dtype, code)))
    return name


def _packed_constant(c: Contraction, packing: Packing, dtype: DType, code: TaskCode) -> str:
    """Packed once, and equal for all contractions that pack it in one way: the name says what and how."""
    key = repr((*packing_key(c, packing), dtype))
    batch = [i.extent for i in c.batch]
    sizes = [size for size in (*batch, packing.size) if isinstance(size, int)]
    assert len(sizes) == 1 + len(batch)
    constants = code.constants  # alone: what is shared has what is packed, and would have itself
    packed = Deferred((math.prod(sizes),), dtype.numpy, lambda out: _pack(out, c, packing, constants))
    return _packed_array(c.b.tensor, key, code, packed)


def _packed_array(of: str, key: str, code: TaskCode, packed: Deferred) -> str:
    """The name of a constant that is made of another one. key: how."""
    name = f"{of}.packed.{hashlib.sha256(key.encode()).hexdigest()[:12]}"
    code.add_packed(name, packed)
    return name


def _pack(out: np.ndarray, c: Contraction, packing: Packing, constants: Mapping[str, np.ndarray]) -> None:
    logical = logical_b(c, constants[c.b.tensor])
    if c.scale is not None and from_numpy(out.dtype).is_float:
        scale = np.repeat(constants[c.scale.tensor].T, c.block, axis=1)[:, : logical.shape[1]]
        logical = logical.astype(np.int8).astype(np.float32) * scale
    elif is_of_nibbles(c):
        logical = packed_nibbles(logical.astype(np.int8))
    packing.pack_into(out, _joined(logical, len(c.windows), packing))


def packed_scale(c: Contraction, packing: Packing, code: TaskCode) -> str:
    """The name of B's scales as the template reads them, beside a B that is packed so."""
    assert c.scale is not None and isinstance(c.channels[0].extent, int)
    by, scales = packed_scales(packing, -(-c.channels[0].extent // c.block)), code.constants[c.scale.tensor].T
    assert isinstance(by.size, int)
    packed = Deferred((by.size,), scales.dtype, lambda out: by.pack_into(out, scales))
    return _packed_array(c.scale.tensor, repr(("scale", by)), code, packed)


def _joined(array: np.ndarray[Any, Any], windows: int, packing: Packing) -> np.ndarray[Any, Any]:
    """A constant B as an array (batch..., columns, channels, windows...) of which the innermost window may be one with
    the channels in the packing, which then move first.
    """
    if len(packing.window) == windows:
        return array
    moved = np.moveaxis(array, -1, -1 - windows)
    return moved.reshape(*moved.shape[: -1 - windows], -1, *moved.shape[moved.ndim + 1 - windows :])


def packed_iters(c: Contraction) -> tuple[Iter, ...]:
    return (*c.batch, *c.cols, *c.channels, *c.windows)


def packing_key(c: Contraction, packing: Packing) -> tuple[object, ...]:
    """Equal for contractions that pack one constant in one way."""
    names = Renamer()
    for it in packed_iters(c):
        names.iter(it)
    return (
        "packed",
        c.b.tensor,
        names.dims(c.b.index),
        tuple(i.extent for i in (*c.batch, *c.cols, *c.channels, *c.windows)),
        packing,
        *(() if c.scale is None else (c.scale.tensor, c.block)),
    )


def in_actual_sizes(packing: Packing, names: Renamer) -> Packing:
    """The packing in the graph's own sizes instead of canonical ones."""
    sizes = names.actual_sizes()
    window = tuple(substitute(w, sizes) for w in packing.window)
    return replace(
        packing, columns=substitute(packing.columns, sizes), channels=substitute(packing.channels, sizes), window=window
    )


def packed_strides(c: Contraction, packing: Packing) -> tuple[Dim, ...]:
    """Elements of packed B from one batch element to the next; 0 where B is constant and has none."""
    strides: list[Dim] = []
    step = packing.size
    for it in reversed(c.batch):
        strides.insert(0, step)
        step = mul(step, it.extent)
    return tuple(strides)


def logical_b(c: Contraction, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A constant B as an array (batch..., columns, channels, windows...)."""
    iters = packed_iters(c)
    names = [bare_symbol(e) for e in c.b.index]
    if sorted(map(str, names)) == sorted(i.name for i in iters) and array.shape == _extents(c.b.index, iters):
        return array.transpose([names.index(i.name) for i in iters])  # by index arrays it takes some ns an element
    full = _numbers(iters)
    if array.size and (walked := _walked(c.b.index, iters, array)) is not None:
        return walked
    grids: dict[str, Any] = {}
    for axis, it in enumerate(iters):
        assert isinstance(it.extent, int)
        shape = [1] * len(iters)
        shape[axis] = it.extent
        grids[it.name] = np.arange(it.extent).reshape(shape)
    index = tuple(np.broadcast_to(_evaluate(e, grids), full) for e in c.b.index)
    return array[index] if index else np.broadcast_to(array, full)


def _walked(
    index: tuple[Dim, ...], iters: tuple[Iter, ...], array: np.ndarray[Any, Any]
) -> np.ndarray[Any, Any] | None:
    """The same as a view, where each iterator walks evenly and all places that are named are the array's; else None."""
    strides = dict.fromkeys((i.name for i in iters), 0)
    starts: list[int] = []
    for dim, e in enumerate(index):
        low, high, rest = 0, 0, e
        for it in iters:
            found = linear(rest, it.name)
            if found is None or not isinstance(found.coefficient, int) or not isinstance(it.extent, int):
                return None
            rest, far = found.rest, found.coefficient * (it.extent - 1)
            low, high = low + min(far, 0), high + max(far, 0)
            strides[it.name] += found.coefficient * array.strides[dim]
        if not isinstance(rest, int) or rest + low < 0 or rest + high >= array.shape[dim]:
            return None
        starts.append(rest)
    first = array[tuple(slice(start, None) for start in starts)]
    return np.lib.stride_tricks.as_strided(first, _numbers(iters), tuple(strides.values()), writeable=False)


def _numbers(iters: tuple[Iter, ...]) -> tuple[int, ...]:
    return tuple(int(it.extent) for it in iters if isinstance(it.extent, int))


def _extents(index: tuple[Dim, ...], iters: tuple[Iter, ...]) -> tuple[Dim, ...]:
    """Of the iterators that the index names, in its order."""
    known = {i.name: i.extent for i in iters}
    return tuple(known[str(e)] for e in index)


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
                assert isinstance(atom, Call)
                a, b = (_evaluate(x, grids) for x in atom.args)
                table = {"floordiv": np.floor_divide, "mod": np.mod, "min": np.minimum, "max": np.maximum}
                term = term * table[atom.fn](a, b)
        total = total + term
    return np.asarray(total)


def _pack_stmts(c: Contraction, packing: Packing, name: str, dtype: DType, code: TaskCode) -> list[Stmt]:
    """Packing at run time as ordinary statements: the full panels, and the narrower last one."""
    if packing.block or packing.interleave != 1 or c.windows:
        return [_element_stmt(c, packing, name, dtype)]
    batch = tuple(Iter(code.fresh("n"), i.extent) for i in c.batch)
    full, width = packing.full_panels, packing.panel
    stmts = []
    if full != 0:
        stmts.append(_panel_stmt(c, packing, name, dtype, batch, full, width, 0, code))
    if packing.last:
        stmts.append(_panel_stmt(c, packing, name, dtype, batch, 1, packing.last, mul(full, width), code))
    return stmts


def _element_stmt(c: Contraction, packing: Packing, name: str, dtype: DType) -> Stmt:
    """Any operand, element by element to its place. Channels that only fill up a dot group are 0, as A's are: 0 times
    what lay there might be NaN. Columns that only fill up a vector stay as they are: their results are never stored.
    """
    (column,), (channel,) = c.cols, c.channels
    value = _as(c.b, dtype)
    groups = ceildiv(channel.extent, packing.interleave)
    whole = Iter(channel.name, mul(groups, packing.interleave))
    if whole.extent != channel.extent:
        inside: Dim = add(channel.extent, mul(add(sym(channel.name), 1), -1))
        value = Where((inside,), value, Const(0.0 if dtype.is_float else 0, dtype))
    place = packing.index(sym(column.name), sym(channel.name), tuple(sym(w.name) for w in c.windows))
    iters = (*c.batch, column, whole, *c.windows)
    return Stmt(name, dtype, iters, value, (*(sym(i.name) for i in c.batch), place))


def _as(load: Load, dtype: DType) -> Scalar:
    return load if load.dtype is dtype else Cast(load, dtype)


def _panel_stmt(
    c: Contraction,
    packing: Packing,
    name: str,
    dtype: DType,
    batch: tuple[Iter, ...],
    panels: Dim,
    width: int,
    first: Dim,
    code: TaskCode,
) -> Stmt:
    p, k, j = Iter(code.fresh("p"), panels), Iter(code.fresh("k"), packing.channels), Iter(code.fresh("j"), width)
    column = add(first, add(mul(sym(p.name), width), sym(j.name)))
    at: dict[str, Dim] = {c.cols[0].name: column, c.channels[0].name: sym(k.name)}
    at.update({i.name: sym(b.name) for i, b in zip(c.batch, batch, strict=True)})
    load = Load(c.b.tensor, tuple(substitute(e, at) for e in c.b.index), c.b.dtype)
    inside: Dim = add(packing.columns, mul(add(column, 1), -1))
    value: Scalar = Where((inside,), _as(load, dtype), Const(0.0 if dtype.is_float else 0, dtype))
    start = mul(first, packing.channels)
    place = add(start, add(mul(add(mul(sym(p.name), packing.channels), sym(k.name)), width), sym(j.name)))
    return Stmt(name, dtype, (*batch, p, k, j), value, (*(sym(b.name) for b in batch), place))
