"""Measures the processor by `probes`: a few seconds, for figures that all decisions by cost rest on.

Each probe is timed in stretches of about a millisecond, in several passes over all of them, and the least time counts:
what else runs on a shared machine only ever adds. Figures are differences of probes that differ in one thing.
"""

from __future__ import annotations

import ctypes
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mapsto.devices.cpu import probes as making
from mapsto.devices.cpu.caches import Cache, caches
from mapsto.devices.cpu.compiler import compile_modules
from mapsto.devices.cpu.isa import Isa
from mapsto.devices.cpu.probes import Probe
from mapsto.ir.dtypes import DType
from mapsto.loop.ast import Function
from mapsto.loop.llvm import to_llvm
from mapsto.machine.spec import DeviceSpec, Level, rounded
from mapsto.runtime.executable import Executable
from mapsto.runtime.native import Library
from mapsto.runtime.program import Buffer, Port, Program, Run

_PASSES = 40  # over all probes
_FEWER = 10  # of several threads, which take longer to start
_RUNS = 100  # of a program of steps: short ones, since a meeting waits for whatever disturbs either thread
_STRETCH = 4e-4  # seconds of one sample
_TOGETHER = 1e-2  # seconds of a sample of several threads, whose start takes some
_STEPS = 200  # of the programs that time steps
_MOST_BYTES = 128 << 20  # of the array that measures memory
_LEAST_LAST = 4 << 20  # of a last-level cache whose effective size is looked for
_PAGE, _STAGGER = 4096, 832  # bytes; the second one is a multiple of a cache line
_FULL_SPEED = 0.6  # share of the rate of the cache's first part at which it counts as its own
_SIGNATURE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)


def measured(isa: Isa, typical: DeviceSpec, units: int) -> DeviceSpec:
    """The typical description with every figure replaced by what this processor shows. `units`: threads to use."""
    lab = Lab(isa)
    steps = [_step_seconds(lab, units, typical.barrier)]  # three times: a busy neighbour disturbs for seconds
    found = lab.times(making.probes(isa))
    steps.append(_step_seconds(lab, units, typical.barrier))
    levels = _levels(lab, isa, units)
    steps.append(_step_seconds(lab, units, typical.barrier))
    launch, barrier = (min(times) for times in zip(*steps, strict=True))
    figures = _figures(found, isa)
    return replace(typical, **figures, levels=levels, launch=rounded(launch), barrier=rounded(barrier),
                   units=units, source="measured")  # fmt: skip


# ---- figures from times --------------------------------------------------------------------------------------------


def _figures(found: Mapping[str, float], isa: Isa) -> dict[str, Any]:
    """The figures on their grid."""
    exact = figures_of(found, isa)
    tables = {key: {name: rounded(of) for name, of in exact[key].items()} for key in ("peaks", "rates", "moves")}
    return tables | {key: rounded(exact[key]) for key in ("scalar", "latency", "loop")}


def figures_of(found: Mapping[str, float], isa: Isa) -> dict[str, Any]:
    """What probes say of a device, as they were measured. found: seconds of one count of each by name."""
    per = dict(found)
    copy = per["copy"]
    add = _each(per["many_adds"], per["few_adds"], making.MANY - making.FEW)
    rates = {"add": add}
    for name in ("max", "divide", "sqrt"):
        rates[name] = max(_each(per[name], copy, making.FEW), add / 2)
    for name in ("exp", "log", "tanh", "erf", "sigmoid", "sin", "pow", "convert", "truncate"):
        rates[name] = max(per[name] - copy, add)
    rates["integer_divide"] = max(_each(per["integer_divide"], copy, 2), add)
    contiguous = max(_each(per["loads"], per["one_load"], making.OPERANDS - 1), add / 4)
    moves = {
        "contiguous": contiguous,
        "store": max(copy - contiguous, add / 4),
        "strided_load": max(per["strided_load"] - copy + contiguous, contiguous),
        "strided_store": max(per["strided_store"] - contiguous, contiguous),
        "gather": max(per["gather"] - copy - contiguous, contiguous),
    }
    loops = making.SHORT * (per["long_loop"] - per["short_loop"]) / (making.LONG - making.SHORT)
    scalar = _each(per["many_scalars"], per["few_scalars"], making.MANY - making.FEW)
    peaks = {fmt[:3]: 1.0 / per[f"peak_{'_'.join(t.value for t in fmt[:3])}"] for fmt in making.formats(isa)}
    return {
        "peaks": peaks,
        "rates": rates,
        "moves": moves,
        "scalar": scalar,
        "latency": per["scan"],
        "loop": max(per["short_loop"] - loops, scalar),
    }


def _each(many: float, none: float, count: int) -> float:
    """Seconds of one of `count` operations, by the time with and without them."""
    return max((many - none) / count, many / count / 20)  # never nothing, whatever else ran at the time


# ---- memory --------------------------------------------------------------------------------------------------------


def _levels(lab: Lab, isa: Isa, units: int) -> tuple[Level, ...]:
    """Rates in the middle of each cache, and beyond the last one; the last one's size as far as it holds its rate."""
    known = list(caches())
    sizes = [max(int(cache.bytes) // 2, 4096) for cache in known]
    if len(known) > 1:
        sizes[-1] = int(max(min(sizes[-1], 3 * known[-2].bytes), 2 * known[-2].bytes))
    beyond = int(min(max(4 * known[-1].bytes, 32 << 20), _MOST_BYTES))
    found = []
    for cache, size in zip(known, sizes, strict=True):
        found.append(_level(lab, isa, cache, size, units))
    if known[-1].bytes >= _LEAST_LAST and len(known) > 1:
        found[-1] = replace(found[-1], bytes=_effective(lab, isa, known[-1].bytes, found[-1]))
    found.append(_level(lab, isa, Cache("memory", math.inf, 1 << 20), beyond, units))
    return tuple(found)


def _level(lab: Lab, isa: Isa, cache: Cache, size: int, units: int) -> Level:
    read, write = making.reading(isa, size), making.writing(isa, size)
    in_rate, out_rate = (1.0 / seconds for seconds in lab.seconds((read, write)))
    sharing = min(cache.units, units)
    together = in_rate * sharing
    if sharing > 1:
        together = min(max(lab.together(read, sharing), in_rate), together)
    return Level(cache.name, cache.bytes, rounded(in_rate), rounded(out_rate), sharing, rounded(together))


def _effective(lab: Lab, isa: Isa, size: float, level: Level) -> float:
    """How much of a shared cache reads at its rate: others may have the rest of it."""
    held = size / 8
    for part in (size / 4, size / 2, size):
        (seconds,) = lab.seconds((making.reading(isa, int(part)),))
        if 1.0 / seconds < _FULL_SPEED * level.read:
            break
        held = part
    return held


# ---- steps ---------------------------------------------------------------------------------------------------------


def _step_seconds(lab: Lab, units: int, typical: float) -> tuple[float, float]:
    """Seconds of a step that does nothing, and of the meeting of threads before the next one."""
    function, code = lab.compiled([("nothing", making.nothing(), "none")])
    alone = _quickest(_steps(function[0], code, 1, 1)) / _STEPS
    if units == 1:
        return alone, typical
    together = _quickest(_steps(function[0], code, units, units)) / _STEPS
    return alone, max(together - alone, alone)


def _steps(function: str, code: Sequence[bytes], threads: int, extent: int) -> Rounds:
    """Runs of `_STEPS` steps, each of which writes what the next one writes again."""
    buffers = (Buffer("x", "input", 4), Buffer("out", "output", 4 * max(extent, 1)))
    steps = tuple(Run(function, ((1, 0),), (), extent, (0,)) for _ in range(_STEPS))
    ports = Port("x", DType.F32, (1,), 0), Port("out", DType.F32, (max(extent, 1),), 1)
    program = Program("steps", (ports[0],), (ports[1],), buffers, steps, b"")
    exe = Executable(program, code, threads)
    x = np.zeros(1, np.float32)

    def call(rounds: int) -> object:
        for _ in range(rounds):
            exe(x)
        return exe

    return call


# ---- running -------------------------------------------------------------------------------------------------------


@dataclass
class Lab:
    """Compiles probes and times them. room: bytes that each array is taken out of, at least: large ones may lie in
    large pages.
    """

    isa: Isa
    count: int = 0
    room: int = 0

    def times(self, wanted: Sequence[Probe]) -> dict[str, float]:
        return dict(zip((p.name for p in wanted), self.seconds(wanted), strict=True))

    def seconds(self, wanted: Sequence[Probe]) -> list[float]:
        """Seconds of one count of each."""
        calls = self.calls(wanted)
        rounds = [self.rounds(call) for call in calls]
        passes = [[timed(c, n) / n for c, n in zip(calls, rounds, strict=True)] for _ in range(_PASSES)]
        return [min(times) / probe.count for times, probe in zip(zip(*passes, strict=True), wanted, strict=True)]

    def together(self, probe: Probe, threads: int) -> float:
        """Counts a second of so many threads that do the same at once."""
        calls = [self.calls((probe,))[0] for _ in range(threads)]
        rounds = max(self.rounds(calls[0]) * round(_TOGETHER / _STRETCH), 1)
        best = math.inf
        for _ in range(_FEWER):
            gate = threading.Barrier(threads + 1)
            workers = [threading.Thread(target=_after, args=(gate, call, rounds)) for call in calls]
            for worker in workers:
                worker.start()
            gate.wait()
            began = time.perf_counter()
            for worker in workers:
                worker.join()
            best = min(best, time.perf_counter() - began)
        return threads * rounds * probe.count / best

    def compiled(self, functions: Sequence[tuple[str, Function, str]]) -> tuple[list[str], list[bytes]]:
        """Names and object code of (name, function, optimizer), each under a name that no other has."""
        names, objects = [], []
        by_optimizer: dict[str, list[tuple[str, str]]] = {}
        for name, function, optimizer in functions:
            self.count += 1
            names.append(f"probe_{name}_{self.count}")
            text = to_llvm(replace(function, name=names[-1]), self.isa.capabilities)
            by_optimizer.setdefault(optimizer, []).append((names[-1], text))
        for optimizer, modules in by_optimizer.items():
            objects += compile_modules(modules, self.isa, optimizer=optimizer)
        return names, objects

    def calls(self, wanted: Sequence[Probe]) -> list[Rounds]:
        names, objects = self.compiled([(p.name, p.function, p.optimizer) for p in wanted])
        library = Library(objects, names)
        return [_call(library, name, probe, self.room) for name, probe in zip(names, wanted, strict=True)]

    def rounds(self, call: Rounds) -> int:
        """How many take about `_STRETCH` seconds."""
        count = 1
        while (taken := timed(call, count)) < _STRETCH / 8 and count < 1 << 30:
            count *= 4
        return max(int(count * _STRETCH / taken), 1)


Rounds = Callable[[int], object]  # does so many rounds


def _quickest(call: Rounds) -> float:
    """Seconds of one round, the least of `_RUNS`."""
    return min(timed(call, 1) for _ in range(_RUNS))


def timed(call: Rounds, rounds: int) -> float:
    """Seconds of so many rounds."""
    began = time.perf_counter()
    call(rounds)
    return time.perf_counter() - began


def _after(gate: threading.Barrier, call: Rounds, rounds: int) -> None:
    gate.wait()
    call(rounds)


def _call(library: Library, name: str, probe: Probe, room: int) -> Rounds:
    """Rounds of a probe on arrays of ones; it keeps the code alive."""
    arrays = [_ones(element, count, n, room) for n, (element, count) in enumerate(probe.operands)]
    pointers = (ctypes.c_void_p * len(arrays))(*(a.ctypes.data for a in arrays))
    sizes = (ctypes.c_int64 * 1)()
    entry = _SIGNATURE(library.addresses[name])

    def call(rounds: int) -> object:
        sizes[0] = rounds
        entry(pointers, sizes, 0, probe.extent)
        return library, arrays

    return call


def _ones(element: DType, count: int, number: int, room: int) -> np.ndarray:
    """An array of ones on a cache line, the `number`th of its function: a store must not seem to meet a later load
    because the low bits of their addresses agree.
    """
    raw = np.zeros(max(count * element.size + _PAGE + 64, room), np.uint8)
    start = (number * _STAGGER - raw.ctypes.data) % _PAGE
    array = raw[start : start + count * element.size].view(element.numpy)
    array[:] = 1
    return array
