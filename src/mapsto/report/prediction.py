"""What a model's kernels take beside what the cost model predicts of them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import mapsto
from mapsto.arguments import Shapes
from mapsto.devices.backend import Progress
from mapsto.devices.named import backend_named, host_machine
from mapsto.machine.spec import Machine
from mapsto.machine.text import digest
from mapsto.plan.initial import constants_of
from mapsto.runtime.executable import Executable
from mapsto.session.compile import planned_graph
from mapsto.session.predict import predict

if TYPE_CHECKING:
    from mapsto.devices.named import Host

TIME_FACTOR = 1.5  # a prediction this far off, up or down, still counts as right
_FEWEST_RUNS = 3


@dataclass(frozen=True)
class KernelTiming:
    """One kernel of the plan, all of its calls: seconds measured (the least of all runs) and predicted."""

    name: str
    label: str
    measured: float
    predicted: float
    bytes: float
    operations: float

    @property
    def ratio(self) -> float:
        return self.predicted / self.measured

    @property
    def right(self) -> bool:
        return 1 / TIME_FACTOR <= self.ratio <= TIME_FACTOR


@dataclass(frozen=True)
class Compared:
    """All kernels that a run reached, in the order of the plan; the machine that predicted them; sizes of that run.

    `host`: where its figures come from; None: of a device whose figures are never measured.
    """

    steps: tuple[KernelTiming, ...]
    machine: Machine
    host: Host | None
    threads: int
    runs: int
    sizes: Mapping[str, int]

    @property
    def measured(self) -> float:
        return sum(s.measured for s in self.steps)

    @property
    def predicted(self) -> float:
        return sum(s.predicted for s in self.steps)

    @property
    def share(self) -> float:
        """Of the measured time, what is in kernels that are predicted within `TIME_FACTOR`."""
        return sum(s.measured for s in self.steps if s.right) / self.measured if self.measured else 1.0

    def to_json(self) -> dict[str, Any]:
        return {
            "source": self.machine.host.source,
            "machine": digest(self.machine),
            "threads": self.threads,
            "runs": self.runs,
            "sizes": dict(self.sizes),
            "measured": self.measured,
            "predicted": self.predicted,
            "factor": TIME_FACTOR,
            "share_within_factor": self.share,
            "steps": [asdict(step) | {"ratio": step.ratio} for step in self.steps],
        }


def verify(
    model: Path,
    shapes: Shapes | None,
    feed: Mapping[str, np.ndarray],
    threads: int | None,
    seconds: float,
    data_root: Path | None = None,
    progress: Progress | None = None,
    device: str = "cpu",
) -> Compared:
    """Compiles a model, runs it for so many seconds, and predicts it from the device's figures alone."""
    host = host_machine() if device == "cpu" else None
    where: dict[str, Any] = {"data_root": data_root, "device": device}
    executable = mapsto.compile(model, shapes=shapes, threads=threads, progress=progress, **where)
    inputs = [feed[port.name] for port in executable.inputs]
    sizes = executable.sizes(*inputs)
    graph = planned_graph(model, executable.plan, shapes, **where)
    maker = backend_named(device, cache=False, isa=None).maker(constants_of(graph))
    predicted = predict(graph, sizes, maker, executable.threads)
    measured, runs = _measured(executable, inputs, seconds)
    steps = tuple(
        KernelTiming(name, label, spent, found.cost.seconds, found.cost.bytes, found.cost.operations)
        for name, (label, spent) in measured.items()
        if spent > 0 and (found := predicted.get(name)) is not None
    )
    machine = Machine((maker.spec,)) if host is None else host.machine
    return Compared(steps, machine, host, executable.threads, runs, sizes)


def _measured(
    executable: Executable, inputs: Sequence[np.ndarray], seconds: float
) -> tuple[dict[str, tuple[str, float]], int]:
    """(label, seconds) of each kernel by its name in the plan: each step's least time, steps of a kernel added up."""
    least: dict[int, float] = {}
    began, runs = time.perf_counter(), 0
    while runs < _FEWEST_RUNS or time.perf_counter() - began < seconds:
        times = executable.profile(*inputs)
        runs += 1
        for step in times:
            spent = step.nanoseconds * step.calls * 1e-9
            least[step.index] = min(least.get(step.index, spent), spent)
    found: dict[str, tuple[str, float]] = {}
    for step in times:
        name, _, label = step.label.partition(" ")
        found[name] = (label, found.get(name, (label, 0.0))[1] + least[step.index])
    return found, runs
