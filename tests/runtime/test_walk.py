"""Programs walked on an engine: the outputs, errors and memory of native runs. The engine is this processor with memory
that only it may touch, so no device is needed.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from tests.runtime.helpers import N, chain_program, f32, objects
from tests.runtime.test_control import M, _branch, _countdown, _mixed, _positives, growing

from mapsto.errors import ExecutionError, ShapeError, UnsupportedError
from mapsto.ir.dtypes import DType
from mapsto.runtime.arrays import address_of, aligned_bytes
from mapsto.runtime.executable import Executable
from mapsto.runtime.native import Library
from mapsto.runtime.program import Bind, Bounds, Buffer, Check, Port, Program, Require, Run

_SIGNATURE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)


class HostLauncher:
    """Counts how often it was set and started."""

    def __init__(self, call: Callable[..., None]) -> None:
        self._call = call
        self.sets = self.starts = 0

    def set(self, operands: Sequence[tuple[np.ndarray, int]], dims: Sequence[int], extent: int, grain: int) -> None:
        assert extent > 0 and grain > 0
        self._memories = [memory for memory, _ in operands]
        self._buffers = (ctypes.c_void_p * len(operands))(*(address_of(m) + offset for m, offset in operands))
        self._numbers = (ctypes.c_int64 * max(len(dims), 1))(*dims)
        self._extent = extent
        self.sets += 1

    def start(self) -> None:
        self._call(ctypes.addressof(self._buffers), ctypes.addressof(self._numbers), 0, self._extent)
        self.starts += 1

    def timed(self) -> int:
        self.start()
        return 7


class Sent:
    """What a write gives."""


class HostEngine:
    """Compiled functions in one share; what is reserved begins as NaN."""

    name = "host"

    def __init__(self, program: Program) -> None:
        self._library = Library(objects(), program.functions())
        self.reserved: list[int] = []
        self.launchers: list[HostLauncher] = []
        self.log: list[str] = []

    def reserve(self, count: int) -> np.ndarray:
        self.reserved.append(count)
        memory = aligned_bytes(count)
        memory[:] = 0xFF
        return memory

    def write(self, memory: np.ndarray, offset: int, data: np.ndarray) -> Sent:
        assert offset + data.nbytes <= memory.nbytes
        memory[offset : offset + data.nbytes] = data.reshape(-1).view(np.uint8)
        self.log.append(f"write {data.nbytes}")
        sent = Sent()
        weakref.finalize(sent, self.log.append, "let go")
        return sent

    def read(self, *wanted: tuple[np.ndarray, int, np.ndarray]) -> None:
        for memory, offset, into in wanted:
            assert offset + into.nbytes <= memory.nbytes
            into.reshape(-1).view(np.uint8)[:] = memory[offset : offset + into.nbytes]
        self.log.append(f"read {len(wanted)}")

    def launcher(self, function: str) -> HostLauncher:
        self.launchers.append(HostLauncher(_SIGNATURE(self._library.addresses[function])))
        return self.launchers[-1]


def walked(program: Program) -> Executable:
    return Executable(program, [], 1, engine=HostEngine(program))


def both(program: Program, *feeds: Sequence[np.ndarray]) -> Executable:
    """Equal outputs for all feeds, in this order and back, also where memory is poisoned."""
    native, ours = Executable(program, objects(), 1), walked(program)
    for poison in (False, True):
        ours.poison(poison)
        for feed in (*feeds, *reversed(feeds)):
            wanted, found = native(*feed), ours(*feed)
            single = isinstance(wanted, np.ndarray)
            for a, b in zip([wanted] if single else wanted, [found] if single else found, strict=True):
                assert a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    return ours


def test_steps_one_after_the_other() -> None:
    both(chain_program(5, N), *([np.arange(n, dtype=np.float32)] for n in (7, 0, 3, 900)))


def test_sizes_that_data_decides() -> None:
    rng = np.random.default_rng(0)
    sizes = ((10, 4), (10, 9), (10, 0), (3000, 2999), (3000, 1), (0, 0))
    exe = both(_positives(), *([_mixed(n, positive, rng)] for n, positive in sizes))
    assert exe.memory({"n": 10, "m": 4}) == Executable(_positives(), objects(), 1).memory({"n": 10, "m": 4})


def test_branches_and_loops() -> None:
    both(_branch(), *([np.full(n, sign, np.float32)] for n in (1, 40) for sign in (1, -1)))
    rounds = ((1, 3), (5, 1), (300, 9), (2, 2))
    both(growing(), *([np.full(n, k, np.float32), -np.ones(n, np.float32)] for n, k in rounds))
    both(_countdown(), *([np.full(n, k, np.float32), -np.ones(n, np.float32)] for n, k in ((1, 3), (5, 0), (300, 9))))


def test_memory_is_kept_from_run_to_run() -> None:
    program = chain_program(4, N)
    engine = HostEngine(program)
    exe = Executable(program, [], 1, engine=engine)
    for n in (5, 3, 5, 4):
        exe(np.zeros(n, np.float32))
    first = len(engine.reserved)
    exe(np.zeros(6000, np.float32))
    assert first == 4 and len(engine.reserved) == 7  # constants; input, output and scratch, and again larger


def test_nothing_is_waited_for_before_the_outputs() -> None:
    """A copy that is let go is waited for: inputs are held until the outputs are there, which come all at once."""
    one, two = np.ones(2, np.float32), -np.ones(2, np.float32)
    for program, feed in ((_branch(), [one]), (_branch(), [two]), (_countdown(), [one, two])):
        engine = HostEngine(program)
        exe = Executable(program, [], 1, engine=engine)
        exe(*feed)  # which sends the constants
        engine.log.clear()
        exe(*feed)
        assert engine.log[: len(feed)] == ["write 8"] * len(feed)
        assert engine.log[-len(feed) :] == ["let go"] * len(feed)
        reads = engine.log[len(feed) : -len(feed)]  # the last one has the output, others what the walk depends on
        assert len(reads) >= 2 and set(reads) == {"read 1"}


def test_steps_are_set_when_sizes_or_memory_change_and_else_only_started() -> None:
    engine = HostEngine(chain_program(4, N))
    exe = Executable(chain_program(4, N), [], 1, engine=engine)

    def counts() -> tuple[int, int, int]:
        return len(engine.launchers), sum(x.sets for x in engine.launchers), sum(x.starts for x in engine.launchers)

    for n, sets in ((5, 4), (5, 4), (5, 4), (3, 8), (3, 8), (5, 12), (6000, 16), (6000, 16), (5, 20)):
        x = np.arange(n, dtype=np.float32)
        assert (exe(x) == x).all()  # reversed four times
        assert counts()[:2] == (4, sets), n
    assert counts()[2] == 9 * 4


def test_steps_after_a_size_that_data_decides_keep_what_they_are_set_to() -> None:
    engine = HostEngine(_positives())
    exe = Executable(_positives(), [], 1, engine=engine)
    rng = np.random.default_rng(0)
    sets = []
    for _ in range(4):
        assert len(exe(_mixed(10, 4, rng))[0]) == 4
        sets.append(sum(x.sets for x in engine.launchers))
    assert sets[0] > 0 and sets[1:] == [sets[1]] * 3  # the second run has the memory that the first one reserved
    assert len(exe(_mixed(10, 9, rng))[0]) == 9


def test_a_profile_has_the_nanoseconds_of_the_device() -> None:
    times = walked(chain_program(3, N)).profile(np.ones(5, np.float32), runs=4)
    assert [(t.nanoseconds, t.calls) for t in times] == [(7, 4)] * 3


def test_checks_requirements_and_bounds_end_a_run() -> None:
    exe = walked(_positives((Check(5 - M, "at most five"),)))
    rng = np.random.default_rng(0)
    assert len(exe(_mixed(20, 5, rng))[0]) == 5
    with pytest.raises(ExecutionError, match="at most five"):
        exe(_mixed(20, 6, rng))
    steps = (
        Run("increment", ((0, 0), (1, 0)), (), N, (1,)),
        Require(N - 3, "three or more"),
        Bounds((2, 0), "signed", "index", 0, N, "gather g"),
    )
    ports = (Port("x", DType.F32, (N,), 0), Port("at", DType.U64, (), 2))
    buffers = (Buffer("x", "input", f32(N)), Buffer("y", "output", f32(N)), Buffer("at", "input", 8))
    guarded = Program("guarded", ports, (Port("y", DType.F32, (N,), 1),), buffers, steps)
    for run in (walked(guarded), Executable(guarded, objects(), 1)):
        x = np.ones(4, np.float32)
        assert run(x, np.array(7, np.uint64)).tolist() == [2] * 4  # from -4 on, the farthest is 3
        with pytest.raises(ExecutionError, match="gather g.*index 4"):
            run(x, np.array(8, np.uint64))
        with pytest.raises(ExecutionError, match="three or more"):
            run(x[:2], np.array(0, np.uint64))
        assert run(x, np.array(0, np.uint64)).tolist() == [2] * 4


def test_an_absurd_size_and_one_that_nothing_defined() -> None:
    bind = Program(
        "bind",
        (Port("k", DType.I64, (), 0),),
        (Port("y", DType.F32, (M,), 1),),
        (Buffer("k", "input", 8), Buffer("y", "output", f32(M))),
        (Bind("m", (0, 0), label="the length"), Run("sizes", ((1, 0), (1, 0)), (M, M), M, (0, 1))),
    )
    exe = walked(bind)
    for value in (-1, 2**41):
        with pytest.raises(ExecutionError, match=f"the length: the size m came out as {value}"):
            exe(np.array(value))
    assert exe(np.array(2)).tolist() == [4, 4]


def test_an_input_that_is_updated_is_written_when_the_run_has_ended() -> None:
    program = Program(
        "update",
        (Port("x", DType.F32, (N,), 0), Port("d", DType.F32, (N,), 1)),
        (Port("y", DType.F32, (N,), 0),),
        (Buffer("x", "input", f32(N)), Buffer("d", "input", f32(N))),
        (Run("accumulate", ((0, 0), (1, 0)), (), N, (0,)),),
        updates=(("x", "y"),),
    )
    exe, x = walked(program), np.arange(4, dtype=np.float32)
    assert exe(x, np.ones(4, np.float32)) is x and x.tolist() == [1, 2, 3, 4]
    with pytest.raises(ExecutionError, match="shares its memory with 'd'"):
        exe(x, x)
    frozen = x.copy()
    frozen.flags.writeable = False
    with pytest.raises(ShapeError, match="'x'"):
        exe(frozen, x)


def test_runs_at_a_time() -> None:
    exe = walked(_positives())
    rng = np.random.default_rng(0)
    feeds = [_mixed(200 + k, 10 + k, rng) for k in range(40)]
    with ThreadPoolExecutor(4) as pool:
        for x, (y, kept) in zip(feeds, pool.map(exe, feeds), strict=True):
            assert np.array_equal(y, x[: (x > 0).sum()][::-1])
            assert np.array_equal(kept, np.maximum(x + 1, 0))


def test_its_steps_are_timed_and_it_is_not_saved(tmp_path) -> None:
    exe = walked(chain_program(3, N))
    times = exe.profile(np.ones(5, np.float32), runs=4)
    assert [t.calls for t in times] == [4, 4, 4] and min(t.nanoseconds for t in times) > 0
    with pytest.raises(UnsupportedError, match="code for host cannot be saved"):
        exe.save(tmp_path / "saved")
