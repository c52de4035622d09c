"""Rows of matrix products and convolutions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mapsto.importers.integer_factors import integer_factors, results_of_each
from mapsto.importers.torch.table import AtenCall, aten
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, product
from mapsto.ir.graph import Value
from mapsto.kernel.scalar import compute_type
from mapsto.ops import composite
from mapsto.ops.arranging import column, flatten, reshape, transpose, unsqueeze


def _matmul(call: AtenCall, x: Value, y: Value) -> Value:
    """Truth values are multiplied as numbers and come back as such."""
    if x.dtype is not DType.BOOL:
        return call.one("matmul", [x, y])
    product = call.one("matmul", [call.cast(v, DType.I32) for v in (x, y)])
    return call.one("ne", [product, call.scalar(0, DType.I32)])


@aten("mm", "bmm", "matmul", "mv", "dot", "vdot")
def _product(call: AtenCall) -> Value:
    first, second = [a.name for a in call.target._schema.arguments][:2]
    x, y = call.value(first), call.value(second)
    made = _of_integers(call, x, y) if min(x.rank, y.rank) > 1 else None
    return _matmul(call, x, y) if made is None else made


def _of_integers(call: AtenCall, x: Value, w: Value, turned: bool = False) -> Value | None:
    """The product of two dequantised values by their integers; None where they are none. turned: by w's transpose."""
    factors = integer_factors(call.builder, call.quantised, x, w, 0 if turned else w.rank - 1, x.shape[-1])
    if factors is None or call.run is not None:  # integers have no gradient
        return None
    whole = factors.transposed(call.builder, False, turned).centred(call.builder)
    return factors.real(call.builder, call.one("matmul", list(whole), stands_for=x.dtype), x.rank - 1)


@aten("addmm", "addbmm", "baddbmm", "addmv")
def _added_product(call: AtenCall) -> Value:
    """beta * self + alpha * the product; with beta 0 whatever self holds does not count."""
    first, second = [a.name for a in call.target._schema.arguments][1:3]
    product = _matmul(call, call.value(first), call.value(second))
    if call.name == "addbmm":
        product = composite.reduce(call.builder, product, "sum", [0], keepdims=False)
    return scaled_sum(call, call.value("self"), product)


def scaled_sum(call: AtenCall, c: Value, product: Value) -> Value:
    kind = compute_type(product.dtype)
    alpha, beta = call.given.get("alpha", 1), call.given.get("beta", 1)
    if not (isinstance(alpha, (int, float)) and alpha == 1):
        product = call.cast(call.one("mul", [call.cast(product, kind), call.scalar(alpha, kind)]), call.out)
    if isinstance(beta, (int, float)) and beta == 0:
        return product
    if not (isinstance(beta, (int, float)) and beta == 1):
        c = call.cast(call.one("mul", [call.cast(c, kind), call.scalar(beta, kind)]), call.out)
    return call.one("add", [product, c])


@aten("addr", "ger", "outer")
def _outer(call: AtenCall) -> Value:
    first, second = [a.name for a in call.target._schema.arguments][-2:] if call.name != "addr" else ("vec1", "vec2")
    x = unsqueeze(call.builder, call.cast(call.value(first), call.out), [1])
    product = call.one("and" if call.out is DType.BOOL else "mul", [x, call.cast(call.value(second), call.out)])
    return scaled_sum(call, call.cast(call.value("self"), call.out), product) if call.name == "addr" else product


@aten("linear")
def _linear(call: AtenCall) -> Value:
    x, weight, bias = call.value("input"), call.value("weight"), call.optional("bias")
    if weight.rank == 2 and (made := _of_integers(call, x, weight, turned=True)) is not None:
        return made if bias is None else call.one("add", [made, bias])
    if weight.rank == 1:
        y = call.one("matmul", [x, weight])
        return y if bias is None else call.one("add", [y, bias])
    return composite.linear(call.builder, x, weight, bias)


@aten("bilinear")
def _bilinear(call: AtenCall) -> Value:
    """sum over i, j of x[i] W[o, i, j] y[j]"""
    b, x, y, w = call.builder, call.value("input1"), call.value("input2"), call.value("weight")
    rows, others = (flatten(b, v, v.rank - 1) for v in (x, y))
    o, i, j = w.shape
    partial = call.one("matmul", [rows, reshape(b, transpose(b, w, (1, 0, 2)), (i, o * j))])
    partial = reshape(b, partial, (rows.shape[0], o, j))
    found = call.one("matmul", [partial, unsqueeze(b, others, [2])])
    found = reshape(b, found, call.shape)
    return found if not call.has("bias") else call.one("add", [found, call.value("bias")])


@aten("_trilinear")
def _trilinear(call: AtenCall) -> Value:
    """The product of three tensors, each with new axes, summed over some."""
    b = call.builder
    i1, i2, i3 = (
        unsqueeze(b, call.value(f"i{k}"), call.integers(f"expand{k}"))
        if call.integers(f"expand{k}")
        else call.value(f"i{k}")
        for k in (1, 2, 3)
    )
    whole = call.one("mul", [call.one("mul", [i1, i2]), i3])
    return composite.reduce(b, whole, "sum", call.integers("sumdim"), keepdims=False)


# -- convolutions ------------------------------------------------------------------------------------------------------


@aten("conv1d", "conv2d", "conv3d", "convolution", "_convolution")
def _conv(call: AtenCall) -> Value:
    x, w, bias = call.value("input"), call.value("weight"), call.optional("bias")
    rank = w.rank - 2
    if call.flag("transposed"):
        return transposed(call, x, w, bias)
    attrs: dict[str, Any] = {"strides": call.integers("stride", rank), "dilations": call.integers("dilation", rank)}
    attrs |= {"pads": _pads(call, w, attrs["dilations"]), "group": call.integer("groups")}
    if x.rank == rank + 2 and (made := _conv_of_integers(call, x, w, attrs)) is not None:
        return made if bias is None else call.one("add", [made, column(call.builder, bias, 1, made.rank)])
    return batched(call, x, rank, lambda v: call.one("conv", [v, w, bias], **attrs))


def _conv_of_integers(call: AtenCall, x: Value, w: Value, attrs: Mapping[str, Any]) -> Value | None:
    times = results_of_each(x, w, int(attrs["group"]))
    factors = integer_factors(call.builder, call.quantised, x, w, 0, product(w.shape[1:]), times)
    if factors is None or call.run is not None:
        return None
    total = call.one("conv", list(factors.centred(call.builder)), stands_for=x.dtype, **attrs)
    return factors.real(call.builder, total, 1)


def batched(call: AtenCall, x: Value, rank: int, step: object) -> Value:
    """A function of [N, C, space...] of a tensor that may come without N."""
    assert callable(step)
    if x.rank == rank + 2:
        return step(x)  # type: ignore[no-any-return]
    made = step(unsqueeze(call.builder, x, [0]))
    return reshape(call.builder, made, made.shape[1:])


def _pads(call: AtenCall, w: Value, dilations: tuple[int, ...]) -> tuple[Dim, ...]:
    """The pads before all axes, then those after; "same" puts an odd one behind."""
    given, rank = call.given["padding"], w.rank - 2
    if not isinstance(given, str):
        pads = call.integers("padding", rank)
        return (*pads, *pads)
    if given == "valid":
        return (0,) * (2 * rank)
    totals = [d * (int(k) - 1) for d, k in zip(dilations, w.shape[2:], strict=True)]  # type: ignore[arg-type]
    return (*(t // 2 for t in totals), *(t - t // 2 for t in totals))


@aten("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def _conv_transpose(call: AtenCall) -> Value:
    return transposed(call, call.value("input"), call.value("weight"), call.optional("bias"))


def transposed(call: AtenCall, x: Value, w: Value, bias: Value | None) -> Value:
    rank = w.rank - 2
    pads = call.integers("padding", rank)
    attrs = {
        "strides": call.integers("stride", rank), "dilations": call.integers("dilation", rank), "pads": (*pads, *pads),
        "output_padding": call.integers("output_padding", rank), "group": call.integer("groups"),
    }  # fmt: skip
    return batched(call, x, rank, lambda v: call.one("conv_transpose", [v, w, bias], **attrs))
