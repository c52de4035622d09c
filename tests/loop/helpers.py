"""Functions of the loop language built around one expression, for tests."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence

import numpy as np

from mapsto.devices.cpu.compiler import compile_modules
from mapsto.devices.cpu.isa import Isa
from mapsto.devices.cpu.loader import load_objects
from mapsto.ir.dtypes import DType, from_numpy
from mapsto.ir.expr import mul, sym
from mapsto.loop.ast import For, Function, Load, Param, Statement, Store, Type, Value
from mapsto.loop.interpret import interpret
from mapsto.loop.llvm import to_llvm


def fresh_names() -> Callable[[str], str]:
    count = 0

    def fresh(hint: str) -> str:
        nonlocal count
        count += 1
        return f"{hint}{count}"

    return fresh


def elementwise(
    build: Callable[[list[Value]], tuple[list[Statement], Value]], elements: list[DType], lanes: int
) -> Function:
    """out[0:lanes] = build(in0[0:lanes], in1[0:lanes], ...)."""
    loads: list[Value] = [Load(f"in{i}", 0, Type(e, lanes)) for i, e in enumerate(elements)]
    statements, value = build(loads)
    params = tuple(Param(f"in{i}", e) for i, e in enumerate(elements))
    out = Param("out", value.type.element, writes=True)
    return Function("elementwise", (*params, out), (), (*statements, Store("out", 0, value)))


def evaluate_lanes(
    build: Callable[[list[Value]], tuple[list[Statement], Value]], inputs: list[np.ndarray]
) -> np.ndarray:
    """The interpreter's result over all elements of the inputs at once (padded to a power of two)."""
    count = inputs[0].size
    lanes = 1 << (count - 1).bit_length()
    padded = [np.concatenate([x, np.ones(lanes - count, x.dtype)]) for x in inputs]
    function = elementwise(build, [from_numpy(x.dtype) for x in inputs], lanes)
    out = np.zeros(lanes, function.params[-1].element.numpy)
    interpret(function, [*padded, out], {}, 0, 1)
    return out[:count]


def streamed(
    name: str, build: Callable[[list[Value]], tuple[list[Statement], Value]], elements: list[DType], lanes: int
) -> Function:
    """out = build(in0, in1, ...) over `lanes` elements a step; begin and end count steps."""
    step = mul(sym("i"), lanes)
    loads: list[Value] = [Load(f"in{k}", step, Type(e, lanes)) for k, e in enumerate(elements)]
    statements, value = build(loads)
    params = tuple(Param(f"in{k}", e) for k, e in enumerate(elements))
    out = Param("out", value.type.element, writes=True)
    body = (*statements, Store("out", step, value))
    return Function(name, (*params, out), (), (For("i", sym("begin"), sym("end"), body),))


NativeCall = Callable[[Sequence[np.ndarray], Sequence[int], int, int], None]


def native(functions: Sequence[Function], isa: Isa) -> dict[str, NativeCall]:
    """The functions as machine code for an instruction set, callable like the interpreter."""
    (code,) = compile_modules([(functions[0].name, to_llvm(functions, isa.capabilities))], isa, workers=1)
    addresses = load_objects([code])

    def caller(address: int) -> NativeCall:
        entry = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)(address)

        def call(buffers: Sequence[np.ndarray], dims: Sequence[int], begin: int, end: int) -> None:
            pointers = (ctypes.c_void_p * max(len(buffers), 1))(*(b.ctypes.data for b in buffers))
            sizes = (ctypes.c_int64 * max(len(dims), 1))(*dims)
            entry(ctypes.addressof(pointers), ctypes.addressof(sizes), begin, end)

        return call

    return {f.name: caller(addresses[f.name]) for f in functions}
