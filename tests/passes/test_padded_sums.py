"""Gradients of parts: of neighbours one concatenation, and right for all others."""

from __future__ import annotations

import numpy as np
import pytest

from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Graph, Value
from mapsto.ops.builder import Builder
from mapsto.ops.interpret import run_graph
from mapsto.passes import DeadCode, PaddedSums, gradient

# (start, stop, step) of parts along an axis of 12, each of which is weighted by numbers of its own
PARTS: dict[str, tuple[int, list[tuple[int, int, int]]]] = {
    "thirds": (0, [(0, 4, 1), (4, 8, 1), (8, 12, 1)]),
    "out of order": (1, [(4, 8, 1), (8, 12, 1), (0, 4, 1)]),
    "the middle last": (1, [(0, 4, 1), (8, 12, 1), (4, 8, 1)]),
    "not all of it": (0, [(1, 4, 1), (4, 9, 1)]),
    "with a gap": (0, [(0, 4, 1), (6, 12, 1)]),
    "overlapping": (0, [(0, 6, 1), (4, 12, 1)]),
    "twice the same": (1, [(0, 6, 1), (0, 6, 1), (6, 12, 1)]),
    "strided": (1, [(0, 12, 2), (1, 12, 2)]),
    "whole too": (0, [(0, 12, 1), (0, 5, 1), (5, 12, 1)]),
}


def _graph(axis: int, parts: list[tuple[int, int, int]]) -> tuple[Graph, dict[str, np.ndarray], np.ndarray]:
    """The graph, its inputs, and the gradient of x."""
    rng = np.random.default_rng(3)
    feed = {"x": np.zeros((12, 12))}
    b = Builder("net")
    x = b.input("x", DType.F64, (12, 12))
    expected = np.zeros((12, 12))
    losses: list[Value] = []
    for number, (start, stop, step) in enumerate(parts):
        extent = -(-(stop - start) // step)
        shape = (extent, 12) if axis == 0 else (12, extent)
        starts, steps = ((start, 0), (step, 1)) if axis == 0 else ((0, start), (1, step))
        part = b.one("slice", [x], starts=starts, steps=steps, shape=shape)
        feed[f"w{number}"] = weights = rng.standard_normal(shape)
        weighted = b.one("mul", [part, b.input(f"w{number}", DType.F64, shape)])
        losses.append(b.one("reduce", [weighted], kind="sum", axes=(0, 1), keepdims=False))
        place = (slice(start, stop, step), slice(None)) if axis == 0 else (slice(None), slice(start, stop, step))
        expected[place] += weights
    loss = losses[0]
    for other in losses[1:]:
        loss = b.one("add", [loss, other])
    return b.finish([loss], names=["loss"]), feed, expected


@pytest.mark.parametrize("case", PARTS)
def test_they_add_up(case: str) -> None:
    graph, feed, expected = _graph(*PARTS[case])
    found = run_graph(gradient(graph, "loss", ["x"]), feed)["x.gradient"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("case", ["thirds", "out of order", "the middle last"])
def test_parts_that_make_up_the_whole_are_neither_padded_nor_added(case: str) -> None:
    graph, _, _ = _graph(*PARTS[case])
    ops = [node.op for node in gradient(graph, "loss", ["x"]).nodes]
    assert ops.count("concat") == 1
    last = ops.index("concat")
    assert "add" not in ops[last:]


def test_what_they_leave_out_is_padded_once() -> None:
    graph, _, _ = _graph(*PARTS["not all of it"])
    made = gradient(graph, "loss", ["x"])
    (concat,) = (node for node in made.nodes if node.op == "concat")
    (padded,) = (node for node in made.nodes if concat.output.name in node.inputs)
    assert padded.op == "pad" and padded.output.name in made.outputs
    assert (padded.attrs["before"], padded.attrs["after"]) == ((1, 0), (3, 0))


def _sum_of_parts(forms: list[str], outside: int = 0) -> tuple[Graph, dict[str, np.ndarray]]:
    """The sum of thirds along an axis, each with zeros where the others are: padded, or concatenated with them."""
    b, feed, total = Builder("net"), {}, None
    extents = (3, 2, 4)
    for at, (form, extent) in enumerate(zip(forms, extents, strict=True)):
        before, after = sum(extents[:at]), sum(extents[at + 1 :]) + outside
        feed[f"x{at}"] = np.array([[-0.0, 1.0, np.nan, -np.inf][: min(extent, 4)] + [-0.0] * (extent - 4)] * 2)
        x = b.input(f"x{at}", DType.F64, (2, extent))
        if form == "pad":
            part = b.one("pad", [x], before=(0, before), after=(0, after), mode="constant", value=0.0)
        else:
            zero = -0.0 if form == "negative" else 0.0
            zeros = [b.constant(np.full((2, n), zero), "zeros") if n else None for n in (before, after)]
            part = b.one("concat", [v for v in (zeros[0], x, zeros[1]) if v is not None], axis=1)
        total = part if total is None else b.one("add", [total, part])
    assert total is not None
    return b.finish([total]), feed


@pytest.mark.parametrize("outside", [0, 2])
@pytest.mark.parametrize(
    "forms", [["concat"] * 3, ["pad"] * 3, ["pad", "concat", "pad"], ["concat", "negative", "concat"]], ids="-".join
)
def test_as_a_pass_zeros_have_the_signs_of_the_sum(forms: list[str], outside: int) -> None:
    graph, feed = _sum_of_parts(forms, outside)
    made = DeadCode()(PaddedSums()(graph))
    (before,), (after,) = (run_graph(g, feed).values() for g in (graph, made))
    np.testing.assert_array_equal(after, before)
    np.testing.assert_array_equal(np.signbit(after), np.signbit(before))
    added = [node for node in made.nodes if node.op == "add" and node.output.shape[-1] > 4]
    assert len(added) == (2 if "negative" in forms else 0)


def test_parts_that_overlap_are_added() -> None:
    b = Builder("net")
    x, y = (b.input(name, DType.F32, (3,)) for name in "xy")
    padded = [
        b.one("pad", [v], before=(at,), after=(2 - at,), mode="constant", value=0.0) for at, v in enumerate((x, y))
    ]
    graph = b.finish([b.one("add", padded)])
    made = PaddedSums()(graph)
    feed = {name: np.array([1, 2, 3], np.float32) for name in "xy"}
    (found,) = run_graph(made, feed).values()
    np.testing.assert_array_equal(found, [1, 3, 5, 3, 0])
