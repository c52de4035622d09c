"""Mapped graphs that a plan from a file could ask for, and that are not sound: each is refused, by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from mapsto.errors import ParseError
from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Graph
from mapsto.ops.builder import Builder
from mapsto.plan.decide import decide
from mapsto.plan.home import Home
from mapsto.plan.items import Branches, Item, targets_of
from mapsto.plan.layout import permuted
from mapsto.plan.mapped import Mapped
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
