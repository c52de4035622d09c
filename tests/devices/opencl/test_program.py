"""One lowering, two machines: the loop code that the CPU device makes of whole programs, printed to OpenCL C as well,
gives the answers of the native code, to the bit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from tests.plan.graphs import conv, silu, small_cnn

from mapsto.devices.cpu.functions import Functions
from mapsto.devices.making.code import Unwritten
from mapsto.devices.opencl.device import Device
from mapsto.devices.opencl.engine import OpenClEngine
from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Graph
from mapsto.loop.ast import Function
from mapsto.loop.opencl import to_opencl
from mapsto.ops import composite
from mapsto.ops.builder import Builder
from mapsto.runtime.executable import Executable
from mapsto.runtime.program import Program
from mapsto.session.entry import compile_model

pytestmark = pytest.mark.opencl


def elementwise() -> Graph:
    """A GELU of a sum, with a row broadcast."""
    b = Builder("elementwise")
    x, y = b.input("x", DType.F32, (7, 45)), b.input("y", DType.F32, (45,))
    total = b.one("add", [x, y])
    half = b.constant(np.float32(0.5), "half")
    inner = b.one("erf", [b.one("mul", [total, b.constant(np.float32(np.sqrt(0.5)), "root")])])
    gate = b.one("add", [b.one("mul", [inner, half]), half])
    return b.finish([b.one("mul", [total, gate])])


def reduction() -> Graph:
    """A softmax along rows whose length is no multiple of the lanes, and the largest of each column."""
    b = Builder("reduction")
    x = b.input("x", DType.F32, (6, 77))
    soft = composite.softmax(b, x, -1)
    return b.finish([soft, b.one("reduce", [soft], kind="max", axes=(0,), keepdims=False)])


def convolution() -> Graph:
    """Two 3x3 convolutions with bias and SiLU: a plain input, a blocked layout with borders, 24 channels (a tail)."""
    b = Builder("convolution")
    x = b.input("x", DType.F32, (1, 3, 13, 11))
    y = silu(b, conv(b, x, 24, bias=True))
    return b.finish([silu(b, conv(b, y, 40, stride=2, bias=True))])


def matrix_product() -> Graph:
    """Of two inputs (packed at run time), and of one with constant weights."""
    b = Builder("matrix_product")
    x, y = b.input("x", DType.F32, (19, 33)), b.input("y", DType.F32, (33, 50))
    weights = b.constant(np.random.default_rng(5).standard_normal((50, 21)).astype(np.float32), "w")
    return b.finish([b.one("matmul", [b.one("matmul", [x, y]), weights])])


def compiled(graph: Graph, monkeypatch: pytest.MonkeyPatch) -> tuple[Executable, dict[str, Function]]:
    """The native executable, and the loop functions that it was printed from, by their names in the program."""
    functions: dict[str, Function] = {}
    add = Functions.add

    def remembered(self: Functions, function: Function, optimizer: str) -> str:
        name = add(self, function, optimizer)
        functions[name] = dataclasses.replace(function, name=name)
        return name

    later = Functions.add_later

    def remembered_later(self: Functions, source: Unwritten, optimizer: str) -> str:
        name = later(self, source, optimizer)
        functions[name] = dataclasses.replace(source.write(), name=name)
        return name

    monkeypatch.setattr(Functions, "add", remembered)
    monkeypatch.setattr(Functions, "add_later", remembered_later)
    return compile_model(graph, threads=1), functions


def on_device(device: Device, program: Program, functions: dict[str, Function]) -> Executable:
    """The same program, every call an OpenCL kernel."""
    used = {name: functions[name] for name in program.functions()}
    engine = OpenClEngine("opencl", device, used, dict.fromkeys(used, device.build(to_opencl(used.values()))))
    exe = Executable(program, [], 1, engine=engine)
    exe.poison()
    return exe


def network() -> Graph:
    """Convolutions, a residual, a concat, a mean, a matrix product, a softmax."""
    return small_cnn(14, 14)


@pytest.mark.parametrize("make", [elementwise, reduction, convolution, matrix_product, network])
def test_opencl_gives_the_answer_of_the_native_code(
    make: Callable[[], Graph], device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = make()
    exe, functions = compiled(graph, monkeypatch)
    contractions = [step.label for step in exe.program.steps if " contraction " in step.label]
    assert bool(contractions) == (make in (convolution, matrix_product, network))  # the templates are under test too
    rng = np.random.default_rng(8)
    inputs = {v.name: rng.standard_normal([int(d) for d in v.shape]).astype(np.float32) for v in graph.inputs}
    native = exe.run(inputs)
    ours = on_device(device, exe.program, functions).run(inputs)
    assert native.keys() == ours.keys()
    for name, wanted in native.items():
        assert np.isfinite(wanted).all()
        np.testing.assert_array_equal(ours[name], wanted, err_msg=name)
