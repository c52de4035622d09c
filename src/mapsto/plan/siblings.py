"""Siblings: tasks that read one value alike become one, by a sibling rule of `plan.rules`, once all other rules are
done with the tasks of a graph.

The joined task stands where the first of the tasks stood: all that it reads besides constants, that one read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

from mapsto.budget import current
from mapsto.ir.graph import Value
from mapsto.plan.home import Home, as_it_comes
from mapsto.plan.initial import Setting
from mapsto.plan.items import Branches, Item, Looped, reads_of
from mapsto.plan.prices import Prices
from mapsto.plan.rounds import handed_in
from mapsto.plan.rules import Refusal, SiblingRule
from mapsto.plan.task import Task
from mapsto.plan.works import Declined

# Groups of tasks that read one value, with whose first ones another task is compared.
MOST_GROUPS = 8


def join_siblings(
    items: Sequence[Item],
    external: Set[str],
    setting: Setting,
    prices: Prices,
    together: Callable[[Task, Task], str] | None,
    pinned: Set[str],
    rule: SiblingRule,
) -> tuple[Item, ...]:
    """The items with siblings joined, those of arms among themselves: each of them is a slice of what the joined task
    makes. external: values that leave the graph. together: "" or why a user wants two tasks apart. pinned: values of
    which a user says how they lie.
    """

    def inside(item: Item) -> Item:
        if not isinstance(item, Branches):
            return item
        outputs = frozenset(v.name for v in item.node.outputs)
        if isinstance(item, Looped):
            outputs |= handed_in(item.node)
        arms = (join_siblings(arm, outputs, setting, prices, together, pinned, rule) for arm in item.arms)
        return replace(item, arms=tuple(arms))

    done = tuple(map(inside, items))
    alike: dict[str, list[int]] = {}
    for at, item in enumerate(done):
        if isinstance(item, Task) and item.phases:
            alike.setdefault(item.phases[0].a.tensor, []).append(at)
    several = [members for members in alike.values() if len(members) > 1]
    if not several:
        return done
    meeting = _Meeting(done, external, setting, prices, together, pinned, rule)
    for members in several:
        for group in meeting.groups(members):
            meeting.join(group)
    return meeting.done()


@dataclass
class _Meeting:
    """The tasks of one graph while siblings are looked for; nobody else sees it."""

    items: Sequence[Item]
    external: Set[str]
    setting: Setting
    prices: Prices
    together: Callable[[Task, Task], str] | None
    pins: Set[str]
    rule: SiblingRule
    read: dict[str, list[Task | None]] = field(default_factory=dict)
    made: dict[str, Value] = field(default_factory=dict)
    suited: dict[int, str] = field(default_factory=dict)
    refused: dict[int, list[Declined]] = field(default_factory=dict)
    joined: dict[int, Task] = field(default_factory=dict)  # where the first of its tasks stood
    parts: dict[int, Task] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for item in self.items:
            if isinstance(item, Task):
                self.made.update(item.made)
            for name in reads_of(item):
                self.read.setdefault(name, []).append(item if isinstance(item, Task) else None)

    # -- what a rule asks ----------------------------------------------------------------------------------------------

    def goes_out(self, value: str) -> bool:
        return value in self.external

    def pinned(self, value: str) -> bool:
        return value in self.pins

    def readers(self, value: str) -> Sequence[Task | None]:
        return self.read.get(value, ())

    def value(self, name: str) -> Value:
        known = self.setting.values.get(name)
        return self.made[name] if known is None else known

    def seconds(self, task: Task, homes: Mapping[str, Home]) -> float:
        others = [n for n in task.reads if n not in homes]
        plain = {n: as_it_comes(task.made[n] if n in task.made else self.value(n)) for n in others}
        return self.prices.seconds(task, {**plain, **homes})

    # -- groups --------------------------------------------------------------------------------------------------------

    def task(self, at: int) -> Task:
        item = self.items[at]
        assert isinstance(item, Task)
        return item

    def groups(self, members: Sequence[int]) -> list[list[int]]:
        """Places of tasks that may be one, in the order in which their parts lie."""
        groups: list[list[int]] = []
        for at in members:
            current().tick("fusion")
            for group in groups[-MOST_GROUPS:]:
                taken = self.taken(group, at)
                if not isinstance(taken, Refusal):
                    group[:] = taken
                    break
                self.refuse(at, group[0], taken)
            else:
                groups.append([at])
        return [group for group in groups if len(group) > 1]

    def taken(self, group: Sequence[int], at: int) -> list[int] | Refusal:
        """The group with one more task, which comes last, or else first."""
        one = self.task(at)
        for other in map(self.task, group):
            if self.together is not None and (apart := self.together(other, one)):
                return Refusal(apart)
        if why := self.rule.fits(self.task(group[0]), one, self.setting.constants):
            return Refusal(why)
        for place in (group[0], at):
            if why := self.suits(place):
                return Refusal(why)
        if not (why := self.rule.meets([*map(self.task, (*group, at))], self)):
            return [*group, at]
        return Refusal(why) if self.rule.meets([*map(self.task, (at, *group))], self) else [at, *group]

    def suits(self, at: int) -> str:
        if at not in self.suited:
            self.suited[at] = self.rule.suits(self.task(at), self)
        return self.suited[at]

    def refuse(self, at: int, other: int, refusal: Refusal) -> None:
        self.refused.setdefault(at, []).append(Declined(self.rule.name, self.task(other).targets[-1], refusal.why))

    # -- joining -------------------------------------------------------------------------------------------------------

    def join(self, group: Sequence[int]) -> None:
        tasks, prefix = [self.task(at) for at in group], self.setting.prefix
        joined = self.rule.join(tasks, self.setting.constants, prefix)
        if isinstance(joined, Task) and (why := self.rule.pays(tasks, joined, self)):
            joined = Refusal(why)
        if isinstance(joined, Refusal):
            for at in sorted(group)[1:]:
                self.refuse(at, min(group), joined)
            return
        for at, task in zip(group, tasks, strict=True):
            part = self.rule.part(tasks, joined, task.targets[-1], prefix)
            assert isinstance(part, Task), "what was joined has its part"
            self.parts[at] = part
        refused = tuple(reason for at in sorted(group) for reason in self.told(at).refused)
        self.joined[min(group)] = replace(joined, refused=refused)

    def told(self, at: int) -> Task:
        """A task with the reasons why it was not joined with others."""
        task = self.task(at)
        return replace(task, refused=(*task.refused, *self.refused.get(at, ())))

    def done(self) -> tuple[Item, ...]:
        found: list[Item] = []
        for at, item in enumerate(self.items):
            if at in self.joined:
                found.append(self.joined[at])
            if at in self.parts:
                found.append(self.parts[at])
            else:
                found.append(self.told(at) if at in self.refused else item)
        return tuple(found)
