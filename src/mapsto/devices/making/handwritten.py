"""Tasks whose code is written by hand: calls of `devices.routines`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mapsto.devices.maker import Call
from mapsto.devices.making.code import Code
from mapsto.devices.routines import routine
from mapsto.ir.expr import Dim, Expr, sym, symbols
from mapsto.ir.expr_rewrite import substitute
from mapsto.ir.graph import Node, Value
from mapsto.ops.shapes import static
from mapsto.ops.work import Hollow, operations
from mapsto.plan.task import Task


def routine_calls(task: Task, code: Code) -> list[Call]:
    """The calls that compute a task of one node by a routine."""
    (node,) = task.nodes
    operands = tuple(code.value(n) if n else None for n in node.inputs)
    node, operands, sizes = _with_plain_sizes(node, operands)
    work = _work(node, operands)
    processor, fused = code.target.processor, code.target.fused
    made = routine(node, operands, processor.lanes, code.fresh(node.op), fused, processor.registers)
    calls = []
    for step in made.functions:
        for scratch in step.scratch:
            code.add_scratch(scratch.name, scratch.dtype, tuple(substitute(d, sizes) for d in scratch.shape))
        name = code.add_function(step.function, "generic")
        writes = tuple(i for i, p in enumerate(step.function.params) if p.writes)
        dims = tuple(substitute(sym(d), sizes) for d in step.function.dims)
        extent = substitute(step.extent, sizes)
        calls.append(Call(name, step.operands, writes, dims, extent, task, work=work))
    return calls


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
