"""Small files whose nodes, names, nesting or sizes grow without end."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper

from tests.importers.models import graph, ints, model, node, port

Model = Any


def function(name: str, nodes: list[Any], opset: int = 18) -> Any:
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("f", 1)]
    return helper.make_function("f", name, ["a"], ["b"], nodes, imports)


def call(name: str, source: str, result: str) -> Any:
    return node(name, [source], [result], domain="f")


def doubling_functions(levels: int = 40) -> Model:
    made = [function("F0", [node("Relu", ["a"], ["b"])])]
    for k in range(1, levels):
        made.append(function(f"F{k}", [call(f"F{k - 1}", "a", "c"), call(f"F{k - 1}", "c", "b")]))
    return model([call(f"F{levels - 1}", "x", "y")], {"x": [2]}, functions=made)


def eighteen_doublings() -> Model:
    return doubling_functions(19)


def wide_functions() -> Model:
    """Three levels of 60 calls: 216,000 nodes."""
    body = [node("Relu", ["a"], ["v0"])]
    made = [function("F0", [node("Relu", ["a"], ["b"])])]
    for level in range(1, 4):
        body = [call(f"F{level - 1}", f"v{i}" if i else "a", f"v{i + 1}") for i in range(59)]
        made.append(function(f"F{level}", [*body, call(f"F{level - 1}", "v59", "b")]))
    return model([call("F3", "x", "y")], {"x": [2]}, functions=made)


def functions_with_long_names() -> Model:
    """5,000 calls of 10 nodes whose names are long."""
    body = [node("Relu" if k % 2 else "Neg", [f"v{k}" if k else "a"], [f"v{k + 1}"], name="n" * 9000) for k in range(9)]
    made = [function("F", [*body, node("Exp", ["v9"], ["b"])])]
    calls = [call("F", f"x{k}" if k else "x", f"x{k + 1}" if k < 4999 else "y") for k in range(5000)]
    return model(calls, {"x": [2]}, functions=made)


def a_function_of_itself() -> Model:
    return model([call("F", "x", "y")], {"x": [2]}, functions=[function("F", [call("F", "a", "b")])])


def functions_of_each_other() -> Model:
    made = [function("F", [call("G", "a", "b")]), function("G", [call("F", "a", "b")])]
    return model([call("F", "x", "y")], {"x": [2]}, functions=made)


def deep_functions() -> Model:
    made = [function("F0", [node("Relu", ["a"], ["b"])])]
    made += [function(f"F{k}", [call(f"F{k - 1}", "a", "b")]) for k in range(1, 3000)]
    return model([call("F2999", "x", "y")], {"x": [2]}, functions=made)


def a_constant_in_a_function() -> Model:
    """A tensor of 100 KB read at each of 20,000 calls."""
    big = onnx.numpy_helper.from_array(np.ones(25_000, np.float32))
    body = [node("Constant", [], ["k"], value=big), node("ReduceMax", ["k"], ["m"]), node("Add", ["a", "m"], ["b"])]
    calls = [call("F", f"x{k}" if k else "x", f"x{k + 1}" if k < 19_999 else "y") for k in range(20_000)]
    return model(calls, {"x": [2]}, functions=[function("F", body)])


def nested_branches(levels: int = 28) -> Model:
    inner = graph([node("Relu", ["x"], ["r"])], ["r"])
    for k in range(levels):
        inner = graph(
            [
                node(
                    "If",
                    ["p"],
                    [f"o{k}"],
                    then_branch=inner,
                    else_branch=graph([node("Neg", ["x"], [f"e{k}"])], [f"e{k}"]),
                )
            ],
            [f"o{k}"],
        )
    return model(
        [node("If", ["p"], ["y"], then_branch=inner, else_branch=graph([node("Neg", ["x"], ["z"])], ["z"]))],
        [port("x", [2]), port("p", [], np.bool_)],
    )


def branches_both_ways() -> Model:
    """20 levels, an If in both branches of each: 2^20 graphs would be a large file; 12 levels are 4,096."""

    names = iter(range(1 << 20))

    def level_of(k: int) -> Any:
        name = next(names)
        if k == 0:
            return graph([node("Relu", ["x"], [f"r{name}"])], [f"r{name}"])
        return graph(
            [node("If", ["p"], [f"o{name}"], then_branch=level_of(k - 1), else_branch=level_of(k - 1))], [f"o{name}"]
        )

    return model(
        [node("If", ["p"], ["y"], then_branch=level_of(8), else_branch=level_of(8))],
        [port("x", [2]), port("p", [], np.bool_)],
    )


def doubling_concat() -> Model:
    nodes = [node("Concat", [f"v{i}", f"v{i}"], [f"v{i + 1}"], axis=0) for i in range(60)]
    return model(nodes, {}, ["v60"], {"v0": np.ones(4, np.float32)})


def doubling_input() -> Model:
    nodes = [node("Concat", [f"v{i}", f"v{i}"], [f"v{i + 1}"], axis=0) for i in range(60)]
    return model(nodes, {"v0": [4]}, ["v60"])


def doubling_adds() -> Model:
    """Each node reads the one before twice: composed without end they are 2^200 operations."""
    nodes = [node("Add", [f"v{i}", f"v{i}"], [f"v{i + 1}"]) for i in range(200)]
    return model(nodes, {"v0": [4]}, ["v200"])


def _squares(first: list[Any], levels: int, op: str, shape: list[Any], outputs: int = 1) -> Model:
    nodes = [*first, *(node(op, [f"s{i}", f"s{i}"], [f"s{i + 1}"]) for i in range(levels))]
    nodes.append(node("ConstantOfShape", [f"s{levels}"], ["y"]))
    return model(nodes, {"x": shape}, constants={"axis": ints(0), "one": ints(1), "three": ints(3)})


def squares_of_a_shape() -> Model:
    return _squares([node("Shape", ["x"], ["s0"])], 12, "Mul", ["a", "b", "c"])


def squares_of_a_sum() -> Model:
    first = [node("Shape", ["x"], ["t"]), node("ReduceSum", ["t"], ["s0"], keepdims=1)]
    return _squares(first, 12, "Mul", [f"d{k}" for k in range(8)])


def squares_of_a_wide_sum() -> Model:
    first = [
        node("Shape", ["x"], ["t"]),
        node("ReduceSum", ["t"], ["u"], keepdims=1),
        node("Add", ["u", "one"], ["s0"]),
    ]
    return _squares(first, 12, "Mul", [f"d{k}" for k in range(30)])


def products_of_sums() -> Model:
    """(a0 + a1 + ...) (b0 + b1 + ...) (c0 + ...): every product is one term more."""
    nodes, last = [], "one"
    inputs = {}
    for k in range(16):
        inputs[f"x{k}"] = [f"d{k}_{i}" for i in range(30)]
        nodes += [node("Shape", [f"x{k}"], [f"t{k}"]), node("ReduceSum", [f"t{k}"], [f"u{k}"], keepdims=1)]
        nodes.append(node("Mul", [last, f"u{k}"], [f"p{k}"]))
        last = f"p{k}"
    nodes.append(node("ConstantOfShape", [last], ["y"]))
    return model(nodes, inputs, constants={"one": ints(1)})


def extremes() -> Model:
    nodes = [node("Shape", ["x"], ["v0"])]
    for i in range(60):
        nodes.append(node("Add", [f"v{i}", "k"], [f"a{i}"]))
        nodes.append(node("Mul", [f"v{i}", "two"], [f"b{i}"]))
        nodes.append(node("Min" if i % 2 else "Max", [f"a{i}", f"b{i}"], [f"v{i + 1}"]))
    nodes.append(node("ConstantOfShape", ["v60"], ["y"]))
    return model(nodes, {"x": ["n"]}, constants={"k": ints(3), "two": ints(2)})


def sums_of_extremes() -> Model:
    """A sum of min(a_i, b_i): what a bound of it is may be asked in 3^n ways."""
    nodes = []
    inputs = {"x": [f"a{k}" for k in range(24)], "z": [f"b{k}" for k in range(24)]}
    nodes += [node("Shape", ["x"], ["s"]), node("Shape", ["z"], ["t"]), node("Min", ["s", "t"], ["m"])]
    nodes += [node("ReduceSum", ["m"], ["u"], keepdims=1), node("Sub", ["u", "k"], ["w"])]
    nodes += [node("ConstantOfShape", ["w"], ["c"]), node("Slice", ["c", "w2", "u"], ["y"])]
    return model(nodes, inputs, constants={"k": ints(5), "w2": ints(2)})


def differences_of_extremes() -> Model:
    inputs = {"x": [f"a{k}" for k in range(30)], "z": [f"b{k}" for k in range(30)]}
    nodes = [node("Shape", ["x"], ["s"]), node("Shape", ["z"], ["t"])]
    nodes += [node("Min", ["s", "t"], ["m"]), node("Max", ["s", "t"], ["n"]), node("Sub", ["m", "n"], ["d"])]
    nodes += [node("Div", ["d", "k"], ["q"]), node("ReduceSum", ["q"], ["u"], keepdims=1)]
    nodes += [node("ReduceSum", ["n"], ["v"], keepdims=1), node("Add", ["u", "v"], ["w"])]
    nodes += [node("ConstantOfShape", ["v"], ["c"]), node("Slice", ["c", "w", "v"], ["y"])]
    return model(nodes, inputs, constants={"k": ints(3)})


def halves_of_sums() -> Model:
    """((n + 1)//2 + 3)//2..., 500 deep."""
    nodes = [node("Shape", ["x"], ["v0"])]
    for i in range(500):
        nodes.append(node("Add", [f"v{i}", f"k{i % 3}"], [f"a{i}"]))
        nodes.append(node("Div", [f"a{i}", f"d{i % 2}"], [f"v{i + 1}"]))
    nodes.append(node("ConstantOfShape", ["v500"], ["y"]))
    constants = {"k0": ints(1), "k1": ints(3), "k2": ints(7), "d0": ints(2), "d1": ints(3)}
    return model(nodes, {"x": ["n"]}, constants=constants)


def strided_convolutions() -> Model:
    """300 convolutions with stride 2 over an open extent: floors of floors in every shape."""
    nodes = [
        node("MaxPool", [f"v{i}"], [f"v{i + 1}"], kernel_shape=[3], strides=[2], pads=[2, 1 + i % 2])
        for i in range(300)
    ]
    return model(nodes, {"v0": [1, 1, "n"]}, ["v300"])


def flattened_outer_products() -> Model:
    nodes = []
    for i in range(40):
        nodes.append(node("Unsqueeze", [f"v{i}", "zero"], [f"r{i}"]))
        nodes.append(node("Unsqueeze", [f"v{i}", "one"], [f"c{i}"]))
        nodes.append(node("Mul", [f"r{i}", f"c{i}"], [f"o{i}"]))
        nodes.append(node("Reshape", [f"o{i}", "flat"], [f"v{i + 1}"]))
    return model(nodes, {"v0": ["n"]}, ["v40"], {"zero": ints(0), "one": ints(1), "flat": ints(-1)})


def concats_of_open_axes() -> Model:
    """The sum of 400 open extents, as an extent."""
    inputs = {f"x{k}": [f"n{k}"] for k in range(400)}
    return model([node("Concat", list(inputs), ["y"], axis=0)], inputs)


def a_product_of_open_axes() -> Model:
    """Reshape of the sum of 60 extents times the sum of 60 others."""
    a, b = {f"x{k}": [f"n{k}", 1] for k in range(60)}, {f"z{k}": [1, f"m{k}"] for k in range(60)}
    nodes = [node("Concat", list(a), ["c"], axis=0), node("Concat", list(b), ["d"], axis=1)]
    nodes += [node("Mul", ["c", "d"], ["e"]), node("Reshape", ["e", "flat"], ["y"])]
    return model(nodes, {**a, **b}, constants={"flat": ints(-1)})


def loads_of_loads() -> Model:
    """A size read from a tensor that a size read from a tensor..., 100 deep."""
    nodes = []
    for k in range(100):
        nodes += [node("NonZero", [f"v{k}"], [f"i{k}"]), node("Squeeze", [f"i{k}", "zero"], [f"s{k}"])]
        nodes += [node("Gather", ["x", f"s{k}"], [f"v{k + 1}"])]
    return model(nodes, {"x": ["n"], "v0": ["n"]}, ["v100"], {"zero": ints(0)})


CASES = [
    doubling_functions, eighteen_doublings, wide_functions, functions_with_long_names, a_function_of_itself,
    functions_of_each_other, deep_functions, a_constant_in_a_function, nested_branches, branches_both_ways,
    doubling_concat, doubling_input, doubling_adds, squares_of_a_shape, squares_of_a_sum, squares_of_a_wide_sum,
    products_of_sums, extremes, sums_of_extremes, differences_of_extremes, halves_of_sums, strided_convolutions,
    flattened_outer_products, concats_of_open_axes, a_product_of_open_axes, loads_of_loads,
]  # fmt: skip
