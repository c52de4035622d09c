"""How near the exact placer comes to its bound, how long it takes, and what it saves beside simple placers.

    python -m benchmarks.placers                # 3 draws of each network's shape, and 100 random graphs
    python -m benchmarks.placers --graphs 3 --each

Two devices on one bus. A work takes 0.5 to 2 times as long on the one as on the other, a transfer 0.1 to 0.5 of a work
(`tests/placement/graphs.py`). Random graphs have 60 to 300 works. A graph is what its seed says: only times differ from
run to run. *Over* a placer is what that one's assignment takes more than the exact one's.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from tests.placement.graphs import NETWORKS, problem_of, random_edges

from benchmarks.models import machine_line
from mapsto.cli.output import seconds_text, table
from mapsto.placement.place import place
from mapsto.placement.problem import PlacementProblem

FEWEST, MOST = 60, 300  # works of a random graph
OTHERS = ("greedy", "heft")
HEADERS = (
    "graphs", "count", "works", "gap, mean", "largest", "optimal", "processor, mean", "largest",
    "over greedy, mean", "largest", "over heft, mean", "largest",
)  # fmt: skip
EACH = ("graph", "works", "gap", "processor", *(f"over {name}" for name in OTHERS))


class Placed(NamedTuple):
    """One graph. gap: above the bound, as a share of it. seconds: of the processor, for the exact placer. over: what
    the others' assignments take more, as shares.
    """

    name: str
    works: int
    gap: float
    said: str
    seconds: float
    over: tuple[float, ...]


def placed(name: str, problem: PlacementProblem) -> Placed:
    began = time.process_time()
    found = place(problem)
    seconds = time.process_time() - began
    over = tuple(place(problem, other).seconds / found.seconds - 1 for other in OTHERS)
    gap = max(found.gap, 0.0)  # a bound is exact but for rounding
    return Placed(name, len(problem.works), gap, found.said, seconds, over)


def networks(draws: int) -> Iterator[tuple[str, PlacementProblem]]:
    for name, edges in NETWORKS.items():
        for seed in range(draws):
            yield f"{name} {seed}", problem_of(edges(), np.random.default_rng(seed))


def random_graphs(count: int) -> Iterator[tuple[str, PlacementProblem]]:
    for seed in range(count):
        rng = np.random.default_rng(seed)
        yield f"random {seed}", problem_of(random_edges(rng, int(rng.integers(FEWEST, MOST + 1))), rng)


def row_of(name: str, found: Sequence[Placed]) -> list[str]:
    """Means and extremes over some graphs."""
    works = [p.works for p in found]
    optimal = sum(p.said == "proved optimal" for p in found)
    row = [name, str(len(found)), f"{min(works)}-{max(works)}", *_shares([p.gap for p in found]), str(optimal)]
    row += [seconds_text(f([p.seconds for p in found])) for f in (statistics.mean, max)]
    return row + [text for k in range(len(OTHERS)) for text in _shares([p.over[k] for p in found])]


def _shares(values: Sequence[float]) -> list[str]:
    return [f"{statistics.mean(values):.1%}", f"{max(values):.1%}"]


def each_of(found: Sequence[Placed]) -> list[list[str]]:
    return [
        [p.name, str(p.works), f"{p.gap:.1%}", seconds_text(p.seconds), *(f"{share:.1%}" for share in p.over)]
        for p in found
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--graphs", type=int, default=100, help="random graphs, seeds 0, 1, .. (100)")
    parser.add_argument("--draws", type=int, default=3, help="of the times of each network's shape (3)")
    parser.add_argument("--each", action="store_true", help="a line for each graph, too")
    given = parser.parse_args(arguments)
    kinds = {"networks": networks(given.draws), "random": random_graphs(given.graphs)}
    found = {kind: [placed(*graph) for graph in graphs] for kind, graphs in kinds.items()}
    print(machine_line(1))
    print(table(HEADERS, [row_of(kind, each) for kind, each in found.items() if each]))
    if given.each:
        print()
        print(table(EACH, each_of([p for each in found.values() for p in each])))


if __name__ == "__main__":
    main()
