"""Constant weights of matrix products in blocks: integers of 8 or 4 bits, and a scale for each block of them along what
is summed over (the op `block_matmul`). Products and sums are of f32; what is narrow is what is read.

    w[k, n]  ~  scale[k // 32, n] * q[k, n]

In 8 bits the largest magnitude of a block is 127. In 4 bits there are numbers from -8 to 7: of a few scales, by which
the weight farthest from 0 is -8, cut to that, or a bit less, the one that leaves the least sum of squares; then the
scale is that of least squares for the integers that were found, sum(w q) / sum(q q).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from mapsto.ir.dtypes import Array, DType
from mapsto.ir.graph import Value
from mapsto.ops.builder import Builder
from mapsto.passes.sites import Site

BLOCK = 32  # weights of one scale
_REACHES = (1.0, 0.93, 0.86, 0.8, 1.08)  # of 4 bits: the share of the farthest weight that -8 stands for
_AT_ONCE = 1 << 17  # weights that stay near while scales are tried


def block_weights(w: Array, dtype: DType) -> tuple[Array, Array]:
    """Integers (int8) of finite f32 weights [k, n], and their scales (float32) [k / 32 rounded up, n]."""
    depth, columns = w.shape
    blocks = -(-depth // BLOCK)
    whole = np.zeros((blocks * BLOCK, columns), np.int8)
    scales = np.ones((blocks, columns), np.float32)
    step = max(_AT_ONCE // max(BLOCK * columns, 1), 1)
    for first in range(0, blocks, step):
        count = min(step, blocks - first)
        rows = slice(first * BLOCK, (first + count) * BLOCK)
        given = np.zeros((count * BLOCK, columns), np.float32)
        given[: len(w[rows])] = w[rows]
        q, scale = _rounded(given.reshape(count, BLOCK, columns), dtype)
        whole[rows], scales[first : first + count] = q.reshape(count * BLOCK, columns), scale
    return whole[:depth], scales


def _rounded(w: Array, dtype: DType) -> tuple[Array, Array]:
    """Of [blocks, weights, columns]: integers, and scales [blocks, columns]; zeros where f32 has no such scale."""
    largest = np.abs(w).max(axis=1, initial=0.0)
    unit = w / np.where(largest > 0, largest, np.float32(1))[:, None]
    if dtype is DType.I8:
        most = 127
        whole, steps = np.rint(unit * np.float32(most)), np.full(largest.shape, 1 / most, np.float32)
    else:
        most = 8
        whole, steps = _of_4_bits(unit)
    limit = np.finfo(np.float32)
    scale = np.minimum(np.abs(steps) * largest, np.nextafter(limit.max / np.float32(most), np.float32(0)))
    good = scale > limit.tiny
    return whole * good[:, None], np.where(good, np.copysign(scale, steps), np.float32(1))


def _of_4_bits(unit: Array) -> tuple[Array, Array]:
    """Integers and scales of weights of which each block's farthest is 1 or -1."""
    sign = np.where(unit.min(axis=1) < -unit.max(axis=1), np.float32(-1), np.float32(1))
    best: tuple[Array, Array, Array] | None = None
    for reach in _REACHES:
        scale = sign * np.float32(reach / -8)
        whole = np.clip(np.rint(unit / scale[:, None]), -8, 7)
        loss = np.square(unit - whole * scale[:, None]).sum(axis=1)
        if best is None:
            best = whole, scale, loss
        else:
            less = loss < best[2]
            best = np.where(less[:, None], whole, best[0]), np.where(less, scale, best[1]), np.minimum(loss, best[2])
    assert best is not None
    whole, scale, _ = best
    squares = np.square(whole).sum(axis=1)
    fitted = (unit * whole).sum(axis=1) / np.where(squares > 0, squares, 1)
    return whole, np.where(squares > 0, fitted, scale).astype(np.float32)


@dataclass
class BlockConstants:
    """Constants of a graph in the making, by the weights that they stand for: products of one matrix read one."""

    found: dict[tuple[Builder, str, DType], tuple[Value, Value]] = field(default_factory=dict)

    def product(self, site: Site, dtype: DType) -> Value:
        """The node's product by its weights in blocks of these integers."""
        b = site.builder
        operands = [site.input(0), *self._of(b, site.input(1), dtype)]
        return b.add("block_matmul", operands, {"block": BLOCK}, (), [site.node.output.name])[0]

    def _of(self, b: Builder, weights: Value, dtype: DType) -> tuple[Value, Value]:
        """Integers and scales: in the same graph, as another one may not see them."""
        key = b, weights.name, dtype
        if key not in self.found:
            array = b.array(weights)
            assert array is not None
            whole, scales = block_weights(array, dtype)
            q = b.constant(whole.astype(dtype.numpy), weights.name)
            self.found[key] = q, b.constant(scales, f"{weights.name}.scales")
        return self.found[key]
