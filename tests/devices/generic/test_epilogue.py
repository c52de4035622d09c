"""Scalar expressions emitted at a point of other loops."""

from __future__ import annotations

import numpy as np
import pytest
from tests.devices.generic.support import PROCESSOR, rng

from mapsto.devices.generic import EpilogueContext, emit_scalar
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import sym
from mapsto.kernel.ast import Cast, Const, Load, Op, Scalar, Where
from mapsto.loop import ast as loop
from mapsto.loop.ast import Function, Param
from mapsto.loop.interpret import interpret
from mapsto.plan.layout import Layout, blocked, plain

F32, LANES = DType.F32, 16


def load(tensor: str, *names: str) -> Load:
    return Load(tensor, tuple(sym(n) for n in names), F32)


def run(
    e: Scalar,
    layouts: dict[str, Layout],
    buffers: dict[str, np.ndarray],
    out: Layout,
    shape: tuple[int, int],
    valid: int | None = None,
) -> np.ndarray:
    """An epilogue on accumulators acc[o, p], walked block by block and point by point."""
    count = [0]

    def fresh(hint: str) -> str:
        count[0] += 1
        return f"{hint}{count[0]}"

    blocks, points = shape
    mask = loop.Var("mask", loop.Type(DType.BOOL, LANES)) if valid is not None else None
    acc = loop.Var("sum", loop.Type(F32, LANES))
    bindings = {"o": sym("block") * LANES, "p": sym("point")}
    context = EpilogueContext(bindings, "o", LANES, layouts, {"acc": acc}, mask, fresh, PROCESSOR)
    statements, value = emit_scalar(e, context)
    place = out.place([sym("block") * LANES, sym("point")])
    body = [
        loop.Let("sum", loop.Load("acc", sym("block") * points * LANES + sym("point") * LANES, acc.type)),
        *statements,
    ]
    if valid is not None:
        body.insert(0, loop.Let("mask", loop.LaneMask(valid - sym("block") * LANES, loop.Type(DType.BOOL, LANES))))
    body.append(loop.Store("out", place, value, 1, mask))
    loops = loop.For("block", sym("begin"), sym("end"), (loop.For("point", 0, points, tuple(body)),))
    params = [Param("acc", F32), *(Param(n, F32) for n in buffers), Param("out", F32, True)]
    result = np.full(out.elements, np.nan, np.float32)
    interpret(
        Function("f", tuple(params), (), (loops,)),
        [ACC[: blocks * points * LANES], *buffers.values(), result],
        {},
        0,
        blocks,
    )
    return result


ACC = np.random.default_rng(3).standard_normal(4096).astype(np.float32)


def accumulators(blocks: int, points: int) -> np.ndarray:
    """acc[o, p] as the template hands it over: vectors of 16 channels."""
    return ACC[: blocks * points * LANES].reshape(blocks, points, LANES).transpose(0, 2, 1).reshape(-1, points)


def test_bias_and_residual_on_blocked_layouts() -> None:
    residual, bias = rng.standard_normal((32, 5)).astype(np.float32), rng.standard_normal(32).astype(np.float32)
    layout = blocked((32, 5), 0, 16)
    flat = residual.reshape(2, 16, 5).transpose(0, 2, 1).ravel().copy()
    e = Op(
        "max",
        (
            Op("add", (Op("add", (load("acc", "o", "p"), load("bias", "o")), F32), load("res", "o", "p")), F32),
            Const(0.0, F32),
        ),
        F32,
    )
    found = run(e, {"bias": plain((32,)), "res": layout}, {"bias": bias, "res": flat}, layout, (2, 5))
    expected = np.maximum(accumulators(2, 5) + bias[:, None] + residual, 0)
    np.testing.assert_allclose(found.reshape(2, 5, 16).transpose(0, 2, 1).reshape(32, 5), expected, rtol=1e-6)


@pytest.mark.parametrize("valid", [17, 30])
def test_masked_columns_touch_nothing_outside(valid: int) -> None:
    bias = rng.standard_normal(valid).astype(np.float32)
    out = blocked((32, 3), 0, 16)
    e = Op("exp", (Op("add", (load("acc", "o", "p"), load("bias", "o")), F32),), F32)
    found = run(e, {"bias": plain((valid,))}, {"bias": bias}, out, (2, 3), valid)
    rows = found.reshape(2, 3, 16).transpose(0, 2, 1).reshape(32, 3)
    np.testing.assert_allclose(rows[:valid], np.exp(accumulators(2, 3)[:valid] + bias[:, None]), rtol=1e-6)
    assert np.isnan(rows[valid:]).all()


def test_value_per_point_and_guard() -> None:
    """A load that all lanes share, and a guard that they do not."""
    scale = rng.standard_normal(5).astype(np.float32)
    e = Where(
        (sym("o") - 3,), Op("mul", (load("acc", "o", "p"), load("scale", "p")), F32), Cast(Const(2, DType.I64), F32)
    )
    out = blocked((16, 5), 0, 16)
    found = run(e, {"scale": plain((5,))}, {"scale": scale}, out, (1, 5)).reshape(5, 16).T
    expected = accumulators(1, 5) * scale
    expected[:3] = 2
    np.testing.assert_allclose(found, expected, rtol=1e-6)
