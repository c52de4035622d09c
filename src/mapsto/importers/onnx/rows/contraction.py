"""Rows of contractions: matrix products, convolutions, transposed convolutions, integer forms."""

from __future__ import annotations

from typing import Any

from mapsto.importers.integer_factors import centred, integer_factors, results_of_each
from mapsto.importers.onnx.rows.common import centred_matrix
from mapsto.importers.onnx.rows.windows import Window, per_axis, window_of, with_fixed_pads
from mapsto.importers.onnx.table import NodeCall, Result, row
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, Expr, product
from mapsto.ir.graph import Value
from mapsto.ops import composite
from mapsto.ops.arranging import column, reshape
from mapsto.ops.builder import Builder


@row("MatMul")
def _matmul(call: NodeCall) -> Result:
    b, x, w = call.builder, call.input(0), call.input(1)
    factors = None
    if (made := _by_blocks(call, x, w)) is not None:
        return made
    if x.rank and w.rank > 1:
        factors = integer_factors(b, call.translator.quantised, x, w, channels=w.rank - 1, depth=x.shape[-1])
    if factors is None:
        return b.one("matmul", [x, w])
    total = b.one("matmul", list(factors.centred(b)), stands_for=x.dtype)
    return factors.real(b, total, total.rank - 1)


@row("Gemm")
def _gemm(call: NodeCall) -> Result:
    b, x, w = call.builder, call.input(0), call.input(1)
    trans_x, trans_w = (bool(call.integer(name, 0)) for name in ("transA", "transB"))
    alpha, beta = call.number("alpha", 1.0), call.number("beta", 1.0)
    factors = None
    if alpha == 1.0 and not trans_x and (made := _by_blocks(call, x, w, trans_w)) is not None:
        return composite.plus_scaled(b, made, call.optional(2), beta)
    if x.rank == w.rank == 2:
        known, depth = call.translator.quantised, x.shape[0 if trans_x else 1]
        factors = integer_factors(b, known, x, w, channels=0 if trans_w else 1, depth=depth)
    if factors is None:
        return composite.gemm(b, x, w, call.optional(2), alpha, beta, trans_x, trans_w)
    total = b.one("matmul", list(factors.transposed(b, trans_x, trans_w).centred(b)), stands_for=x.dtype)
    product = factors.real(b, total, 1, alpha)
    return composite.plus_scaled(b, product, call.optional(2), beta)


def _by_blocks(call: NodeCall, x: Value, w: Value, turned: bool = False) -> Value | None:
    """x times a constant matrix (turned: its transpose) that the model has in blocks of integers; None where it has
    none, or is to be trained.
    """
    weights = call.translator.quantised.blocks_of(w) if call.translator.learning is None else None
    return None if weights is None else (weights.turned if turned else weights).product(call.builder, x)


# -- convolutions ------------------------------------------------------------------------------------------------------


def _checked(call: NodeCall, x: Value, w: Value) -> None:
    if x.rank < 3 or w.rank != x.rank:
        raise call.wrong(f"{x} and weights {w} must have the same number of axes, at least 3")
    kernel = call.integers("kernel_shape")
    if kernel is not None and tuple(kernel) != w.shape[2:]:
        raise call.wrong(f"attribute kernel_shape {kernel} is not the weights' {list(w.shape[2:])}")


def conv(call: NodeCall, x: Value, w: Value, bias: Value | None, stands_for: DType | None = None) -> Value:
    """stands_for: of integers that a model has as dequantised ones, the type of its product (`ops.contraction`)."""
    _checked(call, x, w)
    x, window = with_fixed_pads(call, x, window_of(call, x.shape[2:], w.shape[2:]), 0.0)
    group = call.integer("group", 1)
    if group < 1:
        raise call.wrong(f"group {group} is not positive")
    attrs = _attrs(window) if stands_for is None else {**_attrs(window), "stands_for": stands_for}
    return call.builder.one("conv", [x, w, bias], group=group, **attrs)


def _attrs(window: Window) -> dict[str, Any]:
    return {"strides": window.strides, "pads": window.pads, "dilations": window.dilations}


@row("Conv")
def _conv(call: NodeCall) -> Result:
    """What a window of dequantised integers reads beside them is 0, which is the zero point: none less it."""
    b, x, w, bias = call.builder, call.input(0), call.input(1), call.optional(2)
    factors = integer_factors(
        b, call.translator.quantised, x, w, 0, product(w.shape[1:]), results_of_each(x, w, call.integer("group", 1))
    )
    if factors is None:
        return conv(call, x, w, bias)
    whole = None if bias is None else factors.whole_bias(b, call.translator.quantised.of(bias), product(w.shape[1:]))
    real = factors.real(b, conv(call, *factors.centred(b), whole, x.dtype), 1)
    return real if bias is None or whole is not None else b.one("add", [real, column(b, bias, 1, real.rank)])


@row("ConvTranspose")
def _conv_transpose(call: NodeCall) -> Result:
    x, w = call.input(0), call.input(1)
    _checked(call, x, w)
    rank = x.rank - 2
    strides, dilations = per_axis(call, "strides", rank, 1), per_axis(call, "dilations", rank, 1)
    extra = per_axis(call, "output_padding", rank, 0)
    if any(e < 0 for e in extra):
        raise call.wrong(f"output_padding {list(extra)} is below zero")
    if any(isinstance(d, Expr) for d in w.shape[2:]) or any(v < 1 for v in (*strides, *dilations)):
        raise call.unsupported("a window of open or wrong extents is not supported")
    pads, extra = _transpose_pads(call, x, w, strides, dilations, extra)
    attrs = {"strides": strides, "dilations": dilations, "group": call.integer("group", 1)}
    # a negative pad adds zeros to the result: the op makes the whole, and a pad or slice follows
    if all(p >= 0 for p in pads):
        return call.builder.one("conv_transpose", [x, w, call.optional(2)], pads=pads, output_padding=extra, **attrs)
    raise call.unsupported(f"pads {pads} below zero are not supported; pad the input instead")


def _transpose_pads(
    call: NodeCall, x: Value, w: Value, strides: tuple[int, ...], dilations: tuple[int, ...], extra: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(pads, output padding); from `output_shape` or `auto_pad` where these say.

    total = stride * (extent - 1) + output padding + (window - 1) * dilation + 1 - output extent (ONNX, ConvTranspose).
    """
    rank = x.rank - 2
    mode = call.one_of("auto_pad", "NOTSET", ["NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"])
    wanted: list[Dim] | None = list(call.integers("output_shape") or []) or None
    if wanted is None and mode in ("NOTSET", "VALID"):
        given = call.integers("pads") if mode == "NOTSET" else None
        if given and len(given) != 2 * rank:
            raise call.wrong(f"attribute pads has {len(given)} numbers for {rank} spatial axes")
        return tuple(given or (0,) * (2 * rank)), extra
    if wanted is None:
        wanted = [d * s for d, s in zip(x.shape[2:], strides, strict=True)]
    wanted = wanted[-rank:]
    totals = [
        s * (d - 1) + o + (k - 1) * e + 1 - out
        for s, d, o, k, e, out in zip(strides, x.shape[2:], extra, w.shape[2:], dilations, wanted, strict=True)
    ]
    if any(isinstance(t, Expr) for t in totals):
        raise call.unsupported("automatic padding of open extents is not supported here; fix them by `shapes`", totals)
    fixed = [int(t) for t in totals if isinstance(t, int)]
    extra = tuple(o + max(-t, 0) for o, t in zip(extra, fixed, strict=True))
    fixed = [max(t, 0) for t in fixed]
    small, large = [t // 2 for t in fixed], [t - t // 2 for t in fixed]
    # SAME_UPPER leaves the odd one at the end; every other mode at the start
    before, after = (small, large) if mode == "SAME_UPPER" else (large, small)
    return (*before, *after), extra


# -- integers ----------------------------------------------------------------------------------------------------------


@row("MatMulInteger")
def _matmul_integer(call: NodeCall) -> Result:
    b = call.builder
    return b.one(
        "matmul", [centred_matrix(b, call.input(k), call.optional(2 + k), by_column=bool(k)) for k in range(2)]
    )


@row("ConvInteger")
def _conv_integer(call: NodeCall) -> Result:
    b, x, w, zero = call.builder, call.input(0), call.input(1), call.optional(3)
    if zero is not None and zero.rank == 1 and zero.shape[0] != 1:
        zero = reshape(b, zero, (zero.shape[0], *[1] * (w.rank - 1)))
    return conv(call, centred(b, x, _scalar(b, call.optional(2))), centred(b, w, zero), None)


def _scalar(b: Builder, x: Value | None) -> Value | None:
    return None if x is None else reshape(b, x, ())
