"""Cyclic garbage while a model is compiled: looked for rarely.

A compile makes many small objects that live as long as it does. Python's collector looks through all of them again
each time that they have grown by a quarter, and finds next to nothing: a fifth of the time for a model of 10^4 nodes.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

# New objects after which the youngest are looked through (Python: 700), and how many such looks make one of the next
# generation: a compile of 10^4 nodes has a few of the first.
RARELY = (100_000, 10, 10)


@contextmanager
def collecting_rarely() -> Iterator[None]:
    """Raises the collector's thresholds, which belong to the whole process, and puts them back.

    Nothing is done where somebody collects more rarely still, or not at all. Of compiles in several threads the first
    to end puts back what there was before all of them; the others go on with that.
    """
    before = gc.get_threshold()
    if before[0] == 0 or before[0] >= RARELY[0]:
        yield
        return
    gc.set_threshold(*RARELY)
    try:
        yield
    finally:
        if gc.get_threshold() == RARELY:  # else somebody has set others meanwhile
            gc.set_threshold(*before)
