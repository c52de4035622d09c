"""Lower bounds where no order of elimination is cheap enough: of the sum, and of it with each value of each variable.

Costs are moved between tables and variables so that every choice costs what it did (*reparametrisation*); then the
least of each table and of each variable, added up, bound the sum from below, whatever was moved. The best such bound is
that of the linear relaxation over the local polytope (Wainwright & Jordan 2008; Werner, "A linear programming approach
to max-sum problem", 2007). Sequential message passing (Kolmogorov, "A new look at reweighted message passing", 2015)
gets near it, on a tree to the least sum itself, without a solver.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mapsto.budget import current
from mapsto.solve.local import VISIT, factors_of
from mapsto.solve.parts import Part
from mapsto.solve.problem import Costs

_SWEEPS = 100
_SMALL = 1e-7  # of the bound: what a sweep must raise it by to be followed by another


@dataclass(frozen=True, eq=False)
class Relaxed:
    """bound: no choice of the part costs less; inf where none is allowed. least: the same with each value of each
    variable. choice: one read off the moved costs, by variable; need not be good, nor allowed.
    """

    bound: float
    least: Mapping[int, Costs]
    choice: Mapping[int, int]


@dataclass(eq=False)
class _Moved:
    """A table whose costs are moved in place; axes are its variables. `earlier`, `later`: whether a variable of it
    comes before, after each of them in the sweep.
    """

    scope: tuple[int, ...]
    costs: Costs
    earlier: tuple[bool, ...]
    later: tuple[bool, ...]

    def at(self, axis: int) -> Costs:
        """The least at each value of one variable."""
        least: Costs = np.minimum.reduce(self.costs, axis=tuple([k for k in range(self.costs.ndim) if k != axis]))
        return least

    def along(self, axis: int, costs: Costs) -> Costs:
        """Costs of one variable, to be added to the table."""
        return costs.reshape([-1 if k == axis else 1 for k in range(self.costs.ndim)])


class _Sweeper:
    """The moved costs of one part. Memory: a copy of its tables."""

    def __init__(self, part: Part, cells: int) -> None:
        self.finite, self.domains = part.finite, part.domains
        self.order = _breadth_first(part)
        places = {v: place for place, v in enumerate(self.order)}
        self.alone: dict[int, Costs] = {v: np.zeros(part.domains[v]) for v in self.order}
        self.tables: list[_Moved] = []
        self.near: dict[int, list[tuple[_Moved, int]]] = {v: [] for v in self.order}
        for factor in part.factors:
            if len(factor.scope) == 1:
                self.alone[factor.scope[0]] += factor.costs
                continue
            at = [places[v] for v in factor.scope]
            earlier, later = tuple(p > min(at) for p in at), tuple(p < max(at) for p in at)
            table = _Moved(factor.scope, factor.costs.copy(), earlier, later)
            self.tables.append(table)
            for axis, v in enumerate(factor.scope):
                self.near[v].append((table, axis))
        self.least = {v: np.full(part.domains[v], -math.inf) for v in self.order}
        self.left = cells - sum(table.costs.size for table in self.tables)

    def sweep(self, forward: bool, bound: float) -> bool:
        """Each variable takes what it can from its tables and gives it, in equal shares, to those that go on.

        Forward ends at the last variable, otherwise at the first. False where the work allowed is used up.
        bound: of the costs as they are. No step lowers it, so what a variable's value costs more than its best one once
        it has taken all comes on top of it.
        """
        meter = current()
        for v in self.order if forward else reversed(self.order):
            meter.tick("solver")
            near = self.near[v]
            self.left -= sum(table.costs.size + VISIT for table, _ in near)
            if self.left < 0:
                return False
            own = self.alone[v]
            for table, axis in near:
                least = table.at(axis)
                own += least
                table.costs -= table.along(axis, least)
                self._keep_forbidden(table.costs)
            np.maximum(self.least[v], bound + (own - own.min()), out=self.least[v])
            on = [(t, axis) for t, axis in near if (t.later if forward else t.earlier)[axis]]
            back = sum((t.earlier if forward else t.later)[axis] for t, axis in near)
            if on:
                share = own / max(len(on), back)
                for table, axis in on:
                    table.costs += table.along(axis, share)
                own -= share * len(on)
                self._keep_forbidden(own)
        return True

    def _keep_forbidden(self, costs: Costs) -> None:
        """inf - inf: what is forbidden stays so, whatever is moved."""
        if not self.finite:
            costs[np.isnan(costs)] = math.inf

    def bound(self) -> float:
        return math.fsum([*(float(c.min()) for c in self.alone.values()), *(float(t.costs.min()) for t in self.tables)])

    def read(self, incumbent: Sequence[int]) -> dict[int, int]:
        """Values one after the other, each the best for those before it; among equals the incumbent's."""
        choice: dict[int, int] = {}
        for v in self.order:
            costs = self.alone[v].copy()
            for table, axis in self.near[v]:
                rest = table.costs[tuple([choice.get(u, slice(None)) for u in table.scope])]
                axis -= sum(u in choice for u in table.scope[:axis])
                costs += np.minimum.reduce(rest, axis=tuple([k for k in range(rest.ndim) if k != axis]))
            best = int(np.argmin(costs))
            choice[v] = incumbent[v] if costs[incumbent[v]] <= costs[best] else best
        return choice


def relax(part: Part, incumbent: Sequence[int], cells: int) -> Relaxed:
    """Bounds of a part after as many sweeps as raise them. cells: what may be looked at, copied."""
    with np.errstate(invalid="ignore"):  # inf - inf
        sweeper = _Sweeper(part, cells)
        bound = sweeper.bound()
        for _ in range(_SWEEPS):
            more = sweeper.sweep(True, bound) and sweeper.sweep(False, sweeper.bound())
            last, bound = bound, sweeper.bound()
            if bound == math.inf:
                return Relaxed(bound, {v: np.full(part.domains[v], math.inf) for v in part.variables}, {})
            if not more or bound - last <= _SMALL * abs(bound):
                break
        return Relaxed(bound, sweeper.least, sweeper.read(incumbent))


def _breadth_first(part: Part) -> list[int]:
    """Neighbours near each other: what is moved along a chain then reaches its end in one sweep."""
    within = factors_of(part)
    order = [part.variables[0]]
    seen = {order[0]}
    for v in order:  # grows while it is walked
        for factor in within[v]:
            near = [u for u in factor.scope if u not in seen]
            seen.update(near)
            order.extend(near)
    return order
