"""What each kernel of a model takes beside what this machine needs at least, both measured in the same minute."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

import mapsto
from mapsto.arguments import Progress, Shapes
from mapsto.devices.contraction.winograd_plan import products_at_points
from mapsto.devices.making.template_names import TILES, WINOGRAD
from mapsto.devices.named import backend_named, host_ceilings
from mapsto.ir.dtypes import DType
from mapsto.machine.limits import Needs, limit_of, needs_of
from mapsto.machine.spec import DeviceSpec
from mapsto.plan.initial import constants_of
from mapsto.plan.plan import Work
from mapsto.plan.works import walk
from mapsto.report import machine
from mapsto.runtime.cpus import pinned
from mapsto.runtime.executable import Executable
from mapsto.session.compile import planned_graph
from mapsto.session.predict import Predicted, predict

_FEWEST, _LOOKS = 9, 12  # samples of each kernel; looks at the machine between them
_SAMPLE = 5e-3  # seconds of one sample of the whole model


class CeilingsOfHost(Protocol):
    """What the machine does at most, by the looks that were taken so far."""

    def look(self) -> None: ...

    def spec(self) -> DeviceSpec: ...


@dataclass(frozen=True)
class KernelAtLimit:
    """One kernel: its name in the plan, what it computes, the median of its time, operations of the algorithm that was
    chosen, bytes of its operands, the least that they can take, and what of both that is.
    """

    name: str
    label: str
    seconds: float
    operations: float
    bytes: float
    limit: float
    bound: str

    @property
    def share(self) -> float:
        """Of the machine's limit that is reached."""
        return self.limit / self.seconds

    @property
    def impossible(self) -> bool:
        """Faster than it can be: the measurement is wrong."""
        return self.seconds < self.limit


@dataclass(frozen=True)
class KernelReport:
    """All kernels that a run reached, in the order of the plan. cpus: that the run was pinned to. peak: multiply-adds
    of f32 a second of one of them; memory: bytes a second that one reads from it; as measured beside the kernels.
    """

    kernels: tuple[KernelAtLimit, ...]
    threads: int
    samples: int
    cpus: tuple[int, ...]
    peak: float
    memory: float

    @property
    def seconds(self) -> float:
        return sum(kernel.seconds for kernel in self.kernels)

    @property
    def limit(self) -> float:
        return sum(kernel.limit for kernel in self.kernels)

    @property
    def share(self) -> float:
        return self.limit / self.seconds if self.seconds else 1.0

    def to_json(self) -> dict[str, Any]:
        return {
            "kernels": [asdict(k) | {"share": k.share, "impossible": k.impossible} for k in self.kernels],
            "seconds": self.seconds,
            "limit": self.limit,
            "share": self.share,
            "threads": self.threads,
            "samples": self.samples,
            "cpus": list(self.cpus),
            "peak": self.peak,
            "memory": self.memory,
            "machine": machine.describe(),
        }


def kernels_at_limits(
    model: Path,
    shapes: Shapes | None,
    feed: Mapping[str, np.ndarray],
    threads: int,
    seconds: float,
    data_root: Path | None = None,
    progress: Progress | None = None,
    exact_integers: bool = False,
) -> KernelReport:
    """Compiles a model, and by turns runs it for so many seconds and looks at what the machine can do."""
    asked: dict[str, Any] = {"shapes": shapes, "data_root": data_root}
    by: dict[str, Any] = {"threads": threads, "progress": progress, "exact_integers": exact_integers}
    executable = mapsto.compile(model, **asked, **by)
    inputs = [feed[port.name] for port in executable.inputs]
    needs = _needs(planned_graph(model, executable.plan, **asked), executable, inputs)
    ceilings = host_ceilings(threads)
    with pinned(threads) as cpus:
        samples = _sampled(executable, inputs, seconds, ceilings, progress)
    spec = ceilings.spec()
    kernels = at_limits(samples, needs, spec, threads)
    peak = spec.peak(DType.F32, DType.F32, DType.F32)
    return KernelReport(kernels, threads, len(samples), cpus, peak, spec.levels[-1].read)


def at_limits(
    samples: Sequence[Mapping[tuple[str, str], float]], needs: Mapping[str, Needs], spec: DeviceSpec, threads: int
) -> tuple[KernelAtLimit, ...]:
    """Medians of samples of seconds by (name, label), beside what each needs."""
    found = []
    for name, label in samples[0]:
        seconds = statistics.median(sample.get((name, label), 0.0) for sample in samples)
        if seconds > 0 and name in needs:
            limit = limit_of(needs[name], spec, threads)
            counted = needs[name].operations, needs[name].bytes
            found.append(KernelAtLimit(name, label, seconds, *counted, limit.seconds, limit.bound))
    return tuple(found)


def _needs(graph: Any, executable: Executable, inputs: Sequence[np.ndarray]) -> dict[str, Needs]:
    """Of each work, by the template and schedule that it has in this plan."""
    works = {item.name: item for item in walk(executable.plan.items) if isinstance(item, Work)}
    templates = {name: work.offer.template for name, work in works.items()}
    asked = backend_named("cpu", cache=False, isa=None).maker(constants_of(graph))
    sizes = executable.sizes(*inputs)
    predicted = predict(graph, sizes, asked, executable.threads, templates)
    memory = executable.memory(sizes)
    held = float(memory.arena + memory.constants + memory.outputs + sum(array.nbytes for array in inputs))
    return {name: _needed(predicted[name], work, held) for name, work in works.items() if name in predicted}


def _needed(predicted: Predicted, work: Work, held: float) -> Needs:
    template, schedule = work.offer.template, work.offer.schedule or ""
    if template not in (TILES, WINOGRAD):
        return needs_of(predicted.tallies, None, held)
    products = dict(predicted.products)
    if template == WINOGRAD:
        products = {types: products_at_points(count, schedule) for types, count in products.items()}
    return needs_of(predicted.tallies, products, held)


def _sampled(
    executable: Executable,
    inputs: Sequence[np.ndarray],
    seconds: float,
    ceilings: CeilingsOfHost,
    progress: Progress | None,
) -> list[dict[tuple[str, str], float]]:
    """Seconds of each kernel, all its steps, in each sample; the machine is looked at before, between and after."""
    began = time.perf_counter()
    executable(*inputs)
    runs = int(min(max(_SAMPLE / (time.perf_counter() - began), 1), 1000))
    samples: list[dict[tuple[str, str], float]] = []
    looks, began = 0, time.perf_counter()
    while len(samples) < _FEWEST or time.perf_counter() - began < seconds:
        over = min((time.perf_counter() - began) / seconds, 1.0)
        if looks <= over * _LOOKS:
            ceilings.look()
            looks += 1
        if progress is not None:
            progress(int(100 * over), 100, "kernels, and what the machine can do")
        found: dict[tuple[str, str], float] = {}
        for step in executable.profile(*inputs, runs=runs):
            name, _, label = step.label.partition(" ")
            found[name, label] = found.get((name, label), 0.0) + step.nanoseconds * step.calls * 1e-9 / runs
        samples.append(found)
    ceilings.look()
    return samples
