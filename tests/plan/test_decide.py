"""The planner as a whole: what is fused, where values lie, what the plan derives from."""

from __future__ import annotations

import pytest

from mapsto.ir.dtypes import DType
from mapsto.ir.expr import sym
from mapsto.ir.graph import Graph
from mapsto.ops.builder import Builder
from mapsto.plan.decide import decide
from mapsto.plan.items import Branches, Control, Task, View, reads_of, targets_of, tasks
from mapsto.plan.mapped import Mapped, Taken, plan_of
from mapsto.plan.plan import Offer, parse
from mapsto.plan.replay import replay
from mapsto.plan.works import walk
from tests.plan.graphs import conv, layer_norm_rows, silu, small_cnn
from tests.plan.support import asked


def decided(graph: Graph) -> Mapped:
    return decide(graph, asked(graph))


def kinds(graph: Graph) -> list[tuple[str, tuple[str, ...]]]:
    return [(task.kind, tuple(n.op for n in task.nodes)) for task in tasks(decided(graph).items)]


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
    mapped = decided(small_cnn())
    assert mapped.homes["mul"].buffer == mapped.homes["add"].buffer == "concat"
    assert not any(n.op == "concat" for task in tasks(mapped.items) for n in task.nodes)
    (whole,) = [item for item in walk(mapped.items) if isinstance(item, View) and item.value == "concat"]
    assert set(whole.of) == {"mul", "add"}


@pytest.mark.parametrize("widths", [(16, 16, 32), (8, 16, 8), (16, 24, 8), (8, 8, 16), (24, 40), (32, 16, 8)])
def test_a_part_is_written_straight_only_where_it_is_whole_blocks(widths: tuple[int, ...]) -> None:
    b = Builder("parts")
    x = b.input("x", DType.F32, (1, 16, 8, 8))
    parts = [b.one("relu", [conv(b, x, width)]) for width in widths]
    mapped = decided(b.finish([conv(b, b.one("concat", parts, axis=1), 32, 1)]))
    (block,) = {home.layout.block.size for name, home in mapped.homes.items() if name == "concat" and home.layout.block}
    starts = [sum(widths[:at]) for at in range(len(widths))]
    parts_in_place = [mapped.homes[part.name].buffer == "concat" for part in parts]
    for start, width, in_place in zip(starts, widths, parts_in_place, strict=True):
        assert in_place == (not any(extent % block for extent in (start, width, sum(widths))))


@pytest.mark.parametrize(("axis", "straight"), [(1, True), (2, False), (3, False)])
def test_a_part_with_a_border_lies_beside_others_only_along_another_axis(axis: int, straight: bool) -> None:
    """Windows read zeros around a part, where along the axis of the concatenation its neighbour would lie."""
    b = Builder("parts")
    x = b.input("x", DType.F32, (1, 16, 8, 8))
    first, second = (b.one(op, [conv(b, x, 16, 1)]) for op in ("relu", "tanh"))
    whole = b.one("concat", [first, second], axis=axis)
    mapped = decided(b.finish([conv(b, whole, 32, 1), conv(b, first, 16)]))
    assert any(any(pair) for pair in mapped.homes[first.name].layout.border)
    assert (mapped.homes[first.name].buffer == whole.name) == straight
    assert mapped.homes[second.name].buffer == whole.name


def test_a_value_that_leaves_the_graph_is_kept() -> None:
    b = Builder("two")
    x = b.input("x", DType.F32, (1, 16, 8, 8))
    y = conv(b, x, 16)
    mapped = decided(b.finish([y, silu(b, y)]))
    (contraction,) = [t for t in tasks(mapped.items) if t.kind == "contraction"]
    assert set(mapped.graph.outputs) <= mapped.homes.keys()
    assert "sigmoid" not in [n.op for n in contraction.nodes]


def test_a_task_does_not_swallow_a_reader_in_between() -> None:
    """a feeds b and c, b feeds a convolution whose result meets c: a and c must not be merged past the convolution."""
    b = Builder("between")
    x = b.input("x", DType.F32, (1, 16, 8, 8))
    a = b.one("exp", [x])
    middle = conv(b, b.one("tanh", [a]), 16)
    mapped = decided(b.finish([b.one("mul", [a, b.one("neg", [middle])])]))
    made = {"x"} | mapped.graph.constants.keys()
    for item in walk(mapped.items):
        assert reads_of(item) <= made
        made |= set(targets_of(item))


def branching() -> Graph:
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
        return b.finish(b.add("if", [c], {}, graphs), names=["y"])


def test_what_is_built_after_a_check_stays_after_it() -> None:
    """Tasks only move to later places, so a check comes before whatever it guards, however nodes are fused."""
    (branch,) = [item for item in decided(branching()).items if isinstance(item, Branches)]
    kinds = ["check" if isinstance(i, Control) else "+".join(n.op for n in i.nodes) if isinstance(i, Task) else "view"
             for i in branch.arms[0]]  # fmt: skip
    last = max(k for k, kind in enumerate(kinds) if kind == "check")
    assert [k for k, kind in enumerate(kinds) if "gather" in kind or "scatter" in kind][0] > last
    assert kinds.count("check") == 2  # the condition on the size of the axis, and the indices


GRAPHS = {"cnn": small_cnn, "open cnn": lambda: small_cnn(sym("h"), sym("w")), "rows": layer_norm_rows, "if": branching}


def without_reasons(mapped: Mapped) -> list[object]:
    def shown(item: object) -> object:
        if isinstance(item, Task):
            return item.recipe, item.kind, item.stmts, item.phases, item.nodes
        return (item.node, item.reads, item.name) if isinstance(item, Branches) else item

    return list(map(shown, walk(mapped.items)))


@pytest.mark.parametrize("name", GRAPHS)
def test_tasks_follow_from_the_plan_and_the_graph(name: str) -> None:
    """What a printed plan derives is what was decided, statement by statement."""
    graph = GRAPHS[name]()
    mapped = decided(graph)
    offers = {task.name: Taken(Offer("any")) for task in tasks(mapped.items)}
    plan = plan_of(mapped, offers, "any", ("digest", "version"))
    again = replay(parse(plan.text()), graph)
    assert without_reasons(again) == without_reasons(mapped)
    assert again.places == mapped.places and dict(again.homes) == dict(mapped.homes)


def test_a_value_that_is_joined_with_itself_lies_in_one_part_and_is_copied_to_the_other() -> None:
    b = Builder("twice")
    y = conv(b, b.input("x", DType.F32, (1, 16, 8, 8)), 16)
    mapped = decided(b.finish([conv(b, b.one("concat", [y, y], axis=1), 16)]))
    (joined,) = [task for task in tasks(mapped.items) if task.recipe.rule == "without"]
    assert len(joined.stmts) == 1 and str(joined.recipe) == "without(concat, conv)"
