"""Outputs that take over an input's memory: computed there only where nobody reads the old value any more."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

import mapsto
from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Graph, Value
from mapsto.ops.builder import Builder
from mapsto.ops.interpret import run_graph
from mapsto.plan.decide import decide
from tests.plan.support import asked

Made = Callable[[Builder, Value, Value], Sequence[Value]]


def graph_of(make: Made, takes: Sequence[str | None], extent: int = 6) -> Graph:
    """The graph of p and x, square matrices; takes: for each output the input whose memory it takes over."""
    b = Builder("g")
    p, x = (b.input(name, DType.F32, (extent, extent)) for name in "px")
    names = [f"out{i}" for i in range(len(takes))]
    updates = [(source, name) for source, name in zip(takes, names, strict=True) if source]
    return b.finish(list(make(b, p, x)), updates, names=names)


def turned(b: Builder, v: Value) -> Value:
    return b.one("transpose", [v], perm=(1, 0))


def total(b: Builder, v: Value, axis: int = 1) -> Value:
    return b.one("reduce", [v], kind="sum", axes=(axis,), keepdims=True)


def part(b: Builder, v: Value, start: int, count: int) -> Value:
    return b.one("slice", [v], starts=(start, 0), steps=(1, 1), shape=(count, v.shape[1]))


def less(b: Builder, v: Value, w: Value) -> Value:
    return b.one("sub", [v, w])


def product(b: Builder, v: Value, w: Value) -> Value:
    return b.one("matmul", [v, w])


def doubled(b: Builder, p: Value, x: Value) -> Value:
    """Rows of p doubled, one of which is named twice: it is doubled once."""
    at = b.constant(np.array([[4], [1], [4]]))
    rows = b.one("reshape", [b.one("gather", [p, at], axis=0)], shape=(3, 6))
    return b.one("scatter_nd", [p, at, b.one("mul", [rows, b.constant(np.float32(2))])], reduction="none")


def mixed(b: Builder, p: Value, x: Value) -> Value:
    """The sum over k of p[i, j] * x[j, k]: p's own element in every round of a reduction."""
    wide = [b.one("reshape", [p], shape=(*p.shape, 1)), b.one("reshape", [x], shape=(1, *x.shape))]
    return b.one("reduce", [b.one("mul", wide)], kind="sum", axes=(2,), keepdims=False)


def scattered(b: Builder, p: Value, x: Value) -> Value:
    """Two rows of p replaced by rows of x: a cache that is written to."""
    at = b.constant(np.array([[4], [1]]))
    return b.one("scatter_nd", [p, at, part(b, x, 0, 2)], reduction="none")


def momentum(b: Builder, p: Value, x: Value) -> tuple[Value, Value]:
    v = b.one("mul", [b.one("add", [x, x]), b.constant(np.float32(0.25))])
    return less(b, p, v), v


IN_PLACE: dict[str, tuple[Made, Sequence[str | None]]] = {
    "element by element": (lambda b, p, x: [less(b, p, x)], ["p"]),
    "an epilogue reads it": (lambda b, p, x: [less(b, p, product(b, x, x))], ["p"]),
    "a reduction of another": (lambda b, p, x: [less(b, p, total(b, x))], ["p"]),
    "two that depend": (momentum, ["p", "x"]),
    "a cache is written to": (lambda b, p, x: [scattered(b, p, x)], ["p"]),
    "nobody reads the old": (lambda b, p, x: [b.one("exp", [x])], ["p"]),
    "a constant": (lambda b, p, x: [b.constant(np.ones((6, 6), np.float32))], ["p"]),
    "it stays as it is": (lambda b, p, x: [p], ["p"]),
}

AT_THE_END: dict[str, tuple[Made, Sequence[str | None]]] = {
    "reads it transposed": (lambda b, p, x: [less(b, p, turned(b, p))], ["p"]),
    "reads whole rows": (lambda b, p, x: [b.one("div", [p, total(b, b.one("exp", [p]))])], ["p"]),
    "reads whole columns": (lambda b, p, x: [less(b, p, total(b, p, 0))], ["p"]),
    "multiplies it from the left": (lambda b, p, x: [product(b, p, x)], ["p"]),
    "multiplies it from the right": (lambda b, p, x: [product(b, x, p)], ["p"]),
    "multiplies it and subtracts": (lambda b, p, x: [less(b, p, product(b, x, p))], ["p"]),
    "another reads it later": (lambda b, p, x: [less(b, p, x), product(b, less(b, p, x), p)], ["p", None]),
    "swaps with another": (lambda b, p, x: [b.one("neg", [x]), b.one("neg", [p])], ["p", "x"]),
    "swaps as they are": (lambda b, p, x: [x, p], ["p", "x"]),
    "shifts by a row": (lambda b, p, x: [b.one("concat", [part(b, p, 1, 5), part(b, x, 0, 1)], axis=0)], ["p"]),
    "one kernel reads it later": (lambda b, p, x: [less(b, p, x), b.one("mul", [less(b, p, x), p])], ["p", None]),
    "reads what it has written": (lambda b, p, x: [doubled(b, p, x)], ["p"]),
    "sums it with others": (lambda b, p, x: [mixed(b, p, x)], ["p"]),
    "sums on its way": (lambda b, p, x: [b.one("cumsum", [p], axis=0, exclusive=False, reverse=False)], ["p"]),
    "gathers its rows": (lambda b, p, x: [b.one("gather", [p, b.constant(np.arange(6)[::-1].copy())], axis=0)], ["p"]),
}


@pytest.mark.parametrize("threads", [1, 2])
def test_inputs_that_take_over_each_other_s_memory_under_their_own_names(threads: int) -> None:
    b = Builder("g")
    p, x, y = (b.input(name, DType.F32, (5,)) for name in "pxy")
    graph = b.finish([x, y, p], [("p", "x"), ("x", "y"), ("y", "p")])
    feeds = {name: np.arange(5, dtype=np.float32) + k for k, name in enumerate("pxy")}
    exe = mapsto.compile(graph, threads=threads)
    own = {name: array.copy() for name, array in feeds.items()}
    found = exe.run(own)
    for source, output in graph.updates:
        assert found[output] is own[source]
        np.testing.assert_array_equal(own[source], feeds[output])


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", [*IN_PLACE, *AT_THE_END])
def test_updates_are_right_and_in_the_callers_memory(name: str, threads: int) -> None:
    graph = graph_of(*{**IN_PLACE, **AT_THE_END}[name])
    rng = np.random.default_rng(0)
    feeds = {v.name: rng.standard_normal((6, 6)).astype(np.float32) for v in graph.inputs}
    expected = run_graph(graph, {k: v.copy() for k, v in feeds.items()})
    exe = mapsto.compile(graph, threads=threads)
    for poison in (False, True):
        exe.poison(poison)
        own = {k: v.copy() for k, v in feeds.items()}
        found = exe.run(own)
        for output, array in expected.items():
            np.testing.assert_allclose(found[output], array, rtol=1e-5, atol=1e-5, err_msg=output)
        for source, output in graph.updates:
            assert found[output] is own[source]
        for source in set(own) - {source for source, _ in graph.updates}:
            np.testing.assert_array_equal(own[source], feeds[source])


@pytest.mark.parametrize("name", [*IN_PLACE, *AT_THE_END])
def test_a_copy_at_the_end_only_where_it_must_be(name: str) -> None:
    graph = graph_of(*{**IN_PLACE, **AT_THE_END}[name])
    mapped = decide(graph, asked(graph))
    places = list(mapped.places.values())
    copied = [v for v in places if ".copy" in v]
    assert bool(copied) == (name in AT_THE_END), copied
    for place, (source, _) in zip(places, mapped.graph.updates, strict=False):
        assert mapped.homes[place].buffer == source


@pytest.mark.parametrize("name", [*IN_PLACE, *AT_THE_END])
def test_plans_of_updates_are_replayed(name: str) -> None:
    graph = graph_of(*{**IN_PLACE, **AT_THE_END}[name])
    exe = mapsto.compile(graph)
    assert mapsto.compile(graph, plan=exe.plan.text()).program == exe.program


INDEXED: dict[str, Callable[[Builder, Value, Value], Value]] = {
    "gathers by it, turned": lambda b, p, x: b.one("gather_elements", [x, turned(b, p)], axis=0),
    "scatters by it": lambda b, p, x: b.one("scatter_elements", [x, p, x], axis=0, reduction="add"),
}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", INDEXED)
def test_an_old_value_that_is_an_index_is_read_before_it_goes(name: str, threads: int) -> None:
    b = Builder("g")
    p, x = (b.input(name, DType.I64, (6, 6)) for name in "px")
    graph = b.finish([INDEXED[name](b, p, x)], [("p", "out")], names=["out"])
    rng = np.random.default_rng(0)
    feeds = {"p": rng.integers(0, 6, (6, 6)), "x": rng.integers(0, 6, (6, 6))}
    expected = run_graph(graph, {k: v.copy() for k, v in feeds.items()})["out"]
    own = {k: v.copy() for k, v in feeds.items()}
    mapsto.compile(graph, threads=threads).run(own)
    np.testing.assert_array_equal(own["p"], expected)


def test_large_matrices_shared_between_threads() -> None:
    """Rows and blocks that one thread writes while another still reads."""
    cases: list[Made] = [
        lambda b, p, x: [less(b, p, total(b, p, 0))],
        lambda b, p, x: [less(b, p, product(b, x, p))],
        lambda b, p, x: [less(b, turned(b, p), x)],
    ]
    rng = np.random.default_rng(1)
    feeds = {name: (rng.standard_normal((300, 300)) * 0.05).astype(np.float32) for name in "px"}
    for make in cases:
        graph = graph_of(make, ["p"], 300)
        exe = mapsto.compile(graph, threads=2)
        for _ in range(3):
            own = {k: v.copy() for k, v in feeds.items()}
            exe.run(own)
            np.testing.assert_allclose(own["p"], run_graph(graph, feeds)["out0"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("threads", [1, 2])
def test_outputs_that_are_inputs_or_constants_are_copies(threads: int) -> None:
    b = Builder("g")
    x = b.input("x", DType.F32, (4,))
    c = b.constant(np.arange(3, dtype=np.float32), "c")
    graph = b.finish([x, c, b.one("exp", [x])])
    given = np.ones(4, np.float32)
    found = mapsto.compile(graph, threads=threads).run({"x": given})
    assert list(found) == list(graph.outputs)
    np.testing.assert_array_equal(found["x"], given)
    assert not np.shares_memory(found["x"], given)
    np.testing.assert_array_equal(found["c"], [0, 1, 2])


def test_the_old_value_may_be_an_output_beside_the_new() -> None:
    b = Builder("g")
    p, x = (b.input(name, DType.F32, (4,)) for name in "px")
    graph = b.finish([p, b.one("add", [p, x])], [("p", "new")], names=["old", "new"])
    own = {"p": np.arange(4, dtype=np.float32), "x": np.ones(4, np.float32)}
    found = mapsto.compile(graph).run(own)
    np.testing.assert_array_equal(found["old"], [0, 1, 2, 3])
    np.testing.assert_array_equal(own["p"], [1, 2, 3, 4])
