"""The text form of integer expressions is read back exactly."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mapsto.errors import ParseError
from mapsto.ir.expr import broadcast, floordiv, load, maximum, minimum, mod, sym
from mapsto.ir.expr_proofs import equal
from mapsto.ir.expr_text import MAX_DEPTH, parse_dim

_names = st.sampled_from(["n", "batch_size", "x.1", "min", "h$0"])
_leaves = st.one_of(st.integers(-50, 50), _names.map(sym))


def _larger(inner):
    pair = st.tuples(inner, inner)
    divisor = st.one_of(st.integers(1, 9), _names.map(sym))
    return st.one_of(
        pair.map(lambda p: p[0] + p[1]),
        pair.map(lambda p: p[0] - p[1]),
        pair.map(lambda p: p[0] * p[1]),
        st.tuples(inner, divisor).map(lambda p: floordiv(*p)),
        st.tuples(inner, divisor).map(lambda p: mod(*p)),
        pair.map(lambda p: minimum(*p)),
        pair.map(lambda p: maximum(*p)),
        pair.map(lambda p: equal(*p)),
        pair.map(lambda p: broadcast(*p)),
        st.lists(inner, min_size=1, max_size=2).map(lambda index: load("t.0", index)),
    )


@settings(max_examples=300, deadline=None)
@given(st.recursive(_leaves, _larger, max_leaves=8))
def test_the_text_of_an_expression_is_read_back(e):
    assert parse_dim(str(e)) == e


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "n +",
        "n n",
        "(n)",
        "(n)//(0)",
        "(n)/(2)",
        "f(n, 2)",
        "min(n)",
        "min(n, 2",
        "t[]",
        "n]",
        "n ** 2",
        "é",
        "1" * 30,
        "a[1",
        "n;",
        "2^n",
    ],
)
def test_text_that_is_no_expression_is_refused(text):
    with pytest.raises(ParseError):
        parse_dim(text)


def test_the_error_names_the_column():
    with pytest.raises(ParseError, match="column 7"):
        parse_dim("n + 2*?")


def test_nesting_is_bounded():
    deep = "n"
    for _ in range(MAX_DEPTH * 20):
        deep = f"({deep})//(2)"
    with pytest.raises(ParseError, match="deeper"):
        parse_dim(deep)


def test_a_product_that_multiplies_out_without_end_is_refused():
    with pytest.raises(ParseError, match="terms"):
        parse_dim("*".join(f"(a{i} + b{i})//(1)" for i in range(40)))
