"""Makes a planned contraction callable on numpy arrays."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mapsto.devices.contraction.template import Epilogue, TilePlace, TilePlan, contraction
from mapsto.devices.cpu.compiler import compile_modules
from mapsto.devices.cpu.isa import Isa
from mapsto.devices.cpu.loader import load_objects
from mapsto.loop import ast as loop
from mapsto.loop.ast import Function
from mapsto.loop.llvm import to_llvm

Array = NDArray[Any]
SIGNATURE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
_count = 0


def aligned(array: Array, to: int = 64) -> Array:
    """A copy that starts on a multiple of `to` bytes."""
    raw = np.empty(array.nbytes + to, np.uint8)
    start = -raw.ctypes.data % to
    out = raw[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    out[...] = array
    return out


@dataclass(frozen=True)
class Native:
    """A loaded function: call it with its buffers, sizes and range."""

    entry: Callable[..., None]

    def prepared(self, buffers: list[Array], dims: list[int], begin: int, end: int) -> Callable[[], None]:
        """A call with its arguments made once. The arrays must outlive it."""
        pointers = (ctypes.c_void_p * len(buffers))(*(b.ctypes.data for b in buffers))
        sizes = (ctypes.c_int64 * max(len(dims), 1))(*dims)
        return lambda: self.entry(pointers, sizes, begin, end)

    def __call__(self, buffers: list[Array], dims: list[int], begin: int, end: int) -> None:
        self.prepared(buffers, dims, begin, end)()


def load(functions: list[Function], isa: Isa, workers: int = 2) -> list[Native]:
    """Compile (each function its own module) and load; names are made unique in this process."""
    global _count
    renamed = []
    for function in functions:
        _count += 1
        renamed.append(replace(function, name=f"{function.name}_{_count}"))
    modules = [(f.name, to_llvm(f, isa.capabilities)) for f in renamed]
    addresses = load_objects(compile_modules(modules, isa, workers))
    return [Native(SIGNATURE(addresses[f.name])) for f in renamed]


def plain(value: loop.Value, place: TilePlace) -> tuple[list[loop.Statement], tuple[loop.Value, ...]]:
    """No epilogue."""
    return [], (value,)


def build(plans: list[TilePlan], isa: Isa, epilogue: Epilogue = plain) -> list[tuple[Native, Any]]:
    """Functions of planned contractions with the extents of their ranges."""
    made = [contraction(plan, epilogue) for plan in plans]
    loaded = load([function for function, _ in made], isa)
    return list(zip(loaded, (extent for _, extent in made), strict=True))
