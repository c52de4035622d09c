"""Items and what was made of them into a program: buffers, steps in order, constants packed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mapsto.devices.maker import KernelCall, Made
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, mul, sym, symbols
from mapsto.ir.graph import Node, binds
from mapsto.ir.region import nested
from mapsto.ops.guards import required_of
from mapsto.passes.dead_code import CHECK
from mapsto.plan.home import Home
from mapsto.plan.items import Branches, Control, Item, Looped
from mapsto.plan.mapped import Mapped
from mapsto.plan.names import prefix_in
from mapsto.plan.rounds import BODY, CARRY, ENTER, again_of, changing_sizes, first_sizes, next_sizes
from mapsto.plan.task import Task
from mapsto.runtime.arrays import ConstantArray, pack_constants
from mapsto.runtime.program import (
    Bind,
    Bounds,
    BranchIfFalse,
    Buffer,
    Check,
    Jump,
    Port,
    Program,
    Require,
    Run,
    SetSize,
    Step,
)


@dataclass(frozen=True)
class Linked:
    """All that a program is made of. `homes`, `constants`: of the plan and of what makers need besides. `calls`: by the
    name of their work.
    """

    mapped: Mapped
    homes: Mapping[str, Home]
    constants: Mapping[str, ConstantArray]
    calls: Mapping[str, tuple[KernelCall, ...]]


def link(mapped: Mapped, made: Mapping[str, Made], constants: Mapping[str, np.ndarray]) -> Linked:
    """What makers made, together. constants: of the graph."""
    homes, arrays = dict(mapped.homes), dict[str, ConstantArray](constants)
    for each in made.values():
        homes.update(each.homes)
        arrays.update(each.constants)
    return Linked(mapped, homes, arrays, {name: each.calls for name, each in made.items()})


class _Buffers:
    """Indices of buffers by the value that owns them; only what a step touches becomes a buffer."""

    def __init__(self, linked: Linked) -> None:
        self.homes = linked.homes
        self.constants = linked.constants
        self.inputs = {v.name for v in linked.mapped.graph.inputs}
        self.outputs = {self.homes[place].buffer for place in linked.mapped.places.values()}
        self.prefix = prefix_in(linked.mapped.graph)
        self.values = {name: value for inner in nested(linked.mapped.graph) for name, value in inner.values().items()}
        self.list: list[Buffer] = []
        self.index: dict[str, int] = {}
        self.used_constants: dict[str, ConstantArray] = {}

    def of(self, owner: str) -> int:
        if owner not in self.index:
            self.index[owner] = len(self.list)
            self.list.append(self._make(owner))
        return self.index[owner]

    def _make(self, owner: str) -> Buffer:
        home = self.homes[owner]
        size = mul(home.layout.elements, home.dtype.size)
        if owner in self.constants:
            self.used_constants[owner] = self.constants[owner]
            return Buffer(owner, "constant", size)
        kind = "input" if owner in self.inputs else "output" if owner in self.outputs else "arena"
        return Buffer(owner, kind, size)

    def operand(self, name: str) -> tuple[int, Dim]:
        home = self.homes[name]
        return self.of(home.buffer), mul(home.layout.offset, home.dtype.size)


def assemble(
    linked: Linked, defaults: Mapping[str, np.ndarray] | None = None
) -> Program:
    """The program. `defaults` of inputs by name."""
    graph, places, buffers = linked.mapped.graph, linked.mapped.places, _Buffers(linked)
    inputs = tuple(Port(v.name, v.dtype, v.shape, buffers.of(v.name)) for v in graph.inputs)
    steps: list[Step] = []
    # what must hold of sizes on every path is checked as soon as they are known, before anything is laid out by them
    changing = frozenset(name for node in graph.walk() if node.graphs for name in binds(node))
    checks = tuple(
        Check(*_required(node), "liftable" in node.attrs) for node in graph.nodes if _is_always_checked(node, changing)
    )
    items = [i for i in linked.mapped.items if not isinstance(i, Control) or not _is_always_checked(i.node, changing)]
    _emit(items, linked.calls, buffers, steps)
    outputs = tuple(_port(name, places[name], buffers) for name in graph.outputs)
    own = {_default_key(name): array for name, array in (defaults or {}).items()}
    packed, offsets = pack_constants({**buffers.used_constants, **own})
    inputs = tuple(
        replace(p, default=(offsets[_default_key(p.name)], own[_default_key(p.name)].shape))
        if _default_key(p.name) in own
        else p
        for p in inputs
    )
    final = tuple(Buffer(b.name, b.kind, b.bytes, offsets[b.name]) if b.kind == "constant" else b for b in buffers.list)
    return Program(graph.name, inputs, outputs, final, tuple(steps), packed, graph.updates, checks)


def _default_key(name: str) -> str:
    """No constant has such a name: a default is none, whatever its input is called."""
    return f"\0{name}"


def _port(name: str, place: str, buffers: _Buffers) -> Port:
    home = buffers.homes[place]
    return Port(name, home.dtype, home.layout.shape, buffers.of(home.buffer))


def _emit(
    items: Iterable[Item], calls: Mapping[str, Sequence[KernelCall]], buffers: _Buffers, steps: list[Step]
) -> None:
    for item in items:
        if isinstance(item, Looped):
            _emit_rounds(item, calls, buffers, steps)
        elif isinstance(item, Branches):
            _emit_branch(item, calls, buffers, steps)
        elif isinstance(item, Control):
            steps.extend(_control(item, buffers))
        elif isinstance(item, Task):
            steps.extend(_run(call, buffers) for call in calls[item.name])


def _run(call: KernelCall, buffers: _Buffers) -> Run:
    operands = tuple(buffers.operand(name) for name in call.operands)
    task = call.task
    label = f"{task.name} {task.kind} {'+'.join(dict.fromkeys(n.op for n in task.nodes))}"
    return Run(call.function, operands, call.dims, call.extent, call.writes, call.grain, label, task.sources)


def _control(item: Control, buffers: _Buffers) -> list[Step]:
    node, label = item.node, item.name
    if node.op == "bind_dim":
        (name,) = node.inputs
        operand, dtype = buffers.operand(name), buffers.homes[name].dtype
        what = str(node.attrs.get("what", "")) or label
        return [Bind(str(node.attrs["symbol"]), operand, dtype, what, node.provenance)]
    return _bounds(node, buffers, label) if node.op == CHECK else [_check(node, label)]


def _bounds(node: Node, buffers: _Buffers, label: str) -> list[Step]:
    """One step for each word that is compared."""
    attrs: dict[str, Any] = dict(node.attrs)
    buffer, offset = buffers.operand(node.inputs[1])
    return [
        Bounds(
            (buffer, offset + DType.U64.size * k), attrs["kind"], attrs["what"], axis, extent, attrs["where"], label,
            node.provenance,
        )
        for k, (axis, extent) in enumerate(zip(attrs["axes"], attrs["extents"], strict=True))
    ]  # fmt: skip


def _check(node: Node, label: str) -> Require:
    return Require(*_required(node), label, node.provenance)


def _required(node: Node) -> tuple[Dim, str]:
    """(condition, message); what is reached by no right run fails always."""
    condition = node.attrs["condition"] if node.op == "require" else -1
    return condition, str(node.attrs["message"])  # type: ignore[return-value]


def _is_always_checked(node: Node, changing: Set[str]) -> bool:
    """Whether a node is a condition that holds from when its sizes are known on. changing: sizes that a loop sets again
    and again, of which only the last is meant.
    """
    return node.op == "require" and not symbols(required_of(node)) & changing


def _emit_branch(
    item: Branches, calls: Mapping[str, Sequence[KernelCall]], buffers: _Buffers, steps: list[Step]
) -> None:
    """if c: A else: B as `branch to B unless c; A; jump to the end; B`."""
    node = item.node
    then, otherwise = item.arms
    at = len(steps)
    steps.append(Jump(0))
    _emit(then, calls, buffers, steps)
    leave = len(steps)
    steps.append(Jump(0))
    start = len(steps)
    _emit(otherwise, calls, buffers, steps)
    steps[at] = BranchIfFalse(buffers.operand(node.inputs[0]), start, item.name, node.provenance)
    steps[leave] = Jump(len(steps), item.name, node.provenance)


def _emit_rounds(
    item: Looped, calls: Mapping[str, Sequence[KernelCall]], buffers: _Buffers, steps: list[Step]
) -> None:
    """if go: do A while again as `branch to the end unless go; A; branch to the end unless again; jump to A`.

    Where states change their sizes, these are set before anything is done, before each round, and after it.
    """
    node = item.node

    def sizes(found: Iterable[tuple[str, Dim]]) -> list[Step]:
        return [SetSize(symbol, value, item.name, node.provenance) for symbol, value in found]

    steps += sizes(first_sizes(node, buffers.values).items())
    _emit(item.arms[ENTER], calls, buffers, steps)
    at = len(steps)
    steps.append(Jump(0))
    steps += sizes((inner, sym(outer)) for inner, outer in changing_sizes(node))
    _emit(item.arms[BODY], calls, buffers, steps)
    steps += sizes(next_sizes(node, buffers.values).items())
    _emit(item.arms[CARRY], calls, buffers, steps)
    leave = len(steps)
    steps += [Jump(0), Jump(at + 1, item.name, node.provenance)]
    for step, name in ((at, node.inputs[0]), (leave, again_of(node, buffers.prefix))):
        steps[step] = BranchIfFalse(buffers.operand(name), len(steps), item.name, node.provenance)
