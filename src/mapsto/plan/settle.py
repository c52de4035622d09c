"""Settling: every value that is in memory gets its home, by its wishes; what is a slice or a view of another one lies
in that one's buffer. What a contraction then cannot reach, and what windows would read across blocks, is copied, once
for all its readers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count

from mapsto.budget import current
from mapsto.ir.graph import Node, Value
from mapsto.plan.access import access
from mapsto.plan.contraction import Contraction
from mapsto.plan.correlation import sliding_access
from mapsto.plan.edits import reading, written
from mapsto.plan.home import Border, Home, as_it_comes, layout_for, same_places
from mapsto.plan.initial import Setting, copy_task
from mapsto.plan.items import Branches, Item, Looped, View, targets_of
from mapsto.plan.layout import Layout, permuted, plain
from mapsto.plan.rounds import carried, resized
from mapsto.plan.slices import Slice
from mapsto.plan.task import Task
from mapsto.plan.views import view_layout, view_source
from mapsto.plan.votes import Wishes, wider
from mapsto.plan.windows import slid_over


@dataclass
class _Settling:
    """Homes so far; nobody else sees it before all are settled."""

    setting: Setting
    wishes: Wishes
    slices: Mapping[str, Slice]
    border: Mapping[str, Border]
    outputs: frozenset[str]  # of the graph, and of nodes with nested graphs
    values: Mapping[str, Value]
    fresh: Callable[[str], str]
    homes: dict[str, Home] = field(default_factory=dict)
    makers: dict[str, Task] = field(default_factory=dict)

    # -- homes ---------------------------------------------------------------------------------------------------------

    def come_in(self, names: Sequence[str]) -> None:
        for name in names:
            self.homes[name] = as_it_comes(self.values[name])

    def settled(self, items: Sequence[Item]) -> tuple[Item, ...]:
        """The items with views taken out, homes given."""
        done: list[Item] = []
        meter = current()
        for item in items:
            meter.tick("layouts")
            if isinstance(item, Looped):
                self.come_round(item)
            if isinstance(item, Branches):
                item = replace(item, arms=tuple(self.settled(arm) for arm in item.arms))
            if isinstance(item, Looped):
                self.come_out(item)
            view = self.view(item) if isinstance(item, Task) and item.stmts else None
            if view is None:
                for name in targets_of(item):
                    if name in self.wishes.kept or name in self.slices:
                        self.home(name)
            if isinstance(item, Task):
                self.makers.update(dict.fromkeys(item.targets, item))
            done.append(item if view is None else view)
        return tuple(done)

    def come_round(self, item: Looped) -> None:
        """A state whose size changes lies where what the loop yields does."""
        for output, state in resized(item.node).items():
            why = f"{output} so far"
            self.homes[state.name] = Home(self.home(output).buffer, state.dtype, plain(state.shape), why)

    def come_out(self, item: Looped) -> None:
        """What a loop yields is its last state, where that lies."""
        for c in carried(item.node):
            if not c.changes:
                self.homes[c.output] = replace(self.homes[c.state], because=f"the last {c.state}")

    def home(self, name: str) -> Home:
        if name in self.homes:
            return self.homes[name]
        value = self.values[name]
        part = self.slices.get(name)
        if part is not None:
            whole = self.home(part.whole)
            home = Home(whole.buffer, value.dtype, part.layout(whole.layout, value), f"a slice of {part.whole}")
        else:
            border = self.border.get(name, ()) if name not in self.wishes.fixed else ()
            inner = self.wishes.inner.get(name)
            if inner is None:
                because, layout = "row-major", layout_for(value.shape, None, self.setting.traits, border)
            else:
                how = " in one piece, as groups of channels cross blocks" if inner.whole else ""
                how = " in panels, as a product reads its columns" if inner.panels else how
                because = f"dim {inner.dim} innermost{how}, as most of its readers and writers want"
                layout = layout_for(value.shape, inner.dim, self.setting.traits, border, inner.whole, inner.panels)
            home = Home(name, value.dtype, layout, because)
        self.homes[name] = home
        return home

    def view(self, task: Task) -> View | None:
        load = view_source(task)
        if load is None:
            return None
        (name,) = task.targets
        source = self.homes.get(load.tensor)
        if source is None or name in self.outputs or name in self.slices:
            return None
        layout = view_layout(task.stmts[0], load, source.layout, self.setting.traits.block)
        if layout is None or (name in self.wishes.fixed and not same_places(layout, plain(layout.shape))):
            return None
        self.homes[name] = Home(source.buffer, self.values[name].dtype, layout, f"a view of {load.tensor}")
        return View(name, (load.tensor,), task.recipe, f"no code: {name} is a view of {load.tensor}")

    # -- copies --------------------------------------------------------------------------------------------------------

    def fitted(self, items: Sequence[Item], copies: dict[tuple[str, str], str]) -> tuple[Item, ...]:
        """The items with copies where a contraction cannot reach an operand as it lies. copies: those made before."""
        done: list[Item] = []
        for item in items:
            if isinstance(item, Branches):
                item = replace(item, arms=tuple(self.fitted(arm, dict(copies)) for arm in item.arms))
            if isinstance(item, Task) and item.kind == "rows" and not item.stmts:
                name = item.nodes[-1].output.name
                parts = tuple(part for part, slice in self.slices.items() if slice.whole == name)
                done.append(View(name, parts, item.recipe, item.because[-1]))
                continue
            done.extend(self.fit(item, copies) if isinstance(item, Task) else [item])
        return tuple(done)

    def fit(self, task: Task, copies: dict[tuple[str, str], str]) -> list[Item]:
        return self.fit_contraction(task, copies) if task.phases else self.fit_windows(task, copies)

    def fit_windows(self, task: Task, copies: dict[tuple[str, str], str]) -> list[Item]:
        before: list[Item] = []
        for source, dim in slid_over(task, self.homes).items():
            why = f"windows over dim {dim} of {source} would cross its blocks"
            copy, made = self.copied(source, plain(self.homes[source].layout.shape), why, copies)
            before += made
            task = reading(task, source, copy)
        return [*before, task]

    def fit_contraction(self, task: Task, copies: dict[tuple[str, str], str]) -> list[Item]:
        phases, source, final = task.phases, task.phases[0].a.tensor, task.targets[-1]
        needs = [c.border(self.homes[c.a.tensor].layout.shape) for c in phases]
        known = [n for n in needs if n is not None]
        if len(known) != len(needs):
            why = "how far it reads past its input is not known before the run: no border can be laid for it"
            return [replace(task, because=(*task.because, why))]
        border = known[0]
        for need in known[1:]:
            border = wider(border, need)

        def reads_well(layout: Layout) -> bool:
            return all(
                access(c, c.a.index, layout, c.channels[0].name, need) is not None or self.slides_well(c, layout, need)
                for c, need in zip(phases, known, strict=True)
            )

        def writes_well(layout: Layout) -> bool:
            return all(access(c, c.index, layout, c.cols[0].name, None) is not None for c in phases)

        read = self.first_that(reads_well, source, phases[0].channel_dim, border)
        write = self.first_that(writes_well, final, phases[0].column_dim, ())
        if read is None or write is None:
            return [task]  # no copy would help: it is lowered as plain loops
        before: list[Item] = []
        after: list[Item] = []
        if read != self.homes[source].layout:
            copy, made = self.copied(source, read, f"a contraction needs {source} as {read}", copies)
            before += made
            task = reading(task, source, copy)
        for name, layout in self.written_as(task, write).items():
            inner = self.laid(name, layout, f"columns innermost; {name} is a copy of it")
            task = written(task, name, inner)
            why = f"{name} must lie otherwise than the contraction writes it"
            after.append(self.copy(inner, name, task.nodes[-1:], why))
        return [*before, task, *after]

    def slides_well(self, c: Contraction, layout: Layout, need: Border) -> bool:
        """Whether a correlation reads A by its channels: B has to lie so that this is any use."""
        return sliding_access(c, layout, self.homes[c.b.tensor].layout, need) is not None

    def written_as(self, task: Task, write: Layout) -> dict[str, Layout]:
        """Results that cannot be written where they belong, and how they are written: all in blocks, or none."""
        *others, final = task.targets
        found = {final: write} if write != self.homes[final].layout else {}
        for name in others:
            own = self.homes[name].layout if name in self.homes else None
            if own is not None and any(_blocks(c, own) != _blocks(c, write) for c in task.phases):
                column = task.phases[0].column_dim
                assert column is not None
                rank = len(write.shape)
                whole = permuted(write.shape, [*(d for d in range(rank) if d != column), column])
                blocks = write.block is not None
                found[name] = layout_for(write.shape, column, self.setting.traits) if blocks else whole
        return found

    def first_that(
        self, fits: Callable[[Layout], bool], name: str, inner: int | None, border: Border
    ) -> Layout | None:
        """The layout as it is where that fits, else blocked, else with a dim innermost in one piece (groups of channels
        that cross blocks).
        """
        assert inner is not None
        own = self.homes[name].layout
        rank = len(own.shape)
        whole = permuted(own.shape, [*(d for d in range(rank) if d != inner), inner], border or None)
        wanted = layout_for(own.shape, inner, self.setting.traits, border)
        return next((layout for layout in (own, wanted, whole) if fits(layout)), None)

    def copied(
        self, source: str, layout: Layout, why: str, copies: dict[tuple[str, str], str]
    ) -> tuple[str, list[Task]]:
        """A copy that lies so: one of those made before, or a new one."""
        key = (source, str(layout))
        if key in copies:
            return copies[key], []
        maker = self.makers.get(source)
        copies[key] = self.laid(source, layout, why)
        return copies[key], [self.copy(source, copies[key], maker.nodes[-1:] if maker else (), why)]

    def laid(self, source: str, layout: Layout, why: str) -> str:
        """A name for a copy of a value, at home in a buffer of its own."""
        name = self.fresh(f"{source}_")
        self.homes[name] = Home(name, self.homes[source].dtype, layout, why)
        return name

    def copy(self, source: str, target: str, nodes: tuple[Node, ...], why: str) -> Task:
        return copy_task(self.homes[source].value(source), self.homes[target].value(target), self.setting, nodes, why)


def _blocks(c: Contraction, layout: Layout) -> int | None:
    """The size of the blocks in which a contraction's columns lie: 0 for one piece, None where neither is so."""
    reached = access(c, c.index, layout, c.cols[0].name, None)
    return None if reached is None else reached.block or 0


def settle(
    items: Sequence[Item],
    setting: Setting,
    wishes: Wishes,
    slices: Mapping[str, Slice],
    border: Mapping[str, Border],
    ports: tuple[Sequence[str], Sequence[str]],
    made: Mapping[str, Value],
    fresh: Callable[[str], str],
) -> tuple[tuple[Item, ...], dict[str, Home]]:
    """The items with views and copies, and every home. ports: names that come in (constants too), and that go out."""
    coming, going = ports
    work = _Settling(setting, wishes, slices, border, frozenset(going), {**made, **setting.values}, fresh)
    work.come_in(coming)
    settled = work.settled(items)
    return work.fitted(settled, {}), work.homes


def settled_alone(
    task: Task,
    before: Sequence[Task],
    known: Mapping[str, Home],
    setting: Setting,
    wishes: Wishes,
    slices: Mapping[str, Slice],
    outputs: frozenset[str],
    values: Mapping[str, Value],
) -> tuple[list[Task], Mapping[str, Home]]:
    """What one task takes where values lie as wished, its copies included, and the homes of all that they touch: none
    where it is a view. before: tasks that only move what this one reads, sources first. known: homes of what comes in.
    """
    numbers = count()
    fresh: Callable[[str], str] = lambda hint: f"{hint}{next(numbers)}"  # noqa: E731
    work = _Settling(setting, wishes, slices, wishes.border, outputs, values, fresh, dict(known))
    for earlier in before:
        for name in sorted(earlier.reads):
            work.home(name)
        if work.view(earlier) is None:
            work.home(earlier.targets[-1])
    for name in sorted(task.reads):
        work.home(name)
    if not task.stmts and not task.phases or (task.stmts and work.view(task) is not None):
        return [], work.homes
    for name in task.targets:
        if name in wishes.kept or name in slices:
            work.home(name)
    done = work.fit(task, {})
    return [item for item in done if isinstance(item, Task)], work.homes
