"""Files whose constants ask for much arithmetic or memory."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.importers.models import ints, model, node

Model = Any
F = np.float32


def _floats(*values: float) -> np.ndarray:
    return np.array(values, F)


def _one(
    op: str, inputs: list[str], constants: dict[str, np.ndarray], opset: int = 18, outputs: int = 1, **attrs: Any
) -> Model:
    names = ["y", *(f"y{k}" for k in range(1, outputs))]
    shapes = {"x": [1, 1, 8, 8]} if "x" in inputs else {}
    return model([node(op, inputs, names, **attrs)], shapes, names, constants, opset)


def product_of_2048() -> Model:
    rng = np.ones((2048, 2048), F)
    return _one("MatMul", ["a", "b"], {"a": rng, "b": rng})


def integer_product_of_2048() -> Model:
    a = np.ones((2048, 2048), np.int64)
    return _one("MatMul", ["a", "b"], {"a": a, "b": a})


def a_chain_of_products() -> Model:
    nodes = [node("MatMul", [f"v{k}" if k else "a", "a"], [f"v{k + 1}" if k < 39 else "y"]) for k in range(40)]
    return model(nodes, {}, constants={"a": np.ones((1024, 1024), F)})


def product_of_expanded() -> Model:
    nodes = [node("Expand", ["one", "s"], ["a"]), node("MatMul", ["a", "a"], ["y"])]
    return model(nodes, {}, constants={"one": _floats(1), "s": ints(4000, 4000)})


def suppression_of_20000() -> Model:
    rng = np.random.default_rng(0)
    corner = rng.random((1, 20_000, 2), F)
    boxes = np.concatenate([corner, corner + F(1e-3)], axis=2)
    constants = {"b": boxes, "s": rng.random((1, 1, 20_000), F), "k": ints(20_000), "o": _floats(0.5)}
    return _one("NonMaxSuppression", ["b", "s", "k", "o"], constants)


def constant_convolution() -> Model:
    return _one("Conv", ["a", "w"], {"a": np.ones((1, 64, 128, 128), F), "w": np.ones((64, 64, 7, 7), F)})


def many_convolutions_of_one_constant() -> Model:
    """60 convolutions read one weight of 16 MB, each in its own way."""
    nodes = [node("Conv", ["x", "w"], [f"y{k}"], pads=[k % 3, k % 5, k % 2, k % 7]) for k in range(60)]
    nodes.append(node("Sum", [f"m{k}" for k in range(60)], ["y"]))
    nodes[60:60] = [node("ReduceMax", [f"y{k}"], [f"m{k}"], keepdims=0) for k in range(60)]
    return model(nodes, {"x": [1, 512, 8, 8]}, constants={"w": np.ones((512, 512, 4, 4), F)})


def many_transposes_of_one_constant() -> Model:
    nodes = []
    for k in range(40):
        nodes.append(node("Mul", ["w", f"f{k}"], [f"v{k}"]))
        nodes.append(node("MatMul", ["x", f"v{k}"], [f"m{k}"]))
    nodes.append(node("Sum", [f"m{k}" for k in range(40)], ["y"]))
    constants = {"w": np.ones((2048, 2048), F), **{f"f{k}": _floats(k + 2) for k in range(40)}}
    return model(nodes, {"x": [1, 2048]}, constants=constants)


def recurrent_constant() -> Model:
    constants = {"c": np.ones((2000, 1, 64), F), "w": np.ones((1, 512, 64), F), "r": np.ones((1, 512, 128), F)}
    return _one("LSTM", ["c", "w", "r"], constants, hidden_size=128)


def windows_of_constants() -> Model:
    nodes = [node("HannWindow", ["n"], ["w"]), node("Exp", ["w"], ["y"])]
    return model(nodes, {}, constants={"n": np.int64(10**9)})


def random_windows() -> Model:
    nodes = [node("RandomNormal", [], ["a"], shape=[10**9]), node("Exp", ["a"], ["y"])]
    return model(nodes, {})


def cubic_grid_of_many_axes() -> Model:
    return model(
        [node("GridSample", ["x", "g"], ["y"], mode="cubic")],
        {"x": [1, 1] + [2] * 8, "g": [1] + [2] * 8 + [8]},
        opset=20,
    )


def linear_grid_of_many_axes() -> Model:
    return model(
        [node("GridSample", ["x", "g"], ["y"], mode="linear")],
        {"x": [1, 1] + [2] * 20, "g": [1] + [2] * 20 + [20]},
        opset=20,
    )


def convolution_of_many_axes() -> Model:
    return model(
        [node("Conv", ["x", "w"], ["y"])], {"x": [1, 1] + [3] * 20}, constants={"w": np.ones([1, 1] + [2] * 20, F)}
    )


def transposed_convolution_of_many_axes() -> Model:
    strides = [2] * 12
    return model(
        [node("ConvTranspose", ["x", "w"], ["y"], strides=strides)],
        {"x": [1, 1] + [3] * 12},
        constants={"w": np.ones([1, 1] + [3] * 12, F)},
    )


def pool_of_many_axes() -> Model:
    return model([node("MaxPool", ["x"], ["y"], kernel_shape=[2] * 20)], {"x": [1, 1] + [3] * 20})


def resize_of_many_axes() -> Model:
    return model(
        [node("Resize", ["x", "", "k"], ["y"], mode="cubic")], {"x": [2] * 12}, constants={"k": np.full(12, 1.5, F)}
    )


def long_windows() -> Model:
    """Kernels of a few columns and very many taps, which are written out nowhere."""
    return model(
        [node("Conv", ["x", "w"], ["y"])], {"x": [1, 3, 1, 100_000]}, constants={"w": np.ones((2, 3, 1, 65_536), F)}
    )


def groups() -> Model:
    return model(
        [node("Conv", ["x", "w"], ["y"], group=65_536)],
        {"x": [1, 65_536, 4, 4]},
        constants={"w": np.ones((65_536, 1, 3, 3), F)},
    )


def one_weight_scaled_many_times() -> Model:
    """100 convolutions read one weight of 16 MB, and each is multiplied by a constant of its own."""
    nodes, constants = [], {"w": np.ones((512, 512, 4, 4), F)}
    for k in range(100):
        constants[f"f{k}"] = np.full((512, 1, 1), k + 1.5, F)
        nodes += [node("Conv", ["x", "w"], [f"c{k}"]), node("Mul", [f"c{k}", f"f{k}"], [f"m{k}"])]
    return model([*nodes, node("Sum", [f"m{k}" for k in range(100)], ["y"])], {"x": [1, 512, 4, 4]}, ["y"], constants)


def one_constant_divided_by_many_times() -> Model:
    """60 quotients by one constant of 8 MB, whose inverses are exact."""
    nodes = [node("Div", [f"v{k}", "w"], [f"v{k + 1}"]) for k in range(60)]
    return model(nodes, {"v0": [1024, 2048]}, ["v60"], {"w": np.full((1024, 2048), 2, F)})


CASES = [
    product_of_2048, integer_product_of_2048, a_chain_of_products, product_of_expanded, suppression_of_20000,
    constant_convolution, many_convolutions_of_one_constant, many_transposes_of_one_constant, recurrent_constant,
    windows_of_constants, random_windows, cubic_grid_of_many_axes, linear_grid_of_many_axes,
    convolution_of_many_axes, transposed_convolution_of_many_axes, pool_of_many_axes, resize_of_many_axes,
    long_windows, groups, one_weight_scaled_many_times, one_constant_divided_by_many_times,
]  # fmt: skip
