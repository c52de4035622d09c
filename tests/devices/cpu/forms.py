"""Contractions in many forms, as small graphs with inputs: what the native code of a whole plan is tested on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mapsto.ir.dtypes import DType, from_numpy
from mapsto.ir.expr import Dim, sym
from mapsto.ir.graph import Graph, Value
from mapsto.ops.builder import Builder

Shape = tuple[Dim, ...]
After = Callable[[Builder, Value], Value] | None
Sizes = Mapping[str, int] | None
F32, F16, BF16 = DType.F32, DType.F16, DType.BF16
U8, I8 = DType.U8, DType.I8


@dataclass(frozen=True)
class Form:
    """A graph, the values of its size symbols, and whether the contraction template is expected to serve it."""

    name: str
    graph: Callable[[], Graph]
    template: bool = True
    sizes: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name


def array_of(shape: Sequence[int], dtype: DType, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    if dtype.is_float:
        return rng.standard_normal(shape).astype(dtype.numpy)
    if dtype in (U8, I8):
        limits = np.iinfo(dtype.numpy)
        return rng.integers(limits.min, limits.max + 1, shape).astype(dtype.numpy)
    return rng.integers(0 if not dtype.is_signed else -9, 10, shape).astype(dtype.numpy)


def bias_of(count: int, dtype: DType) -> np.ndarray:
    """Each of a size that shows beside sums of some hundred products, in half precision too."""
    rng = np.random.default_rng(2)
    return (rng.uniform(4, 8, count) * rng.choice([-1, 1], count)).astype(dtype.numpy)


def conv(
    name: str, x: Shape, w: Sequence[int], *, strides: Sequence[int] = (), dilations: Sequence[int] = (),
    pads: Sequence[int] = (), group: int = 1, bias: bool = False, dtype: DType = F32, run_time: bool = False,
    after: After = None, template: bool = True, sizes: Sizes = None,
) -> Form:  # fmt: skip
    """x[N, C, space...] under windows w[O, C/group, window...]. run_time: the weights are an input."""

    def graph() -> Graph:
        b, n = Builder("g"), len(x) - 2
        xv = b.input("x", dtype, x)
        wv = b.input("w", dtype, w) if run_time else b.constant(array_of(w, dtype, 1), "w")
        inputs = [xv, wv, *([b.constant(bias_of(w[0], dtype), "bias")] if bias else [])]
        attrs = {"strides": tuple(strides) or (1,) * n, "dilations": tuple(dilations) or (1,) * n}
        y = b.one("conv", inputs, pads=tuple(pads) or (0,) * 2 * n, group=group, **attrs)
        return b.finish([after(b, y) if after else y], names=["y"])

    return Form(name, graph, template, sizes or {})


def transposed(
    name: str, x: Shape, w: Sequence[int], *, strides: Sequence[int], dilations: Sequence[int] = (),
    pads: Sequence[int] = (), more: Sequence[int] = (), group: int = 1, bias: bool = False, dtype: DType = F32,
    after: After = None, template: bool = True, sizes: Sizes = None,
) -> Form:  # fmt: skip
    """x[N, C, space...] spread by windows w[C, O/group, window...]. more: the output padding."""

    def graph() -> Graph:
        b, n = Builder("g"), len(x) - 2
        inputs = [b.input("x", dtype, x), b.constant(array_of(w, dtype, 1), "w")]
        inputs += [b.constant(bias_of(w[1] * group, dtype), "bias")] if bias else []
        attrs = {"dilations": tuple(dilations) or (1,) * n, "output_padding": tuple(more) or (0,) * n, "group": group}
        y = b.one("conv_transpose", inputs, strides=tuple(strides), pads=tuple(pads) or (0,) * 2 * n, **attrs)
        return b.finish([after(b, y) if after else y], names=["y"])

    return Form(name, graph, template, sizes or {})


def matmul(
    name: str, x: Shape, y: Shape, *, run_time: bool = False, dtype: DType = F32, turn_x: Sequence[int] = (),
    turn_y: Sequence[int] = (), after: After = None, template: bool = True, sizes: Sizes = None,
) -> Form:  # fmt: skip
    """x times y. run_time: y is an input. turn_x, turn_y: transposed so before."""

    def graph() -> Graph:
        b = Builder("g")
        left = b.input("x", dtype, x)
        right = b.input("w", dtype, y) if run_time else b.constant(array_of([int(d) for d in y], dtype, 1), "w")  # type: ignore[arg-type]
        left = b.one("transpose", [left], perm=tuple(turn_x)) if turn_x else left
        right = b.one("transpose", [right], perm=tuple(turn_y)) if turn_y else right
        z = b.one("matmul", [left, right])
        return b.finish([after(b, z) if after else z], names=["y"])

    return Form(name, graph, template, sizes or {})


def biased_silu(b: Builder, y: Value) -> Value:
    """An epilogue: a bias over the last axis, and x * sigmoid(x)."""
    z = b.one("add", [y, b.constant(array_of((int(y.shape[-1]),), from_numpy(y.dtype.numpy), 3), "c")])  # type: ignore[arg-type]
    return b.one("mul", [z, b.one("sigmoid", [z])])


def relu(b: Builder, y: Value) -> Value:
    return b.one("relu", [y])


def shuffled(b: Builder, y: Value) -> Value:
    """Channels last: what comes after a convolution in many detectors."""
    return b.one("transpose", [y], perm=(0, *range(2, y.rank), 1))


def softplus_of_sum(b: Builder, y: Value) -> Value:
    """An epilogue, then a reduction that reads the whole row."""
    z = b.one("softplus", [y])
    return b.one("add", [z, b.one("reduce", [z], kind="mean", axes=(y.rank - 1,), keepdims=True)])


H, W, N, M = sym("H"), sym("W"), sym("N"), sym("M")
OPEN = {"H": 11, "W": 14, "N": 3, "M": 9}

CONVOLUTIONS = (
    conv("conv1d", (2, 16, 30), (24, 16, 5), pads=(2, 2)),
    conv("conv1d_wide_dilated", (1, 8, 70), (16, 8, 3), dilations=(9,), pads=(9, 9), bias=True),
    conv("conv2d_first_layer", (1, 3, 31, 29), (32, 3, 3, 3), strides=(2, 2), pads=(1, 1, 1, 1), bias=True, after=relu),
    conv("conv2d_64", (1, 64, 14, 14), (64, 64, 3, 3), pads=(1, 1, 1, 1), after=relu),
    conv("conv2d_24_to_40", (1, 24, 26, 26), (40, 24, 3, 3), pads=(1, 1, 1, 1)),
    conv("conv2d_channels_fit_nothing", (2, 7, 9, 11), (19, 7, 3, 3), pads=(1, 1, 1, 1), bias=True),
    conv("conv2d_1x1", (2, 48, 7, 7), (80, 48, 1, 1), bias=True, after=relu),
    conv("conv2d_1x1_strided", (1, 32, 15, 15), (33, 32, 1, 1), strides=(2, 2)),
    conv("conv2d_one_pixel", (1, 40, 1, 1), (20, 40, 1, 1)),
    conv("conv2d_window_is_the_image", (3, 16, 5, 6), (32, 16, 5, 6)),
    conv("conv2d_asymmetric_pads", (1, 16, 9, 8), (16, 16, 3, 2), pads=(0, 1, 2, 0)),
    conv("conv2d_pads_beyond_the_window", (1, 16, 5, 5), (16, 16, 3, 3), pads=(4, 0, 0, 5)),
    conv("conv2d_dilated_strided", (1, 16, 23, 25), (20, 16, 3, 3), strides=(2, 3), dilations=(3, 2), pads=(2, 1, 3, 4),
         bias=True),
    conv("conv2d_stride_beyond_the_window", (1, 16, 20, 20), (16, 16, 2, 2), strides=(5, 3)),
    conv("conv2d_window_row", (1, 16, 6, 40), (16, 16, 1, 7), pads=(0, 3, 0, 3)),
    conv("conv2d_groups", (1, 32, 10, 10), (64, 8, 3, 3), group=4, pads=(1, 1, 1, 1), bias=True, after=relu),
    conv("conv2d_groups_of_12_across_blocks", (1, 32, 10, 10), (48, 8, 3, 3), group=4, bias=True, after=relu),
    conv("conv2d_groups_of_16", (1, 64, 10, 10), (64, 16, 3, 3), group=4, pads=(1, 1, 1, 1), bias=True, after=relu),
    conv("conv2d_narrow_groups", (1, 12, 8, 8), (24, 2, 3, 3), group=6, pads=(1, 1, 1, 1), template=False),
    conv("conv2d_depthwise", (1, 24, 13, 13), (24, 1, 3, 3), group=24, pads=(1, 1, 1, 1), template=False, after=relu),
    conv("conv2d_depthwise_multiplier", (1, 8, 9, 9), (32, 1, 3, 3), group=8, strides=(2, 2), pads=(1, 1, 1, 1),
         template=False),
    conv("conv3d", (1, 6, 5, 7, 8), (16, 6, 3, 3, 3), pads=(1, 1, 1, 1, 1, 1), bias=True),
    conv("conv3d_strided", (2, 4, 6, 6, 6), (9, 4, 2, 3, 2), strides=(2, 1, 2)),
    conv("conv2d_few_outputs", (1, 16, 8, 8), (3, 16, 3, 3), pads=(1, 1, 1, 1), template=False),
    conv("conv2d_run_time_weights", (1, 16, 9, 9), (20, 16, 3, 3), pads=(1, 1, 1, 1), run_time=True),
    conv("conv2d_open_image", (1, 8, H, W), (24, 8, 3, 3), pads=(1, 1, 1, 1), bias=True, after=relu, sizes=OPEN),
    conv("conv2d_open_batch_and_image", (N, 17, H, W), (16, 17, 3, 3), strides=(2, 2), pads=(1, 1, 1, 1), sizes=OPEN),
    conv("conv1d_open", (1, 16, H), (16, 16, 7), pads=(3, 3), dilations=(1,), sizes=OPEN, after=shuffled),
    conv("conv2d_bf16", (1, 32, 9, 9), (32, 32, 3, 3), pads=(1, 1, 1, 1), dtype=BF16, bias=True),
    conv("conv2d_i32", (1, 16, 9, 9), (16, 16, 3, 3), pads=(1, 1, 1, 1), dtype=DType.I32, template=False),
    conv("conv2d_channels_last_after", (1, 16, 6, 7), (32, 16, 3, 3), pads=(1, 1, 1, 1), after=shuffled),
)  # fmt: skip

TRANSPOSED = (
    transposed("transposed1d", (1, 32, 20), (32, 16, 16), strides=(8,), pads=(4, 4), bias=True),
    transposed("transposed1d_odd", (2, 16, 9), (16, 20, 5), strides=(3,), pads=(1, 2), more=(1,)),
    transposed("transposed2d", (1, 16, 7, 6), (16, 24, 4, 4), strides=(2, 2), pads=(1, 1, 1, 1), bias=True),
    transposed("transposed2d_odd_strides", (1, 16, 5, 6), (16, 8, 5, 4), strides=(3, 2), pads=(2, 0, 1, 1),
               more=(2, 1)),
    transposed("transposed2d_dilated", (1, 8, 6, 6), (8, 16, 3, 3), strides=(2, 2), dilations=(2, 3),
               pads=(1, 2, 1, 2), template=False),
    transposed("transposed2d_window_below_stride", (1, 16, 5, 5), (16, 16, 2, 2), strides=(3, 3), template=False),
    transposed("transposed2d_groups", (1, 16, 5, 5), (16, 4, 3, 3), strides=(2, 2), group=4, template=False),
    transposed("transposed2d_stride_1", (1, 16, 8, 8), (16, 16, 3, 3), strides=(1, 1), pads=(1, 1, 1, 1)),
    transposed("transposed1d_open", (1, 16, H), (16, 24, 8), strides=(4,), pads=(2, 2), bias=True, sizes=OPEN),
    transposed("transposed2d_activated", (1, 16, 7, 7), (16, 32, 2, 2), strides=(2, 2), bias=True, after=relu),
)  # fmt: skip

PRODUCTS = (
    matmul("matmul", (32, 64), (64, 96), after=biased_silu),
    matmul("matmul_sizes_fit_nothing", (13, 37), (37, 41), after=biased_silu),
    matmul("matmul_one_row", (1, 100), (100, 70)),
    matmul("matmul_one_column", (20, 29), (29, 1), template=False),
    matmul("matmul_few_columns", (20, 30), (30, 5)),
    matmul("matmul_inner_1", (9, 1), (1, 40)),
    matmul("matmul_vector_left", (50,), (50, 33)),
    matmul("matmul_vector_right", (12, 50), (50,), template=False),
    matmul("matmul_batched", (4, 10, 20), (20, 30), after=biased_silu),
    matmul("matmul_own_weights_each", (4, 10, 20), (4, 20, 30)),
    matmul("matmul_broadcast_batches", (3, 1, 6, 20), (2, 20, 24), template=False),
    matmul("matmul_run_time", (10, 33), (33, 47), run_time=True),
    matmul("matmul_run_time_batches", (2, 3, 10, 16), (2, 3, 16, 21), run_time=True),
    matmul("matmul_attention", (2, 12, 4, 8), (2, 12, 4, 8), run_time=True, turn_x=(0, 2, 1, 3), turn_y=(0, 2, 3, 1)),
    matmul("matmul_turned_left", (40, 9), (40, 32), turn_x=(1, 0)),
    matmul("matmul_turned_right", (9, 40), (32, 40), turn_y=(1, 0)),
    matmul("matmul_both_turned", (40, 9), (32, 40), turn_x=(1, 0), turn_y=(1, 0), run_time=True),
    matmul("matmul_open_rows", (N, H, 24), (24, 40), after=softplus_of_sum, sizes=OPEN),
    matmul("matmul_open_everything", (H, M), (M, W), run_time=True, sizes=OPEN),
    matmul("matmul_open_batches", (N, H, M), (N, M, W), run_time=True, sizes=OPEN),
    matmul("matmul_open_attention", (1, H, 4, 16), (1, H, 4, 16), run_time=True, turn_x=(0, 2, 1, 3),
           turn_y=(0, 2, 3, 1), sizes=OPEN),
    matmul("matmul_long_sum", (6, 2100), (2100, 20)),
    matmul("matmul_bf16", (20, 50), (50, 40), dtype=BF16),
    matmul("matmul_bf16_run_time", (20, 50), (50, 40), dtype=BF16, run_time=True),
    matmul("matmul_f16", (20, 50), (50, 40), dtype=DType.F16),
    matmul("matmul_f64", (20, 50), (50, 40), dtype=DType.F64, template=False),
    matmul("matmul_i32", (20, 50), (50, 40), dtype=DType.I32, template=False),
    matmul("matmul_u8", (5, 20), (20, 16), dtype=DType.U8, template=False),
)  # fmt: skip


def quantised(
    name: str, graph: Callable[[Builder, Value], Value], x: Shape, template: bool = True, sizes: Sizes = None
) -> Form:
    """Bytes as 32-bit integers, as ONNX's MatMulInteger and ConvInteger multiply them."""

    def made() -> Graph:
        b = Builder("g")
        return b.finish([graph(b, b.one("cast", [b.input("x", DType.U8, x)], to=DType.I32))], names=["y"])

    return Form(name, made, template, sizes or {})


def bytes_of(b: Builder, shape: Sequence[int], low: int = -128, high: int = 127) -> Value:
    """Constant integers of which some are the extremes."""
    array = np.random.default_rng(5).integers(low, high + 1, shape, dtype=np.int32)
    array.reshape(-1)[:2] = low, high
    return b.constant(array, "w")


def integer_conv(b: Builder, x: Value) -> Value:
    attrs = {"strides": (1, 1), "pads": (1, 1, 1, 1), "dilations": (1, 1), "group": 1}
    return b.one("conv", [x, bytes_of(b, (24, int(x.shape[1]), 3, 3))], **attrs)  # type: ignore[arg-type]


QUANTISED = (
    quantised("matmul_bytes", lambda b, x: b.one("matmul", [x, bytes_of(b, (50, 40))]), (20, 50)),
    quantised("matmul_bytes_open", lambda b, x: b.one("matmul", [x, bytes_of(b, (7, 33))]), (N, H, 7), sizes=OPEN),
    quantised("matmul_bytes_wide", lambda b, x: b.one("matmul", [x, bytes_of(b, (50, 40), -129)]), (9, 50)),
    quantised("conv_bytes", integer_conv, (1, 16, 9, 8)),
    quantised("conv_bytes_odd_channels", integer_conv, (2, 7, 6, 8)),
)  # fmt: skip


def centred(b: Builder, x: Value, zero: int) -> Value:
    """Bytes less their zero point, as 32-bit integers."""
    wide = b.one("cast", [x], to=DType.I32)
    return b.one("sub", [wide, b.constant(np.asarray(zero, np.int32))]) if zero else wide


def byte_weights(b: Builder, shape: Sequence[int], dtype: DType, zero: int) -> Value:
    """Constant bytes of which many are the extremes, less their zero point."""
    limits = np.iinfo(dtype.numpy)
    array = np.random.default_rng(6).integers(limits.min, limits.max + 1, shape).astype(np.int32)
    array.reshape(-1)[::3] = limits.min
    array.reshape(-1)[1::5] = limits.max
    return b.constant(array - zero, "w")


def byte_conv(
    name: str, x: Shape, w: Sequence[int], zeros: tuple[int, int], *, types: tuple[DType, DType] = (U8, U8),
    strides: Sequence[int] = (1, 1), pads: Sequence[int] = (1, 1, 1, 1), group: int = 1, bias: bool = False,
    template: bool = True, sizes: Sizes = None,
) -> Form:  # fmt: skip
    """A convolution of bytes, as ONNX's ConvInteger and QLinearConv have it."""

    def graph() -> Graph:
        b = Builder("g")
        inputs = [centred(b, b.input("x", types[0], x), zeros[0]), byte_weights(b, w, types[1], zeros[1])]
        inputs += [b.constant(np.arange(w[0], dtype=np.int32) * 1000, "bias")] if bias else []
        y = b.one("conv", inputs, strides=tuple(strides), pads=tuple(pads), dilations=(1, 1), group=group)
        return b.finish([y], names=["y"])

    return Form(name, graph, template, sizes or {})


def byte_matmul(
    name: str, x: Shape, y: Shape, zeros: tuple[int, int], *, types: tuple[DType, DType] = (U8, U8),
    run_time: bool = False, template: bool = True, sizes: Sizes = None,
) -> Form:  # fmt: skip
    """A product of bytes, as ONNX's MatMulInteger has it."""

    def graph() -> Graph:
        b = Builder("g")
        left = centred(b, b.input("x", types[0], x), zeros[0])
        if run_time:
            right = centred(b, b.input("w", types[1], y), zeros[1])
        else:
            right = byte_weights(b, [int(d) for d in y], types[1], zeros[1])  # type: ignore[arg-type]
        return b.finish([b.one("matmul", [left, right])], names=["y"])

    return Form(name, graph, template, sizes or {})


HALVES = (
    conv("conv2d_f16", (1, 32, 9, 9), (32, 32, 3, 3), pads=(1, 1, 1, 1), dtype=F16, bias=True, after=relu),
    conv("conv2d_f16_first_layer", (1, 3, 31, 29), (32, 3, 3, 3), strides=(2, 2), pads=(1, 1, 1, 1), dtype=F16,
         bias=True),
    conv("conv2d_f16_channels_fit_nothing", (2, 37, 9, 11), (19, 37, 3, 3), pads=(1, 1, 1, 1), dtype=F16, bias=True),
    conv("conv2d_f16_dilated_strided", (1, 16, 23, 25), (20, 16, 3, 3), strides=(2, 3), dilations=(3, 2),
         pads=(2, 1, 3, 4), dtype=F16),
    conv("conv2d_f16_long_rows", (1, 80, 6, 7), (40, 80, 1, 1), dtype=F16),
    conv("conv2d_f16_groups", (1, 64, 10, 10), (64, 16, 3, 3), group=4, pads=(1, 1, 1, 1), dtype=F16, after=relu),
    conv("conv2d_f16_open", (N, 17, H, W), (16, 17, 3, 3), strides=(2, 2), pads=(1, 1, 1, 1), dtype=F16, sizes=OPEN),
    conv("conv2d_bf16_odd_channels", (1, 33, 9, 7), (21, 33, 3, 3), pads=(1, 1, 1, 1), dtype=BF16, after=relu),
    conv("conv2d_bf16_open", (1, 8, H, W), (24, 8, 3, 3), pads=(1, 1, 1, 1), dtype=BF16, sizes=OPEN),
    transposed("transposed2d_f16", (1, 16, 7, 6), (16, 24, 4, 4), strides=(2, 2), pads=(1, 1, 1, 1), dtype=F16),
    transposed("transposed2d_bf16", (1, 16, 7, 7), (16, 32, 2, 2), strides=(2, 2), bias=True, dtype=BF16, after=relu),
    matmul("matmul_bf16_run_time_odd_depth", (20, 51), (51, 40), dtype=BF16, run_time=True),
    matmul("matmul_bf16_open_odd_depth", (N, H, 3), (3, W), dtype=BF16, run_time=True, sizes=OPEN),
    conv("conv2d_bf16_run_time_odd", (1, 7, 9, 9), (20, 7, 3, 3), pads=(1, 1, 1, 1), dtype=BF16, run_time=True),
    matmul("matmul_f16_run_time", (20, 50), (50, 40), dtype=F16, run_time=True),
    matmul("matmul_f16_open", (H, M), (M, W), dtype=F16, run_time=True, sizes=OPEN),
    matmul("matmul_bf16_open", (H, M), (M, W), dtype=BF16, run_time=True, sizes=OPEN),
    matmul("matmul_f16_one_row_of_many", (1, 700), (700, 900), dtype=F16),
    matmul("matmul_f16_long_sum", (6, 2100), (2100, 20), dtype=F16),
    matmul("matmul_f16_activated", (13, 37), (37, 41), dtype=F16, after=biased_silu),
    matmul("matmul_f16_no_rows", (0, 37), (37, 41), dtype=F16, template=False),
    matmul("matmul_f16_nothing_summed", (5, 0), (0, 41), dtype=F16, template=False),
)  # fmt: skip

BYTES = (
    byte_conv("bytes_3_128", (1, 16, 9, 8), (24, 16, 3, 3), (3, 128), bias=True),
    byte_conv("bytes_0_0", (1, 16, 9, 8), (24, 16, 3, 3), (0, 0), types=(U8, I8)),
    byte_conv("bytes_255_0_odd_channels", (2, 7, 6, 8), (19, 7, 3, 3), (255, 0), types=(U8, I8)),
    byte_conv("bytes_weights_beyond_a_byte", (1, 16, 9, 8), (24, 16, 3, 3), (3, 100)),
    byte_conv("bytes_weights_unsigned", (1, 18, 9, 8), (24, 18, 3, 3), (0, 0)),
    byte_conv("bytes_signed", (1, 17, 9, 8), (24, 17, 3, 3), (-128, 0), types=(I8, I8), strides=(2, 1)),
    byte_conv("bytes_signed_127", (1, 16, 9, 8), (24, 16, 3, 3), (127, 128), types=(I8, U8), pads=(0, 2, 1, 0)),
    byte_conv("bytes_groups", (1, 64, 6, 6), (64, 32, 3, 3), (9, 128), group=2),
    byte_conv("bytes_open", (N, 16, H, W), (24, 16, 3, 3), (3, 128), sizes=OPEN),
    byte_matmul("bytes_matmul", (20, 50), (50, 40), (3, 128)),
    byte_matmul("bytes_matmul_255_255", (9, 301), (301, 48), (255, 255)),
    byte_matmul("bytes_matmul_signed", (20, 51), (51, 33), (-5, 0), types=(I8, I8)),
    byte_matmul("bytes_matmul_run_time", (20, 51), (51, 33), (7, 200), run_time=True),
    byte_matmul("bytes_matmul_open", (N, H, 24), (24, 40), (7, 128), sizes=OPEN),
    byte_matmul("bytes_matmul_open_sums", (H, M), (M, W), (7, 128), run_time=True, sizes=OPEN),
    byte_matmul("bytes_matmul_no_rows", (0, 24), (24, 40), (7, 128), template=False),
)  # fmt: skip


def by_hand(
    name: str, x: Shape, y: Shape, axis: int, *, dtype: DType = F32, keep: bool = False, template: bool = True,
    sizes: Sizes = None,
) -> Form:  # fmt: skip
    """A product that is written as the sum of what was multiplied with broadcasting, in f32."""

    def graph() -> Graph:
        b = Builder("g")
        values = [b.input(n, dtype, shape) for n, shape in (("x", x), ("w", y))]
        wide = values if dtype is F32 else [b.one("cast", [v], to=F32) for v in values]
        return b.finish([b.one("reduce", [b.one("mul", wide)], kind="sum", axes=(axis,), keepdims=keep)], names=["y"])

    return Form(name, graph, template, sizes or {})


def wide_result(name: str, dtype: DType, run_time: bool) -> Form:
    """A product of halves that were widened before."""

    def graph() -> Graph:
        b = Builder("g")
        w = b.input("w", dtype, (50, 40)) if run_time else b.constant(array_of((50, 40), dtype, 1), "w")
        operands = [b.one("cast", [v], to=F32) for v in (b.input("x", dtype, (20, 50)), w)]
        return b.finish([b.one("matmul", operands)], names=["y"])

    return Form(name, graph)


BY_HAND = (
    by_hand("by_hand", (40, 1, 64), (1, 48, 64), 2),
    by_hand("by_hand_sum_in_the_middle", (40, 65, 1), (1, 65, 48), 1, keep=True),
    by_hand("by_hand_batches", (3, 20, 1, 64), (3, 1, 48, 64), 3),
    by_hand("by_hand_bf16", (40, 1, 64), (1, 48, 64), 2, dtype=BF16),
    by_hand("by_hand_f16", (40, 1, 64), (1, 48, 64), 2, dtype=F16),
    by_hand("by_hand_open", (H, 1, M), (1, W, M), 2, sizes=OPEN),
    by_hand("by_hand_point_by_point", (40, 64), (40, 64), 1, template=False),
    by_hand("by_hand_one_vector", (40, 64), (1, 64), 1, template=False),
    by_hand("by_hand_no_rows", (0, 1, 64), (1, 48, 64), 2, template=False),
    wide_result("bf16_with_f32_result", BF16, run_time=False),
    wide_result("bf16_with_f32_result_run_time", BF16, run_time=True),
    wide_result("f16_with_f32_result", F16, run_time=False),
)


def products_of_blocks() -> Graph:
    """x (x^T p): a run-time operand between two products, with its channels in blocks."""
    b = Builder("g")
    x, p = (b.input(name, F32, (70, 48)) for name in "xp")
    inner = b.one("matmul", [b.one("transpose", [x], perm=(1, 0)), p])
    return b.finish([b.one("matmul", [x, inner])], names=["y"])


def channels_as_columns() -> Graph:
    """z times the pixels of a convolution's result, whose channels, in blocks, are the columns."""
    b = Builder("g")
    x, z = b.input("x", F32, (1, 16, 6, 24)), b.input("z", F32, (1, 6, 9, 24))
    attrs = {"strides": (1, 1), "pads": (1, 1, 1, 1), "dilations": (1, 1), "group": 1}
    y = b.one("conv", [x, b.constant(array_of((48, 16, 3, 3), F32, 1), "w")], **attrs)
    return b.finish([b.one("matmul", [z, shuffled(b, y)])], names=["y"])


CHAINS = (Form("products_of_blocks", products_of_blocks), Form("channels_as_columns", channels_as_columns))

FORMS = (*CONVOLUTIONS, *TRANSPOSED, *PRODUCTS, *QUANTISED, *HALVES, *BYTES, *BY_HAND, *CHAINS)


def feeds_of(graph: Graph, sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Random elements for every input."""
    from mapsto.ir.expr import evaluate

    return {
        v.name: array_of([evaluate(d, sizes) for d in v.shape], v.dtype, 10 + i) for i, v in enumerate(graph.inputs)
    }
