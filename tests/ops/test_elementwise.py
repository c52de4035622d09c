"""Elementwise ops: reference, shape rule and lowering agree on every type, with broadcasting and special values."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.ops.support import check, make_node, sample, tolerance_of

from mapsto.errors import ShapeError
from mapsto.ir.dtypes import DType
from mapsto.ops.shapes import FLOATS, INTEGERS, NUMBERS

FLOAT_OPS = [
    "sqrt", "exp", "log", "tanh", "erf", "sigmoid", "softplus", "reciprocal",
    "sin", "cos", "tan", "asin", "acos", "atan",
    "sinh", "cosh", "asinh", "acosh", "atanh", "floor", "ceil", "round", "isnan", "elu", "leaky_relu", "isinf",
]  # fmt: skip
NUMBER_OPS = ["neg", "abs", "sign", "relu"]
ATTRS = {
    "elu": {"alpha": 0.7},
    "leaky_relu": {"alpha": 0.1},
    "isinf": {"detect_positive": True, "detect_negative": False},
}
COMPUTED = [dtype for dtype in DType if not dtype.is_storage]
shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)
seeds = st.integers(0, 2**32 - 1)


def _ordered(types):
    return sorted(types, key=lambda d: d.value)


@pytest.mark.parametrize("name", FLOAT_OPS)
@given(shapes, st.sampled_from(_ordered(FLOATS)), seeds)
@settings(max_examples=15, deadline=None)
def test_float_function(name, shape, dtype, seed):
    x = sample(np.random.default_rng(seed), shape, dtype, special=True)
    check(name, [x], ATTRS.get(name), frozenset({3}), tolerance_of(dtype))


@pytest.mark.parametrize("name", NUMBER_OPS)
@given(shapes, st.sampled_from(_ordered(NUMBERS)), seeds)
@settings(max_examples=25, deadline=None)
def test_number_function(name, shape, dtype, seed):
    x = sample(np.random.default_rng(seed), shape, dtype, special=True)
    check(name, [x], None, frozenset({2}))


@st.composite
def broadcast_pair(draw):
    """Two shapes that broadcast."""
    full = draw(st.lists(st.integers(0, 4), max_size=3))
    found = []
    for _ in range(2):
        kept = [1 if draw(st.booleans()) else d for d in full]
        found.append(tuple(kept[draw(st.integers(0, len(kept))) :]))
    return tuple(found)


BINARY = {
    **dict.fromkeys(("add", "sub", "mul", "div", "min", "max", "lt", "le", "gt", "ge", "mod", "fmod"), NUMBERS),
    **dict.fromkeys(("eq", "ne"), NUMBERS | {DType.BOOL}),
    **dict.fromkeys(("and", "or", "xor"), frozenset({DType.BOOL})),
    **dict.fromkeys(("bitand", "bitor", "bitxor"), INTEGERS),
    "pow": FLOATS,
}


@pytest.mark.parametrize("name", BINARY)
@given(broadcast_pair(), st.data(), seeds)
@settings(max_examples=25, deadline=None)
def test_binary(name, pair, data, seed):
    dtype = data.draw(st.sampled_from(_ordered(BINARY[name])))
    rng = np.random.default_rng(seed)
    a, b = (sample(rng, shape, dtype, special=True) for shape in pair)
    if name in ("mod", "fmod"):
        check("mod", [a, b], {"fmod": name == "fmod"}, frozenset({3}), tolerance_of(dtype))
        return
    check(name, [a, b], None, frozenset({3}), tolerance_of(dtype))


def test_integer_division_truncates():
    a, b = np.array([7, -7, 7, -7, 5], np.int32), np.array([2, 2, -2, -2, 0], np.int32)
    (result,) = check("div", [a, b])
    assert result.tolist() == [3, -3, -3, 3, 0]


def test_modulus_signs():
    a, b = np.array([7, -7, 7, -7], np.int64), np.array([3, 3, -3, -3], np.int64)
    assert check("mod", [a, b], {"fmod": False})[0].tolist() == [1, 2, -2, -1]
    assert check("mod", [a, b], {"fmod": True})[0].tolist() == [1, -1, 1, -1]


def test_power_has_the_type_of_its_base():
    assert check("pow", [np.array([2, 3], np.int32), np.array([3.0, 2.0], np.float32)])[0].tolist() == [8, 9]
    assert check("pow", [np.array([2, 3], np.float32), np.array([-1, 2], np.int64)])[0].tolist() == [0.5, 9.0]


@pytest.mark.parametrize("name", ["shl", "shr"])
def test_shifts(name):
    x, by = np.array([1, 200, 7], np.uint8), np.array([3, 2, 0], np.uint8)
    (result,) = check(name, [x, by])
    assert result.tolist() == ([8, 32, 7] if name == "shl" else [0, 50, 7])


@given(shapes, st.sampled_from(COMPUTED), st.sampled_from(COMPUTED), seeds)
@settings(max_examples=80, deadline=None)
def test_cast(shape, source, target, seed):
    x = sample(np.random.default_rng(seed), shape, source, special=True)
    check("cast", [x], {"to": target})


def test_cast_to_integer_truncates_and_saturates():
    x = np.array([1.9, -1.9, 1e30, -1e30, np.nan, np.inf], np.float32)
    assert check("cast", [x], {"to": DType.I32})[0].tolist() == [1, -1, 2**31 - 1, -(2**31), 0, 2**31 - 1]
    assert check("cast", [x], {"to": DType.I64})[0].tolist() == [1, -1, 2**63 - 1, -(2**63), 0, 2**63 - 1]
    assert check("cast", [x], {"to": DType.U8})[0].tolist() == [1, 0, 255, 0, 0, 255]


@given(broadcast_pair(), st.sampled_from(list(DType)), seeds)
@settings(max_examples=30, deadline=None)
def test_select(pair, dtype, seed):
    rng = np.random.default_rng(seed)
    c = sample(rng, pair[0], DType.BOOL)
    a, b = sample(rng, pair[1], dtype, True), sample(rng, pair[0], dtype)
    check("select", [c, a, b])


def test_shapes_that_do_not_broadcast():
    with pytest.raises(ShapeError, match="3 and 4 differ"):
        make_node("add", [np.zeros(3), np.zeros(4)], {})


def test_dtypes_that_differ():
    with pytest.raises(ShapeError, match="cast one"):
        make_node("add", [np.zeros(3, np.float32), np.zeros(3)], {})


def test_unproved_equality_is_required():
    """Broadcasting a symbolic extent against a fixed one is checked by a run."""
    _, b = make_node("add", [np.zeros(3, np.float32), np.zeros((2, 3), np.float32)], {}, frozenset())
    assert [n.op for n in b.nodes] == ["add"]
    from mapsto.ir.expr import sym
    from mapsto.ops.builder import Builder

    b = Builder("t")
    y = b.one("add", [b.input("x", DType.F32, (sym("n"),)), b.input("y", DType.F32, (4,))])
    assert y.shape == (4,)
    assert [n.op for n in b.nodes] == ["require", "add"]
