"""What is the same in every round of a loop, and dear, is computed before it."""

from __future__ import annotations

import numpy as np
import pytest
from tests.passes.test_provenance import lost_by, numbered

from mapsto.ir.graph import Graph
from mapsto.ir.region import nested
from mapsto.ir.text import parse_graph, print_graph
from mapsto.ops.interpret import run_graph
from mapsto.ops.verify import verify_graph
from mapsto.passes import Hoisting

TEXT = """\
graph main(x: f32[4], w: f32[4, 4], v: f32[4], trips: i64[]) -> (count, y) {
  const zero: i64[] = base64 "AAAAAAAAAAA="
  go: bool[] = lt(zero, trips) from "go"
  count: i64[], y: f32[4] = loop(go, zero, x) {below: (-1, -1), sizes: ()} from "loop" {
    graph body(i: i64[], s: f32[4]) -> (again, more, next) {
      const one: i64[] = base64 "AQAAAAAAAAA="
      const two: f32[] = base64 "AAAAQA=="
      half: f32[4, 4] = mul(w, two) from "half"
      p: f32[4] = matmul(half, v) from "p"
      cheap: f32[4] = neg(v) from "cheap"
      q: f32[4] = matmul(w, s) from "q"
      t: f32[4] = add(p, q) from "t"
      u: f32[4] = add(t, cheap) from "u"
      next: f32[4] = tanh(u) from "next"
      more: i64[] = add(i, one) from "more"
      again: bool[] = lt(more, trips) from "again"
    }
  }
}
"""


def ops_of(graph: Graph) -> list[list[str]]:
    """Of each graph, an outer one before its inner ones."""
    return [[v.name for node in each.nodes for v in node.outputs] for each in nested(graph)]


def feeds(trips: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    given = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in
             (("x", (4,)), ("w", (4, 4)), ("v", (4,)))}  # fmt: skip
    return {**given, "trips": np.array(trips)}


def test_a_product_moves_with_what_it_is_made_of() -> None:
    graph = parse_graph(TEXT)
    after = Hoisting()(graph)
    verify_graph(after)
    outer, body = ops_of(after)
    assert outer == ["go", "half", "p", "count", "y"] and body == ["cheap", "q", "t", "u", "next", "more", "again"]
    assert set(after.constants) == {"zero", "two"}
    for trips in (0, 1, 3):
        for name, array in run_graph(graph, feeds(trips)).items():
            np.testing.assert_array_equal(run_graph(after, feeds(trips))[name], array)
    assert not lost_by(Hoisting(), numbered(graph))


def test_it_moves_out_of_all_loops_around() -> None:
    inner = TEXT.split("\n", 1)[1]
    wrapped = """\
graph main(x: f32[4], w: f32[4, 4], v: f32[4], trips: i64[]) -> (z) {
  const nought: i64[] = base64 "AAAAAAAAAAA="
  on: bool[] = lt(nought, trips) from "on"
  rounds: i64[], z: f32[4] = loop(on, nought, x) {below: (-1, -1), sizes: ()} from "outer" {
    graph around(j: i64[], r: f32[4]) -> (further, k, y) {
"""
    text = wrapped + inner.replace("loop(go, zero, x)", "loop(go, zero, r)").rstrip().removesuffix("}") + """\
      k: i64[] = add(j, count) from "k"
      further: bool[] = lt(k, trips) from "further"
    }
  }
}
"""
    after = Hoisting()(parse_graph(text))
    verify_graph(after)
    assert "p" in ops_of(after)[0] and not any("p" in names for names in ops_of(after)[1:])


@pytest.mark.parametrize(
    "before,after",
    [
        ("matmul(half, v)", "matmul(half, s)"),  # it changes
        # its sizes are checked
        ("      half:", '      require() {condition: <n - 3>, message: "three"} from "r"\n      half:'),
    ],
)
def test_what_stays(before: str, after: str) -> None:
    text = TEXT.replace(before, after)
    if "require" in after:
        text = text.replace("w: f32[4, 4], v", "w: f32[4, n], v").replace("half: f32[4, 4]", "half: f32[4, n]").replace(
            "v: f32[4],", "v: f32[n],").replace("cheap: f32[4] = neg(v)", "cheap: f32[4] = neg(x)").replace(
            "q: f32[4] = matmul(w, s)", "q: f32[4] = neg(s)")  # fmt: skip
    graph = parse_graph(text)
    verify_graph(graph)
    assert Hoisting()(graph) is graph


def test_a_graph_without_loops_is_the_same_object() -> None:
    graph = parse_graph("graph g(x: f32[2, 2]) -> (y) {\n  y: f32[2, 2] = matmul(x, x) from \"y\"\n}\n")
    assert Hoisting()(graph) is graph and "matmul" in print_graph(graph)
