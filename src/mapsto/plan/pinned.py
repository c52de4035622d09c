"""What a user's pins ask of deciding, looked at before anything is decided."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from mapsto.errors import ParseError
from mapsto.ir.graph import Graph, Value
from mapsto.plan.task import Task
from mapsto.plan.works import Pins


def kept_apart(pins: Pins, graph: Graph) -> Callable[[Task, Task], str] | None:
    """Told two tasks, "" or why they stay apart. Raises ParseError, naming line and name, for what is not there."""
    if not pins.apart:
        return None
    nodes = {value.name for node in graph.walk() for value in node.outputs[:1]}
    for name in (name for names in pins.apart for name in names):
        if name not in nodes:
            raise ParseError(f"plan, line {pins.lines.get(('apart', name))}: pin apart: no node yields {name!r}")
    sets = [frozenset(names) for names in pins.apart]

    def apart(source: Task, reader: Task) -> str:
        both = {*source.first_nodes, *reader.first_nodes}
        return "pinned apart" if any(len(both & names) > 1 for names in sets) else ""

    return apart


def innermost(pins: Pins, graph: Graph) -> dict[str, int | None]:
    """The dim that lies innermost of each value that is pinned. Raises ParseError, naming line and name."""
    values: dict[str, Value] = {}
    for node in graph.walk():
        values.update({v.name: v for v in node.outputs})
    for name, dim in pins.inner:
        where = f"plan, line {pins.lines.get(('inner', name))}: pin inner {name}"
        if name not in values:
            raise ParseError(f"{where}: no node yields it")
        if dim is not None and dim >= values[name].rank:
            raise ParseError(f"{where}: it has {values[name].rank} dims, no dim {dim}")
    return dict(pins.inner)


def guessed(pins: Pins, sizes: Mapping[str, int]) -> dict[str, int]:
    """Guesses of open sizes with those of the user in place. Raises ParseError, naming line and name."""
    for name, _ in pins.sizes:
        if name not in sizes:
            where = f"plan, line {pins.lines.get(('size', name))}: pin size {name}"
            raise ParseError(f"{where}: the graph has no such size; open are: {', '.join(sizes) or 'none'}")
    return {**sizes, **dict(pins.sizes)}
