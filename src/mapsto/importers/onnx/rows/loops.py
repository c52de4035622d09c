"""Rows of Loop and Scan (`rounds` says what a loop is made into)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mapsto.importers.onnx.rows.rounds import COUNTER, Round, Trips, built
from mapsto.importers.onnx.rows.sequences import extended
from mapsto.importers.onnx.sequences import TensorOrSequence, TensorSequence
from mapsto.importers.onnx.table import NodeCall, Result, row
from mapsto.ir.expr import Dim, Expr, equality, maximum
from mapsto.ir.graph import Value
from mapsto.ops.arranging import reshape, transpose
from mapsto.ops.builder import Builder

# ---- Loop ------------------------------------------------------------------------------------------------------------


@row("Loop")
def _loop(call: NodeCall) -> Result:
    """Whether to go on is heeded where the first condition is left out as well, as other runtimes do."""
    b, graph = call.builder, call.graph("body")
    carried = [call.operand(i) or call.input(i) for i in range(2, len(call.inputs))]
    limit, go = call.optional(0), call.optional(1)
    if len(graph.output) != len(call.outputs) + 1 or len(call.outputs) < len(carried):
        raise call.wrong(
            f"its body yields {len(graph.output)} values, where {len(carried)} are carried and the node has "
            f"{len(call.outputs)} outputs"
        )
    trips = Trips(None, None) if limit is None else _trips(b, limit)
    go = None if go is None else _unless_true(b, go)
    if any(isinstance(each, TensorSequence) for each in carried):
        return _loop_of_sequences(call, carried, trips, go)
    starts = call.tensors(carried, "what is carried")
    return built(call, b, starts, trips, go, lambda *round_: _round(call, starts, *round_))


def _inlined(call: NodeCall, b: Builder, number: Value, states: Sequence[TensorOrSequence]) -> list[TensorOrSequence]:
    """What the body of a Loop yields in a round: whether to go on, then the states, then the rows."""
    graph = call.graph("body")
    given = (number, b.constant(True, "true"))
    counted = [_as_declared(b, v, e) for v, e in zip(given, graph.input, strict=False)]
    return call.translator.inline_graph(graph, call.name, [*counted, *states], b)


def _round(call: NodeCall, starts: Sequence[Value], b: Builder, number: Value, states: Sequence[Value]) -> Round:
    again, *made = call.tensors(_inlined(call, b, number, states), "what the body yields")
    first = [*starts, *(None for _ in made[len(starts) :])]
    made = [_as_said(b, *each) for each in zip(made, call.graph("body").output[1:], first, strict=True)]
    return Round(_unless_true(b, again), made[: len(starts)], made[len(starts) :])


def _as_said(b: Builder, value: Value, entry: Any, start: Value | None) -> Value:
    """What a body yields with the extents that the model says as numbers, where only its round knows them. start: what
    it is first, if it is carried: where that has another extent, the model is not believed.
    """
    dims = entry.type.tensor_type.shape.dim
    if len(dims) != value.rank or (start is not None and start.rank != value.rank):
        return value
    shape = list(value.shape)
    for axis, (d, said) in enumerate(zip(value.shape, dims, strict=True)):
        wanted = int(said.dim_value)
        if isinstance(d, Expr) and wanted > 0 and (start is None or start.shape[axis] == wanted):
            b.require(equality(d, wanted), f"{entry.name!r} has {wanted} elements along axis {axis}")
            shape[axis] = wanted
    return reshape(b, value, shape)


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
    return Trips(b.known(known, COUNTER, "trips"), max(known, 0) if isinstance(known, int) else maximum(known, 0))


# ---- Loop over sequences ---------------------------------------------------------------------------------------------

# So many rounds of a loop that carries sequences are written out at most.
_ROUNDS = 1024


def _loop_of_sequences(call: NodeCall, carried: Sequence[TensorOrSequence], trips: Trips, go: Value | None) -> Result:
    """All rounds written out, where their number is known: sequences may be read and changed then. Else rounds may only
    add to them; what they add is collected as rows are.
    """
    size = trips.size
    if isinstance(size, int) and trips.is_exact and go is None and size <= _ROUNDS:
        written = _all_rounds(call, carried, size)
        if written is not None:
            return written
    return _growing(call, carried, trips, go)


def _all_rounds(call: NodeCall, carried: Sequence[TensorOrSequence], count: int) -> list[TensorOrSequence] | None:
    """None where a round may be the last one before its time."""
    b, states = call.builder, list(carried)
    collected: list[list[Value]] = [[] for _ in range(len(call.outputs) - len(carried))]
    if not count and collected:
        raise call.unsupported("a loop over sequences that runs no round and collects rows is not supported")
    for number in range(count):
        again, *made = _inlined(call, b, b.constant(number, "round", COUNTER), states)
        if _unless_true(b, call.tensors([again], "the condition")[0]) is not None:
            return None
        states = made[: len(carried)]
        for rows, value in zip(collected, call.tensors(made[len(carried) :], "a row"), strict=True):
            rows.append(reshape(b, value, (1, *value.shape)))
    return [*states, *(rows[0] if count == 1 else b.one("concat", rows, axis=0) for rows in collected)]


def _growing(
    call: NodeCall, carried: Sequence[TensorOrSequence], trips: Trips, go: Value | None
) -> list[TensorOrSequence]:
    b, starts = call.builder, [each for each in carried if isinstance(each, Value)]
    added: list[int] = []  # how many elements a round adds to each sequence

    def one_round(inner: Builder, number: Value, states: Sequence[Value]) -> Round:
        tensors = iter(states)
        given = [
            TensorSequence(each.dtype, is_growing=True) if isinstance(each, TensorSequence) else next(tensors)
            for each in carried
        ]
        again, *made = _inlined(call, inner, number, given)
        handed, rows = made[: len(carried)], call.tensors(made[len(carried) :], "a row")
        sequences = [each for each in handed if isinstance(each, TensorSequence)]
        if [type(each) for each in handed] != [type(each) for each in carried] or not all(
            each.is_growing for each in sequences
        ):
            raise call.unsupported("what the body makes of a sequence that it carries is not that one with more in it")
        added[:] = [len(each.elements) for each in sequences]
        condition = call.tensors([again], "the condition")[0]
        more = [value for each in sequences for value in each.elements]
        return Round(_unless_true(inner, condition), [v for v in handed if isinstance(v, Value)], [*rows, *more])

    results = built(call, b, starts, trips, go, one_round)
    tensors, rows = iter(results[: len(starts)]), results[len(starts) :]
    collected, grown = rows[: len(rows) - sum(added)], iter(rows[len(rows) - sum(added) :])
    counts = iter(added)
    return [
        *(
            extended(call, each, [next(grown) for _ in range(next(counts))])
            if isinstance(each, TensorSequence)
            else next(tensors)
            for each in carried
        ),
        *collected,
    ]


# ---- Scan ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Scanned:
    """What is read row by row: along which axis, and whether from the last row on."""

    value: Value
    axis: int
    backwards: bool

    def row(self, b: Builder, number: Value, count: Dim) -> Value:
        if self.backwards:
            number = b.one("sub", [b.known(count - 1, COUNTER, "last"), number])
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
    _need_axes(call, scanned, 1)
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
    _need_axes(call, starts, 1)
    _need_axes(call, scanned, 2)
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

    return built(call, b, [], Trips(b.known(batch, COUNTER, "samples"), batch), None, sample)


def _need_axes(call: NodeCall, values: Sequence[Value], least: int) -> None:
    for value in values:
        if value.rank < least:
            raise call.wrong(f"{value} has {value.rank} axes, where rows are read along one of {least} at least")


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
        yielded = call.translator.inline_graph(graph, call.name, [*states, *own], inner)
        made = call.tensors(yielded, "what the body yields")
        return Round(None, made[: len(starts)], made[len(starts) :])

    trips = Trips(b.known(rows, COUNTER, "rows"), rows)
    if count is not None:
        trips = Trips(b.one("min", [b.one("cast", [count], to=COUNTER), trips.count]), rows, False)
    results = built(call, b, starts, trips, None, body)
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
