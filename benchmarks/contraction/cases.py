"""Convolutions and matrix products as contraction forms, with their operands laid out and a numpy reference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mapsto.devices.contraction.template import ContractionForm, LoopAxis
from mapsto.ir.dtypes import DType
from mapsto.loop.ast import Param

Array = NDArray[Any]


@dataclass(frozen=True)
class Format:
    """Element types of a contraction and the dot group that they allow."""

    name: str
    a: DType
    b: DType
    accumulator: DType
    interleave: int


FP32 = Format("fp32", DType.F32, DType.F32, DType.F32, 1)
BF16 = Format("bf16", DType.BF16, DType.BF16, DType.F32, 2)
INT8 = Format("int8", DType.U8, DType.I8, DType.I32, 4)
FP64 = Format("fp64", DType.F64, DType.F64, DType.F64, 1)
FORMATS = {f.name: f for f in (FP32, BF16, INT8, FP64)}


@dataclass(frozen=True)
class Convolution:
    """A 2-D convolution of one image per batch entry; `pixels` is the output's size."""

    channels: int
    columns: int
    pixels: int | tuple[int, int]
    kernel: int | tuple[int, int] = 3
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    batch: int = 1

    @property
    def name(self) -> str:
        (kh, kw), (h, w) = self.window, self.output
        size = f"{h}" if h == w else f"{h}x{w}"
        return f"{kh}x{kw} {self.channels}->{self.columns} at {size}"

    @property
    def window(self) -> tuple[int, int]:
        return self.kernel if isinstance(self.kernel, tuple) else (self.kernel, self.kernel)

    @property
    def output(self) -> tuple[int, int]:
        return self.pixels if isinstance(self.pixels, tuple) else (self.pixels, self.pixels)

    @property
    def input(self) -> tuple[int, int]:
        """Height and width that the output needs, borders included."""
        sizes = zip(self.output, self.window, strict=True)
        height, width = ((o - 1) * self.stride + (k - 1) * self.dilation + 1 for o, k in sizes)
        return height, width

    @property
    def multiplications(self) -> int:
        per_group = (self.channels // self.groups) * (self.columns // self.groups)
        return self.batch * self.groups * per_group * int(np.prod(self.output)) * int(np.prod(self.window))


@dataclass(frozen=True)
class Product:
    """rows x depth by depth x columns."""

    rows: int
    depth: int
    columns: int
    batch: int = 1

    @property
    def name(self) -> str:
        return f"matmul {self.rows}x{self.depth}x{self.columns}"

    @property
    def multiplications(self) -> int:
        return self.batch * self.rows * self.depth * self.columns


def round_up(n: int, block: int) -> int:
    return -(-n // block) * block


@dataclass(frozen=True)
class Case:
    """A form with its operands: `a` laid out, `weights` logical (groups, columns, channels, *window), `reference` as
    the output lies."""

    form: ContractionForm
    a: Array
    weights: Array
    reference: Array
    compare: NDArray[np.bool_]


def random_operand(rng: np.random.Generator, shape: tuple[int, ...], element: DType) -> Array:
    """Values whose products and sums are exact in every accumulator, so that results can be compared bit for bit."""
    low, high = {DType.U8: (0, 256), DType.I8: (-128, 128)}.get(element, (-8, 8))
    return rng.integers(low, high, shape).astype(element.numpy)


def convolution_case(
    conv: Convolution, fmt: Format, block: int = 16, seed: int = 0, blocked: bool = True, name: str = "contraction"
) -> Case:
    """Blocked activations [N][C/block][H][W][block] (or, not blocked, [N][H][W][C]); tail lanes poisoned in A, zero
    in the result."""
    rng = np.random.default_rng(seed)
    (h, w), (oh, ow), (kh, kw), g = conv.input, conv.output, conv.window, conv.groups
    c, o = conv.channels // g, conv.columns // g
    x = random_operand(rng, (conv.batch, conv.channels, h, w), fmt.a)
    weights = random_operand(rng, (g, o, c, kh, kw), fmt.b)
    reference = convolve(x, weights, conv, fmt.accumulator)
    if not blocked or g > 1:
        return _plain_convolution(conv, fmt, x, weights, reference, name)
    cb, ob = round_up(c, block) // block, round_up(o, block) // block
    flatten = (kh, kw) == (1, 1) and conv.stride == 1
    axes = (LoopAxis(oh, conv.stride * w * block, 0, ow * block), LoopAxis(ow, conv.stride * block, 0, block))
    form = ContractionForm(
        name=name,
        a=Param("a", fmt.a),
        b=Param("b", fmt.b),
        out=Param("out", fmt.accumulator, True),
        accumulator=fmt.accumulator,
        columns=o,
        rows=(LoopAxis(oh * ow, block, 0, block),) if flatten else axes,
        channels=c,
        batch=(LoopAxis(conv.batch, cb * h * w * block, 0, ob * oh * ow * block),),
        window=(LoopAxis(kh, conv.dilation * w * block), LoopAxis(kw, conv.dilation * block)),
        channel_block=block,
        channel_block_stride=h * w * block,
        interleave=fmt.interleave,
        out_block=block,
        out_block_stride=oh * ow * block,
    )
    poison = np.array(np.nan if fmt.a.is_float else 77).astype(fmt.a.numpy)
    laid = to_blocks(x, block, poison)
    expected = to_blocks(reference, block, np.zeros((), reference.dtype))
    return Case(form, laid, weights[0], expected, np.ones(expected.shape, bool))


def _plain_convolution(conv: Convolution, fmt: Format, x: Array, weights: Array, reference: Array, name: str) -> Case:
    """[N][H][W][C]: channels contiguous; groups are a batch axis that moves along the channels."""
    (h, w), (oh, ow), (kh, kw), g = conv.input, conv.output, conv.window, conv.groups
    c, o = conv.channels, conv.columns
    form = ContractionForm(
        name=name,
        a=Param("a", fmt.a),
        b=Param("b", fmt.b),
        out=Param("out", fmt.accumulator, True),
        accumulator=fmt.accumulator,
        columns=o // g,
        rows=(LoopAxis(oh, conv.stride * w * c, 0, ow * o), LoopAxis(ow, conv.stride * c, 0, o)),
        channels=c // g,
        batch=(LoopAxis(conv.batch, h * w * c, 0, oh * ow * o), LoopAxis(g, c // g, -1, o // g)),
        window=(LoopAxis(kh, conv.dilation * w * c), LoopAxis(kw, conv.dilation * c)),
        interleave=fmt.interleave,
    )
    laid, expected = (
        np.ascontiguousarray(x.transpose(0, 2, 3, 1)),
        np.ascontiguousarray(reference.transpose(0, 2, 3, 1)),
    )
    return Case(form, laid, weights if g > 1 else weights[0], expected, np.ones(expected.shape, bool))


def product_case(product: Product, fmt: Format, seed: int = 0, name: str = "contraction") -> Case:
    """Row-major operands; B is shared by the batch."""
    rng = np.random.default_rng(seed)
    m, k, n = product.rows, product.depth, product.columns
    a = random_operand(rng, (product.batch, m, k), fmt.a)
    b = random_operand(rng, (n, k), fmt.b)
    wide = np.int64 if not fmt.accumulator.is_float else np.float64
    reference = (a.astype(wide) @ b.astype(wide).T).astype(fmt.accumulator.numpy)
    form = ContractionForm(
        name=name,
        a=Param("a", fmt.a),
        b=Param("b", fmt.b),
        out=Param("out", fmt.accumulator, True),
        accumulator=fmt.accumulator,
        columns=n,
        rows=(LoopAxis(m, k, 0, n),),
        channels=k,
        batch=(LoopAxis(product.batch, m * k, 0, m * n),),
        interleave=fmt.interleave,
    )
    return Case(form, a, b, reference, np.ones(reference.shape, bool))


def to_blocks(x: Array, block: int, tail: Array) -> Array:
    """[N][C][H][W] -> [N][C/block][H][W][block], tail lanes filled."""
    n, c, h, w = x.shape
    padded = np.full((n, round_up(c, block), h, w), tail, x.dtype)
    padded[:, :c] = x
    return np.ascontiguousarray(padded.reshape(n, padded.shape[1] // block, block, h, w).transpose(0, 1, 3, 4, 2))


def convolve(x: Array, weights: Array, conv: Convolution, accumulator: DType) -> Array:
    """The convolution in double precision (or exact integers), window position by window position."""
    wide = np.float64 if accumulator.is_float else np.int64
    (oh, ow), (kh, kw), g, s, d = conv.output, conv.window, conv.groups, conv.stride, conv.dilation
    image = x.astype(wide).reshape(conv.batch, g, -1, *x.shape[2:])
    total = np.zeros((conv.batch, g, weights.shape[1], oh, ow), wide)
    for i in range(kh):
        for j in range(kw):
            part = image[:, :, :, i * d : i * d + (oh - 1) * s + 1 : s, j * d : j * d + (ow - 1) * s + 1 : s]
            matrix = weights[:, :, :, i, j].astype(wide)
            flat = part.reshape(conv.batch, g, part.shape[2], oh * ow)
            total += np.matmul(matrix[None], flat).reshape(total.shape)
    return total.reshape(conv.batch, conv.columns, oh, ow).astype(accumulator.numpy)
