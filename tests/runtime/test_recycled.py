"""Outputs whose memory is used again: never while somebody looks at it."""

from __future__ import annotations

import gc
import threading
from typing import Any

import numpy as np
import pytest

import mapsto
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import sym
from mapsto.ops.builder import Builder
from mapsto.runtime import recycled
from mapsto.runtime.arrays import address_of
from mapsto.runtime.recycled import Recycled

_LARGE = 1 << 18


def _array(pool: Recycled, value: float = 0.0, count: int = _LARGE) -> np.ndarray:
    made = pool.array((count // 4,), np.dtype(np.float32), count)
    made[:] = value
    return made


def test_memory_comes_back_when_its_last_view_is_gone() -> None:
    pool = Recycled()
    first = _array(pool, 1)
    at = address_of(first)
    assert at % 64 == 0 and first.flags.writeable
    view = first[10:20].reshape(2, 5)
    del first
    other = _array(pool, 2)
    assert address_of(other) != at and np.all(view == 1)
    del view
    third = _array(pool, 3)
    assert address_of(third) == at and np.all(other == 2)


def test_blocks_are_found_by_their_size() -> None:
    pool = Recycled()
    first = _array(pool)
    at = address_of(first)
    del first
    larger = _array(pool, count=2 * _LARGE)
    assert address_of(larger) != at
    assert address_of(_array(pool)) == at


def test_small_arrays_are_the_systems() -> None:
    pool = Recycled()
    small = pool.array((16,), np.dtype(np.float64), 128)
    del small
    pool.keep([])
    assert pool.waiting == 0


@pytest.mark.parametrize("dtype", ["bool", "u8", "f64", "bf16", "f16", "i64"])
def test_any_type_and_shape(dtype: str) -> None:
    kind = DType(dtype).numpy
    shape = (3, 1 << 17, 1)
    made = Recycled().array(shape, kind, 3 * (1 << 17) * kind.itemsize)
    assert made.shape == shape and made.dtype == kind and made.flags.c_contiguous


def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recycled, "_MOST", 3 * _LARGE)
    pool = Recycled()
    held = [_array(pool) for _ in range(5)]
    held.clear()
    assert pool.waiting == 3 * _LARGE
    pool.keep([2 * _LARGE])
    assert pool.waiting == 0


def _doubling() -> Any:
    b = Builder("doubling")
    x = b.input("x", DType.F32, (sym("n"), 1024))
    graph = b.finish([b.one("add", [x, x]), b.one("neg", [x])], names=["y", "z"])
    return mapsto.compile(graph, threads=1, cache=False)


def test_outputs_that_are_held_stay_what_they_are() -> None:
    exe, held = _doubling(), []
    for n in (64, 64, 200, 64, 1, 0, 200, 64):
        x = np.full((n, 1024), len(held), np.float32)
        held.append((len(held), exe(x)))
    for value, (y, z) in held:
        assert np.all(y == 2 * value) and np.all(z == -value)
        assert not np.shares_memory(y, z)


def test_a_run_takes_what_the_one_before_gave_back() -> None:
    exe, x = _doubling(), np.ones((64, 1024), np.float32)
    y, z = exe(x)
    first = {address_of(y), address_of(z)}
    del y, z
    y, z = exe(x)
    assert {address_of(y), address_of(z)} == first
    kept = y[3]
    del y, z
    y, z = exe(x + 1)
    assert np.all(kept == 2) and not np.shares_memory(kept, y) and not np.shares_memory(kept, z)


def test_threads_that_let_go_of_each_others_outputs() -> None:
    exe, failed = _doubling(), []

    def work(value: float) -> None:
        x = np.full((64, 1024), value, np.float32)
        for _ in range(60):
            y, z = exe(x)
            if not (np.all(y == 2 * value) and np.all(z == -value)):
                failed.append(value)

    threads = [threading.Thread(target=work, args=(float(n),)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


def test_an_executable_may_go_before_its_outputs() -> None:
    exe = _doubling()
    y, z = exe(np.ones((64, 1024), np.float32))
    del exe
    gc.collect()
    assert np.all(y == 2) and np.all(z == -1)
    del y, z
    gc.collect()
