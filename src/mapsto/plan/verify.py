"""Whether a mapped graph is sound: on every path each value is written before it is read, and each size has a value
before it is worked with; each value lies inside its buffer; every control is there, every output has its place. What
makes code and programs (`devices.making`, `session`) looks names up without asking again. Asked of plans that come
from a file, before any code is made.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field, replace
from functools import cached_property

from mapsto.errors import ParseError
from mapsto.ir.expr import Dim, symbols
from mapsto.ir.graph import Value
from mapsto.ir.region import nested
from mapsto.plan.chain import CHAIN
from mapsto.plan.home import Home, layout_for
from mapsto.plan.items import Branches, Item, Looped, View, reads_of, targets_of, tasks
from mapsto.plan.layout import Layout, in_panels, permuted, plain
from mapsto.plan.mapped import Mapped
from mapsto.plan.names import prefix_in
from mapsto.plan.recipe import Recipe
from mapsto.plan.rounds import (
    BODY,
    CARRY,
    ENTER,
    again_of,
    carried,
    changing_sizes,
    first_sizes,
    next_sizes,
    region_of,
    resized,
)
from mapsto.plan.task import Task
from mapsto.plan.traits import Traits
from mapsto.plan.verify_controls import (
    Size,
    all_symbols,
    check_controls,
    symbols_bound,
    symbols_in,
    symbols_of,
    symbols_of_inputs,
)

Settled = str | Size  # a value that is written, or a size that has its value


def verify(
    mapped: Mapped, inside: Mapping[str, tuple[str, Layout]], seen: Mapping[str, str], lines: Mapping[str, int]
) -> None:
    """Raises ParseError, naming line and value. inside: buffer and layout of what lies in another value's buffer, as
    recipes say it. seen: values that works read as parts of other ones, which are written instead. lines: where items
    and homes were read.
    """
    _Checking(mapped, inside, seen, lines).all()


@dataclass
class _Checking:
    mapped: Mapped
    inside: Mapping[str, tuple[str, Layout]]
    parts: Mapping[str, str]
    lines: Mapping[str, int]
    seen: set[str] = field(default_factory=set)  # written on some path

    @cached_property
    def updated(self) -> frozenset[str]:
        """Inputs whose memory an output takes over, and states of loops that are updated."""
        loops = (c for node in self.mapped.graph.walk() if region_of(node) is not None for c in carried(node))
        owners = (c.output if c.changes else c.state for c in loops)
        return frozenset({*(source for source, _ in self.mapped.graph.updates), *owners})

    @cached_property
    def resized(self) -> dict[str, tuple[str, Value]]:
        """States of loops whose size changes, with the outputs in whose buffer they lie."""
        loops = (node for node in self.mapped.graph.walk() if region_of(node) is not None)
        return {state.name: (output, state) for node in loops for output, state in resized(node).items()}

    def fault(self, key: str, what: str) -> ParseError:
        line = self.lines.get(key)
        return ParseError(f"plan, line {line}: {what}" if line else f"plan: {what}")

    def all(self) -> None:
        graph = self.mapped.graph
        values = dict(graph.values())
        for node in graph.walk():
            values.update({v.name: v for v in (*node.outputs, *(v for inner in node.graphs for v in inner.inputs))})
        for name, home in self.mapped.homes.items():
            if name in values and not _is_of(home, values[name]):
                raise self.fault(f"home {name}", f"home {name}: the graph has {values[name]}")
            self.home(name, home)
        check_controls(graph, self.mapped.items, self.fault)
        constants = {name for task in tasks(self.mapped.items) for name in task.constants} | graph.constants.keys()
        constants |= {name for node in graph.walk() for inner in node.graphs for name in inner.constants}
        sizes = set(map(Size, symbols_of_inputs(graph)))
        found = self.items(self.mapped.items, {v.name for v in graph.inputs} | constants | sizes)
        known = {name for name in found if isinstance(name, str)}
        for name in self.mapped.homes.keys() - known - self.seen:
            raise self.fault(f"home {name}", f"home {name}: nothing writes it")
        self.ports(values, known, constants)
        for output in self.mapped.places.keys() - set(graph.outputs):
            raise self.fault(f"place {output}", f"place {output}: the graph has no such output")

    def ports(self, values: Mapping[str, Value], known: Set[str], constants: Set[str]) -> None:
        """Inputs and outputs lie as a caller has them: row-major, each in a buffer of its own."""
        homes, graph = self.mapped.homes, self.mapped.graph
        for value in graph.inputs:
            home = homes.get(value.name)
            if home is None:
                raise self.fault("plan", f"no home for the input {value.name!r}")
            if home.buffer != value.name or home.layout != plain(value.shape):
                raise self.fault(f"home {value.name}", f"home {value.name}: an input lies as it comes in, row-major")
        taken = {value.name for value in graph.inputs} - self.updated | constants
        for output in graph.outputs:
            place, where = self.mapped.places.get(output), f"place {output}"
            if place is None:
                raise self.fault("plan", f"no place for the output {output}")
            if place not in known or place not in homes:
                raise self.fault(where, f"{where}: nothing writes {place!r}")
            home = homes[place]
            if not _is_of(home, replace(values[output], name=place)) or home.layout != plain(home.layout.shape):
                raise self.fault(where, f"{where}: {place} is not {values[output]}, row-major")
            if home.buffer in taken or homes[home.buffer].layout.elements != home.layout.elements:
                raise self.fault(where, f"{where}: {place} lies in {home.buffer!r}, which is no buffer of its own")
            if not self.holds(place, output):
                raise self.fault(where, f"{where}: {place} is another value, and no copy of {output}")
            taken.add(home.buffer)

    @cached_property
    def copies(self) -> dict[str, str]:
        """Copies that the plan makes of values of the graph, and of such copies -> what they are copies of."""
        every = (each for task in tasks(self.mapped.items) for each in (task, *task.stages))
        recipes = [task.recipe for task in every if task.recipe.rule == "copy"]
        made = {recipe.parts[1].name: recipe.parts[0].name for recipe in recipes}
        return {copy: source for copy, source in made.items() if copy not in self.values}

    def holds(self, place: str, output: str) -> bool:
        """Whether a value is an output, or a copy of it (of a copy of it) that the plan makes."""
        return place == output or self.copied(place) == output

    @cached_property
    def instead(self) -> dict[str, str]:
        """What works write instead of values of the graph -> those values."""
        every = (edit for task in tasks(self.mapped.items) for edit in _edits(task.recipe, "written"))
        return {new: old for old, new in every}

    def copied(self, name: str) -> str:
        """The value of the graph that something is, is written instead of, or is a copy of."""
        seen: set[str] = set()
        while name in self.copies and name not in seen:
            seen.add(name)
            name = self.copies[name]
        return self.instead.get(name, name)

    @cached_property
    def pairs(self) -> frozenset[tuple[str, str]]:
        """Values of the graph that are copies of others: what copies, what an arm of a branch yields, and what a loop
        hands on.
        """
        found = set()
        for node in self.mapped.graph.walk():
            if node.op == "copy":
                found.add((node.inputs[0], node.output.name))
            elif region_of(node) is not None:
                for c in carried(node):
                    found |= {(a, b) for a in (c.start, c.following, c.state) for b in (c.state, c.output) if a != b}
            for arm in node.graphs if region_of(node) is None else ():
                found |= {(a, v.name) for a, v in zip(arm.outputs, node.outputs, strict=False)}
        return frozenset(found)

    def copying(self, task: Task) -> None:
        """Raises for a copy into a value of the graph of what is another value there, and for what is read instead of a
        value and is no copy of it.
        """
        for old, new in _edits(task.recipe, "reading"):
            if self.copied(new) != self.copied(old):
                raise self.fault(f"item {task.name}", f"{task.name} reads {new!r} for {old!r}, of which it is no copy")
        for stage in task.stages:
            self.copying(replace(stage, name=task.name))
        if task.recipe.rule != "copy":
            return
        source, target = (part.name for part in task.recipe.parts)
        held = self.copied(source)
        if source == target or (target in self.values and held != target and (held, target) not in self.pairs):
            raise self.fault(f"item {task.name}", f"{task.name}: {target!r} is no copy of {source!r}")

    @cached_property
    def values(self) -> dict[str, Value]:
        """All values of the graph and those nested in it, by name."""
        return {name: value for inner in nested(self.mapped.graph) for name, value in inner.values().items()}

    @cached_property
    def sizes(self) -> frozenset[str]:
        return all_symbols(self.mapped.graph)

    def sized(self, where: str, who: str, needed: Iterable[str], known: Set[Settled]) -> None:
        """Raises for a size that has no value yet."""
        for symbol in sorted(needed):
            if Size(symbol) not in known:
                raise self.fault(where, f"{who} works with the size {symbol!r}, which nothing before it defines")

    def items(self, items: Iterable[Item], known: Set[Settled]) -> set[Settled]:
        """What is written after these items. Raises for what is read before it is."""
        now = set(known)
        for item in items:
            where = f"item {item.name}"
            for name in sorted(reads_of(item) | _parts_of(item)):
                if name not in self.mapped.homes and not isinstance(item, Branches):
                    raise self.fault(where, f"{item.name} reads {name!r}, which has no home")
                if self.parts.get(name, name) not in now and not isinstance(item, Branches):
                    raise self.fault(where, f"{item.name} reads {name!r}, which nothing before it writes")
            self.sized(where, item.name, symbols_of(item, self.mapped.homes), now)
            if isinstance(item, Branches) and not {item.node.inputs[0]} <= now & self.mapped.homes.keys():
                raise self.fault(where, f"{item.name}: nothing writes its condition {item.node.inputs[0]!r}")
            if isinstance(item, Looped):
                now |= self.rounds(item, now)
            elif isinstance(item, Branches):
                after = [self.items(arm, now) for arm in item.arms]
                now |= set.intersection(*after) if after else set()
            for name in targets_of(item):
                if isinstance(item, Branches) and name not in now:
                    raise self.fault(where, f"{item.name}: not every arm writes {name!r}")
            written = set(targets_of(item))
            if isinstance(item, Task | View) and (twice := sorted(written & now & self.mapped.homes.keys())):
                if item.recipe.rule not in ("without", "part"):
                    raise self.fault(where, f"{item.name}: {twice[0]} is written already")
            now |= written
            now.update(map(Size, symbols_bound(item)))
            self.seen |= reads_of(item) & self.parts.keys()
            self.seen |= written
            if isinstance(item, Task):
                self.seen |= item.passing
                self.in_memory(item)
                self.copying(item)
            if isinstance(item, View):
                self.same_buffer(item)
        return now

    def in_memory(self, task: Task) -> None:
        """Raises where a task has no memory for what its code writes: all that a routine yields, the result of a
        contraction, something of any other.
        """
        homes, where = self.mapped.homes, f"item {task.name}"
        if not any(name in homes for name in task.targets):
            raise self.fault(where, f"{task.name} writes nothing that is in memory")
        last = task.targets[-1:]
        needed = {"routine": task.targets, "contraction": last, CHAIN: last}.get(task.kind, ())
        for name in needed:
            if name not in homes:
                raise self.fault(where, f"{task.name} writes {name!r}, which has no home")

    def rounds(self, item: Looped, known: Set[Settled]) -> set[Settled]:
        """What a loop yields. Raises where a state is not there in each round."""
        where = f"item {item.name}"
        self.sized(where, item.name, _symbols(first_sizes(item.node, self.values)), known)
        pairs = changing_sizes(item.node)
        outer, inner = {Size(name) for _, name in pairs}, {Size(name) for name, _ in pairs}
        now = self.items(item.arms[ENTER], known | outer) | inner
        changing = {c.state for c in carried(item.node) if c.changes and c.output in now}
        now |= changing
        self.seen |= changing
        body = self.items(item.arms[BODY], now)
        self.sized(where, item.name, _symbols(next_sizes(item.node, self.values)), body)
        after = self.items(item.arms[CARRY], body - {c.output for c in carried(item.node)})
        again = again_of(item.node, prefix_in(self.mapped.graph))
        if again not in after or again not in self.mapped.homes:
            raise self.fault(where, f"{item.name}: nothing says whether to go on ({again!r})")
        homes = self.mapped.homes
        for name in (name for c in carried(item.node) for name in (c.state, c.following, c.output)):
            if name not in homes:
                raise self.fault(where, f"{item.name} hands {name!r} on, which has no home")
        carry = {homes[t].buffer for i in item.arms[CARRY] for t in targets_of(i) if t in homes}
        for c in carried(item.node):
            if c.state not in now or c.following not in body:
                raise self.fault(where, f"{item.name}: {c.state!r} is not there in each round")
            kept = not c.changes and homes[c.following].buffer == homes[c.state].buffer
            if homes[c.output].buffer not in carry and not kept:
                raise self.fault(where, f"{item.name}: nothing hands {c.following!r} on to {c.state!r}")
            if homes[c.output].buffer != homes[c.state].buffer:
                raise self.fault(where, f"{item.name}: {c.output!r} does not lie where the last {c.state!r} does")
        return {v.name for v in item.node.outputs} | outer | inner

    def same_buffer(self, view: View) -> None:
        homes = self.mapped.homes
        if view.value not in homes or any(homes[view.value].buffer != homes[name].buffer for name in view.of):
            raise self.fault(f"item {view.name}", f"{view.name}: {view.value} does not lie where {view.of[0]} does")

    # -- homes ---------------------------------------------------------------------------------------------------------

    def home(self, name: str, home: Home) -> None:
        """A value that owns its buffer lies as some layout rule puts it; one in another's as its recipe says, or, where
        it takes over the memory of an input, as that one.
        """
        where = f"home {name}"
        owner = self.mapped.homes.get(home.buffer)
        if owner is None or owner.buffer != home.buffer:
            raise self.fault(where, f"{where}: no value owns a buffer {home.buffer!r}")
        for symbol in sorted(symbols_in(home) - self.sizes):
            raise self.fault(where, f"{where}: nothing defines the size {symbol!r}")
        if owner.dtype.size != home.dtype.size:
            raise self.fault(where, f"{where}: {home.buffer!r} is no buffer of {home.dtype.value}")
        if home.buffer == name:
            if not _is_regular(home.layout, self.mapped.traits):
                raise self.fault(where, f"{where}: no rule lays it so: {home.layout} of {home.layout.elements}")
        elif name in self.inside:
            buffer, layout = self.inside[name]
            if (home.buffer, home.layout) != (buffer, layout):
                raise self.fault(where, f"{where}: its recipe puts it into {buffer} as {layout}")
        elif name in self.resized:
            output, state = self.resized[name]
            if home.buffer != output or home.layout != plain(state.shape):
                raise self.fault(where, f"{where}: it lies where {output!r} does, row-major")
        elif home.buffer not in self.updated or home.layout != owner.layout:
            raise self.fault(where, f"{where}: nothing puts it into the buffer of {home.buffer!r}")


def _symbols(sizes: Mapping[str, Dim]) -> frozenset[str]:
    return frozenset().union(*(symbols(dim) for dim in sizes.values()))


def _is_of(home: Home, value: Value) -> bool:
    """Whether a value of this type may lie there. (An extent may be written otherwise where a run checks that the two
    are equal.)
    """
    shape = home.layout.shape
    return home.dtype is value.dtype and len(shape) == value.rank and not any(
        isinstance(a, int) and isinstance(b, int) and a != b for a, b in zip(shape, value.shape, strict=True)
    )


def _edits(recipe: Recipe, rule: str) -> Iterator[tuple[str, str]]:
    """(old, new) of each place in a recipe where a value takes another one's: "reading", or "written"."""
    every = [recipe]
    while every:
        each = every.pop()
        every += each.parts
        if each.rule == rule:
            yield each.parts[1].name, each.parts[2].name


def _parts_of(item: Item) -> frozenset[str]:
    """Values that a concat does not copy, as they are written into their parts."""
    if isinstance(item, Task) and item.recipe.rule == "without":
        return frozenset(part.name for part in item.recipe.parts[1:])
    return frozenset()


def _is_regular(layout: Layout, traits: Traits) -> bool:
    rank = len(layout.shape)
    if layout == plain(layout.shape):
        return True
    dims = [axis.dim for axis in layout.axes]
    if len(dims) == rank and layout == permuted(layout.shape, dims, layout.border):
        return True
    if rank and traits.block and layout == in_panels(layout.shape, rank - 1, traits.block, layout.border):
        return True
    return any(layout == layout_for(layout.shape, inner, traits, layout.border) for inner in range(rank))
