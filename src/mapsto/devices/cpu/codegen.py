"""Groups into calls of compiled functions: the generic lowering, the contraction template, routines, border filling.

Equal kernels (in canonical form, with equal layouts) give one function, whatever their tensors are named.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from mapsto.devices.cpu.contractions import template_calls
from mapsto.devices.cpu.isa import Isa
from mapsto.devices.generic import choose_schedule, lower, scratch_temps
from mapsto.devices.generic.cost import estimate
from mapsto.devices.routines import routine
from mapsto.ir.dtypes import DType, from_numpy
from mapsto.ir.expr import Dim, Expr, product, substitute, sym, symbols
from mapsto.ir.graph import Node, Value
from mapsto.kernel.ast import Cast, Const, Iter, Load, Op, Reduce, Scalar, Stmt, Where, children, transform
from mapsto.loop.ast import Function
from mapsto.loop.llvm import to_llvm
from mapsto.plan.contraction import ACCUMULATOR, Contraction
from mapsto.plan.group import Group
from mapsto.plan.homes import Home, Homes
from mapsto.plan.kernels import Canonical, Renamer, canonical
from mapsto.plan.layout import plain


@dataclass(frozen=True)
class Call:
    """One step's call: which function, on which values, with which sizes. `writes`: positions of the operands it
    stores to.

    `grain`: the least share of the extent that is worth a thread of its own.
    """

    function: str
    operands: tuple[str, ...]
    writes: tuple[int, ...]
    dims: tuple[Dim, ...]
    extent: Dim
    group: Group
    schedule: str
    grain: int = 1


# Cycles that a thread must save before it is woken for a step: a few meetings at a barrier.
_WORTH_A_THREAD = 12_000.0


def grain_of(cycles: float, extent: Dim) -> int:
    """The least share of an extent that takes `_WORTH_A_THREAD` cycles, where the whole takes `cycles` (sizes not
    known before a run: typical).
    """
    return max(1, math.ceil(_WORTH_A_THREAD * max(estimate(extent), 1) / max(cycles, 1.0)))


def rows_cycles(stmts: Sequence[Stmt], lanes: int) -> float:
    """A rough count of vector operations: every operation and load at every point, those of reductions at theirs."""
    return sum(estimate(product(i.extent for i in s.iters)) * _operations(s.value) for s in stmts) / max(lanes // 2, 1)


def _operations(e: Scalar) -> float:
    own = 4.0 if isinstance(e, Op) and e.fn in ("exp", "log", "tanh", "erf", "sigmoid", "pow", "div", "sqrt") else 1.0
    inner = sum(_operations(c) for c in children(e))
    return own + inner * (estimate(product(i.extent for i in e.iters)) if isinstance(e, Reduce) else 1)


@dataclass
class Code:
    """The code of a program in the making: functions by their canonical form, and scratch tensors by name."""

    isa: Isa
    homes: Homes
    kept: set[str]
    on_module: Callable[[str, str, str], None]
    made: dict[object, tuple[str, Dim, tuple[str, ...], tuple[str, ...], str]] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    packed: dict[object, str] = field(default_factory=dict)
    counter: int = 0

    def fresh(self, hint: str) -> str:
        self.counter += 1
        return f"{hint}.{self.counter}"

    def add_function(self, function: Function, optimizer: str) -> str:
        """The name under which the function is compiled; equal functions share one."""
        text = to_llvm(replace(function, name="kernel"), self.isa.capabilities)
        name = "k" + hashlib.sha256(text.encode()).hexdigest()[:20]
        if name not in self.texts:
            self.texts[name] = text.replace("@kernel(", f"@{name}(")
            self.on_module(name, self.texts[name], optimizer)
        return name

    def add_scratch(self, name: str, dtype: DType, shape: tuple[Dim, ...]) -> None:
        self.homes.homes[name] = Home(name, plain(shape), "scratch")
        self.homes.values[name] = Value(name, dtype, shape)

    def add_constant(self, name: str, array: np.ndarray) -> None:
        self.constants[name] = array
        self.add_scratch(name, from_numpy(array.dtype), array.shape)

    def rows_call(self, group: Group, stmts: list[Stmt]) -> Call:
        """A call of the generic lowering of these statements."""
        return _rows_call(group, stmts, self)


def calls_of(group: Group, code: Code) -> list[Call]:
    """The calls that compute a group; none where nothing that it makes has an element."""
    if all(0 in code.homes.values[name].shape for name in group.targets() if name in code.kept):
        return []
    if group.kind == "routine":
        return _routine_calls(group, code)
    if group.kind == "contraction":
        made = template_calls(group, code)
        if made is not None:
            return made
        group.reasons.append("the template cannot reach an operand by strides: lowered as plain loops")
        return [_rows_call(group, contraction_stmts(group, code), code)]
    return [_rows_call(group, group.stmts, code)]


def _rows_call(group: Group, stmts: list[Stmt], code: Code) -> Call:
    layouts = {n: home.layout for n, home in code.homes.homes.items()}
    form, names = canonical(stmts, code.homes.values, layouts, code.kept)
    if form not in code.made:
        code.made[form] = _lower_rows(form, code)
    function, extent, params, dims, schedule = code.made[form]
    actual = {canonical_name: name for name, canonical_name in names.tensors.items()}
    sizes = names.actual_sizes()
    operands = tuple(_operand(p, actual, form, names, code) for p in params)
    written = {t.name for t in (*form.kernel.outputs, *form.kernel.temps)}
    writes = tuple(i for i, p in enumerate(params) if p in written)
    whole = substitute(extent, sizes)
    grain = grain_of(rows_cycles(form.kernel.stmts, code.isa.lanes(DType.F32)), extent)
    return Call(function, operands, writes, tuple(sizes[d] for d in dims), whole, group, schedule, grain)


def _operand(param: str, actual: dict[str, str], form: Canonical, names: Renamer, code: Code) -> str:
    """The value behind a parameter; a temp that needs memory becomes a scratch tensor of its own."""
    name = actual[param]
    if name not in code.homes.homes:
        value = code.homes.values[name]
        code.add_scratch(name, value.dtype, value.shape)
    return name


def _lower_rows(form: Canonical, code: Code) -> tuple[str, Dim, tuple[str, ...], tuple[str, ...], str]:
    layouts = dict(form.layouts)
    lanes = code.isa.lanes(DType.F32)
    schedule = choose_schedule(form.kernel, layouts, lanes)
    for name in scratch_temps(form.kernel, schedule):
        layouts[name] = plain(next(t.shape for t in form.kernel.temps if t.name == name))
    function, extent = lower(form.kernel, layouts, schedule, "kernel")
    name = code.add_function(function, "generic")
    return name, extent, tuple(p.name for p in function.params), function.dims, str(schedule)


def contraction_stmts(group: Group, code: Code) -> list[Stmt]:
    """A contraction group as plain statements: what the generic lowering computes where the template does not apply."""
    final = group.targets()[-1]
    if not group.stmts:
        return [_sum_stmt(c, final) for c in group.phases]
    if len(group.phases) == 1:
        own = {s.target for s in group.stmts}
        return [_with_sum(s, group.phases[0], own) for s in group.stmts]
    accumulators = code.fresh(f"{final}_sums")
    code.homes.values[accumulators] = replace(code.homes.values[final], name=accumulators, dtype=group.phases[0].dtype)

    def renamed(node: Scalar) -> Scalar | None:
        known = (
            isinstance(node, Load) and node.tensor in (ACCUMULATOR, group.phases[0].target) and node.tensor not in own
        )
        return Load(accumulators, node.index, node.dtype) if known and isinstance(node, Load) else None

    own = {s.target for s in group.stmts}
    stmts = [replace(s, value=transform(s.value, renamed)) for s in group.stmts]
    return [*(_sum_stmt(c, accumulators) for c in group.phases), *stmts]


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
    group's statements define.
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


def _routine_calls(group: Group, code: Code) -> list[Call]:
    (node,) = group.nodes
    operands = tuple(code.homes.values[n] if n else None for n in node.inputs)
    node, operands, sizes = _with_plain_sizes(node, operands)
    made = routine(node, operands, code.isa.lanes(DType.F32), code.fresh(node.op), code.isa.has("fma"))
    calls = []
    for step in made.functions:
        for scratch in step.scratch:
            code.add_scratch(scratch.name, scratch.dtype, tuple(substitute(d, sizes) for d in scratch.shape))
        name = code.add_function(step.function, "generic")
        writes = tuple(i for i, p in enumerate(step.function.params) if p.writes)
        dims = tuple(substitute(sym(d), sizes) for d in step.function.dims)
        calls.append(Call(name, step.operands, writes, dims, substitute(step.extent, sizes), group, "routine"))
    return calls


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
