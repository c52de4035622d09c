"""Loops in a plan: what is carried from round to round, and in whose memory.

A loop has three lists of items: what is done before the first round (ENTER), the body (BODY), and what hands on by
copies what the body has yielded (CARRY).

A state whose size stays has one buffer, which holds what it starts with, then what is handed on, and in the end what
the loop yields. What the body yields is computed in that buffer where nobody reads the state any more once it is being
written, as outputs are that take over an input's memory (`plan.outputs`); a scatter into a state then writes its
updates alone. Else it is computed apart, and copied at the end of the round.

A state whose size may change is read in the buffer of the loop's output. The body yields into another one, of the size
that is handed on; when the round is over the first gets that size, and the other is copied into it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mapsto.ir.expr import Dim, bare_symbol, symbols
from mapsto.ir.graph import Graph, Node, Value
from mapsto.ir.region import Region, free_values
from mapsto.ops.registry import op
from mapsto.plan.edits import kept_in_place
from mapsto.plan.home import Home
from mapsto.plan.initial import Setting, copy_task
from mapsto.plan.items import Branches, Item, Looped, each, targets_of
from mapsto.plan.layout import plain
from mapsto.plan.outputs import Placing, in_place
from mapsto.plan.task import Task
from mapsto.plan.works import walk

ENTER, BODY, CARRY, ARMS = range(4)


@dataclass(frozen=True)
class Carried:
    """One state of a loop, by names: what it starts with, what the body knows it as, what is handed on, what comes out.
    `changes`: its size may be another one in each round.
    """

    start: str
    state: str
    following: str
    output: str
    changes: bool


def region_of(node: Node) -> Region | None:
    """The region of a node whose one graph is run again and again; None for other nodes."""
    nesting = op(node.op).nesting
    regions = nesting.regions(node) if nesting is not None else ()
    return regions[0] if len(regions) == 1 and regions[0].carried else None


def carried(node: Node) -> tuple[Carried, ...]:
    region = region_of(node)
    assert region is not None
    body = region.graph
    changing = {inner for inner, _ in changing_sizes(node)}
    found = []
    for value, start, at in zip(body.inputs, region.starts, region.carried, strict=True):
        assert start is not None and at is not None
        result = region.results[at]
        assert result is not None
        changes = any(symbols(d) & changing for d in value.shape)
        found.append(Carried(node.inputs[start], value.name, body.outputs[at], node.outputs[result].name, changes))
    return tuple(found)


def resized(node: Node) -> dict[str, Value]:
    """Of each state of a loop whose size may change: the output in whose buffer it lies -> the state."""
    (body,) = node.graphs
    return {c.output: body.values()[c.state] for c in carried(node) if c.changes}


def handed(graph: Graph) -> set[str]:
    """All that is handed from round to round in the loops of a graph: it has memory of its own."""
    return {name for node in graph.walk() if region_of(node) is not None for name in handed_in(node)}


def handed_in(node: Node) -> set[str]:
    """The states of a loop, and what its body makes of them."""
    (body,) = node.graphs
    own = body.values()
    return {v.name for v in body.inputs} | {name for name in body.outputs if name in own}


def read_by(node: Node) -> frozenset[str]:
    """What a loop reads of what is around it: whether to begin, and what its body and the copies at its head do."""
    states = carried(node)
    found = {node.inputs[0], *(c.start if c.changes else c.state for c in states)}
    return frozenset(found.union(*map(free_values, node.graphs)))


def changing_sizes(node: Node) -> tuple[tuple[str, str], ...]:
    """(symbol in the body, symbol outside) of sizes that change from round to round."""
    pairs: Any = node.attrs.get("sizes", ())
    return tuple((str(inner), str(outer)) for inner, outer in pairs)


def again_of(node: Node, prefix: str) -> str:
    """The value that says, at the end of a round, whether there is another one. A state is copied to one that only the
    plan knows, as it is written over before it is looked at.
    """
    region = region_of(node)
    assert region is not None
    name = region_again(node)
    return f"{prefix}{node.outputs[0].name}" if name in {v.name for v in region.graph.inputs} else name


# ---- sizes -----------------------------------------------------------------------------------------------------------


def first_sizes(node: Node, values: Mapping[str, Value]) -> dict[str, Dim]:
    """Symbol outside -> the size that the loop starts with. values: all by name."""
    return _sizes(node, [values[c.start] for c in carried(node)])


def next_sizes(node: Node, values: Mapping[str, Value]) -> dict[str, Dim]:
    """Symbol outside -> the size that a round hands on."""
    return _sizes(node, [values[c.following] for c in carried(node)])


def _sizes(node: Node, given: Sequence[Value]) -> dict[str, Dim]:
    region = region_of(node)
    assert region is not None
    outside = dict(changing_sizes(node))
    found: dict[str, Dim] = {}
    for state, value in zip(region.graph.inputs, given, strict=True):
        for d, extent in zip(state.shape, value.shape, strict=True):
            if (name := bare_symbol(d)) in outside:
                found.setdefault(outside[name], extent)
    return found


# ---- memory ----------------------------------------------------------------------------------------------------------


def hand_on(
    items: Sequence[Item], setting: Setting, homes: Mapping[str, Home], fresh: Callable[[str], str]
) -> tuple[tuple[Item, ...], dict[str, Home]]:
    """The items with what hands states on from round to round, and the homes."""
    work = dict(homes)
    return tuple(_handed(items, setting, work, fresh)), work


def _handed(
    items: Sequence[Item], setting: Setting, homes: dict[str, Home], fresh: Callable[[str], str]
) -> Iterator[Item]:
    for item in items:
        if isinstance(item, Branches):
            item = replace(item, arms=tuple(tuple(_handed(arm, setting, homes, fresh)) for arm in item.arms))
        yield _Round(item, setting, Placing(setting, homes, fresh, list(walk(item.arms[BODY])))).done() if isinstance(
            item, Looped
        ) else item


@dataclass
class _Round:
    """One loop, the loops inside of it done; nobody else sees it before the end."""

    item: Looped
    setting: Setting
    placing: Placing
    inside: dict[str, str] = field(default_factory=dict)  # what is computed in the memory of a state -> the state

    def done(self) -> Looped:
        node, placing = self.item.node, self.placing
        states = carried(node)
        names = {c.state for c in states}
        for c in states:
            if c.changes or c.following != c.state:
                self.handed(c, c.following in names)
        again, last = again_of(node, self.setting.prefix), region_again(node)
        if again != last:
            self.copied(last, again, "", placing.first)
        arms = list(self.item.arms)
        arms[BODY] = (*placing.first, *each(arms[BODY], self.updating))
        arms[CARRY] = (*arms[CARRY], *placing.last)
        return replace(self.item, arms=tuple(arms))

    def handed(self, c: Carried, is_state: bool) -> None:
        placing, source = self.placing, c.following
        if is_state:  # as it was when the round began
            source = self.copied(source, placing.fresh(f"{source}.copy"), "", placing.first)
        elif not c.changes and self.fits(c) and in_place(placing, source, c.state):
            placing.take_over(source, c.state)
            self.inside[source] = c.state
            return
        self.copied(source, placing.fresh(f"{c.following}.copy"), c.output, placing.last)

    def fits(self, c: Carried) -> bool:
        """Whether what is handed on is made in the body, in a buffer of its own, and lies as the state does."""
        homes, source = self.placing.homes, c.following
        made = {name for item in self.placing.order for name in targets_of(item)}
        own = homes[source].buffer if source in made else ""
        return own in made and homes[source].layout == homes[c.state].layout

    def copied(self, source: str, name: str, output: str, tasks: list[Task]) -> str:
        """A row-major copy where an output of the loop lies ("": in a buffer of its own)."""
        homes, value = self.placing.homes, self.placing.homes[source].value(source)
        target = homes[output] if output else None
        shape = value.shape if target is None else target.layout.shape
        why = f"{output} so far" if target is not None else f"{source} as the round began"
        homes[name] = Home(name if target is None else target.buffer, value.dtype, plain(shape), why)
        tasks.append(copy_task(value, Value(name, value.dtype, shape), self.setting, (), why))
        return name

    def updating(self, item: Item) -> tuple[Item, ...]:
        """A task that writes into a state, without the copies of elements onto themselves."""
        for name in targets_of(item) if isinstance(item, Task) else ():
            if name in self.inside and isinstance(item, Task):
                item = kept_in_place(item, name, self.inside[name])
        return (item,)


def region_again(node: Node) -> str:
    """What the body yields to say whether to go on."""
    region = region_of(node)
    assert region is not None
    return region.graph.outputs[region.results.index(None)]
