"""What contractions do, counted: extents by which a template is asked, products, epilogues, operands."""

from __future__ import annotations

import pytest

from mapsto.devices.cpu.traits import TRAITS
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import sym
from mapsto.ir.graph import Value
from mapsto.kernel.ast import Const, Iter, Load, Op, Reduce, Stmt, Where
from mapsto.machine.cost import Stream
from mapsto.machine.spec import MULTIPLY_ADD
from mapsto.plan.contraction import ACCUMULATOR, Contraction, recognise
from mapsto.plan.contraction_tally import (
    TemplateShare,
    WinogradShare,
    contraction_tally,
    extents_of,
    winograd_tally,
)
from mapsto.plan.layout import Layout, blocked, plain

from ..machine.test_spec import simple_spec

SPEC = simple_spec()
F32 = DType.F32
WHOLE = TemplateShare(1.0)


def matmul(m: object = 12, k: int = 20, n: int = 48) -> tuple[Contraction, dict[str, Layout], dict[str, Value]]:
    i, j, r = Iter("i", m), Iter("j", n), Iter("k", k)  # type: ignore[arg-type]
    product = Op("mul", (Load("a", (sym("i"), sym("k")), F32), Load("b", (sym("k"), sym("j")), F32)), F32)
    stmt = Stmt("out", F32, (i, j), Reduce("sum", (r,), product))
    return _recognised(stmt, {"a": (m, k), "b": (k, n), "out": (m, n)})


def convolution(size: int = 10) -> tuple[Contraction, dict[str, Layout], dict[str, Value]]:
    """3x3, 32 channels to 48, blocked, zeros around."""
    shapes = {"x": (1, 32, size, size), "w": (48, 32, 3, 3), "out": (1, 48, size, size)}
    n, o, y, x, c, i, j = (sym(s) for s in ("n", "o", "y", "x", "c", "i", "j"))
    inside = (y + i - 1, -1 * y - i + size, x + j - 1, -1 * x - j + size)
    read = Where(inside, Load("x", (n, c, y + i - 1, x + j - 1), F32), Const(0.0, F32))
    product = Op("mul", (read, Load("w", (o, c, i, j), F32)), F32)
    iters = tuple(Iter(name, e) for name, e in zip(("n", "o", "y", "x"), shapes["out"], strict=True))
    reds = tuple(Iter(name, e) for name, e in zip(("c", "i", "j"), (32, 3, 3), strict=True))
    c_, layouts, values = _recognised(Stmt("out", F32, iters, Reduce("sum", reds, product)), shapes)
    border = ((0, 0), (0, 0), (1, 1), (1, 1))
    return c_, layouts | {"x": blocked(shapes["x"], 1, 16, border), "out": blocked(shapes["out"], 1, 16)}, values


def _recognised(stmt: Stmt, shapes: dict[str, tuple]) -> tuple[Contraction, dict[str, Layout], dict[str, Value]]:  # type: ignore[type-arg]
    found = recognise(stmt, shapes["out"], frozenset({"w", "b"}), TRAITS)
    assert found is not None
    values = {name: Value(name, F32, shape) for name, shape in shapes.items()}
    return found[0], {name: plain(shape) for name, shape in shapes.items()}, values


def test_extents_of_a_matrix_product() -> None:
    c, layouts, _ = matmul()
    found = extents_of(c, "out", layouts, {})
    assert (found.rows, found.columns, found.channels, found.windows, found.batch) == ((12,), 48, 20, 1, 1)
    assert found.row_bytes == 80 and not found.out_block and not found.open_rows
    assert found.products == 12 * 20 * 48


def test_extents_of_a_convolution_whose_rows_do_not_join_across_the_border() -> None:
    c, layouts, _ = convolution()
    found = extents_of(c, "out", layouts, {})
    assert (found.rows, found.columns, found.channels, found.windows) == ((10, 10), 48, 32, 9)
    assert found.row_bytes == 64 and found.out_block == 16


def test_rows_that_every_operand_walks_on_join() -> None:
    i, y, j, k = Iter("i", 6), Iter("y", 7), Iter("j", 48), Iter("k", 20)
    a = Load("a", (sym("i"), sym("y"), sym("k")), F32)
    product = Op("mul", (a, Load("b", (sym("k"), sym("j")), F32)), F32)
    shapes = {"a": (6, 7, 20), "b": (20, 48), "out": (6, 7, 48)}
    c, layouts, _ = _recognised(Stmt("out", F32, (i, y, j), Reduce("sum", (k,), product)), shapes)
    assert extents_of(c, "out", layouts, {}).rows == (42,)


def test_open_rows_take_the_guess_and_are_said_to_be_open() -> None:
    c, layouts, _ = matmul(sym("m"))
    found = extents_of(c, "out", layouts, {"m": 200})
    assert found.rows == (200,) and found.open_rows and not found.open_columns


def test_products_are_divided_by_the_share_of_the_peak() -> None:
    c, layouts, values = matmul()
    found = contraction_tally(c, [], values, layouts, {}, SPEC, TemplateShare(0.5))
    assert found.products == {(F32, F32, F32): 2 * 12 * 20 * 48}
    assert found.operations == 2 * 12 * 20 * 48
    sizes = sorted((s.bytes, s.writes) for s in found.streams)
    assert sizes == [(12 * 20 * 4, False), (12 * 48 * 4, True), (20 * 48 * 4, False)]


def test_an_epilogue_runs_in_lanes_along_the_columns_and_reads_its_operands() -> None:
    c, layouts, values = matmul()
    index = (sym("i"), sym("j"))
    value = Op("add", (Load(ACCUMULATOR, index, F32), Load("bias", (sym("j"),), F32)), F32)
    stmt = Stmt("y", F32, (Iter("i", 12), Iter("j", 48)), Op("sigmoid", (value,), F32))
    layouts |= {"bias": plain((48,)), "y": plain((12, 48))}
    values |= {"bias": Value("bias", F32, (48,)), "y": Value("y", F32, (12, 48))}
    found = contraction_tally(c, [stmt], values, layouts, {}, SPEC, WHOLE)
    assert found.elements == {"add": 576, "sigmoid": 576}
    assert (192, False) in [(s.bytes, s.writes) for s in found.streams]


def test_operands_that_pass_again_come_from_where_what_lies_between_leaves_them() -> None:
    c, layouts, values = matmul()
    found = contraction_tally(c, [], values, layouts, {}, SPEC, TemplateShare(1.0, passes_a=3.0, between_a=5000.0))
    assert Stream(2 * 12 * 20 * 4, 5000.0) in found.streams


def test_distances_decide_the_level() -> None:
    c, layouts, values = matmul()
    found = contraction_tally(c, [], values, layouts, {}, SPEC, WHOLE, {"b": 1e9})
    assert next(s.distance for s in found.streams if s.bytes == 20 * 48 * 4) == 1e9


def test_a_convolution_reads_its_input_once_and_never_more_than_there_is() -> None:
    c, layouts, values = convolution()
    found = contraction_tally(c, [], values, layouts, {}, SPEC, WHOLE)
    largest = max(s.bytes for s in found.streams if not s.writes)
    assert largest == pytest.approx(48 * 32 * 9 * 4)
    assert any(s.bytes == 32 * 12 * 12 * 4 for s in found.streams)  # with its border


def test_nothing_to_multiply() -> None:
    c, layouts, values = matmul(0)
    assert contraction_tally(c, [], values, layouts, {}, SPEC, WHOLE).products == {}


def test_taps_at_points_pass_instead_of_the_taps() -> None:
    c, layouts, values = convolution()
    taps, directly = 36 * 48 * 32 * 4.0, 10 * 10 * 48 * 32 * 9
    products = TemplateShare(4.0, passes_b=3, between_b=5e5, bytes_b=taps)
    share = WinogradShare(products, added=700.0, moved=800.0, values=2e6, between=9e5)
    whole = contraction_tally(c, [], values, layouts, {}, SPEC, products, {"w": 1e9})
    found = winograd_tally(whole, share)
    assert found.products == {(F32, F32, F32): directly / 4}
    assert Stream(taps, 1e9) in found.streams and Stream(2 * taps, 5e5) in found.streams
    assert 48 * 32 * 9 * 4 not in [s.bytes for s in found.streams]
    assert {Stream(1e6, 9e5), Stream(1e6, 9e5, True)} <= set(found.streams)
    assert found.elements[MULTIPLY_ADD] == 700 and found.moves["contiguous"] == 800
