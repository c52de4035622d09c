"""Recurrent layers written out step by step in other ops, which is how a gradient goes through them: what
`ops.recurrent` says a layer computes, for a fixed number of steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mapsto.errors import UnsupportedError
from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Value
from mapsto.kernel.scalar import compute_type
from mapsto.ops import composite
from mapsto.ops.activations import Activation, activations_of
from mapsto.ops.arranging import column, positions, reshape, slice_axis, unsqueeze
from mapsto.ops.builder import Builder
from mapsto.ops.recurrent import GATES, directions_of

RECURRENT = frozenset(GATES)


def unrolled(b: Builder, op: str, operands: Sequence[Value | None], attrs: Mapping[str, Any]) -> list[Value]:
    """The results of a recurrent node. Raises UnsupportedError where only a run knows how many steps there are."""
    given: list[Value | None] = [*operands, *[None] * (8 - len(operands))]
    x, r, lengths, h0, fourth, peepholes, w, start = given
    assert x is not None and r is not None
    if not isinstance(x.shape[0], int):
        raise UnsupportedError(f"{op}: no gradient of an open number of steps {x.shape[0]}; fix it by `shapes`")
    wide = compute_type(r.dtype)
    columns, hidden = r.shape[1], r.shape[2]
    x = composite.cast(b, x, wide)
    if w is not None:
        rows = reshape(b, composite.cast(b, w, wide), (w.shape[0] * columns, x.shape[2]))
        x = b.one("matmul", [x, composite.transpose_last(b, rows)])
        x = x if start is None else b.one("add", [x, reshape(b, start, (w.shape[0] * columns,))])
    found = []
    for d in range(directions_of(attrs)):
        state = (x.shape[1], hidden)
        c0, bias = (None, fourth) if op == "gru" else (fourth, None)
        more = [None if v is None else _part(b, v, d, wide) for v in (bias, peepholes)]
        layer = _Layer(b, op, attrs, _part(b, r, d, wide), *more)
        begin = [_zeros(b, state, wide) if v is None else _part(b, v, d, wide) for v in (h0, c0)]
        own = slice_axis(b, x, 2, d * columns, columns)
        found.append(_direction(layer, own, lengths, begin, attrs["direction"] == "reverse" or d == 1))
    results = [_stacked(b, [each[0] for each in found], 1), _stacked(b, [each[1] for each in found], 0)]
    if op == "lstm":
        results.append(_stacked(b, [each[2] for each in found], 0))
    return [composite.cast(b, v, r.dtype) for v in results]


def _part(b: Builder, v: Value, d: int, dtype: DType) -> Value:
    """Direction d of an operand, in the type that is computed in."""
    return composite.cast(b, reshape(b, slice_axis(b, v, 0, d, 1), v.shape[1:]), dtype)


def _zeros(b: Builder, shape: Sequence[Any], dtype: DType) -> Value:
    return b.one("full", [], shape=tuple(shape), value=0.0, dtype=dtype)


def _stacked(b: Builder, parts: Sequence[Value], axis: int) -> Value:
    laid = [unsqueeze(b, part, [axis]) for part in parts]
    return laid[0] if len(laid) == 1 else b.one("concat", laid, axis=axis)


def _direction(
    layer: _Layer, x: Value, lengths: Value | None, begin: Sequence[Value], backwards: bool
) -> tuple[Value, Value, Value]:
    """(y[T, B, H], last h, last c) of x[T, B, G*H]. A reversed sequence starts at its own end."""
    b, steps = layer.b, int(x.shape[0])  # type: ignore[arg-type]
    (h, c), ys = begin, []
    turned = _turned(b, x, lengths) if backwards and lengths is not None else None
    x = x if turned is None else b.one("gather_nd", [x, turned], batch_dims=0)
    zero = composite.scalar(b, 0.0, h)
    alive = None
    for t in range(steps - 1, -1, -1) if backwards and lengths is None else range(steps):
        now = reshape(b, slice_axis(b, x, 0, t, 1), x.shape[1:])
        new_h, new_c = layer.step(now, h, c)
        if lengths is not None:
            alive = column(b, b.one("gt", [lengths, composite.scalar(b, t, lengths)]), 0, 2)
            new_h, new_c = (b.one("select", [alive, new, old]) for new, old in ((new_h, h), (new_c, c)))
        h, c = new_h, new_c
        ys.append(h if alive is None else b.one("select", [alive, h, zero]))
    y = _stacked(b, ys[::-1] if backwards and lengths is None else ys, 0)
    if lengths is not None:
        stepped = column(b, b.one("gt", [lengths, composite.scalar(b, 0, lengths)]), 0, 2)
        h, c = (b.one("select", [stepped, v, zero]) for v in (h, c))
    return (y if turned is None else b.one("gather_nd", [y, turned], batch_dims=0)), h, c


def _turned(b: Builder, x: Value, lengths: Value) -> Value:
    """Where each step of each sequence is when the sequence is read from its end: i64[T, B, 2]."""
    steps, batch = x.shape[:2]
    t = column(b, positions(b, steps), 0, 2)
    ends = composite.cast(b, column(b, lengths, 1, 2), DType.I64)
    back = b.one("sub", [b.one("sub", [ends, t]), composite.scalar(b, 1, t)])
    at = b.one("select", [b.one("lt", [t, ends]), back, t])
    rows = b.one("expand", [column(b, positions(b, batch), 1, 2)], shape=at.shape)
    return b.one("concat", [unsqueeze(b, v, [2]) for v in (at, rows)], axis=2)


@dataclass(frozen=True)
class _Layer:
    """One direction of a layer: r[G*H, H], and of a gru the bias[H] of what is reset, of an lstm the peepholes[3*H]."""

    b: Builder
    op: str
    attrs: Mapping[str, Any]
    r: Value
    bias: Value | None
    peepholes: Value | None

    def step(self, x: Value, h: Value, c: Value) -> tuple[Value, Value]:
        if self.op == "lstm":
            return self._lstm(x, h, c)
        return (self._gru(x, h) if self.op == "gru" else self._f(0, self._add(x, self._times(h, self.r)))), c

    def _lstm(self, x: Value, h: Value, c: Value) -> tuple[Value, Value]:
        i, o, f, g = self._split(self._add(x, self._times(h, self.r)), 4)
        pi, po, pf = (None,) * 3 if self.peepholes is None else self._split(self.peepholes, 3)
        kept = self._f(0, self._peeped(i, pi, c))
        forget = self._one_minus(kept) if self.attrs.get("input_forget") else self._f(0, self._peeped(f, pf, c))
        c = self._add(self._mul(forget, c), self._mul(kept, self._f(1, g)))
        return self._mul(self._f(0, self._peeped(o, po, c)), self._apply(activations_of("lstm", self.attrs)[2], c)), c

    def _gru(self, x: Value, h: Value) -> Value:
        b, hidden = self.b, self.r.shape[1]
        first, last = (slice_axis(b, self.r, 0, at, count) for at, count in ((0, 2 * hidden), (2 * hidden, hidden)))
        xs = [slice_axis(b, x, 1, at, count) for at, count in ((0, 2 * hidden), (2 * hidden, hidden))]
        z, r = self._split(self._f(0, self._add(xs[0], self._times(h, first))), 2)
        if self.attrs["linear_before_reset"]:
            inner = self._times(h, last)
            reset = self._mul(r, inner if self.bias is None else self._add(inner, self.bias))
        else:
            reset = self._times(self._mul(r, h), last)
        return self._add(self._mul(self._one_minus(z), self._f(1, self._add(xs[1], reset))), self._mul(z, h))

    def _split(self, v: Value, count: int) -> list[Value]:
        hidden, axis = self.r.shape[1], v.rank - 1
        return [slice_axis(self.b, v, axis, k * hidden, hidden) for k in range(count)]

    def _times(self, h: Value, r: Value) -> Value:
        return self.b.one("matmul", [h, composite.transpose_last(self.b, r)])

    def _add(self, x: Value, y: Value) -> Value:
        return self.b.one("add", [x, y])

    def _mul(self, x: Value, y: Value) -> Value:
        return self.b.one("mul", [x, y])

    def _one_minus(self, x: Value) -> Value:
        return self.b.one("sub", [composite.scalar(self.b, 1.0, x), x])

    def _peeped(self, x: Value, p: Value | None, c: Value) -> Value:
        return x if p is None else self._add(x, self._mul(p, c))

    def _f(self, k: int, x: Value) -> Value:
        """Activation k, of what the clip leaves."""
        bound = self.attrs.get("clip")
        if bound is not None:
            x = composite.clip(self.b, x, *(composite.scalar(self.b, v, x) for v in (-bound, bound)))
        return self._apply(activations_of(self.op, self.attrs)[k], x)

    def _apply(self, f: Activation, x: Value) -> Value:
        b = self.b
        alpha, beta = (composite.scalar(b, v, x) for v in (f.alpha, f.beta))
        if f.name in ("sigmoid", "tanh", "relu", "softplus"):
            return b.one(f.name, [x])
        if f.name in ("elu", "leakyrelu"):
            return b.one({"elu": "elu", "leakyrelu": "leaky_relu"}[f.name], [x], alpha=f.alpha)
        if f.name == "affine":
            return self._add(self._mul(alpha, x), beta)
        if f.name == "hardsigmoid":
            return composite.hard_sigmoid(b, x, f.alpha, f.beta)
        if f.name == "scaledtanh":
            return self._mul(alpha, b.one("tanh", [self._mul(beta, x)]))
        if f.name == "softsign":
            return composite.softsign(b, x)
        return b.one("select", [b.one("ge", [x, alpha]), x, composite.scalar(b, 0.0, x)])  # thresholdedrelu
