"""Rows of signal processing: window functions, the discrete Fourier transform as a matrix product, frames of it."""

from __future__ import annotations

import math

import numpy as np

from mapsto.importers.onnx.rows.axes import around, bound, integers, known_axes, one_axis
from mapsto.importers.onnx.rows.common import float_as_dims
from mapsto.importers.onnx.table import NodeCall, Result, row
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, Expr
from mapsto.ir.graph import Value
from mapsto.ops.arranging import positions, reshape, slice_axis, transpose
from mapsto.ops.builder import Builder
from mapsto.ops.shapes import dim_max, dim_min

# Sums of cosines: sum_k (-1)^k a_k cos(2 pi k n / N)
_WINDOWS = {"HannWindow": (0.5, 0.5), "HammingWindow": (25 / 46, 21 / 46), "BlackmanWindow": (0.42, 0.5, 0.08)}
# The longest window that is made when compiling.
_CONSTANT = 1 << 20
# The largest transform, in points, whose matrix is worth being a constant.
_POINTS = 1 << 12


@row(*_WINDOWS)
def _window(call: NodeCall) -> Result:
    b, dtype = call.builder, call.dtype("output_datatype", DType.F32)
    size = call.dim(0, "size")
    call.require(size, f"a window of {size} points")
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


def _matrices_of_run(b: Builder, points: Dim, outputs: Dim, inverse: bool) -> list[Value]:
    """The same in f64 for a number of points that only a run knows: one turn of each wave, read at n k mod N."""
    n, k = reshape(b, positions(b, points), (points, 1)), positions(b, outputs)
    at = b.one("mod", [b.one("mul", [n, k]), b.known(points)], fmod=False)
    count = b.one("cast", [b.known(points)], to=DType.F64)
    turn = b.constant(np.asarray(2 * np.pi))
    angles = b.one("div", [b.one("mul", [b.one("cast", [positions(b, points)], to=DType.F64), turn]), count])
    waves = [b.one("cos", [angles]), b.one("sin", [angles])]
    if inverse:
        waves = [b.one("div", [wave, count]) for wave in waves]
    else:
        waves[1] = b.one("neg", [waves[1]])
    return [b.one("gather", [wave, at], axis=0) for wave in waves]


def _waves(b: Builder, points: Dim, outputs: Dim, inverse: bool, dtype: DType) -> list[Value]:
    if isinstance(points, int) and isinstance(outputs, int):
        return [b.constant(m, "fourier", dtype) for m in _matrices(points, outputs, inverse)]
    return [b.one("cast", [m], to=dtype) for m in _matrices_of_run(b, points, outputs, inverse)]


def fourier(b: Builder, x: Value, points: Dim, outputs: Dim, inverse: bool) -> Value:
    """x[..., N, 1 or 2] -> [..., outputs, 2]: real and imaginary parts by products with matrices, which are constants
    where the sizes are fixed.
    """
    cosines, sines = _waves(b, points, outputs, inverse, x.dtype)
    parts = _parts(b, x)
    real, imaginary = b.one("matmul", [parts[0], cosines]), b.one("matmul", [parts[0], sines])
    if len(parts) == 2:
        real = b.one("sub", [real, b.one("matmul", [parts[1], sines])])
        imaginary = b.one("add", [imaginary, b.one("matmul", [parts[1], cosines])])
    columns = [reshape(b, v, (*v.shape, 1)) for v in (real, imaginary)]
    return b.one("concat", columns, axis=x.rank - 1)


def _parts(b: Builder, x: Value) -> list[Value]:
    """The real part, and the imaginary one where there is one."""
    return [reshape(b, slice_axis(b, x, x.rank - 1, k, 1), x.shape[:-1]) for k in range(int(x.shape[-1]))]  # type: ignore[arg-type]


def _real_inverse(b: Builder, x: Value, points: Dim) -> Value:
    """x[..., points//2 + 1, 1 or 2], half of a symmetric spectrum -> [..., points, 1].

    Every bin but the first, and the middle one of an even length, stands for its mirror image as well; those have no
    imaginary part to speak of.
    """
    cosines, sines = _half_waves(b, points, x.dtype)
    parts = _parts(b, x)
    result = b.one("matmul", [parts[0], cosines])
    if len(parts) == 2:
        result = b.one("sub", [result, b.one("matmul", [parts[1], sines])])
    return reshape(b, result, (*result.shape, 1))


def _half_waves(b: Builder, points: Dim, dtype: DType) -> list[Value]:
    """cos and sin as [points//2 + 1, points] over N, doubled where a bin stands for two."""
    bins = points // 2 + 1
    if isinstance(points, int) and isinstance(bins, int):
        lone = np.array([k == 0 or 2 * k == points for k in range(bins)])
        shares = (np.where(lone, alone, 2)[:, None] for alone in (1, 0))
        matrices = _matrices(points, bins, True)
        return [b.constant(s * m.T, "fourier", dtype) for s, m in zip(shares, matrices, strict=True)]
    k = reshape(b, positions(b, bins), (bins, 1))
    zero, two = (b.constant(np.asarray(n, np.int64)) for n in (0, 2))
    middle = b.one("eq", [b.one("mul", [k, two]), b.known(points)])
    own = b.one("or", [b.one("eq", [k, zero]), middle])
    found = []
    for alone, wave in zip((1.0, 0.0), _matrices_of_run(b, points, bins, True), strict=True):
        share = b.one("select", [own, *(b.constant(np.asarray(n)) for n in (alone, 2.0))])
        found.append(b.one("cast", [b.one("mul", [share, transpose(b, wave, (1, 0))])], to=dtype))
    return found


@row("MelWeightMatrix")
def _mel_weight_matrix(call: NodeCall) -> Result:
    """[dft_length / 2 + 1, num_mel_bins]: triangles over the bins of a spectrum, equally far apart in mels, 2595 *
    log10(1 + f / 700). Their corners are whole bins; a triangle without a rising side is 1 at its corner.
    """
    b = call.builder
    mels, length = call.dim(0, "mels"), call.dim(1, "points")
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
    if x.rank < 2 or x.shape[-1] not in (1, 2):
        raise call.wrong(f"the last axis of {x} must hold the real, or the real and imaginary, parts")
    if call.opset >= 20 and call.has(2):
        axes = known_axes(call, 2, x.rank)
        if axes is None:
            return _dft_of_run(call, onesided, inverse)
        axis = call.only(axes, 2)
    else:
        axis = call.normal_axis(call.integer("axis", 1) if call.opset < 20 else -2, x.rank)
    if axis == x.rank - 1:
        raise call.wrong(f"axis {axis} of {x} holds the real and imaginary parts")
    perm = [k for k in range(x.rank - 1) if k != axis] + [axis, x.rank - 1]
    turned = transpose(b, x, perm)
    length = _length(call, x.shape[axis], onesided and inverse)
    return transpose(b, _transformed(b, turned, length, onesided, inverse), [perm.index(k) for k in range(x.rank)])


def _dft_of_run(call: NodeCall, onesided: bool, inverse: bool) -> Value:
    """Along an axis that only a run knows: of x[before it, along it, behind it, parts]."""
    b, x = call.builder, call.input(0)
    rank = x.rank - 1
    axis = one_axis(call, 2, x.rank, rank)
    rows = reshape(b, x, (*around(call, axis, x.shape[:-1]), x.shape[-1]))
    turned = transpose(b, rows, (0, 2, 1, 3))
    length = _length(call, rows.shape[1], onesided and inverse)
    result = transpose(b, _transformed(b, turned, length, onesided, inverse), (0, 2, 1, 3))
    extents = b.one("select", [axis.at, b.known(result.shape[1]), integers(b, x.shape[:-1])])
    return reshape(b, result, (*bound(call, extents, "extent"), result.shape[-1]))


def _length(call: NodeCall, extent: Dim, half: bool) -> Dim:
    """The number of points, of which a run takes no more than are allowed. half: the axis is half a spectrum."""
    length = call.dim(1, "length") if call.has(1) else 2 * (extent - 1) if half else extent
    if isinstance(length, int) and length > _POINTS:
        raise call.unsupported(f"a transform of {length} points is not supported; up to {_POINTS} are")
    call.require(length - 1, f"a transform of {length} points: there must be at least 1")
    call.require(_POINTS - length, f"a transform of {length} points is not supported; up to {_POINTS} are")
    return length


def _transformed(b: Builder, x: Value, length: Dim, onesided: bool, inverse: bool) -> Value:
    """Along the axis before the last."""
    if onesided and inverse:
        return _real_inverse(b, _of_length(b, x, length // 2 + 1), length)
    bins = length // 2 + 1 if onesided else length
    return fourier(b, _of_length(b, x, length), length, bins, inverse)


def _of_length(b: Builder, x: Value, length: Dim) -> Value:
    """The axis before the last cut, or filled up with zeros."""
    axis, extent = x.rank - 2, x.shape[x.rank - 2]
    if extent == length:
        return x
    x = slice_axis(b, x, axis, 0, dim_min(extent, length))
    after = tuple(dim_max(length - extent, 0) if k == axis else 0 for k in range(x.rank))
    if all(width == 0 for width in after):
        return x
    return b.one("pad", [x], before=(0,) * x.rank, after=after, mode="constant", value=0.0)


@row("STFT")
def _stft(call: NodeCall) -> Result:
    """Frames of the signal[N, L, 1 or 2], `step` apart, times the window, transformed: [N, frames, bins, 2]."""
    b, x = call.builder, call.input(0)
    step = call.dim(1, "step")
    window = call.optional(2)
    if window is not None and window.rank != 1:
        raise call.wrong(f"the window {window} is no vector")
    if call.has(3):
        known = float_as_dims(b, call.input(3))
        size = known if known is not None else call.dim(3, "length")
    elif window is not None:
        size = window.shape[0]
    else:
        raise call.wrong("neither a window nor a length says how long the frames are")
    if x.rank != 3 or x.shape[-1] not in (1, 2):
        raise call.wrong(f"the signal {x} is not [batch, length, 1 or 2]")
    if isinstance(size, int) and size > _POINTS:
        raise call.unsupported(f"frames of {size} points are not supported; up to {_POINTS} are")
    call.require(step - 1, f"the step between frames is {step}, not at least 1")
    call.require(size - 1, f"frames of {size} points: there must be at least 1")
    call.require(_POINTS - size, f"frames of {size} points are not supported; up to {_POINTS} are")
    call.require(x.shape[1] - size, f"a frame of {size} points is longer than the signal")
    count = (x.shape[1] - size) // step + 1
    starts = b.one("iota", [], shape=(count,), start=0, step=step, dtype=DType.I64)
    inside = b.one("iota", [], shape=(size,), start=0, step=1, dtype=DType.I64)
    places = b.one("add", [reshape(b, starts, (count, 1)), inside])
    frames = b.one("gather", [x, places], axis=1)
    if window is not None:
        frames = b.one("mul", [frames, reshape(b, window, (size, 1))])
    return fourier(b, frames, size, size // 2 + 1 if call.integer("onesided", 1) else size, False)
