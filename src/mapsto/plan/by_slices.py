"""Which works are done together slice by slice: products of a batch and what is computed between them, where what
passes would leave the caches near a unit, and a slice of it does not. Asked once everything has its home.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

from mapsto.ir.expr import Dim, product, symbols
from mapsto.plan.home import Home
from mapsto.plan.items import Branches, Item, View, reads_of, targets_of
from mapsto.plan.patterns import number
from mapsto.plan.prices import Prices
from mapsto.plan.rules.base import Refusal
from mapsto.plan.sliced import fits_lead, layout_of_slice, lead_of, sliced_join, starts_of
from mapsto.plan.task import Task
from mapsto.plan.works import walk

_MOST = 24  # stages, and other items between them


def by_slices(
    items: Sequence[Item], homes: Mapping[str, Home], external: Set[str], prices: Prices
) -> tuple[Item, ...]:
    """The items with what is done slice by slice as one. external: values that leave the graph, and nested ones."""
    if not prices.asked.traits.block_bytes:
        return tuple(items)
    readers: dict[str, int] = {}
    for item in walk(items):
        for name in reads_of(item):
            readers[name] = readers.get(name, 0) + 1
    owners: dict[str, int] = {}
    for home in homes.values():
        owners[home.buffer] = owners.get(home.buffer, 0) + 1
    return _Grouping(homes, external, prices, readers, owners).level(items)


@dataclass
class _Group:
    """Works that are to be one, and what is done before them instead of between them. inside: what they make."""

    lead: tuple[Dim, ...]
    stages: list[Task]
    before: list[Item] = field(default_factory=list)

    @property
    def inside(self) -> set[str]:
        return {name for stage in self.stages for name in stage.targets}


@dataclass(frozen=True)
class _Grouping:
    """readers: how many items read a value; owners: how many values lie in a buffer."""

    homes: Mapping[str, Home]
    external: Set[str]
    prices: Prices
    readers: Mapping[str, int]
    owners: Mapping[str, int]

    def level(self, items: Sequence[Item]) -> tuple[Item, ...]:
        done: list[Item] = []
        at = 0
        while at < len(items):
            item = items[at]
            if isinstance(item, Branches):
                item = replace(item, arms=tuple(map(self.level, item.arms)))
            found = self._group(items, at) if isinstance(item, Task) else None
            if found is None:
                done.append(item)
                at += 1
                continue
            group, task, end = found
            done += [*group.before, task]
            at = end
        return tuple(done)

    def _group(self, items: Sequence[Item], at: int) -> tuple[_Group, Task, int] | None:
        """The group that begins with an item, the task that it makes, and where it ends."""
        first = items[at]
        if not isinstance(first, Task) or first.kind != "contraction":
            return None
        lead = lead_of([first], [first.targets[-1]])
        if isinstance(lead, Refusal) or not self._fits(first, lead, set()):
            return None
        group, ends = _Group(lead, [first]), {1: at + 1}
        before: dict[int, int] = {1: 0}
        for place in range(at + 1, min(at + _MOST, len(items))):
            item = items[place]
            if isinstance(item, Task) and self._fits(item, lead, group.inside) and not self._collides(item, group):
                group.stages.append(item)
                ends[len(group.stages)], before[len(group.stages)] = place + 1, len(group.before)
            elif isinstance(item, Task | View) and self._moves_ahead(item, group):
                group.before.append(item)
            else:
                break
        while len(group.stages) > 1:
            last = group.stages[-1]
            if last.reads & (group.inside - set(last.targets)):
                break
            group.stages.pop()
        count = len(group.stages)
        group.before = group.before[: before[count]]
        passing = self._passing(group)
        if count == 1 or not self._pays(group, passing):
            return None
        task = sliced_join(group.stages, sorted(passing))
        return None if isinstance(task, Refusal) else (group, task, ends[count])

    def _fits(self, task: Task, lead: tuple[Dim, ...], inside: Set[str]) -> bool:
        """Whether a task can be a stage, everything lying as it does. Constants of a batch are packed ahead, all of it
        at once.
        """
        constants = {*self.prices.asked.constants, *task.constants}
        if not fits_lead(task, lead, inside) or any(c.batch and c.b.tensor in constants for c in task.phases):
            return False
        touched = {n: self.homes[n] for n in (*task.reads, *task.targets) if n in self.homes}
        return starts_of(task, lead, touched) is not None

    def _collides(self, item: Item, group: _Group) -> bool:
        """Whether an item writes where the group reads or writes something else, or reads where it does."""
        written, read = self._buffers(group.inside), self._buffers(n for s in group.stages for n in s.reads)
        own, reads = self._buffers(targets_of(item)), self._buffers(reads_of(item) - group.inside)
        return bool(own & (written | read) or reads & written)

    def _moves_ahead(self, item: Item, group: _Group) -> bool:
        """Whether an item can be done before the group."""
        if reads_of(item) & group.inside:
            return False
        return isinstance(item, View) or not self._collides(item, group)

    def _buffers(self, names: Iterable[str]) -> set[str]:
        return {self.homes[name].buffer for name in names if name in self.homes}

    def _passing(self, group: _Group) -> set[str]:
        """What nobody else reads, and lies slice after slice in a buffer of its own."""
        found = set()
        for name in group.inside & self.homes.keys() - self.external:
            inside = sum(name in stage.reads for stage in group.stages)
            home = self.homes[name]
            if not inside or inside != self.readers.get(name) or home.buffer != name or self.owners[name] != 1:
                continue
            layout = layout_of_slice(home.layout, len(group.lead))
            if layout is not None and not symbols(layout.elements):
                found.add(name)
        return found

    def _pays(self, group: _Group, passing: Set[str]) -> bool:
        """Whether what passes would leave the second cache, and what a slice touches stays there."""
        levels = self.prices.spec.levels
        near = levels[min(1, len(levels) - 1)].bytes
        count = float(number(product(group.lead), self.prices.sizes))
        slices = 0.0
        for name in passing:
            layout = layout_of_slice(self.homes[name].layout, len(group.lead))
            assert layout is not None
            slices += number(layout.elements, self.prices.sizes) * self.homes[name].dtype.size
        packed = 0.0
        for c in (phase for stage in group.stages for phase in stage.phases):
            extents = [number(i.extent, self.prices.sizes) for i in (*c.cols, *c.reds)]
            packed += float(product(extents)) * c.b.dtype.size  # type: ignore[arg-type]
        return slices * count > near >= slices + packed
