"""Runs the calls of a routine, by the loop interpreter or as native code, with guarded and poisoned memory."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from mapsto.devices.contraction.template import plan_contraction
from mapsto.devices.cpu.compiler import compile_modules
from mapsto.devices.cpu.isa import SSE2, Isa
from mapsto.devices.cpu.loader import load_objects
from mapsto.devices.routines import RoutineCall, RoutineCode, RoutineKernel, Vectors, routine
from mapsto.ir.dtypes import DType, from_numpy
from mapsto.ir.expr import evaluate
from mapsto.ir.graph import Node, Value
from mapsto.kernel.interpret import run_statement
from mapsto.loop.interpret import interpret
from mapsto.loop.llvm import to_llvm

GUARD = 64  # bytes after each operand that must stay as they were


def vectors(isa: Isa | None = None, lanes: int = 4) -> Vectors:
    """Those of an instruction set; else of a made-up one with so many lanes."""
    core = isa or replace(SSE2, vector_bits=32 * lanes, abilities=frozenset({"fma"}))
    return Vectors(
        core.lanes(DType.F32), core.has("fma"), lambda form, allowed: plan_contraction(form, core.core, allowed)
    )


def values_of(arrays: Mapping[str, np.ndarray | None]) -> tuple[Value | None, ...]:
    """Graph values with the arrays' types and shapes."""
    return tuple(None if a is None else Value(n, from_numpy(a.dtype), a.shape) for n, a in arrays.items())


class Native:
    """A routine's functions, compiled."""

    def __init__(self, code: RoutineCode, isa: Isa) -> None:
        functions = [call.function for call in code.parts if isinstance(call, RoutineCall)]
        text = to_llvm(functions, isa.capabilities) if functions else ""
        addresses = load_objects(compile_modules([("routine", text)], isa, workers=1)) if functions else {}
        signature = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
        self.functions = {f.name: signature(addresses[f.name]) for f in functions}

    def call(self, name: str, buffers: list[np.ndarray], dims: list[int], begin: int, end: int) -> None:
        pointers = np.array([b.ctypes.data for b in buffers], np.uint64)
        sizes = np.array([*dims, 0], np.int64)
        self.functions[name](pointers.ctypes.data, sizes.ctypes.data, begin, end)


class Memory:
    """Operands by name, 64-byte aligned, filled with 0xFF (NaN) and followed by guard bytes."""

    def __init__(self) -> None:
        self.raw: dict[str, np.ndarray] = {}
        self.flat: dict[str, np.ndarray] = {}

    def place(self, name: str, dtype: DType, elements: int) -> np.ndarray:
        size = elements * dtype.size
        room = np.full(size + GUARD + 64, 0xFF, np.uint8)
        start = -room.ctypes.data % 64
        self.raw[name] = room[start + size :]
        self.flat[name] = room[start : start + size].view(dtype.numpy)
        return self.flat[name]

    def check(self) -> None:
        for name, rest in self.raw.items():
            assert (rest == 0xFF).all(), f"something wrote past the end of {name}"


def run(
    node: Node, arrays: Mapping[str, np.ndarray | None], symbols: Mapping[str, int] | None = None, *,
    inputs: tuple[Value | None, ...] | None = None, isa: Isa | None = None, lanes: int = 4, shares: int = 1,
) -> dict[str, np.ndarray]:  # fmt: skip
    """The node's outputs. isa None: interpreted, with `lanes`. shares: parts that a call is split into, last first."""
    symbols = dict(symbols or {})
    code = routine(node, inputs or values_of(arrays), "r", vectors(isa, lanes))
    memory = Memory()
    for name, array in arrays.items():
        if array is not None:
            memory.place(name, from_numpy(array.dtype), array.size)[:] = array.reshape(-1)
    for out in node.outputs:
        memory.place(out.name, out.dtype, math.prod(evaluate(d, symbols) for d in out.shape))
    native = Native(code, isa) if isa else None
    for call in code.parts:
        for scratch in call.scratch if isinstance(call, RoutineCall) else (call.scratch,):
            memory.place(scratch.name, scratch.dtype, math.prod(evaluate(d, symbols) for d in scratch.shape))
        if not isinstance(call, RoutineCall):
            _fill(call, arrays, memory.flat[call.scratch.name])
            continue
        buffers = [memory.flat[name] for name in call.operands]
        dims = [symbols[d] for d in call.function.dims]
        extent = evaluate(call.extent, symbols)
        cuts = [extent * i // shares for i in range(shares + 1)]
        for begin, end in reversed(list(zip(cuts, cuts[1:], strict=False))):
            if native:
                native.call(call.function.name, buffers, dims, begin, end)
            else:
                interpret(call.function, buffers, dims, begin, end)
    memory.check()
    return {o.name: memory.flat[o.name].reshape([evaluate(d, symbols) for d in o.shape]) for o in node.outputs}


def _fill(kernel: RoutineKernel, arrays: Mapping[str, np.ndarray | None], into: np.ndarray) -> None:
    """Runs the statements of a kernel by the oracle of kernels."""
    name, shape = kernel.scratch.name, tuple(int(d) for d in kernel.scratch.shape)  # type: ignore[arg-type]
    tensors = {**{n: a for n, a in arrays.items() if a is not None}, name: into.reshape(shape)}
    for stmt in kernel.stmts:
        run_statement(stmt, tensors, {})
