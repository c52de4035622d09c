"""Formats that are found within an accuracy: what is lost, what is chosen, and what is said of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tests.importers.models import model, node

import mapsto
from mapsto.errors import ArgumentError
from mapsto.formats.chosen import ChosenFormat
from mapsto.formats.format import FORMATS
from mapsto.runtime.executable import Executable
from mapsto.session import accurate
from mapsto.session.accuracy import Accuracy, moved, top_1
from mapsto.session.accurate import TriedFormat, _choices

EXAMPLES = Path(__file__).parents[2] / "examples"


def drawn(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32)


# -- what is lost ------------------------------------------------------------------------------------------------------


def test_how_far_outputs_moved() -> None:
    plain = [{"y": np.array([3.0, 4.0]), "z": np.array([1.0])}, {"y": np.array([0.0, 0.0]), "z": np.array([1.0])}]
    assert moved(plain, plain) == 0
    off = [{"y": np.array([3.0, 4.5]), "z": np.array([1.0])}, plain[1]]
    assert moved(off, plain) == pytest.approx(0.1)
    worse = [off[0], {"y": plain[1]["y"], "z": np.array([0.0])}]
    assert moved(worse, plain) == pytest.approx(math.sqrt(0.5))


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ([1.0, np.inf], [1.0, np.nan], 0.0),  # what was not finite says nothing
        ([1.0, 1.0], [1.0, np.inf], math.inf),
        ([0.0, 0.0], [0.0, 1e-9], math.inf),
        ([0.0], [0.0], 0.0),
        ([], [], 0.0),
        ([1.0, 2.0], [1.0], math.inf),
    ],
)
def test_odd_outputs(before: list[float], after: list[float], expected: float) -> None:
    assert moved([{"y": np.array(after)}], [{"y": np.array(before)}]) == expected


def test_top_1() -> None:
    outputs = [{"scores": np.array([[0.1, 0.9], [0.8, 0.2]])}, {"scores": np.array([[0.0, 1.0]])}]
    assert top_1(outputs, [{"label": np.array([1, 1])}, {"label": np.array([1])}]) == pytest.approx(2 / 3)
    with pytest.raises(ArgumentError, match="needs an array `label`"):
        top_1(outputs, [{}, {}])
    with pytest.raises(ArgumentError, match="a number for each example"):
        top_1(outputs, [{"label": np.array([1])}, {"label": np.array([1])}])


def test_an_interval_holds_the_loss() -> None:
    asked = Accuracy({"x": drawn(4, 2)})
    plain = [{"y": drawn(5) + k} for k in range(12)]
    outputs = [{"y": each["y"] * (1 + 0.01 * (k % 3))} for k, each in enumerate(plain)]
    low, high = asked.interval(outputs, plain, [{}] * 12)
    assert low < asked.loss(outputs, plain, [{}] * 12) < high


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"metric": "top-5"}, "metric: expected a function, 'top-1' or None"),
        ({"drop": -1.0}, "drop: -1.0 is no number from 0 on"),
        ({"drop": math.nan}, "drop: nan"),
        ({"seconds": "1"}, "seconds: '1'"),
        ({"formats": ("f32",)}, "formats: 'f32'; there are bf16, f16"),
        ({"calibrator": "most"}, "calibrator: 'most'"),
    ],
)
def test_what_cannot_be_asked(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        Accuracy({"x": drawn(4, 2)}, **options)


# -- what is chosen ----------------------------------------------------------------------------------------------------


def tried(value: str, name: str, gain: float, error: float) -> TriedFormat:
    return TriedFormat(ChosenFormat(value, (value,), FORMATS[name], ""), gain, error)


def test_choices_from_the_fastest_to_none() -> None:
    """Of each product one format; what costs most accuracy for its time is given up first."""
    found = _choices(
        [
            tried("a", "int8", 9.0, 1.0), tried("a", "bf16", 5.0, 0.1),
            tried("b", "int8", 4.0, 2.0), tried("c", "f16", 1.0, 0.0), tried("d", "int8", 7.0, math.inf),
        ]
    )  # fmt: skip
    names = [{each.value: each.format.name for each in choice if each.format is not None} for choice in found]
    assert names[0] == {"a": "int8", "b": "int8", "c": "f16"}
    assert names[1] == {"a": "int8", "c": "f16"}
    assert {"a": "bf16", "c": "f16"} in names
    assert names[-1] == {"c": "f16"}
    lengths = [sum(1 for _ in choice) for choice in found]
    assert lengths == sorted(lengths, reverse=True)


def layers() -> onnx.ModelProto:
    """Three products, of which the last one is the output's."""
    nodes = [
        node("MatMul", ["x", "w1"], ["a"], "one"), node("Relu", ["a"], ["b"], "r1"),
        node("MatMul", ["b", "w2"], ["c"], "two"), node("Relu", ["c"], ["d"], "r2"),
        node("MatMul", ["d", "w3"], ["y"], "three"),
    ]  # fmt: skip
    constants = {f"w{k}": drawn(32, 32) / 6 for k in (1, 2, 3)}
    return model(nodes, {"x": [4, 32]}, ["y"], constants)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Narrow products take half the time, and no turns are needed to see it."""

    def seconds(self: Any, exe: Executable, products: Sequence[ChosenFormat]) -> Mapping[str, float]:
        return {each.value: 1.0 if exe is self.plain else 0.5 for each in products}

    monkeypatch.setattr(accurate._Accurate, "_seconds", seconds)
    monkeypatch.setattr(accurate._Accurate, "_run_seconds", lambda self, exe: 3.0)
    monkeypatch.setattr(accurate._Accurate, "_by_turns", lambda self, exe: [(2.0, 1.0)] * 9)


def lost(exe: Executable, data: np.ndarray) -> float:
    plain = mapsto.compile(layers())
    runs = [data[k : k + 4] for k in range(4, len(data), 8)]  # those that are kept apart
    return moved([exe.run({"x": run}) for run in runs], [plain.run({"x": run}) for run in runs])


@pytest.mark.parametrize(("drop", "least"), [(0.05, 3), (0.009, 1), (1e-7, 0)])
def test_as_many_as_hold(quick: None, drop: float, least: int) -> None:
    data = np.random.default_rng(0).standard_normal((64, 32)).astype(np.float32)
    exe = mapsto.compile(layers(), accuracy=mapsto.Accuracy({"x": data}, drop=drop, formats=("int8",)))
    taken = [each for each in exe.plan.formats if each.format == "int8"]
    assert len(taken) >= least
    assert len(exe.plan.formats) == 3
    assert lost(exe, data) <= drop
    if least == 3:
        assert len(taken) == 3
        assert "of 0.05 on 8 runs kept apart; takes 0.50 of the time in f32" in exe.plan.accuracy
    if not least:
        assert not taken
        assert exe.plan.accuracy == "f32: no narrower formats are faster, or none holds"
        assert "int8: 5e+05 us less, alone moves outputs by" in exe.plan.formats[0].because
    again = mapsto.compile(layers(), plan=exe.plan.text())
    np.testing.assert_array_equal(again(data[:4]), exe(data[:4]))
    assert again.plan.text() == exe.plan.text()


def test_the_more_accurate_format_where_the_fastest_does_not_hold(quick: None) -> None:
    data = np.random.default_rng(0).standard_normal((64, 32)).astype(np.float32)
    exe = mapsto.compile(layers(), accuracy=mapsto.Accuracy({"x": data}, drop=0.003))
    assert {each.format for each in exe.plan.formats} & {"f16", "bf16"}
    assert lost(exe, data) <= 0.003


def test_it_has_to_hold_on_what_is_kept_apart(quick: None) -> None:
    """Runs that did not choose are ten times as large: bytes cut them."""
    data = np.random.default_rng(0).standard_normal((64, 32)).astype(np.float32)
    for k in range(4, 64, 8):
        data[k : k + 4] *= 10
    exe = mapsto.compile(layers(), accuracy=mapsto.Accuracy({"x": data}, drop=0.05, formats=("int8",)))
    assert lost(exe, data) <= 0.05
    assert not [each for each in exe.plan.formats if each.format != "f32"]


def test_slower_formats_are_not_kept(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accurate._Accurate, "_by_turns", lambda self, exe: [(1.0, 1.01)] * 9)
    data = np.random.default_rng(0).standard_normal((64, 32)).astype(np.float32)
    exe = mapsto.compile(layers(), accuracy=mapsto.Accuracy({"x": data}, drop=0.1))
    assert not [each for each in exe.plan.formats if each.format != "f32"]
    assert exe.plan.accuracy.startswith("f32: formats that hold take 1.01")
    np.testing.assert_array_equal(exe(data[:4]), mapsto.compile(layers())(data[:4]))


def test_a_metric_of_ones_own(quick: None) -> None:
    """It sees all runs of the data, and the arrays that are no inputs."""
    data = np.random.default_rng(0).standard_normal((40, 32)).astype(np.float32)
    seen: set[int] = set()

    def metric(outputs: Sequence[Mapping[str, np.ndarray]], examples: Sequence[Mapping[str, np.ndarray]]) -> float:
        seen.update(int(number) for each in examples for number in each["number"])
        return -moved(outputs, [{"y": each["wanted"]} for each in examples])

    wanted = np.concatenate([mapsto.compile(layers())(data[k : k + 4]) for k in range(0, 40, 4)])
    examples = {"x": data, "number": np.arange(40), "wanted": wanted}
    exe = mapsto.compile(layers(), accuracy=mapsto.Accuracy(examples, metric, drop=0.01))
    assert seen == set(range(40))
    assert lost(exe, data) <= 0.011
    assert exe.cache_note.startswith("not cached")


def test_digits_within_half_a_percent() -> None:
    """Real data, real times: whatever is chosen, the digits are read, and what is said is there."""
    digits = dict(np.load(EXAMPLES / "digits.npz"))
    exe = mapsto.compile(EXAMPLES / "mnist-cnn.onnx", accuracy=mapsto.Accuracy(digits, "top-1"), threads=1)
    assert (exe(digits["image"]).argmax(1) == digits["label"]).all()
    assert exe.plan.accuracy
    assert {source for each in exe.plan.formats for source in each.sources} >= {"conv1", "conv2", "fc1", "fc2"}


def test_errors(quick: None) -> None:
    data = {"x": drawn(4, 32)}
    with pytest.raises(ArgumentError, match=r"expected a mapsto\.Accuracy"):
        mapsto.compile(layers(), accuracy=0.5)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="it finds formats: leave `formats`"):
        mapsto.compile(layers(), accuracy=mapsto.Accuracy(data), formats="bf16")
    with pytest.raises(ArgumentError, match="the data is one run; it needs two at least"):
        mapsto.compile(layers(), accuracy=mapsto.Accuracy(data))
    with pytest.raises(ArgumentError, match="metric: expected a number, got nan"):
        metric = mapsto.Accuracy({"x": drawn(8, 32)}, lambda outputs, examples: math.nan)
        mapsto.compile(layers(), accuracy=metric)
