"""Calls and homes into a program: buffers, steps in order, constants packed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from mapsto.devices.cpu.code import Call
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, mul
from mapsto.ir.graph import Node
from mapsto.passes.dead_code import CHECK
from mapsto.plan.group import Group
from mapsto.plan.planner import Planned
from mapsto.runtime.arrays import pack_constants
from mapsto.runtime.program import Bind, Bounds, BranchIfFalse, Buffer, Check, Jump, Port, Program, Require, Run, Step


class _Buffers:
    """Indices of buffers by the value that owns them; only what a step touches becomes a buffer."""

    def __init__(self, planned: Planned, constants: Mapping[str, np.ndarray]) -> None:
        self.homes = planned.homes
        self.constants = constants
        self.inputs = {v.name for v in planned.graph.inputs}
        self.outputs = set(planned.outputs)
        self.list: list[Buffer] = []
        self.index: dict[str, int] = {}
        self.used_constants: dict[str, np.ndarray] = {}

    def of(self, owner: str) -> int:
        if owner not in self.index:
            self.index[owner] = len(self.list)
            self.list.append(self._make(owner))
        return self.index[owner]

    def _make(self, owner: str) -> Buffer:
        value = self.homes.values[owner]
        size = mul(self.homes.homes[owner].layout.elements, value.dtype.size)
        if owner in self.constants:
            self.used_constants[owner] = self.constants[owner]
            return Buffer(owner, "constant", size)
        kind = "input" if owner in self.inputs else "output" if owner in self.outputs else "arena"
        return Buffer(owner, kind, size)

    def operand(self, name: str) -> tuple[int, Dim]:
        home = self.homes.homes[name]
        return self.of(home.buffer), mul(home.layout.offset, self.homes.values[name].dtype.size)


def assemble(
    planned: Planned,
    calls: Mapping[int, list[Call]],
    constants: Mapping[str, np.ndarray],
    defaults: Mapping[str, np.ndarray] | None = None,
) -> Program:
    """The program of a planned graph. `calls` by the identity of their group; `defaults` of inputs by name."""
    graph, buffers = planned.graph, _Buffers(planned, constants)
    inputs = tuple(Port(v.name, v.dtype, v.shape, buffers.of(v.name)) for v in graph.inputs)
    steps: list[Step] = []
    # what must hold of sizes on every path is checked as soon as they are known, before anything is laid out by them
    checks = tuple(Check(*_required(node)) for node in graph.nodes if node.op == "require")
    _emit([g for g in planned.groups if not _always_checked(g)], calls, buffers, steps)
    outputs = tuple(_port(name, place, buffers) for name, place in zip(graph.outputs, planned.outputs, strict=True))
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
    value = buffers.homes.values[place]
    return Port(name, value.dtype, value.shape, buffers.of(buffers.homes.homes[place].buffer))


def _emit(groups: Iterable[Group], calls: Mapping[int, list[Call]], buffers: _Buffers, steps: list[Step]) -> None:
    for group in groups:
        label = group.name
        if group.kind == "branch":
            _emit_branch(group, calls, buffers, steps)
        elif group.kind == "bind":
            (node,) = group.nodes
            value = buffers.homes.values[node.inputs[0]]
            steps.append(
                Bind(str(node.attrs["symbol"]), buffers.operand(value.name), value.dtype, label, group.provenance)
            )
        elif group.kind == "check":
            for node in group.nodes:
                steps.extend(_bounds(node, buffers, label) if node.op == CHECK else [_check(node, label)])
        else:
            steps.extend(_run(call, buffers) for call in calls[id(group)])


def _run(call: Call, buffers: _Buffers) -> Run:
    operands = tuple(buffers.operand(name) for name in call.operands)
    label = f"{call.group.name} {call.group.kind} {'+'.join(dict.fromkeys(n.op for n in call.group.nodes))}"
    return Run(call.function, operands, call.dims, call.extent, call.writes, call.grain, label, call.group.provenance)


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


def _always_checked(group: Group) -> bool:
    return group.kind == "check" and all(node.op == "require" for node in group.nodes)


def _emit_branch(group: Group, calls: Mapping[int, list[Call]], buffers: _Buffers, steps: list[Step]) -> None:
    """if c: A else: B as `branch to B unless c; A; jump to the end; B`."""
    (node,) = group.nodes
    then, otherwise = group.branches
    at = len(steps)
    steps.append(Jump(0))
    _emit(then, calls, buffers, steps)
    leave = len(steps)
    steps.append(Jump(0))
    start = len(steps)
    _emit(otherwise, calls, buffers, steps)
    steps[at] = BranchIfFalse(buffers.operand(node.inputs[0]), start, group.name, node.provenance)
    steps[leave] = Jump(len(steps), group.name, node.provenance)
