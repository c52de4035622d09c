"""Copies of what lies otherwise than a contraction needs it: in the layout that is asked for, each on its own path."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import pytest

from mapsto.devices.cpu.traits import TRAITS
from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Graph, Value
from mapsto.ops.builder import Builder
from mapsto.plan.access import access
from mapsto.plan.decide import decide
from mapsto.plan.home import Border, Home, layout_for, same_places
from mapsto.plan.items import Branches, Item, Task, reads_of, targets_of, tasks
from mapsto.plan.layout import permuted, plain
from mapsto.plan.mapped import Mapped
from mapsto.plan.works import NO_PINS, Pins
from tests.plan.graphs import conv, varied
from tests.plan.support import asked


def decided(graph: Graph, pins: Pins = NO_PINS) -> Mapped:
    return decide(graph, asked(graph), pins)


def written(items: Iterable[Item], known: set[str]) -> set[str]:
    """What is written after these items, on every path; nothing is read that is not."""
    now = set(known)
    for item in items:
        if isinstance(item, Branches):
            now |= set.intersection(*(written(arm, now) for arm in item.arms))
        else:
            assert reads_of(item) <= now, item
            now |= set(targets_of(item))
    return now


@pytest.mark.parametrize("kernels", [(3, 5), (5, 3), (1, 3), (3, 1)])
def test_each_contraction_reads_a_copy_as_wide_as_its_windows(kernels: tuple[int, int]) -> None:
    """An input of the graph has no border: each is given a copy with one of its own."""
    b = Builder("g")
    x = b.input("x", DType.F32, (1, 16, 9, 9))
    mapped = decided(b.finish([b.one("add", [b.one("relu", [conv(b, x, 16, k)]) for k in kernels])]))
    contractions = [task for task in tasks(mapped.items) if task.phases]
    assert len(contractions) == 2
    for task in contractions:
        (phase,) = task.phases
        layout = mapped.homes[phase.a.tensor].layout
        need = phase.border(layout.shape)
        assert need is not None
        assert all(b >= c and a >= d for (b, a), (c, d) in zip(layout.border, need, strict=True))


def test_equal_needs_share_a_copy() -> None:
    b = Builder("g")
    x = b.input("x", DType.F32, (1, 16, 9, 9))
    mapped = decided(b.finish([b.one("add", [b.one(op, [conv(b, x, 16)]) for op in ("relu", "tanh")])]))
    assert len({task.phases[0].a.tensor for task in tasks(mapped.items) if task.phases}) == 1


def grouped(b: Builder, x: Value, channels: int, groups: int) -> Value:
    weights = b.constant(varied(len(b.nodes), channels, channels // groups, 1, 1), "w")
    return b.one("conv", [x, weights], strides=(1, 1), pads=(0,) * 4, dilations=(1, 1), group=groups)


def test_groups_that_cross_blocks_have_their_channels_in_one_piece() -> None:
    """No copy between them: each reads and writes as the values lie."""
    b = Builder("g")
    x = b.input("x", DType.F32, (1, 136, 8, 8))
    first = b.one("relu", [grouped(b, x, 136, 4)])
    second = b.one("relu", [grouped(b, first, 136, 4)])
    mapped = decided(b.finish([b.one("reduce", [second], kind="max", axes=(2, 3), keepdims=True)]))
    assert [t.recipe.rule for t in tasks(mapped.items)].count("copy") <= 1  # of the input
    assert mapped.homes[first.name].layout == permuted((1, 136, 8, 8), (0, 2, 3, 1))


def test_groups_of_whole_blocks_lie_in_blocks() -> None:
    b = Builder("g")
    x = b.input("x", DType.F32, (1, 128, 8, 8))
    first = b.one("relu", [grouped(b, x, 128, 4)])
    second = b.one("relu", [grouped(b, first, 128, 4)])
    mapped = decided(b.finish([b.one("reduce", [second], kind="max", axes=(2, 3), keepdims=True)]))
    assert mapped.homes[first.name].layout.block is not None


def test_a_shuffle_that_a_window_reads_through_is_stored_before_it_where_that_is_less() -> None:
    b = Builder("g")
    y = b.one("relu", [grouped(b, b.input("x", DType.F32, (1, 136, 28, 28)), 136, 4)])
    y = b.one("transpose", [b.one("reshape", [y], shape=(1, 4, 34, 28, 28))], perm=(0, 2, 1, 3, 4))
    y = b.one("reshape", [y], shape=(1, 136, 28, 28))
    weights = b.constant(varied(3, 136, 1, 3, 3), "w")
    window = b.one("conv", [y, weights], strides=(1, 1), pads=(1,) * 4, dilations=(1, 1), group=136)
    last = b.one("relu", [grouped(b, window, 136, 4)])
    mapped = decided(b.finish([b.one("reduce", [last], kind="max", axes=(2, 3), keepdims=True)]))
    (task,) = [t for t in tasks(mapped.items) if window.name in t.targets]
    assert task.reads >= {y.name} and mapped.homes[y.name].layout == permuted(y.shape, (0, 2, 3, 1))


def test_a_copy_that_an_arm_makes_is_read_there_alone() -> None:
    b = Builder("g")
    x, c = b.input("x", DType.F32, (1, 16, 9, 9)), b.input("c", DType.BOOL, ())
    then, other = Builder("t", b), Builder("e", b)
    arms = [then.finish([conv(then, x, 16)]), other.finish([other.one("neg", [conv(other, x, 16)])])]
    (either,) = b.add("if", [c], {}, arms)
    mapped = decided(b.finish([b.one("add", [either, conv(b, x, 16)])]))
    constants = {name for graph in (mapped.graph, *mapped.graph.nodes[0].graphs) for name in graph.constants}
    known = written(mapped.items, {"x", "c"} | constants)
    assert set(mapped.places.values()) <= known
    assert sum(isinstance(item, Task) and not item.phases for item in mapped.items) >= 1


@pytest.mark.parametrize("inner", [None, 1, 2])
def test_a_second_result_that_lies_otherwise_is_copied(inner: int | None) -> None:
    """A pre-activation that a user wants row-major, beside an activation in blocks: still one contraction."""
    b = Builder("g")
    x = b.input("x", DType.F32, (1, 16, 8, 8))
    first = conv(b, x, 32)
    second = conv(b, b.one("relu", [first]), 32)
    graph = b.finish([b.one("reduce", [b.one("add", [second, first])], kind="max", axes=(2, 3), keepdims=True)])
    mapped = decided(graph, Pins(inner=((first.name, inner),)))
    (task,) = [t for t in tasks(mapped.items) if t.phases and any(n.op == "relu" for n in t.nodes)]
    phase, column = task.phases[0], task.phases[0].cols[0].name
    blocks = set()
    for name in task.targets:
        if name in mapped.homes:
            reached = access(phase, phase.index, mapped.homes[name].layout, column, None)
            assert reached is not None, (name, mapped.homes[name].layout)
            blocks.add(reached.block or 0)
    assert len(blocks) == 1


def test_a_routine_reads_what_lies_row_major() -> None:
    """What would be a view of a value in blocks, or of one turned round, is a copy where strides are not asked for."""
    b = Builder("g")
    x = b.input("x", DType.F32, (1, 16, 8, 8))
    y = b.one("relu", [conv(b, x, 32)])
    turned = b.one("transpose", [y], perm=(0, 2, 3, 1))
    values, places = b.add("topk", [turned], {"axis": 3, "k": 4, "largest": True, "sorted": True})
    mapped = decided(b.finish([conv(b, y, 16), values, places]))
    (routine,) = [task for task in tasks(mapped.items) if task.kind == "routine"]
    for name in (*routine.reads, *routine.targets):
        layout = mapped.homes[name].layout
        assert same_places(layout, plain(layout.shape)), (name, layout)


# -- reach -------------------------------------------------------------------------------------------------------------


def test_a_contraction_reaches_an_operand_whose_border_is_wide_enough_on_every_side() -> None:
    b = Builder("g")
    x = b.input("x", DType.F32, (1, 32, 9, 9))
    (task,) = [task for task in tasks(decided(b.finish([conv(b, x, 32)])).items) if task.phases]
    (c,) = task.phases
    need = ((0, 0), (0, 0), (1, 1), (1, 1))
    assert c.border((1, 32, 9, 9)) == need

    def reaches(border: Border) -> bool:
        layout = layout_for((1, 32, 9, 9), 1, TRAITS, border)
        return access(c, c.a.index, layout, c.channels[0].name, need) is not None

    assert reaches(need) and reaches(((0, 0), (0, 0), (2, 1), (1, 3)))
    for dim in (2, 3):
        for pair in ((0, 1), (1, 0)):
            assert not reaches(tuple(pair if d == dim else each for d, each in enumerate(need)))


def _products(op: str, inner: int) -> Graph:
    """Two products, the second of what `op` makes of the first, whose rows have `inner` elements."""
    b = Builder("g")
    x = b.input("x", DType.F32, (24, 64))
    first = b.one("matmul", [x, b.constant(np.ones((64, inner), np.float32), "a")])
    hidden = b.one(op, [first])
    return b.finish([b.one("matmul", [hidden, b.constant(np.ones((inner, 48), np.float32), "b")])])


def _read_by_the_last_product(mapped: Mapped) -> Home:
    *_, last = (task for task in tasks(mapped.items) if task.phases)
    return mapped.homes[last.phases[0].a.tensor]


@pytest.mark.parametrize(("inner", "apart"), [(1024, 16), (3072, 16), (768, 0), (1000, 0), (2048 + 512, 0)])
def test_rows_that_push_each_other_out_of_a_cache_lie_apart(inner: int, apart: int) -> None:
    layout = _read_by_the_last_product(decided(_products("relu", inner))).layout
    assert layout.border in ((), ((0, 0), (0, 0))) if not apart else layout.border == ((0, 0), (0, apart))
    assert layout.axes[0].stride == inner + apart


def test_rows_lie_side_by_side_where_no_distance_is_known_or_others_read_them() -> None:
    graph, traits = _products("relu", 1024), replace(TRAITS, crowded_bytes=0)
    maker = asked(graph)
    maker.traits = traits
    assert _read_by_the_last_product(decide(graph, maker)).layout.axes[0].stride == 1024
    b = Builder("g")
    x = b.input("x", DType.F32, (24, 64))
    hidden = b.one("relu", [b.one("matmul", [x, b.constant(np.ones((64, 1024), np.float32), "a")])])
    y = b.one("matmul", [hidden, b.constant(np.ones((1024, 48), np.float32), "b")])
    read_twice = decided(b.finish([y, b.one("cumsum", [hidden], axis=0, exclusive=False, reverse=False)]))
    assert _read_by_the_last_product(read_twice).layout.axes[0].stride == 1024
