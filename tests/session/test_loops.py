"""`Loop` and `Scan`: natively beside ONNX Runtime and the numpy reference, with any number of rounds."""

from __future__ import annotations

import re
import signal
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tests.session.support import Feed, check, normal

from mapsto.budget import metering
from mapsto.devices.cpu.workers import Workers
from mapsto.errors import ExecutionError, ParseError, ShapeError, UnsupportedError
from mapsto.importers.onnx import load
from mapsto.plan.plan import parse
from mapsto.runtime.program import Jump, Run
from mapsto.session.compile import build, prepared

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
    nodes: Sequence[Any], carried: Typed, handed: Typed, rows: Typed | None = None, goes_on: str = "c1", **around: Any
) -> Any:
    """A model of one loop over `x [N, 4]`, `n` rounds at most, as long as `go`: what is carried begins as `x`. (Where
    rows are collected N is 3: over no rounds ONNX Runtime takes an open extent of theirs for 0.)
    """
    rows = rows or {}
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


# ---- sizes that change -----------------------------------------------------------------------------------------------

ROW: tuple[int, Sequence[int | str]] = (FLOAT, [1, 4])


def of_rows(nodes: Sequence[Any], carried: Typed, handed: Typed, rows: Typed | None = None, starts: str = "x t") -> Any:
    """A loop over `x [N, 4]` and `t [1, 4]`, whose first state may have any number of rows."""
    rows = rows or {}
    inner = body([ON, *nodes], {**COUNTED, **carried}, {"c1": (BOOL, []), **handed, **rows})
    names = " ".join(f"y{i}" for i in range(len(handed) + len(rows)))
    kinds = [*handed.values(), *((kind, ["R", *shape]) for kind, shape in rows.values())]
    return model(
        [constant("axis", [0]), node("Loop", f"n _ {starts}", names, body=inner)],
        {"x": (FLOAT, ["N", 4]), "t": ROW, "n": (INT, [])}, dict(zip(names.split(), kinds, strict=True)),
    )  # fmt: skip


K: tuple[int, Sequence[int | str]] = (FLOAT, ["K", 4])
K1: tuple[int, Sequence[int | str]] = (FLOAT, ["K1", 4])
GROWING = {
    "a cache": of_rows(
        [node("Neg", "t", "u"), node("Concat", "k u", "k1", axis=0), node("ReduceMean", "k1 axis", "s", keepdims=1),
         node("Sin", "s", "t1")], {"k": K, "t": ROW}, {"k1": K1, "t1": ROW},
    ),
    "the newest row first": of_rows(
        [node("Sin", "t", "t1"), node("Concat", "t1 k", "k1", axis=0)], {"k": K, "t": ROW}, {"k1": K1, "t1": ROW},
    ),
    "twice as many each time": of_rows(
        [node("Sin", "k", "h"), node("Concat", "k h", "k1", axis=0)], {"k": K}, {"k1": K1}, starts="x"
    ),
    "two of one size": of_rows(
        [node("Concat", "k t", "k1", axis=0), node("Mul", "k1 k1", "q"), node("Sin", "t", "t1"),
         node("Concat", "v t1", "v1", axis=0), node("Add", "v1 q", "r"), node("ReduceSum", "r axis", "s", keepdims=0)],
        {"k": K, "v": K, "t": ROW}, {"k1": K1, "v1": K1, "t1": ROW}, {"s": (FLOAT, [4])}, starts="x x t",
    ),
    "two that change places": of_rows(
        [node("Concat", "v t", "k1", axis=0), node("Identity", "k", "v1"), node("Sin", "t", "t1")],
        {"k": K, "v": K, "t": ROW}, {"k1": K1, "v1": K1, "t1": ROW}, starts="x x t",
    ),
    "its size": of_rows(
        [node("Concat", "k t", "k1", axis=0), node("Shape", "k", "s"), node("Sin", "t", "t1")],
        {"k": K, "t": ROW}, {"k1": K1, "t1": ROW}, {"s": (INT, [2])},
    ),
    "what data say": of_rows(
        [node("Concat", "k t", "a", axis=0), node("ReduceSum", "a one", "b", keepdims=0),
         constant("zero", 0, np.float32), node("Greater", "b zero", "g"), node("Compress", "a g", "k1", axis=0),
         node("Sin", "t", "t1")],
        {"k": K, "t": ROW}, {"k1": K1, "t1": ROW},
    ),
}  # fmt: skip
GROWING["what data say"].graph.node.insert(0, constant("one", [1]))


@pytest.mark.parametrize("name", GROWING)
def test_a_state_that_changes_its_size(name: str, workers: Workers) -> None:
    given = [{"x": normal(rows, 4), "t": normal(1, 4, seed=1), "n": np.array(n)} for rows in (3, 0) for n in (0, 1, 6)]
    exe = check(workers, GROWING[name], *given)
    assert {"set"} <= {line.split()[1] for line in str(exe.program).splitlines()}


def test_rows_taken_away_until_there_are_none(workers: Workers) -> None:
    nodes = [
        ON, constant("one", [1]), constant("last", [1 << 40]), constant("axis", [0]),
        node("Slice", "k one last axis", "k1"), node("ReduceSum", "k axis", "s", keepdims=0),
    ]  # fmt: skip
    inner = body(nodes, {**COUNTED, "k": K}, {"c1": (BOOL, []), "k1": K1, "s": (FLOAT, [4])})
    made = model(
        [node("Shape", "x", "shape", start=0, end=1), node("Loop", "shape _ x", "y r", body=inner)],
        {"x": (FLOAT, ["N", 4])}, {"y": K, "r": (FLOAT, ["N", 4])},
    )  # fmt: skip
    check(workers, made, *({"x": normal(rows, 4)} for rows in (5, 1)))


# ---- loops that end when they like -----------------------------------------------------------------------------------


def until(limit: str = "_") -> Any:
    """sin(sin(..x)), and all the values on the way, as long as the number of the round is less than `stop`."""
    nodes = [
        constant("one", 1), node("Add", "i one", "j"), node("Less", "j stop", "c1"), node("Sin", "a", "a1"),
        node("Add", "a1 x", "r"), node("Mul", "i j", "q"),
    ]  # fmt: skip
    fixed: tuple[int, Sequence[int]] = (FLOAT, [3, 4])
    inner = body(nodes, {**COUNTED, "a": fixed}, {"c1": (BOOL, []), "a1": fixed, "r": fixed, "q": (INT, [])})
    inputs: Typed = {"x": fixed, "stop": (INT, []), "go": (BOOL, []), **({"n": (INT, [])} if limit == "n" else {})}
    before = [] if limit in "_n" else [constant("most", int(limit))]
    return model(
        [*before, node("Loop", f"{limit if limit in '_n' else 'most'} go x", "y r q", body=inner)],
        inputs, {"y": fixed, "r": (FLOAT, ["R", 3, 4]), "q": (INT, ["R"])},
    )  # fmt: skip


@pytest.mark.parametrize("limit", ["_", "n", "25", str((1 << 63) - 1)])
def test_rows_of_a_loop_that_ends_when_it_likes(limit: str, workers: Workers) -> None:
    given = [
        {"x": normal(3, 4), "stop": np.array(stop), "go": np.array(go)}
        for stop, go in [(0, False), (0, True), (1, True), (16, True), (17, True), (33, True), (150, True)]
    ]
    if limit == "n":
        given = [{**feed, "n": np.array(n)} for feed in given[::2] for n in (-1, 0, 1, 16, 40, 1 << 62)]
    check(workers, until(limit), *given)


def test_a_loop_without_end_is_refused_where_it_collects_rows() -> None:
    inner = body([ON, node("Sin", "a", "a1")], {**COUNTED, "a": ROW}, {"c1": (BOOL, []), "a1": ROW, "a": ROW})
    with pytest.raises(UnsupportedError, match="node 'Loop_0' .*never ends: give it a trip count"):
        load(model([node("Loop", "_ _ x", "y r", body=inner)], {"x": ROW}, {"y": ROW, "r": ROW}))


def test_rows_of_different_sizes_are_refused() -> None:
    inner = body(
        [ON, node("Concat", "k k", "k1", axis=0), node("Identity", "k", "r")],
        {**COUNTED, "k": K}, {"c1": (BOOL, []), "k1": K1, "r": K},
    )  # fmt: skip
    with pytest.raises(UnsupportedError, match="node 'Loop_0' .*collects 0-th is .* all rows must have one size"):
        load(model([node("Loop", "n _ x", "y r", body=inner)], {"x": K, "n": (INT, [])}, {"y": K, "r": K}))


# ---- loops in loops, branches in loops, loops in branches ------------------------------------------------------------


def nested(inner_rows: bool) -> Any:
    """A triangle: round i of the outer loop has i rounds of the inner one, which reads the outer state."""
    fixed: tuple[int, Sequence[int]] = (FLOAT, [3, 4])
    deep = body(
        [node("Identity", "d", "d1"), node("Mul", "b a", "p"), node("Add", "p x", "b1"), node("Cos", "b1", "r")],
        {"j": (INT, []), "d": (BOOL, []), "b": fixed},
        {"d1": (BOOL, []), "b1": fixed, **({"r": fixed} if inner_rows else {})},
    )  # fmt: skip
    after = [constant("axis", [0]), node("ReduceSum", "rr axis", "w", keepdims=0)] if inner_rows else []
    outer = body(
        [ON, node("Sin", "a", "s"), node("Loop", "i c s", "bb rr" if inner_rows else "bb", body=deep), *after,
         node("Add", f"bb {'w' if inner_rows else 'a'}", "sum"), node("Tanh", "sum", "a1"),
         node("Identity", "bb", "q")],
        {**COUNTED, "a": fixed}, {"c1": (BOOL, []), "a1": fixed, "q": fixed},
    )  # fmt: skip
    return model(
        [node("Loop", "n _ x", "y z", body=outer)], {"x": fixed, "n": (INT, [])},
        {"y": fixed, "z": (FLOAT, ["R", 3, 4])},
    )  # fmt: skip


@pytest.mark.parametrize("inner_rows", [False, True])
def test_a_loop_in_a_loop(inner_rows: bool, workers: Workers) -> None:
    check(workers, nested(inner_rows), *({"x": normal(3, 4), "n": np.array(n)} for n in (0, 1, 2, 5)))


def test_a_cache_that_grows_in_a_loop_in_a_loop(workers: Workers) -> None:
    deep = body(
        [node("Identity", "d", "d1"), node("Concat", "b t", "b1", axis=0)],
        {"j": (INT, []), "d": (BOOL, []), "b": K}, {"d1": (BOOL, []), "b1": K1},
    )  # fmt: skip
    outer = body(
        [ON, node("Loop", "i c k", "k1", body=deep), constant("axis", [0]), node("ReduceMax", "k1 axis", "m")],
        {**COUNTED, "k": K}, {"c1": (BOOL, []), "k1": K1, "m": (FLOAT, [1, 4])},
    )  # fmt: skip
    made = model(
        [node("Loop", "n _ x", "y z", body=outer)], {"x": K, "t": ROW, "n": (INT, [])},
        {"y": K1, "z": (FLOAT, ["R", 1, 4])},
    )  # fmt: skip
    given = [{"x": normal(2, 4), "t": normal(1, 4, seed=1), "n": np.array(n)} for n in (1, 2, 5)]
    check(workers, made, *given)


def test_branches_in_a_loop(workers: Workers) -> None:
    then = helper.make_graph([node("Sin", "a", "p")], "t", [], ports({"p": X}))
    other = helper.make_graph([node("Identity", "a", "q")], "e", [], ports({"q": X}))
    nodes = [constant("two", 2), node("Mod", "i two", "m"), node("Cast", "m", "odd", to=BOOL)]
    branch = helper.make_node("If", ["odd"], ["v"], then_branch=then, else_branch=other)
    made = counted([*nodes, branch, node("Add", "v x", "a1")], {"a": X}, {"a1": X}, {"v": X})
    check(workers, made, *feeds(made))


def test_a_loop_in_a_branch(workers: Workers) -> None:
    nodes = [ON, node("Mul", "a h", "p"), node("Sin", "p", "a1")]
    inner = body(nodes, {**COUNTED, "a": X}, {"c1": (BOOL, []), "a1": X})
    then = helper.make_graph([node("Loop", "n go x", "p", body=inner)], "t", [], ports({"p": X}))
    other = helper.make_graph([node("Neg", "h", "q")], "e", [], ports({"q": X}))
    branch = helper.make_node("If", ["which"], ["v"], then_branch=then, else_branch=other)
    made = model(
        [node("Exp", "x", "h"), branch, node("Add", "v h", "y")],
        {"x": X, "n": (INT, []), "go": (BOOL, []), "which": (BOOL, [])}, {"y": X},
    )  # fmt: skip
    check(workers, made, *({**feed, "which": np.array(b)} for feed in feeds(made) for b in (True, False)))


# ---- updates in place ------------------------------------------------------------------------------------------------


def test_a_cache_of_fixed_room_is_updated_in_place(workers: Workers) -> None:
    """One row of a hundred is written in a round: no step of it goes over all."""
    nodes = [
        constant("one", [1]), node("Reshape", "i one", "at"), node("Unsqueeze", "at one", "where"),
        node("Sin", "t", "t1"), node("ScatterND", "k where t1", "k1"),
    ]  # fmt: skip
    room: tuple[int, Sequence[int]] = (FLOAT, [100, 4])
    inner = body([ON, *nodes], {**COUNTED, "k": room, "t": ROW}, {"c1": (BOOL, []), "k1": room, "t1": ROW})
    made = model(
        [node("Loop", "n _ x t", "y z", body=inner)], {"x": room, "t": ROW, "n": (INT, [])}, {"y": room, "z": ROW}
    )
    given = [{"x": normal(100, 4), "t": normal(1, 4, seed=1), "n": np.array(n)} for n in (0, 1, 100)]
    exe = check(workers, made, *given)
    jump = next(at for at, step in enumerate(exe.program.steps) if isinstance(step, Jump))
    rounds = [step for step in exe.program.steps[exe.program.steps[jump].target : jump] if isinstance(step, Run)]
    assert rounds and not any("copy" in step.label or "400" in str(step.extent) for step in rounds)
    with pytest.raises(ExecutionError, match="index 100 is outside of axis 0, which has 100 elements"):
        exe.run({**given[0], "n": np.array(101)})


# ---- Scan ------------------------------------------------------------------------------------------------------------


def scanning(opset: int = 18, **attributes: Any) -> Any:
    """Sums of the rows of two tensors, the second of which is read along axis 1; what it collects is [3, 2]."""
    row = (FLOAT, [2, 3])
    turned = node("Transpose", "v", "vt", perm=[1, 0])
    inner = helper.make_graph(
        [turned, node("Add", "s u", "p"), node("Add", "p vt", "s1"), node("Transpose", "s1", "q", perm=[1, 0])], "body",
        ports({"s": row, "u": row, "v": (FLOAT, [3, 2])}), ports({"s1": row, "q": (FLOAT, [3, 2])}),
    )  # fmt: skip
    scan = node("Scan", "z a b", "y r", body=inner, num_scan_inputs=2, **attributes)
    inputs: Typed = {"z": row, "a": (FLOAT, ["T", 2, 3]), "b": (FLOAT, [3, "T", 2])}
    return model([scan], inputs, {"y": row, "r": (FLOAT, None)}, opset)  # type: ignore[dict-item]


@pytest.mark.parametrize("opset", [9, 18])
@pytest.mark.parametrize("directions", [[0, 0], [1, 0], [1, 1]])
@pytest.mark.parametrize("out", [(0, 0), (1, 0), (-1, 1)])
def test_a_scan(opset: int, directions: list[int], out: tuple[int, int], workers: Workers) -> None:
    axis, backwards = out
    made = scanning(
        opset, scan_input_axes=[0, -2 if opset > 9 else 1], scan_input_directions=directions,
        scan_output_axes=[axis if opset > 9 else axis % 3], scan_output_directions=[backwards],
    )  # fmt: skip
    given = [{"z": normal(2, 3), "a": normal(t, 2, 3, seed=1), "b": normal(3, t, 2, seed=2)} for t in (1, 7)]
    check(workers, made, *given)


def test_a_scan_over_no_rows(workers: Workers) -> None:
    """(ONNX Runtime takes unknown extents of what is collected for 0.)"""
    made = scanning(scan_input_axes=[0, 1])
    given = {"z": normal(2, 3), "a": normal(0, 2, 3), "b": normal(3, 0, 2)}
    exe = check(workers, made, given, onnxruntime=False)
    assert exe.run(given)["r"].shape == (0, 3, 2)


def test_scanned_tensors_of_different_lengths(workers: Workers) -> None:
    exe = check(workers, scanning(scan_input_axes=[0, 1]))
    with pytest.raises((ShapeError, ExecutionError)):
        exe.run({"z": normal(2, 3), "a": normal(2, 2, 3), "b": normal(3, 3, 2)})


@pytest.mark.parametrize("lengths", [False, True])
@pytest.mark.parametrize("backwards", [0, 1])
def test_the_scan_of_batches_that_opset_8_has(lengths: bool, backwards: int, workers: Workers) -> None:
    inner = helper.make_graph(
        [node("Add", "s u", "s1"), node("Sin", "s1", "q")], "body",
        ports({"s": (FLOAT, [3]), "u": (FLOAT, [3])}), ports({"s1": (FLOAT, [3]), "q": (FLOAT, [3])}),
    )  # fmt: skip
    scan = node(
        "Scan", f"{'l' if lengths else '_'} z a", "y r", body=inner, num_scan_inputs=1, directions=[backwards]
    )
    inputs: Typed = {"z": (FLOAT, ["B", 3]), "a": (FLOAT, ["B", "T", 3]), **({"l": (INT, ["B"])} if lengths else {})}
    made = model([scan], inputs, {"y": (FLOAT, ["B", 3]), "r": (FLOAT, ["B", "T", 3])}, 8)
    given = {"z": normal(4, 3), "a": normal(4, 5, 3, seed=1), **({"l": np.array([5, 1, 3, 2])} if lengths else {})}
    # read backwards, a sample of few rows begins at its last one in ONNX Runtime; the standard says nothing of that
    check(workers, made, given, onnxruntime=not (lengths and backwards))


# ---- loops of a known number of rounds -------------------------------------------------------------------------------


def known(rounds: int, nodes: int) -> Any:
    chain = [node("Sin" if at % 2 else "Cos", f"v{at}", f"v{at + 1}") for at in range(nodes)]
    inner = body(
        [ON, node("Identity", "a", "v0"), *chain, node("Identity", f"v{nodes}", "a1")],
        {**COUNTED, "a": ROW}, {"c1": (BOOL, []), "a1": ROW, f"v{nodes}": ROW},
    )  # fmt: skip
    return model(
        [constant("n", rounds), node("Loop", "n _ x", "y r", body=inner)], {"x": ROW}, {"y": ROW, "r": (FLOAT, None)}
    )  # type: ignore[dict-item]


@pytest.mark.parametrize(
    "rounds,nodes,written_out", [(0, 3, True), (1, 3, True), (3, 3, True), (3, 40, False), (500, 3, False)]
)
def test_a_known_number_of_rounds(rounds: int, nodes: int, written_out: bool, workers: Workers) -> None:
    made = known(rounds, nodes)
    assert all(each.op != "loop" for each in load(made).nodes) == written_out
    check(workers, made, {"x": normal(1, 4)}, onnxruntime=rounds > 0)


def test_loops_in_loops_are_not_built_again_and_again() -> None:
    """Each level's cache grows: the body is built twice at each level, not 2^12 times."""
    inner = None
    for at in range(12):
        deeper = [node("Loop", f"i{at} c{at} k{at}", f"d{at}", body=inner)] if inner is not None else []
        joined = node("Concat", f"{f'd{at}' if deeper else f'k{at}'} k{at}", f"r{at}", axis=0)
        inner = body(
            [node("Identity", f"c{at}", f"g{at}"), *deeper, joined],
            {f"i{at}": (INT, []), f"c{at}": (BOOL, []), f"k{at}": K}, {f"g{at}": (BOOL, []), f"r{at}": K1},
        )  # fmt: skip
    made = model([node("Loop", "n _ x", "y", body=inner)], {"x": K, "n": (INT, [])}, {"y": K1})
    with metering({"steps": 2000}):
        assert "loop" in {each.op for each in load(made).nodes}


# ---- what never ends -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2])
def test_an_endless_loop_is_compiled_and_can_be_interrupted(threads: int, workers: Workers) -> None:
    inner = body([ON, node("Sin", "a", "a1")], {**COUNTED, "a": ROW}, {"c1": (BOOL, []), "a1": ROW})
    made = model([node("Loop", "_ _ x", "y", body=inner)], {"x": ROW}, {"y": ROW})
    exe = build(prepared(made, None), workers, threads, None)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, stop)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(KeyboardInterrupt):
            exe.run({"x": normal(1, 4)})
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# ---- plans and files -------------------------------------------------------------------------------------------------


REPLAYED = [CASES["values that change places"], GROWING["two of one size"], until(), nested(True)]


@pytest.mark.parametrize("made", REPLAYED, ids=["fixed", "growing", "pieces", "nested"])
def test_a_plan_of_loops_is_replayed(made: Any, workers: Workers) -> None:
    graph = prepared(made, None)
    first = build(graph, workers, 1, None)
    again = build(graph, workers, 1, None, parse(first.plan_text))
    assert again.plan_text == first.plan_text and again.program == first.program and again.objects == first.objects


@pytest.mark.parametrize(
    "change,said",
    [
        ((r"home and : .*\n(  .*\n)*", ""), "nothing writes its condition|writes nothing that is in memory"),
        ((r"work (g\d+) rows = copy\(sin, sin.copy1\)\n(  .*\n)*", ""), "hands 'sin' on to"),
        ((r"arm 2 of g\d+\n", ""), "has 1 nested graphs"),
        ((r"home sin.copy1 : (.*) in \w+ ", r"home sin.copy1 : \1 in sin.copy1 "), "hands 'sin' on to"),
        ((r"home y0 : (.*) in \w+ ", r"home y0 : \1 in x "), "home y0: nothing puts it into"),
        ((r"home lt : .*\n(  .*\n)*", ""), "nothing says whether to go on|writes nothing that is in memory"),
    ],
)
def test_a_plan_without_what_a_loop_needs(change: tuple[str, str], said: str, workers: Workers) -> None:
    graph = prepared(CASES["read after it was updated"], None)
    text = build(graph, workers, 1, None).plan_text
    changed = re.sub(*change, text)
    assert changed != text
    with pytest.raises(ParseError, match=said):
        build(graph, workers, 1, None, parse(changed))
