"""How far two small runs on a device are from their predictions: what its other predictions are multiplied by."""

from __future__ import annotations

import functools
import math
import os
import statistics
import threading
import time
from collections.abc import Mapping
from functools import partial

import numpy as np

from mapsto.devices.backend import Backend
from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Graph
from mapsto.ops.builder import Builder
from mapsto.plan.initial import constants_of
from mapsto.plan.placing import Correction
from mapsto.runtime.executable import Executable
from mapsto.session.agreeing import agreed_least
from mapsto.session.compile import build
from mapsto.session.predict import predict

_ROWS, _DEPTH, _COLUMNS = 256, 512, 512  # of a product: some milliseconds of a small core
_ELEMENTS = 1 << 20
_AGREEING, _FEWEST, _MOST = 3, 5, 60  # runs: what is found while others use the device is remembered for long
_LOOKING = 0.08  # seconds of a look at how fast a device is now: several turns of the system's scheduler
_STEP = 1.25  # corrections are powers of it: noise below that changes no placement
_FARTHEST = 16.0  # what is farther off was disturbed


@functools.cache
def probes() -> Mapping[str, Graph]:
    """A product, and operations on single elements."""
    rng = np.random.default_rng(0)
    b = Builder("product")
    w = b.constant(rng.standard_normal((_DEPTH, _COLUMNS)).astype(np.float32), "w")
    product = b.finish([b.one("matmul", [b.input("x", DType.F32, (_ROWS, _DEPTH)), w])])
    b = Builder("elements")
    elements = b.finish([b.one("tanh", [b.input("x", DType.F32, (_ELEMENTS // 1024, 1024))])])
    return {"contraction": product, "rows": elements}


class DeviceCalibration:
    """Two small runs on a device: `correction` is measured over predicted seconds by kind of work, in steps."""

    def __init__(self, backend: Backend, threads: int, is_host: bool) -> None:
        self._runs: list[tuple[Executable, np.ndarray]] = []
        found = {}
        for kind, graph in probes().items():
            executable = build(graph, backend, threads, None)
            shape = [int(str(dim)) for dim in executable.program.inputs[0].shape]
            x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
            executable(x)
            self._runs.append((executable, x))
            least = agreed_least(partial(_seconds, executable, x), _AGREEING, _FEWEST, _MOST)
            maker = backend.maker(constants_of(graph))
            units = threads if is_host else maker.spec.units
            predicted = sum(each.cost.seconds for each in predict(graph, {}, maker, units).values())
            steps = round(math.log(max(least, 1e-9) / predicted, _STEP))
            found[kind] = min(max(_STEP**steps, 1 / _FARTHEST), _FARTHEST)
        self.correction = Correction(**found)
        self._first = self._median()

    def times(self) -> float:
        """How many times as long it takes now as when it was made."""
        return self._median() / self._first

    def _median(self) -> float:
        """Seconds of both runs, over some time: where others use the device as well, each has its turn in it. A few of
        them wait for a host that is at work itself.
        """
        begun = time.perf_counter()
        taken: list[float] = []
        while not taken or time.perf_counter() - begun < _LOOKING:
            taken.append(math.fsum(_seconds(executable, x) for executable, x in self._runs))
        return statistics.median(taken)


_GUARD = threading.RLock()
_KNOWN: dict[tuple[str, str, int, int], DeviceCalibration] = {}


def calibrated(name: str, backend: Backend, threads: int, is_host: bool) -> DeviceCalibration:
    """A device's calibration: made once in a process, for a number of threads, and remembered until it ends. name: as
    users call the device. is_host: it has so many threads; others have what they have.
    """
    key = (name, backend.name, threads, os.getpid())  # what a parent process has of a device is of no use in a child
    with _GUARD:
        if key not in _KNOWN:
            _KNOWN[key] = DeviceCalibration(backend, threads, is_host)
        return _KNOWN[key]


def _seconds(executable: Executable, x: np.ndarray) -> float:
    begun = time.perf_counter()
    executable(x)
    return time.perf_counter() - begun
