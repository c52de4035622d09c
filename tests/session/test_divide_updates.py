"""Inputs that are updated in place by a model on several devices: new contents, or none, whatever fails on the way."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests import opencl
from tests.importers.models import model, node
from tests.session.divisions import alternating
from tests.session.test_updates import SIZES, cache_of, counting, updating

import mapsto
from decode import decoder, generate
from mapsto.devices.cpu.workers import Workers
from mapsto.errors import ExecutionError, MapstoError, ShapeError
from mapsto.ir.graph import Graph
from mapsto.runtime.divided import DividedExecutable
from mapsto.session.compile import prepared
from mapsto.session.division import divided, replicated

PAIRS = {"a": "c", "b": "d"}


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with Workers(cache=False, isa=None) as opened:
        yield opened


def two_states(size: int = 8) -> Graph:
    """c = a + x, then d = tanh(b + c): one takes over a, the other b. y is made of both."""
    nodes = [
        node("Add", ["a", "x"], ["c"]), node("Add", ["b", "c"], ["s"]), node("Tanh", ["s"], ["d"]),
        node("Sub", ["c", "d"], ["y"]),
    ]  # fmt: skip
    shapes = {name: [size, 4] for name in ("a", "b", "x")}
    return prepared(model(nodes, shapes, ["c", "d", "y"]), None, updates=tuple(PAIRS.items()))


def on_both(graph: Graph, first: int, workers: Workers) -> DividedExecutable:
    """first: the device of what makes c; the rest is on the other one."""
    seats = {n.outputs[0].name: first if n.outputs[0].name == "c" else 1 - first for n in graph.nodes}
    return divided(graph, seats, {"cpu": workers, "opencl": opencl.backend()}, 1)


def step(a: np.ndarray, b: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return a + x, np.tanh(b + (a + x))


@pytest.mark.parametrize("first", [0, 1])
def test_states_are_updated_where_they_lie(first: int, workers: Workers) -> None:
    exe, rng = on_both(two_states(), first, workers), np.random.default_rng(first)
    assert [part.device for part in exe.parts] == [["cpu", "opencl"], ["opencl", "cpu"]][first]
    a, b = (rng.standard_normal((8, 4)).astype(np.float32) for _ in range(2))
    for _ in range(20):
        x = rng.standard_normal((8, 4)).astype(np.float32)
        c, d = step(a, b, x)
        found = exe.run({"a": a, "b": b, "x": x})
        assert found["c"] is a and found["d"] is b
        np.testing.assert_allclose(a, c, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(b, d, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found["y"], c - d, rtol=1e-5, atol=1e-6)


class _Failing:
    """An executable that raises in some runs, before it has done anything or when it has done all."""

    def __init__(self, inner: Any, when: Callable[[], str]) -> None:
        self.inner, self.program, self._when = inner, inner.program, when

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        when = self._when()
        if when == "before":
            raise ExecutionError("the device is gone")
        found: dict[str, np.ndarray] = self.inner.run(inputs)
        if when == "after":
            raise ExecutionError("the device is gone")
        return found


@pytest.mark.parametrize("failing", ["opencl", "cpu", "both"])
@pytest.mark.parametrize("first", [0, 1])
def test_whatever_fails_states_are_of_one_run(first: int, failing: str, workers: Workers) -> None:
    """A device that fails is stood in for by the host; where the host fails too, nothing has changed."""
    exe, rng = on_both(two_states(), first, workers), np.random.default_rng(first)
    for k, part in enumerate(exe.parts):
        if part.device == failing or failing == "both":
            wrapped = _Failing(part.executable, lambda: str(rng.choice(["", "before", "after"])))
            exe.parts[k].__dict__["executable"] = wrapped  # of a frozen part
        if failing == "both" and part.device != "cpu":
            exe._current.instead[k] = _Failing(part.on_host(), lambda: str(rng.choice(["", "before", "after"])))  # type: ignore[assignment]
    a, b = (rng.standard_normal((8, 4)).astype(np.float32) for _ in range(2))
    failed = 0
    for _ in range(150):
        exe.lost.clear()  # as if it were found again
        x = rng.standard_normal((8, 4)).astype(np.float32)
        before, after = (a.copy(), b.copy()), step(a, b, x)
        try:
            exe.run({"a": a, "b": b, "x": x})
        except ExecutionError:
            failed += 1
            for state, expected in zip((a, b), before, strict=True):
                np.testing.assert_array_equal(state, expected)
        else:
            for state, expected in zip((a, b), after, strict=True):
                np.testing.assert_allclose(state, expected, rtol=1e-4, atol=1e-5)
    assert (failed == 0) == (failing == "opencl") and failed < 150


def test_an_interrupt_leaves_states_of_one_run(workers: Workers) -> None:
    size = 1 << 18
    nodes = [node("Add", ["a", "x"], ["c"]), node("Add", ["b", "x"], ["d"])]
    shapes = {"a": [size], "b": [size], "x": [1]}
    graph = prepared(model(nodes, shapes, ["c", "d"]), None, updates=tuple(PAIRS.items()))
    exe = on_both(graph, 0, workers)
    a, b, x = np.zeros(size, np.float32), np.zeros(size, np.float32), np.ones(1, np.float32)
    exe.run({"a": a, "b": b, "x": x})

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    interrupted, before = 0, signal.signal(signal.SIGALRM, interrupt)
    try:
        for at in range(600):
            try:
                try:
                    signal.setitimer(signal.ITIMER_REAL, 2e-5 * (1 + at % 150))
                    exe.run({"a": a, "b": b, "x": x})
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                interrupted += 1
            assert a.min() == a.max() == b.min() == b.max()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert interrupted > 5 and a[0] > 1


def test_a_stream_reads_what_the_run_before_it_wrote(workers: Workers) -> None:
    for exe in (
        on_both(two_states(), 1, workers), replicated(two_states(), {"cpu": workers, "opencl": opencl.backend()}, 1)
    ):  # fmt: skip
        a, b = np.zeros((8, 4), np.float32), np.ones((8, 4), np.float32)
        x = np.ones((8, 4), np.float32)
        expected_a, expected_b = a.copy(), b.copy()
        for outputs in exe.stream(({"a": a, "b": b, "x": x} for _ in range(10)), ahead=3):
            expected_a, expected_b = step(expected_a, expected_b, x)
            assert outputs["c"] is a
            np.testing.assert_allclose(a, expected_a, rtol=1e-5)
            np.testing.assert_allclose(b, expected_b, rtol=1e-5)


def test_states_that_change_places(workers: Workers) -> None:
    """Outputs that no part makes."""
    graph = replace(two_states(), outputs=("b", "a", "y"), updates=(("a", "b"), ("b", "a")))
    exe = on_both(graph, 0, workers)
    a, b, x = (np.full((8, 4), value, np.float32) for value in (1, 2, 3))
    exe.run({"a": a, "b": b, "x": x})
    assert (a == 2).all() and (b == 1).all()


def test_arrays_that_cannot_be_updated_are_refused(workers: Workers) -> None:
    exe, x = on_both(two_states(), 0, workers), np.ones((8, 4), np.float32)
    fixed = np.zeros((8, 4), np.float32)
    fixed.flags.writeable = False
    whole = np.zeros((9, 4), np.float32)
    for a in (fixed, np.zeros((4, 8), np.float32).T, np.zeros((8, 4)), [[0.0] * 4] * 8):
        with pytest.raises(ShapeError, match="'a'"):
            exe.run({"a": a, "b": x.copy(), "x": x})
    for a, b, given in ((x, x.copy(), x), (whole[1:], whole[:8], x)):
        with pytest.raises(ExecutionError, match="shares its memory"):
            exe.run({"a": a, "b": b, "x": given})
    assert not whole.any()


@pytest.mark.parametrize("pin", ["cpu", "opencl"])
def test_the_way_in(pin: str) -> None:
    opencl.required()
    made = mapsto.divide(counting(), ["cpu", "opencl"], threads=1, updates={"past": "next"}, pins=[("*", pin)])
    again = mapsto.divide(counting(), plan=made.plan_text, threads=1, updates={"past": "next"})
    plain = mapsto.divide(counting(), plan=made.plan_text, threads=1)
    for exe in (made, again):
        state, x = np.zeros((2, 3), np.float32), np.ones((2, 3), np.float32)
        for count in range(1, 4):
            assert exe.run({"past": state, "x": x})["next"] is state and (state == count).all()
        assert (plain.run({"past": state, "x": x})["next"] == 4).all() and (state == 3).all()
    with pytest.raises(MapstoError, match="there is no input 'passed'"):
        mapsto.divide(counting(), ["cpu", "opencl"], updates={"passed": "next"})


def test_a_decoder_on_two_devices_writes_the_same_tokens(workers: Workers) -> None:
    proto = decoder(**SIZES)
    caches, theirs = cache_of(), cache_of()
    graph = prepared(proto, None, updates=tuple(updating(caches).items()))
    exe = divided(graph, alternating(graph, 25), {"cpu": workers, "opencl": opencl.backend()}, 1)
    assert {part.device for part in exe.parts} == {"cpu", "opencl"}
    alone = mapsto.compile(proto, updates=updating(theirs), cache=False, threads=1)
    assert generate(exe, [5, 6, 7, 8], 12, caches) == generate(alone, [5, 6, 7, 8], 12, theirs)
    for name, cache in caches.items():
        np.testing.assert_allclose(cache, theirs[name], rtol=1e-4, atol=1e-4)
