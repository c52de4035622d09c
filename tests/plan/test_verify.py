"""Mapped graphs that a plan from a file could ask for, and that are not sound: each is refused, by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from mapsto.errors import ParseError
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import sym
from mapsto.ir.graph import Graph
from mapsto.ops.builder import Builder
from mapsto.plan.decide import decide
from mapsto.plan.home import Home
from mapsto.plan.items import Branches, Control, Item, View, targets_of
from mapsto.plan.layout import permuted, plain
from mapsto.plan.mapped import Mapped
from mapsto.plan.task import Task
from mapsto.plan.verify import verify
from tests.plan.support import asked


def checked(mapped: Mapped) -> None:
    verify(mapped, {}, {}, {})


def decided(graph: Graph) -> Mapped:
    mapped = decide(graph, asked(graph))
    checked(mapped)
    return mapped


def either() -> Mapped:
    b = Builder("g")
    x, c = b.input("x", DType.F32, (4, 8)), b.input("c", DType.BOOL, ())
    then, other = Builder("t", b), Builder("e", b)
    arms = [then.finish([then.one("exp", [x])]), other.finish([other.one("neg", [x])])]
    (made,) = b.add("if", [c], {}, arms)
    return decided(b.finish([b.one("tanh", [made])]))


def with_arms(mapped: Mapped, arms: Sequence[tuple[Item, ...]]) -> Mapped:
    items = [replace(i, arms=tuple(arms)) if isinstance(i, Branches) else i for i in mapped.items]
    return replace(mapped, items=tuple(items))


@pytest.mark.parametrize("lost", [0, 1])
def test_every_arm_writes_what_the_branch_gives(lost: int) -> None:
    mapped = either()
    (branch,) = [item for item in mapped.items if isinstance(item, Branches)]
    (name,) = targets_of(branch)
    arms = [arm if at != lost else () for at, arm in enumerate(branch.arms)]
    with pytest.raises(ParseError, match=f"not every arm writes '{name}'"):
        checked(with_arms(mapped, arms))


@pytest.mark.parametrize("first", [0, 1])
def test_what_one_arm_alone_writes_is_not_read_behind_the_branch(first: int) -> None:
    """A work that is moved from behind the branch into one of its arms leaves its reader without a value."""
    b = Builder("g")
    x, c = b.input("x", DType.F32, (4, 8)), b.input("c", DType.BOOL, ())
    before = b.one("reduce", [x], kind="sum", axes=(0,), keepdims=False)
    then, other = Builder("t", b), Builder("e", b)
    arms = [then.finish([then.one("exp", [x])]), other.finish([other.one("neg", [x])])]
    (made,) = b.add("if", [c], {}, arms)
    mapped = decided(b.finish([b.one("matmul", [made, b.one("reshape", [before], shape=(8, 1))]), before]))
    moved = next(item for item in mapped.items if before.name in targets_of(item))
    (branch,) = [item for item in mapped.items if isinstance(item, Branches)]
    rest = replace(mapped, items=tuple(item for item in mapped.items if item is not moved))
    wrong = [(*arm, moved) if at == first else arm for at, arm in enumerate(branch.arms)]
    with pytest.raises(ParseError, match="nothing"):
        checked(with_arms(rest, wrong))


def updated() -> tuple[Mapped, str]:
    """A value that takes over an input's memory."""
    b = Builder("g")
    p, x = (b.input(name, DType.F32, (4, 8)) for name in "px")
    mapped = decided(b.finish([b.one("sub", [p, x])], [("p", "out")], names=["out"]))
    assert mapped.homes["out"].buffer == "p"
    return mapped, "out"


def with_home(mapped: Mapped, name: str, home: Home) -> Mapped:
    return replace(mapped, homes={**mapped.homes, name: home})


def test_what_takes_over_an_input_s_memory_lies_as_that_does() -> None:
    mapped, name = updated()
    home = mapped.homes[name]
    for layout in (
        permuted((4, 8), (1, 0)),
        replace(home.layout, offset=8),
        permuted((4, 8), (0, 1), ((0, 1), (0, 0))),
    ):
        with pytest.raises(ParseError, match=f"home {name}: nothing puts it into the buffer of 'p'"):
            checked(with_home(mapped, name, replace(home, layout=layout)))


def test_elements_in_a_buffer_are_as_wide_as_its_owner_s() -> None:
    mapped, name = updated()
    narrow = replace(mapped.homes["x"], dtype=DType.F16)
    graph = mapped.graph
    inputs = tuple(replace(v, dtype=DType.F16) if v.name == "p" else v for v in graph.inputs)
    wrong = replace(
        with_home(mapped, "p", replace(mapped.homes["p"], dtype=narrow.dtype)), graph=replace(graph, inputs=inputs)
    )
    with pytest.raises(ParseError, match=f"home {name}: 'p' is no buffer of f32"):
        checked(wrong)


# -- controls and sizes ------------------------------------------------------------------------------------------------


def counted() -> Mapped:
    """Items whose sizes data decide: a size is bound, a condition on it checked, then it is worked with."""
    b = Builder("g")
    x = b.input("x", DType.F32, (4, 8))
    places, count = b.add("nonzero", [x])
    b.add("bind_dim", [count], {"symbol": "found"})
    b.add("require", [], {"condition": sym("found") - 1, "message": "nothing is there", "always": True})
    taken = b.one("slice", [places], starts=(0, 0), steps=(1, 1), shape=(2, sym("found")))
    return decided(b.finish([b.one("neg", [taken])]))


def controls_of(mapped: Mapped) -> list[Control]:
    return [item for item in mapped.items if isinstance(item, Control)]


@pytest.mark.parametrize("lost", [0, 1])
def test_no_control_is_left_out_or_doubled(lost: int) -> None:
    mapped = counted()
    control = controls_of(mapped)[lost]
    without = tuple(item for item in mapped.items if item is not control)
    with pytest.raises(ParseError, match=r"no line has the control|is not the next one|must stand before it"):
        checked(replace(mapped, items=without))
    twice = tuple(i for item in mapped.items for i in ((item, item) if item is control else (item,)))
    with pytest.raises(ParseError, match="is not the next one"):
        checked(replace(mapped, items=twice))


def test_a_control_names_a_node_that_is_one() -> None:
    mapped = counted()
    other = next(node for node in mapped.graph.nodes if node.op == "neg")
    items = tuple(replace(i, node=other) if isinstance(i, Control) else i for i in mapped.items)
    with pytest.raises(ParseError, match="its node is a neg, which is no check and binds no size"):
        checked(replace(mapped, items=items))


def test_a_control_stands_among_the_items_of_its_own_graph() -> None:
    """A condition of one arm says nothing in the other, nor around the branch."""
    b = Builder("g")
    x, c = b.input("x", DType.F32, (sym("n"), 8)), b.input("c", DType.BOOL, ())
    then, other = Builder("t", b), Builder("e", b)
    then.add("require", [], {"condition": sym("n") - 3, "message": "too few"})
    arms = [then.finish([then.one("exp", [x])]), other.finish([other.one("neg", [x])])]
    (made,) = b.add("if", [c], {}, arms)
    mapped = decided(b.finish([b.one("tanh", [made])]))
    (branch,) = [item for item in mapped.items if isinstance(item, Branches)]
    (control,) = [item for item in branch.arms[0] if isinstance(item, Control)]
    with pytest.raises(ParseError, match="belongs to another graph"):
        checked(with_arms(mapped, [branch.arms[0], (control, *branch.arms[1])]))
    with pytest.raises(ParseError, match="belongs to another graph"):
        checked(replace(mapped, items=(control, *mapped.items)))


def test_what_the_graph_has_behind_a_control_stands_behind_it() -> None:
    mapped = counted()
    (last,) = [item for item in mapped.items if targets_of(item) == mapped.graph.outputs]
    check = controls_of(mapped)[1]
    moved = [item for item in mapped.items if item is not last]
    moved.insert(moved.index(check), last)
    with pytest.raises(ParseError, match="the control for the require must stand before it"):
        checked(replace(mapped, items=tuple(moved)))


def test_a_size_has_its_value_before_it_is_worked_with() -> None:
    """Also where a plan writes a size of its own choice into a home, which the graph does not say there."""
    mapped = counted()
    name = "nonzero" if "nonzero" in mapped.homes else mapped.graph.nodes[0].outputs[0].name
    late = Home(name, DType.I64, plain((2, sym("found"))))
    with pytest.raises(ParseError, match="works with the size 'found', which nothing before it defines"):
        checked(with_home(mapped, name, late))
    with pytest.raises(ParseError, match=f"home {name}: nothing defines the size 'other'"):
        checked(with_home(mapped, name, replace(late, layout=plain((2, sym("other"))))))


def test_a_routine_has_memory_for_all_that_it_yields() -> None:
    mapped = counted()
    count = mapped.graph.nodes[0].outputs[0].name
    homes = {name: home for name, home in mapped.homes.items() if name != count}
    with pytest.raises(ParseError, match="has no home"):
        checked(replace(mapped, homes=homes))


def test_what_a_view_is_of_is_not_written_again() -> None:
    """A view behind a work that writes the same value would put that work's results into the buffer that it is of."""
    mapped, name = updated()
    (task,) = [item for item in mapped.items if isinstance(item, Task) and name in item.targets]
    view = View(name, ("p",), task.recipe, "")
    with pytest.raises(ParseError, match=f"{name} is written already"):
        checked(replace(mapped, items=(*mapped.items, view)))
