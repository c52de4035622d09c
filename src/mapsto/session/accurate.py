"""Finds formats for a graph's products within an accuracy.

    what each product takes in each format, measured: of the whole in f32, and in each format       (gains)
    the fastest of each product, all together: taken where the loss is kept                         (together)
    what each does to the outputs where it alone is narrow, measured                                (errors)
    least time + lambda * sum of squares of errors, which add up: one format a product              (choice)
    the fastest choice that keeps the loss, on the runs that choose, then on those kept apart       (search)
    by turns beside f32: kept where it is faster                                                    (decide)

Errors of different products are taken to be independent; where they are not, the search sees it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mapsto.budget import metering_anew
from mapsto.devices.backend import Progress
from mapsto.formats.chosen import ChosenFormat, chosen
from mapsto.formats.format import WantedFormats
from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Graph
from mapsto.plan.works import PlannedFormat
from mapsto.runtime.executable import Executable
from mapsto.session.accuracy import Accuracy, Results, moved, runs_of
from mapsto.session.calibration import Calibration, Example, ranges_of
from mapsto.session.formed import Formed, narrowed, planned
from mapsto.session.pairs import TimedPair, is_faster, share_of

_WORTH = 2e-3  # of a run's time: what saves less stays f32
_CHOICES = 24  # that lambda is varied for
_RUNS = 4  # that see what one product does
_TIMED = 2.0  # seconds of turns
_LEAST = 0.02  # of a run's time: what formats have to save
_SLOWER = 3  # choices that hold and turn out to be no faster, after which none is looked for
_PROFILED = 7  # runs of each
_ALIKE = (0.8, 0.5)  # of what the best format saves

Build = Callable[[Graph], Executable]


@dataclass(frozen=True)
class TriedFormat:
    """A product in a format: seconds that it saves, and how far it alone moves outputs, where there was time to see."""

    chosen: ChosenFormat
    gain: float
    error: float = np.inf
    is_tried: bool = False


@dataclass
class _Accurate:
    graph: Graph
    asked: Accuracy
    build: Build
    tell: Progress | None
    bytes: DType
    began: float = field(default_factory=time.monotonic)
    last: tuple[Sequence[ChosenFormat], Executable] | None = None

    def __post_init__(self) -> None:
        self.seen, self.kept = runs_of(self.asked, self.graph.inputs)
        self.names = [value.name for value in self.graph.inputs]
        self.plain = self._built(())

    def found(self) -> Formed:
        every = self._formats()
        tried = self._gains(every)
        found = self._together(tried)
        if found is None:
            tried = self._errors(tried)
            found = self._searched(tried)
        taken, said = found
        products = {each.value: each.sources for formats in every.values() for each in formats}
        by_value = {each.value: each for each in taken}
        lines = tuple(_line(value, products[value], by_value.get(value), tried) for value in products)
        with metering_anew():
            return Formed(narrowed(self.graph, tuple(taken)), lines, said)

    def _built(self, formats: Sequence[ChosenFormat]) -> Executable:
        """With what a compile may ask for."""
        with metering_anew():
            return self.build(narrowed(self.graph, tuple(formats)))

    def _seen_by(self, graph: Graph) -> Executable:
        with metering_anew():
            return self.build(graph)

    # -- what there is to choose from ----------------------------------------------------------------------------------

    def _formats(self) -> dict[str, tuple[ChosenFormat, ...]]:
        feeds = [{name: feed[name] for name in self.names} for feed in self.seen]
        ranges = ranges_of(self.graph, Calibration(feeds, self.asked.calibrator), self._seen_by)
        return {
            name: chosen(self.graph, WantedFormats((("*", name),)), ranges, self.bytes) for name in self.asked.formats
        }

    def _gains(self, every: Mapping[str, Sequence[ChosenFormat]]) -> list[TriedFormat]:
        """Those that save time, the most first."""
        total = self._run_seconds(self.plain)
        found = []
        for at, formats in enumerate(every.values()):
            self._told(at, len(every), "times")
            narrow = [each for each in formats if each.format is not None]
            if narrow:
                exe = self._built(narrow)
                found += [TriedFormat(each, gain) for each, gain in zip(narrow, self._saved(exe, narrow), strict=True)]
        worth = [each for each in found if each.gain > _WORTH * total]
        return sorted(worth, key=lambda each: -each.gain)

    def _saved(self, narrow: Executable, products: Sequence[ChosenFormat]) -> list[float]:
        """Seconds that each product takes less than in f32: the median of runs by turns."""
        found: list[list[float]] = [[] for _ in products]
        for _ in range(_PROFILED):
            before, after = (self._seconds(exe, products) for exe in (self.plain, narrow))
            for each, differences in zip(products, found, strict=True):
                differences.append(before[each.value] - after[each.value])
        return [statistics.median(differences) for differences in found]

    def _seconds(self, exe: Executable, products: Sequence[ChosenFormat]) -> dict[str, float]:
        """Of the steps that stand for each product, in one run; a step that stands for several is shared among them."""
        of: dict[str, set[str]] = {}
        for each in products:
            for source in each.sources:
                of.setdefault(source, set()).add(each.value)
        found = dict.fromkeys((each.value for each in products), 0.0)
        for step in exe.profile(*self._fed(exe, self.seen[0])):
            values = {value for source in step.provenance for value in of.get(source, ())}
            for value in values:
                found[value] += step.nanoseconds * step.calls * 1e-9 / len(values)
        return found

    def _errors(self, tried: Sequence[TriedFormat]) -> list[TriedFormat]:
        """How far each moves the outputs, as long as there is time; the rest moves them too far."""
        seen = self.seen[:_RUNS]
        plain = self._outputs(self.plain, seen)
        found = []
        for at, each in enumerate(tried):
            self._told(at, len(tried), ", ".join(each.chosen.sources))
            if time.monotonic() - self.began > self.asked.seconds:
                found.append(each)
                continue
            exe = self._built((each.chosen,))
            found.append(TriedFormat(each.chosen, each.gain, moved(self._outputs(exe, seen), plain), True))
        return found

    # -- what is chosen ------------------------------------------------------------------------------------------------

    def _together(self, tried: Sequence[TriedFormat]) -> tuple[Sequence[ChosenFormat], str] | None:
        """The fastest of each product, or nearly so and finer, where they keep the loss and are faster; else None."""
        for alike in _ALIKE:
            choice = tuple(_fastest(tried, alike))
            if choice and self._loss(choice, self.seen)[0] <= self.asked.drop:
                said, _ = self._weighed(choice)
                if said:
                    return choice, said
        return None

    def _searched(self, tried: Sequence[TriedFormat]) -> tuple[Sequence[ChosenFormat], str]:
        """The fastest choice that keeps the loss, and what it loses, in words."""
        choices = _choices(tried)
        first, last = 0, len(choices) - 1  # the last moves no output
        while first < last:
            middle = (first + last) // 2
            self._told(middle, len(choices), "together")
            if self._loss(choices[middle], self.seen)[0] <= self.asked.drop:
                last = middle
            else:
                first = middle + 1
        slower: list[float] = []
        for choice in choices[first:]:
            if not choice or len(slower) == _SLOWER:
                break
            said, share = self._weighed(choice)
            if said:
                return choice, said
            if share is not None:
                slower.append(share)
        if slower:
            return (), f"f32: formats that hold take {', '.join(f'{share:.2f}' for share in slower)} of its time"
        return (), "f32: no narrower formats are faster, or none holds"

    def _weighed(self, choice: Sequence[ChosenFormat]) -> tuple[str, float | None]:
        """What a choice loses on the runs kept apart, in words ("" where it takes no less time than f32), and the share
        of that time that it takes; None where it loses too much.
        """
        lost, low, high, exe = self._kept_apart(choice)
        if lost > self.asked.drop:
            return "", None
        pairs = self._by_turns(exe)
        if not is_faster(pairs, _LEAST):
            return "", share_of(pairs)
        of = f"of {self.asked.drop:g} on {len(self.kept)} runs kept apart"
        said = f"loses {lost:.2g} ({low:.2g} to {high:.2g}, 95 %) {of}"
        return f"{said}; takes {share_of(pairs):.2f} of the time in f32", share_of(pairs)

    def _chosen(self, choice: Sequence[ChosenFormat]) -> Executable:
        """Of this choice; the last one is kept, as it is looked at on other runs next."""
        if self.last is None or self.last[0] != choice:
            self.last = choice, self._built(choice)
        return self.last[1]

    def _loss(self, choice: Sequence[ChosenFormat], runs: Sequence[Example]) -> tuple[float, Executable, list[Results]]:
        exe = self._chosen(choice)
        outputs = self._outputs(exe, runs)
        return self.asked.loss(outputs, self._outputs(self.plain, runs), runs), exe, outputs

    def _kept_apart(self, choice: Sequence[ChosenFormat]) -> tuple[float, float, float, Executable]:
        lost, exe, outputs = self._loss(choice, self.kept)
        low, high = self.asked.interval(outputs, self._outputs(self.plain, self.kept), self.kept)
        return lost, low, high, exe

    # -- runs ----------------------------------------------------------------------------------------------------------

    def _fed(self, exe: Executable, example: Example) -> list[np.ndarray]:
        return [np.asarray(example[port.name]) for port in exe.inputs]

    def _outputs(self, exe: Executable, runs: Sequence[Example]) -> list[Results]:
        return [exe.run({port.name: run[port.name] for port in exe.inputs}) for run in runs]

    def _run_seconds(self, exe: Executable) -> float:
        profiles = (exe.profile(*self._fed(exe, self.seen[0])) for _ in range(3))
        return statistics.median(sum(s.nanoseconds * s.calls for s in steps) for steps in profiles) * 1e-9

    def _by_turns(self, narrow: Executable) -> list[TimedPair]:
        """Seconds of a run in f32 and in these formats, in pairs."""
        found: list[TimedPair] = []
        until = time.monotonic() + _TIMED
        for exe in (self.plain, narrow):
            exe(*self._fed(exe, self.seen[0]))
        while time.monotonic() < until or len(found) < 5:
            times = []
            for exe in (self.plain, narrow):
                fed = self._fed(exe, self.seen[0])
                start = time.perf_counter()
                exe(*fed)
                times.append(time.perf_counter() - start)
            found.append((times[0], times[1]))
        return found

    def _told(self, done: int, total: int, label: str) -> None:
        if self.tell is not None:
            self.tell(done, max(total, 1), label)


def _line(
    value: str, sources: tuple[str, ...], taken: ChosenFormat | None, tried: Sequence[TriedFormat]
) -> PlannedFormat:
    """What a plan says of a product."""
    own = [each for each in tried if each.chosen.value == value]
    if taken is not None:
        each = next(each for each in own if each.chosen == taken)
        error = f"; it alone moves outputs by {each.error:.1e}" if each.is_tried else ""
        return planned(taken, f"{each.gain * 1e6:.3g} us less{error}")
    return PlannedFormat("f32", sources, "; ".join(map(_said, own)) or "nothing narrower is faster")


def _said(each: TriedFormat) -> str:
    name = each.chosen.format.name if each.chosen.format is not None else ""
    error = f"alone moves outputs by {each.error:.1e}" if np.isfinite(each.error) else "moves outputs too far"
    return f"{name}: {each.gain * 1e6:.3g} us less, {error if each.is_tried else 'not tried in time'}"


def _fastest(tried: Sequence[TriedFormat], alike: float) -> Iterator[ChosenFormat]:
    """Of each product; of formats that save such a share of what the best one saves, the finest."""
    for several in _of_products(tried):
        most = max(each.gain for each in several)
        enough = [each for each in several if each.gain >= alike * most]
        yield min(enough, key=lambda each: each.chosen.format.unit if each.chosen.format else 0.0).chosen


def _of_products(tried: Sequence[TriedFormat]) -> Iterable[list[TriedFormat]]:
    by_value: dict[str, list[TriedFormat]] = {}
    for each in tried:
        by_value.setdefault(each.chosen.value, []).append(each)
    return by_value.values()


def _choices(tried: Sequence[TriedFormat]) -> list[Sequence[ChosenFormat]]:
    """From the fastest to none: for rising weights of squares of errors, what is best of each product."""
    usable = [each for each in tried if np.isfinite(each.error)]
    worth = sorted(each.gain / each.error**2 for each in usable if each.error > 0)
    weights = [0.0, *(_spread(worth)), np.inf]
    found: list[Sequence[ChosenFormat]] = []
    for weight in weights:
        choice = tuple(_best(usable, weight))
        if not found or choice != found[-1]:
            found.append(choice)
    return found


def _spread(worth: Sequence[float]) -> list[float]:
    """Weights just beyond which something is given up, some of them where there are many."""
    if not worth:
        return []
    rows = np.unique(np.linspace(0, len(worth) - 1, min(len(worth), _CHOICES)).astype(int))
    return [worth[row] * (1 + 1e-9) for row in rows]


def _best(usable: Sequence[TriedFormat], weight: float) -> Iterator[ChosenFormat]:
    for several in _of_products(usable):
        worth = [(each.gain - (weight * each.error**2 if each.error else 0.0), each) for each in several]
        most, each = max(worth, key=lambda pair: pair[0])
        if most > 0:
            yield each.chosen


def accurately(graph: Graph, asked: Accuracy, build: Build, tell: Progress | None, bytes: DType) -> Formed:
    """A graph that the passes are done with, in the fastest formats that are found to be accurate enough. bytes: what
    integers of 8 bits lie in memory as.
    """
    return _Accurate(graph, asked, build, tell, bytes).found()
