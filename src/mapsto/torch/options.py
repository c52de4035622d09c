"""Options of the backend: `torch.compile(module, backend="mapsto", options={"threads": 1})`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from mapsto.arguments import brief, flag_of
from mapsto.errors import ArgumentError
from mapsto.formats.format import wanted as wanted_formats
from mapsto.runtime.cpus import thread_count
from mapsto.session.request import Request
from mapsto.session.traced import FROZEN, SHARED


@dataclass(frozen=True)
class BackendOptions:
    """Those of `mapsto.compile` that make sense for a part of a module, by the same names; fallback: whether torch runs
    what cannot be compiled.
    """

    threads: int | None = None
    isa: str | None = None
    budget: Any = None
    check_indices: bool = True
    device: str = "cpu"
    formats: Any = None
    cache: bool = True
    weights: str = SHARED
    fallback: bool = True

    def request(self) -> Request:
        """What a compile is asked for; the graph comes later. Raises ArgumentError."""
        return Request(
            None, {}, thread_count(self.threads), None, self.cache, None, self.isa, self.budget, self.check_indices,
            None, (), self.device, (), False, wanted_formats(self.formats), None, None,
        )  # fmt: skip


def options_of(given: Any) -> BackendOptions:
    """Raises ArgumentError for an option that there is not, or that is of the wrong kind."""
    if given is None:
        return BackendOptions()
    if not isinstance(given, Mapping):
        raise ArgumentError(f"options: expected a dict, got {brief(given)}")
    known = [field.name for field in fields(BackendOptions)]
    unknown = [name for name in given if name not in known]
    if unknown:
        raise ArgumentError(
            f"options: there is no {', '.join(map(brief, unknown))}; there are {', '.join(known)} (docs/pytorch.md)"
        )
    for name in ("check_indices", "cache", "fallback"):
        flag_of(given.get(name, True), f"options: {name}")
    if given.get("weights", SHARED) not in (SHARED, FROZEN):
        raise ArgumentError(f"options: weights: expected {SHARED!r} or {FROZEN!r}, got {brief(given['weights'])}")
    found = BackendOptions(**given)
    found.request()
    return found
