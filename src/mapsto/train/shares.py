"""What part of a training step updates parameters: the kernels that write them, with what is fused into these."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mapsto.errors import MapstoError
from mapsto.runtime.executable import Executable

_RUNS = 3
_UPDATE = "update "  # what sources of an update begin with


def update_share(step: Executable, given: Mapping[str, Any]) -> float:
    """The share of a step's time in kernels that write parameters or an optimizer's states; 0 where that cannot be
    measured. given: an array for each input; those that the step writes are written.
    """
    try:
        times = step.profile(*[given[port.name] for port in step.program.inputs], runs=_RUNS)
    except (MapstoError, KeyError):
        return 0.0
    total = sum(time.nanoseconds * time.calls for time in times)
    update = sum(
        time.nanoseconds * time.calls
        for time in times
        if any(source.startswith(_UPDATE) for source in time.provenance)
    )
    return update / total if total > 0 else 0.0
