"""Damaged models: compiled, run between fences, and compared with the numpy reference of what was imported."""

from __future__ import annotations

import random
import re
import traceback
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import mapsto
from mapsto.errors import (
    ExecutionError,
    InternalError,
    MapstoError,
    ModelError,
    ResourceError,
    ShapeError,
    UnsupportedError,
)
from mapsto.importers.onnx import load
from mapsto.ir.expr import evaluate, symbols
from mapsto.ops.interpret import run_graph
from mapsto.passes.dead_code import DeadCode
from mapsto.runtime.executable import Executable
from mapsto.runtime.guard import Fences
from mapsto.runtime.variants import VariedExecutable
from tests.fuzz import seeds
from tests.fuzz.children import Desk, Outcome
from tests.fuzz.judging import difference, reference, reference_bytes
from tests.fuzz.mutating import Mutator, damaged

SECONDS = 8.0  # of processor time that a compile may take: seeds take a second at most
RUN_SECONDS = 5.0
RUN_BYTES = 1 << 26  # what runs with more is not run
RUN_STEPS = 20_000  # nor what runs on, where the reference does so too
REFUSALS = (ModelError, UnsupportedError, ShapeError, ExecutionError)


@dataclass(frozen=True)
class Case:
    """A damaged model, how it came, and the inputs of the seed."""

    data: bytes
    how: tuple[str, ...]
    feed: Mapping[str, np.ndarray] = field(default_factory=dict)
    noise: int = 0  # what inputs are drawn by


def made(seed: int, number: int, without: frozenset[int] = frozenset()) -> Case:
    """A case; `without` some of its mutations, by number."""
    rng = random.Random(f"{seed} models {number}")
    origin = seeds.drawn(rng)
    gentle = rng.random() < 0.75
    count = rng.choice([1, 1, 1, 2, 2, 3]) if gentle else rng.randint(1, 8)
    plain = not gentle and rng.random() < 0.15
    mutator = Mutator(lambda r: seeds.drawn(r).proto)
    how, proto = [f"seed {origin.name!r}"], origin.proto
    for k in range(0 if plain else count):
        if k not in without:
            how.append(mutator.mutate(proto, random.Random(f"{seed} models {number} {k}"), gentle))
    data = proto.SerializeToString(deterministic=True)
    for k in range(count if plain else 0):
        if k not in without:
            data, done = damaged(data, random.Random(f"{seed} models {number} {k}"))
            how.append(done)
    return Case(data, tuple(how), origin.feed, rng.randrange(1 << 30))


def tried(case: Case, desk: Desk) -> Outcome:
    """Compiles, runs, compares."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        outcome = _tried(case, desk)
    ours = [w for w in told if "/mapsto/" in str(w.filename)]
    if ours and not outcome.finding:
        first = ours[0]
        place = f"{str(first.filename).split('/mapsto/')[-1]}:{first.lineno}"
        return Outcome("warning", place, f"{first.category.__name__}: {first.message}", True)
    return outcome


def _tried(case: Case, desk: Desk) -> Outcome:
    desk.stage("compile", SECONDS)
    exe = guarded(lambda: mapsto.compile(case.data, threads=1, cache=False), REFUSALS)
    if isinstance(exe, Outcome):
        return exe
    rng = np.random.default_rng(case.noise)
    feed = inputs(exe, case.feed, rng)
    if feed is None:
        return Outcome("compiled", "too large to run")
    shapes = {name: array.shape for name, array in feed.items()}
    fixed = shapes if isinstance(exe, VariedExecutable) else None
    narrowed = None if getattr(exe, "narrowing", None) is None else lambda: load(case.data, shapes)
    return fenced_run(exe, feed, lambda: load(case.data, fixed), case.noise, desk, narrowed)


def fenced_run(
    exe: Executable,
    feed: Mapping[str, np.ndarray],
    loaded: Callable[[], Any],
    noise: int,
    desk: Desk,
    narrowed: Callable[[], Any] | None = None,
) -> Outcome:
    """Runs between fences, and compares. A run of more than what is tried is no finding, where it keeps to what its
    program says that it takes. narrowed: the graph for these sizes alone, where the executable may make code for them.
    """
    desk.stage("run", RUN_SECONDS)
    varied = isinstance(exe, VariedExecutable)  # whose programs are made by the run
    labels = [] if varied else [step.label for step in exe.program.steps]
    fences = Bounded(bool(noise % 2), lambda step: desk.step(labels[step] if labels else f"step {step}"))
    exe.guard(fences)
    fed = {name: Fences(fences.behind).copy(array) for name, array in feed.items()}
    found = guarded(lambda: exe.run(fed), (ExecutionError, ShapeError, Beyond, *(REFUSALS if varied else ())))
    if varied and isinstance(found, Outcome) and not found.finding and found.kind != "Beyond":
        return Outcome("refused by a variant", found.kind)
    if isinstance(found, Outcome) and found.finding:
        return found
    if isinstance(found, Outcome) and found.kind == "Beyond" and fences.spent.bytes > RUN_BYTES:
        return Outcome("compiled", "too large to run")
    desk.stage("reference", SECONDS)
    if isinstance(found, Outcome) and found.kind == "Beyond":
        return _long(found, loaded, feed)
    return compared(exe, found, loaded, feed, desk, narrowed)


def _long(found: Outcome, loaded: Callable[[], Any], feed: Mapping[str, np.ndarray]) -> Outcome:
    """Of a run that went on and on: whether the reference does too."""
    graph = guarded(lambda: DeadCode()(loaded()), ())
    if isinstance(graph, Outcome):
        return graph
    walked = 0

    def one(*_: Any) -> None:
        nonlocal walked
        walked += 1
        if walked > RUN_STEPS // 8:  # a step stands for several nodes, or a node for several steps
            raise Beyond("the reference goes on and on, too")

    try:
        run_graph(graph, feed, observe=one)
    except MapstoError as error:
        if isinstance(error, Beyond) or isinstance(error.__cause__, Beyond):
            return Outcome("compiled", "too long to run")
    return Outcome("hang", "run: rounds without end", f"{found.message}; the reference walked {walked} nodes", True)


class Beyond(ResourceError):
    """A run is larger or longer than what is tried."""


@dataclass
class Spent:
    bytes: int = 0
    steps: int = 0


@dataclass(frozen=True)
class Bounded(Fences):
    """Fences for so many bytes and steps: what a run has of sizes that data decide shows in it alone."""

    spent: Spent = field(default_factory=Spent)

    def __post_init__(self) -> None:
        told = self.watch

        def watch(step: int) -> None:
            told(step)
            self.spent.steps += 1
            if self.spent.steps > RUN_STEPS:
                raise Beyond(f"more than {RUN_STEPS} steps")

        object.__setattr__(self, "watch", watch)

    def bytes(self, count: int) -> np.ndarray:
        self.spent.bytes += count
        if self.spent.bytes > RUN_BYTES:
            raise Beyond(f"more than {RUN_BYTES} bytes")
        return super().bytes(count)


# An intermediate array that nothing of the result hangs on, or that native code never makes.
_BEYOND_NUMPY = re.compile("array is too big|Maximum allowed dimension exceeded")


def compared(
    exe: Executable,
    found: Any,
    loaded: Callable[[], Any],
    feed: Mapping[str, np.ndarray],
    desk: Desk,
    narrowed: Callable[[], Any] | None = None,
) -> Outcome:
    """A run's result (or refusal) beside the reference's: of the graph with open sizes, and where that refuses, of the
    one for these sizes, if there is one.
    """
    graph = guarded(loaded, ())
    if isinstance(graph, Outcome):
        return graph
    graph = DeadCode()(graph)  # what nothing reads is not run, and what it asks of sizes is not asked
    if reference_bytes(graph, feed) > 4 * RUN_BYTES:
        return Outcome("ran", "not compared: too large")
    try:
        expected: Any = reference(graph, feed)
    except MapstoError as error:
        if _BEYOND_NUMPY.search(str(error)):
            return Outcome("ran", "not compared: too large")
        expected = error
    except MemoryError:
        return Outcome("ran", "not compared: too large")
    except Exception as error:
        return Outcome(
            "reference", place_of(error), f"{type(error).__name__}: {error}\n{traceback.format_exc()[-2000:]}", True
        )
    if isinstance(found, Outcome):
        if isinstance(expected, MapstoError):
            return Outcome("refused by the run", found.kind, found.message)
        return Outcome("refuses", _pattern(found.message), found.message, True)
    if isinstance(expected, MapstoError):
        if narrowed is not None:
            return compared(exe, found, narrowed, feed, desk)
        return Outcome("reference refuses", _pattern(str(expected)), str(expected), True)
    desk.stage("compare", 4 * SECONDS)
    wrong = difference(found, expected, graph, feed)
    if wrong:
        return Outcome("wrong result", _ops(graph), wrong, True)
    desk.stage("run again", RUN_SECONDS)
    exe.guard(None)
    again = exe.run(feed)
    for name, array in again.items():
        if array.tobytes() != found[name].tobytes():
            return Outcome(
                "other bits", _ops(graph), f"{name}: a run between fences gives other bits than one without", True
            )
    return Outcome("ran", "right")


def _ops(graph: Any) -> str:
    return "+".join(sorted({node.op for node in graph.nodes}))[:120]


def _pattern(message: str) -> str:
    """A message without its names and numbers."""
    import re

    return re.sub(r"'[^']*'|\d+", "#", message.split("\n")[0])[:100]


def guarded(call: Callable[[], Any], allowed: tuple[type[Exception], ...]) -> Any:
    """What a call gives, or the outcome where it raises."""
    try:
        return call()
    except MapstoError as error:
        swept = _swept(error)
        if swept is not None:
            text = "".join(traceback.format_exception(swept))[-3000:]
            return Outcome(f"unclear: {type(swept).__name__}", place_of(swept), f"{error}\n{text}", True)
        if isinstance(error, allowed) and not isinstance(error, InternalError):
            return Outcome(type(error).__name__, "", str(error)[:300])
        cause = error.__cause__ if isinstance(error, InternalError) and error.__cause__ else error
        name = type(error).__name__ if cause is error else f"{type(error).__name__}: {type(cause).__name__}"
        text = "".join(traceback.format_exception(cause))[-3000:]
        return Outcome(name, place_of(cause), f"{cause}\n{text}", True)
    except BaseException as error:
        return Outcome(type(error).__name__, place_of(error), "".join(traceback.format_exception(error))[-3000:], True)


# What no check of ours raises: who sees it cannot know what of the file is wrong.
_ACCIDENTS = (
    KeyError, IndexError, AttributeError, TypeError, AssertionError, ZeroDivisionError, StopIteration, NameError,
)  # fmt: skip


def _swept(error: MapstoError) -> BaseException | None:
    """The accident that an error of ours only passes on: nothing looked at what it stumbled over."""
    cause: BaseException | None = error
    while isinstance(cause, MapstoError) and not isinstance(cause, InternalError):
        cause = cause.__cause__
    return cause if isinstance(cause, _ACCIDENTS) else None


def place_of(error: BaseException) -> str:
    """The innermost frame of mapsto that an exception came through."""
    place = "outside of mapsto"
    for frame in traceback.extract_tb(error.__traceback__):
        if "/src/mapsto/" in frame.filename:
            place = f"{frame.filename.split('/src/mapsto/')[-1]} {frame.name}"
    return place


_MOST_PLACES = 2.0**56
# What a run refuses before it begins; the reference would begin.
_BEYOND_THE_MACHINE = re.compile("bytes of scratch memory where the machine has")


def inputs(exe: Executable, feed: Mapping[str, np.ndarray], rng: Any) -> dict[str, np.ndarray] | None:
    """Inputs for a run: those of the seed where they fit, else drawn. None where they, or the run, would be large."""
    sizes: dict[str, int] = {}
    for port in exe.inputs:
        own = feed.get(port.name)
        for axis, dim in enumerate(port.shape):
            for name in symbols(dim):
                extent = (
                    own.shape[axis] if own is not None and own.ndim == len(port.shape) and str(dim) == name else None
                )
                if name not in sizes:
                    sizes[name] = int(rng.integers(0, 6)) if extent is None else extent
    made: dict[str, np.ndarray] = {}
    total = 0
    for port in exe.inputs:
        shape = tuple(evaluate(dim, sizes) for dim in port.shape)
        if min(shape, default=0) < 0:
            return None
        total += int(np.prod([float(d) for d in shape])) * port.dtype.size
        empty = np.prod([float(max(d, 1)) for d in shape])  # numpy has no array of more, be another extent 0
        if total > RUN_BYTES or empty > _MOST_PLACES:
            return None
        own = feed.get(port.name)
        fits = own is not None and own.shape == shape and own.dtype == port.dtype.numpy
        made[port.name] = np.array(own) if fits and own is not None else drawn(port.dtype.numpy, shape, rng)
    known = sizes if isinstance(exe, VariedExecutable) else exe._tables.tape.symbols
    try:
        use = exe.memory({name: size for name, size in sizes.items() if name in known})
    except MapstoError as error:
        return None if _BEYOND_THE_MACHINE.search(str(error)) else made
    return None if use.arena + use.outputs > RUN_BYTES else made


def drawn(dtype: np.dtype, shape: tuple[int, ...], rng: Any) -> np.ndarray:
    """Numbers of every kind that a model may meet."""
    if dtype.kind == "b":
        return np.asarray(rng.integers(0, 2, shape).astype(bool))
    if dtype.kind in "iu":
        low, high = [(0, 3), (0, 2), (-3, 4), (-100, 100)][int(rng.integers(0, 4))]
        return np.asarray(rng.integers(max(low, 0) if dtype.kind == "u" else low, high, shape)).astype(dtype)
    wide = np.asarray(rng.standard_normal(shape) * rng.choice([0.5, 1, 3]))
    if rng.random() < 0.1:
        wide = np.where(rng.random(shape) < 0.1, rng.choice([np.nan, np.inf, -np.inf, 0.0, 1e30]), wide)
    with np.errstate(all="ignore"):
        return np.asarray(wide.astype(dtype))
