"""What no assignment can be below, under the execution model: paths through the graph, and work that has to be shared.

A *path* bound lets every work begin when its operands can be there, whatever else the devices do. A *load* bound
divides works among devices as if they could be cut: by weak duality, for prices p of the devices' time that add up to
1, T >= sum over works of min over devices of p * seconds. Both together bound any set of works that cannot begin before
some time and leaves some time to go after its end (Fernandez and Bussell, IEEE Trans. Comput. C-22, 1973).
"""

from __future__ import annotations

import math

import numpy as np

from mapsto.placement.model import Figures
from mapsto.placement.problem import HOST, PlacementProblem

_STEPS = 48  # of a search for prices
_THRESHOLDS = 24  # heads and tails that sets of works are taken by
LARGE = 1e30  # in the place of inf, where prices of 0 are multiplied with it


def tails(problem: PlacementProblem) -> Figures:
    """[work, device]: seconds at least from the end of a work on a device to the end of all; none in a stream."""
    found = np.zeros((len(problem.works), len(problem.devices)))
    if problem.objective != "latency":
        return found
    outputs = set(problem.outputs)
    for k in range(len(problem.works) - 1, -1, -1):
        for v in problem.works[k].writes:
            moves = problem.moves(v)
            after = moves[:, HOST] if v in outputs else np.zeros(len(problem.devices))
            for r in problem.readers.get(v, ()):
                there = np.array(problem.works[r].seconds) + found[r]
                after = np.maximum(after, (moves + there).min(axis=1))
            found[k] = np.maximum(found[k], after)
    return found


def heads(problem: PlacementProblem) -> Figures:
    """[work, device]: when a work can begin there at the earliest."""
    found = np.zeros((len(problem.works), len(problem.devices)))
    for k, work in enumerate(problem.works):
        for v in work.reads:
            moves = problem.moves(v)
            w = problem.writer.get(v)
            since = moves[HOST] if w is None else (moves.T + found[w] + np.array(problem.works[w].seconds)).min(axis=1)
            found[k] = np.maximum(found[k], since)
    return found


def prices(seconds: Figures) -> tuple[Figures, float]:
    """Prices of the devices' time under which works [work, device] are worth the most, and what they are worth: no
    division of them takes less. (Any prices give a bound. Those of two devices are the best, more are searched for.)
    """
    devices = seconds.shape[1]
    if not len(seconds) or devices == 1:
        return np.full(devices, 1 / devices), float(seconds[:, 0].sum()) if devices == 1 else 0.0
    if devices == 2:
        return _prices_of_two(seconds)
    finite = np.minimum(seconds, LARGE)
    best, best_worth = np.full(devices, 1 / devices), -1.0
    chosen = best
    for step in range(_STEPS):
        priced = finite * chosen
        worth = float(priced.min(axis=1).sum())
        if worth > best_worth:
            best, best_worth = chosen, worth
        takes = priced.argmin(axis=1)
        load = np.bincount(takes, finite[np.arange(len(takes)), takes], devices)
        total = load.max()
        if total <= 0:
            break
        weights = chosen * np.exp(load / total * (2.0 / (1 + step / 4)))  # who has more to do gets dearer
        chosen = weights / weights.sum()
    return best, best_worth


def _prices_of_two(seconds: Figures) -> tuple[Figures, float]:
    """The best ones. By a price p of the first device's time a work is the first one's below b / (a + b), else the
    other one's; what all are worth is concave, and straight between those prices.
    """
    either = np.isfinite(seconds).all(axis=1)
    only = [float(np.minimum(seconds[np.isinf(seconds[:, 1 - own]), own], LARGE).sum()) for own in (0, 1)]
    both = seconds[either]
    turns = both[:, 1] / np.maximum(both.sum(axis=1), 1 / LARGE)
    order = np.argsort(turns)
    both, at = both[order], np.concatenate([[0.0], turns[order], [1.0]])
    first = only[0] + np.concatenate([[0.0], both[::-1, 0].cumsum()])[::-1]
    other = only[1] + np.concatenate([[0.0], both[:, 1].cumsum()])
    first, other = np.append(first, first[-1]), np.append(other, other[-1])
    worths = at * first + (1 - at) * other
    best = int(worths.argmax())
    return np.array([at[best], 1 - at[best]]), float(worths[best])


def lower_bound(problem: PlacementProblem) -> float:
    """Seconds that no assignment is below."""
    if not problem.works:
        return 0.0
    seconds = np.array([work.seconds for work in problem.works])
    if problem.objective == "energy":
        return float(seconds.min(axis=1).sum())
    if problem.objective == "throughput":
        return prices(seconds)[1]
    before, after = heads(problem), tails(problem)
    path = float((before + seconds + after).min(axis=1).max())
    least_before = np.where(np.isfinite(seconds), before, math.inf).min(axis=1)
    least_after = np.where(np.isfinite(seconds), after, math.inf).min(axis=1)
    best = path
    for start in _levels(least_before):
        later = least_before >= start
        for end in _levels(least_after[later]):
            chosen = later & (least_after >= end)
            best = max(best, start + end + prices(seconds[chosen])[1])
    return best


def _levels(times: Figures) -> list[float]:
    """Some of the times, the lowest among them."""
    distinct = np.unique(times[np.isfinite(times)])
    if len(distinct) > _THRESHOLDS:
        distinct = distinct[np.linspace(0, len(distinct) - 1, _THRESHOLDS).astype(int)]
    return [float(t) for t in distinct]
