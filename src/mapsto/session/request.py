"""What a compile is asked for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mapsto.arguments import Progress, Shapes
from mapsto.formats.format import AS_IT_IS, WantedFormats

if TYPE_CHECKING:
    from mapsto.budget import Budget
    from mapsto.plan.plan import Plan
    from mapsto.session.accuracy import Accuracy
    from mapsto.session.calibration import Calibration


@dataclass(frozen=True)
class Request:
    """The arguments of `mapsto.compile`, by the same names; those that can be looked at before any work is done have
    been.
    """

    model: Any
    shapes: Shapes
    threads: int
    progress: Progress | None
    cache: bool
    plan: Plan | str | None
    isa: str | None
    budget: Budget | Mapping[str, float] | None
    check_indices: bool
    data_root: str | os.PathLike[str] | None
    overridable: tuple[str, ...]
    device: str
    updates: tuple[tuple[str, str], ...] = ()
    adapt: bool = False
    formats: WantedFormats = AS_IT_IS
    calibration: Calibration | None = None
    accuracy: Accuracy | None = None
    exact_integers: bool = False
