"""Nodes as tasks, before anything is fused: statements, a contraction where they have that form, or a routine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass

import numpy as np

from mapsto.ir.dtypes import scalar
from mapsto.ir.expr import Dim, sym
from mapsto.ir.graph import Graph, Node, Value
from mapsto.kernel.ast import Const, Iter, Load, Scalar, Stmt, transform, with_value
from mapsto.kernel.compose import loads_of, positional, simplified
from mapsto.ops.lowering import temporaries
from mapsto.ops.registry import Lowering, op
from mapsto.plan.contraction import Contraction, is_accumulator, is_usable, recognise
from mapsto.plan.names import prefix_in
from mapsto.plan.recipe import made, of
from mapsto.plan.task import Task
from mapsto.plan.traits import Traits
from mapsto.plan.transposed import transposed_epilogue, transposed_phases


@dataclass(frozen=True)
class Setting:
    """What tasks are made from: all values by name, constants, what the maker asks for, and a prefix that no
    name in the graph begins with.
    """

    values: Mapping[str, Value]
    constants: Mapping[str, np.ndarray]
    traits: Traits
    prefix: str

    def iters(self, shape: tuple[Dim, ...]) -> tuple[Iter, ...]:
        return tuple(Iter(f"{self.prefix}{k}", extent) for k, extent in enumerate(shape))


def setting_of(graph: Graph, traits: Traits) -> Setting:
    """The setting of a graph with all that are nested in it."""
    values = {name: value for inner in _nested(graph) for name, value in inner.values().items()}
    return Setting(values, constants_of(graph), traits, prefix_in(graph))


def constants_of(graph: Graph) -> dict[str, np.ndarray]:
    """The constants of a graph and of all that are nested in it."""
    return {name: array for inner in _nested(graph) for name, array in inner.constants.items()}


def _nested(graph: Graph) -> Iterator[Graph]:
    """A graph and all that are nested in it."""
    waiting = [graph]
    while waiting:
        inner = waiting.pop()
        yield inner
        waiting.extend(g for node in inner.nodes for g in node.graphs)


def initial_task(node: Node, setting: Setting, required: Set[Dim]) -> Task:
    """The task of one node. required: what a run has checked of its sizes by then, each at least 0."""
    recipe = of(node.outputs[0].name)
    spec = op(node.op)
    operands = tuple(setting.values[n] if n else None for n in node.inputs)
    if spec.lower is None:
        return Task("routine", recipe, (node,), because=(f"{node.op} is a routine of its own",))
    stmts = tuple(
        positional(simplified(_with_literals(s, setting.constants)), setting.prefix)
        for s in spec.lower(Lowering(node, operands, required=required, prefix=setting.prefix))
    )
    kept = temporaries(list(stmts), {v.name for v in node.outputs})
    task = Task("rows", recipe, (node,), stmts, made={t.name: Value(t.name, t.dtype, t.shape) for t in kept})
    return _as_contraction(task, node, setting) if spec.kind == "contraction" and len(stmts) == 1 else task


def copy_task(source: Value, target: Value, setting: Setting, nodes: tuple[Node, ...], because: str) -> Task:
    """target[i...] = source[i...]."""
    stmt = copy_stmt(source, target, setting.iters(target.shape))
    recipe = made("copy", of(source.name), of(target.name))
    return Task("rows", recipe, nodes, (stmt,), because=(because,) if because else ())


def copy_stmt(source: Value, target: Value, iters: tuple[Iter, ...]) -> Stmt:
    return Stmt(target.name, target.dtype, iters, Load(source.name, tuple(sym(i.name) for i in iters), source.dtype))


def _with_literals(stmt: Stmt, constants: Mapping[str, np.ndarray]) -> Stmt:
    """Constants of one element are literals."""
    if all(load.tensor not in constants or constants[load.tensor].size != 1 for load in loads_of(stmt)):
        return stmt

    def leaf(node: Scalar) -> Scalar | None:
        array = constants.get(node.tensor) if isinstance(node, Load) else None
        return Const(scalar(array), node.dtype) if array is not None and array.size == 1 else None

    return with_value(stmt, transform(stmt.value, leaf))


def _as_contraction(task: Task, node: Node, setting: Setting) -> Task:
    """The task as a contraction, where the template takes its form."""
    (stmt,) = task.stmts
    phases = [stmt]
    if node.op == "conv_transpose":
        phases = transposed_phases(node, [setting.values[n] for n in node.inputs[:2]])
    constants = frozenset(setting.constants)
    found = [recognise(s, setting.values[stmt.target].shape, constants, setting.traits) for s in phases]
    known: list[tuple[Contraction, Scalar]] = [f for f in found if f is not None]
    if len(known) != len(found) or not known or not all(is_usable(c) for c, _ in known):
        return task
    around = known[0][1]
    stmts: tuple[Stmt, ...] = () if is_accumulator(around) else (with_value(stmt, around),)
    if node.op == "conv_transpose":
        bias = setting.values[node.inputs[2]] if len(node.inputs) > 2 and node.inputs[2] else None
        epilogue = transposed_epilogue(node, bias)
        stmts = () if epilogue is None else (epilogue,)
    because = f"{node.op} has the form of a contraction"
    return Task("contraction", task.recipe, task.nodes, stmts, tuple(c for c, _ in known), (because,))
