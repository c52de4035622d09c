"""Choices made better by small steps, and choices kept where changing them gains nothing."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from mapsto.budget import current
from mapsto.solve.parts import Factor, Part, cost_of
from mapsto.solve.problem import Costs

ENOUGH = 1e-9  # of the sum: what a change must lower it by
VISIT = 200  # cells that one look at a table counts as besides its own: what a call of numpy takes
_ROUNDS = 50


def is_lower(cost: float, than: float) -> bool:
    """Whether a cost is lower by enough to change anything for it."""
    if than == math.inf:
        return cost < math.inf
    return cost < than - ENOUGH * abs(than)


def improve(part: Part, choice: Sequence[int], cells: int) -> list[int]:
    """Each variable in turn at its best value for the others as they are, until none moves: iterated conditional modes
    (Besag, "On the statistical analysis of dirty pictures", 1986). First fewer forbidden cells, then a lower sum.

    choice: by variable, of the whole problem. cells: what may be looked at.
    """
    chosen, meter = list(choice), current()
    within = factors_of(part)
    spent = 0
    for _ in range(_ROUNDS):
        moved = False
        for v in part.variables:
            meter.tick("solver")
            spent += sum(part.domains[v] + VISIT for _ in within[v])
            if spent > cells:
                return chosen
            value = _mode(v, within[v], chosen, part.domains[v])
            moved |= value != chosen[v]
            chosen[v] = value
        if not moved:
            break
    return chosen


def factors_of(part: Part) -> dict[int, list[Factor]]:
    """The factors that each variable stands in."""
    within: dict[int, list[Factor]] = {v: [] for v in part.variables}
    for factor in part.factors:
        for v in factor.scope:
            within[v].append(factor)
    return within


def changes(part: Part, choice: Mapping[int, int], incumbent: Sequence[int]) -> dict[int, int]:
    """What of a choice differs from the incumbent and is worth it.

    Variables that differ and share a factor are one change. Two changes share no factor, so each has its own gain: it
    is made where the sum of the factors it stands in gets lower by more than 1e-9 of it.
    """
    within = factors_of(part)
    seen: set[int] = set()
    worth: dict[int, int] = {}
    for start in part.variables:
        if start in seen or choice[start] == incumbent[start]:
            continue
        seen.add(start)
        change, reached = [start], {}
        for v in change:  # grows while it is walked
            for factor in within[v]:
                if factor.scope in reached:
                    continue
                reached[factor.scope] = factor
                near = [u for u in factor.scope if u not in seen and choice[u] != incumbent[u]]
                seen.update(near)
                change.extend(near)
        touched = list(reached.values())
        if is_lower(cost_of(touched, choice), cost_of(touched, incumbent)):
            worth.update((v, choice[v]) for v in change)
    return worth


def _mode(v: int, factors: Sequence[Factor], choice: Sequence[int], count: int) -> int:
    """The best value of a variable, the others fixed; the one it has where none is better by enough."""
    total: Costs = np.zeros(count)
    broken = np.zeros(count, dtype=np.int64)
    for factor in factors:
        row = factor.costs[tuple([slice(None) if u == v else choice[u] for u in factor.scope])]
        if not factor.finite:
            forbidden = np.isinf(row)
            broken += forbidden
            row = np.where(forbidden, 0.0, row)
        total += row
    old, fewest = choice[v], broken.min()
    best = int(np.argmin(np.where(broken == fewest, total, math.inf)))
    if broken[old] == fewest and not is_lower(float(total[best]), float(total[old])):
        return old
    return best
