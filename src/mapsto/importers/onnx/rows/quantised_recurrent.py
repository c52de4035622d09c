"""DynamicQuantizeLSTM of com.microsoft: an LSTM whose weights are integers, and whose inputs and states are quantised
to 8 bits by their own ranges: all inputs at once, the states in every step. Both products are exact in integers.

The text of the op leaves open what a range is taken over; this is what ONNX Runtime does on one thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mapsto.importers.onnx.rows.common import beside, centred_matrix
from mapsto.importers.onnx.rows.microsoft import DOMAIN
from mapsto.importers.onnx.rows.rounds import COUNTER, Round, Trips, built
from mapsto.importers.onnx.table import NodeCall, Result, row
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim
from mapsto.ir.graph import Value
from mapsto.ops.arranging import reshape, slice_axis, transpose, unsqueeze
from mapsto.ops.builder import Builder
from mapsto.ops.quantisation import dequantise

_DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}


@row("DynamicQuantizeLSTM", domain=DOMAIN)
def _dynamic_lstm(call: NodeCall) -> Result:
    """Inputs: x[time, batch, inputs], W and R [directions, inputs, gates], bias, lengths, states, peepholes, then scale
    and zero point of W and of R, one or one a gate for each direction.
    """
    x, w, r = (call.input(i) for i in range(3))
    directions = _DIRECTIONS[call.one_of("direction", "forward", list(_DIRECTIONS))]
    if x.rank != 3 or w.rank != 3 or r.rank != 3 or w.shape[0] != len(directions):
        raise call.wrong(f"x {x}, weights {w} and {r} do not fit {len(directions)} directions")
    if not _is_usual(call):
        return _in_floats(call)
    made = [_direction(call, k, backwards) for k, backwards in enumerate(directions)]
    y, h, c = zip(*made, strict=True)
    return [_stacked(call.builder, y, 1), _stacked(call.builder, h, 0), _stacked(call.builder, c, 0)]


def _stacked(b: Builder, values: Sequence[Value], axis: int) -> Value:
    """What directions give, along an axis of directions."""
    parts = [unsqueeze(b, v, [axis]) for v in values]
    return parts[0] if len(parts) == 1 else b.one("concat", parts, axis=axis)


def _is_usual(call: NodeCall) -> bool:
    usual = ["Sigmoid", "Tanh", "Tanh"]
    given = call.texts("activations") or usual
    return (
        [name.lower() for name in given] == [name.lower() for name in usual * (len(given) // 3)]
        and not call.number("clip", 0.0)
        and not call.integer("input_forget", 0)
        and not call.has(7)
    )


def _in_floats(call: NodeCall) -> Result:
    """With peepholes, other activations, or a clip: steps in f32, from the integers of the weights alone."""
    b = call.builder
    weights = []
    for i, scale, zero in ((1, 8, 9), (2, 10, 11)):
        w = call.input(i)
        shape = [(v.shape[0], 1, v.shape[1] if v.rank == 2 else 1) for v in (call.input(scale), call.input(zero))]
        real = dequantise(
            b, w, reshape(b, call.input(scale), shape[0]), reshape(b, call.input(zero), shape[1]), DType.F32
        )
        weights.append(transpose(b, real, (0, 2, 1)))
    return call.several("LSTM", call.input(0), *weights, *call.inputs[3:8], outputs=len(call.outputs))


@dataclass(frozen=True)
class _Weights:
    """Weights of one direction: integers [inputs, gates], scale and zero point, of one element or one a gate."""

    whole: Value
    scale: Value
    zero: Value

    def times(self, call: NodeCall, rows: Value) -> Value:
        """rows[n, inputs], quantised by their own range, times the weights: f32[n, gates]."""
        b = call.builder
        q, scale, zero = call.several("DynamicQuantizeLinear", rows, outputs=3)
        left, right = centred_matrix(b, q, zero, False), centred_matrix(b, self.whole, self.zero, True)
        total = b.one("matmul", [left, right])
        factor = b.one("mul", [beside(b, scale, False), beside(b, self.scale, True)])
        return b.one("mul", [b.one("cast", [total], to=DType.F32), factor])


def _of_direction(call: NodeCall, i: int, k: int) -> Value:
    """Input i without its axis of directions."""
    v = call.input(i)
    return reshape(call.builder, slice_axis(call.builder, v, 0, k, 1), v.shape[1:])


def _direction(call: NodeCall, k: int, backwards: bool) -> tuple[Value, Value, Value]:
    """(y[time, batch, hidden], last h, last c) of one direction."""
    b = call.builder
    w, r = (_Weights(*(_of_direction(call, i, k) for i in at)) for at in ((1, 8, 9), (2, 10, 11)))
    x, hidden = _turned(call, call.input(0), backwards), r.whole.shape[0]
    steps, batch = x.shape[0], x.shape[1]
    inputs = reshape(b, w.times(call, reshape(b, x, (steps * batch, x.shape[2]))), (steps, batch, 4 * hidden))
    bias = None
    if call.has(3):
        both = _of_direction(call, 3, k)
        bias = b.one("add", [slice_axis(b, both, 0, at, 4 * hidden) for at in (0, 4 * hidden)])
    starts = [
        reshape(b, _of_direction(call, i, k), (batch, hidden)) if call.has(i)
        else b.one("full", [], shape=(batch, hidden), value=0.0, dtype=DType.F32)
        for i in (5, 6)
    ]  # fmt: skip
    lengths = reshape(b, call.input(4), (batch,)) if call.has(4) else None

    def step(inner: Builder, number: Value, states: Sequence[Value]) -> Round:
        within = replace(call, builder=inner)
        gates = inner.one("add", [inner.one("gather", [inputs, number], axis=0), r.times(within, states[0])])
        h, c = _cell(inner, gates if bias is None else inner.one("add", [gates, bias]), states[1], hidden)
        if lengths is None:
            return Round(None, [h, c], [h])
        lasts = inner.one("lt", [number, inner.one("cast", [lengths], to=COUNTER)])
        lasts = reshape(inner, lasts, (batch, 1))
        kept = [inner.one("select", [lasts, *each]) for each in zip((c, h), states[1:], strict=True)]
        shown = inner.one("select", [lasts, h, within.scalar(0.0, h)])
        return Round(None, [shown, *kept], [shown])

    trips = Trips(b.known(steps, COUNTER, "steps"), steps)
    if lengths is not None:
        starts.append(starts[0])  # a sample that has ended counts as zeros in the range of states; its last is kept
    *states, y = built(call, b, starts, trips, None, step, part=f"direction {k}")
    return _turned(call, y, backwards), states[0 if lengths is None else 2], states[1]


def _turned(call: NodeCall, x: Value, backwards: bool) -> Value:
    """The steps of x[time, batch, ...] the other way round, those of each sample up to its length."""
    if not backwards:
        return x
    if call.has(4):
        lengths = call.builder.one("cast", [call.input(4)], to=COUNTER)
        plain = replace(call, attributes={})
        return plain.standard("ReverseSequence", x, lengths)
    starts = (x.shape[0] - 1, *(0 for _ in x.shape[1:]))
    return call.builder.one("slice", [x], starts=starts, steps=(-1, *(1 for _ in x.shape[1:])), shape=x.shape)


def _cell(b: Builder, gates: Value, c: Value, hidden: Dim) -> tuple[Value, Value]:
    """The next states of gates [batch, input | output | forget | cell]."""
    i, o, f, g = (slice_axis(b, gates, 1, hidden * k, hidden) for k in range(4))
    i, o, f = (b.one("sigmoid", [v]) for v in (i, o, f))
    c = b.one("add", [b.one("mul", [f, c]), b.one("mul", [i, b.one("tanh", [g])])])
    return b.one("mul", [o, b.one("tanh", [c])]), c
