"""The tape gives what evaluating each expression on its own gives."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mapsto.errors import ExecutionError
from mapsto.ir.expr import evaluate, floordiv, maximum, minimum, mod, sym
from mapsto.runtime.sizes import SizeTape

NAMES = ["n", "h", "w"]
_leaves = st.one_of(st.integers(-9, 9), st.sampled_from(NAMES).map(sym))


def _larger(inner):
    pair = st.tuples(inner, inner)
    divisor = st.one_of(st.integers(1, 9), st.sampled_from(NAMES).map(sym))
    return st.one_of(
        pair.map(lambda p: p[0] + p[1]),
        pair.map(lambda p: p[0] * p[1]),
        st.tuples(inner, divisor).map(lambda p: floordiv(*p)),
        st.tuples(inner, divisor).map(lambda p: mod(*p)),
        pair.map(lambda p: minimum(*p)),
        pair.map(lambda p: maximum(*p)),
    )


_exprs = st.lists(st.recursive(_leaves, _larger, max_leaves=6), min_size=1, max_size=6)
_values = st.fixed_dictionaries({name: st.integers(0, 40) for name in NAMES})


@settings(max_examples=200, deadline=None)
@given(_exprs, _values, _values)
def test_the_tape_agrees_with_evaluation(exprs, first, second):
    tape = SizeTape(exprs)
    state = tape.start(first)
    result = tape.result(state)
    assert [result[tape.index[e]] for e in exprs] == [evaluate(e, first) for e in exprs]
    values = dict(first)
    for name in NAMES:
        values[name] = second[name]
        state = tape.changed(state, name, second[name])
        result = tape.result(state)
        assert [result[tape.index[e]] for e in exprs] == [evaluate(e, values) for e in exprs]


def test_equal_expressions_stand_once():
    n = sym("n")
    tape = SizeTape([n * 4, 4 * n, n + n + n + n, 7, n])
    assert len(tape.index) == 3


def test_a_change_leaves_the_old_state_alone():
    tape = SizeTape([sym("n") * 2])
    state = tape.start({"n": 3})
    assert tape.result(tape.changed(state, "n", 5))[0] == 10
    assert tape.result(state)[0] == 6


def test_sizes_beyond_64_bits_are_an_error():
    n = sym("n")
    tape = SizeTape([n * n * n])
    with pytest.raises(ExecutionError, match="64 bits"):
        tape.result(tape.start({"n": 1 << 40}))
