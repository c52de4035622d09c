"""Tuned kernels: what a timer prefers is taken, replayed and said; noise, damage and interrupts leave all as it was."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import onnx.numpy_helper
import pytest
from tests.session.support import Feed, assert_close, assert_same_bits, normal, parse

import mapsto
from mapsto.devices.cpu import host
from mapsto.devices.cpu.host import host_tuning, keep_tuning, tuning_path
from mapsto.devices.cpu.isa import host as host_isa
from mapsto.devices.cpu.workers import Workers
from mapsto.devices.maker import NearKernel
from mapsto.errors import ArgumentError
from mapsto.machine.tuning import NO_TUNING, TunedKernel, Tuning, parse_tuning, tuning_text
from mapsto.plan.decide import decide
from mapsto.plan.initial import constants_of
from mapsto.plan.items import tasks
from mapsto.plan.works import Work, walk
from mapsto.session import tune as tuning
from mapsto.session.cache.key import options_digest
from mapsto.session.compile import build, prepared
from mapsto.session.pairs import TimedPair
from mapsto.session.request import Request
from mapsto.session.tuner import TriedProgram, Tuner

Steps = Mapping[str, Sequence[TimedPair]]
PAIRS = 20


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of its own, in which what is tuned counts."""
    monkeypatch.delenv("MAPSTO_MACHINE", raising=False)
    monkeypatch.setenv("MAPSTO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(host, "_warned", set())
    return tmp_path / "cache"


def convolutions(names: str = "", channels: int = 32, last: str = "Relu") -> Any:
    """3x3 taps, a matrix product and a softmax over rows; `names` of all values."""
    n = names
    made = parse(f"""g (float[1, {channels}, 12, 20] {n}x) => (float[1, 24, 12, 20] {n}y) {{
        {n}c = Conv<pads = [1, 1, 1, 1]>({n}x, {n}w)
        {n}r = {last}({n}c)
        {n}d = Conv({n}r, {n}v)
        {n}y = Softmax<axis = 3>({n}d)
    }}""")
    rng = np.random.default_rng(0)
    for name, shape in (("w", (32, channels, 3, 3)), ("v", (24, 32, 1, 1))):
        array = (rng.standard_normal(shape) / 8).astype(np.float32)
        made.graph.initializer.append(onnx.numpy_helper.from_array(array, n + name))
    return made


def operands(names: str = "", channels: int = 32) -> Feed:
    return {f"{names}x": normal(1, channels, 12, 20)}


def compiled(model: Any) -> Any:
    return mapsto.compile(model, threads=1, cache=False)


def works(executable: Any) -> dict[str, Work]:
    return {item.name: item for item in walk(executable.plan.items) if isinstance(item, Work)}


def near(model: Any, template: str = "") -> dict[str, list[NearKernel]]:
    """The kernels of each work, by the template that it has, or by another one."""
    graph = prepared(model, None)
    with Workers(cache=False) as backend:
        maker = backend.maker(constants_of(graph))
        mapped = decide(graph, maker)
        return {
            task.name: list(maker.near(task, mapped.homes, template or mapped.choices[task.name].quote.template))
            for task in tasks(mapped.items)
        }


class Preferring:
    """A timer for which schedules that are preferred take half the time, and all others as long as they did."""

    def __init__(self, preferred: Callable[[str], bool], whole: float = 0.9) -> None:
        self.preferred, self.share, self.seen = preferred, whole, [0, 0]

    def __call__(self, inputs: Sequence[np.ndarray]) -> Preferring:
        return self

    def _time(self, variant: TriedProgram, name: str) -> float:
        return 0.5 if self.preferred(variant.made[name].offer.schedule or "") else 1.0

    def steps(self, old: TriedProgram, new: TriedProgram, seconds: float) -> Steps:
        self.seen[0] += 1
        return {name: [(self._time(old, name), self._time(new, name))] * PAIRS for name in old.made}

    def whole(self, old: TriedProgram, new: TriedProgram, seconds: float) -> Sequence[TimedPair]:
        self.seen[1] += 1
        return [(1.0, self.share)] * PAIRS


def preferring(monkeypatch: pytest.MonkeyPatch, schedule: str, whole: float = 0.9) -> Preferring:
    timer = Preferring(lambda text: text == schedule, whole)
    monkeypatch.setattr(tuning, "AlternatingTimer", timer)
    return timer


def another(model: Any) -> tuple[str, NearKernel, str]:
    """A work with a product in tiles, its kernel, and another schedule of it."""
    for name, kernels in near(model).items():
        for kernel in kernels:
            others = [text for text, _ in kernel.others if text != kernel.schedule]
            if kernel.template == "tiles" and others:
                return name, kernel, others[0]
    raise AssertionError("no product in tiles has another schedule")


# -- what is preferred -----------------------------------------------------------------------------------------------


def test_a_schedule_that_is_faster_is_kept_taken_said_and_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    model, feed = convolutions(), operands()
    before = compiled(model)
    name, kernel, other = another(model)
    preferring(monkeypatch, other)
    report = mapsto.tune(model, budget=60, threads=1)
    assert report.file == str(tuning_path(host_isa())) and not report.because
    (form,) = report.forms
    assert form.key == kernel.key and name in form.works and form.share == 0.5 and form.after == f"tiles: {other}"
    after = compiled(model)
    work = works(after)[name]
    assert work.offer.schedule == other != works(before)[name].offer.schedule
    assert any(reason.startswith("tuned: 0.50 of the time") for reason in work.because)
    assert after.plan.basis.machine != before.plan.basis.machine
    assert_close(after.run(feed), before.run(feed))
    # the same again; and, from the plan, without what was tuned
    assert compiled(model).plan_text == after.plan_text
    Path(report.file).unlink()
    replayed = mapsto.compile(model, threads=1, cache=False, plan=after.plan_text)
    assert replayed.plan.text() == after.plan.text()
    assert_same_bits(replayed.run(feed), after.run(feed))
    assert compiled(model).plan_text == before.plan_text


def test_equal_kernels_of_other_models_are_made_so_and_others_not(monkeypatch: pytest.MonkeyPatch) -> None:
    model = convolutions()
    name, kernel, other = another(model)
    preferring(monkeypatch, other)
    assert mapsto.tune(model, budget=60, threads=1).forms
    tuned = [w.offer.schedule for w in works(compiled(convolutions("other_"))).values() if "tuned" in str(w.because)]
    assert tuned == [other]
    others = convolutions(last="Sigmoid", channels=48)
    if kernel.key not in {k.key for kernels in near(others).values() for k in kernels}:
        assert "tuned" not in compiled(others).plan_text


def test_a_whole_that_is_not_faster_keeps_nothing(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    model = convolutions()
    timer = preferring(monkeypatch, another(model)[2], whole=1.0)
    before = compiled(model).plan_text
    report = mapsto.tune(model, budget=60, threads=1)
    assert timer.seen[1] == 1 and report.forms and not report.file and "whole model was not faster" in report.because
    assert not list(folder.glob("machines/*")) and compiled(model).plan_text == before


def test_what_is_faster_only_once_is_not_kept(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """The times that choose a schedule are not those that confirm it."""

    class Lucky(Preferring):
        def steps(self, old: TriedProgram, new: TriedProgram, seconds: float) -> Steps:
            self.seen[0] += 1
            first = self.seen[0] == 2  # the first one times the kernels as they are
            return {name: [(1.0, 0.5 if first else 1.0)] * PAIRS for name in old.made}

    timer = Lucky(lambda text: False)
    monkeypatch.setattr(tuning, "AlternatingTimer", timer)
    report = mapsto.tune(convolutions(), budget=60, threads=1)
    assert report.tried > 1 and not report.forms and timer.seen[1] == 0 and not list(folder.glob("machines/*"))


def test_noise_keeps_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)

    class Noisy(Preferring):
        def steps(self, old: TriedProgram, new: TriedProgram, seconds: float) -> Steps:
            return {n: [(a, b) for a, b in rng.uniform(0.7, 1.3, (PAIRS, 2))] for n in old.made}

    monkeypatch.setattr(tuning, "AlternatingTimer", Noisy(lambda text: False))
    assert not mapsto.tune(convolutions(), budget=60, threads=1).forms


def test_what_was_tuned_before_stays_and_can_be_tuned_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model = convolutions()
    _, kernel, other = another(model)
    preferring(monkeypatch, other)
    keep_tuning(Tuning({"0" * 32: TunedKernel("tiles", "of another model", 0.5)}))
    mapsto.tune(model, budget=60, threads=1)
    assert set(host_tuning().kernels) == {"0" * 32, kernel.key}
    preferring(monkeypatch, kernel.schedule)  # what costs chose is faster after all
    mapsto.tune(model, budget=60, threads=1)
    assert host_tuning().kernels[kernel.key] == TunedKernel("tiles", kernel.schedule, 0.25)


# -- keys ------------------------------------------------------------------------------------------------------------


def test_keys_are_of_forms_and_not_of_names() -> None:
    def keys(model: Any) -> list[str]:
        return [kernel.key for kernels in near(model).values() for kernel in kernels]

    own = keys(convolutions())
    assert own == keys(convolutions("other_")) and len(set(own)) == len(own)
    assert keys(convolutions(last="Sigmoid")) != own and keys(convolutions(channels=48)) != own


def test_keys_are_the_same_in_every_process() -> None:
    code = (
        "from tests.session.test_tune import near, convolutions\n"
        "print([k.key for ks in near(convolutions()).values() for k in ks])"
    )
    seeds = ("1", "2")
    where = Path(__file__).parents[2]
    path = os.pathsep.join([str(where), str(Path(mapsto.__file__).parents[1])])
    found = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path},
            capture_output=True, text=True, check=True, cwd=where,
        ).stdout
        for seed in seeds
    }  # fmt: skip
    assert len(found) == 1 and found.pop().strip() == str([k.key for ks in near(convolutions()).values() for k in ks])


def test_what_is_tuned_is_in_the_key_of_executables() -> None:
    asked = Request(b"", {}, 1, None, True, None, None, None, True, None, (), "cpu")
    before = options_digest(asked)
    keep_tuning(Tuning({"0" * 32: TunedKernel("tiles", "a schedule", 0.5)}))
    assert options_digest(asked) != before


# -- every schedule that is near ---------------------------------------------------------------------------------------


def test_every_near_schedule_can_be_taken_and_computes_the_same() -> None:
    model, feed = convolutions(), operands()
    graph, templates = prepared(model, None), set()
    kernels = [k for template in ("", "tiles") for ks in near(model, template).values() for k in ks]
    with Workers(cache=False) as backend:
        backend.tuning = NO_TUNING
        expected = build(graph, backend, 1, None).run(feed)
        for kernel in kernels:
            for text, ratio in kernel.others:
                backend.tuning = Tuning({kernel.key: TunedKernel(kernel.template, text, 0.5)})
                found = build(graph, backend, 1, None)
                assert text in [part for w in works(found).values() for part in (w.offer.schedule or "").split(" | ")]
                assert_close(found.run(feed), expected)
                templates.add(kernel.template)
                assert 1.0 <= ratio <= 1.25
    assert templates >= {"tiles", "loops"}


def test_another_template_may_be_tuned() -> None:
    model, feed = convolutions(channels=64), operands(channels=64)
    before = compiled(model)
    name = next((n for n, w in works(before).items() if w.offer.template == "winograd"), None)
    if name is None:
        pytest.skip("no contraction is done by products at points on this processor")
    kernel = next(k for k in near(model, "tiles")[name] if k.template == "tiles")
    keep_tuning(Tuning({kernel.key: TunedKernel("tiles", kernel.schedule, 0.5)}))
    after = compiled(model)
    work = works(after)[name]
    assert work.offer.template == "tiles" and work.offer.schedule == kernel.schedule
    assert any("tiles was measured to be faster than winograd" in reason for reason in work.because)
    assert not [b for b in work.beaten if b.how == "as" and b.of == "tiles" and not b.schedule]
    assert_close(after.run(feed), before.run(feed))
    replayed = mapsto.compile(model, threads=1, cache=False, plan=after.plan_text)
    assert_same_bits(replayed.run(feed), after.run(feed))


# -- damage ----------------------------------------------------------------------------------------------------------


GOOD = tuning_text(Tuning({"0" * 32: TunedKernel("tiles", "a schedule", 0.5)}))


@pytest.mark.parametrize(
    "spoiled",
    [
        b"", b"{}", b"\xff\xfe", GOOD.encode()[:-20], GOOD.replace("0.5", "0.4").encode(), b"[" * 100_000,
        GOOD.replace('"version": 1', '"version": 2').encode(), b" " * (1 << 25),
    ],
    ids=["empty", "bare", "binary", "cut", "altered", "deep", "newer", "huge"],
)  # fmt: skip
def test_a_damaged_file_is_told_of_once_and_left_aside(spoiled: bytes) -> None:
    model = convolutions()
    before = compiled(model).plan_text
    path = keep_tuning(NO_TUNING)
    path.write_bytes(spoiled)
    with pytest.warns(RuntimeWarning, match="cannot be used") as told:
        assert compiled(model).plan_text == before
    (message,) = [str(each.message) for each in told]
    assert str(path) in message and "Remove the file" in message and "mapsto tune" in message
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert compiled(model).plan_text == before


@pytest.mark.parametrize("schedule", ["nonsense", "tile 7 columns x 3 rows; panels outside; 1 units a block"])
def test_a_schedule_that_does_not_fit_is_left_aside_and_said(schedule: str) -> None:
    model = convolutions()
    _, kernel, _ = another(model)
    before = compiled(model)
    keep_tuning(Tuning({kernel.key: TunedKernel("tiles", schedule, 0.5)}))
    after = compiled(model)
    assert "what was tuned cannot be taken" in after.plan_text
    assert_same_bits(after.run(operands()), before.run(operands()))


def test_a_schedule_is_of_its_template_alone() -> None:
    model = convolutions()
    _, kernel, other = another(model)
    before = compiled(model)
    keep_tuning(Tuning({kernel.key: TunedKernel("unknown", other, 0.5)}))
    after = compiled(model)
    assert [w.offer for w in works(after).values()] == [w.offer for w in works(before).values()]
    assert "tuned" not in after.plan_text


def test_tuning_is_read_back_as_it_was_written() -> None:
    made = Tuning({f"{n:032x}": TunedKernel("winograd", f"schedule {n}", 1 / (n + 1)) for n in range(9)})
    assert parse_tuning(tuning_text(made)) == made and parse_tuning(tuning_text(NO_TUNING)) == NO_TUNING


# -- time and interrupts -----------------------------------------------------------------------------------------------


def test_an_interrupt_leaves_all_as_it_was(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    class Interrupted(Preferring):
        def whole(self, old: TriedProgram, new: TriedProgram, seconds: float) -> Sequence[TimedPair]:
            raise KeyboardInterrupt

    model = convolutions()
    other = another(model)[2]
    monkeypatch.setattr(tuning, "AlternatingTimer", Interrupted(lambda text: text == other))
    with pytest.raises(KeyboardInterrupt):
        mapsto.tune(model, budget=60, threads=1)
    assert not list(folder.glob("machines/*"))


@pytest.mark.parametrize("budget", [5.0, 20.0, 100.0])
def test_rounds_end_in_time(budget: float) -> None:
    """Each timing of a round takes two seconds of a clock of its own."""
    now = [0.0]

    class Slow(Preferring):
        def steps(self, old: TriedProgram, new: TriedProgram, seconds: float) -> Steps:
            now[0] += 2.0
            return super().steps(old, new, seconds)

        def whole(self, old: TriedProgram, new: TriedProgram, seconds: float) -> Sequence[TimedPair]:
            now[0] += 4.0
            return super().whole(old, new, seconds)

    graph = prepared(convolutions(), None)
    other = another(convolutions())[2]
    with Workers(cache=False) as backend:
        maker = backend.maker(constants_of(graph))
        tuner = Tuner(
            decide(graph, maker), constants_of(graph), backend, 1, Slow(lambda text: text == other), budget,
            lambda what: None, lambda: nullcontext(), clock=lambda: now[0], pace=2.0,
        )  # fmt: skip
        found = tuner.tuned()
    assert now[0] <= budget + 10.0
    assert (found.tried > 0) == (budget >= 20.0)


def test_real_times_end_in_time_and_whatever_comes_of_them_computes_the_same() -> None:
    model, feed = convolutions(), operands()
    before = compiled(model).run(feed)
    told: list[str] = []
    began = time.monotonic()
    report = mapsto.tune(model, budget=6, threads=1, progress=lambda done, total, label: told.append(label))
    assert time.monotonic() - began < 6 + 60 and report.tried > 0 and report.looked_at > 0
    assert told[0] == "compiling as costs choose" and any(label.startswith("round 1") for label in told)
    assert_close(compiled(model).run(feed), before)


# -- arguments ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def model() -> Iterator[Any]:
    yield convolutions()


@pytest.mark.parametrize("budget", [0, -1, float("nan"), float("inf"), "60s", None, True])
def test_a_budget_is_seconds(model: Any, budget: Any) -> None:
    with pytest.raises(ArgumentError, match="budget"):
        mapsto.tune(model, budget=budget)


def test_nothing_is_timed_where_nothing_could_be_kept(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAPSTO_MACHINE", "typical")
    with pytest.raises(ArgumentError, match="MAPSTO_MACHINE=typical"):
        mapsto.tune(model)
    monkeypatch.delenv("MAPSTO_MACHINE")
    monkeypatch.setenv("MAPSTO_CACHE", "off")
    with warnings.catch_warnings(), pytest.raises(ArgumentError, match="MAPSTO_CACHE"):
        warnings.simplefilter("error")  # no file to read is no damage
        mapsto.tune(model)


def test_inputs_are_the_models(model: Any) -> None:
    with pytest.raises(ArgumentError, match="no input 'z'; it has: x"):
        mapsto.tune(model, inputs={"z": normal(1)})
