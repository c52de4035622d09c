"""Runs the calls of a routine, by the loop interpreter or as native code, with guarded and poisoned memory."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping

import numpy as np

from mapsto.devices.cpu.compiler import compile_modules
from mapsto.devices.cpu.isa import Isa
from mapsto.devices.cpu.loader import load_objects
from mapsto.devices.routines import RoutineCode, routine
from mapsto.ir.dtypes import DType, from_numpy
from mapsto.ir.expr import evaluate
from mapsto.ir.graph import Node, Value
from mapsto.loop.interpret import interpret
from mapsto.loop.llvm import to_llvm

GUARD = 64  # bytes after each operand that must stay as they were


def values_of(arrays: Mapping[str, np.ndarray | None]) -> tuple[Value | None, ...]:
    """Graph values with the arrays' types and shapes."""
    return tuple(None if a is None else Value(n, from_numpy(a.dtype), a.shape) for n, a in arrays.items())


class Native:
    """A routine's functions, compiled."""

    def __init__(self, code: RoutineCode, isa: Isa) -> None:
        functions = [call.function for call in code.functions]
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
    fused = isa is None or isa.has("fma")
    width, registers = (isa.lanes(DType.F32), isa.registers) if isa else (lanes, 16)
    code = routine(node, inputs or values_of(arrays), width, "r", fused, registers)
    memory = Memory()
    for name, array in arrays.items():
        if array is not None:
            memory.place(name, from_numpy(array.dtype), array.size)[:] = array.reshape(-1)
    for out in node.outputs:
        memory.place(out.name, out.dtype, math.prod(evaluate(d, symbols) for d in out.shape))
    native = Native(code, isa) if isa else None
    for call in code.functions:
        for scratch in call.scratch:
            memory.place(scratch.name, scratch.dtype, math.prod(evaluate(d, symbols) for d in scratch.shape))
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
