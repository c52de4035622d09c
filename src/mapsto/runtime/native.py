"""The one door to LLVM at run time: object code into this process, and what this machine can do.

Loading needs LLVM's linker only; a saved artifact is never compiled again. Code stays mapped as long as its `Library`
lives.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import platform
import weakref
from collections.abc import Callable, Iterable, Sequence

import llvmlite.binding as llvm

from mapsto.errors import CompileError
from mapsto.runtime.runner_ir import runner_ir

RUN, STOP = "mapsto_run", "mapsto_stop"


_LIBRARIES_A_JIT = 32


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
        builder = llvm.JITLibraryBuilder()
        count = 0
        for code in objects:
            builder.add_object_img(code)
            count += 1
        self.addresses: dict[str, int] = {}
        self._held: object = None
        if not functions:
            return
        builder.add_current_process()  # libc, libm
        for name in functions:
            builder.export_symbol(name)
        try:
            tracker, jit = _linker.link(builder)
        except RuntimeError as error:
            raise CompileError(f"{count} objects of compiled code cannot be linked: {error}") from None
        self.addresses = {name: tracker[name] for name in functions}
        self._held = tracker, jit
        # not at exit: threads may run the code to the very end
        weakref.finalize(self, _unload, tracker, jit).atexit = False

    def keep_for_ever(self) -> None:
        """For code that threads run until the process ends."""
        _immortal(self)
        _immortal(self._held)


@functools.cache
def compile_runner() -> bytes:
    """The runner as object code for this machine (baseline instructions: any machine of the architecture runs it)."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return _compile(runner_ir(architecture()), llvm.get_default_triple(), cpu="")


def _compile(text: str, triple: str, cpu: str) -> bytes:
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


@functools.cache
def host_features() -> frozenset[str]:
    """Instruction set extensions of this processor, by LLVM's names (avx512f, avx512vnni, ...)."""
    return frozenset(name for name, present in llvm.get_host_cpu_features().items() if present)


def call_word(address: int) -> Callable[[ctypes.c_int64], int]:
    """The function at `address` as `int64_t f(int64_t)`, called without the interpreter lock."""
    prototype = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_int64)
    return prototype(address)
