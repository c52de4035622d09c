"""What it takes a device to go on with what another one made: measured, on a chain of works that do next to nothing."""

from __future__ import annotations

import math
import os
import statistics
import threading
import time
from collections.abc import Callable, Mapping

import numpy as np

from mapsto.devices.backend import Backend
from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Graph
from mapsto.ops.builder import Builder
from mapsto.placement.problem import HOST
from mapsto.plan.placing import HandOver
from mapsto.session.compile import build
from mapsto.session.division import divided

_WORKS = 5  # of the chain: the host has the first, the last, and one between
_FEW, _MANY = 16, 1 << 20  # elements: those of the chain, and of an input that is copied
_RUNS = 15
_STEP = 1.25  # figures are powers of it: noise below that changes no placement
_SLOWEST, _FASTEST = 1e8, 1e12  # bytes a second: what is beyond was disturbed, or is no copy


def handed_over(backends: Mapping[str, Backend], threads: int) -> tuple[HandOver, ...]:
    """Of each device, the host first: measured once in a process, and remembered until it ends."""
    names = list(backends)
    others = [_known(backends, names[HOST], name, threads) for name in names[1:]]
    begins = statistics.median(each[0] for each in others) if others else 0.0
    return (HandOver(begins), *(each[1] for each in others))


_GUARD = threading.RLock()
_KNOWN: dict[tuple[str, str, int, int], tuple[float, HandOver]] = {}


def _known(backends: Mapping[str, Backend], host: str, other: str, threads: int) -> tuple[float, HandOver]:
    key = (other, backends[other].name, threads, os.getpid())
    with _GUARD:
        if key not in _KNOWN:
            _KNOWN[key] = _measured({name: backends[name] for name in (host, other)}, threads)
        return _KNOWN[key]


def _measured(backends: Mapping[str, Backend], threads: int) -> tuple[float, HandOver]:
    """Seconds until the host goes on with what the other device made, and what that one takes.

    What a run of the chain takes more than its parts by themselves is what handing over takes, each time alike.
    """
    graph = _chain()
    seats = {node.outputs[0].name: at % 2 for at, node in enumerate(graph.nodes)}
    exe = divided(graph, seats, backends, threads)
    x = np.zeros(_FEW, np.float32)
    whole = _median(lambda: exe.run({"x": x}))
    alone: dict[str, list[float]] = {name: [] for name in backends}
    for part in exe.parts:
        feed = {port.name: x for port in part.executable.program.inputs}
        alone[part.device].append(_median(lambda part=part, feed=feed: part.executable.run(feed)))  # type: ignore[misc]
    between = max(whole - math.fsum(map(math.fsum, alone.values())), 0.0) / (len(exe.parts) - 1)
    host, other = (statistics.median(times) for times in alone.values())
    return _rounded(host + between), HandOver(_rounded(other + between), _copies(list(backends.values())[1], threads))


def _chain() -> Graph:
    b = Builder("chain")
    value = b.input("x", DType.F32, (_FEW,))
    for _ in range(_WORKS):
        value = b.one("tanh", [value])
    return b.finish([value])


def _copies(backend: Backend, threads: int) -> float:
    """Bytes a second of an array that a device copies to itself, and of which it reads almost nothing."""
    b = Builder("copied")
    x = b.input("x", DType.F32, (_MANY,))
    executable = build(b.finish([b.one("slice", [x], starts=(0,), steps=(1,), shape=(_FEW,))]), backend, threads, None)
    many, few = np.zeros(_MANY, np.float32), np.zeros(_FEW, np.float32)
    b = Builder("few")
    least = build(b.finish([b.one("tanh", [b.input("x", DType.F32, (_FEW,))])]), backend, threads, None)
    seconds = _median(lambda: executable.run({"x": many})) - _median(lambda: least.run({"x": few}))
    return _rounded(min(max(many.nbytes / max(seconds, 1e-9), _SLOWEST), _FASTEST))


def _rounded(figure: float) -> float:
    return float(f"{_STEP ** round(math.log(figure, _STEP)):.3g}") if figure > 0 else 0.0


def _median(run: Callable[[], object]) -> float:
    """Seconds, once what is touched for the first time was."""
    taken = []
    for at in range(_RUNS + 3):
        begun = time.perf_counter()
        run()
        if at >= 3:
            taken.append(time.perf_counter() - begun)
    return statistics.median(taken)
