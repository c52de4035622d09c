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
F32, BF16 = DType.F32, DType.BF16


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
    if dtype is DType.U8:
        return rng.integers(0, 256, shape).astype(np.uint8)
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
    pads: Sequence[int] = (), more: Sequence[int] = (), group: int = 1, bias: bool = False,
    after: After = None, template: bool = True, sizes: Sizes = None,
) -> Form:  # fmt: skip
    """x[N, C, space...] spread by windows w[C, O/group, window...]. more: the output padding."""

    def graph() -> Graph:
        b, n = Builder("g"), len(x) - 2
        inputs = [b.input("x", F32, x), b.constant(array_of(w, F32, 1), "w")]
        inputs += [b.constant(bias_of(w[1] * group, F32), "bias")] if bias else []
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
    quantised("matmul_bytes_wide", lambda b, x: b.one("matmul", [x, bytes_of(b, (50, 40), -129)]), (9, 50), False),
    quantised("conv_bytes", integer_conv, (1, 16, 9, 8)),
    quantised("conv_bytes_odd_channels", integer_conv, (2, 7, 6, 8)),
)  # fmt: skip


def products_of_blocks() -> Graph:
    """x (x^T p): a run-time operand between two products, with its channels in blocks."""
    b = Builder("g")
    x, p = (b.input(name, F32, (70, 48)) for name in "xp")
    inner = b.one("matmul", [b.one("transpose", [x], perm=(1, 0)), p])
    return b.finish([b.one("matmul", [x, inner])], names=["y"])


CHAINS = (Form("products_of_blocks", products_of_blocks),)

FORMS = (*CONVOLUTIONS, *TRANSPOSED, *PRODUCTS, *QUANTISED, *CHAINS)


def feeds_of(graph: Graph, sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
    """Random elements for every input."""
    from mapsto.ir.expr import evaluate

    return {
        v.name: array_of([evaluate(d, sizes) for d in v.shape], v.dtype, 10 + i) for i, v in enumerate(graph.inputs)
    }
