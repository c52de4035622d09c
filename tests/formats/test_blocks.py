"""Weights in blocks of integers: how far they are from what they stand for, and what cannot be rounded so."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mapsto.formats.blocks import BLOCK, block_weights
from mapsto.formats.chosen import chosen
from mapsto.formats.format import wanted
from mapsto.formats.narrow import Narrowed
from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Graph
from mapsto.ops.blocks import dequantised_blocks
from mapsto.ops.builder import Builder
from mapsto.ops.interpret import run_graph
from mapsto.passes import run_passes

LIMITS = {DType.I8: (-127, 127), DType.I4: (-8, 7)}
INTEGERS = list(LIMITS)


def weights(*shape: int, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def real(w: np.ndarray, dtype: DType) -> np.ndarray:
    return dequantised_blocks(*block_weights(w, dtype), BLOCK)


@given(st.integers(0, 70), st.integers(0, 9), st.sampled_from(INTEGERS), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_each_weight_is_near(depth: int, columns: int, dtype: DType, seed: int) -> None:
    """By half a step in 8 bits, where nothing is cut. In 4 bits by the place of what is cut and a fit of the scale."""
    w = weights(depth, columns, seed=seed)
    q, scale = block_weights(w, dtype)
    assert q.shape == w.shape and q.dtype == np.int8 and scale.dtype == np.float32
    assert scale.shape == (-(-depth // BLOCK), columns)
    low, high = LIMITS[dtype]
    assert ((low <= q) & (q <= high)).all()
    rows = np.repeat(scale, BLOCK, axis=0)[:depth].astype(np.float64)
    far = np.abs(w - dequantised_blocks(q, scale, BLOCK))
    largest = [np.abs(w[k : k + BLOCK]).max(axis=0) for k in range(0, depth, BLOCK)]
    bound = np.repeat(np.reshape(largest, scale.shape), BLOCK, axis=0)[:depth] * 0.21
    assert (far <= (np.abs(rows) * 0.5001 if dtype is DType.I8 else bound)).all()


def test_4_bits_lose_no_more_than_steps_of_the_farthest_would() -> None:
    """Block by block; less on the whole by a twentieth at least."""
    w = weights(BLOCK * 40, 16)
    blocks = w.reshape(40, BLOCK, 16)
    farthest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1)[:, None], axis=1)
    plain = np.clip(np.rint(blocks / (farthest / -8)), -8, 7) * (farthest / -8)
    found = real(w, DType.I4).reshape(blocks.shape)
    lost, before = (np.square(each - blocks).sum(axis=1) for each in (found, plain))
    assert (lost <= before * 1.0001).all()
    assert lost.sum() < 0.95 * before.sum()


@pytest.mark.parametrize("dtype", INTEGERS)
def test_what_lies_on_steps_is_exact(dtype: DType) -> None:
    low, high = LIMITS[dtype]
    q = np.random.default_rng(1).integers(low, high + 1, (3 * BLOCK, 5))
    q[::BLOCK] = low
    scale = 2.0 ** np.arange(-7, 8).reshape(3, 5)
    w = (q * np.repeat(scale, BLOCK, axis=0)).astype(np.float32)
    np.testing.assert_array_equal(real(w, dtype), w)


@pytest.mark.parametrize("dtype", INTEGERS)
def test_numbers_at_the_ends_of_their_range(dtype: DType) -> None:
    """Zeros stay zeros, what is below the steps of f32 becomes zero, nothing becomes infinite."""
    largest = float(np.finfo(np.float32).max)
    for value, to in ((0.0, 0.0), (1e-44, 0.0), (-1e-35, -1e-35), (largest / 2, largest / 2), (-largest, -largest)):
        found = real(np.full((BLOCK + 1, 2), value, np.float32), dtype)
        np.testing.assert_allclose(found, np.full((BLOCK + 1, 2), to), rtol=2e-7)
    mixed = np.float32([[largest], [-largest], [largest / 9], [0]])
    assert np.abs(real(mixed, dtype) - mixed).max() <= largest / 7


def product(w: np.ndarray, rank: int = 2) -> Graph:
    b = Builder("g")
    x = b.input("x", DType.F32, (3, 2, w.shape[-2])[-rank:])
    with b.source("fc"):
        return b.finish([b.one("matmul", [x, b.constant(w, "w")])], names=["y"])


@pytest.mark.parametrize(("name", "dtype"), [("int8-weights", DType.I8), ("int4-weights", DType.I4)])
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_the_graph(name: str, dtype: DType, rank: int) -> None:
    graph = product(weights(40, 6), rank)
    after = run_passes(graph, (Narrowed(chosen(graph, wanted(name))),))
    (node,) = after.nodes
    assert node.op == "block_matmul" and node.provenance == ("fc",) and node.attrs["block"] == BLOCK
    assert after.values()[node.inputs[1]].dtype is dtype
    x = weights(3, 2, 40)[(0,) * (3 - rank)]
    expected = x.astype(np.float64) @ real(graph.constants["w"], dtype)
    np.testing.assert_allclose(run_graph(after, {"x": x})["y"], expected, rtol=1e-6, atol=1e-6)


def test_what_is_refused() -> None:
    infinite = weights(8, 4)
    infinite[3, 2] = np.inf
    b = Builder("g")
    x, y = b.input("x", DType.F32, (4, 8)), b.input("y", DType.F32, (8, 4))
    run_time = b.finish([b.one("matmul", [x, y])])
    for graph, reason in (
        (product(infinite), "a weight is not finite"),
        (product(weights(3, 8, 4), 3), "its weights are no matrix"),
        (run_time, "its second operand is no constant, or both are"),
    ):
        (found,) = chosen(graph, wanted("int4-weights"))
        assert found.format is None and found.because == reason
        assert run_passes(graph, (Narrowed((found,)),)) == graph
