"""The error rule: what it calls a channel, an error, a mismatch, and where it draws the line."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from mapsto.report.accuracy import LIMIT_WITHOUT_PEER, SLACK, compare, judge, judge_runs


def image(*channels: float) -> np.ndarray:
    """float32 [1, C, 1, 2]: each channel holds its number and half of it."""
    return np.array([[[[value, value / 2]] for value in channels]], np.float32)


def channel_errors(reference: np.ndarray, found: np.ndarray) -> np.ndarray:
    return compare(reference, found).errors


def test_each_channel_is_measured_on_its_own_scale() -> None:
    reference = image(1000, 1)
    found = reference + np.float32(0.25)
    np.testing.assert_allclose(channel_errors(reference, found), [0.25 / 1000, 0.25])


def test_tensors_of_two_axes_are_one_channel() -> None:
    reference = np.array([[100.0, 1.0]], np.float32)
    assert channel_errors(reference, reference + np.float32(1)).tolist() == pytest.approx([0.01])
    assert channel_errors(np.float32(4).reshape(()), np.float32(5).reshape(())).tolist() == [0.25]


def test_channels_of_one_element_have_no_scale_of_their_own() -> None:
    reference = np.array([100, 1], np.float32).reshape(1, 2, 1, 1)
    assert channel_errors(reference, reference + np.float32(1)).tolist() == pytest.approx([0.01])


def test_channels_without_elements_have_no_error() -> None:
    assert channel_errors(np.zeros((0, 3, 2), np.float32), np.zeros((0, 3, 2), np.float32)).tolist() == [0, 0, 0]
    assert channel_errors(np.zeros((2, 0, 2), np.float32), np.zeros((2, 0, 2), np.float32)).tolist() == []
    assert judge({"y": np.zeros((2, 0, 2), np.float32)}, {"y": np.zeros((2, 0, 2), np.float32)})[0].ok


def test_a_channel_of_zeros_must_stay_zero() -> None:
    assert channel_errors(image(0, 1), image(0, 1)).tolist() == [0, 0]
    assert channel_errors(image(0, 1), image(1e-9, 1))[0] == np.inf


@pytest.mark.parametrize(
    ("found", "what"),
    [
        (np.zeros((1, 3), np.float64), "dtype float64"),
        (np.zeros((3, 1), np.float32), "shape [3, 1]"),
        (np.array([[0, np.nan, 0]], np.float32), "NaN"),
        (np.array([[0, 0, np.inf]], np.float32), "+Inf"),
        (np.array([[0, 0, -np.inf]], np.float32), "-Inf"),
    ],
)
def test_what_must_be_exactly_equal(found: np.ndarray, what: str) -> None:
    reference = np.zeros((1, 3), np.float32)
    mismatch = compare(reference, found).mismatch
    assert mismatch is not None and what in mismatch
    assert not judge({"y": reference}, {"y": found}, {"y": reference})[0].ok


def test_equal_nonfinite_values_are_equal_and_leave_the_rest_to_be_measured() -> None:
    reference = np.array([np.nan, np.inf, -np.inf, 2], np.float32)
    comparison = compare(reference, np.array([np.nan, np.inf, -np.inf, 3], np.float32))
    assert comparison.mismatch is None
    assert comparison.errors.max() == 0.5


def test_integers_are_compared_exactly() -> None:
    mismatch = compare(np.array([1, 2, 3]), np.array([1, 2, 4])).mismatch
    assert mismatch is not None and "1 of 3 elements differ, first at [2]" in mismatch
    assert compare(np.array([True, False]), np.array([True, False])).mismatch is None


def test_bfloat16_is_measured_as_a_number() -> None:
    reference = np.array([1, 2], ml_dtypes.bfloat16)
    comparison = compare(reference, np.array([1, 2.125], ml_dtypes.bfloat16))
    assert comparison.mismatch is None
    assert comparison.errors.max() == pytest.approx(0.0625)


@pytest.mark.parametrize(("ours", "ok"), [(3.9e-3, True), (4.2e-3, False)])
def test_four_times_the_peers_error_is_allowed(ours: float, ok: bool) -> None:
    reference = image(1, 1)
    peer = reference * np.float32(1 + 1e-3)
    verdict = judge({"y": reference}, {"y": reference * np.float32(1 + ours)}, {"y": peer})[0]
    assert verdict.ok is ok
    assert verdict.limit == pytest.approx(4e-3 + SLACK, rel=1e-3)


def test_a_peers_error_in_one_channel_excuses_no_other() -> None:
    reference = image(1, 1)
    peer, ours = image(1.1, 1), image(1, 1.01)
    verdict = judge({"y": reference}, {"y": ours}, {"y": peer})[0]
    assert not verdict.ok
    assert (verdict.channel, verdict.channels) == (1, 2)


def test_without_a_peer_the_limit_is_fixed() -> None:
    reference = image(1)
    assert judge({"y": reference}, {"y": reference * np.float32(1 + LIMIT_WITHOUT_PEER / 2)})[0].ok
    assert not judge({"y": reference}, {"y": reference * np.float32(1 + LIMIT_WITHOUT_PEER * 2)})[0].ok


def test_the_largest_error_over_runs_counts() -> None:
    good, bad = {"y": image(1, 1)}, {"y": image(1, 1.5)}
    verdict = judge_runs([good, good], [good, bad], [good, good])[0]
    assert not verdict.ok and verdict.ours == 0.5 and verdict.channel == 1
    assert judge_runs([good, good], [good, bad], [bad, good])[0].ok


def test_the_scale_of_a_channel_is_that_of_all_runs() -> None:
    small, large = np.array([[1e-3]], np.float32), np.array([[1.0]], np.float32)
    off = small + np.float32(1e-6)
    assert judge({"p": small}, {"p": off}, {"p": small})[0].ours == pytest.approx(1e-3, rel=1e-3)
    together = judge_runs([{"p": small}, {"p": large}], [{"p": off}, {"p": large}], [{"p": small}, {"p": large}])[0]
    assert together.ours == pytest.approx(1e-6, rel=1e-3)


def test_a_missing_output_is_a_mismatch() -> None:
    verdict = judge({"y": image(1)}, {}, {"y": image(1)})[0]
    assert not verdict.ok and verdict.mismatch is not None and "missing" in verdict.mismatch
