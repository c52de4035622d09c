"""Which source nodes something stands for, while a graph is built: shared, and written out only for a node.

A value that is passed on by 10^5 nodes that make nothing (Identity, casts to its own type, folded arithmetic) stands
for one source more after each. As tuples these would be 10^10 names; as trails each adds one link.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, eq=False)
class Trail:
    """Source nodes by name, and those of the trails that led here."""

    names: tuple[str, ...] = ()
    before: tuple[Trail, ...] = ()


def names_of(trails: Iterable[Trail]) -> tuple[str, ...]:
    """The names along some trails, each once, a trail's own before those that led to it."""
    found: dict[str, None] = {}
    seen: set[int] = set()
    waiting = [*trails][::-1]
    while waiting:
        trail = waiting.pop()
        if id(trail) in seen:
            continue
        seen.add(id(trail))
        if len(trail.names) == 1:  # most of them
            found[trail.names[0]] = None
        else:
            found.update(dict.fromkeys(trail.names))
        waiting += trail.before[::-1]
    return tuple(found)
