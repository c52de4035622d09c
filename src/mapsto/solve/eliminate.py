"""Variable elimination: the least sum exactly, and by how much each value of each variable misses it.

Bucket elimination (Dechter, "Bucket elimination: a unifying framework for reasoning", Artificial Intelligence 113,
1999) is dynamic programming over a tree of cliques. Forward, the tables over a variable are summed and the least over
it is handed on as a table over its separator. Backward, from the last variable to the first, each clique hears what
all the others cost at least: then the least of its cells at a value is the least of the whole at that value, its
*min-marginal* (Shenoy & Shafer 1990; Koller & Friedman 2009, section 10.2). Both take one pass over the cliques.

Each clique keeps what its cells cost more than the best value of the eliminated variable, R = T - min T. So what is
added up backward are the losses themselves, from 0, and small ones are not lost beside a large sum.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mapsto.budget import current
from mapsto.solve.order import Order
from mapsto.solve.parts import Part
from mapsto.solve.problem import Costs

STAY = 1e-10  # of the least sum: what staying with the incumbent's values may cost in all


@dataclass(frozen=True, eq=False)
class Eliminated:
    """least: the least sum of the part. choice: by variable. losses: by variable, one a value."""

    least: float
    choice: dict[int, int]
    losses: dict[int, list[float]]


def eliminate(part: Part, order: Order, incumbent: Sequence[int]) -> Eliminated | None:
    """The best choice of a part, among equals the incumbent's values; None where the part allows none."""
    with np.errstate(invalid="ignore"):  # inf - inf
        forward = _forward(part, order)
        if forward is None:
            return None
        excesses, least = forward
        return _backward(part, order, excesses, least, incumbent)


def _forward(part: Part, order: Order) -> tuple[list[Costs], float] | None:
    """For each clique what its cells cost more than the best value of its first variable, and the least sum."""
    domains, finite, meter = part.domains, part.finite, current()
    buckets = _buckets(part, order)
    excesses: list[Costs] = []
    bases: list[float] = []
    for clique in order.cliques:
        meter.tick("solver")
        v = clique[0]
        total = np.zeros([domains[u] for u in clique])
        for scope, costs in buckets.pop(v, ()):
            if len(scope) < len(clique):
                costs = costs.reshape([domains[u] if u in scope else 1 for u in clique])
            total += costs
        best = np.minimum.reduce(total, axis=0)
        total -= best
        base = float(best.min())
        if base == math.inf:
            return None
        if not finite:
            total[np.isnan(total)] = math.inf
        bases.append(base)
        excesses.append(total)
        if len(clique) > 1:
            buckets.setdefault(clique[1], []).append((clique[1:], best - base))
    return excesses, math.fsum(bases)


def _buckets(part: Part, order: Order) -> dict[int, list[tuple[tuple[int, ...], Costs]]]:
    """The factors by which of their variables is eliminated first; axes in order of elimination, as all tables here."""
    places = {clique[0]: place for place, clique in enumerate(order.cliques)}
    buckets: dict[int, list[tuple[tuple[int, ...], Costs]]] = {}
    for factor in part.factors:
        scope, costs = factor.scope, factor.costs
        if len(scope) > 1:
            axes = sorted(range(len(scope)), key=[places[v] for v in scope].__getitem__)
            scope, costs = tuple([scope[axis] for axis in axes]), costs.transpose(axes)
        buckets.setdefault(scope[0], []).append((scope, costs))
    return buckets


def _backward(part: Part, order: Order, excesses: list[Costs], least: float, incumbent: Sequence[int]) -> Eliminated:
    """Chooses from the last eliminated to the first, and turns each clique's excess into losses of its cells."""
    meter = current()
    cliques = {clique[0]: clique for clique in order.cliques}
    readers: dict[int, int] = {}
    for clique in order.cliques:
        if len(clique) > 1:
            readers[clique[1]] = readers.get(clique[1], 0) + 1
    over: dict[int, Costs] = {}  # losses of a clique's cells, by its first variable, while a clique still reads them
    down: dict[int, dict[tuple[int, ...], Costs]] = {}  # the same over separators that lead to it
    choice: dict[int, int] = {}
    losses: dict[int, list[float]] = {}
    allowance = STAY * abs(least)
    for clique in reversed(order.cliques):
        meter.tick("solver")
        v, separator = clique[0], clique[1:]
        excess = excesses.pop()
        at: tuple[Any, ...] = (slice(None), *[choice[u] for u in separator])
        row = excess[at].tolist()
        choice[v] = incumbent[v] if row[incumbent[v]] <= allowance else row.index(min(row))
        allowance -= row[choice[v]]
        marginal = excess
        if separator:
            parent = separator[0]
            if separator not in down[parent]:
                axes = tuple([axis for axis, u in enumerate(cliques[parent]) if u not in separator])
                down[parent][separator] = np.minimum.reduce(over[parent], axis=axes)
            excess += down[parent][separator]
            marginal = np.minimum.reduce(excess, axis=tuple(range(1, len(clique))))
            readers[parent] -= 1
            if not readers[parent]:
                del over[parent], down[parent]
        losses[v] = marginal.tolist()
        losses[v][choice[v]] = 0.0
        if v in readers:
            over[v], down[v] = excess, {(v,): marginal}
    return Eliminated(least, choice, losses)
