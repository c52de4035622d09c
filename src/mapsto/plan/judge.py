"""Judging a plan in the making: what each task is expected to take, and what it would have lost done otherwise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mapsto.plan.asked import Quote
from mapsto.plan.edits import unedited
from mapsto.plan.forecast import forecast
from mapsto.plan.home import Home
from mapsto.plan.items import Item
from mapsto.plan.layout import Layout, plain
from mapsto.plan.prices import Prices
from mapsto.plan.recipe import Recipe
from mapsto.plan.task import Task
from mapsto.plan.views import view_layout, view_source
from mapsto.plan.works import Beaten

# The share of a task that doing its parts one after the other must save: below, it is within what prices are good for.
LEAST_GAIN = 0.03


@dataclass(frozen=True)
class Choice:
    """How a task is done: the quote that is taken, and what was beaten."""

    quote: Quote
    beaten: tuple[Beaten, ...]


@dataclass(frozen=True)
class Judged:
    """`choices`: by the task's name. `undone`: pairs of recipes that are better apart, and seconds saved."""

    choices: Mapping[str, Choice]
    undone: Mapping[tuple[Recipe, Recipe], float]

    @property
    def seconds(self) -> float:
        return math.fsum(choice.quote.cost.seconds for choice in self.choices.values())


def judge(items: Sequence[Item], homes: Mapping[str, Home], prices: Prices) -> Judged:
    """Every task, where everything lies as it does in the end."""
    choices: dict[str, Choice] = {}
    undone: dict[tuple[Recipe, Recipe], float] = {}
    for task, offers in forecast(items, homes, prices):
        taken, *others = [offer for offer in offers if isinstance(offer, Quote)]
        beaten = [Beaten("as", o.template, "", _rounded(o.cost.seconds - taken.cost.seconds)) for o in others]
        if task.parts is not None and (loss := _apart(task, task.parts, homes, prices)) is not None:
            source, reader = task.parts
            beaten.append(Beaten("apart", source.targets[-1], "", _rounded(loss)))
            if loss < -LEAST_GAIN * taken.cost.seconds:
                undone[unedited(source.recipe), unedited(reader.recipe)] = -loss
        choices[task.name] = Choice(taken, tuple(beaten))
    return Judged(choices, undone)


def _rounded(seconds: float) -> float:
    return float(f"{seconds:.3g}")


def _apart(task: Task, parts: tuple[Task, Task], homes: Mapping[str, Home], prices: Prices) -> float | None:
    """Seconds that the two parts of a task take longer than it does; None where it does not lie as they would."""
    source, reader = parts
    passed = [name for name in source.targets if name in reader.reads and name not in homes]
    if not passed or any(name not in homes for name in (*source.reads, reader.targets[-1])):
        return None
    joined = prices.seconds(task, homes)
    if (seen := _seen(source, homes)) is not None:  # no code for the source
        return prices.seconds(reader, {**homes, passed[0]: seen}) - joined
    ways = []
    for like in (task.targets[-1], ""):
        lie = {name: Home(name, source.values[name].dtype, _layout(source, name, like, homes)) for name in passed}
        ways.append(prices.seconds(source, {**homes, **lie}) + prices.seconds(reader, {**homes, **lie}))
    return min(ways) - joined


def _layout(source: Task, name: str, like: str, homes: Mapping[str, Home]) -> Layout:
    """As another value of its shape lies, else row-major."""
    shape = source.values[name].shape
    return homes[like].layout if like in homes and homes[like].layout.shape == shape else plain(shape)


def _seen(source: Task, homes: Mapping[str, Home]) -> Home | None:
    """Where a source that only moves has its result without code."""
    load = view_source(source)
    if load is None or load.tensor not in homes:
        return None
    home = homes[load.tensor]
    block = home.layout.block
    layout = view_layout(source.stmts[0], load, home.layout, block.size if block else 0)
    return None if layout is None else Home(home.buffer, load.dtype, layout)
