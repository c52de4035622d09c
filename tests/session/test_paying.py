"""A format that is asked for without naming nodes is for the products that take less in it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from tests.importers.models import model, node

import mapsto
from mapsto.devices.cpu.isa import host
from mapsto.ops.interpret import run_graph
from mapsto.plan.works import PlannedFormat
from mapsto.session.compile import prepared
from mapsto.session.formed import formed, said


def array(*shape: int) -> np.ndarray:
    drawn = np.random.default_rng(sum(shape)).standard_normal(shape)
    return (drawn / np.sqrt(np.prod(shape[1:]))).astype(np.float32)


def network(pixels: int = 56) -> onnx.ModelProto:
    """A convolution that products at points suit, and a large matrix product."""
    nodes = [
        node("Conv", ["x", "w1"], ["a"], "taps", pads=[1, 1, 1, 1]),
        node("Relu", ["a"], ["b"], "relu"),
        node("GlobalAveragePool", ["b"], ["c"], "mean"),
        node("Flatten", ["c"], ["d"], "flat"),
        node("MatMul", ["d", "w2"], ["e"], "wide"),
        node("MatMul", ["e", "w3"], ["y"], "head"),
    ]
    constants = {"w1": array(128, 128, 3, 3), "w2": array(128, 4096), "w3": array(4096, 1024)}
    return model(nodes, {"x": [1, 128, pixels, pixels]}, ["y"], constants)


def formats_of(exe: mapsto.Executable) -> dict[str, PlannedFormat]:
    return {each.sources[0]: each for each in exe.plan.formats}


@pytest.mark.parametrize("isa", ["avx2", None])
def test_each_is_in_the_format_that_takes_less(isa: str | None) -> None:
    if isa == "avx2" and not host().has("fma"):
        pytest.skip("a processor without FMA")
    exe = mapsto.compile(network(), formats="bf16", isa=isa, threads=1)
    found = formats_of(exe)
    assert found["taps"].format == "f32" and "in bf16 it would take" in found["taps"].because
    assert found["head"].format == "bf16" and found["head"].because == "asked for"
    x = {"x": array(1, 128, 56, 56)}
    graph = formed(prepared(network(), None), said(exe.plan.formats)).graph
    expected = run_graph(graph, x, wide=True)["y"]
    assert np.abs(exe.run(x)["y"] - expected).max() <= 2.0**-9 * np.abs(expected).max()
    again = mapsto.compile(network(), plan=exe.plan.text(), isa=isa, threads=1)
    assert again.plan.text() == exe.plan.text()
    assert again.run(x)["y"].tobytes() == exe.run(x)["y"].tobytes()


def test_what_is_named_has_the_format_whatever_it_takes() -> None:
    for formats in ({"*": "bf16"}, {"": "f32", "taps": "bf16"}):
        assert formats_of(mapsto.compile(network(), formats=formats, threads=1))["taps"].format == "bf16"
    mixed = formats_of(mapsto.compile(network(), formats={"": "bf16", "head": "f16"}, threads=1))
    assert (mixed["taps"].format, mixed["head"].format) == ("f32", "f16")


def test_integers_are_taken_where_they_take_less() -> None:
    """The plan is never predicted slower than f32's."""
    examples = {"x": array(4, 128, 16, 16)}
    one = mapsto.compile(network(16), formats="int8", calibration=examples, threads=1)
    assert formats_of(one).keys() == {"taps", "wide", "head"}
    plain = mapsto.compile(network(16), threads=1)
    predicted = [sum(work.predicted for work in exe.plan.works) for exe in (one, plain)]
    assert predicted[0] <= predicted[1]


def test_weights_alone_are_narrowed_always() -> None:
    found = formats_of(mapsto.compile(network(8), formats="bf16-weights", threads=1))
    assert {each.format for each in found.values()} == {"bf16-weights"}
