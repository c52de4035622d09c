"""Transposed convolutions whose windows do not overlap are products and moves: those to few channels, and those of
single places.

    conv_transpose(x, w, strides = window)[n, o, y*k + i] == conv(x, w turned, 1x1)[n, o*k + i, y]
    conv_transpose(x, w of 1x1, strides)[n, o, y*s + i] == conv_transpose(x, w)[n, o, y] where i = 0, else 0

Each element of the result comes from one window, so all places of a window are results of one product. With few
channels that is more columns than the convolution has by itself, and vectors are filled. Of the second kind is the
gradient of a 1x1 convolution with strides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mapsto.ir.expr import mul
from mapsto.ir.graph import Graph, Value
from mapsto.ops.composite import reshape
from mapsto.passes.retrace import rewritten
from mapsto.passes.sites import Site

_OPS = frozenset({"conv_transpose"})
_FEW = 3  # channels; more fill vectors, and need no move
_LEAST_CHANNELS = 4  # of the input: with fewer there is next to nothing to multiply


@dataclass(frozen=True)
class ApartWindows:
    name: str = "apart-windows"

    def __call__(self, graph: Graph) -> Graph:
        return rewritten(graph, _rewrite, _OPS)


def _rewrite(site: Site) -> Sequence[Value] | None:
    if site.node.op != "conv_transpose":
        return None
    if _is_of_points(site):
        return [_points_apart(site)]
    if not _is_apart(site):
        return None
    b, x, w, bias = site.builder, site.input(), site.input(1), site.inputs[2] if len(site.inputs) > 2 else None
    channels, columns, *window = (int(d) for d in w.shape)  # type: ignore[arg-type]
    rank, places = len(window), math.prod(window)
    turned = b.one("transpose", [w], perm=(1, *range(2, 2 + rank), 0))
    ones = (1,) * rank
    taps = reshape(b, turned, (columns * places, channels, *ones))
    attrs = {"strides": ones, "dilations": ones, "pads": (0,) * 2 * rank, "group": 1}
    spread = b.one("conv", [x, taps], **attrs)
    n, space = x.shape[0], x.shape[2:]
    whole = reshape(b, spread, (n, columns, *window, *space))
    order = [axis for k in range(rank) for axis in (2 + rank + k, 2 + k)]
    moved = b.one("transpose", [whole], perm=(0, 1, *order))
    result = reshape(b, moved, (n, columns, *(mul(d, k) for d, k in zip(space, window, strict=True))))
    if bias is not None:
        result = b.one("add", [result, reshape(b, bias, (1, columns, *ones))])
    return [result]


def _is_apart(site: Site) -> bool:
    x, w, attrs = site.input(), site.input(1), site.attrs
    if not x.dtype.is_float or not all(isinstance(d, int) for d in w.shape) or 0 in w.shape:
        return False
    channels, columns, *window = w.shape
    alike = tuple(attrs["strides"]) == tuple(window) and attrs["group"] == 1 and set(attrs["dilations"]) <= {1}
    plain = not any(attrs["pads"]) and not any(attrs["output_padding"])
    few = columns <= _FEW < columns * math.prod(int(d) for d in window) and channels >= _LEAST_CHANNELS  # type: ignore
    return alike and plain and few


def _is_of_points(site: Site) -> bool:
    w, attrs = site.input(1), site.attrs
    return all(d == 1 for d in w.shape[2:]) and any(s > 1 for s in attrs["strides"])


def _points_apart(site: Site) -> Value:
    """The product, and zeros between its places."""
    b, x, w, bias, attrs = site.builder, site.input(), site.input(1), site.inputs[2:], site.attrs
    rank, strides = x.rank - 2, attrs["strides"]
    none = (0,) * rank
    ones = {"strides": (1,) * rank, "dilations": (1,) * rank, "pads": none * 2, "output_padding": none}
    product = b.one("conv_transpose", [x, w], **ones, group=attrs["group"])
    space = [d for extent in product.shape[2:] for d in (extent, 1)]
    beside = reshape(b, product, (*product.shape[:2], *space))
    before = (0,) * beside.rank
    after = (0, 0, *(n for s in strides for n in (0, s - 1)))
    spread = b.one("pad", [beside], before=before, after=after, mode="constant", value=0.0)
    whole = reshape(b, spread, (*product.shape[:2], *(mul(d, s) for d, s in zip(x.shape[2:], strides, strict=True))))
    shape, starts = site.node.output.shape, (0, 0, *attrs["pads"][:rank])
    result = whole
    if shape != whole.shape or any(starts):
        result = b.one("slice", [whole], starts=starts, steps=(1,) * x.rank, shape=shape)
    if bias and bias[0] is not None:
        result = b.one("add", [result, reshape(b, bias[0], (1, shape[1], *ones["strides"]))])
    return result
