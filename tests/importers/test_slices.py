"""Slices and pads of open axes, with ends that are numbers or come from sizes, against the standard's rule."""

from __future__ import annotations

import itertools
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from tests.importers.models import ints, model, node, port

import mapsto
from mapsto.errors import ExecutionError
from mapsto.importers.onnx import load
from mapsto.ops.interpret import run_graph
from mapsto.ops.verify import verify_graph
from mapsto.passes import run_passes

EXTENTS = range(12)


@st.composite
def ends(draw: Any) -> tuple[int, int, int]:
    """(a, b, c): the number a + b * extent // c."""
    return draw(st.integers(-5, 5)), draw(st.sampled_from([0, 0, 1, -1, 2])), draw(st.integers(1, 3))


def end_nodes(name: str, end: tuple[int, int, int]) -> tuple[list[Any], dict[str, np.ndarray]]:
    """Nodes that compute `name` from the size `n`."""
    a, b, c = end
    constants = {f"{name}a": ints(a), f"{name}b": ints(b), f"{name}c": ints(c)}
    nodes = [
        node("Div", ["n", f"{name}c"], [f"{name}0"]),
        node("Mul", [f"{name}0", f"{name}b"], [f"{name}1"]),
        node("Add", [f"{name}1", f"{name}a"], [name]),
    ]
    return nodes, constants


def value(end: tuple[int, int, int], extent: int) -> int:
    a, b, c = end
    return a + b * (extent // c)


def graph_of(op: str, made: dict[str, tuple[int, int, int]], operands: list[str], more: dict[str, np.ndarray]) -> Any:
    nodes, constants = [node("Shape", ["x"], ["n"])], dict(more)
    for name, end in made.items():
        added, needed = end_nodes(name, end)
        nodes += added
        constants |= needed
    graph = run_passes(load(model([*nodes, node(op, ["x", *operands])], {"x": ["n"]}, constants=constants)))
    verify_graph(graph)
    return graph


def sliced(x: np.ndarray, start: int, end: int, step: int) -> np.ndarray:
    """The standard's rule. It is numpy's, but it clamps the start of steps below zero to 0."""
    extent = len(x)
    start, end = (at + extent if at < 0 else at for at in (start, end))
    if step > 0:
        return x[min(max(start, 0), extent) : min(max(end, 0), extent) : step]
    start, end = min(max(start, 0), extent - 1), min(max(end, -1), extent - 1)
    return x[[at for at in range(start, end, step) if 0 <= at]]


@settings(max_examples=150, deadline=None)
@given(ends(), ends(), st.sampled_from([1, 2, -1, -2]))
def test_slices_do_as_the_standard_says_or_are_refused(
    start: tuple[int, int, int], end: tuple[int, int, int], step: int
) -> None:
    graph = graph_of("Slice", {"s": start, "e": end}, ["s", "e", "axes", "step"], {"axes": ints(0), "step": ints(step)})
    done = 0
    for extent in EXTENTS:
        x = np.arange(extent, dtype=np.float32)
        low, high = value(start, extent), value(end, extent)
        try:
            found = run_graph(graph, {"x": x})["y"]
        except ExecutionError:
            continue
        done += 1
        np.testing.assert_array_equal(found, sliced(x, low, high, step), err_msg=f"x[{low}:{high}:{step}] of {extent}")
    assert done  # a condition that no extent meets would be an error of ours


# what exporters write for "to the end", in 32 and 64 bits, and numbers around the extents
_PLACES = [-(1 << 63), -(1 << 31), -9, -4, -3, -2, -1, 0, 1, 2, 3, 4, 9, (1 << 31) - 1, (1 << 63) - 1]


@pytest.mark.parametrize("step", [1, 2, 3, -1, -2])
def test_numbers_beyond_an_open_axis_are_clamped(step: int) -> None:
    """Every start and end, on axes shorter and longer: no run is refused, and none is right by a condition."""
    for start, end in itertools.product(_PLACES, repeat=2):
        constants = {"s": ints(start), "e": ints(end), "axes": ints(0), "step": ints(step)}
        graph = run_passes(load(model([node("Slice", ["x", *constants])], {"x": ["n"]}, constants=constants)))
        assert not [n for n in graph.nodes if n.op == "require"], (start, end, step)
        for extent in range(8):
            x = np.arange(extent, dtype=np.float32)
            found = run_graph(graph, {"x": x})["y"]
            expected = sliced(x, start, end, step) if extent else x
            np.testing.assert_array_equal(found, expected, err_msg=f"x[{start}:{end}:{step}] of {extent}")


def test_slices_of_slices_are_clamped_as_one() -> None:
    constants = {"a": ints(2), "b": ints(-1), "far": ints(1 << 40), "zero": ints(0)}
    nodes = [
        node("Slice", ["x", "a", "far"], ["t"]),
        node("Slice", ["t", "zero", "b"], ["u"]),
        node("Slice", ["u", "a", "far"]),
    ]
    graph = run_passes(load(model(nodes, {"x": ["n"]}, constants=constants)))
    for extent in range(9):
        x = np.arange(extent, dtype=np.float32)
        np.testing.assert_array_equal(run_graph(graph, {"x": x})["y"], x[2:][:-1][2:])


@settings(max_examples=80, deadline=None)
@given(ends(), ends())
def test_pads_may_be_negative(before: tuple[int, int, int], after: tuple[int, int, int]) -> None:
    left = {n: n + min(value(before, n), 0) + min(value(after, n), 0) for n in EXTENTS}
    if max(left.values()) < 0:
        return  # an error when compiling
    nodes = {"b": before, "a": after}
    more = {"zero": np.array(7, np.float32)}
    both = [node("Concat", ["b", "a"], ["pads"], axis=0)]
    made, constants = [node("Shape", ["x"], ["n"])], dict(more)
    for name, end in nodes.items():
        added, needed = end_nodes(name, end)
        made += added
        constants |= needed
    proto = model([*made, *both, node("Pad", ["x", "pads", "zero"])], {"x": ["n"]}, constants=constants)
    graph = run_passes(load(proto))
    for extent in EXTENTS:
        x = np.arange(extent, dtype=np.float32)
        low, high = value(before, extent), value(after, extent)
        if left[extent] < 0:
            continue  # more is cut off than there is
        padded = np.pad(x, (max(low, 0), max(high, 0)), constant_values=7)
        expected = padded[max(-low, 0) : len(padded) - max(-high, 0)]
        np.testing.assert_array_equal(
            run_graph(graph, {"x": x})["y"], expected, err_msg=f"pad {low}, {high} of {extent}"
        )


@pytest.mark.parametrize("starts", [(2, 33, 2), (2**63 - 1, 40, 5), (-1, 2**31, 1)])
def test_what_begins_past_the_end_lies_inside_though_it_has_no_elements(starts: tuple[int, ...]) -> None:
    """Ends come with the run, so that the slice is not known to be empty; compiled, as the runner looks at places."""
    ports = [port("x", (3, 33, 2)), port("e", (3,), np.int64)]
    made = model([node("Slice", ["x", "s", "e"])], ports, constants={"s": ints(*starts)})
    exe = mapsto.compile(made, cache=False)
    x = np.arange(198, dtype=np.float32).reshape(3, 33, 2)
    for ends in ((-1, 1, -3), (3, 33, 2), (9, 99, 9)):
        expected = x[tuple(slice(s, e) for s, e in zip(starts, ends, strict=True))]
        np.testing.assert_array_equal(exe.run({"x": x, "e": np.array(ends)})["y"], expected)
