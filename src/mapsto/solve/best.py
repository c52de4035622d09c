"""The way in: what is chosen, by whatever finds it.

Each unconnected part for itself, the cheapest first: exactly by elimination as long as its tables fit into the cells
allowed; the others by integer programming where highspy is installed; otherwise the incumbent is improved by local
search, and message passing says how far from the best it may be.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mapsto.budget import metering
from mapsto.solve.eliminate import eliminate
from mapsto.solve.local import changes, improve, is_lower
from mapsto.solve.milp import integer_program
from mapsto.solve.order import Order, order_of
from mapsto.solve.parts import Part, Parts, cost_of, parts_of
from mapsto.solve.problem import Problem, Solution
from mapsto.solve.relax import relax

METHODS = ("elimination", "highs", "incumbent")  # from exact to not


@dataclass(frozen=True, eq=False)
class _Solved:
    """One part: by variable its value and losses; no choice of it costs less than `bound`."""

    choice: Mapping[int, int]
    losses: Mapping[int, Sequence[float]]
    bound: float
    method: str


def solve(problem: Problem, incumbent: Mapping[str, int], *, cells: int = 10**7, seconds: float = 2.0) -> Solution:
    """The choice of least sum, or the best that was found.

    Never worse than the incumbent, from which it differs only where that lowers the sum by more than 1e-9 of it. The
    same problem gives the same choice, unless the time ends the integer programming.
    cells: of tables made in all by elimination (8 bytes each), and again by the search for bounds.
    seconds: of integer programming, in all.
    Raises ValueError for an incumbent that does not fit the problem, or limits that are negative.
    """
    problem.check(incumbent)
    if not (cells >= 0 and seconds >= 0):
        raise ValueError(f"cells={cells!r}, seconds={seconds!r}: a limit is negative")
    parts = parts_of(problem)
    start = [incumbent[name] for name in parts.names]
    found = list(start)
    with metering():  # one meter for all parts, also outside of a compile
        solved = _solve(parts.parts, start, cells, seconds)
    for part, result in zip(parts.parts, solved, strict=True):
        for v, value in changes(part, result.choice, start).items():
            found[v] = value
    return _solution(problem, incumbent, parts, solved, found)


def _solution(
    problem: Problem, incumbent: Mapping[str, int], parts: Parts, solved: Sequence[_Solved], found: Sequence[int]
) -> Solution:
    choice = dict.fromkeys(problem.domains, 0) | dict(zip(parts.names, found, strict=True))
    cost = problem.cost(choice)
    if not is_lower(cost, problem.cost(incumbent)):
        choice = {name: incumbent[name] for name in problem.domains}
        cost = problem.cost(choice)
    bound = min(math.fsum([parts.constant, *(result.bound for result in solved)]), cost)
    possible = bound < math.inf
    losses: dict[str, tuple[float, ...]] = {n: (0.0 if possible else math.inf,) * c for n, c in problem.domains.items()}
    for result in solved if possible else ():
        for v, row in result.losses.items():
            name = parts.names[v]
            losses[name] = (*row[: choice[name]], 0.0, *row[choice[name] + 1 :])
    method = max((result.method for result in solved), key=METHODS.index, default=METHODS[0])
    return Solution(choice, cost, bound, method, losses, exact=method == METHODS[0])


def _solve(parts: Sequence[Part], start: Sequence[int], cells: int, seconds: float) -> list[_Solved]:
    """Each part's result, in their order."""
    orders = [order_of(part, cells) for part in parts]
    cheapest = sorted(range(len(parts)), key=lambda k: math.inf if (order := orders[k]) is None else order.cells)
    left = cells
    results: dict[int, _Solved] = {}
    for k in cheapest:
        order = orders[k]
        if order is not None and order.cells <= left:
            left -= order.cells
            results[k] = _exactly(parts[k], order, start)
        else:
            results[k], spent = _approximately(parts[k], start, cells, seconds)
            seconds -= spent
    return [results[k] for k in range(len(parts))]


def _exactly(part: Part, order: Order, start: Sequence[int]) -> _Solved:
    result = eliminate(part, order, start)
    if result is None:
        return _impossible(part, start, METHODS[0])
    return _Solved(result.choice, result.losses, result.least, METHODS[0])


def _approximately(part: Part, start: Sequence[int], cells: int, seconds: float) -> tuple[_Solved, float]:
    """A part's result, and the seconds of integer programming that it took."""
    relaxed = relax(part, start, cells)
    if relaxed.bound == math.inf:
        return _impossible(part, start, METHODS[2]), 0.0
    read = list(start)
    for v, value in relaxed.choice.items():
        read[v] = value
    best = _better(part, improve(part, read, cells), improve(part, start, cells))
    bound, method, began = relaxed.bound, METHODS[2], time.monotonic()
    program = integer_program(part, best, seconds)
    spent = time.monotonic() - began
    if program is not None:
        bound, method = max(bound, program.bound), METHODS[1]
        if bound == math.inf:
            return _impossible(part, start, method), spent
        best = _better(part, program.choice, best)
    cost = cost_of(part.factors, best)
    losses = {v: [max(0.0, low - cost) if cost < math.inf else _unknown(low) for low in row.tolist()]
              for v, row in relaxed.least.items()}  # fmt: skip
    return _Solved({v: best[v] for v in part.variables}, losses, min(bound, cost), method), spent


def _unknown(low: float) -> float:
    """A loss where no choice that is allowed was found: nothing is known but what is impossible."""
    return math.inf if low == math.inf else 0.0


def _better(part: Part, one: Sequence[int] | None, other: Sequence[int]) -> Sequence[int]:
    """Whichever costs less, the second among equals."""
    return one if one is not None and is_lower(cost_of(part.factors, one), cost_of(part.factors, other)) else other


def _impossible(part: Part, start: Sequence[int], method: str) -> _Solved:
    infinite = {v: [math.inf] * part.domains[v] for v in part.variables}
    return _Solved({v: start[v] for v in part.variables}, infinite, math.inf, method)
