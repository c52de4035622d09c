"""The one door to LLVM at run time: object code into this process, and what this machine can do.

Loading needs LLVM's linker only; a saved artifact is never compiled again. Code stays mapped as long as its `Library`
lives.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import platform
from collections.abc import Callable, Iterable, Sequence

import llvmlite.binding as llvm

from mapsto.errors import CompileError
from mapsto.runtime.runner_ir import runner_ir

RUN, STOP = "mapsto_run", "mapsto_stop"


class _Linker:
    """LLVM's in-process linker: one a process, never closed (worker threads live in its memory). llvmlite lets one
    thread at a time into LLVM; there is no lock here that a signal handler could find taken.
    """

    def __init__(self) -> None:
        self._jit: llvm.orcjit.LLJIT | None = None
        self._names = itertools.count()

    def link(self, builder: llvm.JITLibraryBuilder) -> llvm.orcjit.ResourceTracker:
        if self._jit is None:  # two callers at once make two: each serves what is linked with it
            llvm.initialize_native_target()
            llvm.initialize_native_asmprinter()
            # JITLink packs many small objects closely; the older linker gives each its own pages
            jit = llvm.create_lljit_compiler(use_jit_link=True)
            _immortal(jit)
            self._jit = jit
        return builder.link(self._jit, f"mapsto.{next(self._names)}")


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
        self._tracker: llvm.orcjit.ResourceTracker | None = None
        if not functions:
            return
        builder.add_current_process()  # libc, libm
        for name in functions:
            builder.export_symbol(name)
        try:
            self._tracker = _linker.link(builder)
        except RuntimeError as error:
            raise CompileError(f"{count} objects of compiled code cannot be linked: {error}") from None
        self.addresses = {name: self._tracker[name] for name in functions}

    def keep_for_ever(self) -> None:
        _immortal(self)
        _immortal(self._tracker)


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
