"""Constants that contractions read packed: one for all that pack it in one way, one for each way."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from tests.session.support import assert_close, normal

import mapsto
from mapsto.devices.cpu.traits import TRAITS
from mapsto.devices.making.packed import logical_b
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, evaluate, floordiv, mod, sym
from mapsto.ir.graph import Graph, Value
from mapsto.kernel.ast import Iter, Load
from mapsto.ops.builder import Builder
from mapsto.ops.interpret import run_graph
from mapsto.plan.contraction import Contraction
from mapsto.runtime.program import Run


def by_rows(b: Builder, x: Value, w: Value) -> Value:
    return b.one("matmul", [x, w])


def by_columns(b: Builder, x: Value, w: Value) -> Value:
    """x[i, k] * w[j, k], summed over k: the same constant read the other way."""
    wide = b.one("reshape", [x], shape=(x.shape[0], 1, x.shape[1]))
    return b.one("reduce", [b.one("mul", [wide, w])], kind="sum", axes=(2,), keepdims=False)


def twice(first: Callable[..., Value], second: Callable[..., Value]) -> Graph:
    b = Builder("g")
    x = b.input("x", DType.F32, (8, 32))
    w = b.constant(normal(32, 32, seed=1) * 0.2, "w")
    return b.finish([second(b, b.one("tanh", [first(b, x, w)]), w)])


def packed(exe: mapsto.Executable) -> list[str]:
    return [buffer.name for buffer in exe.program.buffers if buffer.kind == "constant" and ".packed." in buffer.name]


@pytest.mark.parametrize(
    ("first", "second", "count"),
    [(by_rows, by_rows, 1), (by_columns, by_columns, 1), (by_rows, by_columns, 2), (by_columns, by_rows, 2)],
)
def test_one_constant_is_packed_once_for_each_way_of_reading_it(
    first: Callable[..., Value], second: Callable[..., Value], count: int
) -> None:
    graph = twice(first, second)
    exe = mapsto.compile(graph, threads=1)
    feed = {"x": normal(8, 32)}
    assert_close(exe.run(feed), run_graph(graph, feed))
    assert len(packed(exe)) == count, packed(exe)


def test_halves_are_packed_as_they_lie_for_a_row_and_widened_for_many() -> None:
    b = Builder("g")
    x, y = b.input("x", DType.F16, (2, 512)), b.input("y", DType.F16, (64, 512))
    w = b.constant((normal(512, 640, seed=2) * 0.05).astype(np.float16), "w")
    graph = b.finish([b.one("matmul", [x, w]), b.one("matmul", [y, w])])
    exe = mapsto.compile(graph, threads=1)
    feed = {"x": normal(2, 512).astype(np.float16), "y": normal(64, 512).astype(np.float16)}
    assert_close(exe.run(feed), run_graph(graph, feed))
    assert len(packed(exe)) == 2


@pytest.mark.parametrize(("rows", "depth", "threads"), [(1, 1536, 2), (1, 24, 1), (64, 1536, 2)])
def test_a_row_whose_weights_come_from_afar_is_work_for_two(rows: int, depth: int, threads: int) -> None:
    """Few multiply-adds, but many bytes."""
    b = Builder("g")
    w = b.constant(normal(depth, 576, seed=2), "w")
    exe = mapsto.compile(b.finish([b.one("matmul", [b.input("x", DType.F32, (rows, depth)), w])]), threads=2)
    (step,) = (s for s in exe.program.steps if isinstance(s, Run))
    assert min(max(evaluate(step.extent, {}) // step.grain, 1), 2) == threads


def contraction_of(index: tuple[Dim, ...], *iters: Iter) -> Contraction:
    """One that reads a constant B at this index: the iterators are columns, channels, and a window."""
    columns, *reds = iters
    a, b = Load("x", (sym(reds[0].name),), DType.F32), Load("w", index, DType.F32)
    out = (sym(columns.name),)
    return Contraction(
        "y", DType.F32, (columns,), out, (columns.extent,), a, b, (), (), (), (columns,), tuple(reds), TRAITS
    )


@pytest.mark.parametrize(
    ("index", "extents", "shape", "is_view"),
    [
        ((sym("n"), sym("k")), (6, 8), (6, 8), True),
        ((sym("k"), sym("n")), (6, 8), (8, 6), True),
        ((sym("k") * 4 + sym("p"), sym("n")), (6, 5, 4), (20, 6), True),
        ((sym("n"), 7 - sym("k")), (6, 8), (6, 8), True),
        ((sym("n") + 2, sym("k") * 2 + 1), (6, 8), (9, 20), True),
        ((0, sym("k")), (6, 8), (2, 8), True),
        ((sym("n"), floordiv(sym("k"), 2)), (6, 8), (6, 4), False),
        ((mod(sym("n") + sym("k"), 5), sym("k")), (6, 8), (5, 8), False),
    ],
)
def test_a_constant_is_walked_or_looked_up_by_its_index(
    index: tuple[Dim, ...], extents: tuple[int, ...], shape: tuple[int, ...], is_view: bool
) -> None:
    """In the order (columns, channels, window); a view where every iterator walks evenly."""
    iters = tuple(Iter(name, extent) for name, extent in zip("nkp", extents, strict=False))
    array = normal(*shape, seed=5)
    found = logical_b(contraction_of(index, *iters), array)
    assert found.shape == extents and np.shares_memory(found, array) == is_view
    for at in np.ndindex(*extents):
        where = dict(zip("nkp", at, strict=False))
        assert found[at] == array[tuple(evaluate(e, where, lambda *_: 0) for e in index)]
