"""`Loop` and `Scan`: natively beside ONNX Runtime and the numpy reference, with any number of rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tests.session.support import Feed, check, normal

from mapsto.devices.cpu.workers import Workers

FLOAT, INT, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL
Typed = Mapping[str, tuple[int, Sequence[int | str]]]


def ports(typed: Typed) -> list[Any]:
    return [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in typed.items()]


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> Any:
    """Names apart by blanks; `_` stands for an input that is left out."""
    read = ["" if name == "_" else name for name in inputs.split()]
    return helper.make_node(op, read, outputs.split(), **attributes)


def constant(name: str, array: Any, dtype: Any = np.int64) -> Any:
    return helper.make_node("Constant", [], [name], value=onnx.numpy_helper.from_array(np.asarray(array, dtype)))


def body(nodes: Sequence[Any], inputs: Typed, outputs: Typed) -> Any:
    return helper.make_graph(list(nodes), "body", ports(inputs), ports(outputs))


def model(nodes: Sequence[Any], inputs: Typed, outputs: Typed, opset: int = 18) -> Any:
    graph = helper.make_graph(list(nodes), "test", ports(inputs), ports(outputs))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def _fixed(typed: Typed) -> Typed:
    return {name: (kind, [3 if d == "N" else d for d in shape]) for name, (kind, shape) in typed.items()}


COUNTED: Typed = {"i": (INT, []), "c": (BOOL, [])}
ON = node("Identity", "c", "c1")  # goes on, whatever comes


def counted(
    nodes: Sequence[Any], carried: Typed, handed: Typed, rows: Typed = {}, goes_on: str = "c1", **around: Any
) -> Any:
    """A model of one loop over `x [N, 4]`, `n` rounds at most, as long as `go`: what is carried begins as `x`. (Where rows
    are collected N is 3: over no rounds ONNX Runtime takes an open extent of theirs for 0.)
    """
    if rows:
        carried, handed, rows = map(_fixed, (carried, handed, rows))
    inner = body([*([ON] if goes_on == "c1" else []), *nodes], {**COUNTED, **carried},
                 {goes_on: (BOOL, []), **handed, **rows})  # fmt: skip
    starts = " ".join("x" for _ in carried)
    names = " ".join(f"y{i}" for i in range(len(handed) + len(rows)))
    loop = node("Loop", f"n go {starts}", names, body=inner)
    outputs: Typed = {
        name: (kind, (shape if at < len(handed) else ["rows", *shape]))
        for at, (name, (kind, shape)) in enumerate(zip(names.split(), [*handed.values(), *rows.values()], strict=True))
    }
    return model(
        [*around.get("before", ()), loop],
        {"x": (FLOAT, [3 if rows else "N", 4]), "n": (INT, []), "go": (BOOL, []), **around.get("inputs", {})},
        outputs,
    )


def feeds(model: Any, rounds: Sequence[int] = (0, 1, 5, -2), **others: np.ndarray) -> list[Feed]:
    """Some rounds, none for either reason, and tensors without elements where the extent is open."""
    found = [(3, n, True) for n in rounds] + [(3, 3, False)]
    if model.graph.input[0].type.tensor_type.shape.dim[0].dim_param:
        found.append((0, 2, True))
    return [{"x": normal(rows, 4), "n": np.array(n), "go": np.array(go), **others} for rows, n, go in found]


X: tuple[int, Sequence[int | str]] = (FLOAT, ["N", 4])

CASES = {
    "one value": counted([node("Tanh", "a", "a1")], {"a": X}, {"a1": X}),
    "the number of the round": counted(
        [node("Cast", "i", "f", to=FLOAT), node("Add", "a f", "a1")], {"a": X}, {"a1": X}
    ),
    "a value of the graph around": counted([node("Mul", "a x", "p"), node("Sub", "p h", "a1")], {"a": X}, {"a1": X},
                                           before=[node("Exp", "x", "h")]),
    "rows": counted([node("Tanh", "a", "a1"), node("Neg", "a1", "r")], {"a": X}, {"a1": X}, {"r": X}),
    "rows that are the state before": counted(
        [node("Tanh", "a", "a1"), node("Identity", "a", "r")], {"a": X}, {"a1": X}, {"r": X}
    ),
    "rows that are handed on as well": counted(
        [node("Tanh", "a", "a1"), node("Identity", "a1", "r")], {"a": X}, {"a1": X}, {"r": X}
    ),
    "rows of scalars": counted(
        [node("Tanh", "a", "a1"), node("Mul", "i i", "r")], {"a": X}, {"a1": X}, {"r": (INT, [])}
    ),
    "rows alone": counted([node("Mul", "i i", "r")], {}, {}, {"r": (INT, [])}),
    "values that change places": counted(
        [node("Identity", "b", "a1"), node("Tanh", "a", "b1")], {"a": X, "b": X}, {"a1": X, "b1": X}
    ),
    "three values in a circle": counted(
        [node("Identity", "b", "a1"), node("Identity", "d", "b1"), node("Sin", "a", "d1")],
        {"a": X, "b": X, "d": X}, {"a1": X, "b1": X, "d1": X},
    ),
    "a value that passes through": counted(
        [node("Identity", "a", "a1"), node("Mul", "b a", "b1")], {"a": X, "b": X}, {"a1": X, "b1": X}
    ),
    "a body without nodes": model(
        [node("Loop", "n go x", "y", body=body([], {**COUNTED, "a": X}, {"c": (BOOL, []), "a": X}))],
        {"x": X, "n": (INT, []), "go": (BOOL, [])}, {"y": X},
    ),
    "the same value handed on twice": counted(
        [node("Sin", "a", "s"), node("Identity", "s", "a1"), node("Identity", "s", "b1"), node("Mul", "s b", "r")],
        {"a": X, "b": X}, {"a1": X, "b1": X}, {"r": X},
    ),
    "what is handed on comes from outside": counted(
        [node("Identity", "h", "a1"), node("Add", "b a", "b1")], {"a": X, "b": X}, {"a1": X, "b1": X},
        before=[node("Exp", "x", "h")],
    ),
    "a constant is handed on": counted(
        [constant("k", [[1.5, 2, 3, 4]], np.float32), node("Shape", "a", "s"), node("Expand", "k s", "a1"),
         node("Add", "b a", "b1")], {"a": X, "b": X}, {"a1": X, "b1": X},
    ),
    "read after it was updated": counted(
        [node("Sin", "a", "a1"), node("Softmax", "a", "p", axis=1), node("Add", "p a1", "b1")],
        {"a": X, "b": X}, {"a1": X, "b1": X},
    ),
    "each row of it is made of all": counted(
        [node("ReduceSum", "a", "s", keepdims=1), node("Div", "a s", "q"), node("Cos", "q", "a1")], {"a": X}, {"a1": X}
    ),
    "a product with its transpose": counted(
        [node("Transpose", "a", "t", perm=[1, 0]), node("MatMul", "a t", "p"), node("MatMul", "p a", "q"),
         node("Tanh", "q", "a1")], {"a": X}, {"a1": X}
    ),
    "turned round as it is": counted(
        [constant("s", [0]), constant("e", [-(1 << 62)]), constant("m", [-1]), constant("d", [1]),
         node("Slice", "a m e d m", "a1")], {"a": X}, {"a1": X}
    ),
    "it ends by itself": counted(
        [node("Sin", "a", "a1"), constant("four", 4), node("Less", "i four", "less")], {"a": X}, {"a1": X},
        goes_on="less",
    ),
    "it ends by itself, with rows": counted(
        [node("Sin", "a", "a1"), constant("four", 4), node("Less", "i four", "less"), node("Neg", "a", "r")],
        {"a": X}, {"a1": X}, {"r": X}, goes_on="less",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_loop(name: str, workers: Workers) -> None:
    given = feeds(CASES[name], (0, 1, 2, 9)) if "itself" in name else feeds(CASES[name])
    check(workers, CASES[name], *given)
