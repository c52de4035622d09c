"""Blocked layouts, borders, tails and slices: promises kept, whatever the buffers held before."""

from __future__ import annotations

import numpy as np
import pytest
from tests.devices.generic.support import (
    PROCESSOR,
    Case,
    Engine,
    all_schedules,
    check,
    floats,
    fused,
    one,
    places,
    poisoned,
)

from mapsto.devices.generic import choose_schedule, lower, zero_borders
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import sym
from mapsto.kernel.ast import Iter, Kernel, Load, Op, Stmt, Tensor
from mapsto.loop.interpret import interpret
from mapsto.ops import composite
from mapsto.plan.layout import Layout, blocked, permuted, plain

BORDER = ((0, 0), (0, 0), (1, 2), (2, 1))


def shapes_of(case: Case) -> dict[str, tuple[int, ...]]:
    return {t.name: t.shape for t in (*case.kernel.inputs, *case.kernel.outputs)}  # type: ignore[misc]


def with_layouts(case: Case, border: bool = False, only: str = "") -> Case:
    """Every operand of rank 4 blocked by channels (outputs with a border if wanted)."""
    outputs = {t.name for t in case.kernel.outputs}
    for name, shape in shapes_of(case).items():
        if name not in case.layouts and len(shape) == 4 and (not only or name == only):
            case.layouts[name] = blocked(shape, 1, 16, BORDER if border and name in outputs else None)
    return case


def silu(channels: int) -> Case:
    return fused(lambda b, x: b.one("mul", [x, b.one("sigmoid", [x])]), [floats(2, channels, 4, 5)])


def exp_and_bias(channels: int) -> Case:
    return fused(
        lambda b, x, y: b.one("add", [b.one("exp", [x]), y]), [floats(2, channels, 4, 5), floats(channels, 1, 1)]
    )


def pool(channels: int) -> Case:
    return one(
        "max_pool", [floats(1, channels, 7, 9)], kernel=(3, 3), strides=(2, 2), pads=(1, 1, 1, 1), dilations=(1, 1)
    )


def conv(channels: int) -> Case:
    return one(
        "conv",
        [floats(1, channels, 6, 7), floats(5, channels, 3, 3)],
        strides=(1, 1),
        pads=(1, 1, 1, 1),
        dilations=(1, 1),
        group=1,
    )


def depthwise(channels: int) -> Case:
    """Its weights lie channel by channel: they are gathered once a row."""
    arrays = [floats(1, channels, 7, 9), floats(channels, 1, 3, 3)]
    return with_plain_weights(one("conv", arrays, strides=(1, 1), pads=(1, 1, 1, 1), dilations=(1, 1), group=channels))


def with_plain_weights(case: Case) -> Case:
    weights = case.kernel.inputs[1]
    case.layouts[weights.name] = plain(weights.shape)
    return case


def mean(channels: int) -> Case:
    return one("reduce", [floats(2, channels, 4, 5)], kind="mean", axes=(2, 3), keepdims=True)


def channel_softmax(channels: int) -> Case:
    return fused(lambda b, x: composite.softmax(b, x, 1), [floats(1, channels, 4, 5)])


def squeeze_excite(channels: int) -> Case:
    def build(b, x):  # type: ignore[no-untyped-def]
        return b.one("mul", [x, b.one("sigmoid", [b.one("reduce", [x], kind="mean", axes=(2, 3), keepdims=True)])])

    return fused(build, [floats(2, channels, 4, 5)])


MAKERS = [silu, exp_and_bias, pool, conv, depthwise, mean, channel_softmax, squeeze_excite]


@pytest.mark.parametrize("border", [False, True], ids=["bare", "border"])
@pytest.mark.parametrize("channels", [3, 16, 32, 40])
@pytest.mark.parametrize("maker", MAKERS)
def test_blocked(maker, channels: int, border: bool, engine: Engine) -> None:  # type: ignore[no-untyped-def]
    check(with_layouts(maker(channels), border), engine)


@pytest.mark.parametrize("channels", [3, 16, 20])
@pytest.mark.parametrize("maker", MAKERS)
def test_every_schedule(maker, channels: int) -> None:  # type: ignore[no-untyped-def]
    case = with_layouts(maker(channels), True)
    for schedule in all_schedules(case):
        check(case, interpret, schedule)


@pytest.mark.parametrize("lanes", [1, 4, 8, 32])
@pytest.mark.parametrize("maker", MAKERS)
def test_lanes_unlike_the_block(maker, lanes: int) -> None:  # type: ignore[no-untyped-def]
    case = with_layouts(maker(24), True)
    case.lanes = lanes
    check(case)


@pytest.mark.parametrize("channels", [20, 40])
@pytest.mark.parametrize("maker", [silu, exp_and_bias])
def test_vectors_wider_than_a_block(maker, channels: int) -> None:  # type: ignore[no-untyped-def]
    """The last one may begin in the last block, which alone would not fill it."""
    case = with_layouts(maker(channels), True)
    case.lanes = 32
    for schedule in all_schedules(case):
        check(case, interpret, schedule)


@pytest.mark.parametrize("channels", [16, 24])
@pytest.mark.parametrize("to_blocked", [False, True])
def test_layout_change(channels: int, to_blocked: bool, engine: Engine) -> None:
    case = one("neg", [floats(2, channels, 5, 7)])
    name = (case.kernel.outputs if to_blocked else case.kernel.inputs)[0].name
    check(with_layouts(case, to_blocked, only=name), engine)


def test_symbolic_extents_with_a_border() -> None:
    names = {0: "n", 1: "c", 2: "h", 3: "w"}
    case = fused(lambda b, x: b.one("exp", [x]), [floats(2, 19, 5, 6)], [names])
    shape = case.kernel.outputs[0].shape
    case.layouts = {t.name: blocked(shape, 1, 16, BORDER) for t in (*case.kernel.inputs, *case.kernel.outputs)}
    for schedule in all_schedules(case):
        check(case, interpret, schedule)


def test_channels_last() -> None:
    case = fused(lambda b, x, y: b.one("mul", [x, y]), [floats(2, 5, 6, 7), floats(5, 1, 1)])
    case.layouts = {n: permuted(s, (0, 2, 3, 1)) for n, s in shapes_of(case).items() if len(s) == 4}
    check(case)


def test_slices_of_one_buffer(engine: Engine) -> None:
    """Two writers, each with its own part of a blocked buffer, keep to their parts."""
    whole = blocked((1, 48, 4, 5), 1, 16)
    for start, extent in ((0, 16), (16, 20)):
        case = one("exp", [floats(1, extent, 4, 5)])
        case.layouts = {case.kernel.outputs[0].name: whole.slice(1, start, extent)}
        check(case, engine)


def test_concat_of_parts_of_blocks() -> None:
    """A concat whose pieces do not end on blocks."""
    case = one("concat", [floats(1, 20, 3, 4), floats(1, 7, 3, 4)], axis=1)
    check(with_layouts(case))


def test_in_place() -> None:
    """An output in its input's memory."""
    x = floats(70)
    kernel = Kernel(
        "relu", (Tensor("x", DType.F32, (70,)),), (Tensor("y", DType.F32, (70,)),), (),
        (Stmt("y", DType.F32, (Iter("i", 70),), Op("neg", (Load("x", (sym("i"),), DType.F32),), DType.F32)),),
    )  # fmt: skip
    layouts: dict[str, Layout] = {"x": plain((70,)), "y": plain((70,))}
    function, extent = lower(kernel, layouts, choose_schedule(kernel, layouts, PROCESSOR), "relu", PROCESSOR)
    buffer = x.copy()
    assert isinstance(extent, int)
    for k in range(3):
        interpret(function, [buffer, buffer], {}, extent * k // 3, extent * (k + 1) // 3)
    np.testing.assert_array_equal(buffer, -x)


@pytest.mark.parametrize("dtype", [DType.F32, DType.I8])
def test_zeros_alone(dtype: DType) -> None:
    """The zeros of a layout, for a writer that fills the inside alone."""
    layout = blocked((2, 20, 3, 5), 1, 16, BORDER)
    function, extent = zero_borders("y", dtype, layout, PROCESSOR, "zeros")
    buffer = poisoned(dtype, int(layout.elements))  # type: ignore[arg-type]
    assert isinstance(extent, int)
    for k in range(3):
        interpret(function, [buffer], {}, extent * k // 3, extent * (k + 1) // 3)
    own = places(layout, {}).ravel()
    assert buffer[own].tobytes() == poisoned(dtype, own.size).tobytes()
    outside = np.delete(buffer, own)
    assert not outside.any()
