"""A problem in the form that is worked on: numbered variables, one factor for each set of them, in unconnected parts.

Numbers follow the names' order and factors their variables', so nothing depends on the order in which a problem was
put down. A variable with one choice is no variable any more. No value is dropped, however bad: its loss is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mapsto.solve.problem import Costs, Problem


@dataclass(frozen=True, eq=False)
class Factor:
    """Costs over variables by number, ascending; one axis each. `finite`: none is inf."""

    scope: tuple[int, ...]
    costs: Costs
    finite: bool


@dataclass(frozen=True, eq=False)
class Part:
    """Variables that factors connect, and those factors: what is chosen here matters nowhere else.

    variables: numbers, ascending. domains: by number, choices of each variable of the whole problem.
    """

    variables: tuple[int, ...]
    factors: tuple[Factor, ...]
    domains: Sequence[int]

    @property
    def finite(self) -> bool:
        return all(factor.finite for factor in self.factors)


@dataclass(frozen=True, eq=False)
class Parts:
    """names: of the variables, by number. constant: what is left of tables without variables."""

    names: tuple[str, ...]
    parts: tuple[Part, ...]
    constant: float


def parts_of(problem: Problem) -> Parts:
    """Tables over the same variables summed, variables of one choice dropped, the rest by connected components."""
    names = tuple(sorted(name for name, count in problem.domains.items() if count > 1))
    numbers = {name: number for number, name in enumerate(names)}
    domains = [problem.domains[name] for name in names]
    by_scope: dict[tuple[int, ...], list[Costs]] = {}
    for table in problem.tables:
        scope, costs = _numbered(table.variables, table.costs, numbers)
        by_scope.setdefault(scope, []).append(costs)
    constant = math.fsum(float(costs) for costs in by_scope.pop((), []))
    factors = []
    for scope in sorted(by_scope):
        costs = _sum(by_scope[scope])
        factors.append(Factor(scope, costs, float(costs.max()) < math.inf))
    return Parts(names, _connected(domains, factors), constant)


def cost_of(factors: Sequence[Factor], choice: Mapping[int, int] | Sequence[int]) -> float:
    """The sum of the factors, rounded once."""
    return math.fsum(float(f.costs[tuple([choice[v] for v in f.scope])]) for f in factors)


def _numbered(variables: tuple[str, ...], costs: Costs, numbers: Mapping[str, int]) -> tuple[tuple[int, ...], Costs]:
    if any(name not in numbers for name in variables):
        costs = costs.reshape([n for name, n in zip(variables, costs.shape, strict=True) if name in numbers])
        variables = tuple(name for name in variables if name in numbers)
    scope = tuple([numbers[name] for name in variables])
    if all(a < b for a, b in zip(scope, scope[1:], strict=False)):
        return scope, costs
    axes = sorted(range(len(scope)), key=scope.__getitem__)
    return tuple(scope[axis] for axis in axes), costs.transpose(axes)


def _sum(tables: list[Costs]) -> Costs:
    """The same bits in whatever order the tables come."""
    if len(tables) == 1:
        return tables[0]
    tables = sorted(tables, key=lambda costs: costs.tobytes())
    total = tables[0].copy()
    for costs in tables[1:]:
        total += costs
    return total


def _connected(domains: Sequence[int], factors: Sequence[Factor]) -> tuple[Part, ...]:
    leader = list(range(len(domains)))  # union-find, paths halved

    def find(v: int) -> int:
        while leader[v] != v:
            leader[v] = leader[leader[v]]
            v = leader[v]
        return v

    for factor in factors:
        first = find(factor.scope[0])
        for v in factor.scope[1:]:
            other = find(v)
            first, other = min(first, other), max(first, other)
            leader[other] = first
    variables: dict[int, list[int]] = {}
    within: dict[int, list[Factor]] = {}
    for v in range(len(domains)):
        variables.setdefault(find(v), []).append(v)
    for factor in factors:
        within.setdefault(find(factor.scope[0]), []).append(factor)
    return tuple(Part(tuple(vs), tuple(within.get(v, ())), domains) for v, vs in variables.items())
