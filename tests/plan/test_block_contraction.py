"""Contractions by weights in blocks: what is recognised as one, what its operands are counted as."""

from __future__ import annotations

import pytest

from mapsto.devices.cpu.traits import TRAITS
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, add, floordiv, mod, sym
from mapsto.ir.graph import Value
from mapsto.kernel.ast import Iter, Load, Op, Reduce, Stmt
from mapsto.kernel.blocks import real_of
from mapsto.plan.contraction import Contraction, absorb, recognise
from mapsto.plan.contraction_tally import TemplateShare, contraction_tally
from mapsto.plan.layout import plain

from ..machine.test_spec import simple_spec

F32 = DType.F32
ROW, J, K = sym("i"), sym("j"), sym("k")
BOTH = frozenset({"q", "s"})


def product(
    at: tuple[Dim, Dim] = (floordiv(K, 32), J), q: tuple[Dim, Dim] = (K, J), dtype: DType = DType.I8, depth: int = 96
) -> Stmt:
    """x[i, k] * q * s, summed over k. at, q: where the scale and the integer are read."""
    w = Op("mul", (real_of(Load("q", q, dtype)), Load("s", at, F32)), F32)
    total = Reduce("sum", (Iter("k", depth),), Op("mul", (Load("x", (ROW, K), F32), w), F32))
    return Stmt("y", F32, (Iter("i", 1), Iter("j", 48)), total)


def found(stmt: Stmt, constants: frozenset[str] = BOTH) -> Contraction | None:
    made = recognise(stmt, (1, 48), constants, TRAITS)
    return None if made is None else made[0]


@pytest.mark.parametrize("dtype", [DType.I8, DType.I4])
def test_blocks_of_channels(dtype: DType) -> None:
    c = found(product(dtype=dtype))
    assert c is not None and c.scale is not None and c.block == 32
    assert [load.tensor for load in c.operands] == ["x", "q", "s"]
    whole = found(product((0, J), dtype=dtype))
    assert whole is not None and whole.block == 96


@pytest.mark.parametrize(
    ("stmt", "constants"),
    [
        (product(), frozenset({"q"})),
        (product(), frozenset({"s"})),
        (product((floordiv(J, 32), K)), BOTH),
        (product((mod(K, 32), J)), BOTH),
        (product((floordiv(add(K, 1), 32), J)), BOTH),
        (product((floordiv(K, 32), 0)), BOTH),
        (product(q=(J, K)), BOTH),
        (product(dtype=DType.I16), BOTH),
    ],
    ids=["scales of a run", "integers of a run", "the other way", "by rest", "moved", "a column's", "turned", "shorts"],
)  # fmt: skip
def test_what_is_read_in_another_way_is_left_to_loops(stmt: Stmt, constants: frozenset[str]) -> None:
    assert found(stmt, constants) is None


def test_a_reduction_that_is_taken_apart_has_no_blocks() -> None:
    """Read through a reshape of [6, 16] to [96], channels are two iterators: a block lies across them."""
    c = found(product())
    assert c is not None
    flat = Stmt("x", F32, (Iter("a", 1), Iter("b", 96)), Load("z", (floordiv(sym("b"), 16), mod(sym("b"), 16)), F32))
    assert absorb(c, flat) is None
    turned = Stmt("x", F32, (Iter("a", 1), Iter("b", 96)), Load("z", (sym("b"), sym("a")), F32))
    through = absorb(c, turned)
    assert through is not None and through.scale == c.scale and through.a.tensor == "z"


@pytest.mark.parametrize(("dtype", "bits"), [(DType.I8, 8), (DType.I4, 4)])
def test_bytes_are_those_of_packed_integers_and_scales(dtype: DType, bits: int) -> None:
    c = found(product(dtype=dtype))
    assert c is not None
    shapes = {"x": (1, 96), "q": (96, 48), "s": (3, 48), "y": (1, 48)}
    types = {"q": dtype}
    values = {name: Value(name, types.get(name, F32), shape) for name, shape in shapes.items()}
    layouts = {name: plain(shape) for name, shape in shapes.items()}
    tally = contraction_tally(c, (), values, layouts, {}, simple_spec(), TemplateShare(1.0))
    assert sorted(s.bytes for s in tally.streams if not s.writes) == sorted([96 * 4, 96 * 48 * bits / 8, 3 * 48 * 4])
