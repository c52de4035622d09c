"""Rows of recurrent layers: LSTM, GRU, RNN: x W + b of all steps, a matrix product, and the steps, a routine. Ours take
the batch on axis 1, weights with a directions axis in front.
"""

from __future__ import annotations

from mapsto.importers.onnx.rows.common import transpose
from mapsto.importers.onnx.table import NodeCall, Result, row
from mapsto.ir.graph import Value
from mapsto.ops.projection import Layer, last_bias, projected, start
from mapsto.ops.recurrent import GATES, directions_of, makes_all_gates_at_once

_ACTIVATIONS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}


def _checked(call: NodeCall) -> tuple[int, str]:
    """(hidden size, direction); what the layers cannot do is refused."""
    direction = call.one_of("direction", "forward", ["forward", "reverse", "bidirectional"])
    count = 2 if direction == "bidirectional" else 1
    activations = call.texts("activations")
    plain_relu = call.op == "RNN" and activations and {a.lower() for a in activations} == {"relu"}
    if (
        activations
        and not plain_relu
        and [a.lower() for a in activations] != [a.lower() for a in _ACTIVATIONS[call.op] * count]
    ):
        raise call.unsupported(
            f"activations {activations} are not supported; only the defaults {list(_ACTIVATIONS[call.op])} are"
        )
    if call.number("clip", 0.0) != 0.0:
        raise call.unsupported("attribute clip is not supported; leave it out")
    if call.integer("input_forget", 0):
        raise call.unsupported("attribute input_forget=1 is not supported")
    w = call.input(1)
    if w.rank != 3 or call.input(2).rank != 3 or w.shape[0] != count:
        raise call.wrong(f"weights {w} do not fit direction {direction!r}")
    hidden = call.input(2).shape[2]
    if not isinstance(hidden, int) or call.integer("hidden_size", hidden) != hidden:
        raise call.wrong(f"hidden_size {call.integer('hidden_size', 0)} is not the recurrent weights' {hidden}")
    return hidden, direction


def _batch_first(call: NodeCall) -> bool:
    return bool(call.integer("layout", 0))


def _turned(call: NodeCall, value: Value | None) -> Value | None:
    """A sequence or a state with the batch on axis 1; with `layout` 1 it comes on axis 0."""
    if value is None or not _batch_first(call) or value.rank < 2:
        return value
    return transpose(call.builder, value, (1, 0, *range(2, value.rank)))


def _layer(call: NodeCall, states: tuple[int, ...], attrs: dict[str, object]) -> Result:
    """The product of all steps, and the steps. states: which inputs are initial states."""
    b, op = call.builder, call.op.lower()
    hidden, direction = _checked(call)
    attrs = {"direction": direction, **attrs}
    x, bias = _turned(call, call.input(0)), call.optional(3)
    assert x is not None
    apart = op == "gru" and makes_all_gates_at_once(op, attrs)
    layer = Layer(x, call.input(1), bias, directions_of(attrs), GATES[op], hidden, apart)
    layer.check(b)
    operands = [call.input(2), call.optional(4), *(_turned(call, call.optional(i)) for i in states)]
    if op == "lstm":
        operands.append(call.optional(7))
    elif apart and bias is not None:
        operands.append(last_bias(b, bias, hidden))
    operands += [None] * (5 - len(operands))
    one = x.shape[0] == 1 and isinstance(x.shape[2], int) and makes_all_gates_at_once(op, attrs)
    given = [x, *operands, layer.w, start(b, layer)] if one else [projected(b, layer), *operands]
    return _results(call, b.add(op, given, attrs))


def _results(call: NodeCall, outputs: tuple[Value, ...]) -> Result:
    if not _batch_first(call):
        return outputs
    y, *last = outputs  # y[time, direction, batch, hidden] -> [batch, time, direction, hidden]
    return [transpose(call.builder, y, (2, 0, 1, 3)), *(transpose(call.builder, v, (1, 0, 2)) for v in last)]


@row("LSTM")
def _lstm(call: NodeCall) -> Result:
    return _layer(call, (5, 6), {})


@row("GRU")
def _gru(call: NodeCall) -> Result:
    return _layer(call, (5,), {"linear_before_reset": bool(call.integer("linear_before_reset", 0))})


@row("RNN")
def _rnn(call: NodeCall) -> Result:
    return _layer(call, (5,), {"activation": (call.texts("activations") or ["tanh"])[0].lower()})
