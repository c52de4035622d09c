"""What generated code is: calls of compiled functions, the functions so far, and the calls of the generic lowering.

Equal kernels (in canonical form, with equal layouts) give one function, whatever their tensors are named.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from mapsto import debug
from mapsto.budget import current
from mapsto.devices.cpu.isa import Isa
from mapsto.devices.generic import choose_schedule, lower, scratch_temps
from mapsto.devices.generic.cost import estimate
from mapsto.ir.dtypes import DType, from_numpy
from mapsto.ir.expr import Dim, product
from mapsto.ir.expr_rewrite import substitute
from mapsto.ir.graph import Value
from mapsto.kernel.ast import Op, Reduce, Scalar, Stmt, children
from mapsto.kernel.compose import reads
from mapsto.kernel.text import kernel_text
from mapsto.loop.ast import Function
from mapsto.loop.llvm import to_llvm
from mapsto.loop.text import format_function
from mapsto.plan.group import Group
from mapsto.plan.homes import Home, Homes
from mapsto.plan.kernels import Canonical, Renamer, canonical
from mapsto.plan.layout import plain


@dataclass(frozen=True)
class Call:
    """One step's call: which function, on which values, with which sizes. `writes`: positions of the operands it
    stores to.

    `grain`: the least share of the extent that is worth a thread of its own. `work`: about how many operations the
    whole takes (sizes not known before a run: typical).
    """

    function: str
    operands: tuple[str, ...]
    writes: tuple[int, ...]
    dims: tuple[Dim, ...]
    extent: Dim
    group: Group
    schedule: str
    grain: int = 1
    work: float = 0.0


# Cycles that a thread must save before it is woken for a step: a few meetings at a barrier.
_WORTH_A_THREAD = 12_000.0


def grain_of(cycles: float, extent: Dim) -> int:
    """The least share of an extent that takes `_WORTH_A_THREAD` cycles, where the whole takes `cycles` (sizes not
    known before a run: typical).
    """
    return max(1, math.ceil(_WORTH_A_THREAD * max(estimate(extent), 1) / max(cycles, 1.0)))


def rows_work(stmts: Sequence[Stmt]) -> float:
    """A rough count of operations: every operation and load at every point, those of reductions at theirs."""
    return sum(estimate(product(i.extent for i in s.iters)) * _operations(s.value) for s in stmts)


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
        current().charge("code", len(text), "the code of its kernels")
        name = "k" + hashlib.sha256(text.encode()).hexdigest()[:20]
        if name not in self.texts:
            self.texts[name] = text.replace("@kernel(", f"@{name}(")
            debug.show(debug.KERNELS, f"function {name}", lambda: format_function(function))
            debug.show(debug.LLVM, f"LLVM IR of {name}", lambda: self.texts[name])
            self.on_module(name, self.texts[name], optimizer)
        return name

    def add_scratch(self, name: str, dtype: DType, shape: tuple[Dim, ...]) -> None:
        self.homes.homes[name] = Home(name, plain(shape), "scratch")
        self.homes.values[name] = Value(name, dtype, shape)

    def add_constant(self, name: str, array: np.ndarray) -> None:
        current().charge("folded_bytes", array.nbytes, name)
        self.constants[name] = array
        self.add_scratch(name, from_numpy(array.dtype), array.shape)

    def adopt(self, other: Code) -> None:
        """Scratch tensors that were made while `other`, which has all else in common, stood in for this one."""
        self.counter = other.counter
        for name in other.homes.homes.keys() - self.homes.homes.keys():
            self.homes.homes[name] = other.homes.homes[name]
            self.homes.values[name] = other.homes.values[name]

    def rows_call(self, group: Group, stmts: list[Stmt]) -> Call:
        """A call of the generic lowering of these statements."""
        return _rows_call(group, stmts, self)


def _rows_call(group: Group, stmts: list[Stmt], code: Code) -> Call:
    touched = {s.target for s in stmts}.union(*(reads(s) for s in stmts))
    layouts = {n: code.homes.homes[n].layout for n in touched if n in code.homes.homes}
    form, names = canonical(stmts, code.homes.values, layouts, code.kept)
    if form not in code.made:
        debug.show(debug.KERNELS, f"kernel of {group.name}", lambda: kernel_text(form.kernel))
        code.made[form] = _lower_rows(form, code)
    function, extent, params, dims, schedule = code.made[form]
    actual = {canonical_name: name for name, canonical_name in names.tensors.items()}
    sizes = names.actual_sizes()
    operands = tuple(_operand(p, actual, form, names, code) for p in params)
    written = {t.name for t in (*form.kernel.outputs, *form.kernel.temps)}
    writes = tuple(i for i, p in enumerate(params) if p in written)
    whole = substitute(extent, sizes)
    work = rows_work(form.kernel.stmts)
    grain = grain_of(work / max(code.isa.lanes(DType.F32) // 2, 1), extent)
    return Call(function, operands, writes, tuple(sizes[d] for d in dims), whole, group, schedule, grain, work)


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
