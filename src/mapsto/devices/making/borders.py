"""Zero borders around what a template writes; the generic lowering sees to its own."""

from __future__ import annotations

from dataclasses import replace

from mapsto.devices.maker import KernelCall
from mapsto.devices.making.code import TaskCode
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, add, sym
from mapsto.kernel.ast import Const, Iter, Stmt
from mapsto.plan.home import Home
from mapsto.plan.task import Task


def border_calls(task: Task, code: TaskCode) -> list[KernelCall]:
    """Zeros into the borders of what the template writes."""
    return [call for t in task.targets if t in code.homes and t not in code.temps for call in _borders_of(t, code)]


def _borders_of(final: str, code: TaskCode) -> list[KernelCall]:
    """Slabs before and past each bordered dim, of the tensor with its border as a whole."""
    layout = code.layout(final)
    if not layout.has_border:
        return []
    dtype = code.homes[final].dtype
    shape = tuple(add(extent, b + a) for extent, (b, a) in zip(layout.shape, layout.border, strict=True))
    name = code.fresh(f"{final}.bordered")
    whole = replace(layout, shape=shape, border=((0, 0),) * len(shape))
    code.add_home(name, Home(code.homes[final].buffer, dtype, whole, f"{final} with its border"))
    stmts = []
    for d, (before, after) in enumerate(layout.border):
        for start, count in ((0, before), (add(before, layout.shape[d]), after)):
            if count:
                stmts.append(_slab(name, dtype, shape, d, start, count, code))
    return [code.rows_call(stmts)]


def _slab(name: str, dtype: DType, shape: tuple[Dim, ...], d: int, start: Dim, count: int, code: TaskCode) -> Stmt:
    iters = tuple(Iter(code.fresh("z"), count if axis == d else extent) for axis, extent in enumerate(shape))
    index = tuple(add(start if axis == d else 0, sym(i.name)) for axis, i in enumerate(iters))
    return Stmt(name, dtype, iters, Const(0, dtype), index)
