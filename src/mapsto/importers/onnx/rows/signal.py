"""Rows of signal processing: window functions, the discrete Fourier transform as a matrix product, frames of it."""

from __future__ import annotations

import math

import numpy as np

from mapsto.importers.onnx.rows.common import float_as_dims, reshape, slice_axis, transpose
from mapsto.importers.onnx.table import NodeCall, Result, row
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, Expr
from mapsto.ir.graph import Value
from mapsto.ops.builder import Builder

# Sums of cosines: sum_k (-1)^k a_k cos(2 pi k n / N)
_WINDOWS = {"HannWindow": (0.5, 0.5), "HammingWindow": (25 / 46, 21 / 46), "BlackmanWindow": (0.42, 0.5, 0.08)}
# The longest window that is made when compiling.
_CONSTANT = 1 << 20
# The largest transform, in points, whose matrix is worth being a constant.
_POINTS = 1 << 12


@row(*_WINDOWS)
def _window(call: NodeCall) -> Result:
    b, dtype = call.builder, call.dtype("output_datatype", DType.F32)
    size = call.dim(0, "size", "the size")
    if isinstance(size, Expr) or size > _CONSTANT:
        steps = b.one("iota", [], shape=(size,), start=0, step=1, dtype=DType.F64)
        period = size if call.integer("periodic", 1) else size - 1
        turn = b.one("div", [steps, b.one("cast", [b.known(period)], to=DType.F64)])
        total: Value | None = None
        for k, a in enumerate(_WINDOWS[call.op]):
            wave = b.one("cos", [b.one("mul", [turn, call.scalar(2 * math.pi * k, turn)])])
            part = b.one("mul", [wave, call.scalar((-1) ** k * a, turn)])
            total = part if total is None else b.one("add", [total, part])
        assert total is not None
        return total if dtype is DType.F64 else b.one("cast", [total], to=dtype)
    period = max(size if call.integer("periodic", 1) else size - 1, 1)
    n = np.arange(size)
    waves = [(-1) ** k * a * np.cos(2 * math.pi * k * n / period) for k, a in enumerate(_WINDOWS[call.op])]
    return b.constant(np.sum(waves, axis=0), "window", dtype)


def _matrices(points: int, outputs: int, inverse: bool) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin of 2 pi n k / N as [N, outputs] (conjugated and divided by N for the inverse)."""
    angle = 2 * np.pi * (np.outer(np.arange(points), np.arange(outputs)) % points) / points
    scale, sign = (1 / points, 1) if inverse else (1, -1)
    return np.cos(angle) * scale, sign * np.sin(angle) * scale


def fourier(b: Builder, x: Value, points: int, outputs: int, inverse: bool) -> Value:
    """x[..., N, 1 or 2] -> [..., outputs, 2]: real and imaginary parts by products with constant matrices."""
    cosines, sines = (b.constant(m, "fourier", x.dtype) for m in _matrices(points, outputs, inverse))
    parts = [reshape(b, slice_axis(b, x, x.rank - 1, k, 1), x.shape[:-1]) for k in range(int(x.shape[-1]))]  # type: ignore[arg-type]
    real, imaginary = b.one("matmul", [parts[0], cosines]), b.one("matmul", [parts[0], sines])
    if len(parts) == 2:
        real = b.one("sub", [real, b.one("matmul", [parts[1], sines])])
        imaginary = b.one("add", [imaginary, b.one("matmul", [parts[1], cosines])])
    columns = [reshape(b, v, (*v.shape, 1)) for v in (real, imaginary)]
    return b.one("concat", columns, axis=x.rank - 1)


def _real_inverse(b: Builder, x: Value, points: int) -> Value:
    """x[..., points//2 + 1, 1 or 2], half of a symmetric spectrum -> [..., points, 1].

    Every bin but the first, and the middle one of an even length, stands for its mirror image as well; those have no
    imaginary part to speak of.
    """
    bins = points // 2 + 1
    cosines, sines = (m.T for m in _matrices(points, bins, True))
    own = np.array([k == 0 or 2 * k == points for k in range(bins)])
    cosines = np.where(own, 1, 2)[:, None] * cosines
    sines = np.where(own, 0, 2)[:, None] * sines
    parts = [reshape(b, slice_axis(b, x, x.rank - 1, k, 1), x.shape[:-1]) for k in range(int(x.shape[-1]))]  # type: ignore[arg-type]
    result = b.one("matmul", [parts[0], b.constant(cosines, "fourier", x.dtype)])
    if len(parts) == 2:
        result = b.one("sub", [result, b.one("matmul", [parts[1], b.constant(sines, "fourier", x.dtype)])])
    return reshape(b, result, (*result.shape, 1))


@row("MelWeightMatrix")
def _mel_weight_matrix(call: NodeCall) -> Result:
    """[dft_length / 2 + 1, num_mel_bins]: triangles over the bins of a spectrum, equally far apart in mels, 2595 *
    log10(1 + f / 700). Their corners are whole bins; a triangle without a rising side is 1 at its corner.
    """
    b = call.builder
    mels, length = call.dim(0, "mels", "num_mel_bins"), call.dim(1, "points", "dft_length")
    rate, low, high = (reshape(b, b.one("cast", [call.input(i)], to=DType.F64), ()) for i in (2, 3, 4))

    def op(name: str, x: Value, y: Value | float) -> Value:
        return b.one(name, [x, y if isinstance(y, Value) else call.scalar(y, x)])

    def real(dim: Dim) -> Value:
        return b.one("cast", [b.known(dim)], to=DType.F64)

    def mel(frequency: Value) -> Value:
        return op("mul", b.one("log", [op("add", op("div", frequency, 700.0), 1.0)]), 2595.0 / math.log(10.0))

    step = op("div", op("sub", mel(high), mel(low)), real(mels + 2))
    edges = b.one("iota", [], shape=(mels + 2,), start=0.0, step=1.0, dtype=DType.F64)
    edges = op("add", op("mul", edges, step), mel(low))
    hertz = op("mul", op("sub", b.one("exp", [op("mul", edges, math.log(10.0) / 2595.0)]), 1.0), 700.0)
    corners = b.one("floor", [op("div", op("mul", hertz, real(length + 1)), rate)])
    left, top, right = (slice_axis(b, corners, 0, k, mels) for k in range(3))
    bins = length // 2 + 1
    place = reshape(b, b.one("iota", [], shape=(bins,), start=0.0, step=1.0, dtype=DType.F64), (bins, 1))
    rising, falling = op("sub", top, left), op("sub", right, top)
    up = op("div", op("sub", place, left), op("max", rising, 1.0))
    up = b.one("select", [op("eq", rising, 0.0), call.scalar(1.0, up), up])
    down = op("div", op("sub", right, place), op("max", falling, 1.0))
    zero = call.scalar(0.0, up)
    on_left = b.one("and", [op("ge", place, left), op("le", place, top)])
    on_right = b.one("and", [op("gt", place, top), op("lt", place, right)])
    weights = b.one("select", [on_left, up, b.one("select", [on_right, down, zero])])
    return b.one("cast", [weights], to=call.dtype("output_datatype", DType.F32))


@row("DFT")
def _dft(call: NodeCall) -> Result:
    b, x = call.builder, call.input(0)
    onesided, inverse = bool(call.integer("onesided", 0)), bool(call.integer("inverse", 0))
    if call.opset < 20:
        axis = call.normal_axis(call.integer("axis", 1), x.rank)
    else:
        axis = call.normal_axis(call.static_int(2, "the axis") if call.has(2) else -2, x.rank)
    if axis == x.rank - 1:
        raise call.wrong(f"axis {axis} of {x} holds the real and imaginary parts")
    extent = 2 * (x.shape[axis] - 1) if onesided and inverse else x.shape[axis]
    length = call.static_int(1, "the length") if call.has(1) else extent
    if not isinstance(length, int) or length > _POINTS or x.shape[-1] not in (1, 2):
        raise call.unsupported(
            f"a transform of {length} points over {x} is not supported; up to {_POINTS} known points are"
        )
    if length < 1:
        raise call.wrong(f"a transform of {length} points")
    perm = [k for k in range(x.rank - 1) if k != axis] + [axis, x.rank - 1]
    turned = transpose(b, x, perm)
    if onesided and inverse:
        result = _real_inverse(b, _of_length(b, turned, length // 2 + 1), length)
    else:
        bins = length // 2 + 1 if onesided else length
        result = fourier(b, _of_length(b, turned, length), length, bins, inverse)
    return transpose(b, result, [perm.index(k) for k in range(x.rank)])


def _of_length(b: Builder, x: Value, length: int) -> Value:
    """The axis before the last cut, or filled up with zeros."""
    axis, extent = x.rank - 2, x.shape[x.rank - 2]
    if not isinstance(extent, int) or extent == length:
        return x
    if extent > length:
        return slice_axis(b, x, axis, 0, length)
    after = tuple(length - extent if k == axis else 0 for k in range(x.rank))
    return b.one("pad", [x], before=(0,) * x.rank, after=after, mode="constant", value=0.0)


@row("STFT")
def _stft(call: NodeCall) -> Result:
    """Frames of the signal[N, L, 1 or 2], `step` apart, times the window, transformed: [N, frames, bins, 2]."""
    b, x = call.builder, call.input(0)
    step = call.static_int(1, "the step between frames")
    window = call.optional(2)
    size: Dim | None = (
        float_as_dims(b, call.input(3)) if call.has(3) else window.shape[0] if window is not None else None
    )
    if not isinstance(size, int) or size > _POINTS or step < 1 or x.rank != 3:
        raise call.unsupported(
            f"frames of {size} points, {step} apart, of {x} are not supported; their length must be known"
        )
    count = (x.shape[1] - size) // step + 1
    starts = b.one("iota", [], shape=(count,), start=0, step=step, dtype=DType.I64)
    inside = b.one("iota", [], shape=(size,), start=0, step=1, dtype=DType.I64)
    places = b.one("add", [reshape(b, starts, (count, 1)), inside])
    frames = b.one("gather", [x, places], axis=1)
    if window is not None:
        frames = b.one("mul", [frames, reshape(b, window, (size, 1))])
    return fourier(b, frames, size, size // 2 + 1 if call.integer("onesided", 1) else size, False)
