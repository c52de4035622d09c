"""Models on several devices at once: any cut gives what one device gives; streams, failures, pins, sizes.

MAPSTO_RANDOM_CUTS says how many random graphs are cut (else 60).
"""

from __future__ import annotations

import gc
import math
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests import opencl
from tests.importers.models import model, node, port
from tests.importers.test_light_models import weighted
from tests.random_graphs import Case, cases, with_open_sizes
from tests.session.divisions import (
    COUNT,
    Slowed,
    alternating,
    at_random,
    chain_of,
    common,
    diamond,
    on_both,
    split_diamond,
    two_branches,
    wanted,
)
from tests.test_models import FETCHED, LEFT_OPEN, model_of, references
from tests.test_random_graphs import REFUSED, assert_equal, by_another

import mapsto
from mapsto.devices.cpu.workers import Workers
from mapsto.errors import ArgumentError, ExecutionError, ShapeError, UnsupportedError
from mapsto.ir.graph import Graph
from mapsto.report.accuracy import judge_runs
from mapsto.runtime import divided as dividing
from mapsto.runtime.divided import DividedExecutable
from mapsto.runtime.divisions import Division, Replanning
from mapsto.session.compile import build, prepared
from mapsto.session.division import divided, replicated
from mapsto.session.splitting import split


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    """For the widest instruction set alone: what is cut is the same for all."""
    with Workers(cache=False, isa=None) as opened:
        yield opened


@common
@given(cases(most_nodes=8), st.integers(0, 2**32))
def test_a_graph_cut_at_random_is_the_graph(workers: Workers, case: Case, seed: int) -> None:
    graph = prepared(case.model, case.shapes)
    alone = build(graph, workers, 1, None).run(case.feed)
    found = on_both(graph, at_random(graph, seed), workers).run(case.feed)
    assert_equal(case, found, alone, by_another(case) | case.feed, "one device")


@settings(common, max_examples=COUNT // 3)
@given(cases(most_nodes=5), st.integers(0, 2**32))
def test_with_open_sizes(workers: Workers, case: Case, seed: int) -> None:
    empty = {name: shape for name, shape in case.shapes.items() if 0 in shape}
    try:
        graph = prepared(with_open_sizes(case.model), empty)
        alone = build(graph, workers, 1, None).run(case.feed)
        found = on_both(graph, at_random(graph, seed), workers).run(case.feed)
    except (UnsupportedError, ExecutionError) as error:
        assert REFUSED.search(str(error)), error
        return
    assert_equal(case, found, alone, by_another(case) | case.feed, "one device")


@pytest.mark.parametrize("key", ["mnist-cnn", *(pytest.param(k, marks=pytest.mark.models) for k in FETCHED)])
def test_real_models_whose_parts_alternate(key: str, workers: Workers) -> None:
    """Open sizes, branches, loops, sizes of data and all."""
    known = model_of(key)
    graph = prepared(str(known.path), LEFT_OPEN.get(key))
    exe = on_both(graph, alternating(graph, max(len(graph.nodes) // 6, 1)), workers)
    assert {part.device for part in exe.parts} == {"cpu", "opencl"} and 2 <= len(exe.parts) <= 40
    found = [exe.run(feed) for feed in known.feeds]
    expected, peers = (references(key, name) for name in ("onnxruntime-unoptimised", "onnxruntime"))
    assert not [verdict for verdict in judge_runs(expected, found, peers) if not verdict.ok]


@pytest.mark.parametrize("seed", range(12))
def test_branches_and_sizes_of_data(seed: int, workers: Workers) -> None:
    graph = two_branches()
    seats = {name: d for name, d in at_random(graph, seed).items() if not graph.producers[name].graphs}
    exe, alone = on_both(graph, seats, workers), build(graph, workers, 1, None)
    rng = np.random.default_rng(seed)
    for n, m in ((3, 4), (1, 7), (5, 1), (0, 2)):
        x, w = rng.standard_normal((n, m)).astype(np.float32), rng.standard_normal((m, 3)).astype(np.float32)
        for c in (True, False):
            feed = {"x": x, "c": np.array(c), "w": w}
            for name, expected in alone.run(feed).items():
                np.testing.assert_allclose(exe.run(feed)[name], expected, rtol=1e-5, atol=1e-6, err_msg=name)


def test_streams_give_each_run_its_own_outputs_in_order(workers: Workers) -> None:
    exe = split_diamond(workers)
    inputs = [np.random.default_rng(i).standard_normal((16, 16)).astype(np.float32) for i in range(30)]
    for ahead in (0, 1, 5, None):
        found = list(exe.stream(({"x": x} for x in inputs), ahead=ahead))
        for x, outputs in zip(inputs, found, strict=True):
            np.testing.assert_allclose(outputs["y"], wanted(x), rtol=1e-4, atol=1e-6)
    assert "bytes from other devices" in exe.report()
    for ahead in (-1, 1.5, "2", True):
        with pytest.raises(ArgumentError, match="ahead"):
            exe.stream([], ahead=ahead)  # type: ignore[arg-type]
    for wrong in (5, None, {"x": inputs[0]}):
        with pytest.raises(ArgumentError, match="inputs"):
            exe.stream(wrong)  # type: ignore[arg-type]


def test_a_stream_may_refill_one_array(workers: Workers) -> None:
    exe, buffer = split_diamond(workers), np.zeros((16, 16), np.float32)

    def refilled() -> Iterator[dict[str, np.ndarray]]:
        for i in range(8):
            buffer[:] = i / 4
            yield {"x": buffer}

    for i, outputs in enumerate(exe.stream(refilled())):
        np.testing.assert_allclose(outputs["y"], wanted(np.full((16, 16), i / 4)), rtol=1e-4, atol=1e-6)


def test_a_stream_is_shared_among_copies(workers: Workers) -> None:
    exe = replicated(diamond(), {"cpu": workers, "opencl": opencl.backend()}, 1)
    inputs = [np.random.default_rng(i).standard_normal((16, 16)).astype(np.float32) for i in range(60)]
    for x, outputs in zip(inputs, exe.stream({"x": x} for x in inputs), strict=True):
        np.testing.assert_allclose(outputs["y"], wanted(x), rtol=1e-4, atol=1e-6)
    assert all(spent.runs > 0 for spent in exe.times) and sum(spent.runs for spent in exe.times) == 60
    np.testing.assert_allclose(exe(inputs[0]), wanted(inputs[0]), rtol=1e-4, atol=1e-6)


def test_what_a_run_takes(workers: Workers) -> None:
    exe = split_diamond(workers)
    assert [(value.name, value.shape) for value in exe.inputs] == [("x", (16, 16))]


def test_several_callers_at_once(workers: Workers) -> None:
    exe, wrong = split_diamond(workers), []

    def call(seed: int) -> None:
        x = np.random.default_rng(seed).standard_normal((16, 16)).astype(np.float32)
        for _ in range(20):
            if not np.allclose(exe(x), wanted(x), rtol=1e-4, atol=1e-6):
                wrong.append(seed)

    threads = [threading.Thread(target=call, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not wrong and not any(thread.is_alive() for thread in threads)


def test_a_device_that_fails_is_taken_out(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    exe = split_diamond(workers)
    x = np.random.default_rng(0).standard_normal((16, 16)).astype(np.float32)
    np.testing.assert_allclose(exe(x), wanted(x), rtol=1e-4, atol=1e-6)
    broken = next(part.executable for part in exe.parts if part.device == "opencl")

    def fails(inputs: object) -> None:
        raise RuntimeError("clEnqueueNDRangeKernel failed: OUT_OF_RESOURCES")

    monkeypatch.setattr(broken, "run", fails)
    for _ in range(100):
        exe.lost.clear()  # as if it were found again, and failed again
        np.testing.assert_allclose(exe(x), wanted(x), rtol=1e-4, atol=1e-6)
    assert exe.lost == ["opencl"] and "opencl failed and was taken out" in exe.report()
    assert "OUT_OF_RESOURCES" in exe.report() and len(exe._current.instead) == 1
    monkeypatch.undo()
    np.testing.assert_allclose(exe(x), wanted(x), rtol=1e-4, atol=1e-6)  # it stays out


def test_nothing_is_kept_of_a_run_that_failed(workers: Workers) -> None:
    exe = split_diamond(workers)
    x = np.zeros((16, 16), np.float32)
    exe(x)
    marked = np.zeros((16, 16), np.float32).view(_Marked)
    seen = weakref.ref(marked)
    exe(marked)
    del marked
    gc.collect()
    assert seen() is None


def test_threads_end_with_their_executable(workers: Workers) -> None:
    def lanes() -> int:
        gc.collect()
        return sum(thread.name in ("mapsto cpu", "mapsto opencl") for thread in threading.enumerate())

    before = lanes()
    exes = [split_diamond(workers) for _ in range(3)]
    for exe in exes:
        list(exe.stream([{"x": np.zeros((16, 16), np.float32)}] * 3))
    assert lanes() == before + 6
    del exe, exes
    deadline = time.monotonic() + 30
    while lanes() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert lanes() == before


class _Marked(np.ndarray):
    """An array that may be referred to weakly."""


def test_what_the_inputs_are_at_fault_for_is_an_error_and_no_device_is_lost(workers: Workers) -> None:
    nodes = [node("Relu", ["x"], ["r"]), node("Gather", ["r", "i"], ["g"]), node("Exp", ["g"], ["y"])]
    graph = prepared(model(nodes, [port("x", [4]), port("i", ["k"], np.int64)]), None)
    exe = on_both(graph, {n.outputs[0].name: 1 for n in graph.nodes if n.outputs}, workers)
    x = np.ones(4, np.float32)
    with pytest.raises(ExecutionError):
        exe(x, np.array([9]))
    assert not exe.lost
    np.testing.assert_allclose(exe(x, np.array([3, 0])), np.exp([1, 1]), rtol=1e-6)
    for wrong in ({"x": x}, {"x": x, "i": np.array([0]), "z": x}, {"x": np.ones(5, np.float32), "i": np.array([0])}):
        with pytest.raises(ShapeError):
            exe.run(wrong)


def test_inputs_are_taken_and_refused_as_by_one_device(workers: Workers) -> None:
    nodes = [node("Relu", ["x"], ["r"]), node("Exp", ["r"], ["y"])]
    graph = prepared(model(nodes, {"x": ["n", 4], "u": [3]}, ["y", "x"]), None)
    exe, alone = on_both(graph, at_random(graph, 1), workers), build(graph, workers, 1, None)
    x, u = np.arange(8, dtype=np.float32).reshape(4, 2).T, np.zeros(3, np.float32)
    for each in (x, x.astype(">f4"), x.tolist(), x[::-1]):
        for name, expected in alone.run({"x": each, "u": u}).items():
            found = exe.run({"x": each, "u": u})[name]
            np.testing.assert_allclose(found, expected, rtol=1e-6)
            assert (found.dtype, found.strides) == (expected.dtype, expected.strides)
    for wrong in ({"x": x, "u": np.zeros(3, np.int8)}, {"x": x.astype(complex), "u": u}, {"x": [[1, 2], [3]], "u": u},
                  {"x": x, "u": u[:2]}, {"x": np.ma.masked_array(x), "u": u}):  # fmt: skip
        for one in (alone, exe):
            with pytest.raises(ShapeError):
                one.run(wrong)


def test_very_many_sizes(workers: Workers) -> None:
    count = 70
    nodes = [node("Relu", ["a0"], ["r0"])]
    for i in range(1, count):
        nodes += [node("Exp", [f"a{i}"], [f"e{i}"]), node("Concat", [f"r{i - 1}", f"e{i}"], [f"r{i}"], axis=0)]
    nodes += [node("Relu", [f"r{count - 1}"], ["y"])]
    graph = prepared(model(nodes, {f"a{i}": [f"s{i}"] for i in range(count)}), None)
    exe, alone = on_both(graph, {graph.outputs[0]: 1}, workers), build(graph, workers, 1, None)
    feed = {f"a{i}": np.full(i % 3, i / 70, np.float32) for i in range(count)}
    np.testing.assert_allclose(exe.run(feed)["y"], alone.run(feed)["y"], rtol=1e-5)


def test_sizes_that_do_not_agree_are_refused(workers: Workers) -> None:
    nodes = [node("Exp", ["a"], ["p"]), node("Exp", ["b"], ["q"]), node("Add", ["p", "q"], ["y"])]
    graph = prepared(model(nodes, {"a": ["n"], "b": ["n"]}), None)
    exe = on_both(graph, at_random(graph, 1), workers)
    with pytest.raises(ShapeError):
        exe(np.ones(3, np.float32), np.ones(4, np.float32))


def test_outputs_that_no_part_makes(workers: Workers) -> None:
    graph = Graph("g", *(lambda g: (g.inputs, ("x", *g.outputs), g.nodes, g.constants))(diamond()))
    exe = on_both(graph, {}, workers)
    x = np.random.default_rng(0).standard_normal((16, 16)).astype(np.float32)
    same, _ = exe(x)
    np.testing.assert_array_equal(same, x)
    same[:] = 0
    assert x.any()


def test_the_other_device_goes_on_with_the_next_run(workers: Workers) -> None:
    """A lane does not wait for what another one has not made yet, while it may begin the run after that."""
    graph = chain_of(3)
    exe = on_both(graph, {n.outputs[0].name: at % 2 for at, n in enumerate(graph.nodes)}, workers)
    order: list[tuple[int, int]] = []
    inner, begun = exe._made, threading.Event()

    def made(current: Any, k: int, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        run = int(round(float(next(iter(inputs.values())).flat[0]))) if k == 0 else -1
        order.append((k, run))
        if k == 1:  # the other device takes its time, until the host has begun the next run
            assert begun.wait(60)
        if k == 0 and run == 1:
            begun.set()
        return inner(current, k, inputs)

    exe._made = made  # type: ignore[method-assign]
    found = list(exe.stream({"x": np.full(8, i, np.float32)} for i in range(3)))
    assert [float(f["y"][0]) for f in found] == pytest.approx([math.tanh(math.tanh(math.tanh(i))) for i in range(3)])
    assert order.index((0, 1)) < [k for k, _ in order].index(2)


def test_the_way_in(measured: None) -> None:
    opencl.required()
    network = weighted("light_squeezenet")
    exe = mapsto.divide(network, ["cpu", "opencl"], threads=1, pins=[("*", "opencl")])
    assert {part.device for part in exe.parts} <= {"opencl", "cpu"} and "on opencl" in exe.plan_text
    x = np.random.default_rng(0).standard_normal(exe.whole.inputs[0].shape).astype(np.float32)
    alone = mapsto.compile(network, threads=1)(x)
    np.testing.assert_allclose(exe(x), alone, rtol=1e-3, atol=1e-6 * float(np.abs(alone).max()))
    for wrong, said in [
        ({"devices": ["opencl"]}, "the first one is the host"),
        ({"devices": "cpu"}, "expected a list of names"),
        ({"devices": ["cpu", "cpu"]}, "each may be there once"),
        ({"devices": ["cpu"], "pins": [("*", "gpu")]}, "there is no device"),
        ({"devices": ["cpu"], "objective": "price"}, "there are: latency, throughput"),
        ({"devices": ["cpu"], "placer": "best"}, "there are: greedy"),
        ({"devices": None}, "expected a list of names"),
        ({"devices": ["cpu"], "pins": ["ab"]}, "expected pairs"),
        ({"devices": ["cpu"], "pins": {"*": "cpu"}}, "expected pairs"),
        ({"devices": ["cpu"], "pins": [("*", "cpu")], "replicate": True}, "a work is on every device"),
    ]:
        with pytest.raises(ArgumentError, match=said):
            mapsto.divide(model([node("Relu", ["x"], ["y"])], {"x": [4]}), **wrong)  # type: ignore[arg-type]


def products(rng: np.random.Generator) -> Graph:
    """A convolution with bias and two operations behind it, a product whose result is read twice, and an output."""
    w, b = rng.standard_normal((96, 8, 3, 3)).astype(np.float32), rng.standard_normal(96).astype(np.float32)
    m = rng.standard_normal((96, 64)).astype(np.float32)
    nodes = [
        node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]), node("Relu", ["c"], ["r"]), node("Tanh", ["r"], ["t"]),
        node("GlobalAveragePool", ["t"], ["p"]), node("Flatten", ["p"], ["f"]), node("MatMul", ["f", "m"], ["q"]),
        node("Relu", ["q"], ["z"]),
    ]  # fmt: skip
    return prepared(model(nodes, {"x": ["n", 8, 9, 7]}, ["t", "z", "q"], {"w": w, "b": b, "m": m}), None)


@pytest.mark.parametrize("share", [16, 48])
def test_a_contraction_in_two_is_the_contraction(share: int, workers: Workers) -> None:
    rng = np.random.default_rng(share)
    graph = products(rng)
    by_op = {n.op: n.outputs[0].name for n in graph.nodes}
    halves = split(graph, {by_op["conv"]: share, by_op["matmul"]: share})
    assert [n.op for n in halves.nodes].count("conv") == 2 and [n.op for n in halves.nodes].count("tanh") == 2
    assert [n.op for n in halves.nodes].count("matmul") == 2  # two read what it makes: nothing goes along with it
    seats = {n.outputs[0].name: int(n.outputs[0].shape[-1 if n.op == "matmul" else 1] == share) for n in halves.nodes
             if n.op in ("conv", "relu", "tanh", "matmul")}  # fmt: skip
    exe = on_both(halves, seats, workers)
    assert {part.device for part in exe.parts} == {"cpu", "opencl"}
    for count in (1, 3):
        x = {"x": rng.standard_normal((count, 8, 9, 7)).astype(np.float32)}
        for name, expected in build(graph, workers, 1, None).run(x).items():
            np.testing.assert_allclose(exe.run(x)[name], expected, rtol=1e-4, atol=1e-5, err_msg=name)


def test_a_large_product_is_shared_and_a_small_one_is_not() -> None:
    """By predictions."""
    opencl.required()

    def product(rows: int, size: int) -> DividedExecutable:
        w = np.random.default_rng(0).standard_normal((size, size)).astype(np.float32)
        graph = model([node("MatMul", ["x", "w"], ["y"])], {"x": [rows, size]}, constants={"w": w})
        exe = mapsto.divide(graph, ["cpu", "opencl"], threads=1)
        x = np.random.default_rng(1).standard_normal((rows, size)).astype(np.float32)
        np.testing.assert_allclose(exe(x), x.astype(np.float64) @ w, rtol=1e-3, atol=1e-3)
        return exe

    assert len(product(768, 2048).parts) > 1
    assert len(product(4, 64).parts) == 1


def settle(exe: DividedExecutable) -> None:
    """Waits for what goes on in the background."""
    for lane in exe._lanes.values():
        done = threading.Event()
        lane.put(done.set)
        assert done.wait(30)
    for thread in threading.enumerate():
        if thread.name == "mapsto divide":
            thread.join(30)


def test_a_device_that_turns_slow_is_given_less_and_more_again(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock of its own: a change within 20 runs, and back within 40; what runs meanwhile waits for nothing."""
    clock, slow = defaultdict[int, float](float), {"opencl": 1.0}
    monkeypatch.setattr(dividing.time, "perf_counter", lambda: clock[threading.get_ident()])
    graph, opened = diamond(), {"cpu": workers, "opencl": opencl.backend()}
    by_op = {n.op: n.outputs[0].name for n in graph.nodes}

    def division(seats: dict[str, int]) -> Division:
        made = divided(graph, seats, opened, 1)._current.division
        parts = [replace(p, executable=Slowed(p.executable, clock, lambda d=p.device: 1e-3 * slow.get(d, 1.0)))
                 for p in made.parts]  # fmt: skip
        return replace(made, parts=tuple(parts), predicted=(1e-3,) * len(parts))

    both, alone = division({by_op["tanh"]: 1}), division({})
    present = [both]
    asked: list[float] = []

    def ready(speed: Mapping[str, float]) -> Division | None:
        asked.append(speed["opencl"])
        wants = both if speed["opencl"] < 2 else alone
        return None if wants is present[0] else present.insert(0, wants) or wants

    whole = divided(graph, {}, opened, 1).whole
    prepared_so_far: list[int] = []
    replanning = Replanning(
        lambda speed, took: None, ready, lambda speed: None, lambda: prepared_so_far.append(1),
        {"opencl": lambda: slow["opencl"]},
    )  # fmt: skip
    exe = DividedExecutable(whole, both, ["cpu", "opencl"], replanning)
    x = np.random.default_rng(0).standard_normal((16, 16)).astype(np.float32)

    def runs_until(devices: set[str]) -> int:
        for count in range(60):
            np.testing.assert_allclose(exe(x), wanted(x), rtol=1e-4, atol=1e-6)
            settle(exe)
            if {part.device for part in exe.parts} == devices:
                return count
        raise AssertionError(f"{exe.report()}\nstill {[part.device for part in exe.parts]}")

    for _ in range(20):
        exe(x)
        settle(exe)
    assert not asked and prepared_so_far == [1] and {part.device for part in exe.parts} == {"cpu", "opencl"}
    slow["opencl"] = 4.0
    assert runs_until({"cpu"}) <= 20
    slow["opencl"] = 1.0
    assert runs_until({"cpu", "opencl"}) <= 40
    assert exe.report().count("divided anew") == 2 and "opencl takes" in exe.report()
    settled = len(asked)
    for _ in range(40):
        exe(x)
    assert len(asked) == settled, exe.report()


def test_a_lost_device_is_not_planned_for(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, said = diamond(), list[dict[str, float]]()
    by_op = {n.op: n.outputs[0].name for n in graph.nodes}
    division = divided(graph, {by_op["tanh"]: 1}, {"cpu": workers, "opencl": opencl.backend()}, 1)._current.division
    alone = divided(graph, {}, {"cpu": workers}, 1)

    def ready(speed: Mapping[str, float]) -> Division | None:
        said.append(dict(speed))
        return alone._current.division

    def dies() -> float:
        raise RuntimeError("the device is gone")

    replanning = Replanning(lambda speed, took: None, ready, lambda speed: None, lambda: None, {"opencl": dies})
    exe = DividedExecutable(alone.whole, division, ["cpu", "opencl"], replanning)
    x = np.random.default_rng(0).standard_normal((16, 16)).astype(np.float32)
    exe(x)
    exe._redividing.probe("opencl", dies)
    assert exe.lost == ["opencl"] and said[-1]["opencl"] == float("inf")
    for _ in range(20):
        np.testing.assert_allclose(exe(x), wanted(x), rtol=1e-4, atol=1e-6)
        settle(exe)
    assert {part.device for part in exe.parts} == {"cpu"} and "the device is gone" in exe.report()


def test_interrupts_leave_no_lane_waiting(workers: Workers) -> None:
    exe, x = split_diamond(workers), np.zeros((16, 16), np.float32)
    exe(x)
    interrupted = 0

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for at in range(150):
            try:
                try:
                    signal.setitimer(signal.ITIMER_REAL, 1e-5 * (1 + at % 60))
                    exe(x)
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                interrupted += 1
    finally:
        signal.signal(signal.SIGALRM, before)
    settle(exe)
    assert interrupted > 5
    np.testing.assert_allclose(exe(x), wanted(x), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("after", [0.0, 0.3])
def test_a_process_may_end_while_a_division_is_made(after: float) -> None:
    opencl.required()
    program = f"""
import time
import mapsto
from tests.importers.test_light_models import weighted
exe = mapsto.divide(weighted("light_squeezenet"), ["cpu", "opencl"], threads=1, pins=[("n1*", "opencl")])
exe._redividing.is_making = True
exe._redividing.replan({{"opencl": 4.0}}, exe._current, exe._redividing.replanning)
time.sleep({after})
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr  # an OpenCL driver may say there that it warned
    assert not [word for word in ("terminate", "Traceback", "Fatal") if word in done.stderr], done.stderr


def test_a_process_may_end_in_the_middle_of_a_stream() -> None:
    opencl.required()
    program = """
import numpy as np, mapsto
from tests.session.test_divide import *
with Workers(cache=False, isa=None) as workers:
    exe = split_diamond(workers)
stream = exe.stream({"x": np.zeros((16, 16), np.float32)} for _ in range(500))
next(stream)
exe._ready(stream.gi_frame.f_locals["going"][0], 0, False)
"""
    for _ in range(3):
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_dividing_anew_that_fails_is_said_and_nothing_else(workers: Workers) -> None:
    graph = diamond()
    division = divided(graph, at_random(graph, 3), {"cpu": workers, "opencl": opencl.backend()}, 1)._current.division
    hurried = replace(division, predicted=(1e-9,) * len(division.parts))

    def fails(speed: Mapping[str, float]) -> Division | None:
        raise RuntimeError("no room")

    whole = divided(graph, {}, {"cpu": workers}, 1).whole
    replanning = Replanning(lambda speed, took: None, fails, fails, lambda: None, {})
    exe = DividedExecutable(whole, hurried, ["cpu", "opencl"], replanning)
    x = np.random.default_rng(0).standard_normal((16, 16)).astype(np.float32)
    for _ in range(30):
        np.testing.assert_allclose(exe(x), wanted(x), rtol=1e-4, atol=1e-6)
        settle(exe)
    assert "dividing anew failed (no room)" in exe.report()
