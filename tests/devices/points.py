"""Convolutions of 3x3 taps, for tests of products at points on any device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tests.devices.cpu.forms import array_of

from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Graph, Value
from mapsto.ops.builder import Builder
from mapsto.runtime.executable import Executable

F32 = DType.F32
LIMIT = 1.5e-5  # of the largest magnitude: a direct sum of as many terms is good for 2e-6
Shape = tuple[int, ...]


def convolution(
    x: Shape, columns: int, pads: Sequence[int] = (1, 1, 1, 1), after: str = "", before: bool = True, seed: int = 1
) -> Graph:
    """before: 1x1 convolution first, so that the input lies as the second one wants it. after: of it, ops by letter:
    `b`ias, `r`elu, `s`ilu, `+` another input, `t`ransposed to channels last, `f` all of its elements in a row.
    """
    b, channels = Builder("g"), x[1]
    value: Value = b.input("x", F32, x)
    plain = {"strides": (1, 1), "dilations": (1, 1), "group": 1}
    if before:
        first = array_of((channels, channels, 1, 1), F32, seed + 1) / np.float32(np.sqrt(channels))
        value = b.one("conv", [value, b.constant(first, "w0")], pads=(0,) * 4, **plain)
    taps = array_of((columns, channels, 3, 3), F32, seed) / np.float32(3 * np.sqrt(channels))
    bias = [b.constant(array_of((columns,), F32, seed + 2), "bias")] if "b" in after else []
    value = b.one("conv", [value, b.constant(taps, "w"), *bias], pads=tuple(pads), **plain)
    for letter in after:
        if letter == "r":
            value = b.one("relu", [value])
        elif letter == "s":
            value = b.one("mul", [value, b.one("sigmoid", [value])])
        elif letter == "+":
            value = b.one("add", [value, b.input("r", F32, value.shape)])
        elif letter == "t":
            value = b.one("transpose", [value], perm=(0, 2, 3, 1))
    return b.finish([value], names=["y"])


def is_at_points(exe: Executable) -> bool:
    return any(work.offer.template == "winograd" for work in exe.plan.works)


def feeds_of(graph: Graph, seed: int = 7) -> dict[str, np.ndarray]:
    return {v.name: array_of([int(d) for d in v.shape], F32, seed + k) for k, v in enumerate(graph.inputs)}  # type: ignore[arg-type]


CASES = {
    "whole tiles": ((1, 32, 16, 16), 32, (1, 1, 1, 1), "br"),
    "cut tiles": ((1, 32, 13, 18), 48, (1, 1, 1, 1), "b"),
    "tails of blocks": ((1, 24, 9, 11), 40, (1, 1, 1, 1), "b"),
    "a column short of a block": ((1, 16, 12, 12), 31, (1, 1, 1, 1), "r"),
    "several images": ((5, 16, 6, 7), 32, (1, 1, 1, 1), "br+"),
    "no padding": ((1, 32, 20, 20), 32, (0, 0, 0, 0), ""),
    "uneven padding": ((1, 16, 10, 9), 16, (2, 0, 1, 3), "b"),
    "a long epilogue": ((1, 32, 14, 14), 64, (1, 1, 1, 1), "bs"),
    "channels last": ((1, 32, 10, 10), 48, (1, 1, 1, 1), "bt"),
    "many blocks": ((1, 16, 70, 90), 16, (1, 1, 1, 1), "r"),
    "many columns": ((1, 64, 8, 8), 272, (1, 1, 1, 1), "+r"),
    "many channels": ((1, 1040, 6, 6), 32, (1, 1, 1, 1), "b"),
    "one tile": ((1, 16, 2, 2), 16, (1, 1, 1, 1), ""),
}
