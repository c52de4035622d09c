"""Rows of recurrent layers, which stay whole: of each layer a matrix product of all steps, and the steps, a routine."""

from __future__ import annotations

from collections.abc import Sequence

from mapsto.importers.torch.table import AtenCall, aten
from mapsto.ir.expr import Dim
from mapsto.ir.graph import Value
from mapsto.ops import composite
from mapsto.ops.arranging import reshape, slice_axis, transpose, unsqueeze
from mapsto.ops.projection import layer_steps

# Where a gate of ours is among torch's (i f g o; r z n): ours are i o f g, and z r n.
_ORDERS = {"lstm": (0, 3, 1, 2), "gru": (1, 0, 2), "rnn": (0,)}


@aten("lstm.input", "mapsto::lstm")
def _lstm(call: AtenCall) -> list[Value]:
    h, c = call.values("hx")
    return _layers(call, "lstm", [h, c], {})


@aten("gru.input", "mapsto::gru")
def _gru(call: AtenCall) -> list[Value]:
    return _layers(call, "gru", [call.value("hx")], {"linear_before_reset": True})


@aten("rnn_tanh.input", "rnn_relu.input", "mapsto::rnn_tanh", "mapsto::rnn_relu")
def _rnn(call: AtenCall) -> list[Value]:
    kind = call.name.removeprefix("rnn_")
    one = ((kind, 0.0, 0.0),)
    return _layers(call, "rnn", [call.value("hx")], {} if kind == "tanh" else {"activations": one})


def _layers(call: AtenCall, op: str, states: list[Value], attrs: dict[str, object]) -> list[Value]:
    """All layers, one after the other; hx and the results are laid out [layer * directions, batch, hidden]."""
    b, x = call.builder, call.value("input")
    drops = call.number("dropout") if call.flag("train") and call.integer("num_layers") > 1 else 0.0
    if drops > 0.0 and call.run is None:
        raise call.unsupported("dropout between layers in training is not supported; call `.eval()`")
    first = call.flag("batch_first")
    turned = transpose(b, x, (1, 0, *range(2, x.rank))) if first and x.rank == 3 else x
    if x.rank == 2:
        turned, states = unsqueeze(b, x, [1]), [unsqueeze(b, s, [1]) for s in states]
    directions = 2 if call.flag("bidirectional") else 1
    weights, per = call.values("params"), 4 if call.flag("has_biases") else 2
    if len(weights) != per * directions * call.integer("num_layers"):
        raise call.unsupported("a projection of the hidden state (`proj_size`) is not supported; leave it out")
    attrs = {"direction": "bidirectional" if directions == 2 else "forward", **attrs}
    last: list[list[Value]] = [[] for _ in states]
    for layer in range(call.integer("num_layers")):
        own = [weights[(layer * directions + d) * per :][:per] for d in range(directions)]
        begin = [slice_axis(b, s, 0, layer * directions, directions) for s in states]
        y, *ends = _layer(call, op, turned, own, begin, attrs)
        turned = _joined(call, y)
        if drops > 0.0 and call.run is not None and layer + 1 < call.integer("num_layers"):
            turned, _ = composite.dropout(b, turned, drops, call.run(), call.stream() + layer)
        for kept, end in zip(last, ends, strict=True):
            kept.append(end)
    ends = [each[0] if len(each) == 1 else call.one("concat", each, axis=0) for each in last]
    if x.rank == 2:
        return [
            reshape(b, turned, (turned.shape[0], turned.shape[2])),
            *(reshape(b, e, (e.shape[0], e.shape[2])) for e in ends),
        ]
    return [transpose(b, turned, (1, 0, 2)) if first else turned, *ends]


def _layer(
    call: AtenCall, op: str, x: Value, own: Sequence[Sequence[Value]], begin: list[Value], attrs: dict[str, object]
) -> tuple[Value, ...]:
    """One layer of all its directions; own: for each of them w, r, and the two biases where there are any."""
    hidden = own[0][1].shape[-1]
    if not isinstance(hidden, int):
        raise call.unsupported(f"a hidden size of {hidden} is not supported; fix it")
    w, r = (_stacked(call, op, [each[k] for each in own], hidden) for k in (0, 1))
    bias = None
    if len(own[0]) == 4:
        halves = [_stacked(call, op, [each[k] for each in own], hidden) for k in (2, 3)]
        bias = call.one("concat", halves, axis=1)
    given: list[Value | None] = [x, w, r, bias, None, *begin]
    if op == "lstm":
        given.append(None)
    return layer_steps(call.builder, op, given, hidden, attrs)


def _stacked(call: AtenCall, op: str, parts: Sequence[Value], hidden: int) -> Value:
    """Parameters of all directions, [D, gates * H, ...], with the gates in our order."""
    b, order = call.builder, _ORDERS[op]
    turned = []
    for part in parts:
        gates = [slice_axis(b, part, 0, k * hidden, hidden) for k in order]
        turned.append(unsqueeze(b, gates[0] if len(gates) == 1 else call.one("concat", gates, axis=0), [0]))
    return turned[0] if len(turned) == 1 else call.one("concat", turned, axis=0)


def _joined(call: AtenCall, y: Value) -> Value:
    """y[time, direction, batch, hidden] as [time, batch, direction * hidden]."""
    steps, directions, batch, hidden = y.shape
    shape: tuple[Dim, ...] = (steps, batch, directions * hidden)
    return reshape(call.builder, transpose(call.builder, y, (0, 2, 1, 3)), shape)


@aten("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")
def _cell(call: AtenCall) -> Value | list[Value]:
    """A layer of one step."""
    b, op = call.builder, call.name.split("_")[0]
    attrs: dict[str, object] = {"direction": "forward"}
    if op == "gru":
        attrs["linear_before_reset"] = True
    if call.name.startswith("rnn_relu"):
        attrs["activations"] = (("relu", 0.0, 0.0),)
    states = call.values("hx") if op == "lstm" else [call.value("hx")]
    x, own = call.value("input"), [call.value("w_ih"), call.value("w_hh")]
    if call.has("b_ih"):
        own += [call.value("b_ih"), call.value("b_hh")]
    found = _layer(call, op, unsqueeze(b, x, [0]), [own], [unsqueeze(b, s, [0]) for s in states], attrs)
    ends = [reshape(b, v, v.shape[1:]) for v in found[1:]]
    return ends if op == "lstm" else ends[0]
