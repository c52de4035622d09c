"""Recipes: the text form and its errors."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapsto.plan.recipe import Recipe, made, of, parse_recipe

names = st.one_of(st.from_regex(r"[a-z][a-z0-9_./]{0,6}", fullmatch=True), st.text(min_size=1, max_size=5))
rules = st.sampled_from(["compose", "epilogue", "rows", "absorb", "reading"])
recipes = st.recursive(
    names.map(of),
    lambda inner: st.builds(
        lambda rule, parts: Recipe(rule, tuple(parts)), rules, st.lists(inner, min_size=1, max_size=4)
    ),
)


@given(recipes)
def test_the_text_form_round_trips(recipe: Recipe) -> None:
    assert parse_recipe(str(recipe)) == recipe


def test_a_chain_of_one_rule_is_one_list() -> None:
    chain = made("compose", made("compose", of("a"), of("b")), of("c"))
    assert str(chain) == "compose(a, b, c)"
    assert str(made("compose", of("a"), made("compose", of("b"), of("c")))) == "compose(a, compose(b, c))"


@pytest.mark.parametrize(
    "text",
    ["", "compose(", "compose(a", "compose(a,)", "compose()", "a b", "a)", '"a', "compose(a) b", "(a)", "r(" * 500],
)
def test_what_is_no_recipe(text: str) -> None:
    with pytest.raises(ValueError):
        parse_recipe(text)
