"""What is solved: variables with finitely many choices, tables of costs over some of them, the sum to be least.

In the field's words a weighted constraint satisfaction problem, or the energy of a graphical model (Dechter,
"Constraint Processing", 2003): a cost of infinity is a constraint.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Costs = npt.NDArray[np.float64]

MOST_VARIABLES = 12  # of one table
MOST_CELLS = 10**6  # of one table, and choices of one variable
LARGEST = 1e200  # magnitude of a finite cost, so that no sum of them overflows


@dataclass(frozen=True, eq=False)
class Table:
    """What each combination of its variables' choices costs.

    variables: names, each once. costs: one axis a variable, in their order; kept as a copy of float64 that cannot be
    written. inf: forbidden. Raises ValueError for NaN, -inf, finite costs beyond `LARGEST`, axes that do not fit, and
    more variables or cells than a table may have.
    """

    variables: tuple[str, ...]
    costs: Costs

    def __post_init__(self) -> None:
        names = tuple(self.variables)
        if len(names) > MOST_VARIABLES:
            raise ValueError(f"{_of(names)}: {len(names)} variables, at most {MOST_VARIABLES} are taken")
        if len(set(names)) != len(names):
            raise ValueError(f"{_of(names)}: names a variable twice")
        if np.size(self.costs) > MOST_CELLS:
            raise ValueError(f"{_of(names)}: {np.size(self.costs):,} cells, at most {MOST_CELLS:,} are taken")
        costs = np.array(self.costs, dtype=np.float64, order="C")
        if costs.ndim != len(names) or costs.size == 0:
            raise ValueError(f"{_of(names)}: costs of shape {costs.shape} for {len(names)} variables")
        low, high = float(costs.min()), float(costs.max())
        if math.isnan(low):
            raise ValueError(f"{_of(names)}: a cost is NaN")
        if low < -LARGEST or (high > LARGEST and bool(((costs > LARGEST) & (costs < math.inf)).any())):
            raise ValueError(f"{_of(names)}: a cost is -inf, or finite and beyond {LARGEST:g}")
        costs.setflags(write=False)
        object.__setattr__(self, "variables", names)
        object.__setattr__(self, "costs", costs)


@dataclass(frozen=True, eq=False)
class Problem:
    """Variables with their numbers of choices, and the tables whose sum is to be least.

    Raises ValueError for a table over a variable that is not there, or of another extent than it has choices.
    """

    domains: Mapping[str, int]
    tables: tuple[Table, ...]

    def __post_init__(self) -> None:
        domains = dict(self.domains)
        for name, count in domains.items():
            if not 1 <= count <= MOST_CELLS:
                raise ValueError(f"variable {name}: {count} choices; it may have 1 to {MOST_CELLS:,}")
        for table in self.tables:
            for name, extent in zip(table.variables, table.costs.shape, strict=True):
                if domains.get(name) != extent:
                    has = f"has {domains[name]}" if name in domains else "is not among the problem's variables"
                    raise ValueError(f"{_of(table.variables)}: {extent} choices for {name}, which {has}")
        object.__setattr__(self, "domains", domains)
        object.__setattr__(self, "tables", tuple(self.tables))

    def cost(self, choice: Mapping[str, int]) -> float:
        """The sum of all tables, rounded once. Raises ValueError where a variable lacks one of its choices."""
        self.check(choice)
        return math.fsum(float(t.costs[tuple(choice[name] for name in t.variables)]) for t in self.tables)

    def check(self, choice: Mapping[str, int]) -> None:
        """Raises ValueError where a variable of the problem has no choice, or one that it cannot have."""
        for name, count in self.domains.items():
            if name not in choice:
                raise ValueError(f"variable {name}: nothing is chosen for it")
            if not 0 <= choice[name] < count:
                raise ValueError(f"variable {name}: choice {choice[name]}; it has {count}")


@dataclass(frozen=True)
class Solution:
    """The choice that was found, and what is known of all others.

    cost: the sum of the tables, inf where nothing is allowed. bound: no choice costs less.
    method: "elimination" (exact), "highs" (integer programming), "incumbent" (local search alone: highspy is not
    installed, or the problem is too large for it); the farthest from exact of those that some part needed.
    losses: by variable, by value, what the least sum with this variable at that value and all others chosen anew
    exceeds the least sum by; inf where that is impossible. `exact`: they are that; otherwise lower bounds of it.
    The value chosen has 0.0, but where nothing at all is allowed.
    """

    choice: Mapping[str, int]
    cost: float
    bound: float
    method: str
    losses: Mapping[str, tuple[float, ...]]
    exact: bool

    @property
    def gap(self) -> float:
        """How much too dear the choice may be at most."""
        return 0.0 if self.cost == self.bound else self.cost - self.bound


def _of(names: tuple[str, ...]) -> str:
    return f"table over ({', '.join(names)})"
