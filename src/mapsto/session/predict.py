"""What a graph is predicted to cost in sizes of a run, kernel by kernel: nothing is compiled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mapsto.ir.graph import Graph
from mapsto.machine.cost import Cost, Tally, price
from mapsto.machine.spec import ProductTypes
from mapsto.plan.asked import Asked, Quote
from mapsto.plan.decide import decide
from mapsto.plan.forecast import forecast
from mapsto.plan.patterns import Sizes, number
from mapsto.plan.prices import Prices
from mapsto.plan.task import Task


@dataclass(frozen=True)
class Predicted:
    """One task: its name in the plan, what it costs, what was counted, a tally a kernel; and of contractions the
    multiply-adds as they are written, by element types, whatever their template makes of them.
    """

    name: str
    cost: Cost
    tallies: tuple[Tally, ...]
    products: Mapping[ProductTypes, float] = field(default_factory=dict)


def predict(
    graph: Graph,
    sizes: Mapping[str, int],
    asked: Asked,
    threads: int = 1,
    templates: Mapping[str, str] | None = None,
) -> dict[str, Predicted]:
    """The cost of each task of a graph that the passes are done with, by the task's name. sizes: of the open ones.
    templates: that tasks were made by, where it is not what costs chose.
    """
    mapped = decide(graph, asked)
    found = {}
    for task, offers in forecast(mapped.items, mapped.homes, Prices(asked, sizes)):
        taken = (templates or {}).get(task.name, mapped.choices[task.name].quote.template)
        quotes = [offer for offer in offers if isinstance(offer, Quote)]
        quote = next((q for q in quotes if q.template == taken), quotes[0])
        cost = sum((price(tally, asked.spec, threads) for tally in quote.tallies), Cost())
        found[task.name] = Predicted(task.name, cost, quote.tallies, _products(task, Sizes.of(sizes)))
    return found


def _products(task: Task, sizes: Sizes) -> dict[ProductTypes, float]:
    found: dict[ProductTypes, float] = {}
    for c in (phase for each in (task, *task.stages) for phase in each.phases):
        types = c.a.dtype, c.b.dtype, c.dtype
        found[types] = found.get(types, 0.0) + float(number(c.multiplications(), sizes))
    return found
