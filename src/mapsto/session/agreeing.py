"""The least that something takes, where other things disturb some of its runs."""

from __future__ import annotations

from collections.abc import Callable

_CLOSE = 1.1  # times the least: what agrees with it


def agreed_least(run: Callable[[], float], agreeing: int, fewest: int, most: int) -> float:
    """The least seconds that `run` says, once so many of its runs agree on it, the least one among them: after `fewest`
    runs, and `most` whether they do or not.
    """
    taken: list[float] = []
    while len(taken) < most:
        taken.append(run())
        if len(taken) >= fewest and sum(seconds <= min(taken) * _CLOSE for seconds in taken) >= agreeing:
            break
    return min(taken)
