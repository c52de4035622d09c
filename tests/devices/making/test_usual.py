"""Which extents are taken for one another where a run's open axes have equal extents."""

from __future__ import annotations

from mapsto.devices.making.usual import _classes
from mapsto.ir.expr import sym

A, B, C, D, E = map(sym, "abcde")


def test_extents_are_equal_by_way_of_pairs_and_no_others() -> None:
    assert _classes([(A, B), (C, D)]) == [{A, B}, {C, D}]
    assert _classes([(A, B), (B, C)]) == [{A, B, C}]
    assert _classes([(A, B), (C, D), (E, E)]) == [{A, B}, {C, D}, {E}]
    assert sorted(map(len, _classes([(A, B), (C, D), (B, D), (E, 7)]))) == [2, 4]
    assert _classes([]) == []
