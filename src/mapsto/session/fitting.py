"""Limits of memory, held against what compiled parts take: packed weights and scratch memory are theirs, of which
placement does not know.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from mapsto.runtime.divisions import Division
from mapsto.runtime.executable import Executable

_MARGIN = 1.2

Limits = tuple[tuple[str, int], ...]
"""Bytes that may be taken of devices' memory."""


def taken(division: Division) -> dict[str, int]:
    """Bytes by device, of all its parts: constants, scratch memory, inputs and outputs. Where sizes are open, without
    what they decide.
    """
    found: dict[str, int] = {}
    for part in division.parts:
        found[part.device] = found.get(part.device, 0) + _bytes(part.executable)
    return found


def beyond(division: Division, limits: Sequence[tuple[str, int]]) -> dict[str, float]:
    """Devices whose parts take more than their limit, and how many times as much (inf: nothing is allowed)."""
    each = taken(division) if limits else {}
    over = {device: (each.get(device, 0), limit) for device, limit in limits}
    return {device: found / limit if limit else math.inf for device, (found, limit) in over.items() if found > limit}


def tightened(limits: Limits, over: Mapping[str, float]) -> Limits:
    """Limits to place by, if parts are to take so many times less, and a little less than that: fewer works are more
    parts, which have memory of their own.
    """
    return tuple(
        (device, int(limit / (_MARGIN * over[device]) if device in over else limit)) for device, limit in limits
    )


def between(tight: Limits, wide: Limits) -> Limits:
    """Limits half way, as factors, from ones that no seats keep to ones that are not tight enough."""
    pairs = zip(tight, wide, strict=True)
    return tuple((device, math.isqrt(least * most)) for (device, least), (_, most) in pairs)


def _bytes(executable: Executable) -> int:
    memory = executable.memory()
    known = [port for port in executable.program.inputs if all(isinstance(dim, int) for dim in port.shape)]
    given = sum(math.prod(int(str(dim)) for dim in port.shape) * port.dtype.size for port in known)
    return memory.constants + memory.arena + memory.outputs + given
