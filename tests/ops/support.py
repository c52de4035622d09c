"""One op on given arrays, three ways: reference, lowering interpreted, and the shapes that its rule infers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import mapsto.ops  # noqa: F401
from mapsto.ir.dtypes import DType, from_numpy
from mapsto.ir.expr import Dim, evaluate, sym
from mapsto.ir.graph import Node, Value
from mapsto.kernel.interpret import run_kernel
from mapsto.ops.builder import Builder
from mapsto.ops.lowering import node_kernel
from mapsto.ops.registry import evaluated_attrs, op

Array = np.ndarray[Any, Any]


def symbol(dim: int, chosen: frozenset[int]) -> Dim:
    """A dim as a symbol that stands for its value, where that value is among the chosen ones."""
    return sym(f"n{dim}") if dim in chosen else dim


def symbols_for(chosen: frozenset[int]) -> dict[str, int]:
    return {f"n{d}": d for d in chosen}


def make_node(
    name: str, arrays: Sequence[Array | None], attrs: Mapping[str, Any], chosen: frozenset[int] = frozenset()
) -> tuple[Node, Builder]:
    """The node over graph inputs (never folded); dims whose value is chosen are symbolic."""
    b = Builder("case")
    values: list[Value | None] = []
    for k, array in enumerate(arrays):
        shape = None if array is None else tuple(symbol(d, chosen) for d in array.shape)
        values.append(None if array is None or shape is None else b.input(f"x{k}", from_numpy(array.dtype), shape))
    outputs = b.add(name, values, attrs)
    (node,) = [n for n in b.nodes if n.op == name and n.outputs == outputs]
    return node, b


def reference(
    name: str, arrays: Sequence[Array | None], attrs: Mapping[str, Any], shapes: list[tuple[int, ...]]
) -> list[Array]:
    rule = op(name).reference
    assert rule is not None
    with np.errstate(all="ignore"):
        return rule(list(arrays), attrs, shapes)


def check(
    name: str,
    arrays: Sequence[Array | None],
    attrs: Mapping[str, Any] | None = None,
    chosen: frozenset[int] = frozenset(),
    tolerance: float = 0.0,
) -> list[Array]:
    """Shape rule, reference and lowering agree; gives the reference's outputs."""
    node, b = make_node(name, arrays, attrs or {}, chosen)
    sizes = symbols_for(chosen)
    shapes = [tuple(evaluate(d, sizes) for d in v.shape) for v in node.outputs]
    expected = reference(name, arrays, evaluated_attrs(node.attrs, sizes), shapes)
    for value, array in zip(node.outputs, expected, strict=True):
        shape = tuple(evaluate(d, sizes) for d in value.shape)
        assert array.shape == shape, (name, array.shape, shape)
        assert from_numpy(array.dtype) is value.dtype, (name, array.dtype, value.dtype)
    if op(name).lower is not None:
        kernel = node_kernel(node, b.lookup)
        given = {f"x{k}": a for k, a in enumerate(arrays) if a is not None}
        found = run_kernel(kernel, given, sizes)
        for value, array in zip(node.outputs, expected, strict=True):
            same(found[value.name], array, tolerance, f"{name} {attrs}")
    return expected


def same(found: Array, expected: Array, tolerance: float, what: str) -> None:
    """Equal, or for floats within `tolerance` relative to the larger of 1 and the magnitude; NaN equals NaN."""
    assert found.shape == expected.shape and found.dtype == expected.dtype, (what, found.dtype, expected.dtype)
    if from_numpy(found.dtype).is_storage:
        found, expected = found.view(np.uint8), expected.view(np.uint8)
    if not from_numpy(found.dtype).is_float:
        np.testing.assert_array_equal(found, expected, err_msg=what)
        return
    a, b = found.astype(np.float64), expected.astype(np.float64)
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True, err_msg=what)


def sample(rng: np.random.Generator, shape: Sequence[int], dtype: DType, special: bool = False) -> Array:
    """Random elements of any type; `special` mixes in NaN, infinities and signed zeros."""
    if dtype is DType.BOOL:
        return np.asarray(rng.random(tuple(shape)) < 0.5)
    if dtype.is_integer:
        low = -20 if dtype.is_signed else 0
        return np.asarray(rng.integers(low, 21, tuple(shape))).astype(dtype.numpy)
    if dtype.is_storage:
        return np.asarray(rng.integers(0, 1 << dtype.bits, tuple(shape)), np.uint8).view(dtype.numpy)
    data = np.asarray(rng.normal(0, 3, tuple(shape))).astype(dtype.numpy)
    if special and data.size:
        flat = data.reshape(-1)
        for value in (np.nan, np.inf, -np.inf, 0.0, -0.0):
            flat[rng.integers(0, data.size)] = value
    return data


TOLERANCE = {DType.F64: 1e-12, DType.F32: 2e-6, DType.F16: 2e-3, DType.BF16: 1.6e-2}


def tolerance_of(dtype: DType) -> float:
    return TOLERANCE.get(dtype, 0.0)
