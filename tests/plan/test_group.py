"""Grouping: what is fused with what, and what must not be."""

from __future__ import annotations

from mapsto.ir.dtypes import DType
from mapsto.ir.expr import sym
from mapsto.ops.builder import Builder
from mapsto.plan.group import shared_dims
from mapsto.plan.homes import flat
from mapsto.plan.planner import plan_graph
from tests.plan.graphs import conv, layer_norm_rows, silu, small_cnn


def kinds(graph: object) -> list[tuple[str, tuple[str, ...]]]:
    planned = plan_graph(graph)  # type: ignore[arg-type]
    return [(g.kind, tuple(n.op for n in g.nodes)) for g in flat(planned.groups)]


def test_activations_and_residuals_join_their_convolution() -> None:
    found = kinds(small_cnn())
    assert ("contraction", ("conv", "sigmoid", "mul")) in found
    assert ("contraction", ("conv", "relu", "add")) in found


def test_a_softmax_is_one_kernel() -> None:
    assert ("rows", ("reduce", "sub", "exp", "reduce", "div")) in kinds(small_cnn())


def test_a_channel_norm_around_transposes_is_one_kernel() -> None:
    found = kinds(layer_norm_rows())
    assert len(found) == 1 and found[0][0] == "rows"


def test_what_is_only_concatenated_is_written_into_its_part() -> None:
    planned = plan_graph(small_cnn())
    homes = planned.homes.homes
    assert homes["mul"].buffer == homes["add"].buffer == "concat"
    assert not any(n.op == "concat" for g in flat(planned.groups) for n in g.nodes)


def test_a_value_that_leaves_the_graph_is_kept() -> None:
    b = Builder("two")
    x = b.input("x", DType.F32, (1, 16, 8, 8))
    y = conv(b, x, 16)
    planned = plan_graph(b.finish([y, silu(b, y)]))
    assert [g.kind for g in flat(planned.groups) if g.kind == "contraction"] == ["contraction"]
    assert {y.name, planned.graph.outputs[1]} <= planned.kept
    assert all("sigmoid" not in [n.op for n in g.nodes] for g in flat(planned.groups) if g.kind == "contraction")


def test_a_group_does_not_swallow_a_reader_in_between() -> None:
    """a feeds b and c, b feeds a convolution whose result meets c: a and c must not be merged past the convolution."""
    b = Builder("between")
    x = b.input("x", DType.F32, (1, 16, 8, 8))
    a = b.one("exp", [x])
    middle = conv(b, b.one("tanh", [a]), 16)
    planned = plan_graph(b.finish([b.one("mul", [a, b.one("neg", [middle])])]))
    made: set[str] = {"x"} | set(planned.constants)
    for group in flat(planned.groups):
        if group.kind == "view":
            continue
        assert group.reads() <= made | {h for h, home in planned.homes.homes.items() if home.buffer in made}
        made |= set(group.targets())


def test_shared_dims_of_a_softmax_over_channels_are_all_but_the_channels() -> None:
    from mapsto.ops import composite

    b = Builder("s")
    x = b.input("x", DType.F32, (4, 7, 9))
    planned = plan_graph(b.finish([composite.softmax(b, x, 1)]))
    (group,) = flat(planned.groups)
    assert shared_dims(group.stmts) == (0, 2)


def test_what_is_built_after_a_check_stays_after_it() -> None:
    """Groups only move to later places, so a check comes before whatever it guards, however nodes are fused."""
    b = Builder("g")
    n = sym("n")
    with b.source("s"):
        x, i, c = b.input("x", DType.F32, (n, 8)), b.input("i", DType.I64, (sym("m"),)), b.input("c", DType.BOOL, ())
        inner = Builder("t", b)
        rows = inner.one("gather", [inner.one("exp", [x]), i], axis=0)
        softened = inner.one("mul", [rows, inner.one("reduce", [rows], kind="max", axes=(1,), keepdims=True)])
        placed = inner.one("scatter_nd", [x, inner.one("reshape", [i], shape=(sym("m"), 1)), softened], reduction="add")
        other = Builder("e", b)
        graphs = [inner.finish([placed]), other.finish([other.one("neg", [x])])]
        graph = b.finish(b.add("if", [c], {}, graphs), names=["y"])
    (branch,) = [g for g in plan_graph(graph).groups if g.kind == "branch"]
    kinds = [("check" if g.kind == "check" else "+".join(node.op for node in g.nodes)) for g in branch.branches[0]]
    last = max(k for k, kind in enumerate(kinds) if kind == "check")
    assert [k for k, kind in enumerate(kinds) if "gather" in kind or "scatter" in kind][0] > last
    assert kinds.count("check") == 2  # the condition on the size of the axis, and the indices
