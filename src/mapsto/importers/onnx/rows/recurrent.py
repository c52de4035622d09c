"""Rows of recurrent layers: LSTM, GRU, RNN: x W + b of all steps, a matrix product, and the steps, a routine. Ours take
the batch on axis 1, weights with a directions axis in front.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mapsto.importers.onnx.table import NodeCall, Result, row
from mapsto.ir.graph import Value
from mapsto.ops.activations import DEFAULTS, PARAMETERS
from mapsto.ops.arranging import slice_axis, transpose
from mapsto.ops.projection import layer_steps
from mapsto.ops.recurrent import DIRECTIONS


def _checked(call: NodeCall) -> tuple[int, str]:
    """(hidden size, direction); what the layers cannot do is refused."""
    direction = call.text("direction", "forward")
    if call.opset < 3 and direction == "foward":  # so the standard itself spelt it
        direction = "forward"
    if direction not in DIRECTIONS:
        raise call.unsupported(f"attribute direction={direction!r} is not supported; it may be {', '.join(DIRECTIONS)}")
    count = 2 if direction == "bidirectional" else 1
    w = call.input(1)
    if w.rank != 3 or call.input(2).rank != 3 or w.shape[0] != count:
        raise call.wrong(f"weights {w} do not fit direction {direction!r}")
    hidden = call.input(2).shape[2]
    if not isinstance(hidden, int) or call.integer("hidden_size", hidden) != hidden:
        raise call.wrong(f"hidden_size {call.integer('hidden_size', 0)} is not the recurrent weights' {hidden}")
    return hidden, direction


def _activations(call: NodeCall, directions: int) -> list[tuple[tuple[str, float, float], ...]]:
    """(name, alpha, beta) of the activations of each direction; alphas and betas go, in order, to those with any."""
    op = call.op.lower()
    each = len(DEFAULTS[op])
    names = [name.lower() for name in call.texts("activations") or DEFAULTS[op] * directions]
    if len(names) == 2 * each and directions == 1:
        names = names[:each]  # the standard's own default of RNN is for two directions
    if len(names) != each * directions:
        raise call.wrong(f"{len(names)} activations, not {each * directions}")
    alphas, betas = (iter(call.numbers(f"activation_{which}") or ()) for which in ("alpha", "beta"))
    found = []
    for name in names:
        if name not in PARAMETERS:
            raise call.unsupported(f"activation {name[:80]!r} is not known; those are {', '.join(PARAMETERS)}")
        alpha, beta = PARAMETERS[name]
        alpha = 0.0 if alpha is None else next(alphas, float(np.float32(alpha)))
        found.append((name, alpha, 0.0 if beta is None else next(betas, float(np.float32(beta)))))
    return [tuple(found[k * each : (k + 1) * each]) for k in range(directions)]


def _batch_first(call: NodeCall) -> bool:
    return bool(call.integer("layout", 0))


def _turned(call: NodeCall, value: Value | None) -> Value | None:
    """A sequence or a state with the batch on axis 1; with `layout` 1 it comes on axis 0."""
    if value is None or not _batch_first(call) or value.rank < 2:
        return value
    return transpose(call.builder, value, (1, 0, *range(2, value.rank)))


def _layer(call: NodeCall, states: tuple[int, ...], attrs: dict[str, object]) -> Result:
    """The product of all steps, and the steps. states: which inputs are initial states. Directions of different
    activations are layers of their own.
    """
    op = call.op.lower()
    hidden, direction = _checked(call)
    if clip := call.number("clip", 0.0):
        if not clip > 0:
            raise call.wrong(f"attribute clip={clip} is no bound; it must be positive")
        attrs["clip"] = clip
    if call.integer("input_forget", 0):
        attrs["input_forget"] = True
    functions = _activations(call, 2 if direction == "bidirectional" else 1)
    usual = tuple((name, 0.0, 0.0) for name in DEFAULTS[op])
    own = [{} if f == usual else {"activations": f} for f in functions]
    operands = [_turned(call, call.input(0)), *(call.optional(i) for i in range(1, 5))]
    operands += [_turned(call, call.optional(i)) for i in states]
    if op == "lstm":
        operands.append(call.optional(7))
    if len({str(f) for f in functions}) == 1:
        known = {"direction": direction, **attrs, **own[0]}
        return _results(call, layer_steps(call.builder, op, operands, hidden, known))
    parts = [
        layer_steps(
            call.builder, op, _of_direction(call, operands, k), hidden, {"direction": DIRECTIONS[k], **attrs, **own[k]}
        )
        for k in range(2)
    ]
    joined = [
        call.builder.one("concat", list(pair), axis=int(k == 0)) for k, pair in enumerate(zip(*parts, strict=True))
    ]
    return _results(call, tuple(joined))


def _of_direction(call: NodeCall, operands: Sequence[Value | None], k: int) -> list[Value | None]:
    """What one direction takes: x and lengths as they are, of everything else its own."""
    whole = (0, 4)
    return [v if v is None or i in whole else slice_axis(call.builder, v, 0, k, 1) for i, v in enumerate(operands)]


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
    return _layer(call, (5,), {})
