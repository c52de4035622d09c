"""Leaves out the taps of a convolution that read nothing but padding, at either end of its window.

    conv(x[16 wide], w[3 taps], dilation 24, pads 24) == conv(x, w[the middle tap], pads 0)

Dilated windows are wider than small images, and usual ones are on maps of one element. Constant taps that are not
finite stay: with padding they make NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mapsto.ir.graph import Graph, Value
from mapsto.ops.arranging import slice_axis
from mapsto.passes.looking import may_look
from mapsto.passes.retrace import rewritten
from mapsto.passes.sites import Site

_OPS = frozenset({"conv"})


@dataclass(frozen=True)
class DeadTaps:
    name: str = "dead-taps"

    def __call__(self, graph: Graph) -> Graph:
        return rewritten(graph, _rewrite, _OPS)


def _rewrite(site: Site) -> Sequence[Value] | None:
    if site.node.op != "conv":
        return None
    x, w = site.input(0), site.input(1)
    rank = x.rank - 2
    sizes = [*x.shape[2:], *w.shape[2:], *site.node.output.shape[2:]]
    pads = [int(p) for p in site.attrs["pads"]]
    if any(not isinstance(size, int) for size in sizes) or len(pads) != 2 * rank:
        return None
    kept, made = w, list(pads)
    for axis in range(rank):
        extent, taps, count = (int(sizes[part * rank + axis]) for part in range(3))  # type: ignore[arg-type]
        step, apart = site.attrs["strides"][axis], site.attrs["dilations"][axis]
        alive = _alive(extent, taps, count, step, apart, pads[axis])
        if not alive:  # a result of zeros
            return None
        first, last = alive[0], alive[-1]
        before, after = pads[axis] - first * apart, pads[rank + axis] - (taps - 1 - last) * apart
        if len(alive) < taps and before >= 0 and after >= 0:
            kept = slice_axis(site.builder, kept, 2 + axis, first, last + 1 - first)
            made[axis], made[rank + axis] = before, after
    if made == pads or not _may_leave_out(site, w):
        return None
    inputs = (x, kept, *site.inputs[2:])
    with site.builder.source(*site.node.provenance):
        return site.builder.add("conv", inputs, {**site.attrs, "pads": tuple(made)}, (), [site.node.output.name])


def _may_leave_out(site: Site, w: Value) -> bool:
    array = site.builder.constants.get(w.name)
    return array is None or (may_look(array) and bool(np.isfinite(array).all()))


def _alive(extent: int, taps: int, count: int, step: int, apart: int, before: int) -> list[int]:
    """The taps that read an element of the axis, for one of so many windows at least."""
    found = []
    for tap in range(taps):
        start = tap * apart - before  # where it reads for the first window
        window = max(0, -(start // step))  # the first one that is not before the axis
        if window < count and start + window * step < extent:
            found.append(tap)
    return found
