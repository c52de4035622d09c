"""Models compiled in number formats that were asked for: what is computed, what the plan says, and replaying it."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import onnx
import pytest
from tests.importers.models import model, node

import mapsto
from mapsto.devices.named import backend_named
from mapsto.errors import ArgumentError, ParseError
from mapsto.formats.format import wanted
from mapsto.formats.ranges import CALIBRATORS
from mapsto.ir.dtypes import DType
from mapsto.ops.interpret import run_graph
from mapsto.plan.plan import parse
from mapsto.session.compile import prepared
from mapsto.session.formed import bytes_lie_as, formed, said

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
    found = mapsto.compile(network(), formats={"*": formats}, threads=threads)(x)
    plain = mapsto.compile(network(), threads=threads)(x)
    assert found.dtype == np.float32
    unit = 2.0**-8 if formats.startswith("bf16") else 2.0**-11
    assert np.abs(found - expected).max() <= unit * np.abs(expected).max() / 2
    assert 0 < np.abs(found - plain).max() <= 8 * unit * np.abs(plain).max()


def test_digits_are_read_as_well() -> None:
    digits = np.load(EXAMPLES / "digits.npz")
    name = next(key for key in digits.files if key != "label")
    for formats in ({"*": "bf16"}, {"*": "f16"}, {"conv*": "bf16"}, "bf16"):
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
    assert first.plan.to_json()["formats"][0] == {
        "format": "bf16", "sources": ("conv_1",), "because": "asked for", "scale": None, "zero": 0, "most": None,
        "powers": (),
    }  # fmt: skip
    assert "products of conv_3 are of f16: asked for" in first.plan.explain("conv_3")


def test_what_cannot_be_is_said() -> None:
    w = np.full((4, 4), 1e5, np.float32)
    large = model([node("MatMul", ["x", "w"], ["y"], "fc")], {"x": [2, 4]}, ["y"], {"w": w})
    exe = mapsto.compile(large, formats={"*": "f16"})
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
    text = mapsto.compile(network(), formats={"*": "bf16"}).plan.text()
    with pytest.raises(ArgumentError, match="the plan says them"):
        mapsto.compile(network(), plan=text, formats={"*": "f16"})
    with pytest.raises(ParseError, match=r"line 3: format: 'bf17'; there are f32, bf16"):
        mapsto.compile(network(), plan=text.replace("format bf16 of conv_1", "format bf17 of conv_1"))
    with pytest.raises(ParseError, match="graph: .* make a plan of it"):
        mapsto.compile(network(), plan="\n".join(line for line in text.split("\n") if not line.startswith("format")))


def test_open_sizes() -> None:
    open_ = network()
    open_.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
    exe = mapsto.compile(open_, formats={"*": "bf16"})
    x = array(3, 3, 12, 12)
    fixed = mapsto.compile(open_, formats={"*": "bf16"}, shapes={"x": (3, 3, 12, 12)})
    assert np.abs(exe(x) - fixed(x)).max() <= 2.0**-8 * np.abs(fixed(x)).max()


# -- bytes -------------------------------------------------------------------------------------------------------------


def examples(count: int = 12) -> np.ndarray:
    return np.random.default_rng(7).standard_normal((count, 3, 12, 12)).astype(np.float32)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("isa", ["sse2", "avx2", None])
@pytest.mark.parametrize(("name", "near"), [("int8", 0.06), ("int16", 1e-3)])
def test_integers_are_multiplied_exactly(name: str, near: float, isa: str | None, threads: int) -> None:
    """What the interpreter computes of the graph, whose integers are exact: the same everywhere."""
    calibration = mapsto.Calibration({"x": examples()})
    exe = mapsto.compile(network(), formats={"*": name}, calibration=calibration, threads=threads, isa=isa)
    asked = said(exe.plan.formats)
    assert {each.format for each in exe.plan.formats} == {name}
    graph = formed(prepared(network(), None), asked).graph
    assert sum(node.op in ("conv", "matmul") and node.output.dtype is DType.I32 for node in graph.nodes) == 4
    x = examples(2)
    expected, plain = run_graph(graph, {"x": x})["y"], mapsto.compile(network())(x)
    found = exe(x)
    # a value that f32 rounds to the other side of a half is one step off
    assert np.abs(found - expected).max() <= near / 15 * np.abs(expected).max()
    assert 0 < np.abs(found - plain).max() <= near * np.abs(plain).max()


@pytest.mark.parametrize("isa", ["avx2", None])
def test_what_products_read_is_stored_as_it_is_multiplied(isa: str | None) -> None:
    """Bytes where they are; where 16 bits are multiplied alone, what makes a value stores it so."""
    exe = mapsto.compile(network(), formats={"*": "int8"}, calibration={"x": examples()}, isa=isa)
    stored = [home.dtype for home in exe.plan.homes.values()]
    bytes = bytes_lie_as(backend_named("cpu", True, isa).maker({}).spec)
    assert stored.count(bytes) >= 4
    assert "format int8 of conv_1 scale 0.0" in exe.plan.text()
    if isa == "avx2":
        assert bytes is DType.I16


def test_bytes_are_the_same_integers_in_16_bits() -> None:
    graph = prepared(network(), None)
    asked = said(mapsto.compile(network(), formats={"*": "int8"}, calibration={"x": examples()}).plan.formats)
    x = examples(2)
    narrow, wide = (
        run_graph(formed(graph, asked, None, bytes).graph, {"x": x})["y"] for bytes in (DType.U8, DType.I16)
    )
    np.testing.assert_array_equal(narrow, wide)


@pytest.mark.parametrize(("name", "lacks"), [("int8", "a zero point"), ("int16", "the most steps to either side")])
def test_a_plan_of_integers_is_replayed(name: str, lacks: str) -> None:
    first = mapsto.compile(network(), formats={"*": name}, calibration=[{"x": examples(2)}, {"x": examples(2) * 2}])
    text = first.plan.text()
    again = mapsto.compile(network(), plan=text)
    assert again.plan.text() == text
    np.testing.assert_array_equal(first(examples(2)), again(examples(2)))
    assert parse(text) == first.plan
    for damaged in ("scale 0.0 ", "scale -1.0 ", "scale inf ", "scale x "):
        with pytest.raises(ParseError, match="plan, line 3"):
            parse(text.replace(f"scale {first.plan.formats[0].scale!r} ", damaged, 1))
    for damaged in ("most 0", "most 32768", "zero 256", "most -3", "most 1 zero 1"):
        with pytest.raises(ParseError, match="plan, line 3"):
            parse(re.sub("(zero|most) [0-9]+", damaged, text, count=1))
    bare = "\n".join(line.split(" scale ")[0] if line.startswith("format") else line for line in text.split("\n"))
    with pytest.raises(ParseError, match=f"{name} needs a scale and {lacks}"):
        mapsto.compile(network(), plan=bare)
    other = re.sub("(zero|most) [0-9]+(?: powers [^ ]+)?", "most 9" if name == "int8" else "zero 9", text)
    with pytest.raises(ParseError, match=f"{name} needs a scale and {lacks}"):
        mapsto.compile(network(), plan=other)


def uneven() -> tuple[onnx.ModelProto, list[dict[str, np.ndarray]]]:
    """Channels of very different sizes behind a normalisation, which a product and a sum read."""
    spread = np.exp2(np.arange(16) % 9 - 4).astype(np.float32)
    nodes = [
        node("Mul", ["x", "s"], ["a"], "scale"),
        node("MatMul", ["a", "w"], ["c"], "product"),
        node("Add", ["c", "a"], ["y"], "sum"),
    ]
    made = model(nodes, {"x": [8, 16]}, ["y"], {"s": spread, "w": array(16, 16) / spread[:, None]})
    return made, [{"x": array(8, 16)} for _ in range(6)]


@pytest.mark.parametrize("isa", [None, "avx2"])
def test_channels_of_different_sizes_have_scales_of_their_own(isa: str | None) -> None:
    source, feeds = uneven()
    plain = mapsto.compile(source)
    exe = mapsto.compile(source, formats={"*": "int8"}, calibration=feeds, isa=isa)
    (line,) = exe.plan.formats
    assert max(line.powers) - min(line.powers) >= 3 and len(line.powers) == 16
    x = feeds[0]["x"]
    assert np.abs(exe(x) - plain(x)).max() <= 0.01 * np.abs(plain(x)).max()
    assert "scales of the channels that they read apart by powers of two from" in exe.plan.explain("product")
    again = mapsto.compile(source, plan=exe.plan.text(), isa=isa)
    np.testing.assert_array_equal(again(x), exe(x))
    assert parse(exe.plan.text()) == exe.plan


@pytest.mark.parametrize(
    "powers", ["1x17", "0x15", "100x16", "1x0", "1x99999999", "a", "1,,2", "1x3x4", "--1", "0x4194305"]
)
def test_powers_that_are_none(powers: str) -> None:
    source, feeds = uneven()
    exe = mapsto.compile(source, formats={"*": "int8"}, calibration=feeds)
    text = re.sub(r" powers \S+", f" powers {powers}", exe.plan.text())
    with pytest.raises((ParseError, ArgumentError), match=r"plan, line 3|powers, but it reads 16 channels"):
        mapsto.compile(source, plan=text)


@pytest.mark.parametrize("name", ["int8", "int16"])
@pytest.mark.parametrize(
    ("channels", "kernel", "strides", "dilations", "group"),
    [
        (1, (5, 5), (1, 1), (1, 1), 1),
        (3, (7, 7), (2, 2), (1, 1), 1),
        (3, (3, 4), (1, 3), (2, 1), 1),
        (3, (3, 3), (1, 1), (1, 2), 1),
        (5, (1, 3), (1, 2), (1, 1), 1),
        (9, (3, 2), (1, 1), (1, 1), 3),
    ],
)
def test_windows_of_a_few_channels(
    name: str, channels: int, kernel: tuple[int, int], strides: tuple[int, int], dilations: tuple[int, int], group: int
) -> None:
    """Groups of channels that reach from one place of a window into the next."""
    attrs = {"strides": strides, "dilations": dilations, "group": group, "pads": [1, 2, 0, 1]}
    w = array(12, channels // group, *kernel)
    one = model([node("Conv", ["x", "w"], ["y"], "conv", **attrs)], {"x": [2, channels, 14, 17]}, ["y"], {"w": w})
    x = np.random.default_rng(4).standard_normal((2, channels, 14, 17)).astype(np.float32)
    for isa in ("avx2", None):
        exe = mapsto.compile(one, formats={"*": name}, calibration={"x": x}, isa=isa)
        expected = run_graph(formed(prepared(one, None), said(exe.plan.formats)).graph, {"x": x})["y"]
        np.testing.assert_allclose(exe(x), expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())


def test_a_value_that_two_products_read_has_one_number_of_steps() -> None:
    """As many as the one with the longer sums allows; it is stored once."""
    nodes = [
        node("Relu", ["x"], ["r"], "relu"),
        node("Conv", ["r", "many"], ["b"], "window", pads=[2, 2, 2, 2]),
        node("Conv", ["r", "few"], ["a"], "pointwise"),
        node("Concat", ["a", "b"], ["y"], "both", axis=1),
    ]
    several = model(nodes, {"x": [1, 64, 9, 9]}, ["y"], {"few": array(8, 64, 1, 1), "many": array(8, 64, 5, 5)})
    x = np.random.default_rng(3).standard_normal((4, 64, 9, 9)).astype(np.float32)
    exe = mapsto.compile(several, formats={"*": "int16"}, calibration={"x": x})
    window, pointwise = exe.plan.formats
    assert (pointwise.scale, pointwise.most) == (window.scale, window.most)
    alone = mapsto.compile(several, formats={"window": "int16"}, calibration={"x": x}).plan.formats
    assert window.most == alone[0].most
    found, plain = exe(x[:1]), mapsto.compile(several)(x[:1])
    assert np.abs(found - plain).max() <= 2e-3 * np.abs(plain).max()


def test_16_bits_reach_farther_than_what_was_seen() -> None:
    """By half of it; what is beyond is the farthest there is."""
    w = np.eye(4, dtype=np.float32)
    one = model([node("MatMul", ["x", "w"], ["y"], "fc")], {"x": [1, 4]}, ["y"], {"w": w})
    exe = mapsto.compile(one, formats={"*": "int16"}, calibration={"x": np.ones((3, 4), np.float32)})
    np.testing.assert_allclose(exe(np.float32([[0.5, 1.4, 2.0, -7.0]])), [[0.5, 1.4, 1.5, -1.5]], rtol=1e-3)


def test_examples_that_do_not_fit() -> None:
    fixed = {"x": (2, 3, 12, 12)}
    with pytest.raises(ArgumentError, match="int8 and int16 need `calibration`"):
        mapsto.compile(network(), formats={"*": "int8"})
    with pytest.raises(ArgumentError, match="nothing is quantised"):
        mapsto.compile(network(), formats={"*": "bf16"}, calibration={"x": examples()})
    with pytest.raises(ArgumentError, match="no data for x; there is z"):
        mapsto.compile(network(), formats={"*": "int8"}, calibration={"z": examples()})
    with pytest.raises(ArgumentError, match="1 examples, but the model takes 2 at a time"):
        mapsto.compile(network(), formats={"*": "int8"}, calibration={"x": examples(1)}, shapes=fixed)
    with pytest.raises(ArgumentError, match="expected a dict of arrays"):
        mapsto.compile(network(), formats={"*": "int8"}, calibration=[examples()])
    with pytest.raises(ArgumentError, match="expected a dict of arrays with examples along their first axes"):
        mapsto.compile(network(), formats={"*": "int8"}, calibration=[])
    with pytest.raises(ArgumentError, match="calibrator: 'most'; there are mse, min-max"):
        mapsto.Calibration({"x": examples()}, "most")
    with pytest.raises(ArgumentError, match="every array holds as many examples"):
        mapsto.compile(network(), formats={"*": "int8"}, calibration={"x": np.float32(1)})


def test_attention_stays_and_is_said() -> None:
    nodes = [node("Transpose", ["x"], ["t"], "turn", perm=[1, 0]), node("MatMul", ["x", "t"], ["y"], "scores")]
    calibration = {"x": examples()[:4, 0, 0, :8]}
    exe = mapsto.compile(model(nodes, {"x": [4, 8]}, ["y"]), formats={"*": "int8"}, calibration=calibration)
    assert 'format f32 of scores because "its second operand is no constant, or both are"' in exe.plan.text()


@pytest.mark.parametrize("name", ["int8", "int16"])
def test_digits_in_integers(name: str) -> None:
    digits = dict(np.load(EXAMPLES / "digits.npz"))
    for calibrator in CALIBRATORS:
        calibration = mapsto.Calibration(digits, calibrator)
        exe = mapsto.compile(EXAMPLES / "mnist-cnn.onnx", formats={"*": name}, calibration=calibration)
        assert (exe(digits["image"]).argmax(1) == digits["label"]).all()
