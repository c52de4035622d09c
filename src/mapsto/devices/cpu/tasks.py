"""Tasks into calls of compiled functions: the generic lowering, the contraction template, routines."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from mapsto.devices.cpu.code import Code
from mapsto.devices.cpu.contractions import template_calls
from mapsto.devices.cpu.usual import usual_case
from mapsto.devices.maker import Call
from mapsto.devices.routines import routine
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, Expr, mul, sym, symbols
from mapsto.ir.expr_rewrite import substitute
from mapsto.ir.graph import Node, Value
from mapsto.kernel.ast import Cast, Const, Iter, Load, Op, Reduce, Scalar, Stmt, Where, transform
from mapsto.ops.shapes import static
from mapsto.ops.work import Hollow, operations
from mapsto.plan.contraction import ACCUMULATOR, Contraction
from mapsto.plan.task import Task

# Templates: what a task's code is made from.
NOTHING, ROUTINE, TILES, LOOPS = "nothing", "routine", "tiles", "loops"


def calls_of(task: Task, code: Code, template: str | None) -> tuple[str, list[Call]]:
    """The template (the one that is asked for, where one is) and the calls that compute a task; none where nothing
    that it makes has an element.
    """
    if all(0 in code.homes[name].layout.shape for name in task.targets if name in code.homes):
        return NOTHING, []
    usual = None if task.kind == "routine" else usual_case(task, code)
    if usual is None:
        return _calls_of(task, code, template)
    made, others = _calls_of(task, code, template)
    own = usual.code(code, sorted(task.reads | set(task.targets)))
    better, calls = _calls_of(usual.task(task), own, template)
    code.adopt(own)
    return TILES if TILES in (made, better) else made, [
        *(replace(c, extent=mul(c.extent, usual.holds), task=task) for c in calls),
        *(replace(c, extent=mul(c.extent, 1 - usual.holds)) for c in others),
    ]


def _calls_of(task: Task, code: Code, template: str | None) -> tuple[str, list[Call]]:
    if task.kind == "routine":
        return ROUTINE, _routine_calls(task, code)
    if task.kind == "contraction" and template != LOOPS:
        made = template_calls(task, code)
        if made is not None:
            return TILES, made
        code.schedules.because.append("the template cannot reach an operand by strides: lowered as plain loops")
    stmts = contraction_stmts(task, code) if task.kind == "contraction" else task.stmts
    return LOOPS, [code.rows_call(stmts)]


def contraction_stmts(task: Task, code: Code) -> list[Stmt]:
    """A contraction task as plain statements: what the generic lowering computes where the template does not apply."""
    final, own = task.targets[-1], {s.target for s in task.stmts}
    if not task.stmts:
        return [_sum_stmt(c, final) for c in task.phases]
    if len(task.phases) == 1 and not (task.phases[0].target in code.homes and task.phases[0].target not in own):
        return [_with_sum(s, task.phases[0], own) for s in task.stmts]
    accumulators = task.phases[0].target
    if accumulators in own or accumulators not in code.homes:
        accumulators = code.fresh(f"{final}_sums")
        code.values[accumulators] = replace(code.value(final), name=accumulators, dtype=task.phases[0].dtype)

    def renamed(node: Scalar) -> Scalar | None:
        known = (
            isinstance(node, Load) and node.tensor in (ACCUMULATOR, task.phases[0].target) and node.tensor not in own
        )
        return Load(accumulators, node.index, node.dtype) if known and isinstance(node, Load) else None

    stmts = [replace(s, value=transform(s.value, renamed)) for s in task.stmts]
    return [*(_sum_stmt(c, accumulators) for c in task.phases), *stmts]


def _sum_stmt(c: Contraction, target: str) -> Stmt:
    identity = c.index == tuple(sym(i.name) for i in c.iters)
    return Stmt(target, c.dtype, c.iters, _sum(c), None if identity else c.index)


def _sum(c: Contraction) -> Scalar:
    a: Scalar = c.a if c.a.dtype is c.dtype else Cast(c.a, c.dtype)
    b: Scalar = c.b if c.b.dtype is c.dtype else Cast(c.b, c.dtype)
    read = Where(c.guards, a, Const(0, c.dtype)) if c.guards else a
    return Reduce("sum", c.reds, Op("mul", (read, b), c.dtype))


def _with_sum(stmt: Stmt, c: Contraction, own: set[str]) -> Stmt:
    """The statement with its accumulator replaced by the sum itself, at the accumulator's index. `own`: what the
    task's statements define.
    """

    def leaf(node: Scalar) -> Scalar | None:
        if not isinstance(node, Load) or (node.tensor != ACCUMULATOR and (node.tensor != c.target or c.target in own)):
            return None
        return _at(c, node.index)

    return replace(stmt, value=transform(stmt.value, leaf))


def _at(c: Contraction, index: tuple[Dim, ...]) -> Scalar:
    """The sum at a target index: the iterators solved for (a grouped convolution's o = g*D + o' by // and %)."""
    values: dict[str, Dim] = {}
    for e, at in zip(c.index, index, strict=True):
        values.update(_solve(e, at, c))
    return transform(_sum(c), lambda s: None, lambda d: substitute(d, values))


def _solve(e: Dim, at: Dim, c: Contraction) -> dict[str, Dim]:
    from mapsto.ir.expr import floordiv, linear, mod, symbols

    names = [i for i in c.iters if i.name in symbols(e)]
    if not names:
        return {}
    if len(names) == 1:
        return {names[0].name: at}
    outer, inner = sorted(names, key=lambda i: 0 if linear(e, i.name) != (1, 0) and _factor(e, i) != 1 else 1)
    return {outer.name: floordiv(at, inner.extent), inner.name: mod(at, inner.extent)}


def _factor(e: Dim, it: Iter) -> Dim:
    from mapsto.ir.expr import linear

    found = linear(e, it.name)
    return 0 if found is None else found[0]


def _routine_calls(task: Task, code: Code) -> list[Call]:
    (node,) = task.nodes
    operands = tuple(code.value(n) if n else None for n in node.inputs)
    node, operands, sizes = _with_plain_sizes(node, operands)
    work = _work(node, operands)
    made = routine(node, operands, code.isa.lanes(DType.F32), code.fresh(node.op), code.isa.has("fma"))
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
