"""What works are worth by prices of two devices' time: no prices are better, and no division takes less."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from mapsto.placement.bounds import prices
from mapsto.placement.model import Figures


def worth(seconds: Figures, price: Figures) -> float:
    """By the definition; of a device that a work cannot run on, its price does not matter."""
    priced = np.where(np.isinf(seconds), math.inf, np.where(np.isinf(seconds), 0, seconds) * price)
    return float(priced.min(axis=1).sum())


def drawn(seed: int, count: int) -> Figures:
    """Seconds of works on two devices: some take none, some run on one device only."""
    rng = np.random.default_rng(seed)
    seconds = rng.random((count, 2)) * rng.choice([1e-6, 1.0], (count, 1))
    seconds[rng.random((count, 2)) < 0.1] = 0.0
    missing = rng.random((count, 2)) < 0.1 * (seed % 2)
    missing[missing.all(axis=1)] = False
    seconds[missing] = math.inf
    return seconds


@pytest.mark.parametrize("count", [1, 2, 5, 60])
@pytest.mark.parametrize("seed", range(12))
def test_no_prices_of_two_devices_are_worth_more(seed: int, count: int) -> None:
    seconds = drawn(seed, count)
    price, found = prices(seconds)
    assert (price >= 0).all()
    assert price.sum() == pytest.approx(1)
    assert found == pytest.approx(worth(seconds, price))
    shares = np.linspace(0, 1, 1001)
    assert found >= max(worth(seconds, np.array([p, 1 - p])) for p in shares) * (1 - 1e-9)


@pytest.mark.parametrize("devices", [1, 2, 3])
@pytest.mark.parametrize("seed", range(6))
def test_no_division_takes_less(seed: int, devices: int) -> None:
    seconds = np.random.default_rng(seed).random((7, devices))
    least = min(
        max(sum(seconds[k, d] for k, d in enumerate(seats) if d == device) for device in range(devices))
        for seats in itertools.product(range(devices), repeat=7)
    )
    found = prices(seconds)[1]
    assert 0 < found <= least * (1 + 1e-12)


def test_nothing_is_worth_nothing() -> None:
    assert prices(np.zeros((0, 2)))[1] == 0.0
    assert prices(np.zeros((3, 2)))[1] == 0.0


def test_works_that_only_one_device_takes_are_on_it() -> None:
    seconds = np.array([[2.0, math.inf], [1.0, 1.0], [3.0, math.inf]])
    price, found = prices(seconds)
    assert found == pytest.approx(5.0)
    assert price[0] == pytest.approx(1.0)
