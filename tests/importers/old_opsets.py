"""What versions of ops mean for which the suite has no case: nodes with inputs and what they give, by numpy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

_SEQUENCES = "sequences and optional values: test_sequences.py"
# Ops for which there is no case here, and why: none of their versions is read, or they are tried elsewhere.
WITHOUT_CASES: dict[str, str] = {
    **dict.fromkeys(("RegexFullMatch", "StringConcat", "StringNormalizer", "StringSplit", "TfIdfVectorizer"), "text"),
    "ImageDecoder": "reading pictures",
    **dict.fromkeys(("Optional", "OptionalGetElement", "OptionalHasElement"), _SEQUENCES),
    **{f"Sequence{kind}": _SEQUENCES for kind in ("At", "Construct", "Empty", "Erase", "Insert", "Length", "Map")},
    "ConcatFromSequence": _SEQUENCES, "SplitToSequence": _SEQUENCES,
}  # fmt: skip


@dataclass(frozen=True)
class OldCase:
    """One node. constants: which of its inputs are initializers. drawn: only types and shapes are compared."""

    inputs: Sequence[np.ndarray | None]
    expected: Sequence[np.ndarray]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    constants: Sequence[int] = ()
    drawn: bool = False

    def model(self, op: str, opset: int) -> Any:
        names = ["" if array is None else f"x{i}" for i, array in enumerate(self.inputs)]
        node = helper.make_node(op, names, [f"y{i}" for i in range(len(self.expected))], **self.attributes)
        ports = [
            helper.make_tensor_value_info(f"x{i}", helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for i, array in enumerate(self.inputs)
            if array is not None and i not in self.constants
        ]
        tensors = [numpy_helper.from_array(np.asarray(self.inputs[i]), f"x{i}") for i in self.constants]
        results = [onnx.ValueInfoProto(name=f"y{i}") for i in range(len(self.expected))]
        graph = helper.make_graph([node], "old", ports, results, tensors)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)

    def feeds(self) -> dict[str, np.ndarray]:
        return {f"x{i}": a for i, a in enumerate(self.inputs) if a is not None and i not in self.constants}


def drawn(*shape: int) -> np.ndarray:
    """Numbers of both signs, the same for a shape."""
    return np.random.default_rng(len(shape) + sum(shape)).standard_normal(shape).astype(np.float32)


def own_cases(op: str, opset: int) -> Iterator[OldCase]:
    """The cases of an op that say what it means in an opset."""
    family = next((family for names, family in _FAMILIES if op in names), None)
    if family is not None:
        yield from family(op, opset)


# -- two operands, of which the second is broadcast by an attribute ----------------------------------------------------

_ARITHMETIC = {"Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Div": np.divide}
_BINARY = {
    **_ARITHMETIC, "Pow": lambda x, y: np.abs(x) ** y, "And": np.logical_and, "Or": np.logical_or,
    "Xor": np.logical_xor, "Equal": np.equal, "Greater": np.greater, "Less": np.less,
}  # fmt: skip


def _binary(op: str, opset: int) -> Iterator[OldCase]:
    if opset >= 7:
        return
    x = drawn(2, 3, 4, 5)
    for shape, axis in (((3, 4), 1), ((2,), 0), ((5,), None), ((4, 5), None), ((4, 5), 2), ((1,), None), ((2, 3), -4)):
        y = drawn(*shape)
        if op in ("And", "Or", "Xor"):
            left, right = x > 0, y > 0
        elif op == "Equal":
            left, right = np.rint(x).astype(np.int32), np.rint(y).astype(np.int32)
        else:
            left, right = np.abs(x) if op == "Pow" else x, y
        attributes = {"broadcast": 1} | ({} if axis is None else {"axis": axis})
        at = (axis % 4 if axis is not None else 4 - y.ndim) if y.size > 1 else 3
        wide = right.reshape(*right.shape, *[1] * (4 - at - right.ndim))
        yield OldCase([left, right], [_BINARY[op](left, wide)], attributes)


def _prelu(op: str, opset: int) -> Iterator[OldCase]:
    if opset < 7:
        x, slope = drawn(2, 3, 4), drawn(3)
        yield OldCase([x, slope], [np.where(x < 0, x * slope[:, None], x)])
        yield OldCase([x, drawn(1)], [np.where(x < 0, x * drawn(1), x)])


def _several(op: str, opset: int) -> Iterator[OldCase]:
    arrays = [drawn(2, 3), drawn(2, 3) + 1, -drawn(2, 3)]
    function = {"Sum": np.sum, "Max": np.max, "Min": np.min, "Mean": np.mean}[op]
    yield OldCase(arrays, [function(np.stack(arrays), axis=0).astype(np.float32)])


def _gemm(op: str, opset: int) -> Iterator[OldCase]:
    x, y, c = drawn(2, 3), drawn(3, 4), drawn(4)
    attributes = {"broadcast": 1} if opset < 7 else {}
    yield OldCase([x, y, c], [0.5 * x @ y + 2 * c], {"alpha": 0.5, "beta": 2.0, **attributes})


# -- softmax and its kin over all axes from one on ---------------------------------------------------------------------


def _softmax(op: str, opset: int) -> Iterator[OldCase]:
    x = drawn(2, 3, 4)
    for axis in (None, 0, 1, 2):
        if opset >= 13:
            rows = np.moveaxis(x, -1 if axis is None else axis, -1)
        else:
            rows = x.reshape(int(np.prod(x.shape[: 1 if axis is None else axis])), -1)
        e = np.exp(rows - rows.max(-1, keepdims=True))
        found = {
            "Softmax": e / e.sum(-1, keepdims=True),
            "LogSoftmax": np.log(e / e.sum(-1, keepdims=True)),
            "Hardmax": np.eye(rows.shape[-1], dtype=np.float32)[rows.argmax(-1)],
        }[op]
        back = np.moveaxis(found, -1, -1 if axis is None else axis) if opset >= 13 else found.reshape(x.shape)
        yield OldCase([x], [back], {} if axis is None else {"axis": axis})


# -- moving elements ---------------------------------------------------------------------------------------------------


def _moved(op: str, opset: int) -> Iterator[OldCase]:
    x = drawn(2, 4)
    if op == "Tile" and opset < 6:
        count, axis = np.float32(3).reshape(1), np.float32(1).reshape(1)
        yield OldCase([x, count, axis], [np.tile(x, (1, 3))], constants=(1, 2))
    elif op == "Pad" and opset < 2:
        yield OldCase([x], [np.pad(x, ((0, 2), (1, 0)), constant_values=7)], {"paddings": [0, 1, 2, 0], "value": 7.0})
    elif op == "Reshape" and opset < 5:
        yield OldCase([x], [x.reshape(2, 2, 2)], {"shape": [0, -1, 2]})
    elif op == "Concat" and opset < 4:
        yield OldCase([x, x], [np.concatenate([x, x], 1)])
    elif op == "Split" and opset < 2:
        yield OldCase([x], [x[:, :3], x[:, 3:]], {"axis": 1, "split": [3, 1]})
        parts = np.array([3, 1], np.float32)
        yield OldCase([x, parts], [x[:, :3], x[:, 3:]], {"axis": 1}, constants=(1,))
    elif op == "Cast" and opset < 6:
        yield OldCase([x], [x.astype(np.int32)], {"to": "INT32"})
        yield OldCase([x], [x != 0], {"to": "bool"})


def _resampled(op: str, opset: int) -> Iterator[OldCase]:
    x = drawn(1, 2, 2, 3)
    wide = x.repeat(2, 2).repeat(3, 3)
    scales = np.array([1, 1, 2, 3], np.float32)
    if op == "Upsample" and opset < 7:
        yield OldCase([x], [wide], {"height_scale": 2.0, "width_scale": 3.0})
        line = np.array([[[[0, 2]]]], np.float32)
        yield OldCase(
            [line], [np.array([[[[0, 1, 2, 2]]]], np.float32)],
            {"height_scale": 1.0, "width_scale": 2.0, "mode": "bilinear"},
        )  # fmt: skip
    elif op == "Upsample" and opset < 9:
        yield OldCase([x], [wide], {"scales": scales.tolist()})
    elif opset < 11:
        yield OldCase([x, scales], [wide], constants=(1,))


# -- norms and pools ---------------------------------------------------------------------------------------------------


def _norm_pool(op: str, opset: int) -> Iterator[OldCase]:
    x = drawn(2, 3, 4, 5)
    p: Any = 3.0 if opset < 2 else 3
    if op == "GlobalLpPool":
        total = (np.abs(x.astype(np.float64)) ** 3).sum((2, 3), keepdims=True) ** (1 / 3)
        yield OldCase([x], [total.astype(np.float32)], {"p": p})
        yield OldCase([x], [np.sqrt((x.astype(np.float64) ** 2).sum((2, 3), keepdims=True)).astype(np.float32)])
    elif opset < 2:
        rows = np.lib.stride_tricks.sliding_window_view(np.abs(x.astype(np.float64)), (2, 2), (2, 3))
        yield OldCase([x], [((rows**3).sum((-1, -2)) ** (1 / 3)).astype(np.float32)], {"p": p, "kernel_shape": [2, 2]})


def _batch_norm(op: str, opset: int) -> Iterator[OldCase]:
    x, scale, bias, mean, variance = drawn(4, 3, 5), drawn(3), drawn(3) + 1, drawn(3) * 2, np.abs(drawn(3)) + 1
    required = {"consumed_inputs": [0, 0, 0, 1, 1]} if opset < 6 else {}

    def expected(m: np.ndarray, v: np.ndarray, s: np.ndarray = scale, o: np.ndarray = bias) -> np.ndarray:
        wide = [p[:, None] if p.ndim == 1 else p for p in (m, v, s, o)]
        return ((x - wide[0]) / np.sqrt(wide[1] + 1e-5) * wide[2] + wide[3]).astype(np.float32)

    operands = [x, scale, bias, mean, variance]
    m, v = x.mean((0, 2), dtype=np.float64), x.var((0, 2), dtype=np.float64)
    moved = [(0.75 * old + 0.25 * new).astype(np.float32) for old, new in ((mean, m), (variance, v))]
    saved = [a.astype(np.float32) for a in (m, v)]
    if opset >= 14:
        yield OldCase(operands, [expected(m, v), *moved], {"training_mode": 1, "momentum": 0.75})
    elif opset >= 7:
        yield OldCase(operands, [expected(mean, variance)])
        yield OldCase(operands, [expected(m, v), *moved, *saved], {"momentum": 0.75})
    else:
        yield OldCase(operands, [expected(mean, variance)], {"is_test": 1, **required})
        yield OldCase(operands, [expected(m, v), *moved, *saved], {"momentum": 0.75, **required})
    if opset < 9:
        test = {"is_test": 1, "spatial": 0, **required} if opset < 7 else {"spatial": 0}
        yield OldCase(operands, [expected(mean, variance)], test)
        places = [drawn(3, 5), drawn(3, 5) + 1, drawn(3, 5) * 2, np.abs(drawn(3, 5)) + 1]
        yield OldCase([x, *places], [expected(places[2], places[3], places[0], places[1])], test)


def _dropout(op: str, opset: int) -> Iterator[OldCase]:
    x = drawn(3, 4)
    if opset < 7:
        yield OldCase([x], [x, np.ones_like(x)], {"is_test": 1})
        yield OldCase([x], [x, np.ones_like(x)], drawn=True)
    elif opset < 12:
        yield OldCase([x], [x, np.ones_like(x) if opset < 10 else np.ones(x.shape, bool)], {"ratio": 0.5})


# -- defaults ----------------------------------------------------------------------------------------------------------


def _defaults(op: str, opset: int) -> Iterator[OldCase]:
    x = drawn(3, 4)
    if op == "Selu":
        alpha, gamma = (1.6732, 1.0507) if opset < 6 else (1.6732632423543772, 1.0507009873554805)
        yield OldCase([x], [(gamma * np.where(x > 0, x, alpha * np.expm1(x.astype(np.float64)))).astype(np.float32)])
    elif opset < 11:
        wide = np.array([-np.inf, -1, 0.5, np.inf], np.float32)
        large = np.finfo(np.float32).max
        yield OldCase([wide], [wide if opset < 6 else np.clip(wide, -large, large)])
        yield OldCase([x], [np.minimum(x, 0.5)], {"max": 0.5})


# -- regions -----------------------------------------------------------------------------------------------------------


def _regions(op: str, opset: int) -> Iterator[OldCase]:
    x = drawn(2, 3, 6, 7)
    corners = np.array([[0.6, 1.2, 5.1, 4.4], [2, 2, 2, 2], [-3, -1, 9, 8]], np.float32)
    images = np.array([1, 0, 1], np.int64)
    if op == "MaxRoiPool":
        rois = np.concatenate([images[:, None].astype(np.float32), corners], 1)
        yield OldCase([x, rois], [_max_roi_pool(x, rois, 2, 3)], {"pooled_shape": [2, 3]})
    elif opset < 16:
        sizes = {"output_height": 2, "output_width": 3}
        node = helper.make_node(
            "RoiAlign", ["x", "r", "i"], ["y"], coordinate_transformation_mode="output_half_pixel", **sizes
        )
        ports = [onnx.ValueInfoProto(name=name) for name in "xri"]
        graph = helper.make_graph([node], "g", ports, [onnx.ValueInfoProto(name="y")])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 16)])
        (expected,) = ReferenceEvaluator(model).run(None, {"x": x, "r": corners, "i": images})
        yield OldCase([x, corners, images], [expected], sizes)


def _max_roi_pool(x: np.ndarray, rois: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Girshick, Fast R-CNN (2015), section 2.1, with edges rounded as Caffe does."""
    found = np.zeros((len(rois), x.shape[1], rows, columns), np.float32)
    for r, (image, *edges) in enumerate(rois):
        left, top, right, bottom = (int(np.floor(e + 0.5)) for e in edges)
        height, width = max(bottom - top + 1, 1) / rows, max(right - left + 1, 1) / columns
        for i, j in np.ndindex(rows, columns):
            y0, y1 = (np.clip(int(f) + top, 0, x.shape[2]) for f in (np.floor(i * height), np.ceil((i + 1) * height)))
            x0, x1 = (np.clip(int(f) + left, 0, x.shape[3]) for f in (np.floor(j * width), np.ceil((j + 1) * width)))
            if y1 > y0 and x1 > x0:
                found[r, :, i, j] = x[int(image), :, y0:y1, x0:x1].max((1, 2))
    return found


# -- random numbers ----------------------------------------------------------------------------------------------------


def _random(op: str, opset: int) -> Iterator[OldCase]:
    x = np.full((2, 3), 0.5, np.float32)
    if op.endswith("Like"):
        yield OldCase([x], [x], {"seed": 3.0}, drawn=True)
        yield OldCase([x], [x.astype(np.float16)], {"dtype": onnx.TensorProto.FLOAT16}, drawn=True)
    elif op == "Bernoulli":
        yield OldCase([x], [x.astype(np.int32)], {"dtype": onnx.TensorProto.INT32}, drawn=True)
        yield OldCase([np.round(drawn(2, 3) > 0).astype(np.float32)], [np.round(drawn(2, 3) > 0).astype(np.float32)])
    elif op == "Multinomial":
        yield OldCase(
            [x], [np.zeros((2, 5), np.int64)], {"sample_size": 5, "dtype": onnx.TensorProto.INT64}, drawn=True
        )
        sure = np.array([[-np.inf, 0, -np.inf], [-np.inf, -np.inf, 3]], np.float32)
        yield OldCase([sure], [np.array([[1, 1, 1], [2, 2, 2]], np.int32)], {"sample_size": 3})
    else:
        yield OldCase([], [x], {"shape": [2, 3]}, drawn=True)


def _loops(op: str, opset: int) -> Iterator[OldCase]:
    def port(name: str, array: np.ndarray) -> Any:
        return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)

    if op == "Loop":
        x, count, on = drawn(3), np.array(3), np.array(True)
        nodes = [helper.make_node("Identity", ["c"], ["d"]), helper.make_node("Add", ["s", "s"], ["t"]),
                 helper.make_node("Neg", ["t"], ["r"])]  # fmt: skip
        body = helper.make_graph(
            nodes, "body", [port("i", count), port("c", on), port("s", x)], [port("d", on), port("t", x), port("r", x)]
        )
        rows = -np.stack([2 * x, 4 * x, 8 * x])
        for first, limit, go in ((x, count, on), (x, count, None)):
            yield OldCase([limit, go, first], [8 * x, rows], {"body": body})
        yield OldCase([count, np.array(False), x], [x, rows[:0]], {"body": body})
        return
    x, rows = drawn(3), drawn(5, 3)
    nodes = [helper.make_node("Add", ["s", "u"], ["t"]), helper.make_node("Neg", ["t"], ["r"])]
    body = helper.make_graph(nodes, "body", [port("s", x), port("u", x)], [port("t", x), port("r", x)])
    sums = x + np.cumsum(rows, axis=0)
    attributes = {"body": body, "num_scan_inputs": 1}
    if opset == 8:
        yield OldCase([None, x[None], rows[None]], [sums[-1:], -sums[None]], attributes)
        half = np.concatenate([-sums[:2], np.zeros_like(sums[2:])])
        yield OldCase([np.array([2]), x[None], rows[None]], [sums[1:2], half[None]], attributes)
        return
    yield OldCase([x, rows], [sums[-1], -sums], attributes)
    yield OldCase([x, rows.T], [sums[-1], -sums], {**attributes, "scan_input_axes": [1]})
    back = x + np.cumsum(rows[::-1], axis=0)
    yield OldCase([x, rows], [back[-1], -back], {**attributes, "scan_input_directions": [1]})
    yield OldCase([x, rows], [sums[-1], -sums[::-1]], {**attributes, "scan_output_directions": [1]})


_FAMILIES = (
    ({"Loop", "Scan"}, _loops),
    ({"RoiAlign", "MaxRoiPool"}, _regions),
    (set(_BINARY), _binary),
    ({"PRelu"}, _prelu),
    ({"Sum", "Max", "Min", "Mean"}, _several),
    ({"Gemm"}, _gemm),
    ({"Softmax", "LogSoftmax", "Hardmax"}, _softmax),
    ({"Tile", "Pad", "Reshape", "Concat", "Split", "Cast"}, _moved),
    ({"Upsample", "Resize"}, _resampled),
    ({"LpPool", "GlobalLpPool"}, _norm_pool),
    ({"BatchNormalization"}, _batch_norm),
    ({"Dropout"}, _dropout),
    ({"Selu", "Clip"}, _defaults),
    ({"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"}, _random),
)
