"""Runs between fences: the same results, and a fault where code leaves a buffer by one element."""

from __future__ import annotations

import faulthandler
import signal
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from tests.runtime.helpers import N, chain_program, in_child, objects

from mapsto.ir.dtypes import DType
from mapsto.runtime.arrays import address_of
from mapsto.runtime.executable import Executable
from mapsto.runtime.guard import Fences
from mapsto.runtime.program import Buffer, Port, Program, Run

SIDES = pytest.mark.parametrize("behind", [True, False])
FAULTS = -signal.SIGSEGV


def faults(access: Callable[[], object]) -> bool:
    """Whether it ends its process by a fault of memory, and by nothing else."""

    def tried() -> bool:
        faulthandler.disable()
        access()
        return True

    return in_child(tried) == FAULTS


def store(array: np.ndarray, offset: int) -> None:
    import ctypes

    ctypes.memset(address_of(array) + offset, 1, 1)


@SIDES
@pytest.mark.parametrize("count", [0, 1, 4, 4095, 4096, 4097, 10_000])
def test_bytes_between_fences(behind: bool, count: int) -> None:
    block = Fences(behind).bytes(count)
    block[:] = 7
    assert block.nbytes == count and (block == 7).all()
    assert faults(lambda: store(block, count if behind else -1))
    if count:
        assert not faults(lambda: (store(block, 0), store(block, count - 1)))


def test_a_copy_that_may_not_be_written_faults_by_a_store() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    made, open_ = Fences().copy(array), Fences().copy(array, writable=True)
    assert np.array_equal(made, array) and np.array_equal(open_, array)
    assert faults(lambda: store(made, 0)) and not faults(lambda: store(open_, 0))


@SIDES
@pytest.mark.parametrize("size", [1, 5, 1024, 5000])
def test_results_are_those_of_other_runs_whatever_sizes_came_before(behind: bool, size: int) -> None:
    exe = Executable(chain_program(5, N), objects("reverse"), 1)
    seen: list[int] = []
    exe.guard(Fences(behind, seen.append))
    for count in (size, size + 3, size, 0):
        x = np.arange(count, dtype=np.float32)
        assert np.array_equal(exe(x), x[::-1])
    assert seen == [0, 1, 2, 3, 4] * 4
    exe.guard(None)
    assert np.array_equal(exe(np.arange(3, dtype=np.float32)), [2, 1, 0])


def claiming_less(kind: str) -> Program:
    """y = (x reversed) + a constant; the code works on 6 elements, one buffer (not y: its port knows) claims 5."""
    buffers = (
        Buffer("x", "input", 24),
        Buffer("c", "constant", 20 if kind == "constant" else 24),
        Buffer("t", "arena", 20 if kind == "arena" else 24),
        Buffer("y", "output", 24),
    )
    steps = (Run("reverse", ((0, 0), (2, 0)), (6,), 6, (1,)), Run("add", ((2, 0), (1, 0), (3, 0)), (), 6, (2,)))
    ports = (Port("x", DType.F32, (6,), 0),), (Port("y", DType.F32, (6,), 3),)
    return Program("less", *ports, buffers, steps, np.ones(64, np.uint8))


@pytest.mark.parametrize("kind", ["arena", "constant"])
def test_one_element_behind_a_buffer_faults(kind: str) -> None:
    exe = Executable(claiming_less(kind), objects("reverse", "add"), 1)
    x = np.ones(6, np.float32)
    exe(x)  # nobody sees it
    exe.guard(Fences(behind=True))
    assert faults(lambda: exe(x))
    exe.guard(Fences(behind=False))  # the last element is in the same page
    exe(x)


def test_one_element_behind_an_output_faults() -> None:
    whole = claiming_less("")
    longer = replace(whole, steps=(whole.steps[0], replace(whole.steps[1], extent=7)))  # type: ignore[type-var]
    exe = Executable(longer, objects("reverse", "add"), 1)
    exe.guard(Fences(behind=True))
    assert faults(lambda: exe(np.ones(6, np.float32)))


def test_a_store_into_a_constant_faults() -> None:
    whole = claiming_less("")
    add = Run("add", ((2, 0), (0, 0), (3, 0)), (), 6, (2,))
    writing = replace(whole, steps=(Run("reverse", ((0, 0), (1, 0)), (6,), 6, ()), whole.steps[0], add))
    exe = Executable(writing, objects("reverse", "add"), 1)
    exe.guard(Fences())
    assert faults(lambda: exe(np.ones(6, np.float32)))
