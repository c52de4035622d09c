"""Sizes that data decides, branches and loops; and that nothing reads memory that holds nothing."""

from dataclasses import replace

import numpy as np
import pytest
from tests.runtime.helpers import N, chain_program, f32, objects

from mapsto.errors import ExecutionError
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import sym
from mapsto.runtime import polls, runner_ir
from mapsto.runtime.arena_layout import root_layout
from mapsto.runtime.executable import Executable
from mapsto.runtime.program import (
    Bind,
    Bounds,
    BranchIfFalse,
    Buffer,
    Check,
    Jump,
    Port,
    Program,
    Require,
    Run,
    SetSize,
)
from mapsto.runtime.tables import Tables

M = sym("m")
THREADS = [1, 2, 4]


@pytest.fixture(autouse=True, params=["in one go", "with pauses"])
def slices(request, monkeypatch):
    """Every program also with walks that pause at every second step where they may."""
    if request.param == "with pauses":
        monkeypatch.setattr(runner_ir, "SLICE_NS", 0)
        monkeypatch.setattr(polls, "_WORK", 1.0)


def _positives(checks=()):
    """y = -reverse of x's first m elements, twice reversed on the way, where m counts x's positive elements."""
    return Program(
        "positives",
        (Port("x", DType.F32, (N,), 0),),
        (Port("y", DType.F32, (M,), 1), Port("kept", DType.F32, (N,), 2)),
        (
            Buffer("x", "input", f32(N)),
            Buffer("y", "output", f32(M)),
            Buffer("kept", "output", f32(N)),
            Buffer("m", "arena", 8),
            Buffer("before", "arena", f32(N)),  # alive over the Bind
            Buffer("t", "arena", f32(M)),
            Buffer("u", "arena", f32(M)),
        ),
        (
            Run("increment", ((0, 0), (4, 0)), (), N, (1,)),
            Run("count", ((0, 0), (3, 0)), (N,), 1, (1,)),
            Bind("m", (3, 0), label="count of x"),
            Run("reverse", ((0, 0), (5, 0)), (M,), M, (1,)),
            Run("reverse", ((5, 0), (6, 0)), (M,), M, (1,)),
            Run("reverse", ((6, 0), (1, 0)), (M,), M, (1,)),
            Run("relu", ((4, 0), (2, 0)), (), N, (1,)),
        ),
        checks=checks,
    )


def _mixed(n, positive, rng):
    x = -np.ones(n, np.float32) - rng.random(n, np.float32)
    x[rng.permutation(n)[:positive]] *= -1
    return x


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("poison", [False, True])
def test_a_size_read_at_run_time(threads, poison):
    exe = Executable(_positives(), objects(), threads)
    exe.poison(poison)
    rng = np.random.default_rng(0)
    for n, positive in [(10, 4), (10, 4), (10, 9), (10, 0), (3000, 2999), (3000, 1), (10, 4), (3000, 1500), (0, 0)] * 3:
        x = _mixed(n, positive, rng)
        y, kept = exe(x)
        assert np.array_equal(y, x[:positive][::-1]) and np.array_equal(kept, np.maximum(x + 1, 0))


def test_many_values_of_a_bound_size():
    exe = Executable(_positives(), objects(), 2)
    rng = np.random.default_rng(0)
    for positive in [*range(30), *range(30)]:
        x = _mixed(50, positive, rng)
        assert np.array_equal(exe(x)[0], x[:positive][::-1])


def _bind_input(dtype, n_bytes):
    return Program(
        "bind",
        (Port("k", dtype, (), 0),),
        (Port("y", DType.F32, (M,), 1),),
        (Buffer("k", "input", n_bytes), Buffer("y", "output", f32(M))),
        (Bind("m", (0, 0), dtype, label="the length"), Run("sizes", ((1, 0), (1, 0)), (M, M), M, (0, 1))),
    )


def test_a_size_of_any_integer_type():
    for dtype in (DType.I8, DType.I16, DType.I32, DType.I64, DType.U8, DType.U32, DType.U64):
        exe = Executable(_bind_input(dtype, dtype.size), objects(), 1)
        assert exe(np.array(5, dtype.numpy)).tolist() == [10] * 5


def test_an_absurd_size_is_an_error_that_names_it():
    exe = Executable(_bind_input(DType.I64, 8), objects(), 2)
    for value in (-1, -(2**63), 2**62, 2**41):
        with pytest.raises(ExecutionError, match=f"the length: the size m came out as {value}"):
            exe(np.array(value))
        assert exe(np.array(2)).tolist() == [4, 4]


def test_a_check_on_a_bound_size():
    exe = Executable(_positives((Check(5 - M, "at most five"), Check(N - M - 2, "two to spare"))), objects(), 2)
    rng = np.random.default_rng(0)
    for _ in range(2):
        assert len(exe(_mixed(20, 5, rng))[0]) == 5
        with pytest.raises(ExecutionError, match="at most five"):
            exe(_mixed(20, 6, rng))
        with pytest.raises(ExecutionError, match="two to spare"):
            exe(_mixed(5, 4, rng))


def test_two_bound_sizes():
    k = sym("k")
    program = Program(
        "two",
        (Port("x", DType.F32, (N,), 0), Port("k", DType.I64, (), 1)),
        (Port("y", DType.F32, (M + k,), 2), Port("z", DType.F32, (M,), 3)),
        (
            Buffer("x", "input", f32(N)),
            Buffer("k", "input", 8),
            Buffer("y", "output", f32(M + k)),
            Buffer("z", "output", f32(M)),
            Buffer("m", "arena", 8),
            Buffer("t", "arena", f32(M)),
            Buffer("u", "arena", f32(M + k)),
        ),
        (
            Run("count", ((0, 0), (4, 0)), (N,), 1, (1,)),
            Bind("m", (4, 0)),
            Run("increment", ((0, 0), (5, 0)), (), M, (1,)),  # alive over the second Bind
            Bind("k", (1, 0)),
            Run("sizes", ((6, 0), (6, 0)), (M, k), M + k, (0, 1)),
            Run("reverse", ((5, 0), (3, 0)), (M,), M, (1,)),
            Run("relu", ((6, 0), (2, 0)), (), M + k, (1,)),
        ),
    )
    for threads in THREADS:
        exe = Executable(program, objects(), threads)
        rng = np.random.default_rng(1)
        for m, extra in [(3, 4), (3, 4), (3, 900), (500, 4), (500, 900), (3, 4), (0, 0)]:
            x = _mixed(1000, m, rng)
            y, z = exe(x, np.array(extra))
            assert np.array_equal(z, (x[:m] + 1)[::-1])
            assert np.array_equal(y, np.full(m + extra, m + extra, np.float32))


def test_an_offset_in_an_input_that_a_bound_size_decides():
    """y = x from place m on."""
    program = Program(
        "tail",
        (Port("x", DType.F32, (N,), 0), Port("m", DType.I64, (), 1)),
        (Port("y", DType.F32, (N - M,), 2),),
        (Buffer("x", "input", f32(N)), Buffer("m", "input", 8), Buffer("y", "output", f32(N - M))),
        (Bind("m", (1, 0)), Run("increment", ((0, 4 * M), (2, 0)), (), N - M, (1,))),
    )
    exe = Executable(program, objects(), 1)
    for seed, m in enumerate([3, 3, 3, 7, 0, 3, 10]):
        x = np.random.default_rng(seed).standard_normal(10).astype(np.float32)
        assert np.array_equal(exe(x, np.array(m)), x[m:] + 1)
    with pytest.raises(ExecutionError, match="negative dim"):
        exe(x, np.array(11))


def test_an_offset_in_an_output_that_a_bound_size_decides():
    """y is x twice, what follows the first m elements one more: two steps write parts of one output."""
    program = Program(
        "parts",
        (Port("x", DType.F32, (N,), 0), Port("m", DType.I64, (), 1)),
        (Port("y", DType.F32, (N,), 2),),
        (Buffer("x", "input", f32(N)), Buffer("m", "input", 8), Buffer("y", "output", f32(N))),
        (
            Bind("m", (1, 0)),
            Run("reverse", ((0, 0), (2, 0)), (M,), M, (1,)),
            Run("increment", ((0, 4 * M), (2, 4 * M)), (), N - M, (1,)),
        ),
    )
    exe = Executable(program, objects(), 1)
    for seed, m in enumerate([3, 3, 7, 0, 3, 10]):
        x = np.random.default_rng(seed).standard_normal(10).astype(np.float32)
        assert np.array_equal(exe(x, np.array(m)), np.concatenate([x[:m][::-1], x[m:] + 1]))


def _branch():
    """y = x + 1 where x[0] > 0, else reverse(x); then reversed once more."""
    return Program(
        "branch",
        (Port("x", DType.F32, (N,), 0),),
        (Port("y", DType.F32, (N,), 1),),
        (
            Buffer("x", "input", f32(N)),
            Buffer("y", "output", f32(N)),
            Buffer("cond", "arena", 1),
            Buffer("t", "arena", f32(N)),
            Buffer("u", "arena", f32(N)),
        ),
        (
            Run("is_positive", ((0, 0), (2, 0)), writes=(1,)),
            BranchIfFalse((2, 0), 4),
            Run("increment", ((0, 0), (4, 0)), (), N, (1,)),
            Jump(6),
            Run("reverse", ((0, 0), (3, 0)), (N,), N, (1,)),
            Run("relu", ((3, 0), (4, 0)), (), N, (1,)),
            Run("reverse", ((4, 0), (1, 0)), (N,), N, (1,)),
        ),
    )


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("poison", [False, True])
def test_both_sides_of_a_branch(threads, poison):
    exe = Executable(_branch(), objects(), threads)
    exe.poison(poison)
    rng = np.random.default_rng(0)
    for n in (1, 2, 3, 700, 20_000) * 10:
        x = rng.standard_normal(n).astype(np.float32)
        expected = (x + 1)[::-1] if x[0] > 0 else np.maximum(x, 0)
        assert np.array_equal(exe(x), expected)


@pytest.mark.parametrize("threads", THREADS)
def test_a_size_bound_on_one_side_only(threads):
    """m is bound on either side of the branch; the output's size is known after both."""
    program = Program(
        "sides",
        (Port("x", DType.F32, (N,), 0),),
        (Port("y", DType.F32, (M,), 1),),
        (
            Buffer("x", "input", f32(N)),
            Buffer("y", "output", f32(M)),
            Buffer("cond", "arena", 1),
            Buffer("m", "arena", 8),
            Buffer("two", "constant", 8),
        ),
        (
            Run("is_positive", ((0, 0), (2, 0)), writes=(1,)),
            BranchIfFalse((2, 0), 5),
            Run("count", ((0, 0), (3, 0)), (N,), 1, (1,)),
            Bind("m", (3, 0)),
            Jump(6),
            Bind("m", (4, 0)),
            Run("increment", ((0, 0), (1, 0)), (), M, (1,)),
        ),
        np.array([2]).tobytes() + b"\0" * 56,
    )
    exe = Executable(program, objects(), threads)
    for x in ([1, 2, 3, -1], [-1, 2, 3, -1], [1, 2, 3, -1], [1, -2, -3, -1]):
        x = np.array(x, np.float32)
        m = int((x > 0).sum()) if x[0] > 0 else 2
        assert np.array_equal(exe(x), x[:m] + 1)


def test_an_output_whose_size_nothing_defined():
    """It has no element, whatever m is, so nothing need write it; but a branch leaves out what says its shape."""
    program = Program(
        "skipped",
        (Port("x", DType.F32, (N,), 0),),
        (Port("y", DType.F32, (0, M), 1),),
        (Buffer("x", "input", f32(N)), Buffer("y", "output", 0), Buffer("cond", "arena", 1), Buffer("m", "arena", 8)),
        (
            Run("is_positive", ((0, 0), (2, 0)), writes=(1,)),
            BranchIfFalse((2, 0), 4),
            Run("count", ((0, 0), (3, 0)), (N,), 1, (1,)),
            Bind("m", (3, 0)),
        ),
    )
    exe = Executable(program, objects(), 1)
    assert exe(np.ones(3, np.float32)).shape == (0, 3)
    with pytest.raises(ExecutionError, match="no step of this run has defined its size"):
        exe(-np.ones(3, np.float32))


def _countdown():
    """y = x less its first element, one by one: a loop that carries its state."""
    return Program(
        "countdown",
        (Port("x", DType.F32, (N,), 0), Port("minus", DType.F32, (N,), 1)),
        (Port("y", DType.F32, (N,), 2),),
        (
            Buffer("x", "input", f32(N)),
            Buffer("minus", "input", f32(N)),
            Buffer("y", "output", f32(N)),
            Buffer("state", "arena", f32(N)),
            Buffer("cond", "arena", 1),
            Buffer("other", "arena", f32(N)),
        ),
        (
            Run("relu", ((0, 0), (3, 0)), (), N, (1,)),
            Run("is_positive", ((3, 0), (4, 0)), writes=(1,)),
            BranchIfFalse((4, 0), 5),
            Run("accumulate", ((3, 0), (1, 0)), (), N, (0,)),
            Jump(1),
            Run("reverse", ((3, 0), (5, 0)), (N,), N, (1,)),
            Run("reverse", ((5, 0), (2, 0)), (N,), N, (1,)),
        ),
    )


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("poison", [False, True])
def test_a_loop(threads, poison):
    exe = Executable(_countdown(), objects(), threads)
    exe.poison(poison)
    for n, start in [(1, 3), (5, 0), (2000, 100), (3, 7)] * 3:
        x = np.full(n, start, np.float32)
        assert np.array_equal(exe(x, -np.ones(n, np.float32)), np.zeros(n))


def _words(program, threads, **sizes):
    """What the runner finds of each step: its kind, whether the threads meet before it, whether it may pause there."""
    tables = Tables(program, dict.fromkeys((s.function for s in program.steps if isinstance(s, Run)), 0))
    return root_layout(tables, threads, tables.tape.start(sizes)).words


def test_threads_meet_before_a_branch():
    """All of them read its condition, which the first one alone may have written, and none has more to do there."""
    program = Program(
        "branch",
        (Port("x", DType.F32, (N,), 0),),
        (Port("y", DType.F32, (N,), 1),),
        (
            Buffer("x", "input", f32(N)),
            Buffer("y", "output", f32(N)),
            Buffer("cond", "arena", 1),
            Buffer("one", "arena", 4),
        ),
        (
            Run("is_positive", ((0, 0), (2, 0)), writes=(1,), grain=2),
            BranchIfFalse((2, 0), 3),
            Run("increment", ((0, 0), (3, 0)), (), 1, (1,), grain=2),
            Run("relu", ((0, 0), (1, 0)), (), N, (1,), grain=2),
        ),
    )
    assert _words(program, 2, n=1000)[1] & runner_ir.BARRIER


@pytest.mark.parametrize("threads", THREADS)
def test_each_round_of_a_loop_may_pause(threads):
    """However short its steps are: how many rounds there will be nobody knows."""
    short = tuple(replace(s, grain=1 << 20) if isinstance(s, Run) else s for s in _countdown().steps)
    words = _words(replace(_countdown(), steps=short), threads, n=1)
    assert isinstance(short[4], Jump) and words[4] & runner_ir.POLL


def growing():
    """In each round one is added to all elements of y, and the first one of x is put behind them; as many rounds as the
    elements of x count down to nothing.
    """
    k, size = sym("k"), f32(M)
    return Program(
        "growing",
        (Port("x", DType.F32, (N,), 0), Port("minus", DType.F32, (N,), 1)),
        (Port("y", DType.F32, (M,), 2),),
        (
            Buffer("x", "input", f32(N)),
            Buffer("minus", "input", f32(N)),
            Buffer("y", "output", size),
            Buffer("state", "arena", f32(N)),
            Buffer("cond", "arena", 1),
            Buffer("t", "arena", f32(k + 1)),
        ),
        (
            Run("relu", ((0, 0), (3, 0)), (), N, (1,)),
            SetSize("m", N),
            Run("relu", ((0, 0), (2, 0)), (), M, (1,)),
            Run("is_positive", ((3, 0), (4, 0)), writes=(1,)),
            BranchIfFalse((4, 0), 12),
            SetSize("k", M),
            Run("increment", ((2, 0), (5, 0)), (), k, (1,)),
            Run("relu", ((0, 0), (5, 4 * k)), (), 1, (1,)),
            Run("accumulate", ((3, 0), (1, 0)), (), N, (0,)),
            SetSize("m", k + 1),
            Run("relu", ((5, 0), (2, 0)), (), M, (1,)),
            Jump(3),
        ),
    )


def grown(n, rounds):
    return np.array([rounds] * n + list(range(rounds))[::-1], np.float32) + np.float32(rounds)


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("poison", [False, True])
def test_a_size_that_a_loop_sets_in_each_round(threads, poison):
    exe = Executable(growing(), objects(), threads)
    exe.poison(poison)
    for n, rounds in [(1, 3), (5, 1), (2000, 40), (3, 7)] * 3:
        found = exe(np.full(n, rounds, np.float32), -np.ones(n, np.float32))
        assert np.array_equal(found, grown(n, rounds))


@pytest.mark.parametrize("threads", [1, 2])
def test_a_size_bound_anew_in_each_round_of_a_loop(threads):
    """The state loses one in each round, until nothing is positive; m counts its positive ones."""
    program = Program(
        "rounds",
        (Port("x", DType.F32, (N,), 0), Port("minus", DType.F32, (N,), 1)),
        (Port("y", DType.F32, (N,), 2),),
        (
            Buffer("x", "input", f32(N)),
            Buffer("minus", "input", f32(N)),
            Buffer("y", "output", f32(N)),
            Buffer("state", "arena", f32(N)),
            Buffer("cond", "arena", 1),
            Buffer("m", "arena", 8),
            Buffer("t", "arena", f32(M)),
            Buffer("u", "arena", f32(M)),
        ),
        (
            Run("relu", ((0, 0), (3, 0)), (), N, (1,)),
            Run("relu", ((0, 0), (2, 0)), (), N, (1,)),
            Run("count", ((3, 0), (5, 0)), (N,), 1, (1,)),
            Bind("m", (5, 0)),
            Run("reverse", ((3, 0), (6, 0)), (M,), M, (1,)),
            Run("reverse", ((6, 0), (7, 0)), (M,), M, (1,)),
            Run("accumulate", ((2, 0), (7, 0)), (), M, (0,)),
            Run("accumulate", ((3, 0), (1, 0)), (), N, (0,)),
            Run("is_positive", ((3, 0), (4, 0)), writes=(1,)),
            BranchIfFalse((4, 0), 11),
            Jump(2),
        ),
    )
    exe = Executable(program, objects(), threads)
    for _ in range(3):
        x = np.arange(300, 0, -1, dtype=np.float32)
        state, expected = x.copy(), x.copy()
        while True:
            m = int((state > 0).sum())
            expected[:m] += state[:m]
            state -= 1
            if state[0] <= 0:
                break
        assert np.array_equal(exe(x, -np.ones(300, np.float32)), expected)


def test_a_requirement_within_a_branch_holds_only_there():
    base = _branch()
    steps = list(base.steps)
    steps[3] = Require(-1, "x[0] must not be positive")
    exe = Executable(Program("guarded", base.inputs, base.outputs, base.buffers, tuple(steps)), objects(), 2)
    for _ in range(2):
        assert exe(np.array([-1, 2], np.float32)).tolist() == [0, 2]
        with pytest.raises(ExecutionError, match="must not be positive"):
            exe(np.array([1, 2], np.float32))


def test_poison_shows_a_read_of_memory_that_holds_nothing():
    """A buffer of which a step wrote nothing, and an output of which only half was written."""
    unwritten = Program(
        "unwritten",
        (Port("x", DType.F32, (N,), 0),),
        (Port("y", DType.F32, (N,), 1),),
        (Buffer("x", "input", f32(N)), Buffer("y", "output", f32(N)), Buffer("t", "arena", f32(N))),
        (Run("increment", ((0, 0), (2, 0)), (), 0, (1,)), Run("increment", ((2, 0), (1, 0)), (), N, (1,))),
    )
    exe = Executable(unwritten, objects(), 1)
    exe.poison()
    assert np.isnan(exe(np.ones(5, np.float32))).all()
    half = Program(  # only half of the output is written
        "half",
        unwritten.inputs,
        unwritten.outputs,
        unwritten.buffers,
        (Run("increment", ((0, 0), (1, 0)), (), N // 2, (1,)),),
    )
    exe = Executable(half, objects(), 1)
    exe.poison()
    assert np.isnan(exe(np.ones(4, np.float32))).tolist() == [False, False, True, True]


def test_poison_changes_nothing_in_a_sound_program():
    exe = Executable(chain_program(20, N), objects(), 2)
    x = np.arange(1000, dtype=np.float32)
    plain = exe(x)
    exe.poison()
    assert np.array_equal(exe(x), plain)
    exe.poison(False)
    assert np.array_equal(exe(x), plain)


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("poison", [False, True])
def test_a_run_stops_at_an_index_out_of_range(threads, poison):
    """The word is compared as it stands when all threads are there, before anything after it."""
    program = Program(
        "g",
        (Port("x", DType.F32, (N,), 0),),
        (Port("y", DType.F32, (N,), 1),),
        (Buffer("x", "input", f32(N)), Buffer("y", "output", f32(N)), Buffer("word", "arena", 8)),
        (
            Run("count", ((0, 0), (2, 0)), (N,), 1, (1,)),
            Bounds((2, 0), "place", "index", 3, 1001, "node 'g' (Gather)"),
            Run("increment", ((0, 0), (1, 0)), (), N, (1,)),
        ),
    )
    exe = Executable(program, objects(), threads)
    exe.poison(poison)
    rng = np.random.default_rng(0)
    for positive in (0, 1000, 5, 999) * 3:
        x = _mixed(3000, positive, rng)
        assert np.array_equal(exe(x), x + 1)
        with pytest.raises(ExecutionError, match=r"node 'g' \(Gather\): index 1001 is outside of axis 3, which has"):
            exe(_mixed(3000, 1001, rng))


def test_no_index_at_all_is_none_out_of_range():
    """An empty axis and no indices: the distance is 0, and so is the count of what is allowed."""
    assert [Bounds((0, 0), kind, "index", 0, 0, "").limit for kind in ("signed", "place", "length")] == [1, 1, 1]
