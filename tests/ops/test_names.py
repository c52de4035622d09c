"""Names of a graph in the making: no two things have the same."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mapsto.ops.names import Names

words = st.sampled_from(["x", "y", "x_1", "out", ""])


def test_a_name_that_is_kept_goes_once_to_who_asks_for_it() -> None:
    names = Names()
    names.keep(["x"])
    names.reserve(["y"])
    assert [names.fresh(hint) for hint in ("x", "x", "y", "")] == ["x", "x_1", "y_2", "_3"]


@given(st.lists(words, max_size=6), st.data())
def test_names_at_the_end_are_different(hints: list[str], data: st.DataObject) -> None:
    names = Names()
    values = [names.fresh(hint) for hint in hints]
    assert len(set(values)) == len(values)
    fixed = set(data.draw(st.lists(st.sampled_from(values), max_size=2)) if values else [])
    free = words.filter(lambda word: word and word not in fixed)
    wanted = {old: data.draw(free) for old in values if old not in fixed and data.draw(st.booleans())}
    firm = {new for new in wanted.values() if list(wanted.values()).count(new) == 1}
    given_ = names.settled(wanted, firm | fixed, fixed, set(values))
    after = [given_.get(old, old) for old in values]
    assert len(set(after)) == len(after) and not fixed & set(given_)
    assert all(given_.get(old, old) == new for old, new in wanted.items() if new in firm)
