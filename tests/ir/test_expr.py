"""Integer expressions: building, simplifying and bounding keep values; what is claimed as known holds."""

import functools
import os
import pickle
import subprocess
import sys
from dataclasses import dataclass

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from mapsto.ir.expr import broadcast, evaluate, floordiv, linear, load, maximum, minimum, mod, product, sym, symbols
from mapsto.ir.expr_proofs import bounds, equal, known_at_least, known_in
from mapsto.ir.expr_rewrite import rejoined, rename_loads, simplify, substitute
from mapsto.ir.expr_text import parse_dim

SIZES = ("n", "m")
ITERS = ("i", "j")


@dataclass(frozen=True)
class Tree:
    """An expression as it was written, to be evaluated without the library."""

    op: str
    args: tuple

    def value(self, env):
        if self.op == "int":
            return self.args[0]
        if self.op == "sym":
            return env[self.args[0]]
        a, b = (arg.value(env) for arg in self.args)
        table = {
            "+": lambda: a + b, "-": lambda: a - b, "*": lambda: a * b, "//": lambda: a // b, "%": lambda: a % b,
            "min": lambda: min(a, b), "max": lambda: max(a, b),
        }  # fmt: skip
        return table[self.op]()

    def build(self):
        if self.op == "int":
            return self.args[0]
        if self.op == "sym":
            return sym(self.args[0])
        a, b = (arg.build() for arg in self.args)
        table = {
            "+": lambda: a + b, "-": lambda: a - b, "*": lambda: a * b,
            "//": lambda: floordiv(a, b), "%": lambda: mod(a, b),
            "min": lambda: minimum(a, b), "max": lambda: maximum(a, b),
        }  # fmt: skip
        return table[self.op]()


def ints(low, high):
    return st.integers(low, high).map(lambda v: Tree("int", (v,)))


leaves = ints(-6, 12) | st.sampled_from(SIZES + ITERS).map(lambda name: Tree("sym", (name,)))
# divisors are positive wherever they are evaluated: n + 1, or a constant
divisors = ints(1, 8) | st.sampled_from(SIZES).map(lambda s: Tree("+", (Tree("sym", (s,)), Tree("int", (1,)))))


def grow(inner):
    pairs = st.tuples(inner, inner)
    return (
        st.tuples(st.sampled_from(["+", "-", "+", "min", "max"]), pairs).map(lambda t: Tree(t[0], t[1]))
        | st.tuples(inner, ints(-4, 8) | leaves).map(lambda t: Tree("*", t))
        | st.tuples(st.sampled_from(["//", "%"]), st.tuples(inner, divisors)).map(lambda t: Tree(t[0], t[1]))
    )


trees = st.recursive(leaves, grow, max_leaves=8)
environments = st.fixed_dictionaries(
    {"n": st.integers(0, 7), "m": st.integers(0, 7), "i": st.integers(-5, 9), "j": st.integers(-5, 9)}
)
# ranges of i and j: fixed, or up to a size
extents = st.integers(1, 9) | st.sampled_from(SIZES)


@st.composite
def ranged(draw):
    """(ranges, an environment in which every iterator is inside of its range)"""
    env = {name: draw(st.integers(0, 7)) for name in SIZES}
    ranges = {}
    for name in ITERS:
        extent = draw(extents)
        dim, count = (sym(extent), env[extent]) if isinstance(extent, str) else (extent, extent)
        assume(count > 0)
        ranges[name] = (0, dim - 1)
        env[name] = draw(st.integers(0, count - 1))
    return ranges, env


@given(trees, environments)
@settings(max_examples=400, deadline=None)
def test_building_keeps_the_value(tree, env):
    assert evaluate(tree.build(), env) == tree.value(env)


@given(trees, ranged())
@settings(max_examples=600, deadline=None)
def test_simplify_keeps_the_value(tree, case):
    ranges, env = case
    assert evaluate(simplify(tree.build(), ranges), env) == tree.value(env)


@given(trees, ranged())
@settings(max_examples=600, deadline=None)
def test_bounds_hold(tree, case):
    ranges, env = case
    low, high = bounds(tree.build(), ranges)
    value = tree.value(env)
    assert low is None or evaluate(low, env) <= value
    assert high is None or value <= evaluate(high, env)
    for bound in (low, high):
        assert bound is None or not symbols(bound) & set(ITERS)


@given(trees, st.integers(-4, 4), st.fixed_dictionaries({k: st.integers(0, 9) for k in SIZES + ITERS}))
@settings(max_examples=600, deadline=None)
def test_known_at_least_is_true(tree, least, env):
    e = tree.build()
    assert not known_at_least(e, least) or tree.value(env) >= least


@given(trees, st.integers(1, 12), ranged())
@settings(max_examples=400, deadline=None)
def test_known_in_is_true(tree, extent, case):
    ranges, env = case
    assert not known_in(tree.build(), extent, ranges) or 0 <= tree.value(env) < extent


@given(trees, trees, environments)
@settings(max_examples=300, deadline=None)
def test_substitution_keeps_the_value(tree, inner, env):
    found = substitute(tree.build(), {"i": inner.build()})
    assert evaluate(found, env) == tree.value({**env, "i": inner.value(env)})


@given(trees, environments)
@settings(max_examples=300, deadline=None)
def test_linear_form(tree, env):
    found = linear(tree.build(), "i")
    if found is not None:
        coefficient, rest = found
        assert "i" not in symbols(coefficient) | symbols(rest)
        assert evaluate(coefficient, env) * env["i"] + evaluate(rest, env) == tree.value(env)


@given(trees)
@settings(max_examples=300, deadline=None)
def test_text_parses_back(tree):
    e = tree.build()
    assert parse_dim(str(e)) == e


@given(trees, trees)
@settings(max_examples=200, deadline=None)
def test_the_form_is_canonical(a, b):
    x, y = a.build(), b.build()
    assert x + y == y + x and x * y == y * x
    assert (x + y) - y == x
    assert hash(x + y) == hash(y + x)


def test_merged_axes_split_again():
    """((i*12 + j) // 12, (i*12 + j) % 12) is (i, j)."""
    n, i, j = sym("n"), sym("i"), sym("j")
    ranges = {"i": (0, n - 1), "j": (0, 11)}
    flat = i * 12 + j
    assert simplify(floordiv(flat, 12), ranges) == i and simplify(mod(flat, 12), ranges) == j


def test_symbolic_axes_split_again():
    n, t, i, j = sym("n"), sym("t"), sym("i"), sym("j")
    ranges = {"i": (0, n - 1), "j": (0, t - 1)}
    flat = i * t + j
    assert simplify(floordiv(flat, t), ranges) == i and simplify(mod(flat, t), ranges) == j


def test_division_of_a_merged_axis_by_a_multiple():
    """(4*i + j) // 8 == i // 2 for 0 <= j < 4."""
    i, j = sym("i"), sym("j")
    ranges = {"i": (0, 9), "j": (0, 3)}
    assert simplify(floordiv(4 * i + j, 8), ranges) == floordiv(i, 2)
    assert simplify(mod(4 * i + j, 8), ranges) == 4 * mod(i, 2) + j


def test_exact_division():
    n, t = sym("n"), sym("t")
    assert floordiv(n * t * 768, t * 12) == n * 64
    assert floordiv(product((n, 3, 4)), n) == 12
    assert floordiv(floordiv(n, 2), 3) == floordiv(n, 6)


def test_loads_are_renamed_and_evaluated():
    e = load("t", (sym("i") + 1,)) * 2
    renamed = rename_loads(e, {"t": "u"})
    assert str(renamed) == "2*u[i + 1]"
    assert evaluate(renamed, {"i": 3}, lambda name, at: 10 * at[0] if name == "u" else 0) == 80


def test_the_truth_of_a_symbol_is_not_asked():
    with pytest.raises(TypeError, match="not known"):
        bool(sym("n"))


def test_division_by_zero_is_refused():
    with pytest.raises(ZeroDivisionError):
        floordiv(sym("n"), 0)
    with pytest.raises(ZeroDivisionError):
        mod(sym("n"), -2)


@given(st.lists(st.sampled_from(["a", "b", "c", 1, 4]), min_size=1, max_size=6), st.integers(0, 5), st.randoms())
def test_extents_that_fit_broadcast_in_any_order(names, size, random):
    full = 4 if 4 in names else size
    env = {name: random.choice([1, full]) for name in "abc"}
    dims = [sym(n) if isinstance(n, str) else n for n in names]
    forward, backward = functools.reduce(broadcast, dims), functools.reduce(broadcast, dims[::-1] + dims)
    assert forward == backward
    values = {evaluate(d, env) for d in dims}
    assert evaluate(forward, env) == (values - {1} or {1}).pop()
    assert known_at_least(forward, 0)


def test_equal_decides_what_it_can():
    a, b = sym("a"), sym("b")
    assert (equal(a, a), equal(a + 1, 0), equal(a, a + 2), equal(3, 3)) == (1, 0, 0, 1)
    assert equal(a, b) == equal(b, a)
    assert [evaluate(equal(a, b), {"a": 2, "b": n}) for n in (1, 2)] == [0, 1]
    assert bounds(sym("i") * equal(a, b), {"i": (0, 4)}) == (0, 4 * equal(a, b))


@pytest.mark.parametrize("n", [7, sym("t")])
def test_an_index_that_was_cut_in_two_is_one_again(n):
    x = sym("i") + 3 * sym("j")
    cut = 256 * n * floordiv(x, n) + 256 * mod(x, n)
    assert rejoined(cut + sym("k")) == 256 * x + sym("k")
    assert rejoined(sym("m") * cut) == 256 * sym("m") * x


def test_rejoining_leaves_what_is_no_whole():
    i, j = sym("i"), sym("j")
    for e in (mod(i, 7), 8 * floordiv(i, 7) + mod(i, 7), 7 * floordiv(i, 7) + mod(j, 7), i + 7 * floordiv(i, 7)):
        assert rejoined(e) == e


@given(trees, environments)
@settings(max_examples=400, deadline=None)
def test_rejoining_keeps_the_value(tree, env):
    assert evaluate(rejoined(tree.build()), env) == tree.value(env)


def test_what_is_pickled_has_the_hash_of_the_process_that_reads_it():
    """Hashes of strings differ from process to process."""
    e = floordiv(sym("n") * sym("m") + 3, sym("k")) * 2 + sym("n")
    program = (
        "import pickle, sys; from mapsto.ir.expr import floordiv, sym\n"
        "e = floordiv(sym('n') * sym('m') + 3, sym('k')) * 2 + sym('n')\n"
        "read = pickle.load(sys.stdin.buffer)\n"
        "(call,) = [a for m, _ in read.terms for a in m if not hasattr(a, 'name')]\n"
        "(own,) = [a for m, _ in e.terms for a in m if not hasattr(a, 'name')]\n"
        "print(read == e, hash(read) == hash(e), hash(call) == hash(own))\n"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, input=pickle.dumps(e), capture_output=True, env=environment, check=True)
    assert done.stdout.split() == [b"True"] * 3
    assert pickle.loads(pickle.dumps(e)) == e
