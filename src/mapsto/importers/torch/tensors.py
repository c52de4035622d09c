"""Torch's tensors and element types as ours: arrays are views of a tensor's own memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from mapsto.errors import UnsupportedError
from mapsto.ir.dtypes import DType

_DTYPES: dict[Any, DType] = {
    torch.float16: DType.F16,
    torch.bfloat16: DType.BF16,
    torch.float32: DType.F32,
    torch.float64: DType.F64,
    torch.int8: DType.I8,
    torch.int16: DType.I16,
    torch.int32: DType.I32,
    torch.int64: DType.I64,
    torch.uint8: DType.U8,
    torch.uint16: DType.U16,
    torch.uint32: DType.U32,
    torch.uint64: DType.U64,
    torch.bool: DType.BOOL,
}
_BACK = {ours: theirs for theirs, ours in _DTYPES.items()}


def dtype_of(theirs: Any) -> DType:
    """Raises UnsupportedError for complex and quantised types."""
    found = _DTYPES.get(theirs)
    if found is None:
        raise UnsupportedError(
            f"elements of type {theirs} are not supported; use one of {', '.join(map(str, _DTYPES))}"
        )
    return found


def torch_dtype(ours: DType) -> Any:
    return _BACK[ours]


def array_of(tensor: Any) -> np.ndarray:
    """A tensor of the processor's memory as an array of the same memory, whatever its strides."""
    held = tensor.detach()
    try:
        return held.numpy()  # type: ignore[no-any-return]  # which most are
    except (TypeError, RuntimeError):
        return _array_of_others(held)


def _array_of_others(held: Any) -> np.ndarray:
    """Of a type that numpy lacks, or a refusal."""
    if held.layout is not torch.strided or held.device.type != "cpu":
        raise UnsupportedError(
            f"a tensor on {held.device} of layout {held.layout} is not supported; bring it to the processor's memory "
            "(`.cpu()`, `.to_dense()`)"
        )
    held = held.resolve_neg()
    if held.dtype is torch.bfloat16:
        array: np.ndarray = held.view(torch.int16).numpy().view(DType.BF16.numpy)
        return array
    dtype_of(held.dtype)
    return held.numpy()  # type: ignore[no-any-return]


def tensor_of(array: np.ndarray) -> Any:
    """An array as a tensor of the same memory."""
    try:
        return torch.from_numpy(array)
    except TypeError:
        assert array.dtype == DType.BF16.numpy, array.dtype
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
