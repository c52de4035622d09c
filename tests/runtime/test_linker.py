"""Our linker and LLVM's load the same code; what ours does not know it leaves to LLVM's."""

from __future__ import annotations

import ctypes
import gc
import struct
from pathlib import Path

import llvmlite.binding as llvm
import pytest

from mapsto.errors import CompileError
from mapsto.runtime import linker, native
from mapsto.runtime.linker import Unlinkable
from mapsto.runtime.native import Library


def compiled(text: str) -> bytes:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return native._compile(text, llvm.get_default_triple(), cpu="")


def call(address: int, *arguments: float) -> float:
    return ctypes.CFUNCTYPE(ctypes.c_double, *[ctypes.c_double] * len(arguments))(address)(*arguments)  # type: ignore[no-any-return]


CONSTANT = compiled("define double @third(double %x) {\n  %y = fdiv double %x, 3.0\n  ret double %y\n}")
CALLS = compiled(
    "declare double @third(double)\ndeclare double @fmod(double, double)\n"
    "define double @both(double %x) {\n  %a = call double @third(double %x)\n"
    "  %b = call double @fmod(double %a, double 7.5)\n  %c = fadd double %b, 0.25\n  ret double %c\n}"
)
ADDRESS = compiled(
    "declare double @third(double)\ndefine ptr @which(i1 %c) {\n"
    "  %p = select i1 %c, ptr @third, ptr @which\n  ret ptr %p\n}"
)
TABLE = compiled(
    "@t = internal constant [5 x double] [double 1.0, double 2.0, double 4.0, double 8.0, double 16.0]\n"
    "define double @power(double %x) {\n  %i = fptosi double %x to i64\n"
    "  %p = getelementptr [5 x double], ptr @t, i64 0, i64 %i\n  %y = load double, ptr %p\n  ret double %y\n}"
)
WRITTEN = compiled(
    "@n = internal global double 1.0\ndefine double @count(double %x) {\n  %a = load double, ptr @n\n"
    "  %b = fadd double %a, %x\n  store double %b, ptr @n\n  ret double %b\n}"
)
RUNNER = native.compile_runner()


def test_calls_constants_and_the_c_library() -> None:
    linked = linker.link([CALLS, CONSTANT, TABLE], ["both", "third", "power"])
    assert call(linked.addresses["both"], 30.0) == 10.0 % 7.5 + 0.25
    assert call(linked.addresses["third"], 3.0) == 1.0
    assert [call(linked.addresses["power"], float(n)) for n in range(5)] == [1, 2, 4, 8, 16]
    linked.close()


def test_addresses_of_functions() -> None:
    linked = linker.link([ADDRESS, CONSTANT], ["which", "third"])
    which = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_bool)(linked.addresses["which"])
    assert which(True) == linked.addresses["third"] and which(False) == linked.addresses["which"]
    linked.close()


def test_the_runner_needs_nothing_that_it_does_not_know() -> None:
    linked = linker.link([RUNNER], [native.RUN, native.STOP])
    assert set(linked.addresses) == {native.RUN, native.STOP}
    linked.close()


def test_code_may_be_run_and_not_written() -> None:
    linked = linker.link([CALLS, CONSTANT, TABLE], ["both"])
    rights = set()
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, right, *_ = line.split()
        low, high = (int(end, 16) for end in span.split("-"))
        if low < linked.memory + linked.size and linked.memory < high:  # neighbours of one right are one line
            rights.add(right)
    linked.close()
    assert rights == {"r-xp", "r--p"}


def test_memory_is_given_back_when_a_library_is_gone() -> None:
    library = Library([CONSTANT], ["third"])
    address = library.addresses["third"]

    def there() -> bool:
        maps = (line.split()[0].split("-") for line in Path("/proc/self/maps").read_text().splitlines())
        return any(int(low, 16) <= address < int(high, 16) for low, high in maps)

    assert there()
    del library
    gc.collect()
    assert not there()


@pytest.mark.parametrize(
    "objects, functions",
    [
        ([WRITTEN], ["count"]),
        ([CALLS], ["both"]),  # nobody defines `third`
        ([CONSTANT, CONSTANT], ["third"]),
        ([CONSTANT], ["fourth"]),
        ([b""], ["third"]),
        ([], ["third"]),
    ],
    ids=["written data", "undefined", "twice", "not there", "empty", "none"],
)
def test_what_it_does_not_know(objects: list[bytes], functions: list[str]) -> None:
    with pytest.raises(Unlinkable):
        linker.link(objects, functions)


def test_llvm_links_what_it_does_not_know() -> None:
    library = Library([WRITTEN], ["count"])
    assert [call(library.addresses["count"], 2.0) for _ in range(3)] == [3, 5, 7]
    with pytest.raises(CompileError, match="linked"):
        Library([CALLS], ["both"])


def test_damaged_objects_are_refused_or_linked_but_touch_nothing_else() -> None:
    """Each byte of headers, tables and relocations in turn: an error, or code in its own memory (which is not run)."""
    for at in range(0, len(CALLS)):
        for bit in (1, 128):
            damaged = bytearray(CALLS)
            damaged[at] ^= bit
            try:
                linker.link([bytes(damaged), CONSTANT], ["both"]).close()
            except Unlinkable:
                pass
    for length in range(len(CALLS)):
        with pytest.raises(Unlinkable):
            linker.link([CALLS[:length], CONSTANT], ["both"])


def relocations(data: bytes) -> list[tuple[int, int]]:
    """Of each relocation of an object: where its offset stands in the file, and the size of the section it is for."""
    (table,), (entry, count) = struct.unpack_from("<Q", data, 0x28), struct.unpack_from("<HH", data, 0x3A)
    headers = [struct.unpack_from("<IIQQQQIIQQ", data, table + entry * k) for k in range(count)]
    return [
        (at, headers[header[7]][5])
        for header in headers
        if header[1] == 4  # SHT_RELA (System V ABI, chapter 4), whose entries have 24 bytes
        for at in range(header[4], header[4] + header[5], 24)
        if headers[header[7]][2] & 4  # of code
    ]


@pytest.mark.parametrize("short", [0, 1, 2, 3, -5])
def test_a_relocation_ends_inside_its_section(short: int) -> None:
    """It has four bytes."""
    found = relocations(CALLS)
    assert found
    for at, size in found:
        damaged = bytearray(CALLS)
        struct.pack_into("<Q", damaged, at, size - short)
        with pytest.raises(Unlinkable, match="outside of its section"):
            linker.link([bytes(damaged), CONSTANT], ["both"])


def test_features_are_told_without_llvm() -> None:
    assert native.lacking(()) == [] and native.lacking(["no-such-feature"]) == ["no-such-feature"]
    known = native._flags()
    assert not {f for f in ("avx2", "bmi", "lzcnt", "avx512vnni", "avx512bf16", "fma") if f in known} - (
        native.host_features()
    )
