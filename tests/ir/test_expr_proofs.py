"""What `known_at_least` claims holds for all sizes."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from mapsto.ir.expr import Dim, evaluate, floordiv, maximum, minimum, mod, sym
from mapsto.ir.expr_proofs import known_at_least

NAMES = ("m", "n")
leaves = st.one_of(st.integers(-6, 6), st.sampled_from(NAMES).map(sym))


def _grown(inner: st.SearchStrategy[Dim]) -> st.SearchStrategy[Dim]:
    pairs = st.tuples(inner, inner)
    return st.one_of(
        pairs.map(lambda p: p[0] + p[1]),
        pairs.map(lambda p: p[0] - p[1]),
        pairs.map(lambda p: p[0] * p[1]),
        pairs.map(lambda p: minimum(*p)),
        pairs.map(lambda p: maximum(*p)),
        st.tuples(inner, st.integers(1, 5)).map(lambda p: floordiv(*p)),
        st.tuples(inner, st.integers(1, 5)).map(lambda p: mod(*p)),
    )


dims = st.recursive(leaves, _grown, max_leaves=8)


@settings(max_examples=400, deadline=None)
@given(dims, st.integers(-4, 4))
def test_what_is_claimed_holds_for_all_sizes(e: Dim, least: int) -> None:
    if known_at_least(e, least):
        for m in (0, 1, 2, 3, 5, 8, 13):
            for n in (0, 1, 2, 4, 7, 12):
                assert evaluate(e, {"m": m, "n": n}) >= least


def test_calls_are_seen_through() -> None:
    n = sym("n")
    assert known_at_least(maximum(n - 5, 0) - n + 5, 0)
    assert known_at_least(n - minimum(n, 512), 0)
    assert known_at_least(512 - minimum(n, 512), 0)
    assert known_at_least(n - floordiv(n, 2), 0)
    assert known_at_least(2 * floordiv(n, 2) - n + 1, 0)
    assert not known_at_least(n - 1, 0)
    assert not known_at_least(2 * floordiv(n, 2) - n, 0)
