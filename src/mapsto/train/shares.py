"""What part of a training step updates parameters: the kernels that write them, with what is fused into these."""

from __future__ import annotations

from collections.abc import Sequence

from mapsto.runtime.profile import StepTime

_UPDATE = "update "  # what sources of an update begin with


def update_share(times: Sequence[StepTime]) -> float:
    """The share of a step's time in kernels that write parameters or an optimizer's states; 0 of no time at all."""
    total = sum(time.nanoseconds * time.calls for time in times)
    update = sum(
        time.nanoseconds * time.calls
        for time in times
        if any(source.startswith(_UPDATE) for source in time.provenance)
    )
    return update / total if total > 0 else 0.0
