"""In which order variables are eliminated, and what that costs.

Finding the best order is NP-hard; two greedy rules are tried (Koller & Friedman, "Probabilistic Graphical Models",
2009, section 9.4.3): the variable next whose clique has the fewest cells, and the one that connects the fewest pairs
of its neighbours. The second is dearer to find and is asked only where the first leaves much to do.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

from mapsto.budget import current
from mapsto.solve.parts import Part

LITTLE = 1 << 16  # cells that are not worth a second order
NEAR = 8  # times the cells that a part's factors have: near what any order must make
MOST_AXES = 31  # of a clique; numpy before 2.0 has 32


@dataclass(frozen=True)
class Order:
    """cliques: in order of elimination, each the eliminated variable and then its *separator*, the variables that
    tables over it reach at that time, by when they are eliminated themselves.
    cells: of all tables that eliminating makes or reads whole to make another.
    """

    cliques: tuple[tuple[int, ...], ...]
    cells: int


def order_of(part: Part, cells: int) -> Order | None:
    """An order that makes no more than `cells` of tables; None where neither rule finds one."""
    first = _greedy(part, cells, fill=False)
    if first is not None and first.cells <= max(LITTLE, NEAR * sum(factor.costs.size for factor in part.factors)):
        return first
    second = _greedy(part, cells, fill=True)
    found = [order for order in (first, second) if order is not None]
    return min(found, key=lambda order: order.cells, default=None)


class _Graph:
    """Variables that stand in one table together are neighbours. `weights`: log2 of the cells of each one's clique."""

    def __init__(self, part: Part) -> None:
        self.domains = part.domains
        self.logs = {v: math.log2(part.domains[v]) for v in part.variables}
        self.neighbours: dict[int, set[int]] = {v: set() for v in part.variables}
        self.weights = dict(self.logs)
        for factor in part.factors:
            self.connect(factor.scope)

    def connect(self, group: Sequence[int]) -> list[tuple[int, int]]:
        """Makes all of them neighbours; the pairs that were none."""
        new = []
        for k, a in enumerate(group):
            near = self.neighbours[a]
            for b in group[k + 1 :]:
                if b not in near:
                    near.add(b)
                    self.neighbours[b].add(a)
                    self.weights[a] += self.logs[b]
                    self.weights[b] += self.logs[a]
                    new.append((a, b))
        return new

    def remove(self, v: int) -> list[int]:
        """Takes a variable out; its neighbours, ascending."""
        near = sorted(self.neighbours.pop(v))
        for other in near:
            self.neighbours[other].discard(v)
            self.weights[other] -= self.logs[v]
        return near

    def fill(self, v: int) -> int:
        """How many pairs of neighbours are none of each other."""
        near = sorted(self.neighbours[v])
        return sum(b not in self.neighbours[a] for k, a in enumerate(near) for b in near[k + 1 :])

    def size(self, v: int) -> int:
        return self.domains[v] * math.prod(self.domains[n] for n in self.neighbours[v])


def _greedy(part: Part, cells: int, fill: bool) -> Order | None:
    graph, meter = _Graph(part), current()
    most = min(math.log2(max(cells, 1)) + 1, 64.0)  # a clique beyond it is never taken: its pairs are not looked at

    def key(v: int) -> tuple[float, float]:
        weight = graph.weights[v]
        return (float(graph.fill(v)) if fill and weight <= most else math.inf if fill else 0.0, weight)

    keys = {v: key(v) for v in part.variables}
    heap = [(keys[v], v) for v in part.variables]
    heapq.heapify(heap)
    places: dict[int, int] = {}
    made: list[list[int]] = []
    spent = 0
    while heap:
        meter.tick("solver")
        at, v = heapq.heappop(heap)
        if v in places or at != keys[v]:
            continue
        if graph.weights[v] > most or len(graph.neighbours[v]) >= MOST_AXES:
            return None
        spent += graph.size(v)
        if spent > cells:
            return None
        places[v] = len(made)
        near = graph.remove(v)
        made.append([v, *near])
        changed = set(near)
        for a, b in graph.connect(near):
            if fill:
                changed |= graph.neighbours[a] & graph.neighbours[b]
        for other in changed:
            keys[other] = key(other)
            heapq.heappush(heap, (keys[other], other))
    cliques = tuple((clique[0], *sorted(clique[1:], key=places.__getitem__)) for clique in made)
    order = Order(cliques, _cells(cliques, places, part.domains))
    return order if order.cells <= cells else None


def _cells(cliques: Sequence[tuple[int, ...]], places: dict[int, int], domains: Sequence[int]) -> int:
    """Forward a table over the clique and one over the separator; backward another over each separator, once for
    each set of variables, from the whole clique of the variable that it goes to.
    """
    sizes = [math.prod([domains[v] for v in clique]) for clique in cliques]
    total = 0
    down: set[tuple[int, ...]] = set()
    for clique, size in zip(cliques, sizes, strict=True):
        separator = clique[1:]
        total += size + size // domains[clique[0]]
        if separator and separator not in down:
            down.add(separator)
            total += size // domains[clique[0]] + sizes[places[separator[0]]]
    return total
