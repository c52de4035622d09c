"""The builder: folding, common subexpressions, shape arithmetic that never becomes nodes, provenance."""

import numpy as np
import pytest

import mapsto.ops  # noqa: F401
from mapsto.errors import ShapeError, UnsupportedError
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import maximum, sym
from mapsto.ops.builder import Builder
from mapsto.ops.interpret import run_graph
from mapsto.ops.verify import verify_graph

n, t = sym("n"), sym("t")


def _dims(*dims):
    return np.array(dims, dtype=object)


def test_constants_fold():
    b = Builder("g")
    y = b.one("add", [b.constant(np.array([1, 2])), b.constant(np.array([10]))])
    assert b.nodes == [] and b.array(y).tolist() == [11, 12]


def test_equal_nodes_are_made_once():
    b = Builder("g")
    x = b.input("x", DType.F32, (3,))
    with b.source("first"):
        y = b.one("exp", [x])
    with b.source("second"):
        assert b.one("exp", [x]) == y
    assert len(b.nodes) == 1 and b.nodes[0].provenance == ("first", "second")


def test_attributes_that_python_calls_equal_are_not_the_same():
    b = Builder("g")
    zero, negative = (b.one("full", [], shape=(n,), value=v, dtype=DType.F32) for v in (0.0, -0.0))
    assert zero != negative


def test_random_nodes_are_never_shared_or_folded():
    b = Builder("g")
    attrs = {"shape": (2,), "mean": 0.0, "scale": 1.0, "seed": 3, "dtype": DType.F32}
    assert b.one("random_normal", [], **attrs) != b.one("random_normal", [], **attrs)


def test_shape_arithmetic_becomes_no_nodes():
    """Shape -> Gather -> Mul -> Concat -> Slice -> ReduceProd, on symbols"""
    b = Builder("g")
    shape = b.known(_dims(n, t, 768))
    first = b.one("gather", [shape, b.constant(np.array([0, -1]))], axis=0)
    scaled = b.one("mul", [first, b.constant(np.array([2, 1]))])
    joined = b.one("concat", [scaled, b.constant(np.array([12]))], axis=0)
    assert b.content(joined).tolist() == [2 * n, 768, 12]
    back = b.one("slice", [joined], starts=(2,), steps=(-1,), shape=(3,))
    assert b.content(back).tolist() == [12, 768, 2 * n]
    total = b.one("reduce", [back], kind="prod", axes=(0,), keepdims=False)
    assert b.content(total).tolist() == 2 * 12 * 768 * n
    assert b.content(b.one("cast", [total], to=DType.I32)).tolist() == 2 * 12 * 768 * n
    assert b.nodes == []


@pytest.mark.parametrize(
    "op,a,c,expected",
    [
        ("div", 12 * n, 4, 3 * n),
        ("div", 7, -2, -3),
        ("sub", n, n, 0),
        ("min", n + 1, n, n),
        ("max", n, t, maximum(n, t)),
        ("mod", 4 * n + 3, 4, 3),
        ("eq", n, -1, 0),
        ("eq", n, n, 1),
        ("lt", n, n + 1, 1),
        ("ge", n, 0, 1),
        ("gt", n, n + 2, 0),
    ],
)
def test_dims_through_arithmetic(op, a, c, expected):
    b = Builder("g")
    attrs = {"fmod": False} if op == "mod" else {}
    y = b.one(op, [b.known(_dims(a)), b.known(_dims(c))], **attrs)
    assert b.content(y).tolist() == [expected] and b.nodes == []


def test_what_is_not_decided_becomes_data():
    b = Builder("g")
    with b.source("Equal_0"):
        x = b.input("x", DType.F32, (n,))
        y = b.one("eq", [b.known(_dims(n)), b.known(_dims(4))])
    assert b.content(y) is None and [v.op for v in b.nodes] == ["dim_values", "eq"]
    graph = b.finish([y])
    verify_graph(graph)
    assert x.shape == (n,)
    assert run_graph(graph, {"x": np.zeros(4, np.float32)})[y.name].tolist() == [True]


def test_select_by_what_is_known():
    b = Builder("g")
    condition = b.one("eq", [b.known(_dims(n, n)), b.constant(np.array([-1, -1]))])
    y = b.one("select", [condition, b.constant(np.array([1, 1])), b.known(_dims(n, t))])
    assert b.content(y).tolist() == [n, t]


def test_floats_have_no_content():
    b = Builder("g")
    y = b.one("cast", [b.known(_dims(n))], to=DType.F32)
    assert b.content(y) is None and b.nodes[-1].op == "cast"


def test_dims_of_data_are_bound_once():
    b = Builder("g")
    x = b.input("x", DType.I64, (2,))
    first = b.dims(x, "m")
    assert b.dims(x, "m") == first and [v.op for v in b.nodes].count("bind_dim") == 2
    y = b.one("full", [], shape=tuple(first), value=1.0, dtype=DType.F32)
    graph = b.finish([y])
    assert run_graph(graph, {"x": np.array([2, 3])})[y.name].shape == (2, 3)


def test_large_results_are_not_folded():
    b = Builder("g")
    y = b.one("full", [], shape=(1 << 13, 1 << 13), value=0.0, dtype=DType.F32)
    assert b.array(y) is None and len(b.nodes) == 1


@pytest.mark.parametrize(
    ("shape", "repeats"),
    [((2, 3), (1, 1 << 61)), ((0, 1 << 40), (1, 1 << 30)), ((n, 1 << 40), (1, 1 << 30)), ((n, 2), (1 << 62, 1))],
)
def test_results_that_no_memory_has_addresses_for_are_refused(shape, repeats):
    b = Builder("g")
    with pytest.raises(ShapeError, match="tile.* more bytes than memory has addresses"):
        b.one("tile", [b.input("x", DType.F32, shape)], repeats=repeats)


def test_large_results_that_have_addresses_are_taken():
    b = Builder("g")
    assert b.one("tile", [b.input("x", DType.F32, (2, n))], repeats=(1 << 40, 1)).shape == (1 << 41, n)


def test_nested_graphs_see_and_name_apart():
    b = Builder("g")
    x = b.input("x", DType.F32, (n,))
    inner = Builder("then", b)
    y = inner.one("neg", [x])
    assert y.name not in b.values and b.one("neg", [x]).name != y.name
    assert inner.one("neg", [x]) == y


def test_errors_say_what_and_where():
    b = Builder("g")
    x = b.input("x", DType.F32, (3,))
    with pytest.raises(ShapeError, match=r"reshape\(x: f32\[3\]\): 3 elements do not fill the shape \[2\]"):
        b.one("reshape", [x], shape=(2,))
    with pytest.raises(UnsupportedError, match="there is no op named 'foo'"):
        b.one("foo", [x])
    with pytest.raises(ShapeError, match="there is no axis 1 at rank 1"):
        b.one("gather", [x, b.constant(np.array(0))], axis=1)


def test_an_error_shows_attributes_as_a_graphs_text_does():
    b = Builder("g")
    with pytest.raises(ShapeError) as raised:
        b.one("full", [], shape=None, value=1.0, dtype=DType.F32)
    assert "full() {dtype: :f32, shape: none, value: 1.0}: " in str(raised.value)


def test_what_is_folded_again_is_the_same_constant():
    b = Builder("g")
    w = b.constant(np.arange(6.0, dtype=np.float32).reshape(2, 3))
    turned = [b.one("transpose", [w], perm=(1, 0)) for _ in range(3)]
    assert turned[0] is turned[1] is turned[2] and len(b.constants) == 2
    inner = Builder("inner", b)
    assert inner.one("transpose", [w], perm=(1, 0)) is turned[0] and not inner.constants
