"""Composite functions, spelt out in the ops of this package: softmax, norms, activations, gemm.

Each takes a builder and values, and gives the value of the result. Half-precision operands are computed with in f32 and
rounded once, where several steps would round several times.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, floordiv, product
from mapsto.ir.graph import Value
from mapsto.kernel.scalar import compute_type
from mapsto.ops.builder import Builder


def scalar(b: Builder, value: float, like: Value) -> Value:
    """A constant of the type of `like`."""
    return b.constant(np.asarray(value).astype(like.dtype.numpy))


def cast(b: Builder, x: Value, to: DType) -> Value:
    return x if x.dtype is to else b.one("cast", [x], to=to)


def recast(b: Builder, x: Value, to: DType, saturate: bool = True, rounding: str = "up") -> Value:
    """A cast by ONNX's rules that may be from or to a storage type (`ops/storage.py` says what the last two mean)."""
    if x.dtype is to:
        return x
    x = decoded(b, x)
    return encode(b, x, to, saturate, rounding) if to.is_storage else cast(b, x, to)


def decoded(b: Builder, x: Value) -> Value:
    """Elements of a storage type as what they stand for, all others as they are."""
    return b.one("decode", [x]) if x.dtype.is_storage else x


def encode(b: Builder, x: Value, to: DType, saturate: bool = True, rounding: str = "up") -> Value:
    """Numbers as a storage type. An integer one of n bits gets the integer part modulo 2^n, 0 for infinity."""
    if to.decoded is DType.F32:
        real = x if x.dtype is DType.F64 else cast(b, x, DType.F32)
    elif x.dtype.is_float:
        x, whole, beyond = (x, DType.I64, 2.0**62) if x.dtype is DType.F64 else (_wide(b, x), DType.I32, 2.0**30)
        real = cast(b, cast(b, b.one("min", [x, scalar(b, beyond, x)]), whole), DType.I8)
    else:
        real = x if x.dtype in (DType.I8, DType.U8) else cast(b, x, DType.I8)
    return b.one("encode", [real], to=to, saturate=saturate, rounding=rounding)


def failure(b: Builder, message: str, types: Sequence[Value]) -> tuple[Value, ...]:
    """Values of these types that no run ever sees, as it stops with the message before."""
    attrs = {"message": message, "dtypes": tuple(v.dtype for v in types), "shapes": tuple(v.shape for v in types)}
    return b.add("fail", [], attrs)


def _wide(b: Builder, x: Value) -> Value:
    return cast(b, x, compute_type(x.dtype))


def reduce(b: Builder, x: Value, kind: str, axes: Sequence[int], keepdims: bool = True) -> Value:
    return b.one("reduce", [x], kind=kind, axes=tuple(a % x.rank for a in axes), keepdims=keepdims)


def reshape(b: Builder, x: Value, shape: Sequence[Dim]) -> Value:
    return x if x.shape == tuple(shape) else b.one("reshape", [x], shape=tuple(shape))


def _add(b: Builder, x: Value, y: Value) -> Value:
    return b.one("add", [x, y])


def _sub(b: Builder, x: Value, y: Value) -> Value:
    return b.one("sub", [x, y])


def _mul(b: Builder, x: Value, y: Value) -> Value:
    return b.one("mul", [x, y])


def _div(b: Builder, x: Value, y: Value) -> Value:
    return b.one("div", [x, y])


# ---- softmax ---------------------------------------------------------------------------------------------------------


def softmax(b: Builder, x: Value, axis: int) -> Value:
    """e^(x - max) / sum e^(x - max) along an axis."""
    wide = _wide(b, x)
    e = b.one("exp", [_sub(b, wide, reduce(b, wide, "max", [axis]))])
    return cast(b, _div(b, e, reduce(b, e, "sum", [axis])), x.dtype)


def softmax_and_level(b: Builder, x: Value, axis: int) -> tuple[Value, Value]:
    """The softmax along an axis, and log sum e^x there (extent 1), of the same exponentials. Where the maximum is
    infinite, that is it.
    """
    wide = _wide(b, x)
    top = reduce(b, wide, "max", [axis])
    e = b.one("exp", [_sub(b, wide, top)])
    total = reduce(b, e, "sum", [axis])
    infinite = b.one("isinf", [top], detect_positive=True, detect_negative=True)
    level = b.one("select", [infinite, top, b.one("add", [b.one("log", [total]), top])])
    return cast(b, _div(b, e, total), x.dtype), cast(b, level, x.dtype)


def log_softmax(b: Builder, x: Value, axis: int) -> Value:
    """(x - max) - log sum e^(x - max) along an axis."""
    wide = _wide(b, x)
    shifted = _sub(b, wide, reduce(b, wide, "max", [axis]))
    total = reduce(b, b.one("exp", [shifted]), "sum", [axis])
    return cast(b, _sub(b, shifted, b.one("log", [total])), x.dtype)


def log_sum_exp(b: Builder, x: Value, axes: Sequence[int], keepdims: bool) -> Value:
    """log sum e^x, shifted by the maximum (by 0 where that is infinite)."""
    wide = _wide(b, x)
    best = reduce(b, wide, "max", axes)
    infinite = b.one("isinf", [best], detect_positive=True, detect_negative=True)
    best = b.one("select", [infinite, scalar(b, 0.0, wide), best])
    total = reduce(b, b.one("exp", [_sub(b, wide, best)]), "sum", axes)
    result = _add(b, b.one("log", [total]), best)
    if not keepdims:
        kept = [d for k, d in enumerate(x.shape) if k not in {a % x.rank for a in axes}]
        result = reshape(b, result, kept)
    return cast(b, result, x.dtype)


# ---- norms -----------------------------------------------------------------------------------------------------------


def normalised(b: Builder, x: Value, axes: Sequence[int], eps: float) -> tuple[Value, Value, Value]:
    """((x - mean) / sqrt(variance + eps), mean, 1 / sqrt(variance + eps)) over the axes, in x's compute type; axes are
    kept.
    """
    wide = _wide(b, x)
    mean = reduce(b, wide, "mean", axes)
    centred = _sub(b, wide, mean)
    variance = reduce(b, _mul(b, centred, centred), "mean", axes)
    deviation = b.one("sqrt", [_add(b, variance, scalar(b, eps, wide))])
    inverse = b.one("reciprocal", [deviation])
    return _mul(b, centred, inverse), mean, inverse


def layer_norm(b: Builder, x: Value, scale: Value, bias: Value | None, axis: int, eps: float) -> Value:
    """Normalised over the axes from `axis` on; scale and bias broadcast from the right."""
    y, _, _ = normalised(b, x, range(axis % x.rank, x.rank), eps)
    return _affine(b, y, scale, bias, x.dtype)


def rms_norm(b: Builder, x: Value, scale: Value, axis: int, eps: float) -> Value:
    """x / sqrt(mean(x^2) + eps) * scale over the axes from `axis` on."""
    wide = _wide(b, x)
    power = reduce(b, _mul(b, wide, wide), "mean", range(axis % x.rank, x.rank))
    root = b.one("sqrt", [_add(b, power, scalar(b, eps, wide))])
    return _affine(b, _div(b, wide, root), scale, None, x.dtype)


def _affine(b: Builder, y: Value, scale: Value | None, bias: Value | None, dtype: DType) -> Value:
    if scale is not None:
        y = _mul(b, y, cast(b, scale, y.dtype))
    if bias is not None:
        y = _add(b, y, cast(b, bias, y.dtype))
    return cast(b, y, dtype)


def _by_channel(b: Builder, v: Value, rank: int) -> Value:
    """A vector along axis 1 of a tensor of `rank`."""
    return reshape(b, v, (v.shape[0], *(1 for _ in range(rank - 2))))


def batch_norm(b: Builder, x: Value, scale: Value, bias: Value, mean: Value, variance: Value, eps: float) -> Value:
    """x * f + (bias - mean * f) with f = scale / sqrt(variance + eps): with constant parameters one multiply-add
    remains.
    """
    wide = compute_type(x.dtype)
    s, o, m, v = (cast(b, p, wide) for p in (scale, bias, mean, variance))
    factor = _div(b, s, b.one("sqrt", [_add(b, v, scalar(b, eps, v))]))
    shift = _sub(b, o, _mul(b, m, factor))
    y = _mul(b, cast(b, x, wide), _by_channel(b, factor, x.rank))
    return cast(b, _add(b, y, _by_channel(b, shift, x.rank)), x.dtype)


def batch_norm_trained(
    b: Builder, x: Value, scale: Value | None, bias: Value | None, running: tuple[Value, Value] | None, eps: float,
    momentum: float,
) -> tuple[Value, tuple[Value, Value] | None]:
    """Batch normalisation by the batch's own mean and variance; what running ones become: old + momentum (new - old),
    the new variance being the unbiased estimate.

    x is centred by a mean that no gradient is taken of; what the mean adds to the gradient goes through the shift of
    each channel, so that a backward pass has two sums over the batch instead of three.
    """
    axes = [0, *range(2, x.rank)]
    wide = _wide(b, x)
    mean = reduce(b, wide, "mean", axes)
    centre = b.one("detach", [mean])
    centred = _sub(b, wide, centre)
    variance = reduce(b, _mul(b, centred, centred), "mean", axes)
    inverse = b.one("reciprocal", [b.one("sqrt", [_add(b, variance, scalar(b, eps, wide))])])
    factor = inverse if scale is None else _mul(b, inverse, _by_channel(b, cast(b, scale, wide.dtype), x.rank))
    shift = b.one("neg", [_mul(b, _sub(b, mean, centre), factor)])
    if bias is not None:
        shift = _add(b, shift, _by_channel(b, cast(b, bias, wide.dtype), x.rank))
    y = cast(b, _add(b, _mul(b, centred, factor), shift), x.dtype)
    if running is None:
        return y, None
    count = product(x.shape[axis] for axis in axes)
    b.require(count - 2, "batch normalisation in training needs more than one element a channel")
    amount = b.one("full", [], shape=(), value=count, dtype=wide.dtype)
    unbiased = _mul(b, variance, _div(b, amount, _sub(b, amount, scalar(b, 1.0, amount))))
    return y, (_moved(b, running[0], mean, momentum), _moved(b, running[1], unbiased, momentum))


def _moved(b: Builder, old: Value, new: Value, momentum: float) -> Value:
    """(1 - momentum) old + momentum new"""
    new = cast(b, reshape(b, new, old.shape), old.dtype)
    return _add(b, _mul(b, old, scalar(b, 1 - momentum, old)), _mul(b, new, scalar(b, momentum, old)))


def dropout(
    b: Builder, x: Value, ratio: float, run: Value, stream: int, shape: Sequence[Dim] | None = None
) -> tuple[Value, Value]:
    """Each element, or, where `shape` says fewer, each group of them, is zero by chance, all others divided by the
    share that is kept; and which are kept. run: u64[], another one in each run; stream: what tells this draw from
    others of a run.
    """
    drawn = b.one(
        "random_uniform", [run], shape=tuple(x.shape if shape is None else shape), seed=stream, dtype=DType.F32,
        low=0.0, high=1.0,
    )
    kept = b.one("ge", [drawn, b.constant(np.float32(ratio))])
    wide = _wide(b, x)
    scaled = _mul(b, wide, scalar(b, 1 / (1 - ratio) if ratio < 1 else 0.0, wide))
    return cast(b, b.one("select", [kept, scaled, scalar(b, 0.0, wide)]), x.dtype), kept


def instance_norm(b: Builder, x: Value, scale: Value, bias: Value, eps: float) -> Value:
    """Each channel of each sample normalised over its space."""
    y, _, _ = normalised(b, x, range(2, x.rank), eps)
    return _affine(b, y, _by_channel(b, scale, x.rank), _by_channel(b, bias, x.rank), x.dtype)


def group_norm(b: Builder, x: Value, scale: Value, bias: Value, groups: int, eps: float) -> Value:
    """Each group of channels normalised over its channels and space; scale and bias have one element a channel."""
    grouped = reshape(b, x, (x.shape[0], groups, floordiv(x.shape[1], groups), *x.shape[2:]))
    y, _, _ = normalised(b, grouped, range(2, grouped.rank), eps)
    y = reshape(b, y, x.shape)
    return _affine(b, y, _by_channel(b, scale, x.rank), _by_channel(b, bias, x.rank), x.dtype)


def lp_norm(b: Builder, x: Value, axis: int, p: int) -> Value:
    """x divided by its 1- or 2-norm along an axis; 0 where the norm is 0."""
    wide = _wide(b, x)
    if p == 1:
        length = reduce(b, b.one("abs", [wide]), "sum", [axis])
    else:
        length = b.one("sqrt", [reduce(b, _mul(b, wide, wide), "sum", [axis])])
    zero = scalar(b, 0.0, wide)
    result = b.one("select", [b.one("eq", [length, zero]), zero, _div(b, wide, length)])
    return cast(b, result, x.dtype)


def local_response_norm(b: Builder, x: Value, size: int, alpha: float, beta: float, bias: float) -> Value:
    """x / (bias + alpha/size * sum of squares over `size` neighbouring channels)^beta"""
    wide = _wide(b, x)
    space = 1 if x.rank < 3 else math.prod(x.shape[2:])
    rows = reshape(b, _mul(b, wide, wide), (x.shape[0], 1, x.shape[1], space))
    before = (size - 1) // 2
    mean = b.one(
        "avg_pool", [rows], kernel=(size, 1), strides=(1, 1), dilations=(1, 1), pads=(before, 0, size - 1 - before, 0),
        count_include_pad=True,
    )  # fmt: skip
    level = _add(b, _mul(b, reshape(b, mean, x.shape), scalar(b, alpha, wide)), scalar(b, bias, wide))
    return cast(b, _div(b, wide, b.one("pow", [level, scalar(b, beta, wide)])), x.dtype)


# ---- activations -----------------------------------------------------------------------------------------------------


def clip(b: Builder, x: Value, low: Value | None, high: Value | None) -> Value:
    """min(max(x, low), high)"""
    if low is not None:
        x = b.one("max", [x, low])
    return x if high is None else b.one("min", [x, high])


def gelu(b: Builder, x: Value, approximate: str = "none") -> Value:
    """x/2 * (1 + erf(x / sqrt 2)), or with "tanh": x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3)))"""
    wide = _wide(b, x)
    half, one = scalar(b, 0.5, wide), scalar(b, 1.0, wide)
    if approximate == "tanh":
        cube = _mul(b, _mul(b, wide, wide), wide)
        inner = _add(b, wide, _mul(b, cube, scalar(b, 0.044715, wide)))
        gate = b.one("tanh", [_mul(b, inner, scalar(b, math.sqrt(2 / math.pi), wide))])
    else:
        gate = b.one("erf", [_mul(b, wide, scalar(b, math.sqrt(0.5), wide))])
    return cast(b, _mul(b, _mul(b, wide, half), _add(b, gate, one)), x.dtype)


def quick_gelu(b: Builder, x: Value, alpha: float = 1.702) -> Value:
    """x * sigmoid(alpha * x); alpha 1 is SiLU."""
    wide = _wide(b, x)
    inner = wide if alpha == 1.0 else _mul(b, wide, scalar(b, alpha, wide))
    return cast(b, _mul(b, wide, b.one("sigmoid", [inner])), x.dtype)


def hard_sigmoid(b: Builder, x: Value, alpha: float = 0.2, beta: float = 0.5) -> Value:
    """min(max(alpha * x + beta, 0), 1)"""
    wide = _wide(b, x)
    line = _add(b, _mul(b, wide, scalar(b, alpha, wide)), scalar(b, beta, wide))
    return cast(b, clip(b, line, scalar(b, 0.0, wide), scalar(b, 1.0, wide)), x.dtype)


def hard_swish(b: Builder, x: Value) -> Value:
    """x * min(max(x/6 + 1/2, 0), 1)"""
    wide = _wide(b, x)
    return cast(b, _mul(b, wide, hard_sigmoid(b, wide, 1 / 6, 0.5)), x.dtype)


def mish(b: Builder, x: Value) -> Value:
    """x * tanh(softplus(x))"""
    wide = _wide(b, x)
    return cast(b, _mul(b, wide, b.one("tanh", [b.one("softplus", [wide])])), x.dtype)


def softsign(b: Builder, x: Value) -> Value:
    """x / (1 + |x|)"""
    wide = _wide(b, x)
    return cast(b, _div(b, wide, _add(b, b.one("abs", [wide]), scalar(b, 1.0, wide))), x.dtype)


def prelu(b: Builder, x: Value, slope: Value) -> Value:
    """x where x >= 0, else slope * x"""
    negative = b.one("lt", [x, scalar(b, 0, x)])
    return b.one("select", [negative, _mul(b, x, slope), x])


def selu(b: Builder, x: Value, alpha: float, gamma: float) -> Value:
    """gamma * elu(x, alpha)"""
    wide = _wide(b, x)
    return cast(b, _mul(b, b.one("elu", [wide], alpha=float(alpha)), scalar(b, gamma, wide)), x.dtype)


# Chebyshev coefficients of log(erfc(x) e^(x^2) / t) over t = 2 / (2 + x), x >= 0: less than 2e-13 of erfc(x) is lost,
# as mpmath says. (To fit in this variable is of Numerical Recipes, 6.2.2.)
_ERFC = (
    -1.3026537197817094, 0.6419697923564902, 0.019476473204185836, -0.009561514786808632, -0.0009465953444820369,
    0.00036683949785276145, 4.252332480690777e-05, -2.0278578112534242e-05, -1.6242900046470256e-06,
    1.3036558355805232e-06, 1.5626441722066142e-08, -8.523809591492654e-08, 6.5290544390988515e-09,
    5.059343495551469e-09, -9.91364156493033e-10, -2.2736512229318357e-10, 9.646791102015528e-11,
    2.394038083038881e-12, -6.886027526496772e-12, 8.94487927308485e-13, 3.130921399286456e-13,
    -1.1270822358703124e-13,
)  # fmt: skip


def erfc(b: Builder, x: Value) -> Value:
    """1 - erf(x), also where that is far below erf's own rounding; in f64."""
    wide = cast(b, x, DType.F64)
    size = b.one("abs", [wide])
    two = scalar(b, 2.0, wide)
    t = _div(b, two, _add(b, two, size))
    y = _sub(b, _mul(b, t, scalar(b, 4.0, wide)), two)
    last, before = scalar(b, 0.0, wide), scalar(b, 0.0, wide)
    for coefficient in reversed(_ERFC[1:]):  # Clenshaw's recurrence
        last, before = _add(b, _sub(b, _mul(b, y, last), before), scalar(b, coefficient, wide)), last
    first = scalar(b, _ERFC[0], wide)
    series = _sub(b, _mul(b, scalar(b, 0.5, wide), _add(b, first, _mul(b, y, last))), before)
    tail = _mul(b, t, b.one("exp", [_sub(b, series, _mul(b, size, size))]))
    negative = b.one("lt", [wide, scalar(b, 0.0, wide)])
    return cast(b, b.one("select", [negative, _sub(b, two, tail), tail]), x.dtype)


# ---- products --------------------------------------------------------------------------------------------------------


def transpose_last(b: Builder, x: Value) -> Value:
    return b.one("transpose", [x], perm=(*range(x.rank - 2), x.rank - 1, x.rank - 2))


def gemm(
    b: Builder, x: Value, y: Value, c: Value | None = None, alpha: float = 1.0, beta: float = 1.0,
    trans_x: bool = False, trans_y: bool = False,
) -> Value:  # fmt: skip
    """alpha * x y + beta * c, with either factor transposed first."""
    left = transpose_last(b, x) if trans_x else x
    right = transpose_last(b, y) if trans_y else y
    product: Value = b.one("matmul", [left, right])
    if alpha != 1.0:
        product = _scaled(b, product, alpha)
    return plus_scaled(b, product, c, beta)


def plus_scaled(b: Builder, x: Value, c: Value | None, beta: float) -> Value:
    """x + beta * c; x alone where there is no c, or beta is 0."""
    if c is None or beta == 0.0:
        return x
    return _add(b, x, c if beta == 1.0 else _scaled(b, c, beta))


def _scaled(b: Builder, x: Value, factor: float) -> Value:
    """x * factor; an integer type takes a whole factor only through f64."""
    if x.dtype.is_float or float(factor).is_integer():
        return _mul(b, x, scalar(b, factor, x))
    wide = b.one("cast", [x], to=DType.F64)
    return b.one("cast", [_mul(b, wide, scalar(b, factor, wide))], to=x.dtype)


def linear(b: Builder, x: Value, weight: Value, bias: Value | None) -> Value:
    """x W^T + bias, as frameworks store W[out, in]."""
    y = b.one("matmul", [x, transpose_last(b, weight)])
    return y if bias is None else _add(b, y, bias)
