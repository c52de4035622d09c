"""Executables for the sizes that runs bring often, beside the one for all sizes that they stand in for.

Tuples of sizes are counted. Where one has come often, a background thread asks what an executable for it alone is
predicted to gain; where that is enough it is made, held against the one for all sizes on inputs of a run, and kept if
it was faster. No run waits for any of that. Nothing is under a lock: a signal handler may run the model between any two
lines, and a forked child has the state that the fork found, but no thread that goes on with it.

It knows nothing of compiling: it is given what predicts, and what makes an executable.
"""

from __future__ import annotations

import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from mapsto.errors import MapstoError, ShapeError
from mapsto.runtime.arena_layout import remember
from mapsto.runtime.background import aside, in_background, is_ending
from mapsto.runtime.program import Program

SizeTuple = tuple[int, ...]
"""The open sizes of a run, in the order of their symbols."""

_NEVER = sys.maxsize
_MOST_SAID = 64  # lines of history
_FEWEST, _MOST, _SECONDS = 3, 15, 0.5  # pairs of runs that are timed: no more than _SECONDS, if there were _FEWEST
_RIGHT = 2  # right predictions that are assumed to have been: one disturbed measurement does not end it all
_ROUNDINGS = 512  # that results may differ by, of the largest magnitude: sums in another order
_COARSE = 0.05  # the same for types of two bytes


class Adaptable(Protocol):
    """What it needs of an executable."""

    @property
    def program(self) -> Program: ...

    def outputs_of(self, inputs: Sequence[Any]) -> list[np.ndarray]: ...

    def sizes(self, *inputs: Any) -> dict[str, int]: ...

    def watch_like(self, other: Any) -> None: ...

    def release_memory(self) -> None: ...


@dataclass(frozen=True)
class AdaptPolicy:
    """runs: that sizes have before they are looked at. predicted, measured: times as fast an executable for them must
    be, by the forecast to be made, by the clock to be kept. kept: executables at a time; one that was used at least
    `over` times as often lately takes the place of another. counted: tuples of sizes. bytes: of weights that all of
    them may hold, each having its own.
    """

    runs: int = 32
    predicted: float = 1.2
    measured: float = 1.05
    kept: int = 4
    over: float = 2.0
    aged: int = 4096
    counted: int = 256
    bytes: int = 1 << 30


@dataclass
class SizeUse:
    """Runs that brought one tuple of sizes, fewer the longer ago they were; the number of them at which it is looked
    at; the executable for it alone, and what was found out about that.
    """

    runs: int = 0
    due: int = 0
    executable: Adaptable | None = None
    said: str = ""


class AdaptiveSizes:
    """What an executable of open sizes has for single sizes. May be used from several threads at once."""

    def __init__(
        self,
        places: Mapping[str, tuple[int, int]],
        predict: Callable[[Mapping[str, int], Mapping[str, int]], float],
        make: Callable[[Mapping[str, int]], Adaptable],
        policy: AdaptPolicy | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """places: of each open size by its symbol, the input and its axis that say it. predict: how many times as fast
        an executable for these sizes would be; of the other sizes of a run it is told as well. make: compiles it.
        """
        self._names = tuple(places)
        self._places = tuple(places.values())
        self._predict, self._make, self._clock = predict, make, clock
        self.policy = policy or AdaptPolicy()
        self._uses: dict[SizeTuple, SizeUse] = {}
        self._settled: dict[SizeTuple, str] = {}  # not to be tried again, and why
        self._working: dict[int, object] = {}  # by process: the claim of what is being made just now
        self._corrections: list[float] = []  # measured gains over predicted ones
        self._history: list[str] = []

    # -- runs ----------------------------------------------------------------------------------------------------------

    def outputs_of(self, whole: Adaptable, inputs: Sequence[Any]) -> list[np.ndarray]:
        """The outputs, by the executable for these sizes alone where there is one, else by the whole."""
        try:
            sizes = tuple([inputs[i].shape[axis] for i, axis in self._places])
            use = self._uses.get(sizes)
        except (AttributeError, IndexError, TypeError):  # lists, say; the whole tells what is wrong with others
            return whole.outputs_of(inputs)
        if use is None:
            use = self._counted(sizes)
        use.runs += 1
        if use.runs >= use.due:
            self._look(whole, sizes, use, inputs)
        single = use.executable
        if single is None:
            return whole.outputs_of(inputs)
        try:
            return single.outputs_of(inputs)
        except ShapeError:
            return whole.outputs_of(inputs)  # which says it of open sizes

    def _counted(self, sizes: SizeTuple) -> SizeUse:
        """Begins to count a tuple of sizes; of too many, those that came least are forgotten."""
        if len(self._uses) >= self.policy.counted:
            self._age()
            seldom = sorted((use.runs, key) for key, use in list(self._uses.items()) if use.executable is None)
            for _, key in seldom[: max(1, len(seldom) // 4)]:
                self._uses.pop(key, None)
        found = SizeUse(due=_NEVER if sizes in self._settled else self.policy.runs)
        return self._uses.setdefault(sizes, found)

    def _age(self) -> None:
        for use in list(self._uses.values()):
            use.runs //= 2
            if use.executable is None and use.due != _NEVER:
                use.due = min(use.due, use.runs + self.policy.runs)

    def _look(self, whole: Adaptable, sizes: SizeTuple, use: SizeUse, inputs: Sequence[Any]) -> None:
        """Sizes that came often: begins to make an executable for them, if none is being made."""
        if use.executable is not None:
            use.due = self.policy.aged
            self._age()
            return
        use.due = use.runs + self.policy.runs
        if sizes in self._settled:
            use.due = _NEVER
        elif self._has_room(use) and not is_ending():
            claim = object()
            if self._working.setdefault(os.getpid(), claim) is not claim:
                return  # another one is being made
            try:
                self._begin(whole, sizes, use, [np.array(value, order="C") for value in inputs], claim)
            except Exception as error:  # no memory, no thread: the run goes on
                self._give_back(claim)
                self._say(sizes, f"not looked at: {type(error).__name__}: {error}")
            except BaseException:
                self._give_back(claim)
                raise

    def _has_room(self, use: SizeUse) -> bool:
        kept = [other for other in list(self._uses.values()) if other.executable is not None]
        if len(kept) < self.policy.kept:
            return True
        return use.runs >= self.policy.over * min(other.runs for other in kept)

    # -- in the background ---------------------------------------------------------------------------------------------

    def _begin(
        self, whole: Adaptable, sizes: SizeTuple, use: SizeUse, inputs: list[np.ndarray], claim: object
    ) -> None:
        def work() -> None:
            try:
                self._try(whole, sizes, use, inputs)
            finally:
                self._give_back(claim)

        in_background(work, "adapt")

    def _give_back(self, claim: object) -> None:
        if self._working.get(os.getpid()) is claim:
            self._working.pop(os.getpid(), None)

    def _try(self, whole: Adaptable, sizes: SizeTuple, use: SizeUse, inputs: list[np.ndarray]) -> None:
        try:
            said, single = self._judged(whole, sizes, inputs)
        except _EndingError:
            return
        except Exception as error:
            if is_ending():
                return
            told = str(error) if isinstance(error, MapstoError) else f"{type(error).__name__}: {error}"
            said, single = f"it could not be made: {told}", None
        use.said = said
        self._say(sizes, said)
        if single is None:
            remember(self._settled, sizes, said, 4 * self.policy.counted)
            use.due = _NEVER
            return
        single.watch_like(whole)
        self._keep(sizes, use, single)

    def _keep(self, sizes: SizeTuple, use: SizeUse, single: Adaptable) -> None:
        use.executable, use.due = single, use.runs + self.policy.aged
        self._uses[sizes] = use  # it may have been forgotten meanwhile
        kept = [(other.runs, key) for key, other in list(self._uses.items()) if other.executable and key != sizes]
        for _, key in sorted(kept)[: max(0, len(kept) + 1 - self.policy.kept)]:
            gone = self._uses[key]
            gone.executable, gone.due = None, gone.runs + self.policy.runs
            self._say(key, "made way")

    def _judged(self, whole: Adaptable, sizes: SizeTuple, inputs: list[np.ndarray]) -> tuple[str, Adaptable | None]:
        """What came of sizes, and the executable for them if it is to be kept."""
        _go_on()
        wanted = dict(zip(self._names, sizes, strict=True))
        weights = memoryview(whole.program.constants).nbytes
        kept = sum(other.executable is not None for other in list(self._uses.values()))
        if weights * (min(kept, self.policy.kept - 1) + 2) > self.policy.bytes:
            return f"not made: its weights would take {weights:,} bytes again", None
        sizes_of_run = whole.sizes(*_copies(whole, inputs))
        predicted = aside(lambda: self._predict(wanted, sizes_of_run))
        expected = predicted * self._correction()
        told = f"predicted {predicted:.2f} times as fast"
        if expected != predicted:
            told += f" ({expected:.2f} as predictions went so far)"
        if not expected >= self.policy.predicted:
            return f"not made: {told}", None
        _go_on()
        begun = time.perf_counter()
        single = aside(lambda: self._make(wanted))
        told += f", made in {time.perf_counter() - begun:.2f} s"
        _go_on()
        wrong, bits = _compared(whole, single, inputs)
        if wrong:
            return f"not kept: {told}, but {bits}", None
        gain = self._gain(whole, single, inputs)
        self._corrections.append(gain / predicted)
        told += f", measured {gain:.2f}, {bits}"
        if gain < self.policy.measured:
            return f"not kept: {told}", None
        return told, single

    def _correction(self) -> float:
        """The geometric mean of what measured gains were over predicted ones, and of `_RIGHT` that were right."""
        logs = [math.log(each) for each in list(self._corrections) if each > 0]
        return math.exp(sum(logs) / (len(logs) + _RIGHT))

    def _gain(self, whole: Adaptable, single: Adaptable, inputs: list[np.ndarray]) -> float:
        """How many times as fast the single one runs: both by turns, the median over the turns."""
        ratios: list[float] = []
        begun = self._clock()
        while len(ratios) < _FEWEST or (len(ratios) < _MOST and self._clock() - begun < _SECONDS):
            _go_on()
            slow, fast = self._timed(whole, inputs), self._timed(single, inputs)
            ratios.append(slow / fast if fast > 0 else 1.0)
        return statistics.median(ratios)

    def _timed(self, executable: Adaptable, inputs: list[np.ndarray]) -> float:
        given = _copies(executable, inputs)
        begun = self._clock()
        executable.outputs_of(given)
        return self._clock() - begun

    # -- what is told --------------------------------------------------------------------------------------------------

    def wait(self, seconds: float) -> bool:
        """Until nothing is being made in this process; False where that takes longer."""
        until = time.monotonic() + seconds
        while self._working.get(os.getpid()) is not None:
            if time.monotonic() > until:
                return False
            time.sleep(0.005)
        return True

    def executables(self) -> list[Adaptable]:
        """Those for single sizes."""
        return [use.executable for use in list(self._uses.values()) if use.executable is not None]

    def report(self) -> str:
        """Sizes that runs brought, the most frequent first, what was made for them, and what was found out."""
        by_runs = sorted(self._uses.items(), key=lambda each: -each[1].runs)
        lines = []
        for sizes, use in by_runs[:16]:
            how = "by an executable of their own" if use.executable is not None else "by the one for all sizes"
            lines.append(f"{self._shown(sizes)}: {use.runs} runs lately, {how}")
        if len(by_runs) > 16:
            lines.append(f"{len(by_runs) - 16} other sizes")
        return "\n".join([*(lines or ["no runs yet"]), *self._history])

    def _say(self, sizes: SizeTuple, what: str) -> None:
        self._history.append(f"for {self._shown(sizes)}: {what}")
        del self._history[:-_MOST_SAID]

    def _shown(self, sizes: SizeTuple) -> str:
        return ", ".join(f"{name} = {size}" for name, size in zip(self._names, sizes, strict=True))


# -- comparing ---------------------------------------------------------------------------------------------------------


def _copies(executable: Adaptable, inputs: list[np.ndarray]) -> list[np.ndarray]:
    """Inputs for a run: a run that updates some of them has its own."""
    return [np.array(each) for each in inputs] if executable.program.updates else inputs


def _compared(whole: Adaptable, single: Adaptable, inputs: list[np.ndarray]) -> tuple[bool, str]:
    """Whether results are too far apart, and what is to be said of their bits."""
    first, again, own = (each.outputs_of(_copies(each, inputs)) for each in (whole, whole, single))
    if any(a.tobytes() != b.tobytes() for a, b in zip(first, again, strict=True)):
        return False, "bits not compared, as no two runs give the same"
    apart = 0.0
    for a, b in zip(first, own, strict=True):
        if a.shape != b.shape or a.dtype != b.dtype:
            return True, f"an output is {b.dtype}{list(b.shape)} instead of {a.dtype}{list(a.shape)}"
        if a.tobytes() == b.tobytes():
            continue
        if a.dtype.kind in "iub":
            return True, "integers in its results differ"
        distance = _distance(a, b)
        if not distance <= _allowed(a.dtype):
            return True, f"its results differ by {distance:.1e} of the largest"
        apart = max(apart, distance)
    same = all(a.tobytes() == b.tobytes() for a, b in zip(first, own, strict=True))
    return False, "same bits where compared" if same else f"other bits (up to {apart:.1e} of the largest)"


def _allowed(dtype: np.dtype) -> float:
    return _COARSE if dtype.itemsize <= 2 else _ROUNDINGS * float(np.finfo(dtype).eps)


def _distance(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference, relative to the largest magnitude; infinite where a NaN or infinity is elsewhere."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    finite = np.isfinite(x) & np.isfinite(y)
    if not (finite | (x == y) | (np.isnan(x) & np.isnan(y))).all():
        return math.inf
    scale = float(np.max(np.abs(x[finite]), initial=0.0)) or 1.0
    return float(np.max(np.abs(x[finite] - y[finite]), initial=0.0)) / scale


# -- the end of the process --------------------------------------------------------------------------------------------


class _EndingError(Exception):
    """The process ends: what is being made is not needed any more."""


def _go_on() -> None:
    if is_ending():
        raise _EndingError
