"""Windows of neighbouring rows: computed at once where they overlap, the same to the bit however rows are shared."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from tests.devices.generic.support import Array, Case, Engine, Native, check, filled, floats, fused, lowered, one

from mapsto.ir.dtypes import DType
from mapsto.ir.expr import evaluate
from mapsto.ir.graph import Value
from mapsto.loop.ast import For, Statement
from mapsto.ops.builder import Builder
from mapsto.plan.layout import blocked, permuted


def depthwise(width: int, kernel: int = 3, stride: int = 1, pad: int = 1, dtype: DType = DType.F32) -> Case:
    """Channels innermost, as between other convolutions."""
    case = one(
        "conv",
        [floats(1, 16, 5, width).astype(dtype.numpy), floats(16, 1, 3, kernel).astype(dtype.numpy)],
        strides=(1, stride),
        pads=(1, pad, 1, pad),
        dilations=(1, 1),
        group=16,
    )
    return innermost(case)


def innermost(case: Case) -> Case:
    x, *weights = case.kernel.inputs
    case.layouts = {t.name: blocked(t.shape, 1, 16) for t in (x, *case.kernel.outputs)}
    case.layouts |= {t.name: blocked(t.shape, 0, 16) for t in weights}
    return case


PADDED = {"strides": (1, 1), "pads": (1, 1, 1, 1), "dilations": (1, 1)}


def loops(body: tuple[Statement, ...]) -> list[For]:
    found = [s for s in body if isinstance(s, For)]
    nested = [n for s in body for n in loops(getattr(s, "body", ()) or getattr(s, "then", ()))]
    return found + nested


def steps(case: Case) -> set[int]:
    return {loop.step for loop in loops(lowered(case)[0].body)}


@pytest.mark.parametrize("width", [1, 3, 4, 7, 9, 12, 18])
@pytest.mark.parametrize(
    ("kernel", "stride", "pad"), [(3, 1, 1), (5, 2, 2), (3, 2, 0), (2, 1, 0), (7, 1, 3), (40, 1, 39)]
)
def test_any_width(width: int, kernel: int, stride: int, pad: int, engine: Engine) -> None:
    if width + 2 * pad >= kernel:
        check(depthwise(width, kernel, stride, pad), engine, shares=4)


def test_rows_are_computed_at_once_only_where_windows_overlap() -> None:
    assert 4 in steps(depthwise(18))
    assert 4 in steps(depthwise(18, kernel=3, stride=2))
    assert 4 not in steps(depthwise(18, kernel=2, stride=2, pad=0))
    assert 4 not in steps(innermost(one("exp", [floats(1, 16, 5, 18)])))
    plain = innermost(one("conv", [floats(1, 2, 12, 40), floats(2, 1, 3, 3)], **PADDED, group=2))
    plain.layouts = {}  # lanes run along the rows themselves
    assert 4 not in steps(plain)


def test_short_rows_are_computed_at_once_too() -> None:
    assert 4 in steps(depthwise(7)) and 4 not in steps(depthwise(4))


def test_few_ends_of_rows_have_code_of_their_own() -> None:
    """Only the window's other side, whose guards another row decides, is a loop there; many ends are loops."""

    def inside(case: Case, kind: str) -> bool:
        return any(loop.var.startswith(kind) for loop in loops(lowered(case)[0].body))

    assert not inside(depthwise(18, 5, 2, 2), "edge")
    assert inside(depthwise(18, 7, 1, 6), "edge")


def in_one_piece(channels: int, width: int, stride: int = 1) -> Case:
    """Channels innermost, whole: as many as there are, where vectors of them are counted innermost."""
    case = one(
        "conv",
        [floats(1, channels, 5, width), floats(channels, 1, 3, 3)],
        strides=(stride, stride),
        pads=(1, 1, 1, 1),
        dilations=(1, 1),
        group=channels,
    )
    case.layouts = {t.name: permuted(t.shape, (0, 2, 3, 1)) for t in (case.kernel.inputs[0], *case.kernel.outputs)}
    return case


@pytest.mark.parametrize("width", [3, 9, 18])
@pytest.mark.parametrize("channels", [32, 34, 40])
@pytest.mark.parametrize("stride", [1, 2])
def test_channels_in_one_piece(channels: int, width: int, stride: int, engine: Engine) -> None:
    check(in_one_piece(channels, width, stride), engine, shares=4)


def test_vectors_of_channels_in_one_piece_are_counted_outside_of_windows() -> None:
    assert 4 in steps(in_one_piece(34, 18)) and 4 in steps(in_one_piece(32, 18, 2))


def residual(b: Builder, x: Value, w: Value) -> Value:
    """A convolution with what follows it: an activation, and the input once more."""
    made = b.one("conv", [x, w, None], strides=(1, 1), pads=(1, 1, 1, 1), dilations=(1, 1), group=16)
    return b.one("add", [b.one("mul", [made, b.one("sigmoid", [made])]), x])


def test_what_follows_a_window(engine: Engine) -> None:
    check(innermost(fused(residual, [floats(1, 16, 5, 19), floats(16, 1, 3, 3)])), engine, shares=5)


@pytest.mark.parametrize(
    ("op", "dtype"),
    [(op, dtype) for op in ("max_pool", "avg_pool") for dtype in (DType.F32, DType.F16)] + [("max_pool", DType.U8)],
)
def test_pools(op: str, dtype: DType, engine: Engine) -> None:
    x = (100 * floats(1, 16, 6, 21)).clip(0 if dtype is DType.U8 else -90, 90).astype(dtype.numpy)
    attrs: dict[str, Any] = {"count_include_pad": False} if op == "avg_pool" else {}
    attrs |= {"kernel": (3, 3), "strides": (1, 1), "pads": (1, 1, 1, 1), "dilations": (1, 1)}
    check(innermost(one(op, [x], **attrs)), engine, shares=3)


def test_a_maximum_keeps_nan_at_every_row(engine: Engine) -> None:
    x = floats(1, 16, 3, 20)
    x[0, 3, 1, 9] = np.nan
    x[0, 5, 0, 19] = -np.inf
    check(innermost(one("max_pool", [x], kernel=(2, 3), strides=(1, 1), pads=(0, 1, 0, 1), dilations=(1, 1))), engine)


def output(case: Case, native: Native, shares: int) -> bytes:
    case.lanes = native.isa.lanes(DType.F32)
    function, extent, _, _ = lowered(case)
    layouts = case.all_layouts()
    buffers = [filled(case.inputs[t.name], layouts[t.name], case.sizes) for t in case.kernel.inputs]
    (out,) = case.kernel.outputs
    buffers.append(np.zeros(evaluate(layouts[out.name].elements, case.sizes), out.dtype.numpy))
    total = evaluate(extent, case.sizes)
    for k in range(shares):
        native(function, buffers, case.sizes, total * k // shares, total * (k + 1) // shares)
    return buffers[-1].tobytes()


def test_shares_that_cut_neighbours_give_the_same_bits(native: Native) -> None:
    """Rows that are left over are computed one by one; the order of their sums is the same."""
    case = depthwise(23, kernel=5, pad=2)
    whole = output(case, native, 1)
    assert all(output(case, native, shares) == whole for shares in (2, 3, 7, 23, 115))


# ---- vectors with a step, at the end of a row ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [DType.F32, DType.F16, DType.F64, DType.U8, DType.I16])
@pytest.mark.parametrize("stride", [2, 3, 4])
@pytest.mark.parametrize("width", [17, 23, 41])
def test_every_second_third_or_fourth(dtype: DType, stride: int, width: int, engine: Engine) -> None:
    """The last vector is not full: it is loaded under a mask."""
    x = (20 * floats(3, width * stride)).astype(dtype.numpy)
    check(one("slice", [x], starts=(0, 0), steps=(1, stride), shape=(3, width)), engine)


# ---- halves ----------------------------------------------------------------------------------------------------------


def corners(dtype: DType) -> Array:
    """Every half there is: infinities, NaNs, zeros of both signs, denormals."""
    return np.arange(1 << 16, dtype=np.uint16).view(dtype.numpy).reshape(64, 1024)


@pytest.mark.parametrize("dtype", [DType.BF16, DType.F16])
@pytest.mark.parametrize("op", ["relu", "neg", "abs"])
def test_what_is_picked_among_halves_stays_to_the_bit(dtype: DType, op: str, engine: Engine) -> None:
    case, x = one(op, [corners(dtype)]), corners(dtype).astype(np.float32)
    function, extent, _, _ = lowered(case)
    y = np.zeros(1 << 16, dtype.numpy)
    engine(function, [corners(dtype).ravel(), y], {}, 0, evaluate(extent, {}))
    with np.errstate(invalid="ignore"):
        wanted = {"relu": np.maximum(x, 0), "neg": -x, "abs": np.abs(x)}[op].ravel()
    found, number = y.astype(np.float32), ~np.isnan(wanted)
    assert np.isnan(found[~number]).all()
    bits = found[number].view(np.uint32), wanted[number].view(np.uint32)
    assert (bits[0] == bits[1]).all() if op != "relu" else (found[number] == wanted[number]).all()


def test_what_is_computed_among_halves_is_rounded(engine: Engine) -> None:
    """To nearest: cut off, half of the sums would be too small."""
    rng = np.random.default_rng(0)
    x, y = (rng.standard_normal((4, 100)).astype(DType.BF16.numpy) for _ in "xy")
    case = fused(lambda b, p, q: b.one("max", [b.one("add", [p, q]), p]), [x, y])
    function, extent, _, _ = lowered(case)
    out = np.zeros(400, DType.BF16.numpy)
    engine(function, [x.ravel(), y.ravel(), out], {}, 0, evaluate(extent, {}))
    total = (x.astype(np.float32) + y.astype(np.float32)).astype(DType.BF16.numpy)
    wanted = np.maximum(total.astype(np.float32), x.astype(np.float32)).ravel()
    assert (out.astype(np.float32) == wanted).all()


def test_edges_are_not_counted_one_by_one() -> None:
    """Of a window over millions of rows, of which few read no padding."""
    far = 3_000_000
    case = one("pad", [floats(4, 16)], before=(far, 0), after=(far, 0), mode="constant", value=1.5)
    tracemalloc.start()
    try:
        lowered(case)
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()
