"""The plan of a model on several devices: where each work is and why, and the plan of each part on its own device.

`plan.division_text` prints and reads it.
"""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

from mapsto.machine.spec import Power
from mapsto.machine.text import power_data
from mapsto.plan.plan import Plan, parse

EVERYWHERE = "*"
"""The device of works that are on each of them."""

CHANNELS = "channels"
AXES = (CHANNELS, "rows", "batch")
"""Of the output of a contraction, along which it may be split."""

NOWHERE = "-"
"""The device of works that are no nodes of the graph (copies): the part that needs one makes it."""


@dataclass(frozen=True)
class PlannedDevice:
    """name: as users call it; maker: as plans of one device do. products, others: what predictions of contractions and
    of other works were multiplied by, as measured. begins: seconds until it goes on with what another device made;
    copies: bytes a second that it copies itself, from there and to it. power: figures that joules were counted by;
    None: none were.
    """

    name: str
    maker: str
    products: float = 1.0
    others: float = 1.0
    begins: float = 0.0
    copies: float = math.inf
    power: Power | None = None


@dataclass(frozen=True)
class PlacedWork:
    """A work by its nodes (their first outputs), its ops, and nodes of the source model. takes: seconds on each device
    that takes it; refuses: why others do not. beaten: what the whole would take longer with this work alone on another
    device. ends_part: the part that it is in ends with it, as another device waits for it.
    """

    name: str
    device: str
    nodes: tuple[str, ...] = ()
    ops: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    takes: tuple[tuple[str, float], ...] = ()
    refuses: tuple[tuple[str, str], ...] = ()
    beaten: tuple[tuple[str, float], ...] = ()
    because: str = ""
    ends_part: bool = False
    line: int = field(default=0, compare=False)  # where it was read; 0: nowhere

    def matches(self, pattern: str) -> bool:
        """Whether it, or a node of the source model in it, has a name like that (`*`, `?`)."""
        return any(fnmatch.fnmatchcase(name, pattern) for name in (self.name, *self.sources))


@dataclass(frozen=True)
class Alternative:
    """A work on a device. seconds: what it takes there; None: it cannot be. whole: what the whole would take, all else
    as suits that (joules, where the objective is energy). said: how that was found; or why it cannot be. taken: it is
    there.
    """

    work: str
    device: str
    seconds: float | None
    whole: float | None
    said: str
    taken: bool = False


@dataclass(frozen=True)
class PlannedPart:
    """text: the plan of a part, which `device` runs. line: where that text begins in the whole."""

    device: str
    text: str
    line: int = field(default=1, compare=False)

    @cached_property
    def plan(self) -> Plan:
        """Raises ParseError naming the line, in the whole."""
        return parse(self.text, self.line)

    def lines(self) -> Iterator[str]:
        """Its lines without comments."""
        return (line for line in self.text.split("\n") if line.strip() and not line.lstrip().startswith("#"))


@dataclass(frozen=True)
class Total:
    """What the objective says of the whole (for `energy` joules), what no placement falls below (0: nothing is known),
    and what found it.
    """

    seconds: float
    bound: float
    method: str


@dataclass(frozen=True)
class DividedPlan:
    """digest: of the graph as it is before contractions are split. replicated: each device has all of it. splits: for
    the output of a contraction, how many of its channels (or places of the axis that split_axes has for it) the other
    device takes. others: what simple ways would take.
    limits: bytes that the model may take of a device's memory.
    A plan without works is made anew, as its objective, placer, pins and limits say.
    """

    graph: str
    devices: tuple[PlannedDevice, ...]
    digest: str = ""
    version: str = ""
    objective: str = "latency"
    placer: str = "exact"
    pins: tuple[tuple[str, str], ...] = ()
    replicated: bool = False
    splits: tuple[tuple[str, int], ...] = ()
    total: Total | None = None
    others: tuple[tuple[str, float], ...] = ()
    works: tuple[PlacedWork, ...] = ()
    parts: tuple[PlannedPart, ...] = ()
    limits: tuple[tuple[str, int], ...] = ()
    split_axes: tuple[tuple[str, str], ...] = ()
    lines: Mapping[str, int] = field(default_factory=dict, compare=False, repr=False)  # first words: where read

    @property
    def names(self) -> list[str]:
        """Of the devices, the host first."""
        return [device.name for device in self.devices]

    def works_of(self, name: str) -> list[PlacedWork]:
        """Works that have a name, or whose nodes, or nodes of the source model, have."""
        return [work for work in self.works if name in (work.name, *work.nodes, *work.sources)]

    def to_json(self) -> dict[str, Any]:
        works = [
            asdict(work) | {"takes": dict(work.takes), "refuses": dict(work.refuses), "beaten": dict(work.beaten)}
            for work in self.works
        ]
        for work in works:
            del work["line"]
        return {
            "graph": self.graph,
            "digest": self.digest,
            "version": self.version,
            "devices": [
                asdict(replace(d, power=None)) | {"power": d.power and power_data(d.power)} for d in self.devices
            ],
            "objective": self.objective,
            "placer": self.placer,
            "pins": [list(pin) for pin in self.pins],
            "limits": {device: {"memory": limit} for device, limit in self.limits},
            "replicated": self.replicated,
            "splits": dict(self.splits),
            "split_axes": dict(self.split_axes),
            "total": None if self.total is None else asdict(self.total),
            "others": dict(self.others),
            "works": works,
            "parts": [{"device": part.device, "plan": part.plan.to_json()} for part in self.parts],
        }
