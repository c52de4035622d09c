"""Sequences and optional values against ONNX Runtime: read and changed at known places, at places of a run, grown by
loops. (onnx.reference takes an insertion after the last element for one before the first.)
"""

from __future__ import annotations

import numpy as np
import onnx.parser
import onnxruntime as ort
import pytest

import mapsto
from mapsto.errors import ExecutionError, ModelError, UnsupportedError

X = np.arange(24, dtype=np.float32).reshape(2, 3, 4)


def model(body: str, inputs: str, outputs: str, opset: int = 17, head: str = "") -> onnx.ModelProto:
    text = f'<ir_version: 8, opset_import: ["" : {opset}]>\ngraph ({inputs}) => ({outputs}) {head} {{\n{body}\n}}'
    return onnx.parser.parse_model(text)


def assert_as_another(given: onnx.ModelProto, *feeds: dict[str, np.ndarray]) -> None:
    executable = mapsto.compile(given)
    another = ort.InferenceSession(given.SerializeToString(), providers=["CPUExecutionProvider"])
    for feed in feeds:
        for ours, theirs in zip(executable.run(feed).values(), another.run(None, feed), strict=True):
            assert ours.dtype == np.asarray(theirs).dtype
            np.testing.assert_array_equal(ours, theirs)


def position(at: int) -> dict[str, np.ndarray]:
    return {"at": np.array(at, np.int64)}


SHAPES = {
    "equal": ("[2,3]", "[2,3]", "[2,3]"),
    "different": ("[2,3]", "[1,3]", "[4,3]"),
    "open": ("[n,3]", "[m,3]", "[k,3]"),
    "partly open": ("[m,3]", "[1,3]", "[m,3]"),
}


def three(shapes: tuple[str, ...]) -> tuple[str, dict[str, np.ndarray]]:
    """Inputs a, b, c as text, and arrays for them."""
    text = ", ".join(f"float{s} {name}" for s, name in zip(shapes, "abc", strict=True))
    extents = [int(s[1]) if s[1].isdigit() else {"n": 1, "m": 2, "k": 3}[s[1]] for s in shapes]
    return text, {
        name: np.full((e, 3), k + 1, np.float32) for k, (e, name) in enumerate(zip(extents, "abc", strict=True))
    }


@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
def test_a_run_says_which_element_is_read(shapes: tuple[str, ...]) -> None:
    text, arrays = three(shapes)
    given = model("s = SequenceConstruct(a, b, c)\ny = SequenceAt(s, at)", f"{text}, int64 at", "float[r,3] y")
    assert_as_another(given, *(arrays | position(k) for k in range(-3, 3)))


@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("known", [True, False], ids=["known", "of a run"])
def test_inserting_and_erasing(shapes: tuple[str, ...], known: bool) -> None:
    text, arrays = three(shapes)
    body = """
        first = SequenceConstruct(a, b)
        more = SequenceInsert(first, c, at)
        y0 = ConcatFromSequence<axis = 0>(more)
        less = SequenceErase(more, at)
        y1 = ConcatFromSequence<axis = 0>(less)
        n = SequenceLength(less)
    """
    outputs = "float[r,3] y0, float[q,3] y1, int64 n"
    for k in range(-2, 3):
        if known:
            given = model(f"at = Constant<value_int = {k}>()\n{body}", text, outputs)
            assert_as_another(given, arrays)
        else:
            assert_as_another(model(body, f"{text}, int64 at", outputs), arrays | position(k))


@pytest.mark.parametrize("shapes", SHAPES.values(), ids=SHAPES)
def test_without_a_position_the_end_is_meant(shapes: tuple[str, ...]) -> None:
    text, arrays = three(shapes)
    body = """
        none = SequenceEmpty<dtype = 1>()
        one = SequenceInsert(none, a)
        two = SequenceInsert(one, b)
        three = SequenceInsert(two, c)
        less = SequenceErase(three)
        y = ConcatFromSequence<axis = -2>(less)
    """
    assert_as_another(model(body, text, "float[r,3] y"), arrays)


@pytest.mark.parametrize("op", ["SequenceAt", "SequenceErase"])
@pytest.mark.parametrize("at", [-4, 3, 2**40])
def test_a_position_that_does_not_exist_is_an_error(op: str, at: int) -> None:
    text, arrays = three(SHAPES["equal"])
    rest = "y = Identity(t)" if op == "SequenceAt" else "y = ConcatFromSequence<axis = 0>(t)"
    given = model(f"s = SequenceConstruct(a, b, c)\nt = {op}(s, at)\n{rest}", f"{text}, int64 at", "float[r,3] y")
    with pytest.raises(ExecutionError, match="position"):
        mapsto.compile(given).run(arrays | position(at))
    made = f"at = Constant<value_int = {at}>()\ns = SequenceConstruct(a, b, c)\nt = {op}(s, at)\n{rest}"
    known = model(made, text, "float[r,3] y")
    with pytest.raises(ModelError, match="position"):
        mapsto.compile(known)


@pytest.mark.parametrize("at", [-3, 3])
def test_inserting_beyond_the_end_is_an_error(at: int) -> None:
    text, arrays = three(SHAPES["equal"])
    body = "s = SequenceConstruct(a, b)\nt = SequenceInsert(s, c, at)\ny = ConcatFromSequence<axis = 0>(t)"
    with pytest.raises(ExecutionError, match="position"):
        mapsto.compile(model(body, f"{text}, int64 at", "float[r,3] y")).run(arrays | position(at))


# -- splits ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("shape", ["[2,3,4]", "[n,m,k]"])
def test_a_split_into_single_ones(shape: str, axis: int, keepdims: int) -> None:
    body = f"""
        s = SplitToSequence<axis = {axis}, keepdims = {keepdims}>(x)
        n = SequenceLength(s)
        y = SequenceAt(s, at)
        z = ConcatFromSequence<axis = {axis}, new_axis = {1 - keepdims}>(s)
    """
    given = model(body, f"float{shape} x, int64 at", "int64 n, float y, float z")
    assert_as_another(given, {"x": X} | position(-1), {"x": X} | position(1))


@pytest.mark.parametrize("part", ["Constant<value_int = 2>()", "Constant<value_ints = [1, 0, 3]>()"])
def test_a_split_into_parts(part: str) -> None:
    body = f"""
        parts = {part}
        s = SplitToSequence<axis = 2>(x, parts)
        n = SequenceLength(s)
        y = SequenceAt(s, at)
        z = ConcatFromSequence<axis = 2>(s)
    """
    given = model(body, "float[2,3,4] x, int64 at", "int64 n, float y, float z")
    assert_as_another(given, {"x": X} | position(0), {"x": X} | position(1))


def test_a_split_whose_extents_a_run_gives() -> None:
    given = model(
        "s = SplitToSequence<axis = 2>(x, parts)\ny = SequenceAt(s, at)",
        "float[2,3,4] x, int64[2] parts, int64 at",
        "float y",
    )
    feeds = [{"x": X, "parts": np.array(p)} | position(1) for p in ([1, 3], [4, 0])]
    assert_as_another(given, *feeds)
    with pytest.raises(ExecutionError, match="do not make up axis 2"):
        mapsto.compile(given).run({"x": X, "parts": np.array([1, 2])} | position(1))


def some_models() -> dict[str, onnx.ModelProto]:
    """One of each kind, for whoever wants to change them."""
    body = """
        first = SequenceConstruct(a, b)
        more = SequenceInsert(first, c, at)
        less = SequenceErase(more, at)
        one = SequenceAt(less, at)
        y = ConcatFromSequence<axis = 0>(less)
    """
    split = "s = SplitToSequence<axis = 0, keepdims = 0>(x)\nn = SequenceLength(s)\ny = SequenceAt(s, at)"
    grows = GROWS.format(new=1, start="none", first="")
    return {
        **{f"{kind} shapes": model(body, f"{three(shapes)[0]}, int64 at", "float[r,3] y, float[p,3] one")
           for kind, shapes in SHAPES.items()},
        "split": model(split, "float[n,m] x, int64 at", "int64 n, float y"),
        "growing": model(grows, "float[2] x, int64 count", "int64 n, float y, float[2] t"),
        "read in a loop": model(READS, "float[5,4] x", "float[5,4] y"),
    }  # fmt: skip


# -- loops -------------------------------------------------------------------------------------------------------------

GROWS = """
    none = SequenceEmpty<dtype = 1>()
    go = Constant<value_int = 1>()
    yes = Cast<to = 9>(go)
    {first}
    s, t = Loop(count, yes, {start}, x) <body = body (int64 i, bool c, seq(float[2]) seq, float[2] state)
        => (bool again, seq(float[2]) more, float[2] following) {{
        again = Identity(c)
        following = Add(state, state)
        more = SequenceInsert(seq, following)
    }}>
    n = SequenceLength(s)
    y = ConcatFromSequence<axis = 0, new_axis = {new}>(s)
"""


@pytest.mark.parametrize("new", [0, 1])
@pytest.mark.parametrize("start", ["none", "one"])
def test_a_loop_grows_a_sequence(start: str, new: int) -> None:
    first = "one = SequenceInsert(none, x)" if start == "one" else ""
    body = GROWS.format(new=new, start=start, first=first)
    given = model(body, "float[2] x, int64 count", "int64 n, float y, float[2] t")
    x = np.array([1, -2], np.float32)
    assert_as_another(given, *({"x": x, "count": np.array(k, np.int64)} for k in (1, 2, 7, 40)))
    known = GROWS.format(new=new, start=start, first=f"{first}\ncount = Constant<value_int = 5>()")
    assert_as_another(model(known, "float[2] x", "int64 n, float y, float[2] t"), {"x": x})


READS = """
    s = SplitToSequence<axis = 0, keepdims = 0>(x)
    count = Constant<value_int = 3>()
    go = Constant<value_int = 1>()
    yes = Cast<to = 9>(go)
    r = Loop(count, yes, s) <body = body (int64 i, bool c, seq(float[4]) seq) => (bool again, seq(float[4]) more) {
        again = Identity(c)
        one = SequenceAt(seq, i)
        twice = Add(one, one)
        less = SequenceErase(seq, i)
        more = SequenceInsert(less, twice, i)
    }>
    y = ConcatFromSequence<axis = 0, new_axis = 1>(r)
"""


def test_a_loop_of_a_known_number_of_rounds_reads_and_changes_a_sequence() -> None:
    assert_as_another(
        model(READS, "float[5,4] x", "float[5,4] y"), {"x": np.arange(20, dtype=np.float32).reshape(5, 4)}
    )


def test_other_loops_may_not_read_it() -> None:
    body = READS.replace("count = Constant<value_int = 3>()", "")
    with pytest.raises(UnsupportedError, match="may only add elements"):
        mapsto.compile(model(body, "float[5,4] x, int64 count", "float[5,4] y"))


def test_a_map_over_a_sequence() -> None:
    body = """
        s = SequenceConstruct(a, b, c)
        r = SequenceMap(s) <body = body (float[n,3] e) => (float[n,3] f) { f = Mul(e, e) }>
        y = ConcatFromSequence<axis = 0>(r)
    """
    text, arrays = three(SHAPES["different"])
    assert_as_another(model(body, text, "float[r,3] y"), arrays)


# -- optional values ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("opset", [15, 18])
def test_optional_values(opset: int) -> None:
    body = """
        o = Optional(x)
        has = OptionalHasElement(o)
        y = OptionalGetElement(o)
    """
    assert_as_another(model(body, "float[2] x", "bool has, float[2] y", opset), {"x": np.ones(2, np.float32)})


def test_an_empty_optional_value() -> None:
    made = onnx.helper.make_node(
        "Optional", [], ["o"], type=onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, [2])
    )
    asked = onnx.helper.make_node("OptionalHasElement", ["o"], ["has"])
    graph = onnx.helper.make_graph(
        [made, asked], "g", [], [onnx.helper.make_tensor_value_info("has", onnx.TensorProto.BOOL, [])]
    )
    given = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8)
    assert not mapsto.compile(given).run({})["has"]


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_a_sequence_is_no_output() -> None:
    given = model("y = SequenceConstruct(a, b, c)", three(SHAPES["equal"])[0], "seq(float[2,3]) y")
    with pytest.raises(UnsupportedError, match="output 'y' is a sequence of 3 tensors of f32"):
        mapsto.compile(given)


def test_a_sequence_is_no_tensor_and_a_tensor_no_sequence() -> None:
    text, _ = three(SHAPES["equal"])
    with pytest.raises(ModelError, match=r"seq\(f32\)"):
        mapsto.compile(model("s = SequenceConstruct(a, b, c)\ny = Relu(s)", text, "float[2,3] y"))
    with pytest.raises(ModelError, match="input 0"):
        mapsto.compile(model("y = SequenceLength(a)", text, "int64 y"))
