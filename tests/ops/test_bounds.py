"""What is known of integers before a run, and the checks that are left for one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.ops.support import make_node, reference

from mapsto.errors import ExecutionError, ShapeError
from mapsto.ir.bounds import BOUND_KINDS, Allowed, distance, is_allowed, message, value_at
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, evaluate, sym
from mapsto.ir.graph import Value
from mapsto.kernel.interpret import run_kernel
from mapsto.ops.bounds import check_inside
from mapsto.ops.builder import Builder
from mapsto.ops.interpret import run_graph
from mapsto.ops.lowering import node_kernel
from mapsto.ops.ranges import interval

I64 = DType.I64
integers = st.integers(-(2**63), 2**63 - 1)


@given(integers, st.sampled_from(BOUND_KINDS), st.integers(0, 2**40))
def test_one_comparison_says_what_two_do(value: int, kind: str, extent: int) -> None:
    from_the_end = (-extent, extent - 1)
    low, high = {"signed": from_the_end, "place": (0, extent - 1), "length": (0, extent), "axis": from_the_end}[kind]
    assert is_allowed(value, kind, extent) == (low <= value <= high)
    assert value_at(distance(value, kind, extent), kind, extent) == value


def test_what_is_said() -> None:
    said = message("node 'g' (Gather)", "index", 99, "signed", 0, 4)
    assert said == "node 'g' (Gather): index 99 is outside of axis 0, which has 4 elements (allowed: -4 to 3)"
    assert (
        message("", "length", 2, "length", 1, 1)
        == "length 2 is outside of axis 1, which has 1 element (allowed: 0 to 1)"
    )
    assert message("", "index", 0, "signed", 2, 0).endswith("which has 0 elements (none is allowed)")
    assert message("", "axes:", -4, "axis", 0, 3) == "axes: -4 does not exist in a tensor of 3 axes (allowed: -3 to 2)"


@given(st.lists(integers, max_size=6), st.integers(1, 2**40))
@settings(max_examples=60)
def test_the_farthest_of_all(elements: list[int], extent: int) -> None:
    """Reference and lowering give the largest distance; over nothing it is 0."""
    x = np.array(elements, np.int64)
    expected = max((distance(e, "signed", extent) for e in elements), default=0)
    attrs = {"columns": (-1,), "lowest": (-extent,)}
    node, b = make_node("farthest", [x], attrs)
    assert reference("farthest", [x], attrs, [(1,)])[0].tolist() == [expected]
    assert run_kernel(node_kernel(node, b.lookup), {"x0": x})[node.output.name].tolist() == [expected]


@given(st.lists(st.tuples(integers, integers), max_size=4))
@settings(max_examples=40)
def test_the_farthest_of_each_column(rows: list[tuple[int, int]]) -> None:
    x = np.array(rows, np.int64).reshape(len(rows), 2)
    attrs = {"columns": (0, 1), "lowest": (-3, 0)}
    node, b = make_node("farthest", [x], attrs)
    expected = [max((distance(r[k], kind, 3) for r in rows), default=0) for k, kind in enumerate(("signed", "place"))]
    assert reference("farthest", [x], attrs, [(2,)])[0].tolist() == expected
    assert run_kernel(node_kernel(node, b.lookup), {"x0": x})[node.output.name].tolist() == expected


# ---- intervals -------------------------------------------------------------------------------------------------------

BINARY = ("add", "sub", "mul", "min", "max", "div", "mod")


def _grown(b: Builder, draw: st.DrawFn, pool: list[Value]) -> Value:
    """One more integer tensor of the shape [n, 3] from those there are."""
    x = draw(st.sampled_from(pool))
    kind = draw(
        st.sampled_from((*BINARY, "select", "neg", "abs", "clip", "iota", "reshape", "concat", "reduce", "cast"))
    )
    number = b.constant(np.array(draw(st.integers(-9, 9))))
    if kind in BINARY:
        other = draw(st.sampled_from([*pool, number]))
        return b.one(kind, [x, other], **({"fmod": False} if kind == "mod" else {}))
    if kind == "select":
        return b.one("select", [b.one("lt", [x, number]), x, draw(st.sampled_from(pool))])
    if kind == "clip":
        return b.one("min", [b.one("max", [x, number]), b.constant(np.array(draw(st.integers(-9, 9))))])
    if kind == "iota":
        made = b.one("iota", [], shape=(3,), start=draw(st.integers(-5, 5)), step=draw(st.integers(-3, 3)), dtype=I64)
        return b.one("expand", [made], shape=x.shape)
    if kind == "reshape":
        turned = b.one("transpose", [b.one("reshape", [x], shape=(*x.shape, 1))], perm=(1, 0, 2))
        return b.one("transpose", [b.one("reshape", [turned], shape=(3, x.shape[0]))], perm=(1, 0))
    if kind == "concat":
        other = draw(st.sampled_from(pool))
        starts = draw(st.integers(0, 2))
        parts = [b.one("slice", [v], starts=(0, s), steps=(1, 1), shape=(x.shape[0], w)) for v, s, w in
                 ((x, starts, 1), (other, 0, 2))]  # fmt: skip
        return b.one("concat", parts, axis=1)
    if kind == "reduce":
        least = b.one("reduce", [x], kind=draw(st.sampled_from(("max", "min", "sum"))), axes=(1,), keepdims=True)
        return b.one("expand", [least], shape=x.shape)
    if kind == "cast":
        narrow = b.one("cast", [x], to=draw(st.sampled_from((DType.I8, DType.U8, DType.I32, DType.BOOL))))
        return b.one("cast", [narrow], to=I64)
    return b.one(kind, [x])


@given(st.data(), st.integers(1, 4), st.sampled_from([None, 4]))
@settings(max_examples=150)
def test_elements_lie_in_their_interval(data: st.DataObject, n: int, fixed: int | None) -> None:
    """Of a tensor and of each column of it, for whatever the inputs hold."""
    n, dim = (fixed, fixed) if fixed is not None else (n, sym("n"))
    b = Builder("g")
    with b.source("s"):
        x, small = b.input("x", I64, (dim, 3)), b.input("small", DType.U8, (dim, 3))
        scores = b.input("scores", DType.F32, (dim, 3, dim))
        best = b.one("argmax", [scores], axis=2, keepdims=False, select_last=False)
        sizes = b.one("expand", [b.known(np.array([dim, dim, 1], dtype=object))], shape=(dim, 3))
        pool = [x, b.one("cast", [small], to=I64), best, sizes]
        for _ in range(data.draw(st.integers(1, 6))):
            pool.append(_grown(b, data.draw, pool))
        graph = b.finish([b.one("copy", [pool[-1]])], names=["y"])
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    values = {"x": rng.integers(-(2**62), 2**62, (n, 3)), "small": rng.integers(0, 256, (n, 3)).astype(np.uint8),
              "scores": rng.normal(size=(n, 3, n)).astype(np.float32)}  # fmt: skip
    y = run_graph(graph, values)["y"]
    for part, elements in ((None, y), *(((1, k), y[:, k]) for k in range(3))):
        low, high = (None if e is None else evaluate(e, {"n": n}) for e in interval(b, pool[-1], part))
        assert low is None or elements.min() >= low, (low, elements)
        assert high is None or elements.max() <= high, (high, elements)


def test_a_chain_of_products_ends() -> None:
    """Bounds that would grow for ever are not followed."""
    b = Builder("g")
    x = b.one("iota", [], shape=(sym("n"),), start=0, step=1, dtype=I64)
    for _ in range(300):
        x = b.one("max", [b.one("mul", [x, x]), b.one("add", [x, b.known(np.array([sym("m")], dtype=object))])])
    assert interval(b, x) == (None, None)


# ---- checks ----------------------------------------------------------------------------------------------------------


def _checks(b: Builder) -> list[str]:
    return [n.op for n in b.nodes if n.op == "bounds_check"]


def test_indices_are_checked_once() -> None:
    b = Builder("g")
    x, i = b.input("x", DType.F32, (4, 2)), b.input("i", I64, (sym("m"),))
    b.one("gather", [x, i], axis=0)
    b.one("gather", [x, b.one("reshape", [i], shape=(sym("m"), 1))], axis=0)
    b.one("gather_nd", [x, b.one("reshape", [i], shape=(sym("m"), 1))], batch_dims=0)
    assert len(_checks(b)) == 1
    b.one("gather", [x, i], axis=1)  # a shorter axis: checked before against more
    assert len(_checks(b)) == 2


def test_a_branch_knows_what_was_checked_around_it_but_not_the_other_way() -> None:
    b = Builder("g")
    x, i, j = b.input("x", DType.F32, (4,)), b.input("i", I64, (2,)), b.input("j", I64, (2,))
    b.one("gather", [x, i], axis=0)
    inner = Builder("t", b)
    inner.one("gather", [x, i], axis=0)
    assert not _checks(inner)
    inner.one("gather", [x, j], axis=0)
    assert len(_checks(inner)) == 1
    b.one("gather", [x, j], axis=0)
    assert len(_checks(b)) == 2


def test_an_expanded_index_is_looked_at_where_it_is_small() -> None:
    b = Builder("g")
    i = b.input("i", I64, (2, 1))
    wide = b.one("expand", [i], shape=(2, 1000))
    check_inside(b, wide, Allowed((0,), (5,)), "here")
    (word,) = [n for n in b.nodes if n.op == "farthest"]
    assert word.inputs == ("i",)
    maybe = b.one("expand", [b.input("k", I64, (2, 1))], shape=(2, sym("m")))  # nothing is read where m is 0
    check_inside(b, maybe, Allowed((0,), (5,)), "here")
    assert [n for n in b.nodes if n.op == "farthest"][1].inputs == (maybe.name,)


@pytest.mark.parametrize("extent", [4, sym("n")])
def test_the_interpreter_says_what_a_run_says(extent: Dim) -> None:
    b = Builder("g")
    with b.source("here"):
        x, i = b.input("x", DType.F32, (extent,)), b.input("i", I64, (2,))
        graph = b.finish([b.one("gather", [x, i], axis=0)], names=["y"])
    with pytest.raises(ExecutionError, match=r"node 'here' \(gather\): index -9 is outside of axis 0, which has 4"):
        run_graph(graph, {"x": np.zeros(4, np.float32), "i": np.array([0, -9])})


def test_what_is_known_to_be_wrong_is_refused_at_once() -> None:
    b = Builder("g")
    x = b.input("x", DType.F32, (sym("n"), 4))
    with pytest.raises(ShapeError, match=r"gather: index -5 is outside of axis 1, which has 4 elements"):
        b.one("gather", [x, b.constant(np.array([0, -5]))], axis=1)
    b.one("gather", [x, b.known(np.array([sym("n") - 1, 0], dtype=object))], axis=0)
    assert not _checks(b) and any(n.op == "require" for n in b.nodes)


def test_a_long_axis_is_resized_inside() -> None:
    """f32 rounds the last element of this axis up to one that is not there."""
    extent = 2**24 + 4
    x = np.zeros(extent, np.uint8)
    x[-1] = 7
    attrs = {"sizes": (2,), "scales": None, "mode": "nearest", "coordinate_mode": "align_corners",
             "nearest_mode": "floor", "cubic_coeff_a": -0.75, "exclude_outside": False}  # fmt: skip
    assert reference("resize", [x], attrs, [(2,)])[0].tolist() == [0, 7]
    node, b = make_node("resize", [x], attrs)
    assert run_kernel(node_kernel(node, b.lookup), {"x0": x})[node.output.name].tolist() == [0, 7]
