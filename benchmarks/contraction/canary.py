"""A loop that is slow where something else takes a core's front end: what a kernel would have reached without it.

On a core whose other hardware thread belongs to somebody else, the peak loop (multiply-adds on registers) runs at its
pace, or nearly, while a kernel, which loads and counts as well, is slowed to 55 to 100 % of its own, for milliseconds
at a time. So samples count as quiet only where this loop ran at its best just before and just after them: 12
multiply-adds with 8 broadcasts and 8 additions of addresses, some 30 instructions in 6 cycles.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable

import llvmlite.binding as llvm
import numpy as np

from mapsto.devices.cpu import target
from mapsto.devices.cpu.isa import Isa
from mapsto.devices.cpu.loader import load_objects

ROUNDS = 20_000  # some 40 us
QUIET = 0.88  # of the peak loop's pace; on a quiet Zen 3 it is 0.92 to 0.95
_MULTIPLY_ADDS, _BROADCASTS, _ADDRESSES = 12, 8, 8


def multiplications_per_round(isa: Isa) -> int:
    return _MULTIPLY_ADDS * isa.core.vector_bits // 32


@functools.cache
def canary(isa: Isa) -> Callable[[], None]:
    """One call of `ROUNDS` rounds. Exits where the processor has no multiply-adds."""
    if not isa.has("fma"):
        raise SystemExit(f"{isa.name} has no multiply-adds of vectors: no loop tells whether a core is quiet")
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    llvm.initialize_native_asmparser()
    (address,) = load_objects([target.compile_object(_text(isa), target.machine(isa.cpu, isa.feature_text))]).values()
    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)(address)
    numbers = np.ones(64, np.float32)

    def call() -> None:
        function(numbers.ctypes.data, ROUNDS)

    return call


def _text(isa: Isa) -> str:
    register = "zmm" if isa.core.vector_bits == 512 else "ymm"
    lines = []
    for i in range(_MULTIPLY_ADDS):
        if i < _BROADCASTS:
            lines.append(f"vbroadcastss {4 * i}($1), %{register}{12 + i % 2}")
        lines.append(f"vfmadd231ps %{register}14, %{register}15, %{register}{i}")
        if i < _ADDRESSES:
            lines.append(f"leaq {i}($1,$0,4), %rax")
    body = "\\0A\\09".join(lines)
    changed = ",".join(["~{rax}", *(f"~{{xmm{i}}}" for i in range(16))])
    return f"""
define void @mapsto_canary(ptr %numbers, i64 %rounds) {{
entry:
  br label %round
round:
  %i = phi i64 [ 0, %entry ], [ %next, %round ]
  call void asm sideeffect "{body}", "r,r,{changed}"(i64 %i, ptr %numbers)
  %next = add i64 %i, 1
  %more = icmp slt i64 %next, %rounds
  br i1 %more, label %round, label %done
done:
  ret void
}}
"""
