"""Executables for single sizes: when they are made and kept, by a clock and a predictor of the tests' own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from tests.session.support import normal, parse

import mapsto
from mapsto.errors import ShapeError, UnsupportedError
from mapsto.runtime import background
from mapsto.runtime.adaptive import AdaptiveSizes, AdaptPolicy
from mapsto.runtime.executable import Executable

MODEL = parse("m (float[n, m] x) => (float[n, m] y) { y = Relu(x) }")
QUICK = AdaptPolicy(runs=4)


class Rig:
    """An executable whose single ones are compiled from `model`, take `took` times what it takes by the tests' clock,
    and are predicted to be `predicted` times as fast.
    """

    def __init__(self, policy: AdaptPolicy = QUICK, model: Any = MODEL, predicted: float = 2.0) -> None:
        self.whole = mapsto.compile(MODEL, threads=1)
        self.model, self.predicted, self.took = model, predicted, 0.5
        self.now = 0.0
        self.made: list[dict[str, int]] = []
        self.asked: list[dict[str, int]] = []
        self.singles: list[Executable] = []
        self.fails: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.sizes = AdaptiveSizes(self.whole.open_sizes, self._predict, self._make, policy, lambda: self.now)
        self.whole.adaptive = self.sizes
        self._slow(self.whole, lambda: 1.0)

    def _slow(self, exe: Executable, seconds: Callable[[], float]) -> None:
        """By the clock of the tests, runs of this one take so long."""
        run = exe.outputs_of

        def timed(inputs: Any) -> Any:
            self.now += seconds()
            return run(inputs)

        exe.outputs_of = timed  # type: ignore[method-assign]

    def _predict(self, sizes: Mapping[str, int], every: Mapping[str, int]) -> float:
        assert sizes.items() <= every.items()
        self.asked.append(dict(sizes))
        return self.predicted

    def _make(self, sizes: Mapping[str, int]) -> Executable:
        assert threading.current_thread() is not threading.main_thread(), "no run waits for a compile"
        assert self.gate.wait(15)
        self.made.append(dict(sizes))
        if self.fails is not None:
            raise self.fails
        single = mapsto.compile(self.model, {"x": (sizes["n"], sizes["m"])}, threads=1)
        self._slow(single, lambda: self.took)
        self.singles.append(single)
        return single

    def run(self, n: int, m: int = 3, times: int = 1) -> None:
        for _ in range(times):
            x = normal(n, m)
            np.testing.assert_array_equal(self.whole(x), np.maximum(x, 0))

    def settle(self) -> str:
        assert self.sizes.wait(60)
        return self.whole.report()

    def single(self) -> bool:
        """Whether the last run was by an executable for its sizes alone."""
        before = self.now
        self.run(2)
        return self.now - before == self.took


def test_sizes_that_come_often_have_an_executable_of_their_own() -> None:
    rig = Rig()
    rig.run(2, times=3)
    rig.run(5, times=3)
    assert rig.settle() and not rig.asked
    rig.run(2)
    said = rig.settle()
    assert rig.asked == rig.made == [{"n": 2, "m": 3}] and rig.single()
    assert "for n = 2, m = 3: predicted 2.00 times as fast, made in " in said
    assert (
        "measured 2.00, same bits where compared" in said and "n = 2, m = 3: 4 runs lately, by an executable of" in said
    )


def test_what_is_predicted_to_gain_little_is_not_made() -> None:
    rig = Rig(predicted=1.19)
    rig.run(2, times=20)
    assert "not made: predicted 1.19 times as fast" in rig.settle() and not rig.made
    rig.run(2, times=100)
    rig.settle()
    assert len(rig.asked) == 1, "asked once"


def test_what_is_measured_to_gain_little_is_not_kept_and_not_made_again() -> None:
    rig = Rig()
    rig.took = 0.97
    rig.run(2, times=4)
    assert "not kept: predicted 2.00 times as fast" in rig.settle() and not rig.single()
    rig.run(2, times=100)
    rig.settle()
    assert len(rig.made) == 1


def test_predictions_are_corrected_by_what_was_measured() -> None:
    rig = Rig(predicted=1.3)
    rig.took = 1.0
    rig.run(2, times=4)
    rig.settle()
    rig.run(3, times=8)
    assert "for n = 3, m = 3: not made: predicted 1.30 times as fast (1.19 as predictions went so far)" in rig.settle()
    assert rig.made == [{"n": 2, "m": 3}]


def test_a_failure_is_said_once_and_nothing_is_tried_again() -> None:
    for fails in (UnsupportedError("no such size"), ZeroDivisionError("ours")):
        rig = Rig()
        rig.fails = fails
        rig.run(2, times=4)
        rig.settle()
        rig.run(2, times=50)
        said = rig.settle()
        assert said.count("it could not be made") == 1 and str(fails) in said and len(rig.made) == 1


def test_no_run_waits_for_what_is_being_made() -> None:
    rig = Rig()
    rig.gate.clear()
    rig.run(2, times=4)
    rig.run(2, times=40)
    rig.run(3, times=40)
    assert not rig.sizes.wait(0.01) and not rig.made and not rig.single()
    rig.gate.set()
    rig.settle()
    assert rig.made == [{"n": 2, "m": 3}], "one at a time"
    rig.run(3, times=4)
    rig.settle()
    assert rig.made[1:] == [{"n": 3, "m": 3}], "and others later"


@pytest.mark.parametrize("text, said", [
    ("m (float[n, m] x) => (float[n, m] y) { y = Neg(x) }", "but its results differ by"),
    ("m (float[n, m] x) => (float[m, n] y) { y = Transpose(x) }", "but an output is float32[3, 2] instead of"),
])  # fmt: skip
def test_what_gives_other_results_is_not_kept(text: str, said: str) -> None:
    rig = Rig(model=parse(text))
    rig.run(2, times=4)
    assert said in rig.settle()
    rig.run(2, times=4)


def test_other_bits_are_said() -> None:
    rig = Rig(model=parse("m (float[n, m] x) => (float[n, m] y) { a = Relu(x) k = Constant<value_float = 1.0000002>() "
                          "y = Mul(a, k) }"))  # fmt: skip
    for _ in range(4):
        rig.whole(normal(2, 3))
    assert "other bits (up to" in rig.settle()


def test_no_more_are_kept_than_may_be() -> None:
    rig = Rig(AdaptPolicy(runs=4, kept=2))
    for n in (2, 3):
        rig.run(n, times=8)
        rig.settle()
    rig.run(4, times=12)
    rig.settle()
    assert len(rig.made) == 2, "as often as others is not enough to take their place"
    rig.run(3, times=10)
    rig.run(4, times=8)
    said = rig.settle()
    assert rig.made[2:] == [{"n": 4, "m": 3}] and "for n = 2, m = 3: made way" in said
    assert len(rig.sizes.executables()) == 2 and not rig.single()


def test_what_was_used_long_ago_counts_for_less() -> None:
    rig = Rig(AdaptPolicy(runs=4, kept=1, aged=40))
    rig.run(2, times=30)
    rig.settle()
    for _ in range(60):
        rig.run(3)
        rig.settle()
    assert {"n": 3, "m": 3} in rig.made


def test_a_bounded_number_of_sizes_is_counted() -> None:
    rig = Rig(AdaptPolicy(runs=1000, counted=8))
    for n in range(50):
        rig.run(n)
        rig.run(2)
    assert rig.settle().count("runs lately") <= 8 and "n = 2, m = 3: " in rig.whole.report()


def test_weights_that_would_take_too_much_are_not_doubled() -> None:
    weighted = parse("m (float[n, 4] x) => (float[n, 4] y) { w = Constant<value_floats = [1.0, 2.0, 3.0, 4.0]>() "
                     "y = Mul(x, w) }")  # fmt: skip
    whole = mapsto.compile(weighted, threads=1)
    sizes = AdaptiveSizes(whole.open_sizes, lambda *_: 9.0, lambda _: whole, AdaptPolicy(runs=2, bytes=100))
    whole.adaptive = sizes
    for _ in range(4):
        whole(normal(3, 4))
    assert sizes.wait(60) and "not made: its weights would take" in whole.report()


def test_what_is_wrong_with_inputs_is_said_of_open_sizes() -> None:
    rig = Rig()
    rig.run(2, times=4)
    rig.settle()
    for wrong in (normal(2, 3).astype(np.float64), normal(2, 3, 1), normal(2), 5):
        with pytest.raises(ShapeError, match=r"x: f32\[n, m\]"):
            rig.whole(wrong)
    with pytest.raises(ShapeError, match="takes 1"):
        rig.whole()
    assert rig.whole([[1.0, -1.0, 2.0], [0.0, 0.0, 3.0]]).shape == (2, 3)


def test_it_is_poisoned_with_its_executable() -> None:
    rig = Rig()
    rig.run(2, times=4)
    rig.settle()
    rig.whole.poison()
    rig.run(2, times=3)
    rig.whole.release_memory()
    rig.run(2, times=3)
    assert rig.single()


def test_callers_at_once() -> None:
    rig = Rig()
    failed: list[BaseException] = []

    def work(seed: int) -> None:
        try:
            for at in range(200):
                rig.run(2 + (seed + at) % 5)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rig.settle()
    assert not failed and len(rig.made) == len({tuple(made.items()) for made in rig.made}) >= 1
    assert len(rig.sizes.executables()) <= 4


def test_a_child_that_was_forked_meanwhile_makes_its_own() -> None:
    rig = Rig()
    rig.gate.clear()
    rig.run(2, times=4)
    assert not rig.sizes.wait(0.01)
    child = os.fork()
    if not child:
        status = 1
        try:
            rig.gate = threading.Event()
            rig.gate.set()
            rig.run(3, times=4)
            if rig.sizes.wait(60) and rig.made == [{"n": 3, "m": 3}]:
                status = 0
        finally:
            os._exit(status)
    rig.gate.set()
    assert os.waitpid(child, 0)[1] == 0
    rig.settle()
    assert rig.made == [{"n": 2, "m": 3}]


def test_no_thread_is_to_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig()

    def refuse(self: Any) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as context:
        context.setattr(threading.Thread, "start", refuse)
        rig.run(2, times=4)
    assert "not looked at: RuntimeError: can't start new thread" in rig.settle() and not rig.made
    rig.run(2, times=8)
    rig.settle()
    assert len(rig.made) == 1


@pytest.mark.parametrize("when", ["predicted", "made", "timed"])
def test_a_process_that_ends_meanwhile_neither_hangs_nor_prints(when: str) -> None:
    program = textwrap.dedent(f"""
        import sys, time
        import numpy as np
        from tests.session.support import parse
        import mapsto
        from mapsto.runtime.adaptive import AdaptiveSizes, AdaptPolicy
        from mapsto.runtime.background import is_ending
        model = parse("m (float[n, m] x) => (float[n, m] y) {{ y = Relu(x) }}")
        whole = mapsto.compile(model, threads=2)
        def until_the_end(*_):
            while not is_ending(): time.sleep(0.01)
            return 2.0
        def quickly(*_): return 2.0
        def make(sizes):
            if {when == "made"!r}: until_the_end()
            return mapsto.compile(model, {{"x": (sizes["n"], sizes["m"])}}, threads=2)
        def clock():
            if {when == "timed"!r}: until_the_end()
            return time.perf_counter()
        predict = until_the_end if {when == "predicted"!r} else quickly
        whole.adaptive = AdaptiveSizes(whole.open_sizes, predict, make, AdaptPolicy(runs=2), clock)
        for _ in range(4): whole(np.ones((2, 3), np.float32))
        time.sleep(1.0)
        assert not whole.adaptive.wait(0)
        print("ends")
    """)
    begun = time.monotonic()
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "ends\n", "")
    assert time.monotonic() - begun < 60


def test_nothing_begins_where_the_process_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig()
    monkeypatch.setattr(background, "_ENDING", [True])
    rig.run(2, times=10)
    assert not rig.asked
