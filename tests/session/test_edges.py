"""Graphs at the edges: nothing in them, nothing to do, extents of 0, every element type, names of any kind."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from tests.session.support import Feed, assert_same_bits, check, normal, parse

import mapsto
from mapsto.devices.cpu.workers import Workers
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import sym
from mapsto.ops.builder import Builder

# -- outputs that nothing computes -------------------------------------------------------------------------------------

PLAIN_OUTPUTS = {
    "an input": "g (float[N] x) => (float[N] y) { y = Identity(x) }",
    "an input, twice": "g (float[N] x) => (float[N] y, float[N] z) { y = Identity(x) z = Identity(y) }",
    "a constant": "g (float[N] x) => (float[2] y) { y = Constant<value = float[2] {1.0, 2.0}>() }",
    "a constant, twice": """g (float[N] x) => (float[2] y, float[2] z) {
        y = Constant<value = float[2] {1.0, 2.0}>()
        z = Identity(y)
    }""",
    "a constant that is read": """g (float[2] x) => (float[2] y, float[2] z) {
        y = Constant<value = float[2] {1.0, 2.0}>()
        z = Add(x, y)
    }""",
    "a folded constant": """g (float[N] x) => (float[2] y) {
        c = Constant<value = float[2] {1.0, 2.0}>()
        y = Exp(c)
    }""",
    "a value and what is made of it": "g (float[N] x) => (float[N] y, float[N] z) { y = Exp(x) z = Neg(y) }",
    "views of an input": """g (float[2, 3] x) => (float[3, 2] y, float[6] z, float[2, 3] w) {
        y = Transpose(x)
        s = Constant<value_ints = [-1]>()
        z = Reshape(x, s)
        w = Exp(x)
    }""",
    "a view of another output": "g (float[2, 3] x) => (float[2, 3] y, float[3, 2] z) { y = Exp(x) z = Transpose(y) }",
    "parts of another output": """g (float[2, 3] x) => (float[2, 3] y, float[4, 3] z) {
        y = Exp(x)
        w = Neg(x)
        z = Concat<axis = 0>(y, w)
    }""",
    "an input that nothing reads": "g (float[2, 3] x, float[M] u) => (float[2, 3] y) { y = Exp(x) }",
    "the size of an input": "g (float[2, 3] x, float[M, K] u) => (int64[2] y) { y = Shape(u) }",
}


@pytest.mark.parametrize("name", PLAIN_OUTPUTS)
def test_outputs(name: str, workers: Workers) -> None:
    model = parse(PLAIN_OUTPUTS[name])
    shapes = {i.name: [d.dim_value for d in i.type.tensor_type.shape.dim] for i in model.graph.input}
    feed = {n: normal(*(d or 4 for d in shape)) for n, shape in shapes.items()}
    exe = check(workers, model, feed)
    first = exe.run(feed)
    for given in feed.values():
        assert not any(np.shares_memory(given, array) for array in first.values())
    again = exe.run(feed)
    assert not any(np.shares_memory(first[n], again[n]) for n in first), "outputs of two runs share memory"


def test_a_graph_without_nodes(workers: Workers) -> None:
    b = Builder("empty")
    x = b.input("x", DType.F32, (sym("n"), 2))
    exe = mapsto.compile(b.finish([x]))
    for rows in (3, 0):
        given = normal(rows, 2)
        assert_same_bits(exe.run({"x": given}), {"x": given})


def test_a_graph_without_inputs(workers: Workers) -> None:
    model = parse("g () => (float[2] y) { y = Constant<value = float[2] {1.0, 2.0}>() }")
    exe = check(workers, model, {})
    np.testing.assert_array_equal(exe(), [1, 2])


def test_a_graph_without_outputs() -> None:
    b = Builder("sink")
    b.one("exp", [b.input("x", DType.F32, (2,))])
    exe = mapsto.compile(b.finish([]))
    assert exe.run({"x": np.ones(2, np.float32)}) == {} and exe(np.ones(2, np.float32)) == ()


def test_scalars(workers: Workers) -> None:
    model = parse("""g (float x, float[N] v, int64 i) => (float y, float[N] z, int64 j, float r) {
        y = Exp(x)
        z = Mul(y, v)
        j = Add(i, i)
        r = ReduceSum<keepdims = 0>(z)
    }""")
    for n in (4, 0):
        check(workers, model, {"x": np.array(0.5, np.float32), "v": normal(n), "i": np.array(-7)})
    given = {"x": 0.5, "v": [1.0, 2.0], "i": 3}
    found = mapsto.compile(model).run(given)
    assert found["y"].shape == () and found["j"] == 6


# -- extents of 0 ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [0, 1, 5])
def test_products_reductions_and_softmax_of_no_rows(rows: int, workers: Workers) -> None:
    model = parse("""g (float[N, 4] x, float[4, 5] w) => (float[N, 5] y, float[5] s, float[N, 1] m, float[N, 5] p) {
        y = MatMul(x, w)
        a = Constant<value_ints = [0]>()
        s = ReduceSum<keepdims = 0>(y, a)
        b = Constant<value_ints = [1]>()
        m = ReduceMean<keepdims = 1>(x, b)
        p = Softmax(y)
    }""")
    check(workers, model, {"x": normal(rows, 4), "w": normal(4, 5, seed=1)})


@pytest.mark.parametrize(("rows", "inner"), [(3, 0), (0, 0), (0, 2), (3, 2)])
def test_a_product_over_nothing_is_zero(rows: int, inner: int, workers: Workers) -> None:
    model = parse("g (float[N, K] x, float[K, 5] w) => (float[N, 5] y) { y = MatMul(x, w) }")
    feed = {"x": normal(rows, inner), "w": normal(inner, 5)}
    check(workers, model, feed)
    check(workers, model, feed, shapes={n: a.shape for n, a in feed.items()})


def test_a_product_with_constant_weights_of_no_rows(workers: Workers) -> None:
    model = parse("g (float[3, K] x) => (float[3, 4] y) { w = Constant<value = float[0, 4] {}>() y = MatMul(x, w) }")
    exe = check(workers, model, {"x": normal(3, 0)}, shapes={"x": (3, 0)})
    np.testing.assert_array_equal(exe(normal(3, 0)), np.zeros((3, 4)))


@pytest.mark.parametrize("batch", [0, 2])
def test_windows_over_no_images(batch: int, workers: Workers) -> None:
    model = parse("""g (float[N, 3, 6, 6] x, float[8, 3, 3, 3] w) => (float[N, 8, 3, 3] y, float[N, 8, 1, 1] m) {
        k = Conv<pads = [1, 1, 1, 1]>(x, w)
        y = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(k)
        m = GlobalAveragePool(y)
    }""")
    check(workers, model, {"x": normal(batch, 3, 6, 6), "w": normal(8, 3, 3, 3, seed=1)})


@pytest.mark.parametrize(("first", "second"), [(0, 3), (2, 0), (1, 0), (1, 2)])
def test_concats_and_slices_of_nothing(first: int, second: int, workers: Workers) -> None:
    model = parse("""g (float[N, 4] x, float[M, 4] z) => (float[K, 4] y, float[L, 4] s, float[4, K] t) {
        y = Concat<axis = 0>(x, z)
        one = Constant<value_ints = [1]>()
        end = Constant<value_ints = [9]>()
        zero = Constant<value_ints = [0]>()
        s = Slice(y, one, end, zero)
        t = Transpose(y)
    }""")
    check(workers, model, {"x": normal(first, 4), "z": normal(second, 4, seed=1)})


def test_a_slice_that_begins_behind_the_end_of_an_open_axis_is_empty(workers: Workers) -> None:
    """The standard clamps the start to the extent, which only a run knows."""
    model = parse("""g (float[N, 4] x) => (float[L, 4] s) {
        one = Constant<value_ints = [1]>()
        end = Constant<value_ints = [9]>()
        zero = Constant<value_ints = [0]>()
        s = Slice(x, one, end, zero)
    }""")
    exe = check(workers, model, {"x": normal(2, 4)}, {"x": normal(1, 4)})
    assert exe(normal(0, 4)).shape == (0, 4)


@pytest.mark.parametrize("columns", [0, 3])
def test_no_columns(columns: int, workers: Workers) -> None:
    model = parse("""g (float[N, 4, M] x) => (float[M, 4, N] y, float[4, M] r, float[N, 4, M] c, float[N, 4, M] e) {
        y = Transpose(x)
        a = Constant<value_ints = [0]>()
        r = ReduceMax<keepdims = 0>(x, a)
        one = Constant<value_int = 1>()
        c = CumSum(x, one)
        e = Erf(x)
    }""")
    check(workers, model, {"x": normal(3, 4, columns)})


def test_a_size_that_a_run_finds_to_be_0(workers: Workers) -> None:
    model = parse("""g (float[N] x) => (int64[1, K] at, float[K] y, float[K, K] z) {
        at = NonZero(x)
        s = Constant<value_ints = [-1]>()
        i = Reshape(at, s)
        y = Gather(x, i)
        one = Constant<value_ints = [1]>()
        zero = Constant<value_ints = [0]>()
        c = Unsqueeze(y, one)
        r = Unsqueeze(y, zero)
        z = MatMul(c, r)
    }""")
    check(
        workers, model, *({"x": x} for x in (np.maximum(normal(9), 0), np.zeros(9, np.float32), normal(0), normal(4)))
    )


# -- element types -----------------------------------------------------------------------------------------------------

TYPES: dict[str, Any] = {
    "double": np.float64, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16,
    "int8": np.int8, "int16": np.int16, "int32": np.int32, "int64": np.int64,
    "uint8": np.uint8, "uint16": np.uint16, "uint32": np.uint32, "uint64": np.uint64,
}  # fmt: skip


NARROW = ("int8", "int16", "uint8", "uint16")  # the standard has no MatMul and no ReduceSum of these


@pytest.mark.parametrize("name", TYPES)
def test_every_type_goes_the_whole_way(name: str, workers: Workers) -> None:
    sums = "" if name in NARROW else "y = MatMul(x, w) r = ReduceSum<keepdims = 0>(x, a)"
    made = "" if name in NARROW else f"{name}[N, 5] y, {name}[N] r, "
    model = parse(f"""g ({name}[N, 6] x, {name}[6, 5] w)
        => ({made}{name}[N, 6] m, {name}[6, N] t, bool[N, 6] q, {name}[5, 6] v) {{
        a = Constant<value_ints = [1]>()
        {sums}
        s = Mul(x, x)
        m = Max(s, x)
        t = Transpose(x)
        v = Transpose(w)
        q = Less(x, s)
    }}""")
    dtype = TYPES[name]
    feed = {"x": (normal(4, 6) * 10).astype(dtype), "w": np.arange(30).reshape(6, 5).astype(dtype)}
    check(workers, model, feed, onnxruntime=False)


def test_booleans(workers: Workers) -> None:
    model = parse("""g (bool[N] x, bool[N] z) => (bool[N] y, bool[N] n, int64[N] i, float[N] f, bool[N] e) {
        a = And(x, z)
        y = Xor(a, x)
        n = Not(x)
        i = Cast<to = 7>(x)
        f = Cast<to = 1>(y)
        e = Equal(x, z)
    }""")
    check(workers, model, {"x": np.array([1, 0, 1, 0], bool), "z": np.array([1, 1, 0, 0], bool)})


def test_conversions_truncate_and_saturate(workers: Workers) -> None:
    """Out of range, ONNX leaves the result open: ours is the nearest end, and 0 for NaN."""
    model = parse("""g (float[N] x) => (float16[N] a, int8[N] b, uint8[N] c, int64[N] d, bool[N] e, double[N] f) {
        a = Cast<to = 10>(x)
        b = Cast<to = 3>(x)
        c = Cast<to = 2>(x)
        d = Cast<to = 7>(x)
        e = Cast<to = 9>(x)
        f = Cast<to = 11>(x)
    }""")
    x = np.array([0, 1.5, -1.5, 100.7, -100.2, 0.1, 3, -0.0, np.nan, np.inf, -np.inf, 1e10], np.float32)
    exe = check(workers, model, {"x": x}, onnxruntime=False)
    found = exe.run({"x": x})
    assert found["b"].tolist() == [0, 1, -1, 100, -100, 0, 3, 0, 0, 127, -128, 127]
    assert found["c"].tolist() == [0, 1, 0, 100, 0, 0, 3, 0, 0, 255, 0, 255]


# -- names -------------------------------------------------------------------------------------------------------------

# Sizes called as code calls its own iterators, sizes, tensors and ranges.
SIZE_NAMES = ("n1", "y3", "i1", "i5", "i10", "k6", "k12", "c5", "s0", "t0", "begin", "end", "dims", "lane")


@pytest.mark.parametrize("name", SIZE_NAMES)
def test_a_size_may_be_called_anything(name: str, workers: Workers) -> None:
    model = parse(f"""g (float[1, 8, {name}, W] x, float[16, 8, 3, 3] w, float[16, 16, 3, 3] v)
        => (float[1, 16, A, B] y, float[1, 8, {name}, 1] z, float[1, 8, {name}, 2] p, int64[1, 8, {name}, 2] q) {{
        r = Conv<pads = [1, 0, 1, 1]>(x, w)
        y = Conv<pads = [1, 1, 0, 1], strides = [2, 1]>(r, v)
        e = Exp(x)
        a = Constant<value_ints = [3]>()
        z = ReduceSum(e, a)
        two = Constant<value_ints = [2]>()
        p, q = TopK(x, two)
    }}""")
    w, v = normal(16, 8, 3, 3, seed=1) * 0.1, normal(16, 16, 3, 3, seed=2) * 0.1
    check(workers, model, *({"x": normal(1, 8, h, 9 - h // 2), "w": w, "v": v} for h in (7, 4)))


# Values called as plans and code call theirs, and as no plain word can be.
VALUE_NAMES = (
    "acc",
    "",
    "x_1",
    "x_2",
    "w.packed.1",
    "r.copy1",
    "t0",
    "kernel",
    "a b",
    "a,b",
    "{",
    '"',
    "ü\n",
    "/r/Conv:0",
)


@pytest.mark.parametrize("name", [n for n in VALUE_NAMES if n])
def test_a_value_may_be_called_anything(name: str, workers: Workers) -> None:
    model = parse("""g (float[1, 16, H, W] x, float[1, 16, H, W] OTHER, float[16, 16, 3, 3] w)
        => (float[1, 16, H, W] y, float[1, 16, H, W] z) {
        r = Conv<pads = [1, 1, 1, 1]>(x, w)
        q = Add(r, OTHER)
        s = Relu(q)
        y = Conv<pads = [1, 1, 1, 1]>(s, w)
        z = Mul(s, OTHER)
    }""")
    renamed(model, "OTHER", name)
    feed: Feed = {"x": normal(1, 16, 5, 6), name: normal(1, 16, 5, 6, seed=1), "w": normal(16, 16, 3, 3, seed=2) * 0.1}
    exe = check(workers, model, feed)
    assert exe.plan.text()


def renamed(model: onnx.ModelProto, old: str, new: str) -> None:
    for entry in model.graph.input:
        entry.name = new if entry.name == old else entry.name
    for node in model.graph.node:
        node.input[:] = [new if name == old else name for name in node.input]


# -- numbers that overflow ---------------------------------------------------------------------------------------------


OVERFLOWS = {
    "a literal": 'g (float[1, 1, 4, 4] x) => (float[1, 1, 8, 8] y) <float[4] s = {1.0, 1.0, 2.0, 2.0}> { '
    'y = Resize<mode = "cubic", cubic_coeff_a = 3e38>(x, , s) }',
    "a folded constant": "g (float[2] x) => (float[2] y) <float[2] c = {3e38, 3e38}> { d = Mul(c, c) y = Add(x, d) }",
}


@pytest.mark.parametrize("name", OVERFLOWS)
@pytest.mark.filterwarnings("error")
def test_numbers_that_overflow_while_compiling_warn_of_nothing(name: str) -> None:
    model = parse(OVERFLOWS[name])
    x = np.ones([d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim], np.float32)
    assert not np.isfinite(mapsto.compile(model, cache=False, threads=1).run({"x": x})["y"]).all()
