"""Object code into this process, and what this machine can do: the one door to LLVM at run time.

LLVM is imported only where it is needed: for objects that `runtime.linker` cannot link, and for the runner of an
executable that was not saved. Code stays mapped as long as its `Library` lives.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import platform
import weakref
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mapsto.errors import CompileError
from mapsto.runtime import linker
from mapsto.runtime.runner_ir import runner_ir
from mapsto.runtime.same_ir import same_ir

if TYPE_CHECKING:
    import llvmlite.binding as llvm

RUN, STOP, SAME = "mapsto_run", "mapsto_stop", "mapsto_same"


_LIBRARIES_A_JIT = 32
# Linux's names of extensions, where LLVM has others.
_OTHER_NAMES = {"bmi": "bmi1", "lzcnt": "abm", "avx512vnni": "avx512_vnni", "avx512bf16": "avx512_bf16"}


class _Linker:
    """LLVM's in-process linker. llvmlite lets one thread at a time into LLVM; there is no lock here that a signal
    handler could find taken.

    A linker keeps some 9 kB of each library, also after its code is gone, and to make one takes 1 ms. So each serves
    some libraries and makes way for a new one; it is closed when the last library that it linked is gone.
    """

    def __init__(self) -> None:
        self._jit: llvm.orcjit.LLJIT | None = None
        self._names = itertools.count()
        self._left = 0

    def link(self, builder: llvm.JITLibraryBuilder) -> tuple[llvm.orcjit.ResourceTracker, llvm.orcjit.LLJIT]:
        """(what holds the code, the linker that must outlive it)"""
        import llvmlite.binding as llvm

        jit = self._jit
        if jit is None or self._left <= 0:  # two callers at once make two: each serves what is linked with it
            llvm.initialize_native_target()
            llvm.initialize_native_asmprinter()
            # JITLink packs many small objects closely; the older linker gives each its own pages
            jit = llvm.create_lljit_compiler(use_jit_link=True)
            self._jit, self._left = jit, _LIBRARIES_A_JIT
        self._left -= 1
        return builder.link(jit, f"mapsto.{next(self._names)}"), jit


def _unload(tracker: llvm.orcjit.ResourceTracker, jit: llvm.orcjit.LLJIT) -> None:
    """Ends a library's code; and, in that order, the linker where it was the last that the linker was kept for."""
    tracker.close()


def _immortal(thing: object) -> None:
    """Keeps an object, and the code it owns, to the very end of the process: interpreter shutdown must not unmap what
    threads run.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


_linker = _Linker()


class Library:
    """Object code loaded into this process. `addresses` are those of the functions asked for."""

    def __init__(self, objects: Iterable[bytes], functions: Sequence[str]) -> None:
        """Raises CompileError where the objects cannot be linked, or do not define a function."""
        codes = list(objects)
        self.addresses: dict[str, int] = {}
        self._held: object = None
        if not functions:
            return
        try:
            self._take(linker.link(codes, functions))
        except linker.Unlinkable:
            self._take_by_llvm(codes, functions)

    def _take(self, linked: linker.LoadedCode) -> None:
        self.addresses = dict(linked.addresses)
        self._held = linked
        # not at exit: threads may run the code to the very end
        weakref.finalize(self, linked.close).atexit = False

    def _take_by_llvm(self, codes: Sequence[bytes], functions: Sequence[str]) -> None:
        import llvmlite.binding as llvm

        builder = llvm.JITLibraryBuilder()
        for code in codes:
            builder.add_object_img(code)
        builder.add_current_process()  # libc, libm
        for name in functions:
            builder.export_symbol(name)
        try:
            tracker, jit = _linker.link(builder)
        except RuntimeError as error:
            raise CompileError(f"{len(codes)} objects of compiled code cannot be linked: {error}") from None
        self.addresses = {name: tracker[name] for name in functions}
        self._held = tracker, jit
        weakref.finalize(self, _unload, tracker, jit).atexit = False

    def keep_for_ever(self) -> None:
        """For code that threads run until the process ends."""
        _immortal(self)
        _immortal(self._held)


@functools.cache
def compile_runner() -> bytes:
    """The runner as object code for this machine (baseline instructions: any machine of the architecture runs it)."""
    return _compiled_here(runner_ir(architecture()))


def compile_same() -> bytes:
    """What sees whether memory holds what it held, as object code of the same kind."""
    return _compiled_here(same_ir())


def _compiled_here(text: str) -> bytes:
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return _compile(text, llvm.get_default_triple(), cpu="")


def _compile(text: str, triple: str, cpu: str) -> bytes:
    import llvmlite.binding as llvm

    module = llvm.parse_assembly(text)
    module.triple = triple
    module.verify()
    target = llvm.Target.from_triple(triple)
    machine = target.create_target_machine(cpu=cpu, opt=2, reloc="pic", codemodel="small")
    code: bytes = machine.emit_object(module)
    return code


def architecture() -> str:
    """The processor's architecture in LLVM's words: x86_64, aarch64, ..."""
    machine = platform.machine().lower()
    return {"amd64": "x86_64", "arm64": "aarch64"}.get(machine, machine)


def lacking(features: Iterable[str]) -> list[str]:
    """Those of LLVM's names of instruction set extensions (avx512f, avx512vnni, ...) that this processor has not."""
    missing = set(features) - _flags()
    return sorted(missing - host_features()) if missing else []


@functools.cache
def _flags() -> frozenset[str]:
    """Extensions that the system says this processor has, by LLVM's names: some of all, as its names differ."""
    try:
        with Path("/proc/cpuinfo").open(encoding="ascii", errors="replace") as lines:
            told = next((line for line in lines if line.startswith("flags")), "")
    except OSError:
        return frozenset()
    flags = set(told.partition(":")[2].split())
    return frozenset(flags | {ours for ours, theirs in _OTHER_NAMES.items() if theirs in flags})


@functools.cache
def host_features() -> frozenset[str]:
    """Instruction set extensions of this processor, by LLVM's names."""
    import llvmlite.binding as llvm

    return frozenset(name for name, present in llvm.get_host_cpu_features().items() if present)


def call_word(address: int) -> Callable[[ctypes.c_int64], int]:
    """The function at `address` as `int64_t f(int64_t)`, called without the interpreter lock."""
    prototype = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)
    return prototype(address)
