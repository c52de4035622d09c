"""Weights of products of integers: their sums fit 32 bits, and they are as fine as that allows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mapsto.formats.integers import holds_shorts, integer_weights, steps_for

SHAPES = {"conv": (4, 3, 3, 3), "matmul": (37, 5)}


@settings(max_examples=200, deadline=None)
@given(
    op=st.sampled_from(list(SHAPES)),
    seed=st.integers(0, 2**31),
    spread=st.floats(0, 6),
    scale=st.floats(-30, 30),
    steps=st.none() | st.integers(1, 32767),
)
def test_no_sum_leaves_32_bits(op: str, seed: int, spread: float, scale: float, steps: int | None) -> None:
    rng = np.random.default_rng(seed)
    drawn = rng.standard_normal(SHAPES[op]) * np.exp(spread * rng.standard_normal(SHAPES[op])) * 10.0**scale
    w = drawn.astype(np.float32)
    steps = steps_for(op, w) if steps is None else steps
    whole, scales = integer_weights(op, w, steps)
    channels = whole.reshape(whole.shape[0], -1) if op == "conv" else whole.T
    assert int(np.abs(channels.astype(np.int64)).sum(axis=1).max()) * steps <= 2**31 - 1
    assert np.abs(whole).max() < 2**15
    assert scales.shape == (channels.shape[0],)


def largest_and_steps(op: str, w: np.ndarray) -> tuple[int, int]:
    steps = steps_for(op, w)
    return int(np.abs(integer_weights(op, w, steps)[0]).max()), steps


def test_few_terms_have_all_the_steps_there_are() -> None:
    most, steps = largest_and_steps("matmul", np.ones((2, 3), np.float32))
    assert steps == 32767
    assert most > 32000


def test_bits_are_shared() -> None:
    """512 channels of 3x3: 2^31 are about 8 x 483 x 483 x (the sum of weights over their largest, some 1150)."""
    w = np.random.default_rng(0).standard_normal((8, 512, 3, 3)).astype(np.float32)
    most, steps = largest_and_steps("conv", w)
    assert 2500 < steps < 5000
    assert steps / 12 < most < steps / 4


@pytest.mark.parametrize(("terms", "holds"), [(20_000, True), (400_000, False)])
def test_so_many_terms_that_weights_would_be_coarser_than_bytes(terms: int, holds: bool) -> None:
    w = np.ones((terms, 1), np.float32)
    assert holds_shorts("matmul", w, steps_for("matmul", w)) == holds


def test_weights_are_as_near_as_half_a_step() -> None:
    w = np.random.default_rng(1).standard_normal((64, 7)).astype(np.float32)
    for steps in (None, 1000, 20000):
        whole, scales = integer_weights("matmul", w, steps)
        assert np.abs(whole * scales - w).max() <= scales.max() * 0.50001


def test_channels_of_zeros() -> None:
    w = np.zeros((2, 4, 1, 1), np.float32)
    w[1, 0] = 3.0
    whole, scales = integer_weights("conv", w, steps_for("conv", w))
    assert not whole[0].any()
    assert scales[0] == 1.0
    assert whole[1, 0, 0, 0] * scales[1] == pytest.approx(3.0)
