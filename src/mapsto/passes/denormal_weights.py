"""Takes weights for zero that are too small for a normal number: a product with one takes as long as a hundred others.

    sum x w == sum x w'         w' = w, but 0 where |w| < 2^-126 (f32 and bf16; 2^-1022 for f64): apart by less than
                                2^-126 sum |x|, and NaN where such a weight met an infinity

Networks that were trained with weight decay have channels that died out, with weights of 1e-40. Other engines do the
same where they load such weights (OpenVINO does). A tensor that has no weight far above that is left as it is, and so
are those of f16, which are computed as f32: they are normal there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Graph, Value
from mapsto.passes.looking import may_look, may_make
from mapsto.passes.retrace import rewritten
from mapsto.passes.sites import Site

_OPS = frozenset({"conv", "matmul"})

# Integers of the same width, and bits of the fraction.
_FORMATS = {DType.F32: (np.uint32, 23), DType.BF16: (np.uint16, 7), DType.F64: (np.uint64, 52)}

# The largest weight is at least so many times the least normal number: what is lost is below its rounding.
_FAR = 2.0**24

_PIECE = 1 << 16  # elements looked at at once: they stay in the second-level cache


@dataclass(frozen=True)
class DenormalWeights:
    name: str = "denormal-weights"

    def __call__(self, graph: Graph) -> Graph:
        return rewritten(graph, _rewrite, _OPS)


def _rewrite(site: Site) -> Sequence[Value] | None:
    if site.node.op not in _OPS:
        return None
    operands = list(site.inputs)
    for i in (0, 1):
        operands[i] = _normal(site, site.input(i))
    if operands == list(site.inputs):
        return None
    with site.builder.source(*site.node.provenance):
        return site.builder.add(site.node.op, operands, site.attrs, (), [v.name for v in site.node.outputs])


def _normal(site: Site, value: Value) -> Value:
    array = site.builder.array(value)
    if array is None or value.dtype not in _FORMATS or not may_look(array):
        return value
    in_memory = array.ravel(order="K")  # no copy of one that is transposed
    if not any(found.any() for _, found in _denormal(in_memory, value.dtype)) or not may_make(array):
        return value
    if not np.max(np.abs(array)) >= np.finfo(np.float64 if value.dtype is DType.F64 else np.float32).tiny * _FAR:
        return value
    flat = array.reshape(-1).copy()
    for start, found in _denormal(array, value.dtype):
        flat[start : start + found.size][found] = 0
    return site.builder.constant(flat.reshape(array.shape), f"{value.name}.normal")


def _denormal(array: np.ndarray, dtype: DType) -> Iterator[tuple[int, np.ndarray]]:
    """Which elements are denormal, by pieces: where each begins among all elements, row-major."""
    unsigned, fraction = _FORMATS[dtype]
    bits = array.reshape(-1).view(unsigned)
    one, least = np.array([1, 1 << (fraction + 1)], unsigned)  # least: of normal numbers, shifted as below
    for start in range(0, bits.size, _PIECE):
        magnitude = bits[start : start + _PIECE] << one  # without the sign
        yield start, magnitude - one < least - one  # 0 becomes the largest number of all
