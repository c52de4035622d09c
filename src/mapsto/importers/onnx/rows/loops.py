"""Rows of Loop and Scan: both are loops of ours (`ops.loops`), whose states are what is carried, a counter, and tensors
in which what each round yields is collected.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mapsto.importers.onnx.rows.common import reshape, slice_axis, transpose
from mapsto.importers.onnx.table import NodeCall, Result, row
from mapsto.ir.bounds import ALL
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, equality, maximum, symbols
from mapsto.ir.graph import Value, binds
from mapsto.ops.builder import Builder
from mapsto.ops.ranges import Noted

_COUNTER = DType.I64


@dataclass(frozen=True)
class Round:
    """What a body makes of one round: whether to go on (None: nothing but the count ends the loop), the states that it
    hands on, and what is collected.
    """

    again: Value | None
    states: Sequence[Value]
    rows: Sequence[Value]


@dataclass(frozen=True)
class Trips:
    """How many rounds there are at most: as a scalar (None: no limit), and as a size where it is known as one."""

    count: Value | None
    size: Dim | None


# (builder of the body, the number of the round, states) -> what it makes of them.
MakeRound = Callable[[Builder, Value, Sequence[Value]], Round]


# ---- Loop ------------------------------------------------------------------------------------------------------------


@row("Loop")
def _loop(call: NodeCall) -> Result:
    """Whether to go on is heeded where the first condition is left out as well, as other runtimes do."""
    b, graph = call.builder, call.graph("body")
    starts = [call.input(i) for i in range(2, len(call.inputs))]
    limit, go = call.optional(0), call.optional(1)
    if len(graph.output) != len(call.outputs) + 1 or len(call.outputs) < len(starts):
        raise call.wrong(
            f"its body yields {len(graph.output)} values, where {len(starts)} are carried and the node has "
            f"{len(call.outputs)} outputs"
        )

    def body(inner: Builder, number: Value, states: Sequence[Value]) -> Round:
        goes = inner.constant(True, "true")
        number, goes = (_as_declared(inner, v, e) for v, e in zip((number, goes), graph.input, strict=False))
        again, *made = call.translator.inline_graph(graph, call.name, [number, goes, *states], inner)
        return Round(_unless_true(inner, again), made[: len(starts)], made[len(starts) :])

    trips = Trips(None, None) if limit is None else _trips(b, limit)
    return _built(call, b, starts, trips, None if go is None else _unless_true(b, go), body)


def _as_declared(b: Builder, scalar: Value, entry: Any) -> Value:
    """What the standard calls a scalar may be declared as a vector of one element."""
    tensor = entry.type.tensor_type
    return reshape(b, scalar, (1,)) if tensor.HasField("shape") and len(tensor.shape.dim) == 1 else scalar


def _unless_true(b: Builder, condition: Value) -> Value | None:
    """A condition as a scalar; None for one that always holds."""
    content = b.content(condition)
    if content is not None and content.size == 1 and content.reshape(-1)[0] == 1:
        return None
    return reshape(b, condition, ())


def _trips(b: Builder, limit: Value) -> Trips:
    content = b.content(limit)
    known = content.reshape(-1)[0] if content is not None and content.size == 1 else None
    if known is None:
        return Trips(reshape(b, limit, ()), None)
    return Trips(b.known(known, _COUNTER, "trips"), max(known, 0) if isinstance(known, int) else maximum(known, 0))


# ---- building --------------------------------------------------------------------------------------------------------


def _built(
    call: NodeCall, b: Builder, starts: Sequence[Value], trips: Trips, go: Value | None, body: MakeRound
) -> list[Value]:
    """A loop in `b`: the last states, then what was collected, one row a round; rows of rounds that a count less than
    `trips.size` leaves out are zeros.
    """
    inner = Builder(b.fresh(f"{call.name}.body"), b)
    number = inner.input("round", _COUNTER, ())
    if trips.size is not None:
        inner.note_bounds(number.name, Noted("place", (ALL,), (trips.size,)))
    states = [inner.input(v.name, v.dtype, v.shape) for v in starts]
    made = body(inner, number, states)
    handed = [_handed(call, inner, i, state, made.states[i]) for i, state in enumerate(states)]
    size = trips.size
    if made.rows and size is None:
        size = _size(call, b, trips)
        inner.note_bounds(number.name, Noted("place", (ALL,), (size,)))
    blanks, collected = [], []
    for i, value in enumerate(made.rows):
        assert size is not None
        _look_at_row(call, inner, value, i)
        shape = (size, *value.shape)
        blanks.append(b.one("blank", [], shape=shape, dtype=value.dtype))
        rows = inner.input(f"{call.name}.rows", value.dtype, shape)
        collected.append(inner.one("scatter_nd", [rows, reshape(inner, number, (1,)), value], reduction="none"))
    following = inner.one("add", [number, inner.constant(1, "one", _COUNTER)])
    again = _all(inner, _below(inner, following, trips.count), made.again)
    zero = b.constant(0, "zero", _COUNTER)
    begins = _all(b, _below(b, zero, trips.count), go)
    below = (-1 if size is None else size, *(-1 for _ in (*handed, *collected)))
    graph = inner.finish([again, following, *handed, *collected])
    count, *results = b.add(
        "loop", [begins, zero, *starts, *blanks], {"sizes": (), "below": below}, [graph], ["", *call.outputs]
    )
    if made.again is None and go is None:
        return results
    rounds = b.dims(count, "rounds")[0] if collected else 0
    return [*results[: len(starts)], *(_first(b, rows, rounds) for rows in results[len(starts) :])]


def _below(b: Builder, number: Value, count: Value | None) -> Value | None:
    return None if count is None else b.one("lt", [number, count])


def _all(b: Builder, *conditions: Value | None) -> Value:
    """Whether all of some conditions hold; one that is None does."""
    found: Value | None = None
    for value in conditions:
        if value is not None:
            found = value if found is None else b.one("and", [found, value])
    return b.constant(True, "true") if found is None else found


def _first(b: Builder, rows: Value, count: Dim) -> Value:
    """The rows that were made."""
    return slice_axis(b, rows, 0, 0, count)


def _handed(call: NodeCall, b: Builder, i: int, state: Value, value: Value) -> Value:
    """What is handed on, of the very type of the state."""
    if value.dtype is not state.dtype or value.rank != state.rank:
        raise call.wrong(f"the value {i} that it carries begins as {state} and is handed on as {value}")
    for a, d in zip(state.shape, value.shape, strict=True):
        if a != d and not b.proves(equality(a, d)):
            raise call.unsupported(
                f"the value {i} that it carries begins as {state} and is handed on as {value}; it must keep its shape"
            )
    return reshape(b, value, state.shape)


def _size(call: NodeCall, b: Builder, trips: Trips) -> Dim:
    """How many rows are collected at most, where only the run knows it."""
    if trips.count is None:
        raise call.unsupported(
            "it collects a row in each round, and nothing says how many rounds there are at most; give it a trip count"
        )
    zero = b.constant(0, "zero", _COUNTER)
    return b.dims(b.one("max", [trips.count, zero]), "trips")[0]


def _look_at_row(call: NodeCall, b: Builder, value: Value, i: int) -> None:
    """Raises where the size of a row is known in its round alone."""
    inside = {name for node in b.nodes for name in binds(node)}
    found = inside & {name for d in value.shape for name in symbols(d)}
    if found:
        raise call.unsupported(
            f"what it collects {i}-th is {value}, and only the round knows the size {', '.join(sorted(found))}; "
            "all rows must have one size"
        )


# ---- Scan ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Scanned:
    """What is read row by row: along which axis, and whether from the last row on."""

    value: Value
    axis: int
    backwards: bool

    def row(self, b: Builder, number: Value, count: Dim) -> Value:
        if self.backwards:
            number = b.one("sub", [b.known(count - 1, _COUNTER, "last"), number])
        return b.one("gather", [self.value, number], axis=self.axis)


@row("Scan")
def _scan(call: NodeCall) -> Result:
    return _scan_of_batches(call) if call.opset < 9 else _scan_of_rows(call)


def _scan_of_rows(call: NodeCall) -> Result:
    b, graph = call.builder, call.graph("body")
    values, several = call.all_inputs(), call.integer("num_scan_inputs")
    if not 1 <= several <= len(values) or len(graph.output) != len(call.outputs):
        raise call.wrong(
            f"{several} of {len(values)} inputs are scanned, its body yields {len(graph.output)} values for "
            f"{len(call.outputs)} outputs"
        )
    starts, scanned = values[: len(values) - several], values[len(values) - several :]
    axes = _per_value(call, "scan_input_axes", several)
    backwards = _per_value(call, "scan_input_directions", several)
    read = [_Scanned(v, call.normal_axis(a, v.rank), bool(d)) for v, a, d in zip(scanned, axes, backwards, strict=True)]
    collected = len(graph.output) - len(starts)
    results = _scanned(call, b, starts, read, _per_value(call, "scan_output_directions", collected), None)
    axes = _per_value(call, "scan_output_axes", collected)
    rows = results[len(starts) :]
    placed = [_along(call, b, value, axis) for value, axis in zip(rows, axes, strict=True)]
    return [*results[: len(starts)], *placed]


def _scan_of_batches(call: NodeCall) -> Result:
    """Scan of opset 8: by itself for each sample of a batch, which may have its own number of rows."""
    b, several = call.builder, call.integer("num_scan_inputs")
    lengths, values = call.optional(0), [call.input(i) for i in range(1, len(call.inputs))]
    if not 1 <= several <= len(values):
        raise call.wrong(f"{several} of {len(values)} inputs are scanned")
    starts, scanned = values[: len(values) - several], values[len(values) - several :]
    backwards = _per_value(call, "directions", several)
    batch = values[0].shape[0]
    for value in values[1:]:
        b.require(equality(batch, value.shape[0]), "all inputs must have as many samples")

    def sample(inner: Builder, number: Value, states: Sequence[Value]) -> Round:
        own = [inner.one("gather", [v, number], axis=0) for v in (*starts, *scanned)]
        count = None if lengths is None else inner.one("gather", [lengths, number], axis=0)
        read = [_Scanned(v, 0, bool(d)) for v, d in zip(own[len(starts) :], backwards, strict=True)]
        forwards = [0] * (len(call.outputs) - len(starts))
        return Round(None, (), _scanned(call, inner, own[: len(starts)], read, forwards, count))

    return _built(call, b, [], Trips(b.known(batch, _COUNTER, "samples"), batch), None, sample)


def _per_value(call: NodeCall, name: str, count: int) -> list[int]:
    """An attribute with a number for each value; zeros where it is left out."""
    found = call.integers(name)
    if found is not None and len(found) != count:
        raise call.wrong(f"attribute {name!r} has {len(found)} elements for {count} values")
    return found or [0] * count


def _scanned(
    call: NodeCall, b: Builder, starts: Sequence[Value], read: Sequence[_Scanned], backwards: Sequence[int],
    count: Value | None,
) -> list[Value]:  # fmt: skip
    """The last states, then what was collected, with the rows as axis 0. backwards: what is collected from the last row
    on. count: of rows, where not all are read.
    """
    graph = call.graph("body")
    extents = [each.value.shape[each.axis] for each in read]
    rows = extents[0]
    for extent in extents[1:]:
        b.require(equality(rows, extent), "all inputs that are scanned must have as many rows")

    def body(inner: Builder, number: Value, states: Sequence[Value]) -> Round:
        own = [each.row(inner, number, rows) for each in read]
        made = call.translator.inline_graph(graph, call.name, [*states, *own], inner)
        return Round(None, made[: len(starts)], made[len(starts) :])

    trips = Trips(b.known(rows, _COUNTER, "rows"), rows)
    if count is not None:
        trips = Trips(b.one("min", [b.one("cast", [count], to=_COUNTER), trips.count]), rows)
    results = _built(call, b, starts, trips, None, body)
    made = results[len(starts) :]
    return [*results[: len(starts)], *(_turned(b, v) if back else v for v, back in zip(made, backwards, strict=True))]


def _turned(b: Builder, rows: Value) -> Value:
    """The last row first."""
    extent = rows.shape[0]
    starts = (extent - 1, *(0 for _ in rows.shape[1:]))
    return b.one("slice", [rows], starts=starts, steps=(-1, *(1 for _ in rows.shape[1:])), shape=rows.shape)


def _along(call: NodeCall, b: Builder, rows: Value, axis: int) -> Value:
    """What was collected with its rows along another axis."""
    at = call.normal_axis(axis, rows.rank)
    order = list(range(1, rows.rank))
    return transpose(b, rows, [*order[:at], 0, *order[at:]])
