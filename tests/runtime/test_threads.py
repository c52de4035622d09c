"""Threads together: same bits at any count, many callers at once, forks, signals, and a clean end."""

import os
import signal
import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.runtime.helpers import N, chain_program, f32, finish, in_child, objects, script

from mapsto.ir.dtypes import DType
from mapsto.runtime import arena_layout, polls, runner_ir
from mapsto.runtime.executable import Executable
from mapsto.runtime.program import Buffer, Port, Program, Run


@pytest.mark.parametrize("threads", [2, 3, 4])
def test_thousands_of_runs(threads):
    exe = Executable(chain_program(9, N), objects("reverse"), threads)
    x = np.arange(257, dtype=np.float32)
    for _ in range(2000):
        assert np.array_equal(exe(x), x[::-1])


def test_runs_after_pauses_in_which_workers_fall_asleep():
    exe = Executable(chain_program(5, N), objects("reverse"), 4)
    x = np.arange(100, dtype=np.float32)
    for pause in (0.0, 0.0001, 0.001, 0.02) * 25:
        time.sleep(pause)
        assert np.array_equal(exe(x), x[::-1])


def _alternating(length):
    """Steps of wide and narrow extents in turn: those of one thread alone need fewer barriers."""
    buffers = [Buffer("x", "input", f32(N))]
    steps = []
    for i in range(length):
        last = i == length - 1
        buffers.append(Buffer(f"t{i}", "output" if last else "arena", f32(N)))
        grain = (1, 1 << 30, 1 << 30, 40)[i % 4]
        steps.append(Run("reverse", ((i, 0), (i + 1, 0)), (N,), N, (1,), grain))
    ports = (Port("x", DType.F32, (N,), 0),), (Port("y", DType.F32, (N,), length),)
    return Program("alternating", *ports, tuple(buffers), tuple(steps))


@pytest.mark.parametrize("pauses", [False, True])
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_steps_of_one_thread_between_steps_of_all(threads, pauses, monkeypatch):
    if pauses:
        monkeypatch.setattr(runner_ir, "SLICE_NS", 0)
        monkeypatch.setattr(polls, "_WORK", 40.0)
    exe = Executable(_alternating(41), objects("reverse"), threads)
    for n in (1, 39, 40, 1000):
        x = np.arange(n, dtype=np.float32)
        for _ in range(200):
            assert np.array_equal(exe(x), x[::-1])


@pytest.mark.parametrize("threads", [1, 2])
def test_one_executable_called_from_several_threads(threads):
    exe = Executable(chain_program(11, N), objects("reverse"), threads)
    failures = []

    def work(seed):
        rng = np.random.default_rng(seed)
        for _ in range(300):
            x = rng.standard_normal(rng.integers(1, 500)).astype(np.float32)
            if not np.array_equal(exe(x), x[::-1]):
                failures.append(seed)

    callers = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not failures


def test_runs_of_one_thread_overlap():
    """The interpreter lock is released, and each run has a frame of its own: four runs wait for one another."""
    met = Run("meeting", ((0, 0),), (), 1, (0,))
    program = Program("meeting", (), (Port("y", DType.I64, (1,), 0),), (Buffer("y", "output", 8),), (met,))
    exe = Executable(program, objects("meeting"), 1)
    found = []
    callers = [threading.Thread(target=lambda: found.append(int(exe()[0]))) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert found == [4] * 4


def test_executables_come_and_go():
    x = np.arange(50, dtype=np.float32)
    for i in range(60):
        exe = Executable(chain_program(3, N), objects("reverse"), 1 + i % 3)
        assert np.array_equal(exe(x), x[::-1])
        del exe


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_has_workers_of_its_own():
    exe = Executable(chain_program(5, N), objects("reverse"), 2)
    x = np.arange(1000, dtype=np.float32)
    exe(x)

    def check():
        again = Executable(chain_program(3, N), objects("reverse"), 3)
        return all(np.array_equal(e(x), x[::-1]) for e in (exe, again) for _ in range(50))

    for _ in range(5):
        assert in_child(check) == 0
        assert np.array_equal(exe(x), x[::-1])


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_fork_while_another_thread_runs():
    exe = Executable(chain_program(51, N), objects("reverse"), 2)
    x = np.arange(5000, dtype=np.float32)
    stop = threading.Event()

    def work():
        while not stop.is_set():
            exe(x)

    caller = threading.Thread(target=work)
    caller.start()
    try:
        for _ in range(10):
            assert in_child(lambda: np.array_equal(exe(x), x[::-1])) == 0
    finally:
        stop.set()
        caller.join()


@pytest.mark.parametrize(
    "ending",
    [
        "",
        "del exe",
        "import sys; sys.exit(0)",
        "import os; os._exit(0)",
        "import threading; threading.Thread(target=lambda: [exe(x) for _ in range(2000)]).start()",
        "import threading; threading.Thread(target=lambda: [exe(x) for _ in range(10**9)], daemon=True).start()",
        "import atexit; atexit.register(lambda: exe(x))",
        "import gc; gc.disable(); exe.itself = exe",
    ],
)
def test_the_interpreter_ends_cleanly(ending):
    code, out, err = finish(
        script(
            """
            exe = Executable(chain_program(9, N), objects("reverse"), 4)
            x = np.arange(1000, dtype=np.float32)
            assert (exe(x) == x[::-1]).all()
            print("ran", flush=True)
            """
            + "\n"
            + " " * 12
            + ending
        )
    )
    assert (code, out, err) == (0, "ran\n", "")


def test_ctrl_c_is_not_lost():
    process = script(
        """
        exe = Executable(Program("slow", (), (), (), (Run("slow", (), extent=4),)), objects("slow"), 2)
        print("ready", flush=True)
        try:
            while True:
                exe()
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        """
    )
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    code, out, err = finish(process, 20)
    assert (code, out) == (0, "interrupted\n"), err


def test_the_callers_floating_point_mode_changes_nothing():
    """Another library may have set flush-to-zero in the calling thread: denormals are computed with all the same."""
    code, out, err = finish(
        script(
            """
            import ctypes
            set_mode = object_code('''
            define void @set_mode(ptr %b, ptr %d, i64 %s, i64 %e) {
              %m = alloca i32
              store i32 40896, ptr %m ; 0x9fc0: flush to zero, denormals are zero
              call void @llvm.x86.sse.ldmxcsr(ptr %m)
              ret void
            }
            declare void @llvm.x86.sse.ldmxcsr(ptr)
            ''')
            from mapsto.runtime.native import Library
            library = Library([set_mode], ["set_mode"])
            F = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
            x = np.full(1000, 1e-40, np.float32)
            for threads in (1, 2):
                exe = Executable(chain_program(2, N, "double"), [object_code(FUNCTIONS["increment"].replace(
                    "@increment", "@double").replace("fadd float %x, 1.0", "fadd float %x, %x"))], threads)
                F(library.addresses["set_mode"])(None, None, 0, 0)
                y = exe(x)
                print(int((y.view(np.uint32) == 4 * x.view(np.uint32)[0]).sum()), flush=True)
            """
        )
    )
    assert code == 0, err
    if os.uname().machine == "x86_64":
        assert out == "1000\n1000\n"


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the mode is another register elsewhere")
def test_a_run_rounds_to_nearest_and_leaves_the_callers_mode():
    """Whatever the caller rounds like."""
    code, out, err = finish(
        script(
            """
            import ctypes
            mode = object_code('''
            define void @set_mode(ptr %b, ptr %d, i64 %m, i64 %e) {
              %p = alloca i32
              %n = trunc i64 %m to i32
              store i32 %n, ptr %p
              call void @llvm.x86.sse.ldmxcsr(ptr %p)
              ret void
            }
            define void @read_mode(ptr %b, ptr %d, i64 %s, i64 %e) {
              call void @llvm.x86.sse.stmxcsr(ptr %b)
              ret void
            }
            declare void @llvm.x86.sse.ldmxcsr(ptr)
            declare void @llvm.x86.sse.stmxcsr(ptr)
            ''')
            from mapsto.runtime.native import Library
            library = Library([mode], ["set_mode", "read_mode"])
            F = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)
            set_mode, read_mode = (F(library.addresses[name]) for name in ("set_mode", "read_mode"))
            thirds = FUNCTIONS["increment"].replace("@increment", "@thirds")
            thirds = thirds.replace("fadd float %x, 1.0", "fdiv float %x, 3.0")
            x = np.arange(1000, dtype=np.float32)
            wanted = x / np.float32(3) / np.float32(3)
            for threads, rounding in ((1, 0x5f80), (2, 0x3f80), (1, 0x7f80), (2, 0x1f80)):
                exe = Executable(chain_program(2, N, "thirds"), [object_code(thirds)], threads)
                set_mode(None, None, rounding, 0)
                y = exe(x)
                after = np.zeros(1, np.uint32)
                read_mode(after.ctypes.data, None, 0, 0)
                set_mode(None, None, 0x1f80, 0)
                print((y == wanted).all(), int(after[0]) & ~0x3f == rounding, flush=True)
            """
        )
    )
    assert (code, out) == (0, "True True\n" * 4), err


@pytest.mark.parametrize("slice_ns", [runner_ir.SLICE_NS, 0])
def test_a_profile_names_each_step(slice_ns, monkeypatch):
    monkeypatch.setattr(runner_ir, "SLICE_NS", slice_ns)
    exe = Executable(chain_program(5, N), objects("reverse"), 2)
    times = exe.profile(np.arange(200_000, dtype=np.float32), runs=4)
    assert [t.label for t in times] == [f"reverse{i}" for i in range(5)]
    assert all(t.calls == 4 and 1_000 < t.nanoseconds < 1e9 for t in times)


def test_a_profile_of_steps_that_were_not_reached():
    program = Program("none", (), (), (), ())
    assert Executable(program, [], 1).profile() == []


def test_a_system_that_grants_too_few_threads():
    """Those that were started end again, and a later try works. (Address space is what is short: 8 MiB a stack.)"""
    code, out, err = finish(
        script(
            """
            import os, resource
            from mapsto.errors import ExecutionError
            exe = Executable(chain_program(5, N), objects("reverse"), 200)
            x = np.arange(1000, dtype=np.float32)
            Executable(chain_program(5, N), objects("reverse"), 1)(x)
            tasks = len(os.listdir("/proc/self/task"))
            now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
            limits = resource.getrlimit(resource.RLIMIT_AS)
            resource.setrlimit(resource.RLIMIT_AS, (now + (300 << 20), limits[1]))
            for _ in range(3):
                try:
                    exe(x)
                except ExecutionError as error:
                    print(str(error).replace("grants", "|").replace("of 200", "|").split("|")[::2])
                assert len(os.listdir("/proc/self/task")) == tasks
            resource.setrlimit(resource.RLIMIT_AS, limits)
            print((exe(x) == x[::-1]).all(), len(os.listdir("/proc/self/task")) - tasks)
            """
        )
    )
    message = "['the system ', ' threads (Resource temporarily unavailable); ask for fewer threads']\n"
    assert (code, out) == (0, message * 3 + "True 199\n"), err


def _counting(grain):
    """Each run adds 1 to each element in place, in two steps: an element that is done twice, or not at all, shows."""
    ports = (Port("x", DType.F32, (N,), 0), Port("one", DType.F32, (N,), 1)), (Port("y", DType.F32, (N,), 0),)
    buffers = (Buffer("x", "input", f32(N)), Buffer("one", "input", f32(N)))
    steps = (Run("accumulate", ((0, 0), (1, 0)), (N,), N, (0,), grain),) * 2
    return Program("counting", *ports, buffers, steps, updates=(("x", "y"),))


@pytest.mark.parametrize("grain", [1, 3, 50])
@pytest.mark.parametrize("threads", [1, 2, 3, 5])
def test_each_item_is_done_once(threads, grain):
    exe = Executable(_counting(grain), objects("accumulate"), threads)
    for n in (0, 1, 2, 7, 63, 64, 65, 1000, 4099):
        x, ones = np.zeros(n, np.float32), np.ones(n, np.float32)
        for round_ in range(30):
            exe(x, ones)
            assert np.array_equal(x, np.full(n, 2 * round_ + 2, np.float32)), (n, round_)


@given(st.integers(0, 10**12), st.integers(0, 64), st.integers(1, 10**9))
def test_what_is_divided_beforehand_and_what_is_taken_later_are_the_whole(extent, shares, grain):
    sizes = [np.array([number], np.int64) for number in (extent, shares, grain)]
    fixed, piece = (int(found[0]) for found in arena_layout.divided(*sizes, np.array([True])))
    if piece == 0:
        assert fixed == extent
    else:
        assert shares > 1 and fixed % shares == 0 and fixed + 2 * piece <= extent
        assert (extent - fixed) // piece <= 8 * shares  # asking for a piece costs as much as some work

