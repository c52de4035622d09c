"""What an op works by (axes, steps, widths, sizes) as inputs of one executable, against the same as constants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from tests.session.support import Feed, assert_close, assert_same_bits, normal, parse

from mapsto.devices.cpu.workers import Workers
from mapsto.errors import ExecutionError
from mapsto.importers.onnx import load
from mapsto.ops.interpret import run_graph
from mapsto.runtime.executable import Executable
from mapsto.session.compile import build, prepared

Feeds = Sequence[Mapping[str, Any]]


def feeds_of(shapes: Sequence[Sequence[int]], parameters: Feeds) -> list[Feed]:
    """Each choice of parameters at each shape of x: lists are integers."""
    return [
        {
            "x": normal(*shape, seed=number),
            **{n: np.asarray(v, np.float32 if _has_float(v) else np.int64) for n, v in given.items()},
        }
        for number, (shape, given) in enumerate((s, g) for s in shapes for g in parameters)
    ]


def _has_float(values: Any) -> bool:
    return any(isinstance(v, float) for v in np.asarray(values, object).ravel())


CUBES = [(2, 3, 4), (1, 1, 5), (3, 0, 2), (5, 4, 1)]
FAR = 2**63 - 1

# name -> (model, inputs); all but x are parameters
CASES: dict[str, tuple[str, list[Feed]]] = {
    **{
        f"Reduce{op}, keepdims {keep}": (
            f"(float[a, b, c] x, int64[{'k' if keep else 2}] axes) => (y) "
            f"{{ y = Reduce{op}<keepdims = {keep}>(x, axes) }}",
            feeds_of(CUBES, [{"axes": k} for k in ([0, 1], [2, -3], [1, 2], *([[1], []] if keep else []))]),
        )
        for op in ("Sum", "Mean", "LogSumExp", "L2")
        for keep in (0, 1)
    },
    "ReduceMax": (
        "(float[a, b, c] x, int64[1] axes) => (y) { y = ReduceMax(x, axes) }",
        feeds_of([(2, 3, 4), (1, 1, 1), (17, 3, 9)], [{"axes": [k]} for k in (0, 1, 2, -1)]),
    ),
    "a sum that is made of others": (
        "(float[a, b, c] x, int64[1] axes) => (y) { e = Exp(x) s = ReduceSum(e, axes) y = Div(e, s) }",
        feeds_of([(2, 3, 4), (1, 1, 1)], [{"axes": [k]} for k in (0, 1, 2)]),
    ),
    "CumSum": (
        "(float[a, b, c] x, int64 axis) => (y) { y = CumSum<exclusive = 1>(x, axis) }",
        feeds_of(CUBES, [{"axis": k} for k in (0, 1, 2, -2)]),
    ),
    "Squeeze and Unsqueeze": (
        "(float[a, b, c] x, int64[2] axes) => (y) { w = Unsqueeze(x, axes) z = Relu(w) y = Squeeze(z, axes) }",
        feeds_of(CUBES, [{"axes": k} for k in ([0, 1], [4, 0], [-1, -3])]),
    ),
    "Slice": (
        "(float[a, b, c] x, int64[k] s, int64[k] e, int64[k] axes, int64[k] t) => (y) { y = Slice(x, s, e, axes, t) }",
        feeds_of(CUBES, [
            {"s": [0, 1], "e": [FAR, -1], "axes": [0, 2], "t": [2, 1]}, {"s": [], "e": [], "axes": [], "t": []},
            {"s": [-1, 9, 0], "e": [-FAR, 0, 2], "axes": [1, -1, 0], "t": [-1, -2, FAR]},
        ]),
    ),
    "Slice, steps": (
        "(float[a, b, c] x, int64[2] s, int64[2] e, int64[2] t) => (y) { y = Slice(x, s, e, , t) }",
        feeds_of(CUBES, [{"s": [0, -1], "e": [9, -9], "t": [3, -1]}, {"s": [4, 0], "e": [0, 2], "t": [-2, 1]}]),
    ),
    "Pad": (
        "(float[a, b, c] x, int64[4] p, int64[2] axes) => (y) { y = Pad(x, p, , axes) }",
        feeds_of([(2, 3, 4), (3, 2, 1)], [{"p": [1, 0, -1, 2], "axes": [0, -1]}, {"p": [0, -1, 3, 1], "axes": [2, 1]}]),
    ),
    "Pad, reflected": (
        '(float[a, b, c] x, int64[2] p, int64[1] axes) => (y) { y = Pad<mode = "reflect">(x, p, , axes) }',
        feeds_of([(2, 3, 4), (1, 1, 1)], [{"p": [1, 5], "axes": [k]} for k in (0, 1, 2)]),
    ),
    **{
        f"Resize, {mode}": (
            f'(float[a, b, c] x, float[3] s) => (y) {{ y = Resize<mode = "{mode}">(x, , s) }}',
            feeds_of([(2, 3, 4), (1, 1, 5)],
                     [{"s": s} for s in ([1.0, 1.0, 2.0], [1.0, 1.5, 0.7], [2.0, 2.285714, 0.999])]),
        )
        for mode in ("nearest", "linear", "cubic")
    },
    "Resize of a computed scale": (
        "(float[a, b, c] x, int64[3] s) => (y) { n = Shape(x) m = Cast<to = 1>(n) f = Cast<to = 1>(s) r = Div(f, m) "
        'y = Resize<mode = "linear", coordinate_transformation_mode = "asymmetric">(x, , r) }',
        feeds_of([(2, 3, 4), (1, 1, 5)], [{"s": [2, 5, 7]}, {"s": [1, 1, 1]}]),
    ),
    "Resize, antialias": (
        '(float[a, b, c] x, float[3] s) => (y) { y = Resize<mode = "cubic", antialias = 1>(x, , s) }',
        feeds_of([(2, 9, 12), (1, 1, 5)], [{"s": [1.0, 0.5, 0.3]}, {"s": [2.0, 1.0, 0.25]}]),
    ),
    "Resize of a region": (
        "(float[a, b, c] x, float[4] r, int64[2] s) => (y) { y = Resize<axes = [1, 2], mode = \"linear\", "
        'coordinate_transformation_mode = "tf_crop_and_resize", extrapolation_value = 3.0>(x, r, , s) }',
        feeds_of([(2, 9, 12), (1, 1, 5)],
                 [{"r": [0.1, 0.2, 0.9, 1.3], "s": [4, 5]}, {"r": [0.0, 1.0, 1.0, 0.0], "s": [1, 3]}]),
    ),
    "Resize, kept ratio": (
        '(float[a, b, c] x, int64[2] s) => (y) { y = Resize<axes = [1, 2], mode = "linear", '
        'keep_aspect_ratio_policy = "not_larger">(x, , , s) }',
        feeds_of([(2, 3, 4), (1, 1, 5)], [{"s": [6, 7]}, {"s": [2, 2]}]),
    ),
    "DFT": (
        "(float[a, b, 2] x, int64 n, int64 axis) => (y) { y = DFT(x, n, axis) }",
        feeds_of([(4, 5, 2), (1, 1, 2), (0, 3, 2)], [{"n": n, "axis": k} for n, k in ((4, 0), (7, 1), (1, -3))]),
    ),
    "DFT, onesided": (
        "(float[a, b, 1] x, int64 n, int64 axis) => (y, z) { y = DFT<onesided = 1>(x, n, axis) "
        "z = DFT<onesided = 1, inverse = 1>(x, n, axis) }",
        feeds_of([(4, 5, 1), (1, 1, 1)], [{"n": n, "axis": k} for n, k in ((4, 0), (7, 1), (1, -2))]),
    ),
    "STFT": (
        "(float[a, t, 1] x, int64 s, int64 n) => (y) { y = STFT(x, s, , n) }",
        feeds_of([(2, 12, 1), (0, 9, 1)], [{"s": 1, "n": 4}, {"s": 3, "n": 5}, {"s": 9, "n": 9}]),
    ),
    "Col2Im": (
        "(float[a, b, l] x, int64[2] i, int64[2] k) => (y) "
        "{ y = Col2Im<strides = [1, 2], pads = [1, 0, 0, 1], dilations = [2, 1]>(x, i, k) }",
        [{"x": normal(n, c * h * w, (6 - 2 * (h - 1) - 1 + 1) * ((8 - w) // 2 + 1)),
          "i": np.array([5, 7]), "k": np.array([h, w])} for n, c, h, w in ((2, 3, 2, 3), (1, 1, 1, 1), (0, 2, 3, 2))],
    ),
    "Tile and Expand": (
        "(float[a, b, c] x, int64[3] r, int64[4] s) => (y) { z = Tile(x, r) y = Expand(z, s) }",
        feeds_of(CUBES, [{"r": [2, 0, 1], "s": [2, 1, 1, 1]}, {"r": [1, 1, 3], "s": [1, 1, 1, 1]}]),
    ),
    "TopK": (
        "(float[a, b] x, int64[1] k) => (y, i) { y, i = TopK(x, k) }",
        feeds_of([(3, 5), (1, 1), (0, 4)], [{"k": [1]}, {"k": [0]}]),
    ),
}  # fmt: skip


def with_constants(model: Any, feed: Feed) -> Any:
    """The model with all inputs but x as initializers."""
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    ports = [entry for entry in model.graph.input if entry.name == "x"]
    del fixed.graph.input[:]
    fixed.graph.input.extend(ports)
    fixed.graph.initializer.extend(onnx.numpy_helper.from_array(a, n) for n, a in feed.items() if n != "x")
    return fixed


@pytest.mark.parametrize("name", CASES)
def test_one_executable_takes_all_values_of_a_parameter(workers: Workers, name: str) -> None:
    text, feeds = CASES[name]
    model = parse(f"g {text}", opset=20)
    graph = load(model)
    exe = build(prepared(model, None), workers, 1, None)
    double = Executable(exe.program, exe.objects, 2)
    for feed in feeds:
        expected = run_graph(load(with_constants(model, feed)), {"x": feed["x"]})
        found = exe.run(feed)
        assert_close(run_graph(graph, feed), expected)
        assert_close(found, expected)
        exe.poison()
        assert_same_bits(exe.run(feed), found)
        exe.poison(False)
        assert_same_bits(double.run(feed), found)


WRONG: dict[str, tuple[str, Mapping[str, Any], str]] = {
    "an axis that there is not": ("ReduceSum, keepdims 1", {"axes": [0, 3]}, "input 1 .axes.: 3 does not exist"),
    "an axis twice": ("ReduceSum, keepdims 1", {"axes": [0, -3]}, "input 1 .axes. names an axis twice"),
    "an axis twice, which goes": ("ReduceSum, keepdims 0", {"axes": [0, -3]}, "input 1 .axes. names an axis twice"),
    "a sum along no axis": ("CumSum", {"axis": -4}, "input 1 .axis.: -4 does not exist"),
    "a step of 0": ("Slice, steps", {"s": [0, 0], "e": [1, 1], "t": [1, 0]}, "input 4 .steps. has a step of 0"),
    "a padded axis": ("Pad, reflected", {"p": [1, 1], "axes": [5]}, "input 3 .axes.: 5 does not exist"),
    "a scale below 0": ("Resize, linear", {"s": [1.0, -1.0, 1.0]}, "input 2 .scales. has a scale"),
    "no points": ("DFT", {"n": 0, "axis": 0}, "at least 1"),
    "a step back": ("STFT", {"s": -1, "n": 4}, "input 1 .frame_step.: .* -1"),
    "a block of nothing": ("Col2Im", {"i": [5, 7], "k": [0, 1]}, "input 2 .block_shape. has an extent"),
    "fewer than no copies": ("Tile and Expand", {"r": [1, -1, 1], "s": [1, 1, 1, 1]}, "input 1 .repeats.: .* -1"),
    "more than there are": ("TopK", {"k": [7]}, "must be at least"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_value_stops_the_run_and_the_next_run_is_right(workers: Workers, name: str) -> None:
    case, values, said = WRONG[name]
    text, feeds = CASES[case]
    exe = build(prepared(parse(f"g {text}", opset=20), None), workers, 1, None)
    right = exe.run(feeds[0])
    wrong = feeds_of([feeds[0]["x"].shape], [values])[0]
    with pytest.raises(ExecutionError, match=said):
        exe.run(wrong)
    assert_same_bits(exe.run(feeds[0]), right)
