"""Files in which one number, an attribute or an element of a constant, asks for much: over the rows of the importer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from tests.importers.models import ints, model, node, port

Model = Any
Build = Callable[[int], Model]  # of the number
Parts = Callable[[int], dict[str, Any]]
F = np.float32
_NONE: Parts = lambda n: {}  # noqa: E731


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, F)


def row(op: str, inputs: str, attributes: Parts = _NONE, constants: Parts = _NONE, **more: Any) -> Build:
    """A model of one node: its inputs by name, `x` an image of 8 x 8, `-` left out, others constants. more: opset,
    and how many outputs.
    """
    names = ["" if name == "-" else name for name in inputs.split()]
    results = ["y", "z"][: more.get("outputs", 1)]
    shapes = {"x": [1, 1, 8, 8]} if "x" in names else {}

    def build(n: int) -> Model:
        made = [node(op, names, results, **attributes(n))]
        return model(made, shapes, results, constants(n), more.get("opset", 18))

    return build


def filled(then: str, constants: Parts = _NONE, *inputs: str, shape: Parts | None = None, **attributes: Any) -> Build:
    """A node that reads a vector of n zeros, or zeros of another shape, that the model makes, and constants."""

    def build(n: int) -> Model:
        extents = {"s": ints(n)} if shape is None else shape(n)
        nodes = [node("ConstantOfShape", ["s"], ["c"]), node(then, ["c", *inputs], ["y"], **attributes)]
        return model(nodes, {}, constants={**extents, **constants(n)})

    return build


def read(op: str, shapes: Parts, constants: Parts = _NONE, outputs: Sequence[str] = ("y",), **attributes: Any) -> Build:
    """A node that reads inputs of these shapes, then constants."""

    def build(n: int) -> Model:
        inputs, fixed = shapes(n), constants(n)
        return model([node(op, [*inputs, *fixed], outputs, **attributes)], inputs, outputs, fixed)

    return build


def _kernel(n: int) -> dict[str, Any]:
    return {"w": ones(1, 1, 3, 3)}


def _image(n: int) -> dict[str, Any]:
    return {"c": ones(1, 1, 8, 8)}


CONVOLUTIONS: dict[str, Build] = {
    f"{op}_{name}": build
    for op in ("Conv", "ConvTranspose")
    for name, build in {
        "strides": row(op, "x w", lambda n: {"strides": [n, n]}, _kernel),
        "dilations": row(op, "x w", lambda n: {"dilations": [n, n]}, _kernel),
        "pads": row(op, "x w", lambda n: {"pads": [n] * 4}, _kernel),
        "group": row(op, "x w", lambda n: {"group": n}, _kernel),
        "constant": row(
            op,
            "c w",
            lambda n: {"pads": [n] * 4, "strides": [max(n // 2, 1)] * 2},
            lambda n: {**_image(n), **_kernel(n)},
        ),
    }.items()
} | {
    "ConvTranspose_output_padding": row("ConvTranspose", "x w", lambda n: {"output_padding": [n, n]}, _kernel),
    "ConvTranspose_output_shape": row("ConvTranspose", "x w", lambda n: {"output_shape": [n, n]}, _kernel),
}

POOLS: dict[str, Build] = {
    f"{op}_{name}": build
    for op in ("MaxPool", "AveragePool", "LpPool")
    for name, build in {
        "kernel": row(op, "x", lambda n: {"kernel_shape": [n, n], "pads": [n - 1] * 4}),
        "constant": row(op, "c", lambda n: {"kernel_shape": [n, n], "pads": [n - 1] * 4, "strides": [n, n]}, _image),
        "strides": row(op, "x", lambda n: {"kernel_shape": [2, 2], "strides": [n, n]}),
        "ceil": row(op, "x", lambda n: {"kernel_shape": [2, 2], "strides": [n, n], "ceil_mode": 1}),
    }.items()
} | {
    "LRN": row("LRN", "x", lambda n: {"size": n}),
    "MaxUnpool": row(
        "MaxUnpool",
        "c i s",
        lambda n: {"kernel_shape": [2, 2], "strides": [2, 2]},
        lambda n: {"c": ones(1, 1, 2, 2), "i": np.zeros((1, 1, 2, 2), np.int64), "s": ints(1, 1, n, n)},
    ),
}

MADE: dict[str, Build] = {
    "ConstantOfShape": row("ConstantOfShape", "s", constants=lambda n: {"s": ints(n)}),
    "ConstantOfShape_2d": row("ConstantOfShape", "s", constants=lambda n: {"s": ints(n, 4)}),
    "Expand": row("Expand", "c s", constants=lambda n: {"c": ones(1), "s": ints(n, 4)}),
    "Tile": row("Tile", "c s", constants=lambda n: {"c": ones(2), "s": ints(n)}),
    "Tile_x": row("Tile", "x s", constants=lambda n: {"s": ints(1, n, 1, n)}),
    "Range": row("Range", "a b d", constants=lambda n: {"a": np.int64(0), "b": np.int64(n), "d": np.int64(1)}),
    "Range_float": row("Range", "a b d", constants=lambda n: {"a": F(0), "b": F(n), "d": F(1e-3)}),
    "OneHot": row("OneHot", "i d v", constants=lambda n: {"i": ints(0, 1), "d": ints(n), "v": ones(2)}),
    "RandomNormal": row("RandomNormal", "", lambda n: {"shape": [n]}),
    "RandomUniform": row("RandomUniform", "", lambda n: {"shape": [n]}),
    "HannWindow": row("HannWindow", "n", constants=lambda n: {"n": np.int64(n)}),
    "HammingWindow": row("HammingWindow", "n", constants=lambda n: {"n": np.int64(n)}),
    "BlackmanWindow": row("BlackmanWindow", "n", constants=lambda n: {"n": np.int64(n)}),
    "AffineGrid": row("AffineGrid", "t s", constants=lambda n: {"t": ones(1, 2, 3), "s": ints(1, 1, n, n)}, opset=20),
    "CumSum": filled("CumSum", lambda n: {"a": np.int64(0)}, "a"),
    "Concat": filled("Concat", _NONE, *["c"] * 7, axis=0),
    "Bernoulli": filled("Bernoulli"),
    "EyeLike": filled("EyeLike", shape=lambda n: {"s": ints(n, n)}),
}

PADS: dict[str, Build] = {
    f"Pad_{mode}": row("Pad", "c p", lambda n, mode=mode: {"mode": mode}, lambda n: {"c": ones(3), "p": ints(n, n)})
    for mode in ("constant", "reflect", "edge", "wrap")
} | {"Pad_crop": row("Pad", "c p", lambda n: {"mode": "edge"}, lambda n: {"c": ones(3), "p": ints(n, 1 - n)})}

RESIZED: dict[str, Build] = {
    f"Resize_{name}{mode}": row("Resize", inputs, lambda n, mode=mode: {"mode": mode}, constants)
    for mode in ("nearest", "linear", "cubic")
    for name, inputs, constants in (
        ("", "c - - s", lambda n: {"c": ones(1, 1, 4, 4), "s": ints(1, 1, n, n)}),
        ("scales_", "c - k", lambda n: {"c": ones(1, 1, 4, 4), "k": np.array([1, 1, n, n], F)}),
        ("x_", "x - - s", lambda n: {"s": ints(1, 1, n, n)}),
    )
} | {"Upsample": row("Upsample", "x k", constants=lambda n: {"k": np.array([1, 1, n, n], F)}, opset=9)}

MOVED: dict[str, Build] = {
    "Col2Im": row("Col2Im", "c i b", constants=lambda n: {"c": ones(1, 4, 4), "i": ints(n, n), "b": ints(2, 2)}),
    "Col2Im_block": row("Col2Im", "c i b", constants=lambda n: {"c": ones(1, 4, 4), "i": ints(4, 4), "b": ints(n, n)}),
    "DepthToSpace": row("DepthToSpace", "x", lambda n: {"blocksize": n}),
    "SpaceToDepth": row("SpaceToDepth", "x", lambda n: {"blocksize": n}),
    "Reshape": row("Reshape", "x s", constants=lambda n: {"s": ints(n, -1)}),
    "Slice": row("Slice", "x a b i k", constants=lambda n: {"a": ints(-n), "b": ints(n), "i": ints(2), "k": ints(n)}),
    "Split": row("Split", "x", lambda n: {"num_outputs": n}),
    "Unsqueeze": row("Unsqueeze", "x a", constants=lambda n: {"a": ints(n)}),
    "Trilu": row("Trilu", "x k", constants=lambda n: {"k": np.int64(n)}),
    "TopK": row("TopK", "c k", constants=lambda n: {"c": ones(2), "k": ints(n)}, outputs=2),
    "DFT": row("DFT", "c n", lambda n: {"axis": 1}, lambda n: {"c": ones(1, 8, 1), "n": np.int64(n)}),
    "STFT": row("STFT", "c s - n", constants=lambda n: {"c": ones(1, 8, 1), "s": np.int64(1), "n": np.int64(n)}),
}


def _gather(n: int) -> Model:
    zero = helper.make_tensor("v", TensorProto.INT64, [1], [0])
    nodes = [node("ConstantOfShape", ["s"], ["c"], value=zero), node("Gather", ["x", "c"], ["y"])]
    return model(nodes, {"x": [4, 1000]}, constants={"s": ints(n)})


def _gather_of_a_constant(n: int) -> Model:
    nodes = [node("Expand", ["z", "s"], ["c"]), node("Gather", ["t", "c"], ["y"])]
    return model(nodes, {}, constants={"s": ints(min(n, 10**6)), "z": ints(0), "t": ones(1, 1000)})


def _scatter(n: int) -> Model:
    nodes = [node("ScatterElements", ["x", "i", "x"], ["y"], axis=0, reduction="add")]
    return model(nodes, [port("x", [n]), port("i", [n], np.int64)])


def _grid(n: int) -> Model:
    nodes = [node("GridSample", ["x", "g"], ["y"], mode="bicubic" if n < 10**7 else "bilinear")]
    return model(nodes, {"x": [1, 1, n, n], "g": [1, n, n, 2]})


def _lstm(n: int) -> Model:
    hidden = n // 8 * 2
    shapes = {"x": [n, 1, 4], "w": [1, 4 * hidden, 4], "r": [1, 4 * hidden, hidden]}
    return model([node("LSTM", list(shapes), ["y"], hidden_size=hidden)], shapes)


# Inputs whose extents are n: of what they hold, nothing is made when compiling.
INPUTS: dict[str, Build] = {
    "Gather": _gather,
    "GatherConstant": _gather_of_a_constant,
    "Input": read("Softmax", lambda n: {"x": [n, n]}),
    "InputMatMul": lambda n: model([node("MatMul", ["x", "x"], ["y"])], {"x": [n, n]}),
    "InputConv": read("Conv", lambda n: {"x": [1, n, 8, 8], "w": [n, n, 3, 3]}),
    "InputConvWindow": lambda n: read("Conv", lambda n: {"x": [1, 1, n, n], "w": [1, 1, n, n]}, pads=[n] * 4)(n),
    "InputConvTranspose": read("ConvTranspose", lambda n: {"x": [1, 1, n, n], "w": [1, 1, n, n]}),
    "InputTopK": read("TopK", lambda n: {"x": [n]}, lambda n: {"k": ints(n)}, outputs=("y", "i")),
    "InputNonZero": read("NonZero", lambda n: {"x": [n]}),
    "InputCumSum": read("CumSum", lambda n: {"x": [n]}, lambda n: {"a": np.int64(0)}),
    "InputLSTM": _lstm,
    "InputNms": read("NonMaxSuppression", lambda n: {"b": [1, n, 4], "s": [1, 1, n]}, lambda n: {"k": ints(n)}),
    "InputGridSample": _grid,
    "InputScatter": _scatter,
    "InputEinsum": lambda n: model([node("Einsum", ["x", "x"], ["y"], equation="ij,kl->ijkl")], {"x": [n, n]}),
    "InputDet": read("Det", lambda n: {"x": [n, n]}),
    "InputLayerNorm": read("LayerNormalization", lambda n: {"x": [n, n], "s": [n]}),
}

ROWS: dict[str, Build] = CONVOLUTIONS | POOLS | MADE | PADS | RESIZED | MOVED | INPUTS


def scaled(sizes: Iterable[int]) -> dict[str, Callable[[], Model]]:
    """One case a row and size."""
    return {f"{name}_{n}": partial(build, n) for n in sizes for name, build in ROWS.items()}
