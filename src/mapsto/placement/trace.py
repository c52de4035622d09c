"""A timeline for people: as text, and in the trace event format that Perfetto and Chrome read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from mapsto.placement.model import Event
from mapsto.placement.problem import PlacementProblem

_MICRO = 1e6


def trace_events(problem: PlacementProblem, events: Sequence[Event]) -> dict[str, Any]:
    """For `json.dump`: a lane for each device and each bus, times in microseconds, as complete events (`"ph": "X"`).

    Source: Trace Event Format, Google, 2016.
    """
    lanes = [*problem.devices, *(f"bus {bus}" for bus in range(problem.buses))]
    named = [
        {"ph": "M", "name": "thread_name", "pid": 0, "tid": lane, "args": {"name": name}}
        for lane, name in enumerate(lanes)
    ]
    spans = [
        {
            "ph": "X", "name": _name(problem, event), "cat": "work" if event.work is not None else "transfer", "pid": 0,
            "tid": _lane(problem, event), "ts": event.begin * _MICRO, "dur": (event.end - event.begin) * _MICRO,
            "args": _details(problem, event),
        }
        for event in events
    ]  # fmt: skip
    return {"traceEvents": named + spans, "displayTimeUnit": "ms"}


def timeline_text(problem: PlacementProblem, events: Sequence[Event]) -> str:
    """A line for each work and transfer, in the order in which they begin."""
    return "\n".join(_lines(problem, events))


def _lines(problem: PlacementProblem, events: Sequence[Event]) -> Iterator[str]:
    lanes = [*problem.devices, *(f"bus {bus}" for bus in range(problem.buses))]
    wide = max(map(len, lanes))
    for event in sorted(events, key=lambda e: (e.begin, e.end, _lane(problem, e))):
        span = f"{event.begin * _MICRO:12.1f} {event.end * _MICRO:12.1f} us"
        yield f"{span}  {lanes[_lane(problem, event)]:<{wide}}  {_name(problem, event)}"


def _lane(problem: PlacementProblem, event: Event) -> int:
    if event.bus is not None:
        return len(problem.devices) + event.bus
    return event.device if event.by is None else event.by


def _name(problem: PlacementProblem, event: Event) -> str:
    if event.work is not None:
        return problem.works[event.work].name
    assert event.value is not None and event.source is not None
    writer = problem.writer.get(event.value)
    what = f"input {event.value}" if writer is None else f"result {event.value} of {problem.works[writer].name}"
    return f"{what}: {problem.devices[event.source]} to {problem.devices[event.device]}"


def _details(problem: PlacementProblem, event: Event) -> dict[str, Any]:
    return {} if event.value is None else {"bytes": problem.values[event.value]}
