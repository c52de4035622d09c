"""Steps that compute values anew instead of keeping them: the same gradients, less memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from mapsto.errors import ArgumentError
from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Graph
from mapsto.ops.builder import Builder
from mapsto.ops.interpret import run_graph
from mapsto.ops.registry import op
from mapsto.passes import gradient
from mapsto.passes.recompute import MEMORY, recomputed
from mapsto.train import Trainer

CONV = {"strides": (1, 1), "dilations": (1, 1), "group": 1, "pads": (1, 1, 1, 1)}
POOL = {"strides": (2, 2), "kernel": (2, 2), "pads": (0, 0, 0, 0), "dilations": (1, 1)}


def network(layers: int = 4, size: int = 16, pools: bool = False) -> Graph:
    """Convolutions, each normalised by its own statistics, then x * sigmoid(x)."""
    rng = np.random.default_rng(0)
    b = Builder("net")
    y = b.input("x", DType.F32, (2, 8, size, size))
    for k in range(layers):
        y = b.one("conv", [y, b.constant(rng.standard_normal((8, 8, 3, 3)) / 8, f"w{k}", DType.F32)], **CONV)
        mean = b.one("reduce", [y], kind="mean", axes=(0, 2, 3), keepdims=True)
        y = b.one("sub", [y, mean])
        y = b.one("mul", [y, b.one("sigmoid", [y])])
        y = b.one("max_pool", [y], **POOL) if pools else y
    scores = b.one("reduce", [y], kind="mean", axes=(2, 3), keepdims=False)
    return b.finish([scores], names=["scores"])


def trainer(memory: str, **kwargs: Any) -> Trainer:
    return Trainer(network(**kwargs), "cross_entropy", "sgd", threads=1, memory=memory)


def batch(size: int = 16) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {"x": rng.standard_normal((2, 8, size, size)).astype(np.float32), "label": np.array([1, 5])}


@pytest.mark.parametrize("pools", [False, True])
@pytest.mark.parametrize("memory", [m for m in MEMORY if m != "fast"])
def test_steps_are_the_same(memory: str, pools: bool) -> None:
    kept, anew = trainer("fast", pools=pools), trainer(memory, pools=pools)
    for _ in range(5):
        assert anew.step(batch()) == pytest.approx(kept.step(batch()), rel=1e-5)
    for name, array in kept.parameters.items():
        np.testing.assert_allclose(anew.parameters[name], array, rtol=1e-4, atol=1e-6)


def test_memory_becomes_less() -> None:
    """And what a step takes is near the bound that `memory` says."""
    took = {memory: trainer(memory, layers=8, size=32).executable.memory() for memory in MEMORY}
    assert took["balanced"].arena < 0.75 * took["fast"].arena
    assert took["min"].arena <= took["balanced"].arena
    assert all(use.arena <= 1.2 * use.arena_bound for use in took.values())


def differentiated(**kwargs: Any) -> Graph:
    graph = network(**kwargs)
    b = Builder("loss")
    values = {v.name: b.input(v.name, v.dtype, v.shape) for v in graph.inputs}
    values.update({name: b.constant(array, name) for name, array in graph.constants.items()})
    for node in graph.nodes:
        made = b.add(node.op, [values[n] for n in node.inputs], node.attrs)
        values.update(zip((v.name for v in node.outputs), made, strict=True))
    loss = b.one("reduce", [values["scores"]], kind="sum", axes=(0, 1), keepdims=False)
    return gradient(b.finish([loss], names=["loss"]), "loss", ["w0", "w1"])


def test_no_product_is_computed_twice() -> None:
    before = differentiated()
    after = recomputed(before, "loss", "min")
    again = [node for node in after.nodes if "again" in node.attrs]
    assert again and {op(node.op).kind for node in again} <= {"elementwise", "movement", "reduction", "window"}
    count = [sum(op(node.op).kind == "contraction" for node in graph.nodes) for graph in (before, after)]
    assert count[0] == count[1]


def test_what_is_computed_anew_stands_behind_the_loss() -> None:
    after = recomputed(differentiated(), "loss", "balanced")
    places = {value.name: at for at, node in enumerate(after.nodes) for value in node.outputs}
    assert all(places[node.outputs[0].name] > places["loss"] for node in after.nodes if "again" in node.attrs)


def test_graphs_are_equal_in_value() -> None:
    before = differentiated(layers=2, size=6)
    rng = np.random.default_rng(3)
    given = {v.name: rng.standard_normal([int(d) for d in v.shape]).astype(np.float32) for v in before.inputs}  # type: ignore[arg-type]
    want = run_graph(before, given, wide=True)
    for memory in MEMORY:
        found = run_graph(recomputed(before, "loss", memory), given, wide=True)
        for name, array in want.items():
            np.testing.assert_allclose(found[name], array, rtol=1e-9, atol=1e-12)


def test_fast_changes_nothing() -> None:
    graph = differentiated()
    assert recomputed(graph, "loss", "fast") is graph


@pytest.mark.parametrize("memory", ["less", "", None, 3])
def test_other_words_are_refused(memory: Any) -> None:
    with pytest.raises(ArgumentError, match="memory: .* is none of fast, balanced, min"):
        trainer(memory)
