"""Reductions, contractions, windows, resize and sources: reference, shape rule and lowering agree."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.ops.support import check, make_node, sample, tolerance_of

from mapsto.errors import ShapeError
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import sym
from mapsto.kernel.ast import Where, walk
from mapsto.ops.builder import Builder
from mapsto.ops.lowering import statements

seeds = st.integers(0, 2**32 - 1)
floats = st.sampled_from([DType.F32, DType.F64, DType.F16, DType.BF16])
shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)

# ---- reductions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["sum", "mean", "max", "min", "prod"])
@given(shapes, st.data(), st.sampled_from([DType.F32, DType.F16, DType.BF16, DType.F64, DType.I32, DType.U8]), seeds)
@settings(max_examples=30, deadline=None)
def test_reduce(kind, shape, data, dtype, seed):
    axes = tuple(data.draw(st.sets(st.integers(0, len(shape) - 1)))) if shape else ()
    x = sample(np.random.default_rng(seed), shape, dtype, special=True)
    check(
        "reduce",
        [x],
        {"kind": kind, "axes": axes, "keepdims": data.draw(st.booleans())},
        frozenset({3}),
        tolerance_of(dtype),
    )


@pytest.mark.parametrize("kind", ["any", "all"])
@given(shapes, st.data(), seeds)
@settings(max_examples=20, deadline=None)
def test_reduce_bool(kind, shape, data, seed):
    axes = tuple(data.draw(st.sets(st.integers(0, len(shape) - 1)))) if shape else ()
    check(
        "reduce",
        [sample(np.random.default_rng(seed), shape, DType.BOOL)],
        {"kind": kind, "axes": axes, "keepdims": False},
    )


def test_empty_reductions():
    x = np.zeros((0, 2), np.float32)
    found = {
        k: check("reduce", [x], {"kind": k, "axes": (0,), "keepdims": False})[0].tolist()
        for k in ("sum", "prod", "max", "min")
    }
    assert found == {"sum": [0, 0], "prod": [1, 1], "max": [-math.inf] * 2, "min": [math.inf] * 2}


@pytest.mark.parametrize("name", ["argmax", "argmin"])
@given(
    st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple),
    st.data(),
    st.sampled_from([DType.F32, DType.BF16, DType.I32, DType.BOOL]),
    seeds,
)
@settings(max_examples=40, deadline=None)
def test_arg(name, shape, data, dtype, seed):
    rng = np.random.default_rng(seed)
    x = sample(rng, shape, dtype, special=data.draw(st.booleans()))
    if dtype is DType.F32 and data.draw(st.booleans()):
        x = np.round(x / 3)  # ties
    attrs = {"axis": data.draw(st.integers(-len(shape), len(shape) - 1)), "keepdims": data.draw(st.booleans())}
    check(name, [x], {**attrs, "select_last": data.draw(st.booleans())}, frozenset({3}))


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=3).map(tuple),
    st.data(),
    st.sampled_from([DType.F32, DType.F16, DType.I64]),
    seeds,
)
@settings(max_examples=40, deadline=None)
def test_cumsum(shape, data, dtype, seed):
    attrs = {"axis": data.draw(st.integers(-len(shape), len(shape) - 1))}
    attrs.update(exclusive=data.draw(st.booleans()), reverse=data.draw(st.booleans()))
    check("cumsum", [sample(np.random.default_rng(seed), shape, dtype)], attrs, frozenset({3}), tolerance_of(dtype))


# ---- contractions ----------------------------------------------------------------------------------------------------


@st.composite
def factors(draw):
    """Shapes of two factors of a matrix product."""
    m, k, n = (draw(st.integers(0, 4)) for _ in range(3))
    batch = draw(st.lists(st.integers(1, 3), max_size=2))
    if draw(st.booleans()) and not batch:
        return draw(st.sampled_from([((k,), (k, n)), ((m, k), (k,)), ((k,), (k,))]))
    own = [[1 if draw(st.booleans()) else d for d in batch] for _ in range(2)]
    first = own[0][draw(st.integers(0, len(batch))) :]
    return (*first, m, k), (*own[1], k, n)


@given(factors(), st.sampled_from([DType.F32, DType.F64, DType.F16, DType.BF16, DType.I32, DType.U8]), seeds)
@settings(max_examples=60, deadline=None)
def test_matmul(pair, dtype, seed):
    rng = np.random.default_rng(seed)
    a, b = (sample(rng, shape, dtype) for shape in pair)
    (y,) = check("matmul", [a, b], None, frozenset({3}), 10 * tolerance_of(dtype))
    assert y.shape == np.matmul(np.zeros(pair[0]), np.zeros(pair[1])).shape


def test_matmul_of_unequal_inner_extents():
    with pytest.raises(ShapeError, match="inner extents 3 and 4"):
        make_node("matmul", [np.zeros((2, 3)), np.zeros((4, 2))], {})


@st.composite
def convolution(draw, transposed=False):
    """(x shape, w shape, attrs)"""
    rank, group = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    window = [draw(st.integers(1, 3)) for _ in range(rank)]
    attrs = {
        "strides": tuple(draw(st.integers(1, 3)) for _ in range(rank)),
        "dilations": tuple(draw(st.integers(1, 2)) for _ in range(rank)),
        "group": group,
    }
    per_in, per_out, n = draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(st.integers(0, 2))
    reach = [d * (k - 1) + 1 for d, k in zip(attrs["dilations"], window, strict=True)]
    if transposed:
        pads = [draw(st.integers(0, r - 1)) for r in reach]
        attrs["pads"] = (*pads, *(draw(st.integers(0, max(r - 1 - p, 0))) for r, p in zip(reach, pads, strict=True)))
        attrs["output_padding"] = tuple(draw(st.integers(0, s - 1)) for s in attrs["strides"])
        space = [draw(st.integers(1, 4)) for _ in range(rank)]
        return (n, group * per_in, *space), (group * per_in, per_out, *window), attrs
    attrs["pads"] = tuple(draw(st.integers(0, 2)) for _ in range(2 * rank))
    space = [draw(st.integers(r, r + 4)) for r in reach]
    return (n, group * per_in, *space), (group * per_out, per_in, *window), attrs


@given(convolution(), st.booleans(), floats, seeds)
@settings(max_examples=60, deadline=None)
def test_conv(case, biased, dtype, seed):
    x, w, attrs = case
    rng = np.random.default_rng(seed)
    arrays = [sample(rng, x, dtype), sample(rng, w, dtype)] + ([sample(rng, w[:1], dtype)] if biased else [])
    check("conv", arrays, attrs, frozenset(), 10 * tolerance_of(dtype))


@given(convolution(transposed=True), st.booleans(), floats, seeds)
@settings(max_examples=60, deadline=None)
def test_conv_transpose(case, biased, dtype, seed):
    x, w, attrs = case
    rng = np.random.default_rng(seed)
    arrays = [sample(rng, x, dtype), sample(rng, w, dtype)] + (
        [sample(rng, (w[1] * attrs["group"],), dtype)] if biased else []
    )
    check("conv_transpose", arrays, attrs, frozenset(), 10 * tolerance_of(dtype))


CONV = {"strides": (1, 1), "pads": (1, 1, 1, 1), "dilations": (1, 1), "group": 1}


def test_conv_with_symbolic_extents():
    rng = np.random.default_rng(0)
    arrays = [sample(rng, (2, 3, 7, 9), DType.F32), sample(rng, (4, 3, 3, 3), DType.F32)]
    check("conv", arrays, {**CONV, "strides": (2, 1)}, frozenset({2, 7, 9}), 1e-5)


def _guards(attrs, x=(1, 2, 8, 8)):
    node, b = make_node("conv", [np.zeros(x, np.float32), np.zeros((4, 2, 3, 3), np.float32)], attrs)
    (stmt,) = statements(node, b.lookup)
    return [len(e.conds) for e in walk(stmt.value) if isinstance(e, Where)]


def test_conv_guards_only_padded_sides():
    assert _guards({**CONV, "pads": (0, 0, 0, 0)}) == []
    assert _guards({**CONV, "pads": (1, 0, 0, 0)}) == [1]
    assert _guards(CONV) == [4]
    # at stride 2 the last window ends at pixel 7: the padding behind it is never read
    assert _guards({**CONV, "strides": (2, 2)}) == [2]


def test_conv_weights_for_other_channels():
    with pytest.raises(ShapeError, match="2 channels, but the weights take 3"):
        make_node("conv", [np.zeros((1, 2, 8, 8)), np.zeros((4, 3, 3, 3))], CONV)


def test_conv_3d():
    rng = np.random.default_rng(1)
    attrs = {"strides": (1, 2, 1), "pads": (1, 0, 1, 0, 1, 0), "dilations": (1, 1, 2), "group": 2}
    check(
        "conv",
        [sample(rng, (1, 4, 4, 5, 6), DType.F32), sample(rng, (2, 2, 2, 3, 2), DType.F32)],
        attrs,
        tolerance=1e-5,
    )


# ---- windows ---------------------------------------------------------------------------------------------------------


@st.composite
def pooling(draw):
    rank = draw(st.integers(1, 2))
    kernel = tuple(draw(st.integers(1, 3)) for _ in range(rank))
    dilations = tuple(draw(st.integers(1, 2)) for _ in range(rank))
    attrs = {"kernel": kernel, "dilations": dilations, "strides": tuple(draw(st.integers(1, 3)) for _ in range(rank))}
    # as in ONNX, a window always holds an element: pads are smaller than the kernel
    attrs["pads"] = (
        tuple(draw(st.integers(0, k - 1)) for k in kernel * 2) if dilations == (1,) * rank else (0,) * (2 * rank)
    )
    space = [draw(st.integers(d * (k - 1) + 1, 6)) for k, d in zip(kernel, dilations, strict=True)]
    return (draw(st.integers(0, 2)), draw(st.integers(1, 2)), *space), attrs


@given(pooling(), st.sampled_from([DType.F32, DType.BF16, DType.U8, DType.I8]), seeds)
@settings(max_examples=50, deadline=None)
def test_max_pool(case, dtype, seed):
    shape, attrs = case
    x = sample(np.random.default_rng(seed), shape, dtype, special=True)
    check("max_pool", [x], attrs, frozenset({6}))
    check("max_pool_indices", [x], attrs)


@given(st.data(), floats, seeds)
@settings(max_examples=40, deadline=None)
def test_max_pool_gradient(data, dtype, seed):
    """Ties go to the first place, NaN is the largest of all."""
    rank = data.draw(st.integers(1, 3))
    kernel = tuple(data.draw(st.integers(1, 3)) for _ in range(rank))
    counts = tuple(data.draw(st.integers(0, 4)) for _ in range(rank))
    lead = (data.draw(st.integers(0, 2)), data.draw(st.integers(1, 20)))
    rng = np.random.default_rng(seed)
    x = sample(rng, (*lead, *(n * k for n, k in zip(counts, kernel, strict=True))), dtype, special=True)
    check("max_pool_gradient", [np.round(x * 2), sample(rng, (*lead, *counts), dtype)], {"kernel": kernel})


@given(pooling(), st.booleans(), floats, seeds)
@settings(max_examples=50, deadline=None)
def test_avg_pool(case, include, dtype, seed):
    shape, attrs = case
    x = sample(np.random.default_rng(seed), shape, dtype)
    check("avg_pool", [x], {**attrs, "count_include_pad": include}, frozenset({6}), 4 * tolerance_of(dtype))


@pytest.mark.parametrize("include", [False, True])
@pytest.mark.parametrize("extents", [frozenset(), frozenset({4, 5})], ids=["fixed", "open"])
def test_avg_pool_of_windows_that_hold_nothing(include, extents):
    """Windows that lie in the padding on one axis, on the other, and on both: 0/0 where padding does not count."""
    x = np.arange(1, 21, dtype=np.float32).reshape(1, 1, 4, 5)
    attrs = {
        "kernel": (2, 2), "strides": (1, 1), "pads": (3, 4, 2, 3), "dilations": (1, 1), "count_include_pad": include,
        "ceil_pads": (0, 0),
    }  # fmt: skip
    (found,) = check("avg_pool", [x], attrs, extents, 1e-6)
    assert bool(np.isnan(found).any()) is not include and found.shape == (1, 1, 8, 11)


def test_places_of_maxima_of_windows_that_hold_nothing():
    """They have no place: -1."""
    x = np.arange(1, 21, dtype=np.float32).reshape(1, 1, 4, 5)
    attrs = {"kernel": (2, 2), "strides": (1, 1), "pads": (3, 4, 2, 3), "dilations": (1, 1)}
    (found,) = check("max_pool_indices", [x], attrs)
    assert found.min() == -1 and found.max() == 19
    check("max_pool_indices", [x], attrs, frozenset({4, 5}))


@pytest.mark.parametrize("op", ["max_pool", "avg_pool", "conv"])
def test_strides_and_dilations_that_nothing_is_reached_by(op):
    """One window of one element along each axis: any number may be said of the next one."""
    x = np.arange(1, 5, dtype=np.float32).reshape(1, 1, 2, 2)
    attrs = {"strides": (2**62, 2**62), "dilations": (2**61, 2**61), "pads": (0,) * 4}
    if op == "conv":
        check(op, [x, np.ones((1, 1, 1, 1), np.float32), None], {**attrs, "group": 1}, frozenset({2}), 1e-6)
        return
    more = {"count_include_pad": False, "ceil_pads": (0, 0)} if op == "avg_pool" else {}
    check(op, [x], {**attrs, "kernel": (1, 1), **more})


def test_avg_pool_does_not_count_what_ceil_mode_adds():
    x = np.ones((1, 1, 4), np.float32)
    attrs = {
        "kernel": (3,),
        "strides": (2,),
        "dilations": (1,),
        "pads": (0, 1),
        "count_include_pad": True,
        "ceil_pads": (1,),
    }
    assert check("avg_pool", [x], attrs)[0].tolist() == [[[1, 1]]]
    assert check("avg_pool", [x], {**attrs, "ceil_pads": (0,)}, tolerance=1e-6)[0].tolist() == [
        [[1, np.float32(2 / 3)]]
    ]


# ---- resize ----------------------------------------------------------------------------------------------------------

COORDINATES = ["half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric"]


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@given(
    st.integers(1, 6), st.integers(1, 6), st.sampled_from([0.5, 0.7, 1.5, 2.0, 3.0, 4.0]),
    st.integers(1, 9), st.booleans(),
    st.sampled_from(COORDINATES), st.sampled_from(["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"]),
    st.booleans(), st.booleans(), seeds,
)  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_resize(mode, height, width, scale, size, by_scale, coordinate, rounding, outside, symbolic, seed):
    x = sample(np.random.default_rng(seed), (2, height, width), DType.F32)
    grown = max(1, math.floor(height * scale))
    attrs = {"mode": mode, "coordinate_mode": coordinate, "nearest_mode": rounding, "exclude_outside": outside}
    if by_scale:
        attrs.update(scales=(1.0, scale, 1.0), sizes=(2, grown, width))
    else:
        attrs.update(scales=None, sizes=(2, size, 2 * width))
    chosen = frozenset({height}) if symbolic and height not in (1, 2, width, grown, size) else frozenset()
    check("resize", [x], attrs, chosen, 1e-5)


def test_doubling_by_nearest_is_an_index_expression():
    attrs = {
        "mode": "nearest",
        "coordinate_mode": "asymmetric",
        "nearest_mode": "floor",
        "scales": (1.0, 1.0, 2.0, 2.0),
        "sizes": (1, 8, 20, 20),
    }
    node, b = make_node("resize", [np.zeros((1, 8, 10, 10), np.float32)], attrs)
    (stmt,) = statements(node, b.lookup)
    assert [str(i) for i in stmt.value.index][2:] == ["(i3)//(2)", "(i4)//(2)"]


# ---- sources and routines --------------------------------------------------------------------------------------------


@given(
    st.integers(0, 5),
    st.integers(-5, 5),
    st.integers(-3, 3),
    st.sampled_from([DType.I64, DType.I32, DType.F32, DType.F16]),
)
def test_iota_of_integers(n, start, step, dtype):
    assert _source("iota", {"shape": (sym("n"),), "start": start, "step": step, "dtype": dtype}, {"n": n})[
        0
    ].tolist() == [start + step * i for i in range(n)]


def test_iota_of_floats():
    (y,) = _source("iota", {"shape": (sym("n"),), "start": 0.5, "step": 0.25, "dtype": DType.F32}, {"n": 4})
    assert y.tolist() == [0.5, 0.75, 1.0, 1.25]


@pytest.mark.parametrize("value,dtype", [(1.5, DType.F32), (-3, DType.I64), (True, DType.BOOL), (0.1, DType.BF16)])
def test_full(value, dtype):
    (y,) = _source("full", {"shape": (sym("n"), 2), "value": value, "dtype": dtype}, {"n": 3})
    assert y.shape == (3, 2) and len(set(y.ravel().tolist())) == 1


def _source(name, attrs, sizes):
    """A source op with a symbolic extent, by reference and by lowering."""
    from tests.ops.support import same

    from mapsto.ir.expr import evaluate
    from mapsto.kernel.interpret import run_kernel
    from mapsto.ops.lowering import node_kernel
    from mapsto.ops.registry import evaluated_attrs, op

    b = Builder("t")
    b.one(name, [], **attrs)
    (node,) = b.nodes
    shapes = [tuple(evaluate(d, sizes) for d in v.shape) for v in node.outputs]
    expected = op(name).reference([], evaluated_attrs(node.attrs, sizes), shapes)
    found = run_kernel(node_kernel(node, b.lookup), {}, sizes)
    for value, array in zip(node.outputs, expected, strict=True):
        same(found[value.name], array, 2e-6, name)
    return expected


def test_random_numbers_are_those_of_the_lowering_and_well_spread():
    shape = (sym("n"), 50)
    (u,) = _source(
        "random_uniform", {"shape": shape, "low": -1.0, "high": 3.0, "seed": 7, "dtype": DType.F32}, {"n": 400}
    )
    assert -1 <= u.min() and u.max() < 3 and abs(u.mean() - 1) < 0.03 and abs(u.std() - 4 / math.sqrt(12)) < 0.02
    (z,) = _source(
        "random_normal", {"shape": shape, "mean": 2.0, "scale": 0.5, "seed": 7, "dtype": DType.F32}, {"n": 400}
    )
    assert abs(z.mean() - 2) < 0.015 and abs(z.std() - 0.5) < 0.01
    flat = (z.ravel() - 2) / 0.5
    assert abs(np.mean(flat**4) - 3) < 0.2 and abs(np.corrcoef(flat[1:], flat[:-1])[0, 1]) < 0.03
    (other,) = _source(
        "random_normal", {"shape": shape, "mean": 2.0, "scale": 0.5, "seed": 8, "dtype": DType.F32}, {"n": 400}
    )
    assert abs(np.corrcoef(other.ravel(), z.ravel())[0, 1]) < 0.03


@given(st.lists(st.integers(0, 4), max_size=3).map(tuple), seeds)
@settings(max_examples=20, deadline=None)
def test_nonzero(shape, seed):
    x = sample(np.random.default_rng(seed), shape, DType.BOOL)
    indices, count = check("nonzero", [x])
    expected = np.argwhere(x)
    assert int(count) == len(expected)
    assert np.array_equal(indices[:, : int(count)].T, expected) and not indices[:, int(count) :].any()


@given(st.lists(st.integers(0, 5), min_size=1, max_size=3).map(tuple), st.data(), seeds)
@settings(max_examples=40, deadline=None)
def test_topk(shape, data, seed):
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    k, largest = data.draw(st.integers(0, shape[axis])), data.draw(st.booleans())
    x = np.round(sample(np.random.default_rng(seed), shape, DType.F32))
    values, places = check("topk", [x], {"axis": axis, "k": k, "largest": largest, "sorted": True})
    moved, chosen, at = (np.moveaxis(a, axis, -1) for a in (x, values, places))
    for row in np.ndindex(moved.shape[:-1]):
        order = sorted(range(shape[axis]), key=lambda i: (-moved[row][i] if largest else moved[row][i], i))[:k]
        assert at[row].tolist() == order and chosen[row].tolist() == moved[row][order].tolist()
