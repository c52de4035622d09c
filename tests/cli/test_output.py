"""What commands print."""

from __future__ import annotations

import json

import numpy as np
import pytest

from mapsto.cli.output import bytes_text, print_json, seconds_text, summary, summary_text, table


def test_times_and_sizes_have_units() -> None:
    assert [seconds_text(s) for s in (2.5, 0.0123, 4.56e-6, 7e-9)] == ["2.5 s", "12.3 ms", "4.56 us", "7 ns"]
    assert [bytes_text(b) for b in (12, 2048, 3 * 2**20, 5 * 2**30)] == ["12 B", "2.0 KiB", "3.0 MiB", "5.00 GiB"]


def test_a_table_is_aligned() -> None:
    assert table(("name", "ms"), [("a", "1.5"), ("longer", "20")]) == "  name     ms\n  a       1.5\n  longer   20"


def test_json_has_no_nan(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": [float("nan"), float("inf")], "b": np.float32(0.5), "c": (1, 2)})
    assert json.loads(capsys.readouterr().out) == {"a": ["nan", "inf"], "b": 0.5, "c": [1, 2]}


def test_small_arrays_are_shown_with_their_values() -> None:
    array = np.array([[1, 2], [3, 4]], np.int64)
    found = summary("y", array)
    assert found == {
        "name": "y",
        "dtype": "int64",
        "shape": [2, 2],
        "min": 1,
        "max": 4,
        "mean": 2.5,
        "values": [[1, 2], [3, 4]],
    }
    assert summary_text(found, array).splitlines()[0] == "y: int64[2, 2]  min 1  max 4  mean 2.5"
    assert "[[1 2]" in summary_text(found, array)


def test_large_arrays_are_summed_up() -> None:
    found = summary("y", np.arange(100, dtype=np.float32))
    assert "values" not in found and found["max"] == 99


def test_nonfinite_values_are_counted_and_left_out_of_the_range() -> None:
    array = np.array([np.nan, np.inf, -np.inf, -np.inf, 2], np.float32)
    found = summary("y", array)
    assert found["nonfinite"] == {"nan": 1, "+inf": 1, "-inf": 2} and found["min"] == found["max"] == 2
    assert "2 -inf" in summary_text(found, array)
    assert "min" not in summary("y", np.array([np.nan], np.float32))


def test_empty_arrays_and_booleans() -> None:
    assert summary("y", np.zeros((0, 2), np.float32)) == {"name": "y", "dtype": "float32", "shape": [0, 2]}
    assert summary("y", np.array([True, False]))["mean"] == 0.5
