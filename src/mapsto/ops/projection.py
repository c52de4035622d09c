"""What a recurrent layer computes of all its time steps at once: x W + b, an ordinary matrix product before its steps.

It takes the layer's weights as ONNX has them, w[D, G*H, I] and b[D, 2*G*H] = [Wb, Rb] (D directions, G gates, H hidden
units), and gives what `ops.recurrent` begins with.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mapsto.errors import ShapeError
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, equality, mul
from mapsto.ir.graph import Value
from mapsto.kernel.scalar import compute_type
from mapsto.ops.arranging import reshape
from mapsto.ops.builder import Builder
from mapsto.ops.recurrent import GATES, directions_of, makes_all_gates_at_once


@dataclass(frozen=True)
class Layer:
    """A recurrent layer's input, weights and sizes. apart: the last of three gates starts from Wb alone, as its Rb goes
    into a product that is scaled before it is added.
    """

    x: Value
    w: Value
    bias: Value | None
    directions: int
    gates: int
    hidden: int
    apart: bool = False

    @property
    def columns(self) -> int:
        return self.directions * self.gates * self.hidden

    @property
    def computed(self) -> DType:
        """What it is computed in."""
        return compute_type(self.x.dtype)

    def check(self, b: Builder) -> None:
        """Raises ShapeError where weights or bias are of another shape or type than the input and r ask for."""
        if self.x.rank != 3:
            raise ShapeError(f"the input should have 3 axes, not {self.x}")
        _check(b, self.x, self.w, "weights", (self.directions, self.gates * self.hidden, self.x.shape[2]))
        if self.bias is not None:
            _check(b, self.x, self.bias, "bias", (self.directions, 2 * self.gates * self.hidden))


def projected(b: Builder, layer: Layer) -> Value:
    """x[T, B, I] W + Wb + Rb of every step, [T, B, D*G*H], in the type that is computed in. Time and batch are one axis
    of the product, which fills tiles however few rows the batch has.
    """
    x, wide = layer.x, layer.computed
    matrix = b.one("reshape", [_cast(b, layer.w, wide)], shape=(layer.columns, x.shape[2]))
    rows = b.one("reshape", [_cast(b, x, wide)], shape=(mul(x.shape[0], x.shape[1]), x.shape[2]))
    product = b.one("matmul", [rows, b.one("transpose", [matrix], perm=(1, 0))])
    begin = start(b, layer)
    if begin is not None:
        product = b.one("add", [product, b.one("reshape", [begin], shape=(layer.columns,))])
    return b.one("reshape", [product], shape=(*x.shape[:2], layer.columns))


def start(b: Builder, layer: Layer) -> Value | None:
    """Wb + Rb, [D, G*H], in the type that is computed in; None where there is no bias."""
    if layer.bias is None:
        return None
    bias, half = _cast(b, layer.bias, layer.computed), layer.gates * layer.hidden
    both = half - layer.hidden if layer.apart else half
    total = b.one("add", [_part(b, bias, 0, both), _part(b, bias, half, both)])
    return total if both == half else b.one("concat", [total, _part(b, bias, both, layer.hidden)], axis=1)


def layer_steps(
    b: Builder, op: str, given: Sequence[Value | None], hidden: int, attrs: Mapping[str, object]
) -> tuple[Value, ...]:
    """A whole layer: the product of all steps, and the steps. given: x[T, B, I], w, r, bias, lengths, states, and the
    peepholes of an lstm; attrs: those of the op (`ops.recurrent`).
    """
    x, w, r, bias, lengths, *states = given
    assert x is not None and w is not None
    apart = op == "gru" and makes_all_gates_at_once(op, attrs)
    layer = Layer(x, w, bias, directions_of(attrs), GATES[op], hidden, apart)
    layer.check(b)
    operands = [r, lengths, *states]
    if apart and bias is not None:
        operands.append(last_bias(b, bias, hidden))
    operands += [None] * (5 - len(operands))
    if x.shape[0] == 1 and isinstance(x.shape[2], int) and makes_all_gates_at_once(op, attrs):
        whole = reshape(b, layer.w, (w.shape[0], w.shape[1], x.shape[2]))  # its extents may be written otherwise
        return b.add(op, [x, *operands, whole, start(b, layer)], attrs)
    return b.add(op, [projected(b, layer), *operands], attrs)


def last_bias(b: Builder, bias: Value, hidden: int) -> Value:
    """Rb of the last gate, [D, H]."""
    return _part(b, bias, -hidden, hidden)


def _part(b: Builder, bias: Value, start: int, count: int) -> Value:
    """Some columns; a negative start counts from the end."""
    extent = bias.shape[1]
    first: Dim = extent + start if start < 0 else start
    return b.one("slice", [bias], starts=(0, first), steps=(1, 1), shape=(bias.shape[0], count))


def _check(b: Builder, x: Value, given: Value, what: str, shape: tuple[Dim, ...]) -> None:
    """That an operand has x's type, and this shape: a run sees to what is not known before."""
    if given.dtype is not x.dtype or given.rank != len(shape):
        raise ShapeError(f"the {what} should be {x.dtype.value}{list(shape)}, not {given}")
    for got, want in zip(given.shape, shape, strict=True):
        if got != want:
            b.require(equality(got, want), f"the {what} should have the shape {list(shape)}, not {list(given.shape)}")


def _cast(b: Builder, x: Value, to: DType) -> Value:
    return x if x.dtype is to else b.one("cast", [x], to=to)
