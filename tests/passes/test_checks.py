"""Checks of indices, and conditions on sizes, through the passes: kept while they are needed, asked once, left out."""

from __future__ import annotations

import numpy as np
import pytest

from mapsto.errors import ExecutionError
from mapsto.ir.bounds import Allowed
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import sym
from mapsto.ir.graph import Graph
from mapsto.ops.bounds import check_inside
from mapsto.ops.builder import Builder
from mapsto.ops.interpret import run_graph
from mapsto.passes import DeadCode, default_passes, gradient, run_passes, specialise
from mapsto.passes.checks import unchecked
from mapsto.passes.retrace import retrace

CHECKS = ["farthest", "bounds_check"]


def ops(graph: Graph) -> list[str]:
    return [node.op for node in graph.walk()]


def gathered(dead: bool = False) -> Graph:
    """A gather; and one over another axis that nothing reads."""
    b = Builder("g")
    with b.source("s"):
        x, i = b.input("x", DType.F32, (sym("n"), 4)), b.input("i", DType.I64, (3,))
        y = b.one("gather", [x, i], axis=0)
        if dead:
            b.one("gather", [y, b.input("j", DType.I64, (2,))], axis=1)
    return b.finish([y], names=["y"])


def test_a_check_goes_with_what_asked_for_it() -> None:
    assert ops(gathered(dead=True)).count("bounds_check") == 2
    live = DeadCode()(gathered(dead=True))
    assert [op for op in ops(live) if op != "require"] == [*CHECKS, "gather"]


def test_a_check_stays_for_what_reads_indices_made_of_those_it_saw() -> None:
    """Only a reshape of the indices is read after the check; made before it."""
    b = Builder("g")
    with b.source("s"):
        x, i = b.input("x", DType.F32, (4,)), b.input("i", DType.I64, (3,))
        turned = b.one("reshape", [i], shape=(3, 1))
        b.one("gather", [x, i], axis=0)
        graph = b.finish([b.one("gather_nd", [x, turned], batch_dims=0)], names=["y"])
    assert ops(DeadCode()(graph)) == ["reshape", *CHECKS, "gather_nd"]


def test_passes_neither_lose_nor_repeat_a_check() -> None:
    graph = gathered()
    for _ in range(3):
        graph = run_passes(graph, default_passes())
        assert [op for op in ops(graph) if op != "require"] == [*CHECKS, "gather"]
        with pytest.raises(ExecutionError, match="index 5 is outside of axis 0, which has 5 elements"):
            run_graph(graph, {"x": np.zeros((5, 4), np.float32), "i": np.array([0, 5, 1])})


def test_a_check_that_fixed_sizes_decide_is_none() -> None:
    b = Builder("g")
    with b.source("s"):
        x, scores = b.input("x", DType.F32, (5,)), b.input("scores", DType.F32, (3, sym("n")))
        best = b.one("argmax", [scores], axis=1, keepdims=False, select_last=False)
        graph = b.finish([b.one("gather", [x, best], axis=0)], names=["y"])
    assert "bounds_check" in ops(graph)
    assert "bounds_check" not in ops(DeadCode()(specialise(graph, {"n": 5})))
    assert "bounds_check" in ops(DeadCode()(specialise(graph, {"n": 6})))


def test_a_gradient_is_checked_where_its_gather_is() -> None:
    b = Builder("g")
    with b.source("s"):
        x, i = b.input("x", DType.F32, (4, 2)), b.input("i", DType.I64, (3,))
        total = b.one("reduce", [b.one("gather", [x, i], axis=0)], kind="sum", axes=(0, 1), keepdims=False)
    graph = DeadCode()(gradient(b.finish([total], names=["loss"]), "loss", ["x"]))
    assert ops(graph).count("bounds_check") == 1 and "scatter_nd" in ops(graph)


def test_unchecked_graphs_have_no_checks_in_branches_either() -> None:
    b = Builder("g")
    with b.source("s"):
        x, i, c = b.input("x", DType.F32, (4,)), b.input("i", DType.I64, (3,)), b.input("c", DType.BOOL, ())
        branches = []
        for axis in (0, 1):
            inner = Builder(f"branch{axis}", b)
            wide = inner.one("reshape", [x], shape=(4, 1) if axis == 0 else (1, 4))
            flat = inner.one("reshape", [inner.one("gather", [wide, i], axis=axis)], shape=(3,))
            branches.append(inner.finish([flat]))
        graph = b.finish(b.add("if", [c], {}, branches), names=["y"])
    assert ops(retrace(graph)).count("bounds_check") == 2
    assert not {*CHECKS} & {*ops(unchecked(graph))}


def test_a_condition_on_a_bound_size_that_only_an_operand_has_stays() -> None:
    """The gather's output speaks of no bound size: it reads element 0 of as many as a run finds."""
    b = Builder("g")
    with b.source("s"):
        indices, count = b.add("nonzero", [b.input("mask", DType.BOOL, (sym("n"),))])
        found = b.one("slice", [indices], starts=(0, 0), steps=(1, 1), shape=(1, b.bind(count, "m")))
        y = b.one("gather", [found, b.constant(np.array([0]))], axis=1)
    graph = run_passes(b.finish([y], names=["y"]), default_passes())
    assert any("m" in str(node.attrs.get("condition")) for node in graph.nodes)
    assert run_graph(graph, {"mask": np.array([False, True])})["y"].tolist() == [[1]]
    with pytest.raises(ExecutionError):
        run_graph(graph, {"mask": np.array([False, False])})


def test_checks_of_axes_stay_where_those_of_indices_are_left_out() -> None:
    b = Builder("g")
    with b.source("s"):
        x, i, k = b.input("x", DType.F32, (4,)), b.input("i", DType.I64, (3,)), b.input("k", DType.I64, (1,))
        check_inside(b, k, Allowed((0,), (2,), "axis", "axes:"), "s")
        y = b.one("add", [b.one("gather", [x, i], axis=0), b.one("cast", [k], to=DType.F32)])
    graph = unchecked(b.finish([y], names=["y"]))
    assert ops(graph).count("bounds_check") == 1
    feed = {"x": np.ones(4, np.float32), "i": np.array([0, 1, 9]), "k": np.array([-3])}
    with pytest.raises(ExecutionError, match="axes: -3 does not exist in a tensor of 2 axes"):
        run_graph(graph, feed)


@pytest.mark.parametrize("always", [False, True])
def test_a_condition_on_what_is_read_for_its_sake_alone_stays(always: bool) -> None:
    """A size that nothing else uses takes the condition with it, unless the condition is what it is bound for."""
    b = Builder("g")
    with b.source("s"):
        x, n = b.input("x", DType.F32, (4,)), b.input("n", DType.I64, ())
        b.require(-b.bind(n, "wrong", what="n"), "n is not 0", always=always)
        graph = run_passes(b.finish([b.one("neg", [x])], names=["y"]))
    assert ops(graph) == (["bind_dim", "require", "neg"] if always else ["neg"])
    feed = {"x": np.ones(4, np.float32), "n": np.array(1)}
    if always:
        with pytest.raises(ExecutionError, match="n is not 0"):
            run_graph(graph, feed)
        with pytest.raises(ExecutionError, match="n: the size wrong came out as -1"):
            run_graph(graph, {**feed, "n": np.array(-1)})
    else:
        np.testing.assert_array_equal(run_graph(graph, feed)["y"], -feed["x"])
