"""Object code into this process, as far as compile workers make it: code and read-only data, calls among them and into
the C library.

LLVM's own linker can do all that objects may ask for, but to import it takes longer than all else that a start of a
saved executable does. This one knows the few relocations that our code has (System V ABI for AMD64, 4.4), and says so
where there is something else.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mapsto.errors import ResourceError

_SECTION = "<IIQQQQIIQQ"  # name, type, flags, address, offset, size, link, info, align, entry size
_SYMBOLS = np.dtype(
    [("name", "<u4"), ("info", "u1"), ("other", "u1"), ("section", "<u2"), ("value", "<u8"), ("size", "<u8")]
)
_RELOCATIONS = np.dtype([("offset", "<u8"), ("kind", "<u4"), ("symbol", "<u4"), ("addend", "<i8")])
_REL, _X86_64 = 1, 62
_PROGBITS, _SYMTAB, _RELA, _UNWIND = 1, 2, 4, 0x70000001
_WRITE, _ALLOC, _EXEC, _TLS = 1, 2, 4, 0x400
_UNDEFINED, _FIRST_RESERVED = 0, 0xFF00
_GLOBAL, _ODD_TYPES = 1, (6, 10)  # STT_TLS, STT_GNU_IFUNC
_KINDS = {2: "PC32", 4: "PLT32", 9: "GOTPCREL", 41: "GOTPCRELX", 42: "REX_GOTPCRELX"}
_CALL, _OF_SLOT = 4, (9, 41, 42)
_STUB = 8  # bytes of `jmp *slot(%rip)`, filled up
_PAGE = mmap.PAGESIZE
_READ, _READ_EXEC, _READ_WRITE, _PRIVATE_ANONYMOUS = 1, 5, 3, 0x22


class Unlinkable(Exception):
    """The objects have something that this linker does not know; LLVM's may."""


class LoadedCode:
    """Linked objects in memory. addresses: of the functions asked for."""

    def __init__(self, memory: int, size: int, addresses: Mapping[str, int]) -> None:
        self.memory, self.size, self.addresses = memory, size, addresses

    def close(self) -> None:
        """Lets go of the memory: nothing may run in it any more."""
        _c().munmap(self.memory, self.size)


@dataclass(frozen=True)
class _Object:
    """What is read of an object file. names: of its symbols, "" of local ones. relocations: by the section they are
    for. at: where each section that is loaded lies in the image.
    """

    data: bytes
    sections: list[tuple[int, ...]]
    symbols: np.ndarray[Any, Any]
    names: list[str]
    relocations: list[tuple[int, np.ndarray[Any, Any]]]
    at: dict[int, int]


def link(objects: Sequence[bytes], functions: Sequence[str]) -> LoadedCode:
    """Loads objects. Raises Unlinkable for what is not known here, damaged objects included; ResourceError where there
    is no memory.
    """
    try:
        return _link([_object(data) for data in objects], functions)
    except (struct.error, ValueError, IndexError, KeyError, UnicodeDecodeError, OverflowError) as error:
        raise Unlinkable(f"{type(error).__name__}: {error}") from None


def _object(data: bytes) -> _Object:
    kind, machine = struct.unpack_from("<HH", data, 16)
    if data[:6] != b"\x7fELF\x02\x01" or (kind, machine) != (_REL, _X86_64):
        raise Unlinkable("no object file for this machine")
    (start,), (count,) = struct.unpack_from("<Q", data, 40), struct.unpack_from("<H", data, 60)
    sections = list(struct.iter_unpack(_SECTION, data[start : start + 64 * count]))
    (table,) = (s for s in sections if s[1] == _SYMTAB)
    symbols = np.frombuffer(data, _SYMBOLS, table[5] // 24, table[4])
    strings = sections[table[6]][4]
    names = [""] * len(symbols)
    for index in np.flatnonzero(symbols["info"] >> 4 == _GLOBAL).tolist():
        begin = strings + int(symbols["name"][index])
        names[index] = data[begin : data.index(b"\0", begin)].decode()
    if (symbols["info"] >> 4 > _GLOBAL).any() or np.isin(symbols["info"] & 15, _ODD_TYPES).any():
        raise Unlinkable("weak symbols, those of a thread, or those that are chosen when loaded")
    relocations = []
    for section in sections:
        if section[1] == _RELA and sections[section[7]][1] == _PROGBITS and sections[section[7]][2] & _ALLOC:
            relocations.append((section[7], np.frombuffer(data, _RELOCATIONS, section[5] // 24, section[4])))
    return _Object(data, sections, symbols, names, relocations, {})


def _link(objects: Sequence[_Object], functions: Sequence[str]) -> LoadedCode:
    code = _placed(objects, _EXEC, 0)
    outside, slots = _outside(objects)
    stubs, code = code, _aligned(code + _STUB * len(outside), _PAGE)
    data = _placed(objects, 0, code)
    table = _aligned(data, 8)
    size = _aligned(table + 8 * len(slots), _PAGE)
    if not code:
        raise Unlinkable("no code")
    memory = _mapped(size)
    linked = LoadedCode(memory, size, {})
    try:
        image = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(memory))
        known = _defined(objects, memory)
        for name in outside:
            known[name] = _of_process(name)
        of_slot = {name: memory + table + 8 * number for number, name in enumerate(slots)}
        of_stub = {name: memory + stubs + _STUB * number for number, name in enumerate(outside)}
        image[table : table + 8 * len(slots)].view("<u8")[:] = [known[name] for name in slots]
        for name, stub in of_stub.items():
            near = struct.pack("<i", of_slot[name] - stub - 6)
            image[stub - memory : stub - memory + 8] = np.frombuffer(b"\xff\x25" + near + b"\xcc\xcc", np.uint8)
        for each in objects:
            _copied(each, image)
            _relocated(each, image, memory, known, of_stub, of_slot)
        _protected(memory, code, _READ_EXEC)
        _protected(memory + code, size - code, _READ)
        linked.addresses = {name: known[name] for name in functions}
    except BaseException:
        linked.close()
        raise
    return linked


def _placed(objects: Sequence[_Object], executable: int, start: int) -> int:
    """Gives each section that is loaded, of code or of data, its place; where they end."""
    for each in objects:
        for index, (_, kind, flags, _, offset, size, _, _, align, _) in enumerate(each.sections):
            if not flags & _ALLOC or kind == _UNWIND or flags & _EXEC != executable:
                continue
            if kind != _PROGBITS or flags & (_WRITE | _TLS):
                raise Unlinkable("data that is written")
            if align > _PAGE or offset + size > len(each.data):
                raise Unlinkable("a section that does not fit")
            start = _aligned(start, max(align, 16))
            each.at[index] = start
            start += size
    return start


def _outside(objects: Sequence[_Object]) -> tuple[list[str], list[str]]:
    """Names that no object defines, and those that need a slot with their address: these, and what code asks the
    address of.
    """
    defined = {n for o in objects for n, s in zip(o.names, o.symbols["section"], strict=True) if n and s}
    outside: dict[str, None] = {}
    slots: dict[str, None] = {}
    for each in objects:
        for _, found in each.relocations:
            if unknown := set(found["kind"].tolist()) - set(_KINDS):
                raise Unlinkable(f"relocations of kind {unknown}")
            for index in found["symbol"][np.isin(found["kind"], _OF_SLOT)].tolist():
                slots[each.names[index]] = None
        outside |= {n: None for n, s in zip(each.names, each.symbols["section"], strict=True) if n and not s}
    gone = [name for name in outside if name not in defined]
    slots |= dict.fromkeys(gone)
    if "" in slots:
        raise Unlinkable("a slot for a symbol without a name")
    return gone, list(slots)


def _defined(objects: Sequence[_Object], memory: int) -> dict[str, int]:
    """Addresses of what objects define. Raises Unlinkable where two define the same."""
    found: dict[str, int] = {}
    for each in objects:
        for name, symbol in zip(each.names, each.symbols, strict=True):
            if name and symbol["section"] != _UNDEFINED:
                if name in found or int(symbol["section"]) >= _FIRST_RESERVED:
                    raise Unlinkable(f"{name} is defined twice, or elsewhere")
                found[name] = memory + each.at[int(symbol["section"])] + int(symbol["value"])
    return found


def _copied(each: _Object, image: np.ndarray[Any, Any]) -> None:
    for index, at in each.at.items():
        offset, size = each.sections[index][4:6]
        image[at : at + size] = np.frombuffer(each.data, np.uint8, size, offset)


def _relocated(
    each: _Object,
    image: np.ndarray[Any, Any],
    memory: int,
    known: Mapping[str, int],
    of_stub: Mapping[str, int],
    of_slot: Mapping[str, int],
) -> None:
    """Puts the distance of what is meant into each place: S + A - P, with a stub's or a slot's address for S."""
    addresses = _addresses(each, memory, known, of_stub)
    for section, found in each.relocations:
        base, size = each.at[section], each.sections[section][5]
        offsets = found["offset"].astype(np.int64)
        if len(offsets) and not (0 <= offsets.min() and offsets.max() + 4 <= size):
            raise Unlinkable("a relocation outside of its section")
        targets = addresses[found["symbol"]]
        for number in np.flatnonzero(np.isin(found["kind"], _OF_SLOT)).tolist():
            targets[number] = of_slot[each.names[int(found["symbol"][number])]]
        far = np.array([each.names[i] in of_stub for i in found["symbol"].tolist()], bool)
        if (far & (found["kind"] == 2)).any() or not targets.all():
            raise Unlinkable("the address of what is not here")
        distance = targets + found["addend"] - (memory + base + offsets)
        if len(distance) and (abs(distance) >= 1 << 31).any():
            raise Unlinkable("a distance that 32 bits do not hold")
        places = (base + offsets)[:, None] + np.arange(4)
        image[places] = distance.astype("<i4").view(np.uint8).reshape(-1, 4)


def _addresses(
    each: _Object, memory: int, known: Mapping[str, int], of_stub: Mapping[str, int]
) -> np.ndarray[Any, Any]:
    """Of each symbol; 0 where it has none."""
    found = np.zeros(len(each.symbols), np.int64)
    for index, (section, value) in enumerate(
        zip(each.symbols["section"].tolist(), each.symbols["value"].tolist(), strict=True)
    ):
        if name := each.names[index]:
            found[index] = of_stub.get(name) or known[name]
        elif section in each.at:
            found[index] = memory + each.at[section] + value
    return found


def _aligned(number: int, step: int) -> int:
    return -(-number // step) * step


# -- the system --------------------------------------------------------------------------------------------------------


@functools.cache
def _c() -> Any:
    library = ctypes.CDLL(None, use_errno=True)
    library.mmap.restype = ctypes.c_void_p
    library.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    library.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    library.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return library


def _of_process(name: str) -> int:
    """The address of a function of the C library, or of another that this process has loaded for all to see."""
    try:
        found = ctypes.cast(getattr(_c(), name), ctypes.c_void_p).value
    except AttributeError:
        raise Unlinkable(f"there is no {name}") from None
    assert found is not None
    return found


def _mapped(size: int) -> int:
    found: int | None = _c().mmap(None, size, _READ_WRITE, _PRIVATE_ANONYMOUS, -1, 0)
    if found is None or found == ctypes.c_void_p(-1).value:
        raise ResourceError(f"no memory for {size} bytes of compiled code")
    return found


def _protected(address: int, size: int, rights: int) -> None:
    """Raises Unlinkable where the system forbids it (LLVM's linker then says so in its words)."""
    if size and _c().mprotect(address, size, rights):
        raise Unlinkable("the system does not let memory be executed")
