"""When devices have changed: what is enough, what is noise."""

from __future__ import annotations

import numpy as np
import pytest

from mapsto.runtime.adapting import FACTOR, TIMES, Adapting, Lately


def test_a_device_that_turned_slow_is_acted_on_once() -> None:
    adapting, lately = Adapting(["cpu", "opencl"]), Lately()
    for _ in range(30):
        lately.add(1e-3)
        assert adapting.ran({"cpu": (2e-3, 2e-3), "opencl": (lately.seconds, 1e-3)}) is None
    acted = []
    for run in range(40):
        lately.add(4e-3)
        if adapting.ran({"cpu": (2e-3, 2e-3), "opencl": (lately.seconds, 1e-3)}) is not None:
            acted.append(run)
    assert len(acted) == 1 and acted[0] < 10
    assert adapting.speed["opencl"] == pytest.approx(4.0) and adapting.speed["cpu"] == 1.0


def test_noise_is_none() -> None:
    rng, adapting, lately = np.random.default_rng(0), Adapting(["cpu"]), Lately()
    for _ in range(2000):
        lately.add(1e-3 * rng.choice([0.8, 1.0, 1.2, 3.0], p=[0.3, 0.4, 0.28, 0.02]))
        assert adapting.ran({"cpu": (lately.seconds, 1e-3)}) is None


def test_what_was_predicted_wrong_is_corrected_in_both_directions() -> None:
    for times in (0.4, 1.6):
        adapting = Adapting(["cpu"])
        found = [adapting.ran({"cpu": (times, 1.0)}) for _ in range(3 * TIMES)]
        assert [each is not None for each in found].count(True) == 1 and abs(adapting.speed["cpu"] - times) < 1e-9


def test_a_few_runs_are_not_enough_and_nothing_is_divided_by() -> None:
    adapting = Adapting(["cpu"])
    for _ in range(10):
        assert all(adapting.ran({"cpu": (2.0, 1.0)}) is None for _ in range(TIMES - 1))
        assert adapting.ran({"cpu": (1.0, 1.0)}) is None
    assert adapting.ran({}) is None and adapting.ran({"cpu": (0.0, 0.0)}) is None


def test_probes() -> None:
    adapting = Adapting(["opencl"])
    assert adapting.probed("opencl", 4.0, False) is None
    assert adapting.probed("opencl", 4.0, False) == {"opencl": 4.0}
    assert all(adapting.probed("opencl", 4.0 * FACTOR * 0.99, False) is None for _ in range(5))
    assert adapting.probed("opencl", 1.0, False) is None and adapting.probed("opencl", 1.0, False) == {"opencl": 0.25}
    assert adapting.speed["opencl"] == 1.0


def test_doubts_become_rarer_where_probes_deny_them() -> None:
    adapting = Adapting(["cpu", "opencl"])
    usual = {"cpu": (1.0, 1.0), "opencl": (1.1, 1.0)}
    assert not any(adapting.doubted(usual) for _ in range(100)) and not adapting.doubted({"cpu": (0.0, 1.0)})
    slow = usual | {"opencl": (2.0, 1.0)}
    asked = [run for run in range(200) if adapting.doubted(slow) == {"opencl"}]
    assert asked == [0, 5, 14, 31, 64, 129]
    adapting.probed("opencl", 2.0, True)
    assert adapting.probed("opencl", 2.0, True) == {"opencl": 2.0}  # it was right
    assert not any(adapting.doubted(slow) for _ in range(100))
    assert adapting.doubted(usual) == {"opencl"}  # as quick as at first
    adapting.ran(slow)  # nothing is made any more: all doubts begin anew
    assert adapting.doubted(usual) == {"opencl"}


def test_a_probe_tells_a_device_from_its_works() -> None:
    adapting = Adapting(["opencl"])
    ratio = next(r for r in (adapting.ran({"opencl": (4.0, 1.0)}) for _ in range(TIMES)) if r)["opencl"]
    adapting.confirmed("opencl", ratio, 29.0)  # disturbed, but slow
    assert adapting.speed["opencl"] == 4.0
    adapting.confirmed("opencl", ratio, 1.1)
    assert adapting.speed["opencl"] == 1.0


def test_a_device_that_was_left_is_taken_again_when_it_is_somewhat_quicker() -> None:
    """It was thought to be 1.3 times as slow as at first, by a probe that something disturbed."""
    adapting = Adapting(["cpu", "opencl"])
    adapting.probed("opencl", 1.5, True)
    assert adapting.probed("opencl", 1.41, True) == {"opencl": 1.41}
    assert all(adapting.probed("opencl", 1.1, True) is None for _ in range(5))  # it is at work: runs tell
    assert adapting.probed("opencl", 1.0, False) is None and adapting.is_doubtful("opencl")
    assert adapting.probed("opencl", 1.1, False) == {"opencl": pytest.approx(1.1 / 1.41)}  # by what says less
    assert adapting.speed["opencl"] == pytest.approx(1.1)
    adapting.probed("opencl", 0.9, False)
    adapting.probed("opencl", 0.9, False)
    assert all(adapting.probed("opencl", 0.7, False) is None for _ in range(5))  # as at first: noise moves nothing


def test_probes_that_disagree_say_nothing() -> None:
    adapting = Adapting(["cpu", "opencl"])
    assert all(adapting.probed("opencl", times, False) is None for times in (4.0, 0.25, 4.0, 0.25, 1.0, 4.0))
