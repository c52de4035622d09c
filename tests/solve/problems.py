"""Problems to solve, drawn or of a known shape, and what trying every choice says of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
from hypothesis import strategies as st

from mapsto.solve.problem import Problem, Solution, Table

Drawn = tuple[Problem, dict[str, int]]  # with an incumbent


def every_choice(problem: Problem) -> tuple[float, dict[str, list[float]]]:
    """The least cost, and by variable and value the least cost with it: by trying all."""
    names = list(problem.domains)
    sums = np.zeros(tuple(problem.domains.values()))
    for table in problem.tables:
        axes = sorted(range(len(table.variables)), key=lambda k: names.index(table.variables[k]))
        shape = [count if name in table.variables else 1 for name, count in problem.domains.items()]
        sums = sums + table.costs.transpose(axes).reshape(shape)
    marginals = {
        name: sums.min(axis=tuple(k for k in range(len(names)) if k != axis)).tolist()
        for axis, name in enumerate(names)
    }
    return float(sums.min()), marginals


def check(problem: Problem, incumbent: dict[str, int], solution: Solution) -> None:
    """What holds of every solution, and what must of one by each method."""
    best, marginals = every_choice(problem)
    near = 1e-9 * (1 + sum(float(np.abs(t.costs[np.isfinite(t.costs)]).max(initial=0.0)) for t in problem.tables))
    assert list(solution.choice) == list(problem.domains)
    assert solution.cost == problem.cost(solution.choice)
    assert solution.cost <= problem.cost(incumbent)
    assert solution.bound <= best + near and solution.bound <= solution.cost and solution.gap >= 0.0
    if solution.exact:
        assert solution.method == "elimination"
    if solution.method != "incumbent":
        assert _close(solution.cost, best, near)
        assert _close(solution.bound, best, near if solution.exact else 100 * near)
    for name, row in marginals.items():
        assert len(solution.losses[name]) == len(row)
        for value, (loss, least) in enumerate(zip(solution.losses[name], row, strict=True)):
            truth = least - best if least < math.inf else math.inf
            assert 0.0 <= loss <= truth + near, (name, value, loss, truth)
            assert not solution.exact or _close(loss, truth, near), (name, value, loss, truth)
        assert best == math.inf or solution.cost == math.inf or solution.losses[name][solution.choice[name]] == 0.0


def _close(a: float, b: float, near: float) -> bool:
    return a == b or abs(a - b) <= near


@st.composite
def drawn(draw: st.DrawFn, most: int = 6, forbidden: bool = True) -> Drawn:
    """Up to `most` variables of 1 to 4 values, some in no table; tables of 0 to 3 of them, with equal costs now and
    then, costs below 0, and forbidden cells.
    """
    domains = {f"v{k}": draw(st.integers(1, 4)) for k in draw(st.permutations(range(draw(st.integers(0, most)))))}
    costs = st.sampled_from([0.0, 1.0, 1.0, 2.0, 3.5, -1.0, 0.1, 0.2, 0.3, 7e-3] + [math.inf] * forbidden)
    tables = []
    for _ in range(draw(st.integers(0, 8))):
        names = draw(st.permutations(sorted(domains)))[: draw(st.integers(0, 3))]
        shape = [domains[name] for name in names]
        cells = draw(st.lists(costs, min_size=math.prod(shape), max_size=math.prod(shape)))
        tables.append(Table(tuple(names), np.array(cells).reshape(shape)))
    return Problem(domains, tuple(tables)), {name: draw(st.integers(0, count - 1)) for name, count in domains.items()}


def random_costs(scopes: Iterable[tuple[str, ...]], choices: int, seed: int) -> Problem:
    """Tables of costs between 0 and 1 over these variables, of the same number of choices each."""
    numbers = np.random.default_rng(seed)
    tables = tuple(Table(scope, numbers.random([choices] * len(scope))) for scope in scopes)
    return Problem(dict.fromkeys([name for scope in (t.variables for t in tables) for name in scope], choices), tables)


def chain(length: int, choices: int, seed: int = 0) -> Problem:
    pairs = [(f"v{k}", f"v{k + 1}") for k in range(length - 1)]
    return random_costs([(f"v{k}",) for k in range(length)] + pairs, choices, seed)


def tree(size: int, choices: int, seed: int = 0) -> Problem:
    numbers = np.random.default_rng(seed)
    return random_costs([(f"v{int(numbers.integers(0, k))}", f"v{k}") for k in range(1, size)], choices, seed)


def star(size: int, choices: int, seed: int = 0) -> Problem:
    return random_costs([("hub", f"v{k}") for k in range(1, size)], choices, seed)


def grid(rows: int, columns: int, choices: int, seed: int = 0) -> Problem:
    down = [(f"v{i}_{j}", f"v{i + 1}_{j}") for i in range(rows - 1) for j in range(columns)]
    right = [(f"v{i}_{j}", f"v{i}_{j + 1}") for i in range(rows) for j in range(columns - 1)]
    return random_costs([(f"v{i}_{j}",) for i in range(rows) for j in range(columns)] + down + right, choices, seed)


def banded(size: int, width: int, choices: int, seed: int = 0) -> Problem:
    """Each variable stands with three drawn of the `width` before it: of treewidth `width` at most."""
    numbers = np.random.default_rng(seed)
    scopes = []
    for k in range(1, size):
        others = numbers.permutation(range(max(0, k - width), k))[:3]
        scopes += [(f"v{k}", f"v{other}") for other in others.tolist()]
    return random_costs(scopes, choices, seed)


SMALL: dict[str, Callable[[], Problem]] = {
    "chain": lambda: chain(9, 3),
    "tree": lambda: tree(9, 3),
    "star": lambda: star(8, 3),
    "grid": lambda: grid(3, 4, 2),
    "banded": lambda: banded(16, 8, 2),
}
