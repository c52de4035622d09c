"""Random graphs for tests of passes: made by the builder, with what passes look for in them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import numpy as np

import mapsto.ops  # noqa: F401  (registers the ops)
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, evaluate, sym
from mapsto.ir.graph import Graph, Value, defined_symbols
from mapsto.ops.builder import Builder

Draw = Callable[[st.SearchStrategy[Any]], Any]
SIZES = {"batch": 3, "time": 4}
UNARY = ("neg", "abs", "relu", "sigmoid", "tanh", "exp", "floor", "round", "sqrt", "reciprocal")
BINARY = ("add", "sub", "mul", "div", "max", "min", "pow")
NUMBERS = (0.0, 1.0, -1.0, 0.5, 2.0, 3.0, -np.inf, np.inf, 4.0, 0.3)


@st.composite
def graphs(draw: Draw) -> Graph:
    """A graph of a few nodes over one or two inputs, some of whose extents are open."""
    b = Builder("random")
    shape = draw(st.lists(st.sampled_from([1, 2, 3, sym("batch"), sym("time")]), min_size=1, max_size=4))
    values = [b.input("x", DType.F32, shape)]
    if draw(st.booleans()):
        values.append(b.input("y", DType.F32, shape))
    for i in range(draw(st.integers(2, 12))):
        with b.source(f"node{i}"):
            values.append(_step(draw, b, values))
    outputs = draw(st.lists(st.sampled_from(values), min_size=1, max_size=3))
    return b.finish(outputs, names=[f"out{i}" for i in range(len(outputs))])


def _step(draw: Draw, b: Builder, values: list[Value]) -> Value:
    # later values first: chains are what passes look for
    x = values[-1] if draw(st.integers(0, 3)) else draw(st.sampled_from(values))
    makers = [_unary, _binary, _number, _cast, _expand, _concat, _reshape, _select]
    if x.rank:
        makers += [_transpose, _transpose, _slice, _pad, _reduce, _gather]
    if x.rank >= 2 and isinstance(x.shape[-1], int):
        makers += [_matmul, _matmul]
    if x.rank >= 3 and isinstance(x.shape[1], int):
        makers += [_conv, _conv, _channels, _channels]
    return draw(st.sampled_from(makers))(draw, b, x, values)


def _constant(draw: Draw, b: Builder, shape: list[int]) -> Value:
    generator = np.random.default_rng(draw(st.integers(0, 99)))
    return b.constant((generator.standard_normal(shape) * 0.7).astype(np.float32))


def _unary(draw: Draw, b: Builder, x: Value, values: list[Value]) -> Value:
    return b.one(draw(st.sampled_from(UNARY)), [x])


def _binary(draw: Draw, b: Builder, x: Value, values: list[Value]) -> Value:
    y = draw(st.sampled_from([v for v in values if v.shape == x.shape]))
    return b.one(draw(st.sampled_from(BINARY)), [x, y])


def _number(draw: Draw, b: Builder, x: Value, values: list[Value]) -> Value:
    shape = draw(st.sampled_from([[], [1] * x.rank, [d if isinstance(d, int) else 1 for d in x.shape]]))
    c = b.constant(np.full(shape, draw(st.sampled_from(NUMBERS)), np.float32))
    operands = [x, c] if draw(st.booleans()) else [c, x]
    return b.one(draw(st.sampled_from(BINARY)), operands)


def _cast(draw: Draw, b: Builder, x: Value, values: list[Value]) -> Value:
    wide = b.one("cast", [x], to=draw(st.sampled_from([DType.F64, DType.F32])))
    return b.one("cast", [wide], to=DType.F32)


def _expand(draw: Draw, b: Builder, x: Value, values: list[Value]) -> Value:
    row = b.one("reshape", [x], shape=(1, *x.shape))
    wide = b.one(
        "expand", [row], shape=(draw(st.sampled_from([1, 2, sym("batch") if _knows(b, "batch") else 3])), *x.shape)
    )
    return b.one("add", [wide, wide if draw(st.booleans()) else b.one("neg", [wide])])


def _knows(b: Builder, name: str) -> bool:
    return any(str(d) == name for v in b.inputs for d in v.shape)


def _concat(draw: Draw, b: Builder, x: Value, values: list[Value]) -> Value:
    if not x.rank:
        return x
    axis = draw(st.integers(0, x.rank - 1))
    parts = draw(st.lists(st.sampled_from([v for v in values if v.shape == x.shape]), min_size=1, max_size=3))
    whole = b.one("concat", parts, axis=axis)
    starts = tuple(x.shape[axis] * draw(st.integers(0, len(parts) - 1)) if k == axis else 0 for k in range(x.rank))
    return b.one("slice", [whole], starts=starts, steps=(1,) * x.rank, shape=x.shape) if draw(st.booleans()) else whole


def _reshape(draw: Draw, b: Builder, x: Value, values: list[Value]) -> Value:
    total: Dim = 1
    for d in x.shape:
        total = total * d
    flat = b.one("reshape", [x], shape=(total, 1))
    return b.one("reshape", [flat], shape=draw(st.sampled_from([x.shape, (1, *x.shape), (total,)])))


def _select(draw: Draw, b: Builder, x: Value, values: list[Value]) -> Value:
    y = draw(st.sampled_from([v for v in values if v.shape == x.shape]))
    return b.one("select", [b.one("gt", [x, b.constant(np.float32(0.1))]), x, y])


def _transpose(draw: Draw, b: Builder, x: Value, values: list[Value]) -> Value:
    perm = draw(st.permutations(range(x.rank)))
    y = b.one("transpose", [x], perm=tuple(perm))
    if draw(st.booleans()):
        y = b.one(draw(st.sampled_from(("relu", "neg"))), [y])
    back = tuple(perm.index(k) for k in range(x.rank))
    return b.one("transpose", [y], perm=back) if draw(st.booleans()) else y


def _slice(draw: Draw, b: Builder, x: Value, values: list[Value]) -> Value:
    axis = draw(st.integers(0, x.rank - 1))
    extent = x.shape[axis]
    backwards = draw(st.booleans())
    starts = tuple((extent - 1 if backwards else 0) if k == axis else 0 for k in range(x.rank))
    steps = tuple(-1 if backwards and k == axis else 1 for k in range(x.rank))
    y = b.one("slice", [x], starts=starts, steps=steps, shape=x.shape)
    first = tuple(1 if k == axis else d for k, d in enumerate(x.shape))
    return b.one("slice", [y], starts=(0,) * x.rank, steps=(1,) * x.rank, shape=first) if draw(st.booleans()) else y


def _pad(draw: Draw, b: Builder, x: Value, values: list[Value]) -> Value:
    before = tuple(draw(st.integers(0, 1)) if k >= 2 else 0 for k in range(x.rank))
    after = tuple(draw(st.integers(0, 1)) if k >= 2 else 0 for k in range(x.rank))
    return b.one("pad", [x], before=before, after=after, mode="constant", value=0.0)


def _reduce(draw: Draw, b: Builder, x: Value, values: list[Value]) -> Value:
    axes = tuple(sorted(set(draw(st.lists(st.integers(0, x.rank - 1), min_size=1, max_size=2)))))
    return b.one(
        "reduce", [x], kind=draw(st.sampled_from(("sum", "mean", "max"))), axes=axes, keepdims=draw(st.booleans())
    )


def _gather(draw: Draw, b: Builder, x: Value, values: list[Value]) -> Value:
    axis = draw(st.integers(0, x.rank - 1))
    if not isinstance(x.shape[axis], int):
        return x
    indices = draw(st.lists(st.integers(-x.shape[axis], x.shape[axis] - 1), min_size=1, max_size=3))
    shape = draw(st.sampled_from([(len(indices),), (1, len(indices))]))
    return b.one("gather", [x, b.constant(np.reshape(np.array(indices), shape))], axis=axis)


def _matmul(draw: Draw, b: Builder, x: Value, values: list[Value]) -> Value:
    return b.one("matmul", [x, _constant(draw, b, [x.shape[-1], 2])])  # type: ignore[list-item]


def _conv(draw: Draw, b: Builder, x: Value, values: list[Value]) -> Value:
    rank = x.rank - 2
    bias = _constant(draw, b, [2]) if draw(st.booleans()) else None
    if draw(st.booleans()):
        attrs = {
            "strides": (2,) * rank,
            "pads": (0,) * (2 * rank),
            "dilations": (1,) * rank,
            "group": 1,
            "output_padding": (0,) * rank,
        }
        return b.one("conv_transpose", [x, _constant(draw, b, [x.shape[1], 2, *[2] * rank]), bias], **attrs)  # type: ignore[list-item]
    attrs = {"strides": (1,) * rank, "pads": (1,) * (2 * rank), "dilations": (1,) * rank, "group": 1}
    return b.one("conv", [x, _constant(draw, b, [2, x.shape[1], *[2] * rank]), bias], **attrs)  # type: ignore[list-item]


def _channels(draw: Draw, b: Builder, x: Value, values: list[Value]) -> Value:
    """A scale or shift of each channel, as batch normalisation leaves them."""
    c = _constant(draw, b, [x.shape[1], *[1] * (x.rank - 2)])  # type: ignore[list-item]
    return b.one(draw(st.sampled_from(("mul", "add", "sub"))), [x, c])


def feeds(graph: Graph, seed: int) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    assert defined_symbols(graph) <= set(SIZES)
    return {
        v.name: generator.standard_normal([evaluate(d, SIZES) for d in v.shape]).astype(v.dtype.numpy)
        for v in graph.inputs
    }
