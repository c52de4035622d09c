"""Tasks whose code is written by hand: calls of `devices.routines`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from mapsto.devices.contraction.template import ContractionForm, TilePlan, plan_contraction
from mapsto.devices.contraction.tile import Tiling
from mapsto.devices.contraction.tile_plan import near_tiles, read_tiles, tiles_text
from mapsto.devices.maker import KernelCall
from mapsto.devices.making.code import TaskCode, Ways
from mapsto.devices.making.template_names import ROUTINE
from mapsto.devices.routines import RoutineKernel, Scratch, Vectors, routine
from mapsto.ir.expr import Dim, Expr, sym, symbols
from mapsto.ir.expr_rewrite import substitute
from mapsto.ir.graph import Node, Value
from mapsto.ops.shapes import static
from mapsto.ops.work import Hollow, operations
from mapsto.plan.task import Task


def routine_calls(task: Task, code: TaskCode) -> list[KernelCall]:
    """The calls that compute a task of one node by a routine."""
    (node,) = task.nodes
    operands = tuple(code.value(n) if n else None for n in node.inputs)
    node, operands, sizes = _with_plain_sizes(node, operands)
    work = _work(node, operands)
    made = routine(node, operands, code.fresh(node.op), _vectors(code))
    calls = []
    for part in made.parts:
        if isinstance(part, RoutineKernel):
            _add_scratch(part.scratch, code, sizes)
            calls.append(code.rows_call(part.stmts))
            continue
        for scratch in part.scratch:
            _add_scratch(scratch, code, sizes)
        name = code.add_function(part.function, "generic")
        writes = tuple(i for i, p in enumerate(part.function.params) if p.writes)
        dims = tuple(substitute(sym(d), sizes) for d in part.function.dims)
        extent = substitute(part.extent, sizes)
        calls.append(KernelCall(name, part.operands, writes, dims, extent, task, work=work))
    return calls


def _vectors(code: TaskCode) -> Vectors:
    """What routines must know of the device. The tiles of their products are part of the task's schedule."""
    target, core = code.target, code.target.core

    def tiled(form: ContractionForm, allowed: Callable[[Tiling], bool]) -> TilePlan:
        return code.schedules.take(
            Ways(
                ROUTINE,
                (ROUTINE, form),
                lambda: plan_contraction(form, core, allowed),
                tiles_text,
                lambda text: read_tiles(text, form, core, allowed),
                lambda: near_tiles(form, core, allowed),
            )
        )

    return Vectors(target.processor.lanes, target.fused, tiled)


def _add_scratch(scratch: Scratch, code: TaskCode, sizes: dict[str, Dim]) -> None:
    code.add_scratch(scratch.name, scratch.dtype, tuple(substitute(d, sizes) for d in scratch.shape))


def _work(node: Node, operands: tuple[Value | None, ...]) -> float:
    """About how many operations a routine takes; 0 where only a run knows its sizes."""
    values = (*(v for v in operands if v is not None), *node.outputs)
    if any(isinstance(d, Expr) for d in (*(d for v in values for d in v.shape), *node.attrs.values())):
        return 0.0
    hollow = [None if v is None else Hollow(static(v.shape)) for v in operands]
    return operations(node.op, hollow, node.attrs, [static(v.shape) for v in node.outputs])


def _with_plain_sizes(
    node: Node, operands: tuple[Value | None, ...]
) -> tuple[Node, tuple[Value | None, ...], dict[str, Dim]]:
    """The node with its sizes called size0, size1...; what they stand for. A model may call one `begin`, as a function
    calls the start of its range.
    """
    values = (*(v for v in operands if v is not None), *node.outputs)
    found = dict.fromkeys(s for v in values for d in v.shape for s in sorted(symbols(d)))
    names: dict[str, Dim] = {s: sym(f"size{i}") for i, s in enumerate(found)}

    def renamed(attr: Any) -> Any:
        if isinstance(attr, Expr):
            return substitute(attr, names)
        return tuple(renamed(a) for a in attr) if isinstance(attr, tuple) else attr

    def value(v: Value) -> Value:
        return replace(v, shape=tuple(substitute(d, names) for d in v.shape))

    attrs = {key: renamed(attr) for key, attr in node.attrs.items()}
    node = replace(node, outputs=tuple(value(v) for v in node.outputs), attrs=attrs)
    actual: dict[str, Dim] = {f"size{i}": sym(s) for i, s in enumerate(found)}
    return node, tuple(None if v is None else value(v) for v in operands), actual
