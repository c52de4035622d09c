"""A kernel of the list made the whole way (graph, plan, kernel, loops, LLVM); its step is taken out to be timed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from unittest.mock import patch

import numpy as np

from benchmarks.contraction.cases import Array, Convolution, Format, Product, random_operand
from benchmarks.contraction.native import SIGNATURE, Native, aligned
from mapsto.devices.cpu.workers import Workers
from mapsto.devices.making import quotes
from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Graph, Value
from mapsto.ops.builder import Builder
from mapsto.ops.interpret import run_graph
from mapsto.plan.plan import Work
from mapsto.runtime.executable import Executable
from mapsto.runtime.program import Run
from mapsto.session.compile import build, prepared


@dataclass(frozen=True)
class Whole:
    """The contraction step of a compiled graph: its function, memory for each operand, its range, what was chosen."""

    program: Executable  # keeps the code loaded
    native: Native
    operands: list[Array]
    extent: int
    schedule: str


def graph_of(shape: Convolution | Product, fmt: Format, rng: np.random.Generator) -> tuple[Graph, Array]:
    """The graph (one convolution or matrix product, as a user's model has it) and an input for it."""
    b = Builder("contraction")
    if isinstance(shape, Convolution):
        x = random_operand(rng, (shape.batch, shape.channels, *shape.output), fmt.a)
        weights = random_operand(rng, (shape.columns, shape.channels, *shape.window), fmt.b)
    else:
        x = random_operand(rng, (shape.rows, shape.depth), fmt.a)
        weights = random_operand(rng, (shape.depth, shape.columns), fmt.b)
    left, right = b.input("x", fmt.a, x.shape), b.constant(weights, "weights")
    if not fmt.accumulator.is_float:  # as ConvInteger and MatMulInteger are imported
        left, right = (b.one("cast", [v], to=DType.I32) for v in (left, right))
    return b.finish([_multiplied(b, shape, left, right)]), x


def _multiplied(b: Builder, shape: Convolution | Product, left: Value, right: Value) -> Value:
    if isinstance(shape, Product):
        return b.one("matmul", [left, right])
    pads = tuple(k // 2 for k in shape.window)
    return b.one("conv", [left, right], strides=(1, 1), pads=(*pads, *pads), dilations=(1, 1), group=1)


def compile_whole(shape: Convolution | Product, fmt: Format, workers: Workers, seed: int = 0) -> Whole:
    """Compile, check against the numpy interpreter, take the contraction step out. Exits where the result differs."""
    graph, x = graph_of(shape, fmt, np.random.default_rng(seed))
    with patch.object(quotes, "WORTH_POINTS", math.inf):  # the template is measured, not products at points
        exe = build(prepared(graph, None), workers, 1, None)
    (name,) = graph.outputs
    if not np.array_equal(exe(x), run_graph(graph, {"x": x})[name]):
        raise SystemExit(f"{fmt.name} {shape.name}: the result differs from numpy's")
    (work,) = (w for w in exe.plan.works if w.kind == "contraction")
    return _taken_out(exe, work)


def _taken_out(exe: Executable, work: Work) -> Whole:
    (step,) = (s for s in exe.program.steps if isinstance(s, Run) and s.label.startswith(f"{work.name} "))
    operands = []
    for index, offset in step.operands:
        buffer = exe.program.buffers[index]
        assert isinstance(buffer.bytes, int) and isinstance(offset, int)
        memory = np.zeros(buffer.bytes, np.uint8)
        if buffer.kind == "constant":
            memory[:] = np.frombuffer(exe.program.constants, np.uint8, buffer.bytes, buffer.offset)
        operands.append(aligned(memory)[offset:])
    assert isinstance(step.extent, int) and not step.dims
    native = Native(SIGNATURE(exe.addresses[step.function]))
    return Whole(exe, native, operands, step.extent, work.offer.schedule)
