"""`If`: both branches, nested ones, what they read and what they yield, sizes that only one of them has."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from tests.session.support import Feed, check, normal, parse

from mapsto.devices.cpu.workers import Workers
from mapsto.errors import ExecutionError, UnsupportedError
from mapsto.importers.onnx import load
from mapsto.plan.plan import PlannedRegion


def conditions(names: str, **arrays: np.ndarray) -> list[Feed]:
    """The arrays with every combination of true and false."""
    combinations = itertools.product((True, False), repeat=len(names))
    return [{**arrays, **{n: np.array(v) for n, v in zip(names, values, strict=True)}} for values in combinations]


def both_ways(then: str, otherwise: str, before: str = "", after: str = "y = Identity(z)") -> str:
    return f"""g (float[N, 8] x, bool c) => (float[N, 8] y) {{
        {before}
        z = If (c) <
            then_branch = t () => (float[N, 8] a) {{ {then} }},
            else_branch = e () => (float[N, 8] b) {{ {otherwise} }}
        >
        {after}
    }}"""


CASES = {
    "computed": both_ways("a = Relu(x)", "b = Neg(x)"),
    "an input as it is": both_ways("a = Identity(x)", "b = Neg(x)"),
    "an input in both": both_ways("a = Identity(x)", "b = Identity(x)"),
    "a value of the graph around": both_ways("a = Identity(h)", "b = Neg(h)", "h = Exp(x)"),
    "read outside as well": both_ways("a = Identity(h)", "b = Neg(h)", "h = Exp(x)", "y = Mul(z, h)"),
    "a view": both_ways("a = Transpose(k)", "b = Exp(x)", "s = Constant<value_ints = [8, -1]>()\n k = Reshape(x, s)"),
    "read on": both_ways("a = Tanh(x)", "b = Sigmoid(x)", "", "y = Softmax(z)"),
    "several nodes": both_ways(
        "p = Exp(h) q = Add(p, x) a = Softmax(q)", "r = Tanh(h) s = Mul(r, r) b = Sub(s, h)", "h = Relu(x)"
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_either_branch(name: str, workers: Workers) -> None:
    feeds = [f for rows in (3, 0, 17) for f in conditions("c", x=normal(rows, 8))]
    check(workers, parse(CASES[name]), *feeds)


def test_constants_that_branches_yield(workers: Workers) -> None:
    model = parse("""g (float[3] x, bool c) => (float[3] y, float[3] z) {
        y = If (c) <
            then_branch = t () => (float[3] a) { a = Constant<value = float[3] {1.0, 2.0, 3.0}>() },
            else_branch = e () => (float[3] b) { b = Constant<value = float[3] {4.0, 5.0, 6.0}>() }
        >
        z = Add(x, y)
    }""")
    check(workers, model, *conditions("c", x=normal(3)))


def test_branches_inside_branches(workers: Workers) -> None:
    model = parse("""g (float[N] x, bool c, bool d, bool e) => (float[N] y) {
        z = Exp(x)
        y = If (c) <
            then_branch = t () => (float[N] a) {
                q = Mul(z, x)
                p = If (d) <
                    then_branch = tt () => (float[N] aa) {
                        r = Add(q, z)
                        aa = If (e) <
                            then_branch = ttt () => (float[N] aaa) { aaa = Sub(r, q) },
                            else_branch = tte () => (float[N] aab) { aab = Identity(x) }
                        >
                    },
                    else_branch = te () => (float[N] ab) { ab = Identity(q) }
                >
                a = Neg(p)
            },
            else_branch = f () => (float[N] b) { b = Neg(z) }
        >
    }""")
    check(workers, model, *conditions("cde", x=normal(7)))


def test_one_branch_after_another(workers: Workers) -> None:
    model = parse("""g (float[N] x, bool c, bool d) => (float[N] y, float[N] h) {
        h = If (c) <
            then_branch = t1 () => (float[N] a1) { a1 = Relu(x) },
            else_branch = e1 () => (float[N] b1) { b1 = Neg(x) }
        >
        y = If (d) <
            then_branch = t2 () => (float[N] a2) { a2 = Exp(h) },
            else_branch = e2 () => (float[N] b2) { b2 = Add(h, x) }
        >
    }""")
    check(workers, model, *conditions("cd", x=normal(9)))


def test_several_outputs_one_of_them_twice(workers: Workers) -> None:
    model = parse("""g (float[N] x, bool c) => (float[N] y, float[N] z, float[N] w) {
        w, v = If (c) <
            then_branch = t () => (float[N] a1, float[N] a2) { a1 = Relu(x) a2 = Identity(a1) },
            else_branch = e () => (float[N] b1, float[N] b2) { b1 = Neg(x) b2 = Identity(x) }
        >
        y = Identity(v)
        z = Add(v, w)
    }""")
    check(workers, model, *conditions("c", x=normal(5)))


def test_a_condition_that_is_computed(workers: Workers) -> None:
    model = parse("""g (float[N] x) => (float[N] y) {
        s = ReduceSum<keepdims = 0>(x)
        zero = Constant<value = float {0.0}>()
        c = Greater(s, zero)
        h = Tanh(x)
        y = If (c) <
            then_branch = t () => (float[N] a) { a = Add(h, x) },
            else_branch = e () => (float[N] b) { b = Sub(h, x) }
        >
    }""")
    x = np.abs(normal(11))
    check(workers, model, {"x": x}, {"x": -x}, {"x": normal(0)})


def test_a_condition_of_shape_1(workers: Workers) -> None:
    model = parse("""g (float[N] x, bool[1] c) => (float[N] y) {
        y = If (c) <
            then_branch = t () => (float[N] a) { a = Relu(x) },
            else_branch = e () => (float[N] b) { b = Neg(x) }
        >
    }""")
    check(workers, model, *({"x": normal(5), "c": np.array([v])} for v in (True, False)))


def test_a_branch_that_yields_what_it_is_given_between_convolutions(workers: Workers) -> None:
    """The value that both branches yield has one home, with a border; a view of something else cannot be it."""
    model = parse("""g (float[1, 16, H, 8] x, bool c, float[16, 16, 3, 3] w) => (float[1, 16, H, 8] y) {
        r = Conv<pads = [1, 1, 1, 1]>(x, w)
        q = If (c) <
            then_branch = t () => (float[1, 16, H, 8] a) { k = Conv<pads = [1, 1, 1, 1]>(r, w) a = Relu(k) },
            else_branch = e () => (float[1, 16, H, 8] b) { b = Identity(r) }
        >
        y = Conv<pads = [1, 1, 1, 1]>(q, w)
    }""")
    feeds = [f for h in (5, 9) for f in conditions("c", x=normal(1, 16, h, 8), w=normal(16, 16, 3, 3, seed=1) * 0.1)]
    check(workers, model, *feeds)


def test_a_convolution_s_copy_made_in_a_branch_is_not_read_outside(workers: Workers) -> None:
    """Both branches and what follows need x in another layout; each path makes it for itself."""
    model = parse("""g (float[1, 16, 6, 6] x, bool c, float[32, 16, 3, 3] w) => (float[1, 32, 6, 6] y) {
        q = If (c) <
            then_branch = t () => (float[1, 32, 6, 6] a) { a = Conv<pads = [1, 1, 1, 1]>(x, w) },
            else_branch = e () => (float[1, 32, 6, 6] b) { k = Conv<pads = [1, 1, 1, 1]>(x, w) b = Neg(k) }
        >
        r = Conv<pads = [1, 1, 1, 1]>(x, w)
        y = Add(q, r)
    }""")
    check(workers, model, *conditions("c", x=normal(1, 16, 6, 6), w=normal(32, 16, 3, 3, seed=1) * 0.1))


def test_a_size_that_only_one_branch_finds_out(workers: Workers) -> None:
    model = parse("""g (float[N] x, bool c) => (float y) {
        y = If (c) <
            then_branch = t () => (float a) { k = NonZero(x) v = Cast<to = 1>(k) a = ReduceSum<keepdims = 0>(v) },
            else_branch = e () => (float b) { b = ReduceSum<keepdims = 0>(x) }
        >
    }""")
    feeds = [f for x in (normal(5), np.zeros(5, np.float32)) for f in conditions("c", x=x)]
    check(workers, model, *feeds)


def test_a_condition_known_beforehand_leaves_one_branch(workers: Workers) -> None:
    model = parse("""g (float[N] x) => (float[N] y) {
        c = Constant<value = bool {1}>()
        y = If (c) <
            then_branch = t () => (float[N] a) { a = Exp(x) },
            else_branch = e () => (float[N] b) { b = Neg(x) }
        >
    }""")
    exe = check(workers, model, {"x": normal(5)})
    assert not any(isinstance(item, PlannedRegion) for item in exe.plan.items)


# -- extents that the branches do not agree on -------------------------------------------------------------------------

OTHER_EXTENTS = {
    "twice as long": both_ways("a = Concat<axis = 0>(x, x)", "b = Identity(x)"),
    "fixed in one": both_ways(
        "a = Constant<value = float[1, 8] {1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0}>()", "b = Neg(x)"
    ),
    "in the wider of two axes": both_ways("a = Concat<axis = 1>(x, x)", "b = Concat<axis = 0>(x, x)"),
    "read on": both_ways("a = Concat<axis = 0>(x, x, x)", "b = Exp(x)", "", "w = Softmax(z) y = Add(w, z)"),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHER_EXTENTS)
def test_branches_of_other_extents(name: str, workers: Workers) -> None:
    text = OTHER_EXTENTS[name].replace("(float[N, 8] y)", "(y)").replace("(float[N, 8] a)", "(a)")
    model = parse(text.replace("(float[N, 8] b)", "(b)"))
    check(workers, model, *[f for rows in (3, 0, 1) for f in conditions("c", x=normal(rows, 8))])


def test_extents_that_a_branch_finds_out(workers: Workers) -> None:
    """The elements that are not zero, or all of them."""
    model = parse("""g (float[N] x, bool c) => (y) {
        z = If (c) <
            then_branch = t () => (a) { i = NonZero(x) k = Constant<value_ints = [0]>() a = Squeeze(i, k) },
            else_branch = e () => (b) { s = Shape(x) n = Squeeze(s) o = Constant<value_int = 1>()
                                        p = Constant<value_int = 0>() b = Range(p, n, o) }
        >
        y = Add(z, z)
    }""")
    zeros = np.array([0, 1.5, 0, -2, 0], np.float32)
    check(workers, model, *conditions("c", x=zeros), *conditions("c", x=zeros[:1]), *conditions("c", x=zeros[:0]))


def test_a_branch_that_shapes_rule_out_beside_one_that_finds_its_extent(workers: Workers) -> None:
    model = parse("""g (float[3] x, bool c) => (y) {
        z = If (c) <
            then_branch = t () => (a) { s = Constant<value_ints = [7, 1]>() a = Reshape(x, s) },
            else_branch = e () => (b) { i = NonZero(x) b = Cast<to = 1>(i) }
        >
        y = Neg(z)
    }""")
    feed = {"x": np.array([0, 1, 2], np.float32), "c": np.array(False)}
    exe = check(workers, model, feed, onnxruntime=False)
    with pytest.raises(ExecutionError, match="its then branch was reached"):
        exe.run({**feed, "c": np.array(True)})


def test_branches_of_other_extents_inside_branches(workers: Workers) -> None:
    model = parse("""g (float[N] x, bool c, bool d) => (y) {
        z = If (c) <
            then_branch = t () => (a) {
                a = If (d) <
                    then_branch = p () => (q) { q = Concat<axis = 0>(x, x) },
                    else_branch = r () => (s) { s = Neg(x) }
                >
            },
            else_branch = e () => (b) {
                o = Constant<value_ints = [1]>() l = Constant<value_ints = [99]>() b = Slice(x, o, l)
            }
        >
        y = Exp(z)
    }""")
    check(workers, model, *[f for rows in (3, 0, 1) for f in conditions("cd", x=normal(rows))])


def test_branches_of_other_ranks_are_one_clear_error() -> None:
    text = both_ways("k = Constant<value_ints = [0]>() a = ReduceSum<keepdims = 0>(x, k)", "b = Identity(x)")
    with pytest.raises(UnsupportedError, match=r"output 0 is f32\[8\] in one branch and f32\[N, 8\] in the other"):
        load(parse(text.replace("(float[N, 8] a)", "(a)")))
