"""Moves of concatenations of moved data: of the parts, the same numbers."""

from __future__ import annotations

from itertools import permutations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Graph
from mapsto.ops.builder import Builder
from mapsto.ops.interpret import run_graph
from mapsto.passes import ConcatMoves, DeadCode

SHAPES = {"x": (4, 2, 6), "y": (4, 3, 6)}
FEED = {name: np.arange(np.prod(shape), dtype=np.float32).reshape(shape) for name, shape in SHAPES.items()}


def _graph(move: str, axis: int = 1, moved: bool = True, twice: bool = False, **attrs: object) -> Graph:
    """A move of the concatenation of two values, each of which was turned before, with something between."""
    b = Builder("g")
    parts = []
    for name, shape in SHAPES.items():
        x = b.input(name, DType.F32, shape)
        turned = b.one("transpose", [b.one("transpose", [x], perm=(2, 1, 0))], perm=(2, 1, 0)) if moved else x
        parts.append(b.one("tanh", [turned]) if moved else b.one("tanh", [x]))
    whole = b.one("concat", parts, axis=axis)
    return b.finish([b.one(move, [whole], **attrs), *([whole] if twice else [])])


def _same(graph: Graph) -> Graph:
    made = DeadCode()(ConcatMoves()(graph))
    for before, after in zip(run_graph(graph, FEED).values(), run_graph(made, FEED).values(), strict=True):
        np.testing.assert_array_equal(after, before)
    return made


@pytest.mark.parametrize("perm", list(permutations(range(3)))[1:])
def test_a_transpose(perm: tuple[int, ...]) -> None:
    assert _same(_graph("transpose", perm=perm)).nodes[-1].op == "concat"


@pytest.mark.parametrize(
    ("shape", "moved"),
    [
        ((4, 30), True),  # with what lies within
        ((4, 1, 5, 6), True),
        ((4, 5, 2, 3), True),
        ((2, 2, 30), True),
        ((4, 10, 3), True),
        ((20, 6), False),  # with what lies around
        ((4, 6, 5), False),  # across the parts
        ((120,), False),
    ],
)
def test_a_reshape(shape: tuple[int, ...], moved: bool) -> None:
    made = _same(_graph("reshape", shape=shape))
    assert (made.nodes[-1].op == "concat") == moved


def test_what_is_computed_is_left_and_what_others_read() -> None:
    for graph in (_graph("transpose", moved=False, perm=(1, 0, 2)), _graph("transpose", twice=True, perm=(1, 0, 2))):
        assert [node.op for node in ConcatMoves()(graph).nodes] == [node.op for node in graph.nodes]


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_random_reshapes(data: st.DataObject) -> None:
    """Of parts of any extents along any axis."""
    shape = data.draw(st.lists(st.sampled_from([1, 2, 3, 4]), min_size=1, max_size=4))
    axis = data.draw(st.integers(0, len(shape) - 1))
    extents = data.draw(st.lists(st.sampled_from([1, 2, 3, 6]), min_size=1, max_size=3))
    b, feed, parts = Builder("g"), {}, []
    for k, extent in enumerate(extents):
        own = (*shape[:axis], extent, *shape[axis + 1 :])
        feed[f"x{k}"] = np.random.default_rng(k).standard_normal(own).astype(np.float32)
        x = b.input(f"x{k}", DType.F32, own)
        parts.append(b.one("reshape", [b.one("reshape", [x], shape=(int(np.prod(own)),))], shape=own))
    rest, to = int(np.prod(shape)) // shape[axis] * sum(extents), []
    while rest > 1:
        to.append(data.draw(st.sampled_from([d for d in range(2, rest + 1) if rest % d == 0])))
        rest //= to[-1]
    for _ in range(data.draw(st.integers(0, 2))):
        to.insert(data.draw(st.integers(0, len(to))), 1)
    graph = b.finish([b.one("reshape", [b.one("concat", parts, axis=axis)], shape=tuple(to))])
    made = ConcatMoves()(graph)
    (before,), (after,) = (run_graph(g, feed).values() for g in (graph, made))
    np.testing.assert_array_equal(after, before)
