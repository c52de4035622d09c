"""Ranges that values are quantised by."""

from __future__ import annotations

import numpy as np
import pytest

from mapsto.formats.ranges import CALIBRATORS, SeenValue, quantisation
from mapsto.formats.stored import quantisation_of


def seen(*arrays: np.ndarray) -> SeenValue:
    found = SeenValue()
    for see in (SeenValue.widen, SeenValue.count):
        for array in arrays:
            see(found, array)
    return found


@pytest.mark.parametrize(
    ("low", "high", "scale", "zero"),
    [(0, 255, 1, 0), (-128, 127, 1, 128), (-255, 0, 1, 255), (3, 255, 1, 0), (-255, -7, 1, 255), (0, 0, 1, 0)],
)
def test_the_finest_of_a_range_that_has_zero_in_it(low: float, high: float, scale: float, zero: int) -> None:
    found = quantisation_of(low, high)
    assert (found.scale, found.zero) == (scale, zero)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1e-40), (0.0, np.inf), (-np.inf, 1.0)])
def test_a_range_of_which_there_is_no_scale(low: float, high: float) -> None:
    assert quantisation_of(low, high).scale == 1.0


@pytest.mark.parametrize("calibrator", CALIBRATORS)
@pytest.mark.parametrize("sign", [1, -1])
def test_an_outlier_is_cut_by_all_but_one(calibrator: str, sign: int) -> None:
    """Of 300,000 normal numbers the best range is one of about 4 standard deviations (Banner et al., 2019: 3.9 for 8
    bits); one number of 12 is worth no step of all others, to all but its own square (mse).
    """
    rng = np.random.default_rng(0)
    data = (sign * np.concatenate([rng.standard_normal(300_000), [12.0]])).astype(np.float32)
    found = quantisation(seen(data[:1000], data[1000:]), calibrator)
    reach = max(found.scale * (255 - found.zero), found.scale * found.zero)
    assert reach == pytest.approx(12, rel=0.02) if calibrator == "min-max" else 3 <= reach <= 8


@pytest.mark.parametrize("calibrator", CALIBRATORS)
def test_what_a_relu_makes_has_its_zeros_exactly(calibrator: str) -> None:
    data = np.maximum(np.random.default_rng(1).standard_normal(100_000), 0).astype(np.float32)
    found = quantisation(seen(data), calibrator)
    assert found.zero == 0
    assert 2.5 <= found.scale * 255 <= float(data.max()) * 1.001


@pytest.mark.parametrize("calibrator", CALIBRATORS)
@pytest.mark.parametrize(
    "data",
    [
        np.zeros(5),
        np.zeros(0),
        np.full(3, 2.5),
        np.full(3, -2.5),
        np.array([np.nan, np.inf]),
        np.array([np.nan, 1.0]),
    ],
)
def test_odd_data(calibrator: str, data: np.ndarray) -> None:
    found = quantisation(seen(data.astype(np.float32)), calibrator)
    assert np.isfinite(found.scale)
    assert found.scale > 0
    assert 0 <= found.zero <= 255
    finite = data[np.isfinite(data)]
    whole = np.clip(np.rint(finite / found.scale) + found.zero, 0, 255)
    assert np.abs((whole - found.zero) * found.scale - finite).max(initial=0.0) <= found.scale / 2


def test_a_histogram_is_of_all_data() -> None:
    first, second = np.linspace(0, 1, 1000), np.linspace(-3, 1, 1001)
    assert seen(first, second).counts.sum() == 2001 - 2  # without their zeros
    assert (seen(first, second).low, seen(first, second).high) == (-3, 1)
