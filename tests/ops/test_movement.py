"""Movement ops: what is found where, by reference and by index map."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.ops.support import check, make_node, sample, symbol

from mapsto.errors import ExecutionError, ShapeError
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import product, sym
from mapsto.ops.builder import Builder
from mapsto.ops.interpret import run_graph
from mapsto.ops.movement import reshape_groups

dims = st.integers(0, 5)
shapes = st.lists(dims, max_size=4).map(tuple)
dtypes = st.sampled_from([DType.F32, DType.BF16, DType.I64, DType.BOOL, DType.U8])
seeds = st.integers(0, 2**32 - 1)


@st.composite
def refactored(draw):
    """Two shapes with the same number of elements."""
    factors = draw(st.lists(st.sampled_from([1, 2, 3, 2, 5]), max_size=6))

    def grouped():
        parts, at = [], 0
        while at < len(factors):
            step = draw(st.integers(1, 3))
            parts.append(int(np.prod(factors[at : at + step])))
            at += step
        for _ in range(draw(st.integers(0, 2))):
            parts.insert(draw(st.integers(0, len(parts))), 1)
        return tuple(parts)

    return grouped(), grouped()


@given(refactored(), dtypes, st.sets(st.sampled_from([2, 3, 4, 6, 5]), max_size=2).map(frozenset), seeds)
@settings(max_examples=120, deadline=None)
def test_reshape(pair, dtype, chosen, seed):
    source, target = pair
    x = sample(np.random.default_rng(seed), source, dtype)
    (y,) = check("reshape", [x], {"shape": tuple(symbol(d, chosen) for d in target)}, chosen)
    assert np.array_equal(y.ravel(), x.ravel())


def test_reshape_groups_keep_shared_axes_apart():
    n, t = sym("n"), sym("t")
    groups = reshape_groups((n, t, 768), (n, t, 12, 64))
    assert groups == [(range(0, 1), range(0, 1)), (range(1, 2), range(1, 2)), (range(2, 3), range(2, 4))]
    assert product((n, t, 768)) == product((n, t, 12, 64))


def test_reshape_index_has_no_division_where_axes_are_only_split():
    node, b = make_node("reshape", [np.zeros((4, 6), np.float32)], {"shape": (4, 2, 3)})
    from mapsto.ops.lowering import statements

    (stmt,) = statements(node, b.lookup)
    assert [str(i) for i in stmt.value.index] == ["i1", "3*i2 + i3"]


def test_reshape_to_another_size():
    with pytest.raises(ShapeError, match="do not fill"):
        make_node("reshape", [np.zeros(6)], {"shape": (4,)})


@given(st.permutations(range(4)), st.tuples(dims, dims, dims, dims), dtypes, seeds)
@settings(max_examples=30, deadline=None)
def test_transpose(perm, shape, dtype, seed):
    x = sample(np.random.default_rng(seed), shape, dtype)
    (y,) = check("transpose", [x], {"perm": tuple(perm)}, frozenset({3, 5}))
    assert np.array_equal(y, x.transpose(perm))


@given(shapes, st.data(), dtypes, seeds)
@settings(max_examples=30, deadline=None)
def test_expand(shape, data, dtype, seed):
    kept = tuple(1 if data.draw(st.booleans()) else d for d in shape)
    kept = kept[data.draw(st.integers(0, len(kept))) :]
    x = sample(np.random.default_rng(seed), kept, dtype)
    check("expand", [x], {"shape": shape})


@given(shapes, st.data(), dtypes, seeds)
@settings(max_examples=60, deadline=None)
def test_slice(shape, data, dtype, seed):
    x = sample(np.random.default_rng(seed), shape, dtype)
    starts, steps, extents, parts = [], [], [], []
    for dim in shape:
        step = data.draw(st.sampled_from([1, 2, 3, -1, -2]))
        start = data.draw(st.integers(0, max(dim - 1, 0)))
        room = 0 if dim == 0 else (dim - 1 - start) // step + 1 if step > 0 else start // -step + 1
        extent = data.draw(st.integers(0, room))
        starts, steps, extents = [*starts, start], [*steps, step], [*extents, extent]
        parts.append([start + step * i for i in range(extent)])
    (y,) = check("slice", [x], {"starts": tuple(starts), "steps": tuple(steps), "shape": tuple(extents)})
    assert np.array_equal(y, x[np.ix_(*parts)] if shape else x)


def test_slice_out_of_bounds():
    with pytest.raises(ShapeError, match="last element on axis 0"):
        make_node("slice", [np.zeros(4)], {"starts": (2,), "steps": (1,), "shape": (3,)})


def test_symbolic_slice_is_checked_by_the_run():
    b = Builder("t")
    b.one("slice", [b.input("x", DType.F32, (sym("n"),))], starts=(0,), steps=(1,), shape=(sym("m"),))
    assert [str(n.attrs["condition"]) for n in b.nodes if n.op == "require"] == ["-m + n"]


@given(shapes.filter(len), st.data(), dtypes, seeds)
@settings(max_examples=40, deadline=None)
def test_concat(shape, data, dtype, seed):
    rng = np.random.default_rng(seed)
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    arrays = []
    for _ in range(data.draw(st.integers(1, 3))):
        own = list(shape)
        own[axis] = data.draw(dims)
        arrays.append(sample(rng, own, dtype))
    (y,) = check("concat", arrays, {"axis": axis}, frozenset({4}))
    assert np.array_equal(y, np.concatenate(arrays, axis=axis))


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3)), max_size=3), dtypes, seeds)
@settings(max_examples=30, deadline=None)
def test_tile(pairs, dtype, seed):
    x = sample(np.random.default_rng(seed), [d for d, _ in pairs], dtype)
    check("tile", [x], {"repeats": tuple(r for _, r in pairs)})


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 6), st.integers(0, 6)), max_size=3), dtypes, seeds)
@settings(max_examples=40, deadline=None)
def test_pad(mode, axes, dtype, seed):
    x = sample(np.random.default_rng(seed), [d for d, _, _ in axes], dtype)
    attrs = {"before": tuple(b for _, b, _ in axes), "after": tuple(a for _, _, a in axes), "mode": mode, "value": 1}
    (y,) = check("pad", [x], attrs, frozenset({3}))
    if x.ndim and dtype is not DType.BF16:
        widths = [(b, a) for _, b, a in axes]
        expected = np.pad(x, widths, mode=mode, **({"constant_values": 1} if mode == "constant" else {}))
        assert np.array_equal(y, expected)


def test_unpadded_sides_have_no_guards():
    from mapsto.kernel.ast import Load
    from mapsto.ops.lowering import statements

    node, b = make_node(
        "pad", [np.zeros((3, 4), np.float32)], {"before": (0, 2), "after": (0, 0), "mode": "constant", "value": 0.0}
    )
    (stmt,) = statements(node, b.lookup)
    assert [str(c) for c in stmt.value.conds] == ["i2 - 2"]
    assert isinstance(stmt.value.then, Load)


# ---- indices that are data -------------------------------------------------------------------------------------------


@given(
    shapes.filter(lambda s: len(s) and min(s) > 0), st.lists(st.integers(0, 3), max_size=2), st.data(), dtypes, seeds
)
@settings(max_examples=50, deadline=None)
def test_gather(shape, lead, data, dtype, seed):
    rng = np.random.default_rng(seed)
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    indices = rng.integers(-shape[axis], shape[axis], lead).astype(data.draw(st.sampled_from([np.int32, np.int64])))
    x = sample(rng, shape, dtype)
    (y,) = check("gather", [x, indices], {"axis": axis}, frozenset({2, 5}))
    assert np.array_equal(y, np.take(x, indices, axis=axis))


def test_gather_out_of_range():
    with pytest.raises(ExecutionError, match="index 5 is outside"):
        check("gather", [np.zeros(4), np.array([0, 5])], {"axis": 0})


@given(shapes.filter(lambda s: len(s) and min(s) > 0), st.data(), seeds)
@settings(max_examples=50, deadline=None)
def test_gather_and_scatter_elements(shape, data, seed):
    rng = np.random.default_rng(seed)
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    lead = [data.draw(st.integers(0, d)) for d in shape]
    indices = rng.integers(-shape[axis], shape[axis], lead)
    x = sample(rng, shape, DType.F32)
    check("gather_elements", [x, indices], {"axis": axis})
    updates = sample(rng, lead, DType.F32)
    for reduction in ("none", "add", "mul", "min", "max"):
        check("scatter_elements", [x, indices, updates], {"axis": axis, "reduction": reduction}, tolerance=1e-5)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple), st.data(), seeds)
@settings(max_examples=50, deadline=None)
def test_gather_nd(shape, data, seed):
    rng = np.random.default_rng(seed)
    batch = data.draw(st.integers(0, len(shape) - 1))
    depth = data.draw(st.integers(0, min(3, len(shape) - batch)))  # 4 is an open extent here, and a depth is none
    lead = (*shape[:batch], *data.draw(st.lists(st.integers(0, 3), max_size=2)))
    limits = np.array(shape[batch : batch + depth])
    indices = rng.integers(-limits, limits, (*lead, depth))
    check("gather_nd", [sample(rng, shape, DType.F32), indices], {"batch_dims": batch}, frozenset({4}))


@given(st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple), st.data(), dtypes, seeds)
@settings(max_examples=50, deadline=None)
def test_scatter_nd(shape, data, dtype, seed):
    rng = np.random.default_rng(seed)
    depth = data.draw(st.integers(0, len(shape)))
    lead = tuple(data.draw(st.lists(st.integers(0, 3), max_size=2)))
    limits = np.array(shape[:depth])
    indices = rng.integers(-limits, limits, (*lead, depth))
    x, updates = sample(rng, shape, dtype), sample(rng, (*lead, *shape[depth:]), dtype)
    check("scatter_nd", [x, indices, updates], {"reduction": "none"})
    if dtype in (DType.F32, DType.I64):
        for reduction in ("add", "max"):
            check("scatter_nd", [x, indices, updates], {"reduction": reduction}, tolerance=1e-5)


def test_scatter_in_order_the_last_update_wins():
    x, at, updates = np.zeros(3, np.float32), np.array([[1], [1], [2]]), np.array([5, 6, 7], np.float32)
    assert check("scatter_nd", [x, at, updates], {"reduction": "none"})[0].tolist() == [0, 6, 7]


def test_a_slice_of_a_negative_extent_stops_the_run():
    """n - 1 elements from the second on: of an axis of none that is one less than none, past the end of any buffer."""
    b = Builder("test")
    x = b.input("x", DType.F32, (sym("n"),))
    y = b.one("slice", [x], starts=(1,), steps=(1,), shape=(sym("n") - 1,))
    graph = b.finish([y], names=["y"])
    assert run_graph(graph, {"x": np.ones(3, np.float32)})["y"].shape == (2,)
    with pytest.raises(ExecutionError, match="the slice's extent on axis 0: n - 1 must be at least 0"):
        run_graph(graph, {"x": np.ones(0, np.float32)})
