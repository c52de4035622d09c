"""Compile workers, the object cache and the loader."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from pathlib import Path

import pytest

import mapsto
from mapsto.devices.cache import ObjectCache, key_of
from mapsto.devices.cpu import compiler, isa
from mapsto.devices.cpu.compiler import CompilePool, compile_modules
from mapsto.devices.cpu.functions import written
from mapsto.devices.cpu.loader import defined_functions, load_objects
from mapsto.devices.cpu.workers import Workers
from mapsto.devices.making.code import Unwritten
from mapsto.errors import CompileError
from mapsto.loop.ast import Function


def number(name: str, value: int) -> tuple[str, str]:
    return name, f"define i64 @{name}() {{\n  ret i64 {value}\n}}\n"


# The instruction exists, the processor named to the worker lacks it: LLVM ends the process.
ABORTS = (
    "aborting",
    """declare <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(<16 x float>, <32 x bfloat>, <32 x bfloat>)
define void @aborting(ptr %p) {
  %a = load <16 x float>, ptr %p
  %b = load <32 x bfloat>, ptr %p
  %c = call <16 x float> @llvm.x86.avx512bf16.dpbf16ps.512(<16 x float> %a, <32 x bfloat> %b, <32 x bfloat> %b)
  store <16 x float> %c, ptr %p
  ret void
}
""",
)
REJECTED = ("rejected", "define void @rejected() {\n  ret i32 3\n}\n")


def call(address: int) -> int:
    return int(ctypes.CFUNCTYPE(ctypes.c_int64)(address)())


def test_many_modules_come_back_in_order(tmp_path: Path) -> None:
    modules = [number(f"n{i}", i) for i in range(20)]
    told: list[tuple[int, int]] = []
    cache = ObjectCache(tmp_path)
    objects = compile_modules(modules, isa.SSE2, 2, lambda done, total, name: told.append((done, total)), cache=cache)
    assert [defined_functions(o) for o in objects] == [[name] for name, _ in modules]
    assert told == [(i + 1, 20) for i in range(20)]
    addresses = load_objects(objects)
    assert [call(addresses[f"n{i}"]) for i in range(20)] == list(range(20))


def test_an_abort_names_its_kernel_and_the_others_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = ObjectCache(tmp_path)
    good = [number("first", 1), number("second", 2), number("third", 3)]
    with pytest.raises(CompileError) as caught:
        compile_modules([good[0], ABORTS, good[1], REJECTED, good[2]], isa.SSE2, 1, cache=cache)
    message = str(caught.value)
    assert "'aborting'" in message and "LLVM ERROR" in message
    assert "'rejected'" in message and "ret i32 3" in message
    assert not any(f"'{name}'" in message for name, _ in good)
    monkeypatch.setattr(compiler.subprocess, "Popen", None)  # all three come from the cache: no worker may start
    assert len(compile_modules(good, isa.SSE2, cache=cache)) == 3


def test_a_worker_that_is_killed_loses_one_kernel(tmp_path: Path) -> None:
    with CompilePool(isa.SSE2, 1) as pool:
        assert pool.submit(*number("one", 1)).result()
        with pytest.raises(CompileError, match="'aborting'"):
            pool.submit(*ABORTS).result()
        assert pool.submit(*number("two", 2)).result()


def test_a_kernel_that_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "_SECONDS_A_KERNEL", 0.05)
    lines = "\n".join(f"  %x{i + 1} = fadd <64 x float> %x{i}, %x{i // 2}" for i in range(20_000))
    text = f"define <64 x float> @slow(<64 x float> %x0) {{\n{lines}\n  ret <64 x float> %x20000\n}}\n"
    with CompilePool(isa.SSE2, 1) as pool, pytest.raises(CompileError, match="'slow'"):
        pool.submit("slow", text).result()


MODEL = Path(__file__).parents[3] / "examples" / "mnist-cnn.onnx"


def test_workers_write_what_this_process_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their hashes are others: what is pickled for them takes none along."""
    asked: list[tuple[str, Unwritten, str]] = []
    later = Workers.submit_later

    def submit_later(self: Workers, name: str, source: Unwritten, optimizer: str) -> None:
        asked.append((name, source, optimizer))
        later(self, name, source, optimizer)

    monkeypatch.setattr(Workers, "submit_later", submit_later)
    mapsto.compile(MODEL, cache=False)
    assert len(asked) >= 3
    monkeypatch.setattr(compiler, "_MANY", 1)
    with CompilePool(isa.host(), 1) as pool:
        later_made = [pool.submit_later(*job) for job in asked]  # nobody calls `write_rest`
        made = [pool.submit(name, written(name, source, isa.host().capabilities), o) for name, source, o in asked]
        assert [each.result() for each in later_made] == [each.result() for each in made]
        assert pool.lengths.keys() == {name for name, *_ in asked} and min(pool.lengths.values()) > 1000


class Nothing:
    """What cannot be written."""

    key = "nothing"

    def write(self) -> Function:
        raise ValueError("there is nothing")


def test_what_is_not_written_yet_is_written_by_who_waits() -> None:
    with CompilePool(isa.SSE2, 1) as pool, pytest.raises(ValueError, match="there is nothing"):
        made = pool.submit_later("nothing", Nothing(), "none")
        assert not made.done()
        pool.write_rest()


def test_what_a_worker_cannot_write_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler, "_MANY", 1)
    with CompilePool(isa.SSE2, 1) as pool:
        with pytest.raises(CompileError, match="'nothing': its code cannot be written"):
            pool.submit_later("nothing", Nothing(), "none").result()
        assert pool.submit(*number("one", 1)).result()


def test_assembly_is_readable(tmp_path: Path) -> None:
    (made,) = compile_modules([number("f", 77)], isa.SSE2, kind="assembly", cache=ObjectCache(tmp_path))
    assert "$77" in made.decode()


def test_what_the_worker_prints_does_not_reach_the_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A site hook that prints at start-up must not spoil the frames."""
    (tmp_path / "sitecustomize.py").write_text("print('noise on stdout')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (made,) = compile_modules([number("f", 1)], isa.SSE2, cache=ObjectCache(tmp_path / "cache"))
    assert defined_functions(made) == ["f"]


def test_the_cache_drops_what_is_cut_or_altered(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path)
    key = key_of("a", "b")
    assert cache.get(key) is None
    cache.put(key, b"object code")
    assert cache.get(key) == b"object code"
    (stored,) = (p for p in tmp_path.rglob("*") if p.is_file())
    whole = stored.read_bytes()
    for damaged in (whole[:-1], b"", whole[:10], whole[:-1] + b"X"):
        stored.write_bytes(damaged)
        assert cache.get(key) is None


def test_cache_keys_tell_parts_apart() -> None:
    assert key_of("ab", "c") != key_of("a", "bc")
    assert key_of("a", "") != key_of("a")


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    cache = ObjectCache(blocked)
    with pytest.warns(RuntimeWarning, match="cannot be kept"):
        cache.put(key_of("k"), b"x")
    assert cache.get(key_of("k")) is None


def test_code_may_call_the_mathematics_library(tmp_path: Path) -> None:
    text = """declare double @sin(double)
define double @f(double %x) {
  %y = call double @sin(double %x)
  ret double %y
}
"""
    addresses = load_objects(compile_modules([("f", text)], isa.SSE2, cache=ObjectCache(tmp_path)))
    assert ctypes.CFUNCTYPE(ctypes.c_double, ctypes.c_double)(addresses["f"])(0.5) == pytest.approx(0.479425538604203)


def test_an_unknown_symbol_is_an_error(tmp_path: Path) -> None:
    text = """declare void @no_such_function_anywhere()
define void @g() {
  call void @no_such_function_anywhere()
  ret void
}
"""
    objects = compile_modules([("g", text)], isa.SSE2, cache=ObjectCache(tmp_path))
    with pytest.raises(CompileError, match="linked"):
        load_objects(objects)


def test_what_is_no_object_file_is_an_error() -> None:
    for data in (b"", b"\x7fELF\x01" + bytes(100), bytes(200)):
        with pytest.raises(CompileError, match="ELF"):
            load_objects([data])


def test_isa_by_features() -> None:
    host = dict.fromkeys(("avx2", "fma", "f16c", "bmi", "bmi2", "lzcnt", "movbe", "popcnt"), True)
    assert isa.from_features({}) is isa.SSE2
    assert isa.from_features(host) is isa.AVX2
    assert isa.from_features({**host, "fma": False}) is isa.SSE2
    wide = {**host, **dict.fromkeys(("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd"), True)}
    assert isa.from_features(wide) is isa.AVX512
    full = isa.from_features({**wide, "avx512vnni": True, "avx512bf16": True})
    assert full.name == "avx512-vnni-bf16" and full.has("dot_u8s8") and full.has("dot_bf16")
    assert isa.by_name(full.name) == full
    with pytest.raises(CompileError, match="avx512"):
        isa.by_name("avx1024")


def test_every_isa_is_found_by_its_name() -> None:
    for one in (isa.SSE2, isa.AVX2, isa.AVX512, isa.host()):
        assert isa.by_name(one.name).features == one.features


@pytest.fixture
def unread_host() -> Iterator[None]:
    """What the processor is called is read once; here it is read again, before and after."""
    isa.host.cache_clear()
    yield
    isa.host.cache_clear()


def test_a_narrower_processor_may_be_asked_for(unread_host: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAPSTO_ISA", "sse2")
    assert isa.host() == isa.SSE2 and isa.runs(isa.SSE2) and not isa.runs(isa.AVX2)


@pytest.mark.parametrize("name", ["mmx", "avx512-vnni-bf16"])
def test_a_processor_that_there_is_not_is_refused(
    name: str, unread_host: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MAPSTO_ISA", name)
    monkeypatch.setattr(isa, "_processor", lambda: (isa.AVX2, "haswell"))
    with pytest.raises(CompileError, match=name):
        isa.host()


def test_whatever_decides_the_code_is_in_the_key_of_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """Code for a wider processor, or of another optimizer, must not be taken for this one's."""
    full = isa.by_name("avx512-vnni-bf16")
    asked = [(i, k, o, t) for i in (isa.SSE2, isa.AVX512, full) for k in ("object", "assembly")
             for o in ("none", "generic") for t in ("a", "b")]  # fmt: skip
    keys = {compiler.cache_key(*parts) for parts in asked}
    monkeypatch.setattr(compiler, "OPTIONS", ("--other",))
    keys |= {compiler.cache_key(*parts) for parts in asked}
    monkeypatch.setattr("llvmlite.__version__", "0.0.1")
    keys |= {compiler.cache_key(*parts) for parts in asked}
    assert len(keys) == 3 * len(asked)
    assert key_of("ab", "c") != key_of("a", "bc")
