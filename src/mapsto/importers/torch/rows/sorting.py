"""Rows of sorting and of the largest elements."""

from __future__ import annotations

from mapsto.importers.torch.table import AtenCall, aten
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, floordiv, product
from mapsto.ir.graph import Value
from mapsto.ops.arranging import reshape, slice_axis


def _ordered(call: AtenCall, x: Value, axis: int, k: Dim, largest: bool) -> list[Value]:
    narrow = x.dtype
    x = call.cast(x, DType.U8) if narrow is DType.BOOL else x
    values, places = call.builder.add("topk", [x], {"axis": axis, "k": k, "largest": largest, "sorted": True})
    return [call.cast(values, narrow), places]


@aten("topk")
def _topk(call: AtenCall) -> list[Value]:
    x = call.value()
    if x.rank == 0:
        return [x, call.one("full", [], shape=(), value=0, dtype=DType.I64)]
    return _ordered(call, x, call.axis(), call.dim("k"), call.flag("largest", True))


@aten("sort", "argsort", "msort")
def _sort(call: AtenCall) -> Value | list[Value]:
    x = call.value()
    if x.rank == 0:
        places = call.one("full", [], shape=(), value=0, dtype=DType.I64)
        return {"sort": [x, places], "argsort": places, "msort": x}[call.name]  # type: ignore[return-value]
    axis = call.axis() if "dim" in call.given else 0
    values, places = _ordered(call, x, axis, x.shape[axis], call.flag("descending"))
    return {"sort": [values, places], "argsort": places, "msort": values}[call.name]  # type: ignore[return-value]


@aten("kthvalue", "median.dim")
def _kth(call: AtenCall) -> list[Value]:
    """Of the sorted elements one; a NaN makes the median NaN, as it counts as the largest and is looked for."""
    b, x = call.builder, call.value()
    if x.rank == 0:
        return [x, call.one("full", [], shape=(), value=0, dtype=DType.I64)]
    axis = call.axis()
    k = call.dim("k") - 1 if call.name == "kthvalue" else floordiv(x.shape[axis] - 1, 2)
    parts = _ordered(call, x, axis, x.shape[axis], False)
    found = [slice_axis(b, v, axis, k, 1) for v in parts]
    if call.name == "median" and x.dtype.is_float:
        last = [slice_axis(b, v, axis, x.shape[axis] - 1, 1) for v in parts]
        wrong = call.one("isnan", [last[0]])
        found = [call.one("select", [wrong, e, f]) for e, f in zip(last, found, strict=True)]
    if call.flag("keepdim"):
        return found
    return [reshape(b, v, (*v.shape[:axis], *v.shape[axis + 1 :])) for v in found]


@aten("nanmedian.dim")
def _nanmedian(call: AtenCall) -> list[Value]:
    """The median of what is a number: NaN stands behind all that is."""
    b, x = call.builder, call.value()
    if x.rank == 0:
        return [x, call.one("full", [], shape=(), value=0, dtype=DType.I64)]
    axis = call.axis()
    parts = _ordered(call, x, axis, x.shape[axis], False)
    at = _middle(call, x, axis)
    found = [call.one("gather_elements", [v, at], axis=axis) for v in parts]
    if call.flag("keepdim"):
        return found
    return [reshape(b, v, (*v.shape[:axis], *v.shape[axis + 1 :])) for v in found]


def _middle(call: AtenCall, x: Value, axis: int) -> Value:
    """The place of the lower middle one among the numbers of an axis, once sorted; 0 where there is none."""
    if not x.dtype.is_float:
        shape = tuple(1 if k == axis else d for k, d in enumerate(x.shape))
        return call.one("expand", [call.scalar(floordiv(x.shape[axis] - 1, 2), DType.I64)], shape=shape)
    numbers = call.cast(call.one("not", [call.one("isnan", [x])]), DType.I64)
    count = call.one("reduce", [numbers], kind="sum", axes=(axis,), keepdims=True)
    one, two = (call.scalar(n, DType.I64) for n in (1, 2))
    middle = call.one("div", [call.one("sub", [count, one]), two])
    return call.one("max", [middle, call.scalar(0, DType.I64)])


@aten("nanmedian.default")
def _nanmedian_of_all(call: AtenCall) -> Value:
    b, x = call.builder, call.value()
    flat = reshape(b, x, (product(x.shape),))
    values, _ = _ordered(call, flat, 0, flat.shape[0], False)
    return reshape(b, call.one("gather_elements", [values, _middle(call, flat, 0)], axis=0), ())


@aten("median.default")
def _median(call: AtenCall) -> Value:
    b, x = call.builder, call.value()
    flat = reshape(b, x, (product(x.shape),))
    n = flat.shape[0]
    values, _ = _ordered(call, flat, 0, n, False)
    found = slice_axis(b, values, 0, floordiv(n - 1, 2), 1)
    if x.dtype.is_float:
        last = slice_axis(b, values, 0, n - 1, 1)
        found = call.one("select", [call.one("isnan", [last]), last, found])
    return reshape(b, found, ())
