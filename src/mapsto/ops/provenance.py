"""Which source nodes something stands for, while a graph is built: shared, and written out only for a node.

A value that is passed on by 10^5 nodes that make nothing (Identity, casts to its own type, folded arithmetic) stands
for one source more after each. As tuples these would be 10^10 names; as trails each adds one link.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from mapsto.ir.graph import Node, Value

# Nodes that stand for no more sources than this are not charged for them.
FEW_SOURCES = 64


@dataclass(frozen=True, eq=False)
class Trail:
    """Source nodes by name, and those of the trails that led here."""

    names: tuple[str, ...] = ()
    before: tuple[Trail, ...] = ()


def source_names(trails: Iterable[Trail]) -> tuple[str, ...]:
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


class Nodes:
    """The nodes of one graph in the making, and the sources that they, and values without a node, stand for.

    values: all that has a name at this level, with or without a node. charge: told how many names a node that stands
    for many has. around: the nodes of the enclosing graph.
    """

    def __init__(self, values: Mapping[str, Value], charge: Callable[[int], None], around: Nodes | None = None) -> None:
        self._values = values
        self._charge = charge
        self._around = around
        self._list: list[Node] = []
        self._made: dict[str, int] = {}  # value -> place of its node
        self._carried: dict[str, Trail] = {}  # value without a node -> the sources it stands for
        self._taken_on: dict[int, list[Trail]] = {}  # node -> further sources that it stands for

    def add(self, node: Node) -> None:
        for value in node.outputs:
            self._made[value.name] = len(self._list)
        self._list.append(node)

    @property
    def last(self) -> Node:
        """The node that was added last, without what it has taken on since."""
        return self._list[-1]

    def all(self) -> list[Node]:
        """The nodes so far."""
        for at in list(self._taken_on):
            self._settle(at)
        return self._list

    def has(self, name: str) -> bool:
        """Whether a node of this level made the value."""
        return name in self._made

    def of(self, name: str) -> Node | None:
        """The node of this level that made a value; what it has taken on may not be written out yet."""
        at = self._made.get(name)
        return None if at is None else self._list[at]

    def settle(self, name: str) -> None:
        """Writes out what the node that made a value has taken on."""
        if (at := self._made.get(name)) is not None:
            self._settle(at)

    def attribute(self, value: Value, trail: Trail) -> None:
        """Says that a value, here or in an enclosing graph, stands for these sources as well: its node takes them on,
        or, where it has none, those that read it.
        """
        owner: Nodes | None = self
        while owner is not None and value.name not in owner._values:
            owner = owner._around
        if owner is None:
            return
        at = owner._made.get(value.name)
        if at is not None:
            if not trail.before and all(name in owner._list[at].provenance[:FEW_SOURCES] for name in trail.names):
                return
            owner._taken_on.setdefault(at, []).append(trail)
            return
        known = owner._carried.get(value.name)
        owner._carried[value.name] = trail if known is None else Trail((), (known, trail))

    def trails(self, operands: Sequence[Value | None]) -> tuple[Trail, ...]:
        """Sources of the operands that have no node of their own."""
        carried: list[dict[str, Trail]] = []
        level: Nodes | None = self
        while level is not None:
            if level._carried:
                carried.append(level._carried)
            level = level._around
        if not carried:
            return ()
        names = [value.name for value in operands if value is not None]
        return tuple(trails[name] for name in names for trails in carried if name in trails)

    def handed_over(self, name: str) -> Trail:
        """The sources that a value without a node has stood for; it does so no more."""
        return self._carried.pop(name, _NONE)

    def written(self, trails: Sequence[Trail]) -> tuple[str, ...]:
        """The names along some trails, for a node."""
        names = source_names(trails)
        if len(names) > FEW_SOURCES:
            self._charge(len(names))
        return names

    def _settle(self, at: int) -> None:
        """Writes out what a node has taken on."""
        trails = self._taken_on.pop(at, None)
        if trails is not None:
            node = self._list[at]
            provenance = self.written((Trail(node.provenance), *trails))
            if provenance != node.provenance:
                self._list[at] = replace(node, provenance=provenance)


_NONE = Trail()
