"""What a graph is predicted to cost in sizes of a run, kernel by kernel: nothing is compiled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mapsto.ir.graph import Graph
from mapsto.machine.cost import Cost, Tally, price
from mapsto.plan.asked import Asked, Quote
from mapsto.plan.decide import decide
from mapsto.plan.forecast import forecast
from mapsto.plan.prices import Prices


@dataclass(frozen=True)
class Predicted:
    """One task: its name in the plan, what it costs, and what was counted, a tally a kernel."""

    name: str
    cost: Cost
    tallies: tuple[Tally, ...]


def predict(graph: Graph, sizes: Mapping[str, int], asked: Asked, threads: int = 1) -> dict[str, Predicted]:
    """The cost of each task of a graph that the passes are done with, by the task's name. sizes: of the open ones."""
    mapped = decide(graph, asked)
    found = {}
    for task, offers in forecast(mapped.items, mapped.homes, Prices(asked, sizes)):
        taken = mapped.choices[task.name].quote.template
        quotes = [offer for offer in offers if isinstance(offer, Quote)]
        quote = next((q for q in quotes if q.template == taken), quotes[0])
        cost = sum((price(tally, asked.spec, threads) for tally in quote.tallies), Cost())
        found[task.name] = Predicted(task.name, cost, quote.tallies)
    return found
