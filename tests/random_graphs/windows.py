"""Ops that go over an image with a window: convolutions, poolings, resizing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tests.random_graphs.maker import F32, MOST_ELEMENTS, Maker, Val

CHANNELS = (1, 2, 3, 4, 5, 8, 16, 17, 24, 32)


@dataclass(frozen=True)
class Window:
    """The attributes of a convolution or a pooling over some spatial axes."""

    kernel: list[int]
    strides: list[int]
    dilations: list[int]
    pads: list[int]

    @property
    def attributes(self) -> dict[str, Any]:
        return {"kernel_shape": self.kernel, "strides": self.strides, "dilations": self.dilations, "pads": self.pads}


def image(g: Maker, channels: int | None = None) -> Val:
    """A value [N, C, spatial...] that is not empty."""

    def make() -> tuple[int, ...]:
        axes = g.choose((2, 2, 2, 1, 3))
        extents = {1: (5, 16, 33), 2: (3, 5, 8, 13), 3: (2, 3, 5)}[axes]
        return (g.choose((1, 1, 2)), g.choose(CHANNELS), *(g.choose(extents) for _ in range(axes)))

    return g.pick(where=lambda v: 3 <= v.rank <= 5 and v.size > 0, make=make)


def window(g: Maker, spatial: Sequence[int], dilate: bool = True) -> Window | None:
    kernel = [g.integer(1, min(3, extent)) for extent in spatial]
    strides = [g.choose((1, 1, 2, 3)) for _ in spatial]
    dilations = [g.choose((1, 1, 2)) if dilate else 1 for _ in spatial]
    pads = [g.integer(0, k - 1) for k in kernel * 2]
    n = len(spatial)
    padded = [extent + pads[i] + pads[n + i] for i, extent in enumerate(spatial)]
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    return Window(kernel, strides, dilations, pads) if all(r <= p for r, p in zip(reach, padded, strict=True)) else None


def windowed(spatial: Sequence[int], w: Window, ceil: bool = False) -> list[int]:
    """Extents after the window has gone over them. With `ceil`, none begins in the padding at the end."""
    n, found = len(spatial), []
    for i, extent in enumerate(spatial):
        span = extent + w.pads[i] + w.pads[n + i] - (w.kernel[i] - 1) * w.dilations[i] - 1
        count = -(-span // w.strides[i]) + 1 if ceil else span // w.strides[i] + 1
        if ceil and (count - 1) * w.strides[i] >= extent + w.pads[i]:
            count -= 1
        found.append(count)
    return found


def convolution(g: Maker) -> None:
    x = image(g)
    w = window(g, x.shape[2:])
    if w is None:
        return
    channels = x.shape[1]
    group = g.choose((1, 1, 1, channels, *[d for d in (2, 4) if channels % d == 0]))
    outputs = group * g.choose((1, 2, 3) if group > 1 else (1, 3, 8, 16, 17, 40))
    weights = g.fresh(F32, (outputs, channels // group, *w.kernel))
    bias = [g.fresh(F32, (outputs,)).name] if g.chance(60) else []
    shape = (x.shape[0], outputs, *windowed(x.shape[2:], w))
    if np.prod(shape, dtype=np.int64) <= 3 * MOST_ELEMENTS:
        g.node("Conv", [x.name, weights.name, *bias], F32, shape, False, group=group, **w.attributes)


def transposed_convolution(g: Maker) -> None:
    x = image(g)
    if x.rank > 4 or x.size > 2000:
        return
    w = window(g, x.shape[2:])
    if w is None:
        return
    channels, n = x.shape[1], x.rank - 2
    group = g.choose((1, 1, *[d for d in (2, 3) if channels % d == 0]))
    outputs = g.choose((1, 3, 8))
    extra = [g.integer(0, max(0, s - 1)) if g.chance(40) else 0 for s in w.strides]
    reach = [(k - 1) * d + 1 for k, d in zip(w.kernel, w.dilations, strict=True)]
    sized = zip(x.shape[2:], w.strides, reach, range(n), strict=True)
    spatial = [(extent - 1) * s + r + extra[i] - w.pads[i] - w.pads[n + i] for extent, s, r, i in sized]
    if min(spatial) < 1:
        return
    weights = g.fresh(F32, (channels, outputs, *w.kernel))
    shape = (x.shape[0], outputs * group, *spatial)
    g.node(
        "ConvTranspose", [x.name, weights.name], F32, shape, False, group=group, output_padding=extra, **w.attributes
    )


def pooling(g: Maker) -> None:
    x = image(g)
    op = g.choose(("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"))
    if op.startswith("Global"):
        shape = (*x.shape[:2], *[1] * (x.rank - 2))
        g.node(op, [x.name], F32, shape, x.exact and op == "GlobalMaxPool")
        return
    w = window(g, x.shape[2:], dilate=op == "MaxPool")
    if w is None:
        return
    ceil = g.integer(0, 1)
    attributes = {**w.attributes, "ceil_mode": ceil}
    if op == "AveragePool":
        del attributes["dilations"]
        attributes["count_include_pad"] = g.integer(0, 1)
    shape = (*x.shape[:2], *windowed(x.shape[2:], w, bool(ceil)))
    g.node(op, [x.name], F32, shape, x.exact and op == "MaxPool", **attributes)


def resize(g: Maker) -> None:
    x = g.pick(where=lambda v: v.rank == 4 and 0 < v.size <= 1500, make=lambda: (1, g.choose((1, 3, 16)), 3, 5))
    if x.size == 0 or x.size > 1500:
        return
    factors = [1.0, 1.0, *(g.choose((1.0, 2.0)) for _ in range(2))]
    shape = [int(extent * f) for extent, f in zip(x.shape, factors, strict=True)]
    mode = g.choose(("nearest", "linear"))
    how = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"} if mode == "nearest" else {}
    inputs = [x.name, "", g.constant(np.array(factors, np.float32))]
    g.node("Resize", inputs, F32, shape, x.exact and mode == "nearest", mode=mode, **how)


OPS = (convolution, convolution, transposed_convolution, pooling, resize)
