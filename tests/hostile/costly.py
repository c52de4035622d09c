"""Files whose attributes or constants ask for much arithmetic or memory: over the rows of the importer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from tests.importers.models import ints, model, node, port

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


def scaled(sizes: Iterable[int]) -> dict[str, Callable[[], Model]]:
    """One case an op, attribute and size: what a single number may ask for."""
    w = np.ones((1, 1, 3, 3), F)
    made: dict[str, Any] = {}
    for n in sizes:
        for op in ("Conv", "ConvTranspose"):
            for attribute in ("strides", "dilations"):
                made[f"{op}_{attribute}_{n}"] = lambda op=op, attribute=attribute, n=n: _one(
                    op, ["x", "w"], {"w": w}, **{attribute: [n, n]}
                )
            made[f"{op}_pads_{n}"] = lambda op=op, n=n: _one(op, ["x", "w"], {"w": w}, pads=[n] * 4)
            made[f"{op}_group_{n}"] = lambda op=op, n=n: _one(op, ["x", "w"], {"w": w}, group=n)
            made[f"{op}_constant_{n}"] = lambda op=op, n=n: _one(
                op,
                ["c", "w"],
                {"w": w, "c": np.ones((1, 1, 8, 8), F)},
                **{"pads": [n] * 4, "strides": [max(n // 2, 1)] * 2},
            )
        made[f"ConvTranspose_output_padding_{n}"] = lambda n=n: _one(
            "ConvTranspose", ["x", "w"], {"w": w}, output_padding=[n, n]
        )
        made[f"ConvTranspose_output_shape_{n}"] = lambda n=n: _one(
            "ConvTranspose", ["x", "w"], {"w": w}, output_shape=[n, n]
        )
        for op in ("MaxPool", "AveragePool", "LpPool"):
            made[f"{op}_kernel_{n}"] = lambda op=op, n=n: _one(op, ["x"], {}, kernel_shape=[n, n], pads=[n - 1] * 4)
            made[f"{op}_constant_{n}"] = lambda op=op, n=n: _one(
                op, ["c"], {"c": np.ones((1, 1, 8, 8), F)}, kernel_shape=[n, n], pads=[n - 1] * 4, strides=[n, n]
            )
            made[f"{op}_strides_{n}"] = lambda op=op, n=n: _one(op, ["x"], {}, kernel_shape=[2, 2], strides=[n, n])
            made[f"{op}_ceil_{n}"] = lambda op=op, n=n: _one(
                op, ["x"], {}, kernel_shape=[2, 2], strides=[n, n], ceil_mode=1
            )
        made[f"LRN_{n}"] = lambda n=n: _one("LRN", ["x"], {}, size=n)
        made[f"ConstantOfShape_{n}"] = lambda n=n: _one("ConstantOfShape", ["s"], {"s": ints(n)})
        made[f"ConstantOfShape_2d_{n}"] = lambda n=n: _one("ConstantOfShape", ["s"], {"s": ints(n, 4)})
        made[f"Expand_{n}"] = lambda n=n: _one("Expand", ["c", "s"], {"s": ints(n, 4), "c": _floats(1)})
        made[f"Tile_{n}"] = lambda n=n: _one("Tile", ["c", "s"], {"s": ints(n), "c": _floats(1, 2)})
        made[f"Tile_x_{n}"] = lambda n=n: _one("Tile", ["x", "s"], {"s": ints(1, n, 1, n)})
        made[f"Range_{n}"] = lambda n=n: _one(
            "Range", ["a", "b", "d"], {"a": np.int64(0), "b": np.int64(n), "d": np.int64(1)}
        )
        made[f"Range_float_{n}"] = lambda n=n: _one("Range", ["a", "b", "d"], {"a": F(0), "b": F(n), "d": F(1e-3)})
        made[f"OneHot_{n}"] = lambda n=n: _one(
            "OneHot", ["i", "d", "v"], {"i": ints(0, 1), "d": ints(n), "v": _floats(0, 1)}
        )
        made[f"Pad_{n}"] = lambda n=n: _one("Pad", ["c", "p"], {"c": _floats(1, 2), "p": ints(n, n)})
        for mode in ("reflect", "edge", "wrap"):
            made[f"Pad_{mode}_{n}"] = lambda n=n, mode=mode: _one(
                "Pad", ["c", "p"], {"c": _floats(1, 2, 3), "p": ints(n, n)}, mode=mode
            )
        made[f"Pad_crop_{n}"] = lambda n=n: _one(
            "Pad", ["c", "p"], {"c": _floats(1, 2, 3), "p": ints(n, 1 - n)}, mode="edge"
        )
        for mode in ("nearest", "linear", "cubic"):
            made[f"Resize_{mode}_{n}"] = lambda n=n, mode=mode: _one(
                "Resize", ["c", "", "", "s"], {"c": np.ones((1, 1, 4, 4), F), "s": ints(1, 1, n, n)}, mode=mode
            )
            made[f"Resize_scales_{mode}_{n}"] = lambda n=n, mode=mode: _one(
                "Resize", ["c", "", "k"], {"c": np.ones((1, 1, 4, 4), F), "k": _floats(1, 1, n, n)}, mode=mode
            )
            made[f"Resize_x_{mode}_{n}"] = lambda n=n, mode=mode: _one(
                "Resize", ["x", "", "", "s"], {"s": ints(1, 1, n, n)}, mode=mode
            )
        made[f"Upsample_{n}"] = lambda n=n: _one("Upsample", ["x", "k"], {"k": _floats(1, 1, n, n)}, opset=9)
        made[f"Col2Im_{n}"] = lambda n=n: _one(
            "Col2Im", ["c", "i", "b"], {"c": np.ones((1, 4, 4), F), "i": ints(n, n), "b": ints(2, 2)}
        )
        made[f"Col2Im_block_{n}"] = lambda n=n: _one(
            "Col2Im", ["c", "i", "b"], {"c": np.ones((1, 4, 4), F), "i": ints(4, 4), "b": ints(n, n)}
        )
        made[f"DFT_{n}"] = lambda n=n: _one("DFT", ["c", "n"], {"c": np.ones((1, 8, 1), F), "n": np.int64(n)}, axis=1)
        made[f"STFT_{n}"] = lambda n=n: _one(
            "STFT", ["c", "s", "", "n"], {"c": np.ones((1, 8, 1), F), "s": np.int64(1), "n": np.int64(n)}
        )
        made[f"TopK_{n}"] = lambda n=n: _one("TopK", ["c", "k"], {"c": _floats(1, 2), "k": ints(n)}, outputs=2)
        made[f"EyeLike_{n}"] = lambda n=n: model(
            [node("ConstantOfShape", ["s"], ["c"]), node("EyeLike", ["c"], ["y"], k=-n)],
            {},
            constants={"s": ints(n, n)},
        )
        made[f"Trilu_{n}"] = lambda n=n: _one("Trilu", ["x", "k"], {"k": np.int64(n)})
        made[f"CumSum_{n}"] = lambda n=n: model(
            [node("ConstantOfShape", ["s"], ["c"]), node("CumSum", ["c", "a"], ["y"])],
            {},
            constants={"s": ints(n), "a": np.int64(0)},
        )
        made[f"Concat_{n}"] = lambda n=n: model(
            [node("ConstantOfShape", ["s"], ["c"]), node("Concat", ["c"] * 8, ["y"], axis=0)],
            {},
            constants={"s": ints(n)},
        )
        made[f"Gather_{n}"] = lambda n=n: model(
            [
                node("ConstantOfShape", ["s"], ["c"], value=helper.make_tensor("v", TensorProto.INT64, [1], [0])),
                node("Gather", ["x", "c"], ["y"]),
            ],
            {"x": [4, 1000]},
            constants={"s": ints(n)},
        )
        made[f"GatherConstant_{n}"] = lambda n=n: model(
            [node("Expand", ["z", "s"], ["c"]), node("Gather", ["t", "c"], ["y"])],
            {},
            constants={"s": ints(min(n, 10**6)), "z": ints(0), "t": np.ones((1, 1000), F)},
        )
        for op in ("HannWindow", "HammingWindow", "BlackmanWindow"):
            made[f"{op}_{n}"] = lambda op=op, n=n: _one(op, ["n"], {"n": np.int64(n)})
        for op in ("RandomNormal", "RandomUniform"):
            made[f"{op}_{n}"] = lambda op=op, n=n: _one(op, [], {}, shape=[n])
        made[f"Bernoulli_{n}"] = lambda n=n: model(
            [node("ConstantOfShape", ["s"], ["c"]), node("Bernoulli", ["c"], ["y"])], {}, constants={"s": ints(n)}
        )
        made[f"AffineGrid_{n}"] = lambda n=n: _one(
            "AffineGrid", ["t", "s"], {"t": np.ones((1, 2, 3), F), "s": ints(1, 1, n, n)}, opset=20
        )
        made[f"MaxUnpool_{n}"] = lambda n=n: _one(
            "MaxUnpool",
            ["c", "i", "s"],
            {"c": np.ones((1, 1, 2, 2), F), "i": np.zeros((1, 1, 2, 2), np.int64), "s": ints(1, 1, n, n)},
            kernel_shape=[2, 2],
            strides=[2, 2],
        )
        made[f"DepthToSpace_{n}"] = lambda n=n: _one("DepthToSpace", ["x"], {}, blocksize=n)
        made[f"SpaceToDepth_{n}"] = lambda n=n: _one("SpaceToDepth", ["x"], {}, blocksize=n)
        made[f"Reshape_{n}"] = lambda n=n: _one("Reshape", ["x", "s"], {"s": ints(n, -1)})
        made[f"Slice_{n}"] = lambda n=n: _one(
            "Slice", ["x", "a", "b", "i", "k"], {"a": ints(-n), "b": ints(n), "i": ints(2), "k": ints(n)}
        )
        made[f"Split_{n}"] = lambda n=n: _one("Split", ["x"], {}, num_outputs=n)
        made[f"Unsqueeze_{n}"] = lambda n=n: _one("Unsqueeze", ["x", "a"], {"a": ints(n)})
        made[f"Input_{n}"] = lambda n=n: model([node("Softmax", ["x"], ["y"])], {"x": [n, n]})
        made[f"InputMatMul_{n}"] = lambda n=n: model([node("MatMul", ["x", "x"], ["y"])], {"x": [n, n]})
        made[f"InputConv_{n}"] = lambda n=n: model(
            [node("Conv", ["x", "w"], ["y"])], {"x": [1, n, 8, 8], "w": [n, n, 3, 3]}
        )
        made[f"InputConvWindow_{n}"] = lambda n=n: model(
            [node("Conv", ["x", "w"], ["y"], pads=[n] * 4)], {"x": [1, 1, n, n], "w": [1, 1, n, n]}
        )
        made[f"InputConvTranspose_{n}"] = lambda n=n: model(
            [node("ConvTranspose", ["x", "w"], ["y"])], {"x": [1, 1, n, n], "w": [1, 1, n, n]}
        )
        made[f"InputTopK_{n}"] = lambda n=n: model(
            [node("TopK", ["x", "k"], ["y", "i"])], {"x": [n]}, ["y", "i"], {"k": ints(n)}
        )
        made[f"InputNonZero_{n}"] = lambda n=n: model([node("NonZero", ["x"], ["y"])], {"x": [n]})
        made[f"InputCumSum_{n}"] = lambda n=n: model(
            [node("CumSum", ["x", "a"], ["y"])], {"x": [n]}, constants={"a": np.int64(0)}
        )
        made[f"InputLSTM_{n}"] = lambda n=n: model(
            [node("LSTM", ["x", "w", "r"], ["y"], hidden_size=n // 8 * 2)],
            {"x": [n, 1, 4], "w": [1, n // 8 * 8, 4], "r": [1, n // 8 * 8, n // 8 * 2]},
        )
        made[f"InputNms_{n}"] = lambda n=n: model(
            [node("NonMaxSuppression", ["b", "s", "k"], ["y"])],
            {"b": [1, n, 4], "s": [1, 1, n]},
            constants={"k": ints(n)},
        )
        made[f"InputGridSample_{n}"] = lambda n=n: model(
            [node("GridSample", ["x", "g"], ["y"], mode="bicubic" if n < 10**7 else "bilinear")],
            {"x": [1, 1, n, n], "g": [1, n, n, 2]},
        )
        made[f"InputScatter_{n}"] = lambda n=n: model(
            [node("ScatterElements", ["x", "i", "x"], ["y"], axis=0, reduction="add")],
            [port("x", [n]), port("i", [n], np.int64)],
        )
        made[f"InputEinsum_{n}"] = lambda n=n: model(
            [node("Einsum", ["x", "x"], ["y"], equation="ij,kl->ijkl")], {"x": [n, n]}
        )
        made[f"InputDet_{n}"] = lambda n=n: model([node("Det", ["x"], ["y"])], {"x": [n, n]})
        made[f"InputLayerNorm_{n}"] = lambda n=n: model(
            [node("LayerNormalization", ["x", "s"], ["y"])], {"x": [n, n], "s": [n]}
        )
    return made


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


CASES = [
    product_of_2048, integer_product_of_2048, a_chain_of_products, product_of_expanded, suppression_of_20000,
    constant_convolution, many_convolutions_of_one_constant, many_transposes_of_one_constant, recurrent_constant,
    windows_of_constants, random_windows, cubic_grid_of_many_axes, linear_grid_of_many_axes,
    convolution_of_many_axes, transposed_convolution_of_many_axes, pool_of_many_axes, resize_of_many_axes,
    long_windows, groups,
]  # fmt: skip
