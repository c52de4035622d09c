"""Object files into this process: linked, and the addresses of their functions.

Needs no LLVM text and starts no worker.
"""

from __future__ import annotations

import functools
import itertools
import struct
from collections.abc import Sequence

import llvmlite.binding as llvm

from mapsto.errors import CompileError

_libraries = itertools.count()
_kept: list[llvm.ResourceTracker] = []  # code is never unloaded: a thread may still be inside it


@functools.cache
def _jit() -> llvm.LLJIT:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    machine = llvm.Target.from_default_triple().create_target_machine(reloc="pic", codemodel="default", jit=True)
    return llvm.create_lljit_compiler(machine)


def load_objects(objects: Sequence[bytes]) -> dict[str, int]:
    """Link object files into this process; the address of every function by name.

    Calls to libc and libm are resolved.
    """
    if not objects:
        return {}
    builder = llvm.JITLibraryBuilder().add_current_process()
    names = []
    for data in objects:
        builder.add_object_img(data)
        names += defined_functions(data)
    for name in names:
        builder.export_symbol(name)
    try:
        tracker = builder.link(_jit(), f"mapsto{next(_libraries)}")
    except RuntimeError as error:
        raise CompileError(f"object code cannot be linked: {error}") from error
    _kept.append(tracker)
    return {name: tracker[name] for name in names}


def defined_functions(data: bytes) -> list[str]:
    """Names of the global functions that an ELF64 object defines (System V ABI, chapter 4: section headers and symbol
    table)."""
    if len(data) < 64 or data[:5] != b"\x7fELF\x02":
        raise CompileError("not an ELF object file of 64 bits")
    (sections_at,), (count,) = struct.unpack_from("<Q", data, 40), struct.unpack_from("<H", data, 60)
    sections = [struct.unpack_from("<IIQQQQIIQQ", data, sections_at + 64 * i) for i in range(count)]
    names = []
    for _, kind, _, _, offset, size, link, *_ in sections:
        if kind != 2:  # SHT_SYMTAB
            continue
        strings = sections[link][4]
        for at in range(offset, offset + size, 24):
            name_at, info, _, section = struct.unpack_from("<IBBH", data, at)
            if info == 0x12 and section != 0:  # STB_GLOBAL, STT_FUNC, defined
                end = data.index(b"\0", strings + name_at)
                names.append(data[strings + name_at : end].decode())
    return names
