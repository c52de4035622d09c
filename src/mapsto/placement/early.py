"""Works that another device waits for, while their own has more to do."""

from __future__ import annotations

import math

from mapsto.placement.problem import Assignment, PlacementProblem


def awaited(problem: PlacementProblem, seats: Assignment) -> frozenset[int]:
    """Works whose values another device reads so long before their own device comes to a pause that it is worth while
    to pass them on at once. None in a stream, where other runs go on meanwhile.
    """
    if problem.objective != "latency":
        return frozenset()
    least = 2 * max(problem.begins, default=0.0)  # a pause is a further part, which takes as long to begin
    done: dict[int, list[tuple[int, float]]] = {}  # of each device, its works and what it had done by their ends
    found = set()
    for k, work in enumerate(problem.works):
        for v in work.reads:
            w = problem.writer.get(v)
            if w is None or seats[w] == seats[k]:
                continue
            until = dict(done[seats[w]])
            if max(until.values()) - until[w] > least:
                found.add(w)
        own = done.setdefault(seats[k], [])
        before = own[-1][1] if own else 0.0
        own.append((k, before + (work.seconds[seats[k]] if work.seconds[seats[k]] < math.inf else 0.0)))
    return frozenset(found)
