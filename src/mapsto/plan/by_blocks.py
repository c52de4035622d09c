"""Which contractions are done by blocks of rows together with what reads their results: chains, where what passes
between two contractions would leave the caches near a unit. Asked once everything has its home.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import replace

from mapsto.plan.access import access
from mapsto.plan.chain import chain_join, form_of
from mapsto.plan.home import Home
from mapsto.plan.items import Branches, Item, reads_of, targets_of
from mapsto.plan.patterns import number
from mapsto.plan.prices import Prices
from mapsto.plan.rules.base import Refusal
from mapsto.plan.task import Task
from mapsto.plan.works import walk


def by_blocks(
    items: Sequence[Item], homes: Mapping[str, Home], external: Set[str], prices: Prices
) -> tuple[tuple[Item, ...], dict[str, Home]]:
    """The items with chains, and homes without what passes inside of one. external: values that leave the graph, and
    nested ones.
    """
    if not prices.asked.traits.block_bytes:
        return tuple(items), dict(homes)
    read: dict[str, int] = {}
    for item in walk(items):
        for name in reads_of(item):
            read[name] = read.get(name, 0) + 1
    alone = {name for name, count in read.items() if count == 1} - external
    done = _joined(items, homes, alone, prices)
    inside = {name for name in homes if name in alone} - {name for item in walk(done) for name in _touched(item)}
    return done, {name: home for name, home in homes.items() if name not in inside}


def _touched(item: Item) -> Set[str]:
    return reads_of(item) | set(targets_of(item))


def _joined(
    items: Sequence[Item], homes: Mapping[str, Home], alone: Set[str], prices: Prices
) -> tuple[Item, ...]:
    done: list[Item | None] = [
        replace(item, arms=tuple(_joined(arm, homes, alone, prices) for arm in item.arms))
        if isinstance(item, Branches)
        else item
        for item in items
    ]
    maker = {name: at for at, item in enumerate(done) if isinstance(item, Task) for name in item.targets}
    for at, last in enumerate(done):
        if not isinstance(last, Task) or last.kind != "contraction" or len(last.phases) != 1:
            continue
        places = _stages(last, done, maker)
        if places is None:
            continue
        first, middle = (done[place] for place in places)
        assert isinstance(first, Task) and isinstance(middle, Task)
        if _is_bound((first, middle), done[places[0] + 1 : at], homes):
            continue
        chain = _chain(first, middle, last, homes, alone, prices)
        if chain is not None:
            done[at] = chain
            for place in places:
                done[place] = None
    return tuple(item for item in done if item is not None)


def _stages(last: Task, items: Sequence[Item | None], maker: Mapping[str, int]) -> tuple[int, int] | None:
    """Places of the two tasks before it."""
    at = maker.get(last.phases[0].a.tensor)
    middle = None if at is None else items[at]
    if at is None or not isinstance(middle, Task) or middle.kind != "rows":
        return None
    found = [place for name in middle.reads if (place := maker.get(name)) is not None]
    firsts = [place for place in found if isinstance(each := items[place], Task) and each.kind == "contraction"]
    return (firsts[0], at) if len(firsts) == 1 and firsts[0] < at else None


def _is_bound(stages: Sequence[Task], between: Sequence[Item | None], homes: Mapping[str, Home]) -> bool:
    """Whether the first stages cannot be done later: what comes between writes where they read."""
    read = {homes[name].buffer for stage in stages for name in stage.reads if name in homes}
    others = walk([item for item in between if item is not None and not any(item is stage for stage in stages)])
    return any(homes[name].buffer in read for item in others for name in targets_of(item) if name in homes)


def _chain(
    first: Task, middle: Task, last: Task, homes: Mapping[str, Home], alone: Set[str], prices: Prices
) -> Task | None:
    """The chain of the three, where nobody else needs what passes, strides reach all else, and it pays."""
    passing = [name for stage in (first, middle) for name in stage.targets if name in homes]
    joined = chain_join(first, middle, last)
    if isinstance(joined, Refusal):
        return None
    form = form_of(joined)
    if passing != [form.x, form.w] or not set(passing) <= alone:
        return None
    if any(homes[name].buffer != name for name in passing) or not _is_far(joined, prices):
        return None
    c, then = first.phases[0], last.phases[0]
    reached = (
        access(c, c.a.index, homes[c.a.tensor].layout, c.channels[0].name, None),
        access(then, then.index, homes[last.targets[-1]].layout, then.cols[0].name, None),
    )
    if any(each is None for each in reached) or any(t in homes for t in last.targets[:-1]):
        return None
    return joined


def _is_far(chain: Task, prices: Prices) -> bool:
    """Whether what passes would leave the near caches, as far as that is known."""
    form = form_of(chain)
    if not isinstance(form.rows, int) or not isinstance(form.columns, int):
        return True
    count = float(form.rows * form.columns)
    for _, extent in form.outer:
        count *= number(extent, prices.sizes)
    levels = prices.spec.levels
    return count * form.x_type.size > levels[min(1, len(levels) - 1)].bytes
