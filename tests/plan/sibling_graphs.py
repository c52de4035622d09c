"""Small graphs in which several contractions read one value, that the tests of siblings share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, sym
from mapsto.ir.graph import Graph, Value
from mapsto.ops import composite
from mapsto.ops.builder import Builder
from tests.plan.graphs import conv, varied


def projected(b: Builder, x: Value, columns: int, seed: int, bias: bool = True) -> Value:
    """x @ w, with weights that are this seed's."""
    w = b.constant(varied(seed, columns, int(x.shape[-1])).T.copy(), "w")  # type: ignore[call-overload]
    y = b.one("matmul", [x, w])
    return b.one("add", [y, b.constant(varied(seed + 50, columns, 1)[:, 0].copy(), "bias")]) if bias else y


def attention(batch: Dim = 2, length: Dim = 9, heads: int = 2, width: int = 32, bias: bool = True) -> Graph:
    """Projections to queries, keys and values, attention, and a projection of what it gives."""
    b = Builder("attention")
    x = b.input("x", DType.F32, (batch, length, heads * width))

    def split(seed: int, perm: Sequence[int]) -> Value:
        flat = projected(b, x, heads * width, seed, bias)
        apart = b.one("reshape", [flat], shape=(batch, length, heads, width))
        return b.one("transpose", [apart], perm=tuple(perm))

    q, k, v = split(1, (0, 2, 1, 3)), split(2, (0, 2, 3, 1)), split(3, (0, 2, 1, 3))
    met = b.one("matmul", [composite.softmax(b, b.one("matmul", [q, k]), -1), v])
    flat = b.one("reshape", [b.one("transpose", [met], perm=(0, 2, 1, 3))], shape=(batch, length, heads * width))
    return b.finish([projected(b, flat, 24, 4)])


def inception(relu: bool = True, bias: bool = True, reduced: Sequence[int] = (32, 16), height: Dim = 10) -> Graph:
    """Branches of which each begins with a convolution of 1x1, joined at the end."""
    b = Builder("inception")
    x = b.input("x", DType.F32, (2, 16, height, 7))

    def after(y: Value) -> Value:
        return b.one("relu", [y]) if relu else y

    parts = [after(conv(b, x, 24, 1, bias=bias))]
    for channels, kernel in zip(reduced, (3, 5, 3), strict=False):
        parts.append(after(conv(b, after(conv(b, x, channels, 1, bias=bias)), 16, kernel, bias=bias)))
    return b.finish([b.one("concat", parts, axis=1)])


def fire(second: int = 1, read: int = 3) -> Graph:
    """A squeeze and two expansions (the second by this kernel), each of which is read by a convolution (the first by
    that kernel).
    """
    b = Builder("fire")
    x = b.input("x", DType.F32, (1, 24, 12, 12))
    s = b.one("relu", [conv(b, x, 16, 1, bias=True)])
    first, other = (b.one("relu", [conv(b, s, 32, kernel, bias=True)]) for kernel in (1, second))
    return b.finish([b.one("add", [conv(b, first, 16, read), conv(b, other, 16, 3)])])


def bytewise(columns: Sequence[int] = (32, 32, 16)) -> Graph:
    """Products of bytes: each with an offset for the zero of A, by column, and with a scale of its own."""
    b = Builder("bytewise")
    x = b.input("x", DType.U8, (3, 5, 24))
    wide = b.one("cast", [x], to=DType.I32)
    found = []
    for seed, width in enumerate(columns):
        w = np.random.default_rng(seed).integers(-128, 128, (24, width)).astype(np.int32)
        sums = b.one("matmul", [wide, b.constant(w, "w")])
        moved = b.one("sub", [sums, b.constant(w.sum(0, dtype=np.int32) * 7, "zero")])
        scale = b.constant(np.array(0.001 * (seed + 1), np.float32), "scale")
        scaled = b.one("mul", [b.one("cast", [moved], to=DType.F32), scale])
        found.append(projected(b, scaled, 20, seed + 10))
    return b.finish([b.one("add", [b.one("add", found[:2]), *found[2:]])])


def of_batches(batch: int = 3) -> Graph:
    """Products of batches of matrices by constant ones, one for each of the batch."""
    b = Builder("batches")
    x = b.input("x", DType.F32, (batch, sym("n"), 24))
    parts = [b.one("matmul", [x, b.constant(varied(s, batch, 24, 32), "w")]) for s in (1, 2)]
    narrow = b.one("matmul", [parts[0], b.constant(varied(5, batch, 32, 16), "w")])
    return b.finish([b.one("matmul", [b.one("transpose", [narrow], perm=(0, 2, 1)), parts[1]])])
