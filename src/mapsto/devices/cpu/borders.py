"""Zero borders around what the contraction template writes."""

from __future__ import annotations

from dataclasses import replace

from mapsto.devices.cpu.code import Call, Code
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, add, sym
from mapsto.kernel.ast import Const, Iter, Stmt
from mapsto.plan.group import Group
from mapsto.plan.homes import Home


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
