"""What a model takes on a machine that is described: its placement and timeline. Nothing is compiled or run."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np

from mapsto.budget import metering
from mapsto.devices.named import described
from mapsto.errors import ArgumentError, FileError, ModelError, ParseError
from mapsto.files import name_of, plain_file
from mapsto.machine.cost import Parts
from mapsto.machine.machine_file import MOST_BYTES, MachineFile, parse_machine
from mapsto.ops.registry import known_ops, op
from mapsto.placement.model import Event, latency, timeline
from mapsto.placement.place import Placement, place
from mapsto.placement.problem import OBJECTIVES, PLACERS, PlacementProblem
from mapsto.plan.decide import decide
from mapsto.plan.initial import constants_of
from mapsto.plan.placing import Considered, WorksToPlace
from mapsto.session.compile import prepared
from mapsto.session.energy import least_energy, run_joules


@dataclass(frozen=True)
class Simulation:
    """machine: what it was simulated on. problem: of its latency, whatever the objective. placement: the seats, by the
    objective. works: what each device says of each. events: all works and transfers of one run. stream: seconds of the
    slowest stage, where runs follow one another.
    """

    machine: MachineFile
    objective: str
    problem: PlacementProblem
    placement: Placement
    works: tuple[Considered, ...]
    events: tuple[Event, ...]
    stream: float

    @property
    def seconds(self) -> float:
        """Until the last output is on the host; inf: there is no assignment."""
        return max((e.end for e in self.events), default=0.0) if self.placement.seconds < math.inf else math.inf

    @property
    def joules(self) -> float | None:
        """Modelled: of works, and of all devices doing nothing meanwhile; None where one has no figures of power."""
        if any(d.spec.power is None for d in self.machine.devices):
            return None
        return run_joules(self.works, self.placement.seats, self.seconds, self.idle)

    @property
    def idle(self) -> float:
        """Watts of all devices doing nothing."""
        return math.fsum(d.spec.power.idle for d in self.machine.devices if d.spec.power is not None)

    def parts(self) -> Parts:
        """What all works take of arithmetic, bytes and launches, where they are."""
        return sum((w.priced[d].parts for w, d in zip(self.works, self.placement.seats, strict=True)), Parts())

    def moving(self) -> float:
        """Seconds of all transfers."""
        return math.fsum(e.end - e.begin for e in self.events if e.work is None)

    def held(self) -> list[float]:
        """Bytes of constants, by device."""
        found = [0.0] * len(self.problem.devices)
        for job, device in zip(self.problem.works, self.placement.seats, strict=True):
            found[device] += job.holds
        return found


def shipped_machines() -> list[str]:
    """Names of the machines that come with the package."""
    folder = resources.files("mapsto") / "machines"
    return sorted(f.name.removesuffix(".toml") for f in folder.iterdir() if f.name.endswith(".toml"))


def read_machine(name: str | os.PathLike[str]) -> MachineFile:
    """A machine file, by its path, or by its name if it comes with the package.

    Raises FileError, and ParseError naming line and key.
    """
    text = name_of(name, "machine")
    if text in shipped_machines():
        own = resources.files("mapsto") / "machines" / f"{text}.toml"
        return parse_machine(own.read_text("utf-8"), text, known_names())
    if not os.path.exists(text) and os.sep not in text and not text.endswith(".toml"):
        there = ", ".join(shipped_machines())
        raise ArgumentError(f"there is no file {text!r}, and no machine of that name; there are: {there}")
    try:
        with plain_file(text, "machine") as file:
            data = file.read(MOST_BYTES + 1)
    except ModelError as error:
        raise FileError(str(error)) from None
    try:
        return parse_machine(data.decode("utf-8"), text, known_names())
    except UnicodeDecodeError as error:
        raise ParseError(f"{text}: byte {error.start} is no UTF-8, as TOML is") from None


def simulate(
    model: Any,
    machine: MachineFile,
    shapes: Mapping[str, Sequence[int | str | None]] | None = None,
    objective: str = "latency",
    limits: Mapping[str, float] | None = None,
    pins: Sequence[tuple[str, str]] = (),
    placer: str = "exact",
    data_root: str | os.PathLike[str] | None = None,
) -> Simulation:
    """Places a model on a machine. limits: bytes that may be taken, by device; without one, what the device has.

    Raises ArgumentError for what is not there, and for a pin that cannot be kept; and as `mapsto.compile` does.
    """
    for what, one, every in (("objective", objective, OBJECTIVES), ("placer", placer, PLACERS)):
        if one not in every:
            raise ArgumentError(f"{what} {one!r}; there are: {', '.join(every)}")
    names = [d.spec.name for d in machine.devices]
    for name in limits or {}:
        if name not in names:
            raise ArgumentError(f"limit of {name}: there is no such device; there are: {', '.join(names)}")
    if objective == "energy" and (bare := [d.spec.name for d in machine.devices if d.spec.power is None]):
        raise ArgumentError(f"objective energy: {machine.name} has no figures of power for {', '.join(bare)}")
    with metering(), np.errstate(all="ignore"):
        graph = prepared(model, shapes, data_root=data_root)
        makers = [described(device, constants_of(graph)) for device in machine.devices]
        mapped = decide(graph, makers[0])
        placing = WorksToPlace(mapped, makers, machine.links, pins)
    memory = {d.spec.name: d.memory for d in machine.devices} | dict(limits or {})
    if all(limit == math.inf for limit in memory.values()):
        memory = {}
    try:
        found = place(placing.problem(objective, memory), placer)
        if objective == "energy":
            seconds = placing.problem("latency", memory)
            found = least_energy(seconds, placing.considered, placing.idle, found, place(seconds, placer))
    except ValueError as error:  # too many for all to be tried
        raise ArgumentError(f"placer {placer}: {error}") from None
    return _simulated(machine, objective, placing, memory, found)


def _simulated(
    machine: MachineFile, objective: str, placing: WorksToPlace, memory: Mapping[str, float], placement: Placement
) -> Simulation:
    problem = placing.problem("latency", memory)
    events = timeline(problem, placement.seats) if placement.seconds < math.inf else []
    stream = latency(placing.problem("throughput", memory), placement.seats)
    return Simulation(machine, objective, problem, placement, tuple(placing.considered), tuple(events), stream)


def known_names() -> dict[str, list[str]]:
    """What a machine file may name: each op, and each kind of ops."""
    found = {name: [name] for name in known_ops()}
    for name in known_ops():
        found.setdefault(op(name).kind, []).append(name)
    return found
