"""Models compiled in number formats that were asked for: what is computed, what the plan says, and replaying it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from tests.importers.models import model, node

import mapsto
from mapsto.errors import ArgumentError, ParseError
from mapsto.formats.format import wanted
from mapsto.ops.interpret import run_graph
from mapsto.plan.plan import parse
from mapsto.session.compile import prepared
from mapsto.session.formed import formed

EXAMPLES = Path(__file__).parents[2] / "examples"


def array(*shape: int) -> np.ndarray:
    drawn = np.random.default_rng(len(shape)).standard_normal(shape)
    return (drawn / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


def network() -> onnx.ModelProto:
    """Convolutions of several kinds with a residual sum, a concatenation, a pooling between; a product at the end."""
    nodes = [
        node("Conv", ["x", "w1"], ["a"], "conv_1", pads=[1, 1, 1, 1]),
        node("Relu", ["a"], ["b"], "relu_1"),
        node("Conv", ["b", "w2"], ["c"], "depthwise", pads=[1, 1, 1, 1], group=16),
        node("Sigmoid", ["c"], ["d"], "gate"),
        node("Mul", ["c", "d"], ["e"], "silu"),
        node("Add", ["b", "e"], ["f"], "residual"),
        node("Concat", ["f", "b"], ["g"], "both", axis=1),
        node("MaxPool", ["g"], ["h"], "pool", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["h", "w3"], ["i"], "conv_3"),
        node("GlobalAveragePool", ["i"], ["j"], "mean"),
        node("Flatten", ["j"], ["k"], "flat"),
        node("MatMul", ["k", "w4"], ["y"], "head"),
    ]
    constants = {"w1": array(16, 3, 3, 3), "w2": array(16, 1, 3, 3), "w3": array(24, 32, 1, 1), "w4": array(24, 5)}
    return model(nodes, {"x": [2, 3, 12, 12]}, ["y"], constants)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("formats", ["bf16", "f16", "bf16-weights", "f16-weights"])
def test_as_the_graph_says(formats: str, threads: int) -> None:
    """The interpreter rounds where the graph does, and sums in f64. A value that a sum of f32 brought to the other side
    of a rounding differs by one unit of the format.
    """
    x = array(2, 3, 12, 12)
    graph = formed(prepared(network(), None), wanted(formats)).graph
    expected = run_graph(graph, {"x": x})["y"]
    found = mapsto.compile(network(), formats=formats, threads=threads)(x)
    plain = mapsto.compile(network(), threads=threads)(x)
    assert found.dtype == np.float32
    unit = 2.0**-8 if formats.startswith("bf16") else 2.0**-11
    assert np.abs(found - expected).max() <= unit * np.abs(expected).max() / 2
    assert 0 < np.abs(found - plain).max() <= 8 * unit * np.abs(plain).max()


def test_digits_are_read_as_well() -> None:
    digits = np.load(EXAMPLES / "digits.npz")
    name = next(key for key in digits.files if key != "label")
    for formats in ("bf16", "f16", {"conv*": "bf16"}):
        exe = mapsto.compile(EXAMPLES / "mnist-cnn.onnx", formats=formats)
        assert (exe(digits[name]).argmax(1) == digits["label"]).all()


def test_a_plan_says_its_formats_and_is_replayed_with_them() -> None:
    x = array(2, 3, 12, 12)
    first = mapsto.compile(network(), formats={"*": "bf16", "head": "f32", "conv_3": "f16"})
    text = first.plan.text()
    assert 'format bf16 of conv_1 because "asked for"' in text
    assert 'format f16 of conv_3 because "asked for"' in text
    assert "of head" not in text.replace("\n  ", "\n")
    again = mapsto.compile(network(), plan=text)
    assert again.plan.text() == text
    np.testing.assert_array_equal(first(x), again(x))
    assert parse(text) == first.plan
    assert first.plan.to_json()["formats"][0] == {"format": "bf16", "sources": ("conv_1",), "because": "asked for"}
    assert "products of conv_3 are of f16: asked for" in first.plan.explain("conv_3")


def test_what_cannot_be_is_said() -> None:
    w = np.full((4, 4), 1e5, np.float32)
    large = model([node("MatMul", ["x", "w"], ["y"], "fc")], {"x": [2, 4]}, ["y"], {"w": w})
    exe = mapsto.compile(large, formats="f16")
    assert 'format f32 of fc because "a weight of 1e+05 is beyond f16"' in exe.plan.text()
    assert "products of fc stay f32: a weight of 1e+05 is beyond f16" in exe.plan.explain("fc")
    assert exe(np.ones((2, 4), np.float32)).tolist() == [[4e5] * 4] * 2


def test_a_plan_of_formats_alone() -> None:
    plan = f"plan g for {mapsto.compile(network()).plan.device}\nformat bf16 of conv_1, conv_3\n"
    exe = mapsto.compile(network(), plan=plan)
    assert [each.sources for each in exe.plan.formats] == [("conv_1",), ("conv_3",)]


def test_errors() -> None:
    with pytest.raises(ArgumentError, match="'f8' is no format"):
        mapsto.compile(network(), formats="f8")
    with pytest.raises(ArgumentError, match="no node of the model is named 'con_1'"):
        mapsto.compile(network(), formats={"con_1": "bf16"})
    text = mapsto.compile(network(), formats="bf16").plan.text()
    with pytest.raises(ArgumentError, match="the plan says them"):
        mapsto.compile(network(), plan=text, formats="f16")
    with pytest.raises(ParseError, match=r"line 3: format: 'bf17'; there are f32, bf16"):
        mapsto.compile(network(), plan=text.replace("format bf16 of conv_1", "format bf17 of conv_1"))
    with pytest.raises(ParseError, match="graph: .* make a plan of it"):
        mapsto.compile(network(), plan="\n".join(line for line in text.split("\n") if not line.startswith("format")))


def test_open_sizes() -> None:
    open_ = network()
    open_.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
    exe = mapsto.compile(open_, formats="bf16")
    x = array(3, 3, 12, 12)
    fixed = mapsto.compile(open_, formats="bf16", shapes={"x": (3, 3, 12, 12)})
    assert np.abs(exe(x) - fixed(x)).max() <= 2.0**-8 * np.abs(fixed(x)).max()
