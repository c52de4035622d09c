"""Python code that comes between any two lines of a run: signal handlers, trace functions, finalisers. It may run
models itself, fork, or end the run; nothing hangs, and every answer is right.
"""

import gc
import os
import signal
import sys
import threading
import time

import numpy as np
import pytest
from tests.runtime.helpers import N, burning_program, chain_program, finish, in_child, objects, script

from mapsto.ir.dtypes import DType
from mapsto.ir.expr import sym
from mapsto.runtime import polls, pool, runner_ir
from mapsto.runtime.executable import Executable
from mapsto.runtime.program import Bind, Buffer, Port, Program, Run

THREADS = [1, 2, 3]
RUNTIME = os.path.dirname(pool.__file__)


def burning(steps, micros, threads, items=3):
    return Executable(burning_program(steps, micros, items), objects("burn"), threads)


def bound(threads):
    """y = reversed first m elements of x, where m counts its positive ones."""
    m = sym("m")
    buffers = (
        Buffer("x", "input", 4 * N),
        Buffer("y", "output", 4 * m),
        Buffer("m", "arena", 8),
        Buffer("t", "arena", 4 * m),
    )
    steps = (
        Run("count", ((0, 0), (2, 0)), (N,), 1, (1,)),
        Bind("m", (2, 0)),
        Run("reverse", ((0, 0), (3, 0)), (m,), m, (1,)),
        Run("relu", ((3, 0), (1, 0)), (), m, (1,)),
    )
    ports = (Port("x", DType.F32, (N,), 0),), (Port("y", DType.F32, (m,), 1),)
    return Executable(Program("bound", *ports, buffers, steps), objects("count", "reverse", "relu"), threads)


@pytest.fixture
def short_slices(monkeypatch):
    """Walks pause at every second step that may be paused at."""
    monkeypatch.setattr(runner_ir, "SLICE_NS", 0)
    monkeypatch.setattr(polls, "_WORK", 1.0)


class Tracer:
    """Calls `act` at the instructions of the runtime's Python code, from the `first` to the `last` one."""

    def __init__(self, act, first=1, last=sys.maxsize):
        self.act, self.first, self.last, self.count = act, first, last, 0

    def __enter__(self):
        sys.settrace(self._call)
        return self

    def __exit__(self, *_):
        sys.settrace(None)

    def _call(self, frame, event, argument):
        if not frame.f_code.co_filename.startswith(RUNTIME):
            return None
        frame.f_trace_opcodes = True
        return self._opcode

    def _opcode(self, frame, event, argument):
        if event == "opcode":
            self.count += 1
            if self.first <= self.count <= self.last:
                self.act()
        return self._opcode


@pytest.mark.parametrize("threads", THREADS)
def test_a_run_between_any_two_instructions_of_a_run(threads, short_slices):
    """A trace function sees each instruction of Python; a signal handler sees some of them."""
    chain, other = Executable(chain_program(4, N), objects("reverse"), threads), bound(threads)
    nested = Executable(chain_program(3, N), objects("reverse"), threads)
    x = np.arange(-40, 60, dtype=np.float32)
    positive = np.maximum(x[:59][::-1], 0)
    right = []

    def act():
        n = 1 + len(right) % 90
        exe, want = (
            (nested, x[:n][::-1]),
            (chain, x[:n]),
            (other, np.maximum(x[: max(0, n - 41)][::-1], 0)),
        )[len(right) % 3]
        right.append(np.array_equal(exe(x[:n]), want))

    for _ in range(2):  # new shapes, then known ones
        with Tracer(act) as tracer:
            assert np.array_equal(chain(x), x) and np.array_equal(other(x), positive)
        assert tracer.count > 100
    assert len(right) > 200 and all(right)


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("make", [bound, lambda threads: Executable(chain_program(4, N), objects("reverse"), threads)])
def test_a_run_that_ends_at_any_instruction(make, threads, short_slices):
    """KeyboardInterrupt at the first instruction of Python, the second, and so on: the next run is right each time."""
    exe = make(threads)
    x = np.arange(-40, 60, dtype=np.float32)
    want, small = exe(x), exe(x[:50])

    def interrupt():
        raise KeyboardInterrupt

    at, ended = 0, True
    while ended:
        at += 1
        ended = False
        try:
            with Tracer(interrupt, at, at):
                exe(x[: 50 + at % 2])  # a new shape for the frame, every time
        except KeyboardInterrupt:
            ended = True
        finally:
            sys.settrace(None)
        assert np.array_equal(exe(x), want) and np.array_equal(exe(x[:50]), small)
    assert at > 100


def test_loading_between_any_two_instructions_of_loading(monkeypatch):
    """The process's runner, its pools and its linker are made while a handler makes and uses them too."""
    x = np.arange(50, dtype=np.float32)
    right = []

    def act():
        if len(right) % 10 == 0:
            monkeypatch.setattr(pool, "_runners", {})
            monkeypatch.setattr(pool, "_pools", {})
        right.append(np.array_equal(Executable(chain_program(1, N), objects("reverse"), 2)(x), x[::-1]))

    with Tracer(act, last=2000) as tracer:
        assert np.array_equal(Executable(chain_program(2, N), objects("reverse"), 2)(x), x)
    assert tracer.count > 200 and all(right)


SIGNALS = """
import signal
x = np.arange(1000, dtype=np.float32)
exes = [Executable(chain_program(length, N), objects("reverse"), THREADS) for length in (2, 9, 40)]
nested = exes + [Executable(chain_program(2 + threads, N), objects("reverse"), threads) for threads in (2, 3)]
count = [0, 0]
depth = 0

def check(exe, n):
    want = x[:n] if len(exe.program.steps) % 2 == 0 else x[:n][::-1]
    assert (exe(x[:n]) == want).all(), (len(exe.program.steps), n)

def handler(*_):
    global depth
    if depth > 3:  # a signal came while the handler ran, and again
        return
    if count[0] > 100 + 10 * count[1]:  # the interrupted runs get on too, however slow the machine is
        return
    depth += 1
    count[0] += 1
    check(nested[count[0] % len(nested)], 1 + count[0] % 999)
    depth -= 1

signal.signal(signal.SIGALRM, handler)
signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
"""


@pytest.mark.parametrize("threads", THREADS)
def test_signals_a_thousand_times_a_second(threads):
    code, out, err = finish(
        script(
            SIGNALS.replace("THREADS", str(threads))
            + """
import time
end = time.monotonic() + 2
while time.monotonic() < end or min(count) <= 50:
    count[1] += 1
    check(exes[count[1] % 3], 1 + count[1] % 777)
signal.setitimer(signal.ITIMER_REAL, 0)
print("ends")
"""
        ),
        90,
    )
    assert (code, out) == (0, "ends\n"), err


def test_signals_while_other_threads_run():
    code, out, err = finish(
        script(
            SIGNALS.replace("THREADS", "2")
            + """
import threading, time
end = time.monotonic() + 2
runs = [0] * 3
def work(number):
    while time.monotonic() < end or min(*runs, count[0]) <= 10:
        runs[number] += 1
        count[1] += 1
        check(exes[number], 1 + runs[number] % 555)
threads = [threading.Thread(target=work, args=(i,)) for i in (1, 2)]
[t.start() for t in threads]
work(0)
[t.join() for t in threads]
signal.setitimer(signal.ITIMER_REAL, 0)
print("ends")
"""
        ),
        90,
    )
    assert (code, out) == (0, "ends\n"), err


def test_finalisers_and_collections_that_run():
    exe = Executable(chain_program(6, N), objects("reverse"), 2)
    x = np.arange(300, dtype=np.float32)
    right = []

    class Cycle:
        def __init__(self):
            self.itself = self

        def __del__(self):
            right.append(np.array_equal(exe(x[: 1 + len(right) % 300]), x[: 1 + (len(right)) % 300]))

    def collected(phase, info):
        right.append(np.array_equal(exe(x), x))

    before = gc.get_threshold()
    gc.callbacks.append(collected)
    try:
        gc.set_threshold(5, 2, 2)
        for n in range(1, 300):
            Cycle()
            assert np.array_equal(exe(x[:n]), x[:n])
    finally:
        gc.callbacks.remove(collected)
        gc.set_threshold(*before)
    assert len(right) > 500 and all(right)


@pytest.mark.parametrize("threads", THREADS)
def test_a_handler_waits_for_another_thread_that_runs(threads):
    """Both want the pool; the interrupted run must not hold it while its handler waits."""
    exe = burning(300, 1000, threads)
    x = np.zeros(3, np.float32)
    right = []

    def handler(*_):
        other = threading.Thread(target=lambda: right.append(bool((burning(5, 100, threads)(x) == 5).all())))
        other.start()
        other.join()
        signal.setitimer(signal.ITIMER_REAL, 0.05)  # the next alarm waits for this one, however slow the machine is

    before = signal.signal(signal.SIGALRM, handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        assert (exe(x) == 300).all()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert len(right) >= 1 and all(right)


CTRL_C = """
import time
exe, x = Executable(burning_program(1000, 10_000), objects("burn"), THREADS), np.zeros(3, np.float32)
short = Executable(burning_program(4, 10), objects("burn"), THREADS)
assert (short(x) == 4).all()
print("ready", flush=True)
"""


def _interrupted(body, delay=0.5):
    """(what a script printed, seconds from the signal to its end); it says "ready" before the signal."""
    process = script(body)
    assert process.stdout.readline() == "ready\n"
    time.sleep(delay)
    since = time.perf_counter()
    process.send_signal(signal.SIGINT)
    code, out, err = finish(process, 60)
    assert code == 0, err
    return out, time.perf_counter() - since


@pytest.mark.parametrize("threads", [1, 2])
def test_ctrl_c_ends_a_long_run(threads):
    """Of 1000 steps of 10 to 30 ms only those of a slice are walked; the next run is right. (It ended after 0.05 s.)"""
    out, seconds = _interrupted(
        CTRL_C.replace("THREADS", str(threads))
        + """
try:
    exe(x)
except KeyboardInterrupt:
    print("interrupted", bool((short(x) == 4).all()), flush=True)
"""
    )
    assert out == "interrupted True\n" and seconds < 5  # the whole takes 20 s


def test_ctrl_c_while_another_thread_has_the_pool():
    out, seconds = _interrupted(
        CTRL_C.replace("THREADS", "2")
        + """
import threading
threading.Thread(target=exe, args=(x,), daemon=True).start()
time.sleep(0.1)
try:
    while True:
        short(x)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""
    )
    assert out == "interrupted\n" and seconds < 5


def test_ctrl_c_in_a_step_is_seen_at_its_end():
    out, seconds = _interrupted(
        """
import time
exe, x = Executable(burning_program(2, 1_000_000, 1), objects("burn"), 1), np.zeros(1, np.float32)
print("ready", flush=True)
try:
    exe(x)
except KeyboardInterrupt:
    print("interrupted", flush=True)
""",
        0.2,
    )
    assert out == "interrupted\n" and seconds < 5


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
@pytest.mark.parametrize("threads", THREADS)
def test_a_fork_inside_a_handler(threads):
    """The interrupted run goes on in parent and child, each with workers of its own."""
    exe = burning(200, 1000, threads)
    x = np.zeros(3, np.float32)
    children = []

    def handler(*_):
        child = os.fork()
        if child:
            children.append(child)
        else:
            signal.signal(signal.SIGALRM, signal.SIG_IGN)
            children.append(0)

    def run():
        before = signal.signal(signal.SIGALRM, handler)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.06)
            right = bool((exe(x) == 200).all())
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        if children == [0]:
            os._exit(0 if right and bool((exe(x) == 200).all()) else 1)
        return right and len(children) == 1 and os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 0

    assert in_child(run) == 0  # a parent of its own, with a watch over it


def test_a_process_ends_in_the_middle_of_a_long_run():
    code, out, err = finish(
        script(
            CTRL_C.replace("THREADS", "2")
            + "import threading\nthreading.Thread(target=exe, args=(x,), daemon=True).start()\ntime.sleep(0.3)\n"
        ),
        15,
    )
    assert (code, out, err) == (0, "ready\n", "")


def test_frames_are_not_shared_with_a_run_that_failed():
    """A run that raised may have left its words half written."""
    exe = Executable(chain_program(3, N), objects("reverse"), 1)
    x = np.arange(10, dtype=np.float32)
    exe(x)
    (frame,) = exe._frames
    with pytest.raises(Exception, match="shape"):
        exe(np.zeros((2, 2), np.float32))
    assert frame not in exe._frames and np.array_equal(exe(x), x[::-1])
