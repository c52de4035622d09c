"""What a node of constants, or of integers that are followed as dims, comes to without being a node."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mapsto.budget import Meter
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, Expr
from mapsto.ir.graph import dims_in
from mapsto.ops.charges import FOLD_PER_BYTE
from mapsto.ops.registry import OpSpec
from mapsto.ops.shapes import static
from mapsto.ops.work import operations

# The largest result, in bytes, that is folded into a constant, unless it replaces constants of its own size.
FOLD_LIMIT = 1 << 26
# The most operations that folding one node may take, unless it is a few for each element of its operands.
FOLD_OPERATIONS = 1 << 25
# Size expressions with more terms and atoms, or calls nested deeper, are not followed: no graph makes sizes that take
# for ever. (The largest of the public models that we know has 9.)
EXPRESSION_SIZE = 256
EXPRESSION_DEPTH = 32
# The largest integer tensor whose elements are followed as dims.
CONTENT_LIMIT = 256
# The types whose elements are followed as dims.
FOLLOWED = (DType.I64, DType.I32, DType.BOOL)

Types = Sequence[tuple[DType, tuple[Dim, ...]]]


def fold_constants(
    spec: OpSpec, arrays: Sequence[np.ndarray | None], attrs: Mapping[str, Any], results: Types, meter: Meter
) -> list[np.ndarray] | None:
    """The results (of fixed shapes) for these operands (None: absent); None where they are not to be folded."""
    if spec.reference is None or next(dims_in(attrs.values()), None) is not None:
        return None
    shapes = [static(shape) for _, shape in results]
    size = sum(math.prod(shape) * dtype.size for shape, (dtype, _) in zip(shapes, results, strict=True))
    if size > max(FOLD_LIMIT, *(a.nbytes for a in arrays if a is not None), 0):
        return None
    work = operations(spec.name, arrays, attrs, shapes)
    if work > max(FOLD_OPERATIONS, *(FOLD_PER_BYTE * a.size for a in arrays if a is not None), 0):
        return None
    if not (meter.afford("folded_operations", work) and meter.afford("folded_bytes", size)):
        return None
    meter.tick(spec.name)
    with np.errstate(all="ignore"):
        values = spec.reference(list(arrays), attrs, shapes)
    return [np.asarray(a).astype(dtype.numpy, copy=False) for a, (dtype, _) in zip(values, results, strict=True)]


def fold_content(
    spec: OpSpec, contents: Sequence[np.ndarray], attrs: Mapping[str, Any], results: Types
) -> np.ndarray | None:
    """The elements of the one result (of a fixed shape) as dims; None where they are not to be followed."""
    if spec.content is None or len(results) != 1 or results[0][0] not in FOLLOWED:
        return None
    shape = static(results[0][1])
    if math.prod(shape) > CONTENT_LIMIT:
        return None
    elements = spec.content(list(contents), attrs, [shape])
    if elements is None:
        return None
    data = np.asarray(elements, dtype=object).reshape(shape)
    return None if any(too_long(e) or _wraps(e, results[0][0]) for e in data.flat) else data


def is_followed(dtype: DType, size: int) -> bool:
    """Whether the elements of a constant are known as dims as well."""
    return dtype in FOLLOWED and size <= CONTENT_LIMIT


def as_dims(data: np.ndarray) -> np.ndarray:
    """Integers as an object array of dims."""
    elements = np.empty(data.shape, dtype=object)
    for at in np.ndindex(*data.shape):
        elements[at] = int(data[at])
    return elements


def too_long(dim: Any) -> bool:
    """Whether an expression is larger than is followed."""
    if not isinstance(dim, Expr):
        return False
    size, depth = dim.extent
    return size > EXPRESSION_SIZE or depth > EXPRESSION_DEPTH


def _wraps(dim: Any, dtype: DType) -> bool:
    """Whether the type does not hold a number: what then wraps around is no size, but a number for a run to compute."""
    if isinstance(dim, Expr) or dtype is DType.BOOL:
        return False
    limits = np.iinfo(dtype.numpy)
    return not limits.min <= int(dim) <= limits.max
