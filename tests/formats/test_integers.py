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
    """Beside bytes some are rounded to the other side, the nearest to it."""
    w = np.random.default_rng(1).standard_normal((64, 7)).astype(np.float32)
    for steps, nearest in ((None, 0.65), (1000, 0.50001), (20000, 0.50001)):
        whole, scales = integer_weights("matmul", w, steps)
        assert np.abs(whole * scales - w).max() <= scales.max() * nearest


EVENED = {
    "conv": [(24, 7, 3, 3), (5, 1, 5, 5), (3, 4, 1, 1), (6, 2, 9, 9), (1, 1, 1, 1)],
    "matmul": [(300, 9), (1, 4), (65, 1)],
}


@pytest.mark.parametrize(("op", "shape"), [(op, shape) for op, shapes in EVENED.items() for shape in shapes])
def test_errors_of_a_channel_cancel_out(op: str, shape: tuple[int, ...]) -> None:
    """To within half a step, and no weight is a step away or more: what has one mean throughout keeps its sums."""
    for seed in range(5):
        w = (np.random.default_rng(seed).gamma(2.0, size=shape) - 1.0).astype(np.float32)
        whole, scales = integer_weights(op, w, None)
        scale = scales.reshape(-1, *(1,) * (w.ndim - 1)) if op == "conv" else scales
        error = w.astype(np.float64) / scale - whole
        channels = error.reshape(len(error), -1) if op == "conv" else error.T
        assert np.abs(channels.sum(axis=1)).max() <= 0.5 + 1e-6
        assert np.abs(error).max() < 1 and np.abs(whole).max() <= 127
        if w.size >= 60 * len(scales):
            plain = w.astype(np.float64) / scale - np.rint(w / scale)
            assert (error**2).mean() <= 1.4 * (plain**2).mean() + 1e-3


def test_errors_of_windows_cancel_out_before_those_of_channels() -> None:
    """A channel of what is read has a mean of its own: few windows are off by more than half a step."""
    w = np.random.default_rng(3).standard_normal((16, 32, 3, 3)).astype(np.float32)
    whole, scales = integer_weights("conv", w, None)
    sums = np.abs((w.astype(np.float64) / scales.reshape(-1, 1, 1, 1) - whole).sum(axis=(2, 3)))
    plain = np.abs((w / scales.reshape(-1, 1, 1, 1) - np.rint(w / scales.reshape(-1, 1, 1, 1))).sum(axis=(2, 3)))
    assert (sums > 0.5 + 1e-6).mean() < 0.15 < 0.4 < (plain > 0.5).mean()


def test_what_is_not_finite_is_rounded_as_it_is() -> None:
    w = np.array([[1.0, np.inf], [0.3, 2.0]], np.float32)
    with np.errstate(invalid="ignore"):
        whole, _ = integer_weights("matmul", w, None)
    assert whole.shape == (2, 2)


def test_channels_of_zeros() -> None:
    w = np.zeros((2, 4, 1, 1), np.float32)
    w[1, 0] = 3.0
    whole, scales = integer_weights("conv", w, steps_for("conv", w))
    assert not whole[0].any()
    assert scales[0] == 1.0
    assert whole[1, 0, 0, 0] * scales[1] == pytest.approx(3.0)
