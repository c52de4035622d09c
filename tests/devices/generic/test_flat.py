"""Indices become places; what is not proved to be inside of its tensor is said to be."""

from __future__ import annotations

import pytest

from mapsto.devices.generic.flat import Flattener
from mapsto.ir.expr import Dim, sym
from mapsto.plan.layout import plain

N, AT = sym("n"), sym("i")

SAFE: list[tuple[tuple[Dim, ...], tuple[Dim, ...]]] = [
    ((3,), (0,)),
    ((3,), (AT,)),
    ((2, 3), (0, AT)),
    ((N, 3), (sym("k"), AT)),
]
UNSAFE: list[tuple[tuple[Dim, ...], tuple[Dim, ...]]] = [
    ((0,), (0,)),
    ((N,), (0,)),
    ((N, 3), (0, AT)),
    ((3,), (AT + 1,)),
    ((3,), (AT - 1,)),
    ((N,), (sym("k") + 1,)),
]
RANGES = {"i": (0, 2), "k": (0, N - 1)}


@pytest.mark.parametrize(("shape", "index"), SAFE)
def test_what_is_inside(shape: tuple[Dim, ...], index: tuple[Dim, ...]) -> None:
    assert Flattener({"t": plain(shape)}).place("t", index, RANGES)[1]


@pytest.mark.parametrize(("shape", "index"), UNSAFE)
def test_what_may_be_outside(shape: tuple[Dim, ...], index: tuple[Dim, ...]) -> None:
    """The first element too, of a tensor that may have none."""
    assert not Flattener({"t": plain(shape)}).place("t", index, RANGES)[1]
