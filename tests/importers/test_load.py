"""Importing models: names, sizes, what is unsupported, branches, functions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from tests.importers.models import graph, ints, model, node, port

from mapsto.errors import BudgetError, ExecutionError, ModelError, ShapeError, UnsupportedError
from mapsto.importers.onnx import load, supported_ops
from mapsto.ir.expr import sym
from mapsto.ir.graph import Graph
from mapsto.ops.interpret import run_graph
from mapsto.ops.verify import verify_graph
from mapsto.passes import run_passes

EXAMPLES = Path(__file__).parent.parent.parent / "examples"


def ops(g: Graph) -> list[str]:
    return [n.op for n in g.nodes]


# -- names and provenance ----------------------------------------------------------------------------------------------


def test_values_and_sources_have_the_models_names() -> None:
    g = load(model([node("Relu", ["x"], ["h"], name="act"), node("Exp", ["h"])], {"x": [2, 3]}))
    assert [v.name for v in g.inputs] == ["x"] and g.outputs == ("y",)
    assert [(n.output.name, n.provenance) for n in g.nodes] == [("h", ("act",)), ("y", ("Exp_1",))]


def test_outputs_that_are_one_value_or_an_input_are_copied() -> None:
    nodes = [node("Identity", ["x"], ["a"]), node("Neg", ["x"], ["b"]), node("Identity", ["b"], ["c"])]
    g = load(model(nodes, {"x": [2]}, ["a", "b", "c"]))
    verify_graph(g)
    found = run_graph(g, {"x": np.array([1, 2], np.float32)})
    assert list(found) == ["a", "b", "c"]
    np.testing.assert_array_equal(found["a"], [1, 2])
    np.testing.assert_array_equal(found["b"], found["c"])


def test_a_folded_node_stays_known_as_a_source_of_its_reader() -> None:
    nodes = [node("Transpose", ["w"], ["t"], name="turn", perm=[1, 0]), node("MatMul", ["x", "t"], name="product")]
    g = load(model(nodes, {"x": [2, 3]}, constants={"w": np.ones((4, 3), np.float32)}))
    assert [set(n.provenance) for n in g.nodes] == [{"turn", "product"}]


# -- sizes -------------------------------------------------------------------------------------------------------------


def test_open_dims_are_symbols_and_shapes_fix_them() -> None:
    proto = model([node("Relu", ["x"])], {"x": ["batch", 0, 4, "time steps"]})
    assert load(proto).inputs[0].shape == (sym("batch"), sym("x_d1"), 4, sym("time_steps"))
    assert load(proto, {"x": (2, None, 4, 5)}).inputs[0].shape == (2, sym("x_d1"), 4, 5)
    assert load(proto, {"x": ("n", "n", None, None)}).inputs[0].shape == (sym("n"), sym("n"), 4, sym("time_steps"))


def test_unknown_dims_are_each_on_their_own() -> None:
    g = load(model([node("Relu", ["x"])], {"x": ["unk__1", "unk__1", "?", None]}))
    assert len(set(g.inputs[0].shape)) == 4


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"x": (2, 3, 4)}, "has 3 axes, the model's input has 2"),
        ({"z": (2, 3)}, "no input named z; its inputs are x"),
        ({"x": (2, 5)}, "axis 1 is 3 in the model"),
        ({"x": (-2, 3)}, "negative"),
        ({"x": (2.5, 3)}, "2.5 is no integer"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(shapes: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(ShapeError, match=message):
        load(model([node("Relu", ["x"])], {"x": ["n", 3]}), shapes)


def test_shape_arithmetic_makes_no_nodes() -> None:
    nodes = [
        node("Shape", ["x"], ["s"]),
        node("Gather", ["s", "zero"], ["n"]),
        node("Gather", ["s", "one"], ["t"]),
        node("Mul", ["n", "t"], ["nt"]),
        node("Concat", ["nt", "rest"], ["target"], axis=0),
        node("Reshape", ["x", "target"]),
    ]
    constants = {"zero": ints(0), "one": ints(1), "rest": ints(-1, 2)}
    g = load(model(nodes, {"x": ["n", "t", 6]}, constants=constants))
    assert ops(g) == ["reshape"]
    assert g.nodes[0].output.shape == (sym("n") * sym("t"), 3, 2)


def test_hints_about_inner_and_output_shapes_are_not_trusted() -> None:
    proto = model([node("Relu", ["x"], ["h"]), node("Neg", ["h"])], {"x": [2, 3]})
    proto.graph.value_info.append(port("h", [7, 7]))
    del proto.graph.output[:]
    proto.graph.output.append(port("y", [9]))
    assert load(proto).nodes[-1].output.shape == (2, 3)


def test_sizes_that_must_agree_are_checked_by_the_run() -> None:
    g = run_passes(load(model([node("Add", ["a", "b"])], {"a": ["n"], "b": ["m"]})))
    assert ops(g) == ["require", "add"]
    run_graph(g, {"a": np.ones(3, np.float32), "b": np.ones(3, np.float32)})
    with pytest.raises(ExecutionError, match="Add_0: the sizes"):
        run_graph(g, {"a": np.ones(3, np.float32), "b": np.ones(4, np.float32)})


def test_a_size_that_depends_on_data_is_bound() -> None:
    g = load(model([node("NonZero", ["x"])], {"x": ["n", 3]}))
    assert "bind_dim" in ops(g)
    x = np.array([[0, 1, 2], [3, 0, 0]], np.float32)
    np.testing.assert_array_equal(run_graph(g, {"x": x})["y"], np.nonzero(x))


@pytest.mark.parametrize("extent", [1, 3, 8])
@pytest.mark.parametrize(
    ("start", "end", "step"), [(1, 2**62, 1), (0, -1, 1), (-1, -(2**62), -1), (0, 4, 1), (0, 2**31 - 1, 2)]
)
def test_slices_of_open_axes_do_as_numpy_does(extent: int, start: int, end: int, step: int) -> None:
    constants = {"s": ints(start), "e": ints(end), "a": ints(0), "t": ints(step)}
    g = load(model([node("Slice", ["x", "s", "e", "a", "t"])], {"x": ["n"]}, constants=constants))
    x = np.arange(extent, dtype=np.float32)
    np.testing.assert_array_equal(run_graph(g, {"x": x})["y"], x[start:end:step])


@pytest.mark.parametrize(("start", "end"), [(0, 3), (-2, 9), (1, -1), (4, 2), (-9, 2)])
def test_slices_between_places_that_only_a_run_knows(start: int, end: int) -> None:
    inputs = [port("x", ["n"]), port("s", [1], np.int64), port("e", [1], np.int64)]
    g = load(model([node("Slice", ["x", "s", "e"])], inputs))
    x = np.arange(5, dtype=np.float32)
    found = run_graph(g, {"x": x, "s": ints(start), "e": ints(end)})["y"]
    np.testing.assert_array_equal(found, x[start:end])


@pytest.mark.parametrize("target", [(2, 6), (-1, 2), (0, 6), (3, -1)])
def test_a_reshape_that_only_a_run_knows(target: tuple[int, int]) -> None:
    g = load(model([node("Reshape", ["x", "s"])], [port("x", ["n", 4]), port("s", [2], np.int64)]))
    x = np.zeros((3, 4), np.float32)
    if target == (0, 6):
        with pytest.raises(ExecutionError):
            run_graph(g, {"x": x, "s": ints(*target)})
        return
    assert run_graph(g, {"x": x, "s": ints(*target)})["y"].shape == x.reshape(target).shape


# -- what is unsupported -----------------------------------------------------------------------------------------------


def test_all_that_is_unsupported_is_in_one_error() -> None:
    nodes = [
        node("ImageDecoder", ["x"], ["a"], name="first"),
        node("Neg", ["a"], ["b"]),
        node("Gelu", ["b"], ["c"], name="second", approximate="nearly"),
        node("Gelu", ["x"], ["d"], name="third", approximate="nearly"),
        helper.make_node("Magic", ["d"], ["y"], name="fourth", domain="org.example"),
    ]
    with pytest.raises(UnsupportedError) as caught:
        load(model(nodes, {"x": [4]}, opset=20))
    message = str(caught.value)
    assert "node 'first' (ImageDecoder, opset 20)" in message
    assert "node 'third' (Gelu, opset 20): attribute approximate='nearly'" in message
    assert "node 'fourth' (org.example.Magic" in message and "add it as a function" in message
    assert "second" not in message  # what reads an unavailable value is no fault of its own


def test_an_error_names_node_op_and_opset() -> None:
    with pytest.raises(ModelError, match=r"node 'bad' \(Concat, opset 18\): axis 5 does not exist"):
        load(model([node("Concat", ["x", "x"], name="bad", axis=5)], {"x": [2]}))
    with pytest.raises(ShapeError, match=r"node 'bad' \(MatMul, opset 18\)"):
        load(model([node("MatMul", ["x", "x"], name="bad")], {"x": [2, 3]}))


def test_all_that_is_unsupported_is_one_list() -> None:
    """Inputs, sparse tensors, attributes, types and ops, of nodes and of what reads them."""
    sparse = onnx.SparseTensorProto()
    sparse.values.name = "sparse"
    made = model(
        [
            node("Relu", ["x"], ["a"], name="unknown", slope=0.5, bias=1),
            node("ATen", ["x"], ["b"], name="fallback", operator="aten::fft", domain="org.pytorch.aten"),
            node("Cast", ["x"], ["c"], name="types", to=onnx.TensorProto.COMPLEX64),
            node("Abs", ["texts"], ["d"], name="reads"),
            node("Add", ["sparse", "x"], ["e"], name="adds"),
            node("Relu", ["x"], ["y"]),
        ],
        [port("x", [2]), helper.make_tensor_value_info("texts", onnx.TensorProto.STRING, [2])],
    )
    made.graph.sparse_initializer.append(sparse)
    with pytest.raises(UnsupportedError) as caught:
        load(made)
    said = str(caught.value)
    assert said.startswith("5 inputs and nodes are not supported:\n") and len(caught.value.faults) == 5
    for words in (
        "input 'texts': element type STRING",
        "sparse initializer 'sparse'",
        "node 'unknown' (Relu, opset 18): Relu of opset 18 has no attribute 'bias', 'slope'",
        "node 'fallback' (org.pytorch.aten.ATen, opset ?): it stands for PyTorch's operator 'aten::fft'",
        "node 'types' (Cast, opset 18): attribute 'to': element type COMPLEX64",
    ):
        assert words in said


def test_an_attribute_that_older_nodes_carry_is_passed_over() -> None:
    graph = load(model([node("Relu", ["x"], consumed_inputs=[0])], {"x": [2]}))
    assert [each.op for each in graph.nodes] == ["relu"]


def test_the_table_is_broad() -> None:
    assert len(supported_ops()) >= 160
    assert {"Conv", "LSTM", "Einsum", "Resize", "If"} <= set(supported_ops())


# -- branches ----------------------------------------------------------------------------------------------------------

ADD = node("Add", ["x", "two"], ["then"])
THEN = graph([ADD], ["then"], {"two": np.array(2, np.float32)})
ELSE = graph([node("Neg", ["x"], ["else"])], ["else"])


def branching(
    condition: list[object], constants: dict[str, np.ndarray], other: object = ELSE, inputs: object = None
) -> object:
    choice = node("If", ["c"], name="choice", then_branch=THEN, else_branch=other)
    return model([*condition, choice], inputs or [port("x", ["n"]), port("b", [], np.bool_)], constants=constants)


def test_both_branches_are_kept_where_the_run_decides() -> None:
    g = run_passes(load(branching([node("Not", ["b"], ["c"])], {})))
    verify_graph(g)
    x = np.array([1, 2], np.float32)
    np.testing.assert_array_equal(run_graph(g, {"x": x, "b": np.array(False)})["y"], x + 2)
    np.testing.assert_array_equal(run_graph(g, {"x": x, "b": np.array(True)})["y"], -x)


def test_a_known_condition_takes_its_branch() -> None:
    assert ops(load(branching([], {"c": np.array(True)}))) == ["add"]
    sizes = [node("Shape", ["x"], ["s"]), node("Size", ["s"], ["r"]), node("Equal", ["r", "k"], ["c"])]
    assert ops(load(branching(sizes, {"k": np.array(2, np.int64)}))) == ["neg"]


def test_a_branch_that_the_shapes_rule_out_fails_when_it_is_reached() -> None:
    wrong = graph([node("MatMul", ["x", "w"], ["else"])], ["else"], {"w": np.ones((5, 5), np.float32)})
    proto = branching([node("Not", ["b"], ["c"])], {}, wrong, [port("x", [2]), port("b", [], np.bool_)])
    g = run_passes(load(proto))
    assert [n.op for n in g.walk()].count("fail") == 1
    x = np.array([1, 2], np.float32)
    np.testing.assert_array_equal(run_graph(g, {"x": x, "b": np.array(False)})["y"], x + 2)
    with pytest.raises(ExecutionError, match="its else branch was reached.*MatMul"):
        run_graph(g, {"x": x, "b": np.array(True)})


def test_a_condition_on_an_open_size_names_the_size() -> None:
    squeeze = graph([node("Squeeze", ["x", "zero"], ["else"])], ["else"], {"zero": ints(0)})
    condition = [node("Shape", ["x"], ["s"]), node("Equal", ["s", "k"], ["c"])]
    proto = branching(condition, {"k": ints(3)}, squeeze, {"x": ["n"]})
    with pytest.raises(UnsupportedError, match="the extents n decide: fix them by `shapes`"):
        load(proto)
    assert ops(load(proto, {"x": (3,)})) == ["add"]


# -- functions ---------------------------------------------------------------------------------------------------------


def scaled_relu(opset: int = 18) -> object:
    body = [
        node("Relu", ["a"], ["r"]),
        helper.make_node("Constant", [], ["k"]),
        node("Mul", ["r", "k"], ["out"]),
    ]
    reference = onnx.AttributeProto(name="value_float", ref_attr_name="factor", type=onnx.AttributeProto.FLOAT)
    body[1].attribute.append(reference)
    return helper.make_function(
        "local", "ScaledRelu", ["a"], ["out"], body, [helper.make_opsetid("", opset)], ["factor"]
    )


def test_functions_of_the_model_are_inlined() -> None:
    call = helper.make_node("ScaledRelu", ["x"], ["y"], name="call", domain="local", factor=3.0)
    g = load(model([call], {"x": [2]}, functions=[scaled_relu()]))
    np.testing.assert_array_equal(run_graph(g, {"x": np.array([-1, 2], np.float32)})["y"], [0, 6])
    assert {s for n in g.nodes for s in n.provenance} <= {"call", "call/Relu_0", "call/Mul_2"}


def test_a_function_that_calls_itself_is_refused() -> None:
    body = [helper.make_node("Again", ["a"], ["out"], domain="local")]
    function = helper.make_function("local", "Again", ["a"], ["out"], body, [helper.make_opsetid("local", 1)])
    with pytest.raises(ModelError, match="calls itself"):
        load(model([helper.make_node("Again", ["x"], ["y"], domain="local")], {"x": [2]}, functions=[function]))


def nested(fault: Sequence[Any], depth: int) -> Any:
    """A model that calls F0, which calls F1, and so on; the last holds the faulty nodes."""
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("local", 1)]
    functions = []
    for level in range(depth):
        call = [helper.make_node(f"F{level + 1}", ["a"], ["out"], name=f"n{level + 1}", domain="local")]
        body = call if level < depth - 1 else fault
        functions.append(helper.make_function("local", f"F{level}", ["a"], ["out"], list(body), opsets))
    call = helper.make_node("F0", ["x"], ["y"], name="n0", domain="local")
    return model([call], {"x": [2, 3]}, functions=functions)


@pytest.mark.parametrize(
    ("fault", "kind", "message"),
    [
        ([node("Transpose", ["a"], ["out"], name="bad", perm=[7, 8])], ModelError, "perm"),
        ([node("Relu", ["nothing"], ["out"], name="bad")], ModelError, "it reads 'nothing', which nothing"),
        ([node("StringNormalizer", ["a"], ["out"], name="bad")], UnsupportedError, "not supported"),
        ([node("Relu", ["a"], ["out", "more"], name="bad")], ModelError, "2 outputs are named"),
        ([node("Relu", ["a"], ["a"], name="bad")], ModelError, "defined twice"),
    ],
)
def test_faults_in_nested_functions_are_placed_once(fault: Sequence[Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message) as caught:
        load(nested(fault, 4))
    text = str(caught.value)
    assert text.startswith("node 'n0/n1/n2/n3/bad' (") and text.count("n3") == 1 and text.count("node '") == 1


def test_what_is_unsupported_in_nested_functions_is_one_list() -> None:
    bad = [node("StringNormalizer", ["a"], [f"o{i}"], name=f"bad{i}") for i in range(3)]
    with pytest.raises(UnsupportedError) as caught:
        load(nested([*bad, node("Relu", ["a"], ["out"])], 3))
    lines = str(caught.value).splitlines()
    assert lines[0] == "3 nodes are not supported:" and len(lines) == 4 and len(caught.value.faults) == 3
    assert [line.split("'")[1] for line in lines[1:]] == [f"n0/n1/n2/bad{i}" for i in range(3)]


def test_faults_in_branches_are_placed_once() -> None:
    branch = graph([node("Transpose", ["x"], ["t"], name="bad", perm=[7, 8])], ["t"])
    outer = graph([node("If", ["c"], ["u"], name="inner", then_branch=branch, else_branch=branch)], ["u"])
    both = node("If", ["c"], name="outer", then_branch=outer, else_branch=outer)
    with pytest.raises(ModelError) as caught:
        load(model([both], [port("x", [2, 3]), port("c", [], np.bool_)]))
    assert str(caught.value).count("node '") == 1 and "/bad'" in str(caught.value)


# -- files and versions ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [-1, 2**31, 2**40])
def test_versions_of_operator_sets_that_cannot_be(version: int) -> None:
    given = model([node("Relu", ["x"])], {"x": [2]})
    given.opset_import.append(helper.make_opsetid("of.others", version))
    with pytest.raises(ModelError, match=f"no such versions of operator sets: {{'of.others': {version}}}"):
        load(given)


def test_the_shipped_example_is_read_from_path_bytes_and_message() -> None:
    path = EXAMPLES / "mnist-cnn.onnx"
    graphs = [load(path), load(str(path)), load(path.read_bytes()), load(onnx.load(path))]
    assert all([n.op for n in g.nodes] == [n.op for n in graphs[0].nodes] for g in graphs)
    assert graphs[0].outputs == ("logits",)


def test_versions_out_of_range_are_refused() -> None:
    for opset in (0, 99):
        with pytest.raises(ModelError, match=f"opset {opset} is outside 1.."):
            load(model([node("Relu", ["x"])], {"x": [2]}, opset=opset))
    future = model([node("Relu", ["x"])], {"x": [2]})
    future.ir_version = 99
    with pytest.raises(ModelError, match="IR version 99"):
        load(future)


def test_budgets_are_kept() -> None:
    proto = model([node("Relu", ["x"], ["h"]), node("Neg", ["h"])], {"x": [2]})
    with pytest.raises(BudgetError, match=r"2 nodes are needed, 1 are allowed.*--budget nodes="):
        load(proto, budget={"nodes": 1})
    weights = model([node("Add", ["x", "w"])], {"x": [100]}, constants={"w": np.ones(100, np.float32)})
    with pytest.raises(BudgetError, match="bytes are needed, 100 are allowed"):
        load(weights.SerializeToString(), budget={"bytes": 100})
