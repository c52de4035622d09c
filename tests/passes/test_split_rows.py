"""Products of rows that are taken apart after them: of the rows as they were, where that is what they are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from mapsto.ir.dtypes import DType
from mapsto.ir.expr import sym
from mapsto.ir.graph import Value
from mapsto.ops.builder import Builder
from mapsto.ops.interpret import run_graph
from mapsto.passes import DeadCode, SplitRows

RNG = np.random.default_rng(0)
FEED = {
    "x": RNG.standard_normal((2, 3, 4)).astype(np.float32),
    "other": RNG.standard_normal((2, 3, 5)).astype(np.float32),
    "flat": RNG.standard_normal((6, 5)).astype(np.float32),
}
W = RNG.standard_normal((4, 5)).astype(np.float32)
BIAS = RNG.standard_normal(5).astype(np.float32)
Parts = dict[str, Value]


def _merged(b: Builder, x: Value) -> Value:
    return b.one("reshape", [x], shape=(6, x.shape[-1]))


def _product(b: Builder, v: Parts) -> Value:
    return b.one("matmul", [_merged(b, v["x"]), b.constant(W, "w")])


def _apart(b: Builder, x: Value) -> Value:
    return b.one("reshape", [x], shape=(2, 3, 5))


def _with_bias(b: Builder, v: Parts) -> Value:
    return b.one("relu", [b.one("add", [_product(b, v), b.constant(BIAS, "bias")])])


def _with_another(b: Builder, v: Parts) -> Value:
    return b.one("sub", [_merged(b, v["other"]), _product(b, v)])


def _with_flat(b: Builder, v: Parts) -> Value:
    return b.one("sub", [v["flat"], _product(b, v)])


def _read_twice(b: Builder, v: Parts) -> Value:
    product = _product(b, v)
    return b.one("add", [product, b.one("tanh", [product])])


def _rows_of_one(b: Builder, v: Parts) -> Value:
    row = b.one("reshape", [b.constant(BIAS, "bias")], shape=(1, 5))
    return b.one("mul", [_product(b, v), row])


SPLIT: dict[str, Callable[[Builder, Parts], Value]] = {
    "a product": _product, "a bias and a relu": _with_bias, "what was merged alike": _with_another,
    "one row for all": _rows_of_one,
}  # fmt: skip
KEPT = {"what never had these rows": _with_flat, "a product that is read twice": _read_twice}


@pytest.mark.parametrize("case", [*SPLIT, *KEPT])
def test_the_numbers_stay(case: str) -> None:
    b = Builder("g")
    values = {name: b.input(name, DType.F32, array.shape) for name, array in FEED.items()}
    graph = b.finish([b.one("tanh", [_apart(b, {**SPLIT, **KEPT}[case](b, values))])])
    made = DeadCode()(SplitRows()(graph))
    feed = {v.name: FEED[v.name] for v in graph.inputs}
    (before,), (after,) = (run_graph(g, feed).values() for g in (graph, made))
    np.testing.assert_allclose(after, before, rtol=1e-6)
    assert ("reshape" in [node.op for node in made.nodes if node.output.shape == (2, 3, 5)]) == (case in KEPT)


@pytest.mark.parametrize("form", ["other rows", "nothing is computed of it"])
def test_others_are_left(form: str) -> None:
    b = Builder("g")
    product = _product(b, {"x": b.input("x", DType.F32, (2, 3, 4))})
    if form == "other rows":
        graph = b.finish([b.one("tanh", [b.one("reshape", [product], shape=(3, 2, 5))])])
    else:
        graph = b.finish([b.one("transpose", [_apart(b, product)], perm=(1, 0, 2))])
    assert [node.op for node in SplitRows()(graph).nodes] == [node.op for node in graph.nodes]


def test_open_rows() -> None:
    b = Builder("g")
    rows = (sym("batch"), sym("time"))
    x = b.input("x", DType.F32, (*rows, 4))
    flat = b.one("reshape", [x], shape=(rows[0] * rows[1], 4))
    apart = b.one("reshape", [b.one("matmul", [flat, b.constant(W, "w")])], shape=(*rows, 5))
    made = DeadCode()(SplitRows()(b.finish([b.one("relu", [apart])])))
    assert [node.op for node in made.nodes] == ["matmul", "relu"]
    (found,) = run_graph(made, {"x": FEED["x"]}).values()
    np.testing.assert_allclose(found, np.maximum(FEED["x"] @ W, 0), rtol=1e-5)
