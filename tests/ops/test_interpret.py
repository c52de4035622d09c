"""Running graphs by the references: sizes from inputs and from data, branches, errors that say where."""

import weakref

import numpy as np
import pytest

from mapsto.errors import ExecutionError, ShapeError
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import sym
from mapsto.ir.text import parse_graph
from mapsto.ops.builder import Builder
from mapsto.ops.interpret import run_graph


def _positives():
    """The indices of the positive elements: an output whose length depends on data."""
    b = Builder("positives")
    with b.source("NonZero_0"):
        x = b.input("x", DType.F32, (sym("n"),))
        indices, count = b.add("nonzero", [b.one("gt", [x, b.constant(np.float32(0))])])
        m = b.bind(count, "m")
        found = b.one("slice", [indices], starts=(0, 0), steps=(1, 1), shape=(1, m))
        return b.finish([found, b.one("full", [], shape=(m,), value=2, dtype=DType.I64)])


def test_sizes_from_data():
    graph = _positives()
    for data in ([1, -1, 2], [-1], [], [3, 4, 5, 6]):
        found, twos = run_graph(graph, {"x": np.array(data, np.float32)}).values()
        expected = [i for i, v in enumerate(data) if v > 0]
        assert found.tolist() == [expected] and twos.tolist() == [2] * len(expected)


def test_values_are_held_until_their_last_reader_and_no_longer():
    """Of a chain, one value and what is made of it; one that is read at the end stays until then."""
    b = Builder("chain")
    x = b.input("x", DType.F32, (1000,))
    first = made = b.one("exp", [x])
    for _ in range(20):
        made = b.one("tanh", [made])
    graph = b.finish([b.one("add", [made, first])])
    made_by, most = [], 0

    def observe(node, results):
        nonlocal most
        made_by.extend(weakref.ref(result) for result in results)
        most = max(most, sum(ref() is not None for ref in made_by))

    run_graph(graph, {"x": np.zeros(1000, np.float32)}, observe=observe)
    assert len(made_by) == 22 and 3 <= most <= 4


BRANCHES = """
graph main(c: bool[], x: f32[n]) -> (y, z) {
  const w: f32[1] = base64 "AAAAQA=="
  t: f32[n] = neg(x) from "a"
  y: f32[n], z: f32[n] = if(c) from "If_0" {
    graph then() -> (a, t) {
      a: f32[n] = mul(t, w) from "b"
    }
    graph else() -> (b, x) {
      b: f32[n] = add(x, w) from "c"
    }
  }
}
"""


def test_branches_read_the_values_around_them():
    graph = parse_graph(BRANCHES)
    x = np.array([1, 2], np.float32)
    taken = run_graph(graph, {"c": np.array(True), "x": x})
    other = run_graph(graph, {"c": np.array(False), "x": x})
    assert [v.tolist() for v in taken.values()] == [[-2, -4], [-1, -2]]
    assert [v.tolist() for v in other.values()] == [[3, 4], [1, 2]]


def test_wide_answers_have_less_error():
    b = Builder("sum")
    x = b.input("x", DType.F32, (1000,))
    third = b.constant(np.float32(1 / 3))
    y = b.one("reduce", [b.one("exp", [b.one("mul", [x, third])])], kind="sum", axes=(0,), keepdims=False)
    graph = b.finish([y])
    x = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    exact = np.exp(x.astype(np.float64) * np.float64(np.float32(1 / 3))).sum()
    (wide,) = run_graph(graph, {"x": x}, wide=True).values()
    (narrow,) = run_graph(graph, {"x": x}).values()
    assert wide.dtype == np.float64 and abs(wide - exact) < 1e-10 * exact
    assert narrow.dtype == np.float32 and abs(narrow - exact) < 1e-5 * exact


def test_nodes_can_be_observed():
    seen = []
    run_graph(
        parse_graph(BRANCHES),
        {"c": np.array(True), "x": np.zeros(2, np.float32)},
        observe=lambda n, r: seen.append(n.op),
    )
    assert seen == ["neg", "mul", "if"]


@pytest.mark.parametrize(
    "inputs,message",
    [
        ({}, "input 'x' is missing"),
        ({"x": np.zeros(3, np.float32), "q": np.zeros(1)}, "no input named q"),
        ({"x": np.zeros(3)}, "is float64, expected f32"),
        ({"x": np.zeros((3, 1), np.float32)}, "the shape \\[3, 1\\]"),
    ],
)
def test_wrong_inputs(inputs, message):
    with pytest.raises(ShapeError, match=message):
        run_graph(_positives(), inputs)


def test_inputs_whose_sizes_disagree():
    graph = parse_graph("graph g(x: f32[n], y: f32[n, 2]) -> (x) {\n}\n")
    with pytest.raises(ShapeError, match="axis 0 has 4 elements, expected n = 3"):
        run_graph(graph, {"x": np.zeros(3, np.float32), "y": np.zeros((4, 2), np.float32)})


def test_an_assumption_that_does_not_hold():
    b = Builder("g")
    x = b.input("x", DType.F32, (sym("n"),))
    graph = b.finish([b.one("add", [x, b.constant(np.zeros(4, np.float32))])])
    assert run_graph(graph, {"x": np.zeros(4, np.float32)})
    assert run_graph(graph, {"x": np.zeros(1, np.float32)})
    with pytest.raises(ExecutionError, match="the size n must be 4 or 1"):
        run_graph(graph, {"x": np.zeros(5, np.float32)})


def test_a_negative_size():
    graph = parse_graph('graph g(k: i64[]) -> (k) {\n  bind_dim(k) {symbol: "m"} from "Range_7"\n}\n')
    with pytest.raises(ExecutionError, match="Range_7.*size m came out as -2"):
        run_graph(graph, {"k": np.array(-2)})


def test_a_wrong_shape_rule_is_found():
    graph = parse_graph('graph g(x: f32[2]) -> (y) {\n  y: f32[3] = neg(x) from "Neg_0"\n}\n')
    with pytest.raises(ExecutionError, match=r"inferred f32\[3\], the reference gives float32\[2\]"):
        run_graph(graph, {"x": np.zeros(2, np.float32)})


def test_inputs_are_not_written():
    graph = parse_graph('graph g(x: f32[2]) -> (x, y) updates (x -> y) {\n  y: f32[2] = neg(x) from "a"\n}\n')
    x = np.ones(2, np.float32)
    assert run_graph(graph, {"x": x})["y"].tolist() == [-1, -1] and x.tolist() == [1, 1]
