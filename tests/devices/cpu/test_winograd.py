"""Convolutions by products at points, natively: forms, shapes and layouts beside float64, on every instruction set."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.devices.points import CASES, F32, LIMIT, Shape, convolution, feeds_of, is_at_points

from mapsto.devices.cpu.workers import Workers
from mapsto.devices.making import quotes
from mapsto.errors import ParseError
from mapsto.ir.graph import Graph
from mapsto.ops.builder import Builder
from mapsto.ops.interpret import run_graph
from mapsto.passes import run_passes
from mapsto.plan.plan import parse
from mapsto.runtime.executable import Executable
from mapsto.runtime.guard import Fences
from mapsto.session.compile import build


@pytest.fixture(autouse=True)
def _at_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """Taken wherever it can be."""
    monkeypatch.setattr(quotes, "WORTH_POINTS", 0.0)


def compiled(graph: Graph, workers: Workers, threads: int = 2) -> Executable:
    exe = build(run_passes(graph), workers, threads, None)
    return exe


def assert_right(graph: Graph, exe: Executable, feeds: dict[str, np.ndarray]) -> None:
    """Beside float64, the same bits with dead memory poisoned, and on another number of threads."""
    wide = run_graph(graph, feeds, wide=True)["y"]
    found = exe.run(feeds)["y"]
    assert found.shape == wide.shape
    assert np.abs(found - wide).max() <= LIMIT * np.abs(wide).max()
    exe.poison()
    poisoned = exe.run(feeds)["y"]
    exe.poison(False)
    assert found.tobytes() == poisoned.tobytes(), "poison shows"


@pytest.mark.parametrize("name", CASES)
def test_forms(name: str, workers: Workers) -> None:
    graph = convolution(*CASES[name])
    exe = compiled(graph, workers)
    assert is_at_points(exe) == (workers.isa.core.has("fma")), exe.plan.text()
    feeds = feeds_of(graph)
    assert_right(graph, exe, feeds)
    alone = compiled(graph, workers, 1).run(feeds)["y"]
    three = compiled(graph, workers, 3).run(feeds)["y"]
    assert alone.tobytes() == three.tobytes() == exe.run(feeds)["y"].tobytes()


@pytest.mark.parametrize("behind", [True, False])
@pytest.mark.parametrize("name", ["cut tiles", "tails of blocks", "uneven padding", "one tile"])
def test_nothing_is_touched_outside_of_operands(name: str, behind: bool, workers: Workers) -> None:
    graph = convolution(*CASES[name])
    exe = compiled(graph, workers)
    feeds = feeds_of(graph)
    plain = exe.run(feeds)["y"]
    exe.guard(Fences(behind))
    assert exe.run(feeds)["y"].tobytes() == plain.tobytes()


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.integers(1, 3), st.integers(16, 70), st.integers(8, 70), st.integers(1, 22), st.integers(1, 22),
    st.tuples(*[st.integers(0, 2)] * 4), st.sampled_from(["", "b", "br", "bs", "+", "bt", "r+"]),
)  # fmt: skip
def test_any_shape(
    workers: Workers, images: int, channels: int, columns: int, height: int, width: int, pads: Shape, after: str
) -> None:
    if min(height + pads[0] + pads[2], width + pads[1] + pads[3]) < 3:
        return
    graph = convolution((images, channels, height, width), columns, pads, after)
    assert_right(graph, compiled(graph, workers), feeds_of(graph))


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 3e38])
@pytest.mark.parametrize("name", ["whole tiles", "cut tiles", "tails of blocks", "several images"])
def test_one_such_input_stays_where_it_is(name: str, value: float, workers: Workers) -> None:
    """Also where values at the points overflow though the results do not."""
    shape, columns, pads, _ = CASES[name]
    graph = convolution(shape, columns, pads, "", before=False)
    exe = compiled(graph, workers)
    feeds = feeds_of(graph)
    feeds["x"][0, 3, 1, 2] = value
    feeds["x"][-1, 5, -1, -1] = value
    with np.errstate(all="ignore"):
        wide = run_graph(graph, feeds, wide=True)["y"].astype(np.float32)
    found = exe.run(feeds)["y"]
    assert np.array_equal(np.isnan(found), np.isnan(wide))
    assert np.array_equal(np.isposinf(found), np.isposinf(wide))
    assert np.array_equal(np.isneginf(found), np.isneginf(wide))
    finite = np.isfinite(wide) & (np.abs(wide) < 1e30)
    assert np.abs(found[finite] - wide[finite]).max() <= LIMIT * np.abs(wide[finite]).max()


def test_every_input_may_be_infinite(workers: Workers) -> None:
    graph = convolution((1, 16, 9, 9), 16, before=False)
    feeds = {"x": np.full((1, 16, 9, 9), np.inf, np.float32)}
    with np.errstate(all="ignore"):
        wide = run_graph(graph, feeds, wide=True)["y"]
    assert np.array_equal(np.isnan(compiled(graph, workers).run(feeds)["y"]), np.isnan(wide))


def test_a_plan_says_it_and_is_done_again(workers: Workers) -> None:
    graph = run_passes(convolution(*CASES["cut tiles"]))
    exe = build(graph, workers, 2, None)
    feeds = feeds_of(graph)
    if not is_at_points(exe):
        return
    text = exe.plan.text()
    again = build(graph, workers, 2, None, parse(text))
    assert again.plan.text() == text and again.run(feeds)["y"].tobytes() == exe.run(feeds)["y"].tobytes()
    assert "beaten as tiles" in text


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("4x4 results", "3x3 results"),
        (" tiles a block", "000000 tiles a block"),
        (" strips", "00 strips"),
        (" shares", "000 shares"),
        ("units a block", "units"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(old: str, new: str, workers: Workers) -> None:
    graph = run_passes(convolution(*CASES["whole tiles"]))
    exe = build(graph, workers, 2, None)
    if not is_at_points(exe):
        return
    line = next(line for line in exe.plan.text().splitlines() if "as winograd" in line)
    assert old in line
    text = exe.plan.text().replace(line, line.replace(old, new))
    with pytest.raises(ParseError, match="g1|work"):
        build(graph, workers, 2, None, parse(text))


RUN_TIME = {
    "whole tiles": ((2, 16, 16, 16), 32),
    "cut tiles, two panels": ((1, 24, 13, 18), 40),
    "a column short of a block": ((1, 16, 12, 12), 31),
    "several panels": ((3, 16, 8, 9), 100),
}


def with_taps(x: Shape, columns: int, transposed: bool) -> Graph:
    """A convolution (or a transposed one, which is the gradient of another) whose taps are an input."""
    b = Builder("g")
    shape = (x[1], columns, 3, 3) if transposed else (columns, x[1], 3, 3)
    attrs: dict[str, Any] = {"strides": (1, 1), "dilations": (1, 1), "group": 1, "pads": (1, 1, 1, 1)}
    if transposed:
        attrs["output_padding"] = (0, 0)
    name = "conv_transpose" if transposed else "conv"
    return b.finish([b.one(name, [b.input("x", F32, x), b.input("w", F32, shape)], **attrs)], names=["y"])


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("name", RUN_TIME)
def test_taps_that_a_run_brings(name: str, transposed: bool, workers: Workers) -> None:
    x, columns = RUN_TIME[name]
    graph = with_taps(x, columns, transposed)
    exe = compiled(graph, workers)
    assert is_at_points(exe) == workers.isa.has("fma")
    for seed in (1, 2):  # other taps: nothing of a run before is left
        feeds = feeds_of(graph, seed)
        feeds["w"] = feeds["w"] / np.float32(3 * np.sqrt(x[1]))
        assert_right(graph, exe, feeds)
    again = build(graph, workers, 2, None, parse(exe.plan.text()))
    assert again.run(feeds)["y"].tobytes() == exe.run(feeds)["y"].tobytes()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_infinite_tap_of_a_run_is_multiplied_as_it_is_written(value: float, workers: Workers) -> None:
    graph = with_taps((1, 16, 8, 8), 24, False)
    feeds = feeds_of(graph)
    feeds["w"][3, 5, 1, 1] = value
    exe = compiled(graph, workers)
    assert is_at_points(exe) == workers.isa.has("fma")
    found, expected = exe.run(feeds)["y"], run_graph(graph, feeds)["y"]
    np.testing.assert_array_equal(np.isfinite(found), np.isfinite(expected))
    np.testing.assert_array_equal(np.isnan(found), np.isnan(expected))


@pytest.mark.parametrize("behind", [True, False])
def test_taps_of_a_run_lie_in_their_buffers(behind: bool, workers: Workers) -> None:
    graph = with_taps((1, 24, 13, 18), 40, False)
    exe, feeds = compiled(graph, workers), feeds_of(graph)
    expected = exe.run(feeds)["y"]
    exe.guard(Fences(behind))
    np.testing.assert_array_equal(exe.run(feeds)["y"], expected)
