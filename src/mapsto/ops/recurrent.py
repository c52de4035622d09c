"""Recurrent routines: lstm, gru, rnn, with ONNX's layouts and gate orders.

Operands: x[T, B, I], w[D, G*H, I], r[D, G*H, H], b[D, 2*G*H]?, seq_lens i32[B]?, h0[D, B, H]?, and for lstm c0[D, B,
H]?, p[D, 3*H]? (G gates; D is 2 for a bidirectional one). Results: y[T, D, B, H], h[D, B, H], and for lstm c[D, B, H].
Past the end of a sequence y is 0, and h and c are those of its last step; zero where it has none (as in onnxruntime).
attrs: hidden, direction (forward, reverse, bidirectional); gru: linear_before_reset; rnn: activation (tanh, relu).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mapsto.errors import ShapeError, UnsupportedError
from mapsto.ir.bounds import Allowed
from mapsto.ir.dtypes import DType, from_numpy
from mapsto.ir.graph import Value
from mapsto.kernel.scalar import apply, convert, doubled
from mapsto.ops.registry import Inference, OpSpec, Shape, register
from mapsto.ops.shapes import FLOATS, describe, require_dtype, require_rank

Array = np.ndarray[Any, Any]
DIRECTIONS = ("forward", "reverse", "bidirectional")
# name -> gates
GATES = {"lstm": 4, "gru": 3, "rnn": 1}


def _infer(inference: Inference) -> list[tuple[DType, Shape]]:
    attrs, gates = inference.attrs, GATES[inference.op]
    dtype = require_dtype(inference, 0, FLOATS)
    if attrs["direction"] not in DIRECTIONS:
        raise UnsupportedError(f"{inference.op}: no direction {attrs['direction']!r}; known: {', '.join(DIRECTIONS)}")
    if inference.op == "rnn" and attrs["activation"] not in ("tanh", "relu"):
        raise UnsupportedError(f"rnn: no activation {attrs['activation']!r}; known: tanh, relu")
    steps, batch, width = require_rank(inference, 0, 3).shape
    hidden, directions = attrs["hidden"], 2 if attrs["direction"] == "bidirectional" else 1
    wanted: dict[int, Shape] = {
        1: (directions, gates * hidden, width),
        2: (directions, gates * hidden, hidden),
        3: (directions, 2 * gates * hidden),
        4: (batch,),
        5: (directions, batch, hidden),
        6: (directions, batch, hidden),
        7: (directions, 3 * hidden),
    }
    for i, shape in wanted.items():
        if i < len(inference.inputs) and inference.inputs[i] is not None:
            _require_shape(inference, i, shape, dtype)
    state: Shape = (directions, batch, hidden)
    results: list[tuple[DType, Shape]] = [(dtype, (steps, *state)), (dtype, state)]
    return [*results, (dtype, state)] if inference.op == "lstm" else results


def _require_shape(inference: Inference, i: int, shape: Shape, dtype: DType) -> None:
    value = inference.value(i)
    if value.rank != len(shape) or value.dtype is not (DType.I32 if i == 4 else dtype):
        raise ShapeError(f"{describe(inference)}: input {i} should be {dtype.value if i != 4 else 'i32'}{list(shape)}")
    for got, want in zip(value.shape, shape, strict=True):
        try:
            inference.same(got, want)
        except ShapeError:
            raise ShapeError(f"{describe(inference)}: input {i} should have the shape {list(shape)}") from None


@dataclass(frozen=True)
class Weights:
    """One direction's parameters, in f64. `bias` and `recurrent_bias` have G*H elements."""

    w: Array
    r: Array
    bias: Array
    recurrent_bias: Array
    peephole: Array | None


Step = Callable[[Array, Array, Array, Weights, Mapping[str, Any]], tuple[Array, Array]]


def _sigmoid(x: Array) -> Array:
    return apply("sigmoid", [x], from_numpy(x.dtype))


def _lstm_step(x: Array, h: Array, c: Array, p: Weights, attrs: Mapping[str, Any]) -> tuple[Array, Array]:
    """Gates in the order input, output, forget, cell; peepholes in the order input, output, forget."""
    i, o, f, g = np.split(x @ p.w.T + h @ p.r.T + p.bias + p.recurrent_bias, 4, axis=-1)
    if p.peephole is None:
        c = _sigmoid(f) * c + _sigmoid(i) * np.tanh(g)
        return _sigmoid(o) * np.tanh(c), c
    pi, po, pf = np.split(p.peephole, 3)
    c = _sigmoid(f + pf * c) * c + _sigmoid(i + pi * c) * np.tanh(g)
    return _sigmoid(o + po * c) * np.tanh(c), c


def _gru_step(x: Array, h: Array, c: Array, p: Weights, attrs: Mapping[str, Any]) -> tuple[Array, Array]:
    """Gates in the order update, reset, hidden."""
    width = h.shape[-1]
    from_x = x @ p.w.T + p.bias
    gates = from_x[:, : 2 * width] + h @ p.r[: 2 * width].T + p.recurrent_bias[: 2 * width]
    z, r = np.split(_sigmoid(gates), 2, axis=-1)
    rh, bh = p.r[2 * width :], p.recurrent_bias[2 * width :]
    if attrs["linear_before_reset"]:
        new = np.tanh(from_x[:, 2 * width :] + r * (h @ rh.T + bh))
    else:
        new = np.tanh(from_x[:, 2 * width :] + (r * h) @ rh.T + bh)
    return (1 - z) * new + z * h, c


def _rnn_step(x: Array, h: Array, c: Array, p: Weights, attrs: Mapping[str, Any]) -> tuple[Array, Array]:
    total = x @ p.w.T + h @ p.r.T + p.bias + p.recurrent_bias
    return np.tanh(total) if attrs["activation"] == "tanh" else np.maximum(total, 0), c


def _run_direction(
    x: Array, p: Weights, step: Step, attrs: Mapping[str, Any], lengths: Array, h: Array, c: Array, backwards: bool
) -> tuple[Array, Array, Array]:
    """One direction over a batch: (y[T, B, H], last h, last c). A reversed sequence starts at its own end."""
    steps, batch = x.shape[:2]
    y = np.zeros((steps, batch, h.shape[-1]), dtype=x.dtype)
    rows = np.arange(batch)
    for t in range(steps):
        alive = t < lengths
        at = np.where(alive, lengths - 1 - t, t) if backwards else np.full(batch, t)
        new_h, new_c = step(x[at, rows], h, c, p, attrs)
        h = np.where(alive[:, None], new_h, h).astype(x.dtype)
        c = np.where(alive[:, None], new_c, c).astype(x.dtype)
        y[at, rows] = np.where(alive[:, None], h, 0)
    stepped = (lengths > 0)[:, None]
    return y, np.where(stepped, h, 0), np.where(stepped, c, 0)


def _reference(name: str, step: Step) -> Callable[[list[Any], Mapping[str, Any], list[tuple[int, ...]]], list[Array]]:
    gates = GATES[name]

    def reference(inputs: list[Any], attrs: Mapping[str, Any], shapes: list[tuple[int, ...]]) -> list[Array]:
        dtype = from_numpy(inputs[0].dtype)
        operands: list[Any] = [*inputs, *[None] * (8 - len(inputs))]
        w, r, b, lengths, h0, c0, p = operands[1:]
        x, hidden = doubled(operands[0]), attrs["hidden"]
        directions, batch = shapes[1][:2]
        lengths = np.full(batch, x.shape[0]) if lengths is None else np.clip(lengths, 0, x.shape[0])
        start = np.zeros((directions, batch, hidden), dtype=x.dtype)
        h0, c0 = (start if s is None else doubled(s) for s in (h0, c0))
        both = np.zeros((directions, 2 * gates * hidden), dtype=x.dtype) if b is None else doubled(b)
        found = []
        with np.errstate(all="ignore"):
            for d in range(directions):
                backwards = attrs["direction"] == "reverse" or d == 1
                weights = Weights(
                    doubled(w[d]),
                    doubled(r[d]),
                    both[d, : gates * hidden],
                    both[d, gates * hidden :],
                    None if p is None else doubled(p[d]),
                )
                found.append(_run_direction(x, weights, step, attrs, lengths, h0[d], c0[d], backwards))
        y = np.stack([f[0] for f in found], axis=1)
        h, c = (np.stack([f[k] for f in found]) for k in (1, 2))
        results = [y, h, c] if name == "lstm" else [y, h]
        return [convert(a, dtype) for a in results]

    return reference


def _lengths(inputs: Sequence[Value | None], attrs: Mapping[str, Any]) -> dict[int, Allowed]:
    """No sequence is longer than the time axis."""
    x = inputs[0]
    assert x is not None
    return {4: Allowed((0,), (x.shape[0],), "length", "sequence length")} if len(inputs) > 4 else {}


for _name, _step in (("lstm", _lstm_step), ("gru", _gru_step), ("rnn", _rnn_step)):
    register(OpSpec(_name, "routine", _infer, _reference(_name, _step), indices=_lengths))
