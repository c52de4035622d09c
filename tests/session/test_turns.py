"""What is made in the background rests while devices are measured, so that one that is quick again is taken back."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import numpy as np
import pytest
from tests import opencl
from tests.session.divisions import Slowed, diamond, wanted
from tests.session.test_divide_asked import DIGITS

import mapsto
from mapsto.budget import BudgetError, current, metering
from mapsto.devices.cpu.workers import Workers
from mapsto.runtime import divided as dividing
from mapsto.runtime.divided import DividedExecutable
from mapsto.runtime.divisions import Division, Replanning
from mapsto.session import divide as dividing_anew
from mapsto.session.division import divided
from mapsto.session.turns import Turns


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with Workers(cache=False, isa=None) as opened:
        yield opened


def until(said: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not said():
        assert time.monotonic() < deadline
        time.sleep(0.001)


class _Making:
    """Something that is made step by step until it is told to end; `busy` says whether it is at work."""

    def __init__(self, turns: Turns) -> None:
        self.turns, self.busy, self.ends = turns, False, threading.Event()
        self.steps = 0

    def __call__(self) -> None:
        with self.turns.making(), metering():
            while not self.ends.is_set():
                self.busy = True
                time.sleep(0.002)
                self.steps += 1
                self.busy = False
                current().tick("a step")
            self.busy = False


def test_making_rests_while_something_is_measured() -> None:
    turns = Turns()
    making = [_Making(turns) for _ in range(2)]
    threads = [threading.Thread(target=each) for each in making]
    for thread in threads:
        thread.start()
    until(lambda: all(each.steps for each in making))

    def probe() -> float:
        seen = [each.busy for each in making for _ in range(20) if not time.sleep(0.0005)]
        return float(any(seen))

    assert [turns.measured(probe)() for _ in range(5)] == [0.0] * 5
    before = sum(each.steps for each in making)
    until(lambda: sum(each.steps for each in making) > before + 4)  # it goes on
    for each, thread in zip(making, threads, strict=True):
        each.ends.set()
        thread.join(30)
        assert not thread.is_alive()
    assert turns.measured(lambda: 3.0)() == 3.0

    def fails() -> float:
        raise RuntimeError("the device is gone")

    with pytest.raises(RuntimeError, match="gone"):
        turns.measured(fails)()
    with turns.making(), metering():
        current().tick("nothing is measured any more")


def test_nothing_waits_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mapsto.session.turns._PATIENCE", 0.05)
    monkeypatch.setattr("mapsto.session.turns._LONGEST", 0.05)
    turns = Turns()
    with turns.making():  # whose next step is far away
        assert turns.measured(lambda: 1.0)() == 1.0
    hangs, ends = threading.Event(), threading.Event()

    def probe() -> float:
        hangs.set()
        ends.wait(30)
        return 1.0

    thread = threading.Thread(target=turns.measured(probe))
    thread.start()
    assert hangs.wait(30)
    with turns.making(), metering():
        current().tick("a step")
    ends.set()
    thread.join(30)
    with pytest.raises(BudgetError), metering({"seconds": 0.0}):
        time.sleep(0.01)
        current().tick("limits are limits")


def test_devices_are_followed_while_something_is_made(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock of its own: what is made makes probes four times as slow, and does not end."""
    clock, slow = defaultdict[int, float](float), {"opencl": 1.0}
    monkeypatch.setattr(dividing.time, "perf_counter", lambda: clock[threading.get_ident()])
    graph, opened = diamond(), {"cpu": workers, "opencl": opencl.backend()}
    by_op = {n.op: n.outputs[0].name for n in graph.nodes}
    turns = Turns()
    making = _Making(turns)

    def division(seats: dict[str, int]) -> Division:
        made = divided(graph, seats, opened, 1)._current.division
        parts = [replace(p, executable=Slowed(p.executable, clock, lambda d=p.device: 1e-3 * slow.get(d, 1.0)))
                 for p in made.parts]  # fmt: skip
        return replace(made, parts=tuple(parts), predicted=(1e-3,) * len(parts))

    both, alone = division({by_op["tanh"]: 1}), division({})
    present = [both]

    def ready(speed: Mapping[str, float]) -> Division | None:
        wants = both if speed["opencl"] < 2 else alone
        return None if wants is present[0] else present.insert(0, wants) or wants

    def best(speed: Mapping[str, float]) -> Division | None:
        making()
        return None

    def probe() -> float:
        time.sleep(0.002)
        return slow["opencl"] * (4.0 if making.busy else 1.0)

    whole = divided(graph, {}, opened, 1).whole
    replanning = Replanning(
        lambda speed, took: None, ready, best, lambda: None, {"opencl": turns.measured(probe)}, turns.measuring
    )  # fmt: skip
    exe = DividedExecutable(whole, both, ["cpu", "opencl"], replanning)
    x = np.random.default_rng(0).standard_normal((16, 16)).astype(np.float32)

    def runs_until(devices: set[str]) -> int:
        for count in range(60):
            np.testing.assert_allclose(exe(x), wanted(x), rtol=1e-4, atol=1e-6)
            done = threading.Event()
            exe._lanes["opencl"].put(done.set)
            assert done.wait(30)
            if not making.steps:
                time.sleep(0.02)  # the background's turn
            if {part.device for part in exe.parts} == devices:
                return count
        raise AssertionError(f"{exe.report()}\nstill {[part.device for part in exe.parts]}")

    for _ in range(20):
        exe(x)
    slow["opencl"] = 4.0
    runs_until({"cpu"})
    until(lambda: making.steps > 0)
    try:
        slow["opencl"] = 1.0
        assert runs_until({"cpu", "opencl"}) <= 10
        for _ in range(20):  # nothing changes: it stays
            runs_until({"cpu", "opencl"})
        slow["opencl"] = 4.0  # of a device that has a part
        assert runs_until({"cpu"}) <= 20
        slow["opencl"] = 1.0
        assert runs_until({"cpu", "opencl"}) <= 10
        assert not making.ends.is_set() and exe._redividing.is_making
    finally:
        making.ends.set()
    until(lambda: not exe._redividing.is_making)


def test_the_first_division_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are made afterwards: to return to it nothing has to be made."""
    opencl.required()
    made = []
    divider_of = dividing_anew.Divider

    class Seen(divider_of):  # type: ignore[misc, valid-type]
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)
            made.append(self)

    monkeypatch.setattr(dividing_anew, "Divider", Seen)
    shapes = {"image": (1, 1, 28, 28)}
    mapsto.divide(DIGITS, ["cpu", "opencl"], shapes, threads=1, adapt=False, pins=[("*", "opencl")])
    divider = made[0]
    first = divider.base.placement.seats
    count = len(first)
    assert 1 in first and count > 3
    with divider._making() as backends:
        for k in range(7):
            seats = tuple(int(k >> w & 1) for w in range(count))
            placement = replace(divider.base.placement, seats=seats)
            divider.seats = seats
            divider.division(replace(divider.base, placement=placement), backends)
    assert first in divider.kept and len(divider.kept) <= 7
