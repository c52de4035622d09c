"""Transposes that are moved: in every order of axes the same numbers, and one transpose less where that is so."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations, permutations

import numpy as np
import pytest

from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Graph, Value
from mapsto.ops.builder import Builder
from mapsto.ops.interpret import run_graph
from mapsto.passes import DeadCode, LayoutMoves

PERMS = list(permutations(range(3)))
X = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)


def same_after(build: Callable[[Builder, Value], Value]) -> list[str]:
    """The ops after the pass, which changes neither shape nor numbers."""
    b = Builder("g")
    graph = b.finish([build(b, b.input("x", DType.F32, X.shape))])
    made: Graph = DeadCode()(LayoutMoves()(graph))
    before, after = (list(run_graph(g, {"x": X}).values())[0] for g in (graph, made))
    assert before.shape == after.shape
    np.testing.assert_allclose(after, before, rtol=1e-6)
    return [node.op for node in made.nodes]


@pytest.mark.parametrize("inner", PERMS)
@pytest.mark.parametrize("outer", PERMS)
def test_two_transposes_with_something_between_are_one(inner: tuple[int, ...], outer: tuple[int, ...]) -> None:
    def build(b: Builder, x: Value) -> Value:
        return b.one("transpose", [b.one("tanh", [b.one("transpose", [x], perm=inner)])], perm=outer)

    ops = same_after(build)
    assert ops.count("transpose") == int(tuple(inner[p] for p in outer) != (0, 1, 2))


@pytest.mark.parametrize("perm", PERMS)
@pytest.mark.parametrize("keepdims", [True, False])
def test_a_reduction_of_a_transpose_gives_the_axes_that_stay_in_their_order(
    perm: tuple[int, ...], keepdims: bool
) -> None:
    for axes in (*combinations(range(3), 1), *combinations(range(3), 2)):

        def build(b: Builder, x: Value, axes: tuple[int, ...] = axes) -> Value:
            turned = b.one("transpose", [x], perm=perm)
            return b.one("reduce", [turned], kind="sum", axes=axes, keepdims=keepdims)

        kept = [p for k, p in enumerate(perm) if k not in axes]
        assert ("transpose" in same_after(build)) == (kept != sorted(kept))
