"""Rows of recurrent layers: LSTM, GRU, RNN. Ours take the batch on axis 1, weights with a directions axis in front."""

from __future__ import annotations

from mapsto.importers.onnx.rows.common import transpose
from mapsto.importers.onnx.table import Call, Result, row
from mapsto.ir.graph import Value

_GATES = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}


def _check(call: Call) -> tuple[int, str]:
    """(hidden size, direction); what the layers cannot do is refused."""
    direction = call.one_of("direction", "forward", ["forward", "reverse", "bidirectional"])
    count = 2 if direction == "bidirectional" else 1
    activations = call.texts("activations")
    plain_relu = call.op == "RNN" and activations and {a.lower() for a in activations} == {"relu"}
    if (
        activations
        and not plain_relu
        and [a.lower() for a in activations] != [a.lower() for a in _GATES[call.op] * count]
    ):
        raise call.unsupported(
            f"activations {activations} are not supported; only the defaults {list(_GATES[call.op])} are"
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


def _batch_first(call: Call) -> bool:
    return bool(call.integer("layout", 0))


def _operands(call: Call, states: tuple[int, ...]) -> list[Value | None]:
    """The inputs; with `layout` 1 the sequence and the initial states are turned to have the batch on axis 1."""
    values = [call.optional(i) for i in range(8 if call.op == "LSTM" else 6)]
    if _batch_first(call):
        for i in (0, *states):
            v = values[i]
            if v is not None:
                values[i] = transpose(call.builder, v, (1, 0, *range(2, v.rank)))
    return values


def _turned(call: Call, outputs: tuple[Value, ...]) -> list[Value | None]:
    if not _batch_first(call):
        return list(outputs)
    y, *last = outputs  # y[time, direction, batch, hidden] -> [batch, time, direction, hidden]
    return [transpose(call.builder, y, (2, 0, 1, 3)), *(transpose(call.builder, v, (1, 0, 2)) for v in last)]


@row("LSTM")
def _lstm(call: Call) -> Result:
    hidden, direction = _check(call)
    return _turned(call, call.builder.add("lstm", _operands(call, (5, 6)), {"hidden": hidden, "direction": direction}))


@row("GRU")
def _gru(call: Call) -> Result:
    hidden, direction = _check(call)
    attrs = {
        "hidden": hidden,
        "direction": direction,
        "linear_before_reset": bool(call.integer("linear_before_reset", 0)),
    }
    return _turned(call, call.builder.add("gru", _operands(call, (5,)), attrs))


@row("RNN")
def _rnn(call: Call) -> Result:
    hidden, direction = _check(call)
    activation = (call.texts("activations") or ["tanh"])[0].lower()
    return _turned(
        call,
        call.builder.add(
            "rnn", _operands(call, (5,)), {"hidden": hidden, "direction": direction, "activation": activation}
        ),
    )
