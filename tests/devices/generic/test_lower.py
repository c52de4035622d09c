"""Kernels of every form through the generic lowering, interpreted and native, against the kernel interpreter."""

from __future__ import annotations

import numpy as np
import pytest
from tests.devices.generic.support import Case, Engine, all_schedules, check, floats, fused, one, rng

from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Value
from mapsto.loop.interpret import interpret
from mapsto.ops import composite
from mapsto.ops.builder import Builder


def integers(high: int, *shape: int) -> np.ndarray:
    return rng.integers(-high, high, shape).astype(np.int64)


CASES = {
    "exp": lambda: one("exp", [floats(3, 37)]),
    "add broadcast": lambda: one("add", [floats(4, 1, 7), floats(5, 1)]),
    "add scalar": lambda: one("add", [floats(4, 70), floats()]),
    "elementwise chain": lambda: fused(
        lambda b, x, y: b.one("mul", [b.one("tanh", [b.one("add", [x, y])]), x]), [floats(9, 20), floats(20)]
    ),
    "two outputs": lambda: fused(lambda b, x: (b.one("exp", [x]), b.one("neg", [x])), [floats(6, 33)]),
    "independent parts": lambda: fused(
        lambda b, x, y: (b.one("exp", [x]), b.one("neg", [y])), [floats(6, 33), floats(5)]
    ),
    "transpose": lambda: one("transpose", [floats(5, 19, 3)], perm=(2, 0, 1)),
    "transpose wide": lambda: one("transpose", [floats(35, 40)], perm=(1, 0)),
    "slice": lambda: one("slice", [floats(9, 40)], starts=(1, 3), steps=(2, 1), shape=(4, 30)),
    "slice reversed": lambda: one("slice", [floats(9, 40)], starts=(8, 39), steps=(-2, -1), shape=(4, 33)),
    "pad": lambda: one("pad", [floats(3, 5, 21)], before=(1, 0, 2), after=(0, 2, 17), mode="constant", value=1.5),
    "pad reflect": lambda: one("pad", [floats(3, 21)], before=(1, 4), after=(1, 7), mode="reflect", value=0.0),
    "reshape": lambda: one("reshape", [floats(6, 10, 4)], shape=(4, 15, 4)),
    "concat": lambda: one("concat", [floats(3, 5, 6), floats(3, 9, 6), floats(3, 1, 6)], axis=1),
    "concat last": lambda: one("concat", [floats(30, 5), floats(30, 9)], axis=1),
    "concat equal": lambda: one("concat", [floats(3, 5), floats(3, 5)], axis=0),
    "tile": lambda: one("tile", [floats(3, 5)], repeats=(2, 7)),
    "gather": lambda: one("gather", [floats(11, 18), integers(11, 4, 3)], axis=0),
    "gather last": lambda: one("gather", [floats(5, 18), integers(18, 33)], axis=1),
    "gather elements": lambda: one("gather_elements", [floats(5, 18), integers(5, 4, 18)], axis=0),
    "gather nd": lambda: one(
        "gather_nd", [floats(5, 6, 18), np.stack([integers(5, 20), integers(6, 20)], -1)], batch_dims=0
    ),
    "scatter nd": lambda: one("scatter_nd", [floats(9, 21), integers(9, 5, 1), floats(5, 21)], reduction="none"),
    "scatter nd add": lambda: one("scatter_nd", [floats(9, 21), integers(9, 15, 1), floats(15, 21)], reduction="add"),
    "scatter elements": lambda: one(
        "scatter_elements", [floats(9, 21), integers(9, 12, 20), floats(12, 20)], axis=0, reduction="add"
    ),
    "scatter points": lambda: one("scatter_nd", [floats(30), integers(30, 50, 1), floats(50)], reduction="mul"),
    "reduce sum last": lambda: one("reduce", [floats(7, 133)], kind="sum", axes=(1,), keepdims=False),
    "reduce max first": lambda: one("reduce", [floats(13, 50)], kind="max", axes=(0,), keepdims=True),
    "reduce middle": lambda: one("reduce", [floats(3, 29, 18)], kind="prod", axes=(1,), keepdims=False),
    "reduce all": lambda: one("reduce", [floats(3, 29, 18)], kind="mean", axes=(0, 1, 2), keepdims=False),
    "reduce outer and inner": lambda: one("reduce", [floats(13, 5, 18)], kind="min", axes=(0, 2), keepdims=False),
    "reduce any": lambda: one("reduce", [floats(5, 100) > 1.9], kind="any", axes=(1,), keepdims=False),
    "reduce integers": lambda: one("reduce", [integers(50, 5, 77)], kind="max", axes=(1,), keepdims=False),
    "argmax": lambda: one("argmax", [floats(6, 41)], axis=1, keepdims=False, select_last=False),
    "cumsum last": lambda: one("cumsum", [floats(3, 50)], axis=1, exclusive=False, reverse=False),
    "cumsum first": lambda: one("cumsum", [floats(9, 50)], axis=0, exclusive=True, reverse=True),
    "cumsum middle": lambda: one("cumsum", [integers(9, 3, 6, 20)], axis=1, exclusive=False, reverse=True),
    "softmax": lambda: fused(lambda b, x: composite.softmax(b, x, -1), [floats(9, 77)]),
    "softmax of a middle axis": lambda: fused(lambda b, x: composite.softmax(b, x, 1), [floats(3, 10, 20)]),
    "softmax short": lambda: fused(lambda b, x: composite.softmax(b, x, -1), [floats(50, 5)]),
    "log softmax": lambda: fused(lambda b, x: composite.log_softmax(b, x, -1), [floats(4, 100)]),
    "layer norm": lambda: fused(
        lambda b, x, s, t: composite.layer_norm(b, x, s, t, -1, 1e-5), [floats(6, 90), floats(90), floats(90)]
    ),
    "layer norm of a middle axis": lambda: fused(
        lambda b, x, s: b.one("mul", [composite.normalised(b, x, [1], 1e-5)[0], s]), [floats(2, 24, 35), floats(24, 1)]
    ),
    "instance norm": lambda: fused(
        lambda b, x, s, t: composite.instance_norm(b, x, s, t, 1e-5), [floats(2, 5, 6, 7), floats(5), floats(5)]
    ),
    "matmul": lambda: one("matmul", [floats(9, 40), floats(40, 33)]),
    "matmul batched": lambda: one("matmul", [floats(2, 1, 9, 4), floats(3, 4, 5)]),
    "conv": lambda: one(
        "conv",
        [floats(2, 4, 9, 19), floats(6, 2, 3, 3), floats(6)],
        strides=(1, 2),
        pads=(1, 1, 0, 1),
        dilations=(1, 1),
        group=2,
    ),
    "conv 1d": lambda: one(
        "conv", [floats(1, 3, 40), floats(5, 3, 7)], strides=(1,), pads=(6, 6), dilations=(2,), group=1
    ),
    "max pool": lambda: one(
        "max_pool", [floats(1, 3, 14, 18)], kernel=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1), dilations=(1, 1)
    ),
    "average pool": lambda: one(
        "avg_pool",
        [floats(1, 3, 14, 18)],
        kernel=(3, 2),
        strides=(1, 1),
        pads=(1, 1, 1, 0),
        dilations=(1, 1),
        count_include_pad=False,
    ),
    "select": lambda: one("select", [floats(5, 20) > 0, floats(5, 20), floats(20)]),
    "equal": lambda: one("eq", [integers(2, 5, 20), integers(2, 20)]),
    "not": lambda: one("not", [floats(50) > 0]),
    "cast to bool": lambda: one("cast", [floats(50).round()], to=DType.BOOL),
    "empty": lambda: one("exp", [floats(0, 5)]),
    "empty reduction": lambda: one("reduce", [floats(5, 0)], kind="max", axes=(1,), keepdims=False),
    "empty concat": lambda: one("concat", [floats(5, 0), floats(5, 3)], axis=1),
}


@pytest.mark.parametrize("name", CASES)
def test_kernel(name: str, engine: Engine) -> None:
    case = CASES[name]()
    check(case, engine)


@pytest.mark.parametrize("lanes", [1, 4, 8])
@pytest.mark.parametrize("name", CASES)
def test_other_widths(name: str, lanes: int) -> None:
    case: Case = CASES[name]()
    case.lanes = lanes
    check(case, interpret)


@pytest.mark.parametrize("name", CASES)
def test_every_schedule(name: str) -> None:
    """What the cost rule does not choose is right as well."""
    case: Case = CASES[name]()
    for schedule in all_schedules(case):
        check(case, interpret, schedule)


def pooled_and_joined(b: Builder, x: Value) -> Value:
    """What YOLO does at its neck: a pooled copy beside the original."""
    pooled = b.one("max_pool", [x], kernel=(3, 3), strides=(1, 1), pads=(1, 1, 1, 1), dilations=(1, 1))
    return b.one("concat", [x, pooled, b.one("neg", [pooled])], axis=1)


def test_writers_beside_one_another_share_rows() -> None:
    """Statements over one space of iterators are walked together, though some pass values and others do not."""
    case = fused(pooled_and_joined, [floats(1, 8, 6, 20)])
    schedule = check(case)
    assert schedule.rows == 3 and not schedule.parts


def test_a_quotient_of_exact_numbers_is_exact(engine: Engine) -> None:
    """By a divisor that is the same all along a row: a last bit more or less would be another integer next."""
    scale = np.float32(5 / 255)
    x = ((np.arange(-350, 350, dtype=np.float32) + np.float32(0.5)) * scale).reshape(5, 140)
    case = fused(lambda b, v, s: b.one("round", [b.one("div", [v, s])]), [x, np.array(scale)])
    assert np.unique(np.round(x / scale) - np.round(x * (1 / scale))).size > 1, "no case of it among these"
    check(case, engine)


@pytest.mark.parametrize("size", [1e-43, 1e-39, 1e-30, 1.0, 1e30, 3e36])
def test_a_sum_of_any_size_divides(size: float, engine: Engine) -> None:
    """Its reciprocal alone would be infinite, or lose bits."""
    x = np.linspace(1, 2, 3 * 21).reshape(3, 21) * size
    case = fused(lambda b, v: composite.lp_norm(b, v, 1, 1), [x.astype(np.float32)])
    check(case, engine)
