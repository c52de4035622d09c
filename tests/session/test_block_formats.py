"""Products by weights in blocks: any number of rows and channels, on every instruction set, from the plan again."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from tests import opencl
from tests.importers.models import model, node, port

import mapsto
from mapsto.errors import ArgumentError
from mapsto.formats.blocks import BLOCK, block_weights
from mapsto.ir.dtypes import DType
from mapsto.ops.blocks import dequantised_blocks
from mapsto.plan.plan import parse
from mapsto.plan.rules import siblings as rule

FORMATS = {"int8-weights": DType.I8, "int4-weights": DType.I4}
each_format = pytest.mark.parametrize("name", FORMATS)


def array(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((*shape, seed)).standard_normal(shape).astype(np.float32)


def real(w: np.ndarray, name: str) -> np.ndarray:
    return dequantised_blocks(*block_weights(w, FORMATS[name]), BLOCK)


def product(rows: int | str, w: np.ndarray) -> onnx.ModelProto:
    return model([node("MatMul", ["x", "w"], ["y"], "fc")], {"x": [rows, w.shape[0]]}, ["y"], {"w": w})


def packed(exe: mapsto.Executable) -> int:
    """Bytes of the constants that products read."""
    read = [b for b in exe.program.buffers if b.kind == "constant" and not b.name.startswith("w.scales")]
    (found,) = (b.bytes for b in read if b.name.startswith("w"))
    assert isinstance(found, int)
    return found


def assert_near(found: np.ndarray, x: np.ndarray, w: np.ndarray, name: str) -> None:
    """Within some roundings of what sums of magnitudes are; of 4 bits those of q + 8 are summed."""
    right, expected = real(w, name), x.astype(np.float64) @ real(w, name)
    bound = (4e-7 if name == "int8-weights" else 1.6e-6) * (np.abs(x).astype(np.float64) @ np.abs(right)) + 1e-30
    assert found.shape == expected.shape and (np.abs(found - expected) <= bound).all()


@each_format
@pytest.mark.parametrize("isa", ["sse2", "avx2", None])
@pytest.mark.parametrize(("depth", "columns"), [(64, 160), (32, 5), (100, 37), (33, 40), (7, 16), (1, 4), (290, 1)])
def test_sums_of_a_row(name: str, isa: str | None, depth: int, columns: int) -> None:
    w, x = array(depth, columns), array(1, depth)
    exe = mapsto.compile(product(1, w), formats=name, isa=isa, threads=1)
    assert f'format {name} of fc because "asked for"' in exe.plan.text()
    assert_near(exe(x), x, w, name)


@each_format
@pytest.mark.parametrize("isa", ["avx2", None])
@pytest.mark.parametrize("rows", [0, 2, 3, 4, 5, 17])
def test_sums_of_several_rows(name: str, isa: str | None, rows: int) -> None:
    w, x = array(98, 72), array(rows, 98)
    exe = mapsto.compile(product(rows, w), formats=name, isa=isa, threads=2)
    assert_near(exe(x), x, w, name)


@each_format
def test_any_number_of_rows(name: str) -> None:
    w = array(96, 50)
    exe = mapsto.compile(product("n", w), formats=name)
    for rows in (1, 0, 3, 40):
        x = array(rows, 96)
        assert_near(exe(x), x, w, name)


def test_what_lies_in_memory() -> None:
    """A byte, or half a one, for each weight of a few rows; of many rows f32, and the plan says so."""
    w = array(256, 128)
    sizes = {"int8-weights": w.size, "int4-weights": w.size // 2}
    for name, size in sizes.items():
        for rows in (1, 4):
            assert packed(mapsto.compile(product(rows, w), formats=name)) == size
    many = mapsto.compile(product(5, w), formats="int4-weights")
    assert packed(many) == 4 * w.size
    assert "is packed as f32: more than 4 rows meet it" in many.plan.text()
    assert packed(mapsto.compile(product(1, array(249, 128)), formats="int4-weights")) == 32 * 4 * 128


@each_format
@pytest.mark.parametrize("isa", ["avx2", None])
def test_what_is_computed_around_the_sums(name: str, isa: str | None) -> None:
    """A bias, a residual and an activation on the sums; two products of one value side by side."""
    nodes = [
        node("MatMul", ["x", "w"], ["a"], "gate"),
        node("Add", ["a", "bias"], ["b"], "plus"),
        node("Sigmoid", ["b"], ["s"], "act"),
        node("MatMul", ["x", "v"], ["u"], "up"),
        node("Mul", ["s", "u"], ["m"], "both"),
        node("MatMul", ["m", "back"], ["d"], "down"),
        node("Add", ["x", "d"], ["y"], "residual"),
    ]
    constants = {"w": array(64, 96), "v": array(64, 96, seed=1), "back": array(96, 64), "bias": array(96)}
    exe = mapsto.compile(model(nodes, {"x": [1, 64]}, ["y"], constants), formats=name, isa=isa)
    x = array(1, 64)
    w, v, back = (real(constants[key], name) for key in ("w", "v", "back"))
    middle = (x @ v) / (1 + np.exp(-(x @ w + constants["bias"])))
    np.testing.assert_allclose(exe(x), x + middle @ back, rtol=1e-4, atol=1e-4)


@each_format
def test_siblings_have_their_scales_side_by_side(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it saves; their weights are of different sizes."""
    monkeypatch.setattr(rule, "LEAST_GAIN", -math.inf)
    nodes = [node("MatMul", ["x", f"w{k}"], [f"a{k}"], f"fc{k}") for k in range(2)]
    nodes += [node("Tanh", [f"a{k}"], [f"b{k}"], f"act{k}") for k in range(2)]
    nodes += [node("MatMul", [f"b{k}", f"v{k}"], [f"c{k}"], f"back{k}") for k in range(2)]
    weights = {f"w{k}": array(96, columns) * np.float32(0.1**k) for k, columns in enumerate((64, 32))}
    weights |= {f"v{k}": array(columns, 48) for k, columns in enumerate((64, 32))}
    made = model([*nodes, node("Add", ["c0", "c1"], ["y"], "sum")], {"x": [1, 96]}, ["y"], weights)
    exe, x = mapsto.compile(made, formats=name), array(1, 96)
    assert "siblings(" in exe.plan.text()
    w0, w1, v0, v1 = (real(weights[key], name) for key in ("w0", "w1", "v0", "v1"))
    np.testing.assert_allclose(exe(x), np.tanh(x @ w0) @ v0 + np.tanh(x @ w1) @ v1, rtol=1e-4, atol=1e-4)
    again = mapsto.compile(made, plan=exe.plan.text())
    np.testing.assert_array_equal(exe(x), again(x))


def test_a_plan_is_replayed() -> None:
    w, x = array(576, 320), array(1, 576)
    for name in FORMATS:
        first = mapsto.compile(product(1, w), formats={"*": name})
        text = first.plan.text()
        again = mapsto.compile(product(1, w), plan=text)
        assert again.plan.text() == text and parse(text) == first.plan
        np.testing.assert_array_equal(first(x), again(x))
        assert f"products of fc are of {name}: asked for" in first.plan.explain("fc")


def test_what_cannot_be_is_said() -> None:
    w = array(64, 8)
    w[5, 5] = np.nan
    exe = mapsto.compile(product(1, w), formats="int4-weights")
    assert 'format f32 of fc because "a weight is not finite"' in exe.plan.text()
    assert np.isnan(exe(array(1, 64))[0]).tolist() == [k == 5 for k in range(8)]
    conv = model([node("Conv", ["x", "w"], ["y"], "c")], {"x": [1, 3, 5, 5]}, ["y"], {"w": array(4, 3, 1, 1)})
    found = mapsto.compile(conv, formats="int8-weights").plan.text()
    assert 'format f32 of c because "its weights are no matrix"' in found
    with pytest.raises(ArgumentError, match="nothing is quantised"):
        mapsto.compile(product(1, array(64, 8)), formats="int8-weights", calibration={"x": array(1, 64)})


@each_format
def test_what_is_not_finite_comes_through(name: str) -> None:
    """A row of a NaN is NaN, one beside it is not."""
    w, x = array(64, 48), array(2, 64)
    x[1, 40] = np.nan
    found = mapsto.compile(product(2, w), formats=name)(x)
    assert np.isfinite(found[0]).all() and np.isnan(found[1]).all()


@each_format
def test_tied_weights(name: str) -> None:
    """A table that is gathered from and, turned, multiplied by: rows of the table are as the model has them."""
    table = array(200, 64)
    nodes = [
        node("Gather", ["table", "ids"], ["x"], "embed"),
        node("Transpose", ["table"], ["turned"], "turn", perm=[1, 0]),
        node("MatMul", ["x", "turned"], ["y"], "head"),
    ]
    tied = model(nodes, [port("ids", [1], np.int64)], ["y", "x"], {"table": table})
    exe = mapsto.compile(tied, formats=name)
    assert f"format {name} of head" in exe.plan.text()
    found = exe.run({"ids": np.array([7])})
    np.testing.assert_array_equal(found["x"], table[[7]])
    assert_near(found["y"], table[[7]], np.ascontiguousarray(table.T), name)


@each_format
def test_two_products_of_one_matrix_read_one(name: str) -> None:
    nodes = [node("MatMul", ["x", "w"], ["a"], "one"), node("Tanh", ["a"], ["b"], "act")]
    nodes.append(node("MatMul", ["b", "w"], ["y"], "other"))
    w = array(64, 64)
    exe, x = mapsto.compile(model(nodes, {"x": [1, 64]}, ["y"], {"w": w}), formats=name), array(1, 64)
    np.testing.assert_allclose(exe(x), np.tanh(x @ real(w, name)) @ real(w, name), rtol=1e-4, atol=1e-4)
    packed(exe)  # there is one


@each_format
@pytest.mark.parametrize(("rows", "depth", "columns"), [(1, 0, 8), (1, 8, 0), (0, 8, 8), (0, 0, 0)])
def test_nothing_to_sum_or_to_make(name: str, rows: int, depth: int, columns: int) -> None:
    found = mapsto.compile(product(rows, array(depth, columns)), formats=name)(array(rows, depth))
    np.testing.assert_array_equal(found, np.zeros((rows, columns), np.float32))


@each_format
@pytest.mark.parametrize("rows", [1, 3, 6])
def test_on_another_device(name: str, rows: int) -> None:
    opencl.required()
    w, x = array(100, 72), array(rows, 100)
    assert_near(mapsto.compile(product(rows, w), formats=name, device="opencl")(x), x, w, name)


def test_within_an_accuracy() -> None:
    """They may be among the formats that are looked for; whether they are faster is another matter."""
    w, x = array(576, 640), array(4, 576)
    accuracy = mapsto.Accuracy({"x": x}, drop=0.02, seconds=5.0, formats=("int8-weights", "int4-weights"))
    exe = mapsto.compile(product(1, w), accuracy=accuracy)
    (line,) = exe.plan.formats
    assert line.format in ("f32", "int8-weights")  # 4 bits lose more
    again = mapsto.compile(product(1, w), plan=exe.plan.text())
    np.testing.assert_array_equal(exe(x[:1]), again(x[:1]))
