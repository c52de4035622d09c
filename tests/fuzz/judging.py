"""Whether a run's results are those of the numpy reference, where rounding may decide which way a value falls.

Equal dtypes and shapes; equal integers; floats equal to rounding at the scale of what they were computed from. What
differs more is computed again some times with noise of a rounding's size on every result of a node that rounds: what
the noise moves as far (a floor of a sum, an argmax of a tie, an ill-conditioned difference) is no fault.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np

from mapsto.errors import MapstoError
from mapsto.ir.expr import Expr, evaluate, symbols
from mapsto.ir.graph import Graph, Node
from mapsto.ir.region import reads
from mapsto.ops.interpret import run_graph

Arrays = Mapping[str, np.ndarray]
EPSILON = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
ROOM = 256  # roundings: sums of some thousand elements in another order
DRAWS = 6
# Ops whose results are some of their operands, or computed alike by everybody.
EXACT = frozenset(
    "reshape transpose slice concat gather gather_elements gather_nd pad expand identity neg abs max min relu where "
    "eq ne lt le gt ge and or xor not shape cast bitcast scatter_elements scatter_nd reverse_sequence tile".split()
)


@dataclass
class Reference:
    """The reference's outputs, and the largest magnitude that each depends on."""

    outputs: dict[str, np.ndarray]
    scales: dict[str, float]
    open: bool  # whether a convolution has an infinite weight, or one that is NaN


@dataclass
class _Scales:
    """Watches a run: of every value the largest finite magnitude among it and all that it was computed from; `wild`:
    values that are not all finite.
    """

    largest: dict[str, float] = field(default_factory=dict)
    wild: set[str] = field(default_factory=set)
    open: bool = False

    def see(self, name: str, array: np.ndarray, below: float = 0.0) -> None:
        self.largest[name] = max(below, magnitude(array))
        if array.dtype.name in EPSILON and not np.isfinite(array.astype(np.float64)).all():
            self.wild.add(name)

    def __call__(self, node: Node, results: Any) -> None:
        below = max((self.largest.get(name, 0.0) for name in reads(node)), default=0.0)
        self.open |= node.op in ("conv", "conv_transpose") and not self.wild.isdisjoint(node.inputs[1:2])
        for value, array in zip(node.outputs, results, strict=True):
            self.see(value.name, array, below)


def magnitude(array: np.ndarray) -> float:
    """The largest finite magnitude of floats; 0 for others."""
    if array.dtype.name not in EPSILON or not array.size:
        return 0.0
    wide = np.abs(array.astype(np.float64))
    return float(np.max(wide, initial=0.0, where=np.isfinite(wide)))


def reference(graph: Graph, feed: Arrays) -> Reference:
    """What `run_graph` gives; raises what it raises."""
    scales = _Scales()
    for name, array in (*feed.items(), *graph.constants.items()):
        scales.see(name, np.asarray(array))
    outputs = run_graph(graph, feed, observe=scales)
    return Reference(outputs, {name: scales.largest.get(name, 0.0) for name in outputs}, scales.open)


def reference_bytes(graph: Graph, feed: Arrays) -> float:
    """Bytes of the values that the reference would make, native code only some; those of sizes that a run finds by
    itself are not counted.
    """
    sizes: dict[str, int] = {}
    for value in graph.inputs:
        for dim, extent in zip(value.shape, feed[value.name].shape, strict=True):
            sizes.update({str(dim): extent} if isinstance(dim, Expr) else {})
    total = 0.0
    for node in graph.nodes:
        for value in node.outputs:
            if all(symbols(d) <= sizes.keys() for d in value.shape):
                total += math.prod(float(max(evaluate(d, sizes), 0)) for d in value.shape) * value.dtype.size
    return total


def difference(found: Arrays, expected: Reference, graph: Graph, feed: Arrays) -> str:
    """Where results are wrong, in words; "" where they are right, or no matter: an infinite weight times the zero of a
    border is NaN only for who multiplies them.
    """
    if expected.open:
        return ""
    wrong = {name: said for name in expected.outputs if (said := _wrong(name, found, expected, None))}
    if not wrong:
        return ""
    others = list(_with_noise(graph, feed))
    for name, said in wrong.items():
        if _wrong(name, found, expected, [o[name] for o in others if o is not None]) and None not in others:
            return f"{name}: {said}"
    return ""


def _wrong(name: str, found: Arrays, expected: Reference, others: list[np.ndarray] | None) -> str:
    """over: sums in another order may pass the largest number, and what is counted or compared of them is another."""
    if name not in found:
        return "missing"
    ours, right = found[name], expected.outputs[name]
    if ours.dtype != right.dtype:
        return f"{ours.dtype}, expected {right.dtype}"
    over = expected.scales[name] > _largest(right.dtype if right.dtype.name in EPSILON else np.dtype(np.float32)) / ROOM
    if ours.shape != right.shape:
        unstable = over or (others is not None and any(o.shape != right.shape for o in others))
        return "" if unstable else f"shape {list(ours.shape)}, expected {list(right.shape)}"
    if others is not None and any(o.shape != right.shape for o in others):
        return ""
    epsilon = EPSILON.get(right.dtype.name)
    if epsilon is None:
        off = np.asarray(ours != right) & (not over)
    else:
        a, b = ours.astype(np.float64), right.astype(np.float64)
        with np.errstate(all="ignore"):
            room = ROOM * epsilon * (expected.scales[name] + np.abs(np.where(np.isfinite(b), b, 0)))
            off = ~((a == b) | (np.isnan(a) & np.isnan(b)) | (np.abs(a - b) <= room))
        if over:
            off &= np.isfinite(a) == np.isfinite(b)
    if others is not None:
        off &= ~_moved(ours, right, others)
    if not off.any():
        return ""
    place = tuple(np.argwhere(off)[0].tolist())
    return (
        f"{int(off.sum())} of {off.size} elements, first at {list(place)}: {ours[place]!r}, expected {right[place]!r}"
    )


def _largest(dtype: np.dtype) -> float:
    return float(np.finfo(dtype).max) if dtype.kind == "f" else float(ml_dtypes.finfo(dtype).max)


def _moved(ours: np.ndarray, right: np.ndarray, others: list[np.ndarray]) -> np.ndarray:
    """Elements that noise moves as far as ours are, some roundings more or less."""
    if right.dtype.name not in EPSILON:
        return np.any([np.asarray(o != right) for o in others], axis=0)
    wide = right.astype(np.float64)
    with np.errstate(all="ignore"):
        moved = np.zeros(right.shape, bool)
        for other in others:
            o = other.astype(np.float64)
            far = np.abs(o - wide)
            kind = np.isfinite(o) != np.isfinite(wide)
            moved |= kind | (np.abs(ours.astype(np.float64) - wide) <= 64 * far)
    return moved


def _with_noise(graph: Graph, feed: Arrays) -> Any:
    """Results with each inexact one moved by two roundings: all up, all down, then each by chance."""
    for draw in range(DRAWS):
        rng = np.random.default_rng(draw)

        def noise(node: Node, results: Any, rng: Any = rng, draw: int = draw) -> None:
            if node.op in EXACT:
                return
            for array in results:
                epsilon = EPSILON.get(array.dtype.name)
                if epsilon is not None and array.size and array.flags.writeable and array.base is None:
                    with np.errstate(all="ignore"):
                        ways = (1.0, -1.0)[draw] if draw < 2 else rng.choice([-1.0, 0.0, 1.0], array.shape)
                        array[...] = (array * (1 + 2 * epsilon * ways)).astype(array.dtype)

        try:
            yield run_graph(graph, feed, observe=noise)
        except MapstoError:
            yield None
