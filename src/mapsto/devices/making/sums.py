"""A contraction task as plain statements: what the generic lowering computes where no template does."""

from __future__ import annotations

from dataclasses import replace

from mapsto.devices.making.code import TaskCode
from mapsto.ir.expr import Dim, floordiv, linear, mod, sym, symbols
from mapsto.ir.expr_rewrite import substitute
from mapsto.kernel.ast import Cast, Const, Iter, Load, Op, Reduce, Scalar, Stmt, Where, transform
from mapsto.kernel.blocks import real_of
from mapsto.plan.contraction import ACCUMULATOR, Contraction
from mapsto.plan.task import Task


def contraction_stmts(task: Task, code: TaskCode) -> list[Stmt]:
    """The statements of a contraction task, its sums of products spelled out."""
    final, own = task.targets[-1], {s.target for s in task.stmts}
    if not task.stmts:
        return [_sum_stmt(c, final) for c in task.phases]
    if len(task.phases) == 1 and not (task.phases[0].target in code.homes and task.phases[0].target not in own):
        return [_with_sum(s, task.phases[0], own) for s in task.stmts]
    accumulators = task.phases[0].target
    if accumulators in own or accumulators not in code.homes:
        accumulators = code.fresh(f"{final}_sums")
        code.add_value(replace(code.value(final), name=accumulators, dtype=task.phases[0].dtype))

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
    if c.scale is not None:
        b = Op("mul", (real_of(c.b), c.scale), c.dtype)
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
    names = [i for i in c.iters if i.name in symbols(e)]
    if not names:
        return {}
    if len(names) == 1:
        return {names[0].name: at}
    outer, inner = sorted(names, key=lambda i: 0 if linear(e, i.name) != (1, 0) and _factor(e, i) != 1 else 1)
    return {outer.name: floordiv(at, inner.extent), inner.name: mod(at, inner.extent)}


def _factor(e: Dim, it: Iter) -> Dim:
    found = linear(e, it.name)
    return 0 if found is None else found.coefficient
