"""Kernels lowered and run, by the loop interpreter or natively, against the kernel interpreter; layouts filled and
checked.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

import mapsto.ops  # noqa: F401
from mapsto.devices.cpu.isa import AVX512, Isa
from mapsto.devices.cpu.loader import load_objects
from mapsto.devices.cpu.target import compile_object, machine
from mapsto.devices.cpu.traits import processor_of
from mapsto.devices.generic.flat import collapsed_rows, flatten
from mapsto.devices.generic.lower import lower
from mapsto.devices.generic.normal import normal_form
from mapsto.devices.generic.processor import Processor
from mapsto.devices.generic.rows import segments
from mapsto.devices.generic.schedule import (
    RowSchedule,
    choose_schedule,
    near_tensors,
    scratch_temps,
    sorted_rows,
    temp_shapes,
    with_plain,
)
from mapsto.devices.generic.temps import place_temps
from mapsto.ir.dtypes import DType, from_numpy
from mapsto.ir.expr import Dim, evaluate, sym
from mapsto.ir.graph import Node, Value
from mapsto.kernel.ast import Kernel, Tensor
from mapsto.kernel.interpret import run_kernel
from mapsto.loop.ast import Function
from mapsto.loop.interpret import interpret
from mapsto.loop.llvm import to_llvm
from mapsto.ops.builder import Builder
from mapsto.ops.lowering import statements, temporaries
from mapsto.plan.layout import Layout, plain

PROCESSOR = processor_of(AVX512)

Array = np.ndarray[Any, Any]
Engine = Callable[[Function, Sequence[Array], Mapping[str, int], int, int], None]


# The numbers of all tests of this folder. Each test begins anew (conftest.py), so that none depends on what ran before.
rng = np.random.default_rng(5)
_START = rng.bit_generator.state


def begin_anew() -> None:
    rng.bit_generator.state = _START


def floats(*shape: int) -> Array:
    return rng.standard_normal(shape).astype(np.float32)


# ---- engines -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Native:
    """Compiles in this process for an instruction set, and runs."""

    isa: Isa

    def __call__(
        self, function: Function, buffers: Sequence[Array], sizes: Mapping[str, int], begin: int, end: int
    ) -> None:
        call(compiled(function, self.isa), function, buffers, sizes, begin, end)


def compiled(function: Function, isa: Isa) -> int:
    data = compile_object(to_llvm(function, isa.capabilities), machine(isa.cpu, isa.feature_text), "generic")
    return load_objects([data])[function.name]


def call(
    address: int, function: Function, buffers: Sequence[Array], sizes: Mapping[str, int], begin: int, end: int
) -> None:
    pointers = (ctypes.c_void_p * max(len(buffers), 1))(*[b.ctypes.data for b in buffers])
    dims = (ctypes.c_int64 * max(len(function.dims), 1))(*[sizes[d] for d in function.dims])
    ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)(address)(
        ctypes.addressof(pointers), ctypes.addressof(dims), begin, end
    )


# ---- buffers -------------------------------------------------------------------------------------------------------


def places(layout: Layout, sizes: Mapping[str, int]) -> Array:
    """The place of each element, in the tensor's shape."""
    shape = tuple(evaluate(d, sizes) for d in layout.shape)
    found = np.zeros(shape, np.int64)
    for index in np.ndindex(*shape):
        found[index] = evaluate(layout.place(index), sizes)
    return found


def filled(array: Array, layout: Layout, sizes: Mapping[str, int]) -> Array:
    """A buffer that holds a tensor, zero in borders and tails."""
    buffer = np.zeros(evaluate(layout.elements, sizes), array.dtype)
    buffer[places(layout, sizes).ravel()] = array.ravel()
    return buffer


def poisoned(dtype: DType, count: int) -> Array:
    if dtype.is_float:
        return np.full(count, np.nan, dtype.numpy)
    return np.full(count, True if dtype is DType.BOOL else 85, dtype.numpy)


# ---- cases ---------------------------------------------------------------------------------------------------------


@dataclass
class Case:
    """A kernel with inputs. `layouts` holds those that are not plain; `far_bytes` is the processor's."""

    kernel: Kernel
    inputs: dict[str, Array]
    sizes: dict[str, int] = field(default_factory=dict)
    layouts: dict[str, Layout] = field(default_factory=dict)
    tolerance: float = 2e-5
    lanes: int = 16
    far_bytes: int = PROCESSOR.far_bytes

    @property
    def processor(self) -> Processor:
        return replace(PROCESSOR, lanes=self.lanes, far_bytes=self.far_bytes)

    def all_layouts(self) -> dict[str, Layout]:
        own = {t.name: plain(t.shape) for t in (*self.kernel.inputs, *self.kernel.outputs)}
        return {**own, **self.layouts}


def lowered(case: Case, schedule: RowSchedule | None = None) -> tuple[Function, Dim, tuple[str, ...], RowSchedule]:
    layouts = case.all_layouts()
    schedule = schedule or choose_schedule(case.kernel, layouts, case.processor)
    scratch = scratch_temps(case.kernel, schedule, case.processor)
    shapes = {t.name: t.shape for t in case.kernel.temps}
    layouts |= {name: plain(shapes[name]) for name in scratch}
    function, extent = lower(case.kernel, layouts, schedule, "kernel_under_test", case.processor)
    return function, extent, scratch, schedule


def check(case: Case, engine: Engine = interpret, schedule: RowSchedule | None = None, shares: int = 3) -> RowSchedule:
    """The lowered kernel, run in several shares on poisoned buffers, gives what the kernel interpreter gives, and
    keeps its layouts' promises.
    """
    if isinstance(engine, Native):
        case = replace(case, lanes=engine.isa.lanes(DType.F32))
    with np.errstate(all="ignore"):
        expected = run_kernel(case.kernel, case.inputs, case.sizes)
    function, extent, scratch, schedule = lowered(case, schedule)
    layouts = case.all_layouts()
    temps = {t.name: t for t in case.kernel.temps}
    buffers = [filled(case.inputs[t.name], layouts[t.name], case.sizes) for t in case.kernel.inputs]
    inputs = [b.copy() for b in buffers]
    for t in case.kernel.outputs:
        buffers.append(poisoned(t.dtype, evaluate(layouts[t.name].elements, case.sizes)))
    for name in scratch:
        t = temps[name]
        buffers.append(poisoned(t.dtype, int(np.prod([evaluate(d, case.sizes) for d in t.shape]))))
    total = evaluate(extent, case.sizes)
    for k in reversed(range(shares)):
        engine(function, buffers, case.sizes, total * k // shares, total * (k + 1) // shares)
    for before, after in zip(inputs, buffers, strict=False):
        assert before.tobytes() == after.tobytes(), "an input was written"
    for at, t in enumerate(case.kernel.outputs):
        _check_output(t, expected[t.name], buffers[len(inputs) + at], layouts[t.name], case)
    return schedule


def _check_output(t: Tensor, expected: Array, buffer: Array, layout: Layout, case: Case) -> None:
    own = places(layout, case.sizes)
    found = buffer[own.ravel()].reshape(own.shape)
    assert_close(found, expected, case.tolerance, t.name)
    padding = _padding(layout, case.sizes)
    assert not np.any(buffer[padding] != 0), f"{t.name}: border or tail is not zero"
    others = np.ones(buffer.size, bool)
    others[own.ravel()] = False
    others[padding] = False
    assert buffer[others].tobytes() == poisoned(t.dtype, int(others.sum())).tobytes(), f"{t.name}: written outside"


def _padding(layout: Layout, sizes: Mapping[str, int]) -> list[int]:
    """Places of a layout's border and tail."""
    shape = [evaluate(d, sizes) for d in layout.shape]
    block = layout.block
    spans = []
    for d, extent in enumerate(shape):
        end = -(-extent // block[1]) * block[1] if block is not None and block[0] == d else extent
        spans.append(range(-layout.border[d][0], end + layout.border[d][1]))
    own = set(places(layout, sizes).ravel().tolist())
    found = set()
    for point in np.ndindex(*[len(s) for s in spans]):
        index = [s[k] for s, k in zip(spans, point, strict=True)]
        found.add(evaluate(layout.place(index), sizes))
    return sorted(found - own)


def assert_close(found: Array, expected: Array, tolerance: float, what: str) -> None:
    assert found.dtype == expected.dtype and found.shape == expected.shape, what
    if not from_numpy(found.dtype).is_float:
        np.testing.assert_array_equal(found, expected, what)
        return
    rough = {DType.F16: 2e-3, DType.BF16: 1.6e-2}.get(from_numpy(found.dtype), tolerance)
    a, b = found.astype(np.float64), expected.astype(np.float64)
    np.testing.assert_allclose(a, b, rtol=rough, atol=rough, equal_nan=True, err_msg=what)


# ---- making kernels ------------------------------------------------------------------------------------------------


def symbolic(shape: Sequence[int], names: Mapping[int, str] | None = None) -> tuple[Dim, ...]:
    """A shape with the axes in `names` symbolic."""
    return tuple(sym(names[k]) if names and k in names else d for k, d in enumerate(shape))


def needed(nodes: Sequence[Node], outputs: set[str]) -> list[Node]:
    """The nodes that some outputs depend on; not the checks of what comes in, which are no kernels."""
    wanted, found = set(outputs), []
    for node in reversed(nodes):
        if any(v.name in wanted for v in node.outputs):
            wanted.update(node.inputs)
            found.append(node)
    return found[::-1]


def fused(
    build: Callable[..., Value | Sequence[Value]],
    arrays: Sequence[Array],
    names: Sequence[Mapping[int, str]] = (),
    **case: Any,
) -> Case:
    """All nodes that `build(builder, *inputs)` adds as one kernel; what is between them are temporaries.

    `names[k]` gives symbols to axes of input k.
    """
    b = Builder("case")
    sizes: dict[str, int] = {}
    values = []
    for k, array in enumerate(arrays):
        own = names[k] if k < len(names) else {}
        sizes.update({name: array.shape[axis] for axis, name in own.items()})
        values.append(b.input(f"x{k}", from_numpy(array.dtype), symbolic(array.shape, own)))
    made = build(b, *values)
    outputs = [made] if isinstance(made, Value) else list(made)
    kept = {v.name for v in outputs}
    nodes = needed(b.nodes, kept)
    stmts = [s for node in nodes for s in statements(node, b.lookup)]
    inputs = {v.name: a for v, a in zip(values, arrays, strict=True)}
    inputs |= b.constants
    known = {n: Tensor(n, from_numpy(a.dtype), a.shape) for n, a in b.constants.items()}
    known |= {v.name: Tensor(v.name, v.dtype, v.shape) for v in values}
    temps = {t.name: t for t in temporaries([s for s in stmts if s.index is None], kept)}
    for node in nodes:
        temps |= {v.name: Tensor(v.name, v.dtype, v.shape) for v in node.outputs if v.name not in kept}
    kernel = Kernel(
        "fused",
        tuple(known.values()),
        tuple(Tensor(v.name, v.dtype, v.shape) for v in outputs),
        tuple(temps.values()),
        tuple(stmts),
    )
    return Case(kernel, inputs, sizes, **case)


def one(
    name: str, arrays: Sequence[Array], names: Sequence[Mapping[int, str]] = (), /, _layouts: Any = None, **attrs: Any
) -> Case:
    """One op as a kernel."""
    return fused(lambda b, *xs: b.one(name, list(xs), **attrs), arrays, names, layouts=_layouts or {})


# ---- every schedule ------------------------------------------------------------------------------------------------


def all_schedules(case: Case) -> list[RowSchedule]:
    """Every way that a kernel of one part can be walked."""
    best = choose_schedule(case.kernel, case.all_layouts(), case.processor)
    if best.vector == "parts":
        return [best]
    found = [replace(best, vector="inner", lanes=case.lanes, axis=-1), replace(best, vector="none", lanes=1, axis=-1)]
    (segment,) = segments(normal_form(case.kernel))
    temps = place_temps(segment, temp_shapes(case.kernel), case.lanes, case.processor)
    shapes = {t.name: t.shape for t in (*case.kernel.inputs, *case.kernel.outputs, *case.kernel.temps)}
    layouts = with_plain(case.kernel, case.all_layouts(), temps)
    kept = {n: layout for n, layout in layouts.items() if n not in near_tensors(temps)}
    rows = collapsed_rows(sorted_rows(flatten(segment, kept, shapes), temps)).rows
    return found + [replace(best, vector="rows", lanes=case.lanes, axis=axis) for axis in range(len(rows))]
