"""Compiled code and the interpreter on the same buffers: they agree to the bit, on every instruction set here."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from tests.instruction_sets import instruction_sets
from tests.loop.helpers import NativeCall, native

from mapsto.ir.dtypes import DType
from mapsto.loop.ast import Function
from mapsto.loop.interpret import interpret

ISAS = instruction_sets()
BOOL = DType.BOOL


def special_values(element: DType, count: int, seed: int = 0) -> np.ndarray:
    """Random bit patterns, small numbers and the corners of a type."""
    rng = np.random.default_rng(seed)
    if element is BOOL:
        return rng.integers(0, 2, count).astype(np.bool_)
    raw = rng.integers(0, 256, count * element.size, dtype=np.uint8).view(element.numpy)
    small = rng.integers(-9 if element.is_signed else 0, 10, count).astype(element.numpy)
    values = np.where(rng.random(count) < 0.5, raw, small)
    if element.is_float:
        corners = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1.5, -2.5, 0.5, 1e-40, 3e38, 8388609.0], np.float64)
    else:
        info = np.iinfo(element.numpy)
        corners = np.array([info.min, info.max, 0, 1], object)
    with np.errstate(all="ignore"):
        picks = corners[rng.integers(0, len(corners), count)].astype(element.numpy)
    return np.where(rng.random(count) < 0.3, picks, values)


def assert_same(got: np.ndarray, wanted: np.ndarray, label: object = "") -> None:
    """Equal to the bit; any NaN equals any NaN."""
    assert got.dtype == wanted.dtype
    if wanted.dtype.kind in "iub":
        equal = got == wanted
    else:
        bits = f"u{wanted.dtype.itemsize}"
        equal = (got.view(bits) == wanted.view(bits)) | (np.isnan(got) & np.isnan(wanted))
    wrong = np.flatnonzero(~equal)
    assert wrong.size == 0, f"{label}: at {wrong[:4]} got {got[wrong[:4]]}, wanted {wanted[wrong[:4]]}"


def both(
    function: Function,
    call: NativeCall,
    buffers: list[np.ndarray],
    dims: list[int],
    begin: int,
    end: int,
    isa: str = "",
) -> None:
    """Run compiled and interpreted on copies; every buffer must end the same."""
    ours, theirs = [b.copy() for b in buffers], [b.copy() for b in buffers]
    interpret(function, theirs, dims, begin, end)
    call(ours, dims, begin, end)
    for param, got, wanted in zip(function.params, ours, theirs, strict=True):
        assert_same(got, wanted, (isa, function.name, param.name))


def check(
    function: Function, buffers: list[np.ndarray], dims: Iterable[int] = (), begin: int = 0, end: int = 1
) -> None:
    """The same on every instruction set."""
    for isa in ISAS:
        call = native([function], isa)[function.name]
        both(function, call, buffers, list(dims), begin, end, isa.name)
