"""The thread of a device: what it does first."""

from __future__ import annotations

import threading

from mapsto.runtime.lanes import DeviceThread


def test_runs_begun_first_go_first() -> None:
    lane, done, hold = DeviceThread("some"), [], threading.Event()  # type: ignore[var-annotated]
    lane.put(lambda: bool(hold.wait(60)))  # type: ignore[arg-type, return-value]
    for order in ((2, 0), (1, 3), (1, 1), (3, 0)):
        lane.put(lambda order=order: done.append(order), order)  # type: ignore[misc]
    last = threading.Event()
    lane.put(last.set, (9,))
    hold.set()
    assert last.wait(60) and done == [(1, 1), (1, 3), (2, 0), (3, 0)]
