"""An op with a nested graph is known to every room by what it says of itself: a loop and a call that only this file has
go through all of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from onnx import helper
from tests.importers.models import model as onnx_model
from tests.importers.models import node as onnx_node
from tests.passes.test_provenance import lost_by, numbered

from mapsto.errors import ExecutionError, ModelError, ShapeError, VerifyError
from mapsto.importers.onnx import load, table
from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Graph
from mapsto.ir.region import Region, free_values, nested, reads, uses
from mapsto.ir.rename import rename_values
from mapsto.ir.text import parse_graph, print_graph
from mapsto.ops import registry
from mapsto.ops.builder import Builder
from mapsto.ops.control import yields
from mapsto.ops.interpret import run_graph
from mapsto.ops.registry import Inference, Nesting, OpSpec, RunNested, Shape
from mapsto.ops.verify import verify_graph
from mapsto.passes import DeadCode, default_passes, run_passes, specialise
from mapsto.passes.checks import unchecked
from mapsto.passes.retrace import retrace


def _infer(inference: Inference) -> list[tuple[DType, Shape]]:
    """One value, carried from round to round: it keeps its type."""
    (graph,) = inference.graphs
    types = [(v.dtype, v.shape) for v in (inference.value(0), graph.inputs[0], yields(graph, inference)[0])]
    if types[0] != types[1] or types[0] != types[2]:
        raise ShapeError(f"{inference.op}: what is carried changes its type")
    return types[:1]


def _repeat(inputs: Sequence[Any], attrs: Mapping[str, Any], run: RunNested) -> list[np.ndarray]:
    value = inputs[0]
    for _ in range(attrs["trips"]):
        (value,) = run(0, [value])
    return [value]


REPEAT = OpSpec(
    "repeat", "control", _infer, foldable=False,
    nesting=Nesting(lambda node: (Region(node.graphs[0], starts=(0,), carried=(0,), results=(0,)),), _repeat),
)  # fmt: skip
# once(x; graph): the graph itself, which a graph that is built anew has in the place of the node
ONCE = OpSpec(
    "once", "control", _infer, foldable=False,
    nesting=Nesting(
        lambda node: (Region(node.graphs[0], starts=(0,), results=(0,)),),
        lambda inputs, attrs, run: run(0, [inputs[0]]),
        lambda contents: 0,
    ),
)  # fmt: skip


@pytest.fixture(autouse=True)
def ops(monkeypatch: pytest.MonkeyPatch) -> None:
    for spec in (REPEAT, ONCE):
        monkeypatch.setitem(registry._OPS, spec.name, spec)


TEXT = """\
graph main(x: f32[n, 3], w: f32[3]) -> (y) {
  h: f32[n, 3] = add(x, w) from "first"
  y: f32[n, 3] = repeat(h) {trips: 3} from "loop" {
    graph body(s: f32[n, 3]) -> (t) {
      const c: f32[] = base64 "AADAPw=="
      unread: f32[n, 3] = exp(s) from "unread"
      p: f32[n, 3] = mul(s, c) from "scale"
      t: f32[n, 3] = add(p, w) from "shift"
    }
  }
}
"""


def feeds(rows: int = 4) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(3)
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in (("x", (rows, 3)), ("w", (3,)))}


def expected(given: Mapping[str, np.ndarray]) -> np.ndarray:
    value = given["x"] + given["w"]
    for _ in range(3):
        value = value * np.float32(1.5) + given["w"]
    return value


def body(graph: Graph) -> Graph:
    """The only nested graph."""
    (found,) = [each for each in nested(graph) if each is not graph]
    return found


def names(graph: Graph) -> list[str]:
    return [v.name for node in graph.nodes for v in node.outputs]


# -- ir ----------------------------------------------------------------------------------------------------------------


def test_the_text_of_a_nested_graph_with_inputs_is_read_back() -> None:
    graph = parse_graph(TEXT)
    assert print_graph(graph) == TEXT
    assert [v.name for v in body(graph).inputs] == ["s"] and body(graph).outputs == ("t",)


def test_what_a_nested_graph_reads() -> None:
    graph = parse_graph(TEXT)
    assert free_values(body(graph)) == {"w"} and reads(graph.nodes[1]) == {"h", "w"}
    assert uses(graph) == {"x": 1, "w": 2, "h": 1, "y": 1} and free_values(graph) == set()


def test_names_change_inside_and_out() -> None:
    new = {"w": "bias", "s": "state", "t": "next", "h": "start"}
    graph = rename_values(parse_graph(TEXT), new)
    verify_graph(graph)
    assert print_graph(graph) == re.sub(r"\b[wsth]\b", lambda old: new[old[0]], TEXT)


def test_a_sound_graph_is_verified() -> None:
    verify_graph(parse_graph(TEXT))


@pytest.mark.parametrize(
    "change,message",
    [
        ([("graph body(s: f32[n, 3])", "graph body(s: f32[n, 3], r: f32[])")], "has 2 inputs; the op gives it 1"),
        ([("-> (t)", "-> (t, p)")], "yields 2 values; the op takes 1"),
        ([("repeat(h)", "repeat()")], "starts with an operand that the node does not have"),
        ([("repeat(h) {trips: 3}", "exp(h)")], "1 nested graphs; the op has 0"),
        ([("(s: f32[n, 3])", "(s: f64[n, 3])"), ("exp(s)", "exp(h)"), ("mul(s, c)", "mul(h, c)")], "changes its type"),
        ([("(s: f32[n, 3])", "(s: f32[m + 1, 3])")], "the size m is not defined here"),
        ([("(s: f32[n, 3])", "(w: f32[n, 3])")], "the name 'w' is defined twice"),
        ([("add(x, w)", "add(x, s)")], "'s' is used before it is defined"),
        ([("-> (t) {", "-> (t) updates (s -> t) {")], "takes over no memory"),
    ],
)
def test_a_fault_of_a_nested_graph_is_named(change: list[tuple[str, str]], message: str) -> None:
    text = TEXT
    for before, after in change:
        assert before in text
        text = text.replace(before, after, 1)
    with pytest.raises(VerifyError) as raised:
        verify_graph(parse_graph(text))
    assert message in str(raised.value)


# -- the interpreter ---------------------------------------------------------------------------------------------------


def test_a_nested_graph_runs_with_what_it_is_given() -> None:
    seen: list[str] = []
    given = feeds()
    found = run_graph(parse_graph(TEXT), given, observe=lambda node, outputs: seen.append(node.op))
    np.testing.assert_array_equal(found["y"], expected(given))
    assert seen == ["add", *["exp", "mul", "add"] * 3, "repeat"]


def test_an_error_inside_names_the_node_and_those_around() -> None:
    text = TEXT.replace("p: f32[n, 3] = mul(s, c)", "p: f32[n, 3] = repeat(s) {trips: 1}").replace(
        ' from "scale"\n',
        ' from "scale" {\n        graph inner(q: f32[n, 3]) -> (q) {\n'
        '          require() {condition: <n - 9>, message: "at least nine"} from "guard"\n        }\n      }\n',
    )
    verify_graph(parse_graph(text))
    with pytest.raises(ExecutionError, match="loop.*scale.*guard.*at least nine"):
        run_graph(parse_graph(text), feeds())


# -- passes ------------------------------------------------------------------------------------------------------------


def test_dead_code_goes_inside_and_what_is_carried_stays() -> None:
    live = DeadCode()(parse_graph(TEXT))
    assert names(body(live)) == ["p", "t"] and names(live) == ["h", "y"]
    assert body(live).inputs == body(parse_graph(TEXT)).inputs


def test_a_size_that_only_a_nested_input_has_stays_bound() -> None:
    text = """\
graph main(x: f32[5]) -> (y) {
  places: i64[1, 5], count: i64[] = nonzero(x) from "count"
  bind_dim(count) {symbol: "m"} from "count"
  y: f32[5] = repeat(x) {trips: 0} from "loop" {
    graph body(s: f32[m]) -> (s) {
    }
  }
}
"""
    assert print_graph(DeadCode()(parse_graph(text))) == text


@pytest.mark.parametrize("step", [*default_passes(), retrace], ids=lambda step: getattr(step, "name", "retrace"))
def test_the_source_of_what_is_read_inside_alone_is_kept(step: Callable[[Graph], Graph]) -> None:
    twice = '  k: f32[3] = neg(w) from "k"\n  kk: f32[3] = neg(k) from "kk"\n'
    graph = parse_graph(TEXT.replace("  h: f32", f"{twice}  h: f32").replace("add(p, w)", "add(p, kk)"))
    verify_graph(step(graph))
    assert not lost_by(step, numbered(graph))


@pytest.mark.parametrize("step", [*default_passes(), retrace], ids=lambda step: getattr(step, "name", "retrace"))
def test_a_pass_keeps_results_sources_and_names(step: Callable[[Graph], Graph]) -> None:
    graph = numbered(parse_graph(TEXT))
    after = step(graph)
    verify_graph(after)
    assert after.nodes[-1].op == "repeat" and [v.name for v in body(after).inputs] == ["s"]
    np.testing.assert_allclose(run_graph(after, feeds())["y"], expected(feeds()), rtol=1e-6)
    assert not lost_by(step, graph)


def test_built_anew_it_is_the_same_graph() -> None:
    assert print_graph(DeadCode()(retrace(parse_graph(TEXT)))) == print_graph(DeadCode()(parse_graph(TEXT)))


def test_fixed_sizes_go_inside() -> None:
    graph = run_passes(specialise(parse_graph(TEXT), {"n": 2}))
    verify_graph(graph)
    assert body(graph).inputs[0].shape == (2, 3) and "[n" not in print_graph(graph)
    np.testing.assert_allclose(run_graph(graph, feeds(2))["y"], expected(feeds(2)), rtol=1e-6)


def test_what_the_sizes_rule_out_stops_the_run_when_it_is_reached() -> None:
    text = TEXT.replace(
        "      p: f32", '      require() {condition: <n - 3>, message: "three rows"} from "r"\n      p: f32'
    )
    graph = specialise(parse_graph(text), {"n": 2})
    verify_graph(graph)
    assert [node.op for node in body(graph).nodes] == ["fail"] and [v.name for v in graph.inputs] == ["x", "w"]
    with pytest.raises(ExecutionError, match="three rows"):
        run_graph(graph, feeds(2))


def test_a_graph_that_runs_once_takes_the_place_of_its_node() -> None:
    graph = numbered(parse_graph(TEXT.replace("repeat(h) {trips: 3}", "once(h)")))
    after = DeadCode()(retrace(graph))
    assert [node.op for node in after.nodes] == ["add", "mul", "add"] and not lost_by(retrace, graph)
    np.testing.assert_array_equal(run_graph(after, feeds())["y"], run_graph(graph, feeds())["y"])


def test_checks_of_indices_are_left_out_inside_too() -> None:
    text = """\
graph main(x: i64[n]) -> (y) {
  y: i64[n] = repeat(x) {trips: 2} from "loop" {
    graph body(s: i64[n]) -> (t) {
      far: u64[1] = farthest(s) {columns: (-1,), lowest: (0,)} from "check"
      bounds_check(s, far) {axes: (0,), columns: (-1,), extents: (2,), kind: "place", what: "index", where: ""} from "c"
      t: i64[n] = neg(s) from "n"
    }
  }
}
"""
    graph = parse_graph(text)
    verify_graph(graph)
    assert [node.op for node in body(unchecked(graph)).nodes] == ["neg"]
    given = {"x": np.array([5, 1])}
    with pytest.raises(ExecutionError, match="index 5"):
        run_graph(graph, given)
    np.testing.assert_array_equal(run_graph(unchecked(graph), given)["y"], [5, 1])


# -- the importer ------------------------------------------------------------------------------------------------------


@pytest.fixture
def row(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A row for the loop, as one for an op of the standard would be written."""

    def repeat(call: table.NodeCall) -> table.Result:
        start, trips = call.input(), call.integer("trips")
        if trips == 1:
            return call.translator.inline_graph(call.graph("body"), call.name, [start])
        inner = Builder(call.builder.fresh(call.name), call.builder)
        given = [inner.input("s", start.dtype, start.shape)]
        made = call.translator.inline_graph(call.graph("body"), call.name, given, inner)
        graph = inner.finish(call.tensors(made, "what it yields"))
        return call.builder.add("repeat", [start], {"trips": trips}, [graph])

    monkeypatch.setitem(table._ROWS, ("ai.onnx.ml", "Repeat"), repeat)
    yield


def _model(trips: int, inputs: Sequence[str] = ("s",)) -> Any:
    inner = helper.make_graph(
        [onnx_node("Mul", ["s", "w"], ["p"], name="scale"), onnx_node("Add", ["p", "s"], ["t"], name="shift")],
        "body",
        [helper.make_empty_tensor_value_info(name) for name in inputs],
        [helper.make_empty_tensor_value_info("t")],
    )
    loop = helper.make_node("Repeat", ["x"], ["y"], name="loop", domain="ai.onnx.ml", body=inner, trips=trips)
    made = onnx_model([loop], {"x": ["n", 3], "w": [3]})
    made.opset_import.append(helper.make_opsetid("ai.onnx.ml", 3))
    return made


@pytest.mark.parametrize("trips,kinds", [(1, ["mul", "add"]), (3, ["repeat"])])
def test_a_row_builds_a_nested_graph_with_inputs(row: None, trips: int, kinds: list[str]) -> None:
    graph = load(_model(trips))
    verify_graph(graph)
    assert [node.op for node in graph.nodes] == kinds
    assert {source for node in graph.walk() for source in node.provenance} >= {"loop", "loop/scale", "loop/shift"}
    given = feeds()
    want = given["x"] * (given["w"] + 1) ** trips
    np.testing.assert_allclose(run_graph(graph, given)["y"], want, rtol=1e-5)


@pytest.mark.parametrize("trips", [1, 3])
@pytest.mark.parametrize("inputs", [(), ("s", "r"), ("s", "s")])
def test_a_nested_graph_with_other_inputs_is_refused(row: None, trips: int, inputs: tuple[str, ...]) -> None:
    with pytest.raises(ModelError, match="node 'loop'.*must have 1 inputs"):
        load(_model(trips, inputs))
