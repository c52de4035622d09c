"""Predictions of whole graphs: a figure for each kernel that runs, from nothing but the machine."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.plan.graphs import layer_norm_rows, small_cnn
from tests.plan.support import asked
from tests.session.support import Feed, normal, parse

import mapsto
from mapsto.devices.cpu import isa as isas
from mapsto.devices.cpu.typical import typical
from mapsto.ir.expr import sym
from mapsto.ir.text import parse_graph
from mapsto.machine.cost import Cost
from mapsto.machine.spec import DeviceSpec
from mapsto.session.compile import prepared
from mapsto.session.predict import predict

SPEC = typical(isas.AVX512, 2)

LSTM = """g (float[7, 1, 16] x, float[1, 32, 16] w, float[1, 32, 8] r) => (float[7, 1, 1, 8] y) {
    y = LSTM<hidden_size = 8>(x, w, r)
}"""
BRANCHES = """g (float[1, 16, 8, 8] x, bool c) => (float[1, 16, 8, 8] y) {
    y = If (c) <
        then_branch = t () => (float[1, 16, 8, 8] a) { k = Exp(x) a = Tanh(k) },
        else_branch = e () => (float[1, 16, 8, 8] b) { b = Identity(x) }
    >
}"""
FLAT = """g (float[4, 6, 10] x, float[2, 6, 20] z) => (float[4, 4] y, int64[4, 2] i) {
    shape = Constant<value_ints = [4, 60]>()
    f = Reshape(x, shape)
    two = Constant<value_ints = [2]>()
    other = Constant<value_ints = [4, 60]>()
    g = Reshape(z, other)
    t = Transpose(g)
    y = MatMul(f, t)
    v, i = TopK(f, two)
}"""

MODELS: dict[str, tuple[Any, Feed]] = {
    "cnn": (small_cnn(), {"x": normal(1, 3, 32, 32)}),
    "open cnn": (small_cnn(sym("h"), sym("w")), {"x": normal(1, 3, 19, 24)}),
    "layer norm": (layer_norm_rows(), {}),
    "lstm": (parse(LSTM), {"x": normal(7, 1, 16), "w": normal(1, 32, 16), "r": normal(1, 32, 8)}),
    "branches": (parse(BRANCHES), {"x": normal(1, 16, 8, 8), "c": np.array(True)}),
    "packed at run time, top-k": (parse(FLAT), {"x": normal(4, 6, 10), "z": normal(2, 6, 20)}),
}
each_model = pytest.mark.parametrize("name", MODELS)


def costs(model: Any, sizes: dict[str, int], spec: DeviceSpec = SPEC, threads: int = 1) -> dict[str, Cost]:
    graph = prepared(model, None)
    found = predict(graph, sizes, asked(graph, spec), threads)
    return {name: predicted.cost for name, predicted in found.items()}


def total(model: Any, sizes: dict[str, int], spec: DeviceSpec = SPEC, threads: int = 1) -> float:
    return sum(cost.seconds for cost in costs(model, sizes, spec, threads).values())


@each_model
def test_every_kernel_that_runs_has_a_price(name: str) -> None:
    model, feed = MODELS[name]
    executable = mapsto.compile(model, threads=1)
    inputs = [feed[p.name] if feed else np.ones(p.shape, p.dtype.numpy) for p in executable.program.inputs]  # type: ignore[arg-type]
    found = costs(model, executable.sizes(*inputs))
    ran = {step.label.split(" ")[0] for step in executable.profile(*inputs) if step.calls}
    assert ran and ran <= set(found)
    assert all(1e-9 < cost.seconds < 1.0 and cost.bytes > 0 for cost in found.values())


@each_model
def test_prices_are_the_same_every_time(name: str) -> None:
    model, _ = MODELS[name]
    assert costs(model, {}) == costs(model, {})


@each_model
def test_a_faster_processor_is_never_slower(name: str) -> None:
    model, _ = MODELS[name]
    faster = replace(
        SPEC,
        peaks={k: 2 * v for k, v in SPEC.peaks.items()},
        rates={k: v / 2 for k, v in SPEC.rates.items()},
        moves={k: v / 2 for k, v in SPEC.moves.items()},
        scalar=SPEC.scalar / 2,
        latency=SPEC.latency / 2,
    )
    assert total(model, {}, faster) < total(model, {})


def test_larger_pictures_cost_more() -> None:
    model, _ = MODELS["open cnn"]
    small, large = (total(model, {"h": size, "w": size}) for size in (32, 128))
    assert small < large / 4


def test_operations_are_those_of_the_network() -> None:
    model, _ = MODELS["cnn"]
    found = sum(cost.operations for cost in costs(model, {}).values())
    graph = prepared(model, None)
    products = 0
    for node in graph.nodes:
        if node.op == "conv":
            weights = graph.values()[node.inputs[1]].shape
            products += int(np.prod(node.outputs[0].shape)) * int(np.prod(weights[1:]))
    assert 2 * products <= found < 2.5 * products


def test_constants_of_a_large_model_come_from_memory_and_those_of_a_small_one_do_not() -> None:
    """A product of one row reads its weights once: their way decides what it takes."""

    def seconds(width: int) -> float:
        text = f"g (float[1, {width}] x) => (float[1, {width}] y) {{ y = MatMul(x, w) }}"
        model = parse(text)
        import onnx.numpy_helper

        weights = normal(width, width)
        model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
        return total(model, {})

    assert seconds(4096) / seconds(128) > 1.5 * (4096 / 128) ** 2 * 0.5


def test_two_threads_share_large_kernels() -> None:
    model, _ = MODELS["open cnn"]
    sizes = {"h": 256, "w": 256}
    assert total(model, sizes) / 2 < total(model, sizes, threads=2) < total(model, sizes)


def test_each_result_of_a_contraction_is_counted_as_written() -> None:
    graph = parse_graph(
        """graph g(x: f32[64, 96], w: f32[96, 128]) -> (z) {
          m: f32[64, 128] = matmul(x, w)
          y: f32[64, 128] = relu(m)
          t: f32[128, 64] = transpose(y) {perm: (1, 0)}
          n: f32[64, 64] = matmul(m, t)
          z: f32[64, 64] = tanh(n)
        }"""
    )
    found = predict(graph, {}, asked(graph, SPEC))
    written = [[s.bytes for s in p.tallies[-1].streams if s.writes] for p in found.values() if p.tallies]
    assert [64 * 128 * 4.0] * 2 in written, written
