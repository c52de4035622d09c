"""Small compiled functions, written as LLVM IR, and programs that call them; processes that run them."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import pytest

from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, product, sym
from mapsto.runtime.program import Buffer, Port, Program, Run

REPOSITORY = Path(__file__).parents[2]
N = sym("n")

_HEAD = """
define void @NAME(ptr %buffers, ptr %dims, i64 %begin, i64 %end) {
  %a = load ptr, ptr %buffers
  %b.at = getelementptr ptr, ptr %buffers, i64 1
  %b = load ptr, ptr %b.at
  %c.at = getelementptr ptr, ptr %buffers, i64 2
"""

_LOOP = """
  br label %head
head:
  %i = phi i64 [ %begin, %0 ], [ %next, %body ]
  %more = icmp slt i64 %i, %end
  br i1 %more, label %body, label %out
body:
  %a.i = getelementptr float, ptr %a, i64 %i
  %b.i = getelementptr float, ptr %b, i64 %i
  %x = load float, ptr %a.i
BODY
  %next = add i64 %i, 1
  br label %head
out:
  ret void
}
"""


def _elementwise(name: str, body: str, extra: str = "") -> str:
    return _HEAD.replace("NAME", name) + extra + _LOOP.replace("BODY", body)


FUNCTIONS = {
    # b[i] = max(a[i], 0), keeping NaN
    "relu": _elementwise(
        "relu",
        """
  %neg = fcmp olt float %x, 0.0
  %y = select i1 %neg, float 0.0, float %x
  store float %y, ptr %b.i""",
    ),
    # b[i] = a[i] + 1
    "increment": _elementwise("increment", "  %y = fadd float %x, 1.0\n  store float %y, ptr %b.i"),
    # a[i] += b[i]
    "accumulate": _elementwise(
        "accumulate", "  %w = load float, ptr %b.i\n  %y = fadd float %x, %w\n  store float %y, ptr %a.i"
    ),
    # c[i] = a[i] + b[i]
    "add": _elementwise(
        "add",
        """
  %w = load float, ptr %b.i
  %y = fadd float %x, %w
  %c.i = getelementptr float, ptr %c, i64 %i
  store float %y, ptr %c.i""",
        "  %c = load ptr, ptr %c.at\n",
    ),
    # b[i] = a[i] + 1, about dims[0] microseconds each
    "burn": _elementwise(
        "burn",
        "  call void @spend(i64 %micros)\n  %y = fadd float %x, 1.0\n  store float %y, ptr %b.i",
        "  %micros = load i64, ptr %dims\n",
    )
    + """
define internal void @spend(i64 %micros) {
  %clock = alloca [2 x i64]
  %since = call i64 @micros_now(ptr %clock)
  br label %wait
wait:
  %now = call i64 @micros_now(ptr %clock)
  %spent = sub i64 %now, %since
  %waits = icmp slt i64 %spent, %micros
  br i1 %waits, label %wait, label %done
done:
  ret void
}
define internal i64 @micros_now(ptr %clock) {
  %ignored = call i32 @clock_gettime(i32 1, ptr %clock)
  %seconds = load i64, ptr %clock
  %nanos.at = getelementptr i64, ptr %clock, i64 1
  %nanos = load i64, ptr %nanos.at
  %scaled = mul i64 %seconds, 1000000
  %micros = udiv i64 %nanos, 1000
  %time = add i64 %scaled, %micros
  ret i64 %time
}
declare i32 @clock_gettime(i32, ptr)
""",
    # b[i] = a[dims[0] - 1 - i]: what another thread wrote
    "reverse": _elementwise(
        "reverse",
        """
  %last = sub i64 %n, 1
  %j = sub i64 %last, %i
  %a.j = getelementptr float, ptr %a, i64 %j
  %y = load float, ptr %a.j
  store float %y, ptr %b.i""",
        "  %n = load i64, ptr %dims\n",
    ),
    # b[i] = dims[0] + dims[1] as float
    "sizes": _elementwise(
        "sizes",
        """
  %s.at = getelementptr i64, ptr %dims, i64 1
  %s = load i64, ptr %s.at
  %sum = add i64 %n, %s
  %y = sitofp i64 %sum to float
  store float %y, ptr %b.i""",
        "  %n = load i64, ptr %dims\n",
    ),
    # b[0] = how many of a[0 .. dims[0]) are positive, as i64
    "count": """
define void @count(ptr %buffers, ptr %dims, i64 %begin, i64 %end) {
  %a = load ptr, ptr %buffers
  %b.at = getelementptr ptr, ptr %buffers, i64 1
  %b = load ptr, ptr %b.at
  %n = load i64, ptr %dims
  br label %head
head:
  %i = phi i64 [ 0, %0 ], [ %next, %body ]
  %sum = phi i64 [ 0, %0 ], [ %sum.next, %body ]
  %more = icmp slt i64 %i, %n
  br i1 %more, label %body, label %out
body:
  %a.i = getelementptr float, ptr %a, i64 %i
  %x = load float, ptr %a.i
  %positive = fcmp ogt float %x, 0.0
  %one = zext i1 %positive to i64
  %sum.next = add i64 %sum, %one
  %next = add i64 %i, 1
  br label %head
out:
  store i64 %sum, ptr %b
  ret void
}
""",
    # b[0] (a bool) = a[0] > 0
    "is_positive": """
define void @is_positive(ptr %buffers, ptr %dims, i64 %begin, i64 %end) {
  %a = load ptr, ptr %buffers
  %b.at = getelementptr ptr, ptr %buffers, i64 1
  %b = load ptr, ptr %b.at
  %x = load float, ptr %a
  %positive = fcmp ogt float %x, 0.0
  %byte = zext i1 %positive to i8
  store i8 %byte, ptr %b
  ret void
}
""",
    # how many calls have come when four have, or after 20 s without a fourth
    "meeting": """
@arrived = internal global i64 0
define void @meeting(ptr %buffers, ptr %dims, i64 %begin, i64 %end) {
  %y = load ptr, ptr %buffers
  %before = atomicrmw add ptr @arrived, i64 1 seq_cst
  br label %wait
wait:
  %rounds = phi i64 [ 2000, %0 ], [ %left, %again ]
  %now = load atomic i64, ptr @arrived seq_cst, align 8
  %all = icmp sge i64 %now, 4
  %late = icmp eq i64 %rounds, 0
  %done = or i1 %all, %late
  br i1 %done, label %tell, label %again
again:
  %ignored = call i32 @usleep(i32 10000)
  %left = sub i64 %rounds, 1
  br label %wait
tell:
  store i64 %now, ptr %y
  ret void
}
declare i32 @usleep(i32)
""",
    # the extent as the processor sees it: b[0] = end, and begin must be 0
    "slow": """
define void @slow(ptr %buffers, ptr %dims, i64 %begin, i64 %end) {
  %ignored = call i32 @usleep(i32 200000)
  ret void
}
declare i32 @usleep(i32)
""",
}


@functools.cache
def object_code(text: str) -> bytes:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    target = llvm.Target.from_default_triple()
    machine = target.create_target_machine(opt=1, reloc="pic", codemodel="small")
    code: bytes = machine.emit_object(llvm.parse_assembly(text))
    return code


def objects(*names: str) -> list[bytes]:
    """Object code of the named functions (all of them where none is named)."""
    return [object_code(FUNCTIONS[name]) for name in names or FUNCTIONS]


def f32(*shape: Dim) -> Dim:
    """Bytes of an f32 tensor."""
    return product(shape) * 4


def relu_program(*shape: Dim) -> Program:
    """y = relu(x)."""
    size = f32(*shape)
    return Program(
        "relu",
        (Port("x", DType.F32, shape, 0),),
        (Port("y", DType.F32, shape, 1),),
        (Buffer("x", "input", size), Buffer("y", "output", size)),
        (Run("relu", ((0, 0), (1, 0)), extent=product(shape), writes=(1,), label="relu", provenance=("r",)),),
    )


def chain_program(length: int, size: Dim, function: str = "reverse") -> Program:
    """y = f(f(...f(x))): each step reads what every thread wrote in the one before."""
    buffers = [Buffer("x", "input", f32(size))]
    steps = []
    for i in range(length):
        last = i == length - 1
        buffers.append(Buffer("y" if last else f"t{i}", "output" if last else "arena", f32(size)))
        steps.append(Run(function, ((i, 0), (i + 1, 0)), (size,), size, (1,), label=f"{function}{i}"))
    return Program(
        "chain",
        (Port("x", DType.F32, (size,), 0),),
        (Port("y", DType.F32, (size,), length),),
        tuple(buffers),
        tuple(steps),
    )


def burning_program(steps: int, micros: int, items: int = 3) -> Program:
    """y = x + steps, in that many steps of `micros` microseconds an item."""
    kinds = ["input", *["arena"] * (steps - 1), "output"]
    return Program(
        "burning",
        (Port("x", DType.F32, (items,), 0),),
        (Port("y", DType.F32, (items,), steps),),
        tuple(Buffer(f"b{i}", kind, f32(items)) for i, kind in enumerate(kinds)),
        tuple(Run("burn", ((i, 0), (i + 1, 0)), (micros,), items, (1,)) for i in range(steps)),
    )


def script(body: str, **options: Any) -> subprocess.Popen[str]:
    """A Python process that runs `body`; it must end by itself. Ctrl-C reaches it wherever the tests were started: what
    a shell starts in the background ignores it, and so would its children.
    """
    text = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\nimport numpy as np\n"
    text += "from mapsto.runtime.executable import Executable\nfrom tests.runtime.helpers import *\n"
    environment = {**os.environ, "PYTHONPATH": f"{REPOSITORY / 'src'}:{REPOSITORY}"}
    command = [sys.executable, "-c", text + textwrap.dedent(body)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True, **options
    )


def finish(process: subprocess.Popen[str], timeout: float = 60) -> tuple[int, str, str]:
    """(exit code, output, errors) of a process that ends in time."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return process.returncode, out, err


def in_child(check: Callable[[], Any]) -> int:
    """Runs `check` in a forked child; gives its exit status, or fails where it hangs."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if check() else 1)
        except BaseException:
            os._exit(2)
    for _ in range(1000):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    pytest.fail("the forked child hangs")
