"""Recurrent routines: lstm, gru, rnn, with ONNX's orders of gates: what is left of a layer once x W + b of all its
steps is known (`ops.projection` makes that).

Operands: x[T, B, D*G*H], r[D, G*H, H], seq_lens i32[B]?, h0[D, B, H]?, for lstm c0[D, B, H]? and peepholes[D, 3*H]?,
for gru with linear_before_reset a bias[D, H]? of the product that is reset (G gates; D is 2 for a bidirectional one). x
is in the type that the others are computed in.

A layer of one step may instead take x[1, B, I] itself, w[D, G*H, I], and start[D, G*H]?, which is added, in the type
that is computed in: the product of one step is too small to be shared by threads on its own. All of its gates must be
made together, which those of a gru without linear_before_reset are not.

Results: y[T, D, B, H], h[D, B, H], and for lstm c[D, B, H]. Past the end of a sequence y is 0, and h and c are those of
its last step; zero where it has none (as in onnxruntime).
attrs: direction (forward, reverse, bidirectional); gru: linear_before_reset. Where they are not the usual: activations,
of each direction (`ops.activations`); clip, the bound of their operands, but for the last of an lstm; lstm:
input_forget, a forget gate of 1 - the input gate.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from mapsto.errors import ShapeError, UnsupportedError
from mapsto.ir.bounds import Allowed
from mapsto.ir.dtypes import Array, DType, from_numpy
from mapsto.ir.expr import mul
from mapsto.ir.graph import Value
from mapsto.kernel.scalar import compute_type, convert, doubled
from mapsto.ops.activations import DEFAULTS, PARAMETERS, activated, activations_of
from mapsto.ops.registry import Inference, OpSpec, Shape, register
from mapsto.ops.shapes import FLOATS, describe, require_dtype, require_rank

DIRECTIONS = ("forward", "reverse", "bidirectional")
T = TypeVar("T")
# name -> gates
GATES = {"lstm": 4, "gru": 3, "rnn": 1}


def _infer(inference: Inference) -> list[tuple[DType, Shape]]:
    attrs, gates = inference.attrs, GATES[inference.op]
    dtype = require_dtype(inference, 1, FLOATS)
    if attrs["direction"] not in DIRECTIONS:
        raise UnsupportedError(f"{inference.op}: no direction {attrs['direction']!r}; known: {', '.join(DIRECTIONS)}")
    functions = activations_of(inference.op, attrs)
    if len(functions) != len(DEFAULTS[inference.op]) or not all(f.name in PARAMETERS for f in functions):
        raise UnsupportedError(f"{inference.op}: no activations {functions}; known: {', '.join(PARAMETERS)}")
    hidden, directions = require_rank(inference, 1, 3).shape[2], directions_of(attrs)
    steps, batch, inputs = require_rank(inference, 0, 3).shape
    state: Shape = (directions, batch, hidden)
    columns = mul(hidden, gates)
    wanted: dict[int, tuple[DType, Shape]] = {
        0: (compute_type(dtype), (steps, batch, mul(columns, directions))),
        1: (dtype, (directions, columns, hidden)),
        2: (DType.I32, (batch,)),
        3: (dtype, state),
        4: (dtype, (directions, hidden) if inference.op == "gru" else state),
        5: (dtype, (directions, mul(hidden, 3))),
        6: (dtype, (directions, columns, inputs)),
        7: (compute_type(dtype), (directions, columns)),
    }
    if len(inference.inputs) > 6:
        wanted[0] = dtype, (1, batch, inputs)
        if not isinstance(inputs, int) or not makes_all_gates_at_once(inference.op, attrs):
            raise ShapeError(f"{describe(inference)}: it takes no weights of x: x W + b comes from a product before")
    for i, (of, shape) in wanted.items():
        if i < len(inference.inputs) and inference.inputs[i] is not None:
            _require(inference, i, of, shape)
    results: list[tuple[DType, Shape]] = [(dtype, (steps, *state)), (dtype, state)]
    return [*results, (dtype, state)] if inference.op == "lstm" else results


def makes_all_gates_at_once(op: str, attrs: Mapping[str, Any]) -> bool:
    """Whether no gate of a step waits for another one."""
    return op != "gru" or bool(attrs["linear_before_reset"])


def matrices(operands: Sequence[T]) -> tuple[T, ...]:
    """Of a node's operands, those that a step multiplies with: r, and w where the node has it."""
    return (*operands[1:2], *operands[6:7])


def directions_of(attrs: Mapping[str, Any]) -> int:
    """How many ways the layer walks over time."""
    return 2 if attrs["direction"] == "bidirectional" else 1


def _require(inference: Inference, i: int, dtype: DType, shape: Shape) -> None:
    value = inference.value(i)
    if value.rank != len(shape) or value.dtype is not dtype:
        raise ShapeError(f"{describe(inference)}: input {i} should be {dtype.value}{list(shape)}")
    for got, want in zip(value.shape, shape, strict=True):
        try:
            inference.same(got, want)
        except ShapeError:
            raise ShapeError(f"{describe(inference)}: input {i} should have the shape {list(shape)}") from None


@dataclass(frozen=True)
class Weights:
    """One direction's parameters, in f64."""

    r: Array
    bias: Array | None
    peephole: Array | None


CellStep = Callable[[Array, Array, Array, Weights, Mapping[str, Any]], tuple[Array, Array]]


def _function(op: str, k: int, attrs: Mapping[str, Any], x: Array) -> Array:
    """Activation k of a node, of what its clip leaves."""
    bound = attrs.get("clip")
    return activated(activations_of(op, attrs)[k], x if bound is None else np.clip(x, -bound, bound))


def _lstm_step(x: Array, h: Array, c: Array, p: Weights, attrs: Mapping[str, Any]) -> tuple[Array, Array]:
    """Gates in the order input, output, forget, cell; peepholes in the order input, output, forget."""
    i, o, f, g = np.split(x + h @ p.r.T, 4, axis=-1)
    pi, po, pf = np.split(p.peephole, 3) if p.peephole is not None else (0.0, 0.0, 0.0)
    kept = _function("lstm", 0, attrs, i + pi * c)
    forget = 1 - kept if attrs.get("input_forget") else _function("lstm", 0, attrs, f + pf * c)
    c = forget * c + kept * _function("lstm", 1, attrs, g)
    return _function("lstm", 0, attrs, o + po * c) * activated(activations_of("lstm", attrs)[2], c), c


def _gru_step(x: Array, h: Array, c: Array, p: Weights, attrs: Mapping[str, Any]) -> tuple[Array, Array]:
    """Gates in the order update, reset, hidden."""
    width = h.shape[-1]
    z, r = np.split(_function("gru", 0, attrs, x[:, : 2 * width] + h @ p.r[: 2 * width].T), 2, axis=-1)
    last = p.r[2 * width :].T
    reset = r * (h @ last + (0 if p.bias is None else p.bias)) if attrs["linear_before_reset"] else (r * h) @ last
    return (1 - z) * _function("gru", 1, attrs, x[:, 2 * width :] + reset) + z * h, c


def _rnn_step(x: Array, h: Array, c: Array, p: Weights, attrs: Mapping[str, Any]) -> tuple[Array, Array]:
    return _function("rnn", 0, attrs, x + h @ p.r.T), c


def _run_direction(
    x: Array, p: Weights, step: CellStep, attrs: Mapping[str, Any], lengths: Array, h: Array, c: Array, backwards: bool
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


def _reference(
    name: str, step: CellStep
) -> Callable[[list[Any], Mapping[str, Any], list[tuple[int, ...]]], list[Array]]:
    def reference(inputs: list[Any], attrs: Mapping[str, Any], shapes: list[tuple[int, ...]]) -> list[Array]:
        operands: list[Any] = [*inputs, *[None] * (8 - len(inputs))]
        x, r, lengths, h0 = operands[:4]
        c0, bias = (None, operands[4]) if name == "gru" else (operands[4], None)
        peepholes, dtype, x = operands[5], from_numpy(r.dtype), doubled(x)
        (directions, columns, hidden), (steps, batch, _) = r.shape, x.shape
        if operands[6] is not None:
            start = 0 if operands[7] is None else doubled(operands[7]).reshape(-1)
            x = x @ doubled(operands[6]).reshape(directions * columns, x.shape[2]).T + start
        lengths = np.full(batch, steps) if lengths is None else np.clip(lengths, 0, steps)
        zero = np.zeros((directions, batch, hidden), dtype=x.dtype)
        h0, c0 = (zero if s is None else doubled(s) for s in (h0, c0))
        found = []
        with np.errstate(all="ignore"):
            for d in range(directions):
                backwards = attrs["direction"] == "reverse" or d == 1
                weights = Weights(doubled(r[d]), *(None if p is None else doubled(p[d]) for p in (bias, peepholes)))
                gates = x[:, :, d * columns : (d + 1) * columns]
                found.append(_run_direction(gates, weights, step, attrs, lengths, h0[d], c0[d], backwards))
        y = np.stack([f[0] for f in found], axis=1)
        h, c = (np.stack([f[k] for f in found]) for k in (1, 2))
        results = [y, h, c] if name == "lstm" else [y, h]
        return [convert(a, dtype) for a in results]

    return reference


def _lengths(inputs: Sequence[Value | None], attrs: Mapping[str, Any]) -> dict[int, Allowed]:
    """No sequence is longer than the time axis."""
    x = inputs[0]
    assert x is not None
    return {2: Allowed((0,), (x.shape[0],), "length", "sequence length")} if len(inputs) > 2 else {}


for _name, _step in (("lstm", _lstm_step), ("gru", _gru_step), ("rnn", _rnn_step)):
    register(OpSpec(_name, "routine", _infer, _reference(_name, _step), indices=_lengths))
