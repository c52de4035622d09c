"""Rows that give sizes and numbers to Python, and what only asserts something of them."""

from __future__ import annotations

from typing import Any

from mapsto.importers.torch.table import AtenCall, aten
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, product


@aten("sym_size")
def _sym_size(call: AtenCall) -> Dim | list[Dim]:
    shape = call.value().shape
    return shape[call.integer("dim")] if "dim" in call.given else list(shape)


@aten("sym_numel")
def _sym_numel(call: AtenCall) -> Dim:
    return product(call.value().shape)


@aten("sym_stride")
def _sym_stride(call: AtenCall) -> Dim | list[Dim]:
    """Of a tensor in the order of its axes."""
    shape = call.value().shape
    strides = [product(shape[k + 1 :]) for k in range(len(shape))]
    return strides[call.integer("dim")] if "dim" in call.given else strides


@aten("sym_storage_offset")
def _offset(call: AtenCall) -> int:
    return 0


@aten("_local_scalar_dense", "item")
def _item(call: AtenCall) -> Any:
    """A number of the data: an integer is a size of the run, a float a tensor without axes."""
    x = call.value()
    if x.dtype.is_float:
        return call.cast(call.one("reshape", [x], shape=()), DType.F64)
    wide = call.one("reshape", [call.cast(x, DType.I64)], shape=())
    return call.builder.bind(wide, "item", what=call.builder.place(call.name))


@aten(
    "sym_constrain_range", "sym_constrain_range_for_size", "_assert_scalar", "_assert_async", "_assert_tensor_metadata"
)
@aten("_functional_assert_async", "_functional_sym_constrain_range", "_functional_sym_constrain_range_for_size")
@aten("_functional_assert_scalar", "_print")
def _asserted(call: AtenCall) -> None:
    """TracedSizes that cannot be are found by what uses them."""
    return None
