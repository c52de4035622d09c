"""Two forms of a graph whose products may be computed in two ways, and which products are to be in which: each in the
one in which its works are predicted to take less. What all of that takes together is predicted as well, since values
pass from one to the other; the least of the three plans is taken, where it saves more than predictions are good for.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from mapsto.ir.graph import Graph
from mapsto.plan.asked import Asked
from mapsto.plan.decide import decide
from mapsto.plan.items import tasks
from mapsto.plan.mapped import Mapped

# The share of the whole that another form has to save: sums and copies on the way are predicted less well than
# products.
_LEAST_GAIN = 0.05


@dataclass(frozen=True)
class LightestForm:
    """taken: the form that takes least. others: the products that it has in the other way. gains: seconds that each
    product takes less in the other way.
    """

    taken: Weighed
    others: frozenset[str]
    gains: Mapping[str, float]


def lightest(
    first: Weighed,
    other: Weighed,
    sources: Mapping[str, tuple[str, ...]],
    with_others: Callable[[Collection[str]], Weighed],
) -> LightestForm:
    """Of a graph with all products in the first way, or in the other, or some. sources: the model's nodes that each
    product stands for; with_others: the form that has these products in the other way.
    """
    before, after = (each.seconds_by(sources) for each in (first, other))
    better = frozenset(name for name in sources if after[name] < before[name])
    ways = [(first, frozenset[str]()), (other, frozenset(sources))]
    saved = sum(before[name] - after[name] for name in better)
    if better and better != sources.keys() and saved > _LEAST_GAIN * first.seconds:
        ways.append((with_others(better), better))
    taken, others = min(ways, key=lambda way: way[0].seconds)
    if taken.seconds > (1 - _LEAST_GAIN) * first.seconds:
        taken, others = first, frozenset()
    return LightestForm(taken, others, {name: before[name] - after[name] for name in sources})


def told(gain: float, is_other: bool, other: str, first: str) -> str:
    """Why a product is in the way that it is in."""
    more = gain if is_other else -gain
    seconds = f"{abs(more) * 1e6:.3g} us {'more' if more >= 0 else 'less'}"
    because = f"in {first if is_other else other} it would take {seconds}"
    return because if more >= 0 else f"{because}, and the whole more"


@dataclass(frozen=True)
class Weighed:
    """A graph that the passes are done with, as it is decided, and what each work is predicted to take."""

    mapped: Mapped
    works: Sequence[tuple[tuple[str, ...], float]]  # nodes of the model that it stands for, seconds

    @staticmethod
    def of(graph: Graph, ask: Callable[[Graph], Asked]) -> Weighed:
        mapped = decide(graph, ask(graph))
        works = [(task.sources, mapped.choices[task.name].quote.cost.seconds) for task in tasks(mapped.items)]
        return Weighed(mapped, works)

    @property
    def seconds(self) -> float:
        return sum(seconds for _, seconds in self.works)

    def seconds_by(self, sources: Mapping[str, tuple[str, ...]]) -> dict[str, float]:
        """Of the works that stand for each product; what stands for several is shared among them."""
        of: dict[str, set[str]] = {}
        for name, every in sources.items():
            for source in every:
                of.setdefault(source, set()).add(name)
        found = dict.fromkeys(sources, 0.0)
        for stands_for, seconds in self.works:
            names = {name for source in stands_for for name in of.get(source, ())}
            for name in names:
                found[name] += seconds / len(names)
        return found
