"""What goes wrong while code is made or kept: named, and without harm to the rest."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from tests.session.support import assert_same_bits, normal, parse

import mapsto
from mapsto import store
from mapsto.devices.cpu import isa as isas
from mapsto.devices.cpu.functions import written
from mapsto.devices.cpu.workers import Workers
from mapsto.devices.making.code import Unwritten
from mapsto.errors import CompileError
from mapsto.session import compile as session
from mapsto.session.compile import build, prepared

# Two kernels: a product, and a softmax.
MODEL = """g (float[N, 24] x, float[24, 40] w) => (float[N, 40] y) {
    h = MatMul(x, w)
    k = Tanh(h)
    y = Softmax(k)
}"""
FEED = {"x": normal(5, 24), "w": normal(24, 40, seed=1)}

NONSENSE = "define void @{name}(ptr %b, ptr %d, i64 %x, i64 %y) {{ this is no LLVM text }}"
# An instruction that plain x86-64 lacks: LLVM cannot select it, and ends its process.
IMPOSSIBLE = """
declare <16 x i32> @llvm.x86.avx512.vpdpbusd.512(<16 x i32>, <16 x i32>, <16 x i32>)
define void @{name}(ptr %b, ptr %d, i64 %x, i64 %y) {{
  %v = load <16 x i32>, ptr %b
  %r = call <16 x i32> @llvm.x86.avx512.vpdpbusd.512(<16 x i32> %v, <16 x i32> %v, <16 x i32> %v)
  store <16 x i32> %r, ptr %b
  ret void
}}"""


class Spoiling(Workers):
    """Workers that get another text for one function. `spoilt`: its name."""

    def __init__(self, text: str, which: int, isa: str) -> None:
        super().__init__(cache=False, isa=isa)
        self.text, self.which = text, which
        self.asked: list[str] = []

    @property
    def spoilt(self) -> str:
        return self.asked[self.which]

    def submit(self, name: str, text: str, optimizer: str) -> None:
        if name not in self.asked:
            self.asked.append(name)
        bad = self.asked.index(name) == self.which
        super().submit(name, self.text.format(name=name) if bad else text, optimizer)

    def submit_later(self, name: str, source: Unwritten, optimizer: str) -> None:
        self.submit(name, written(name, source, self.isa.capabilities), optimizer)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (NONSENSE, "(?s)LLVM rejects its code: .*expected"),
        (IMPOSSIBLE, "the compile worker ended with status -?[0-9]+.*LLVM"),
    ],
    ids=["no LLVM text", "no such instruction"],
)
@pytest.mark.parametrize("which", [0, 1])
def test_a_failing_kernel_is_named_and_the_workers_go_on(text: str, message: str, which: int) -> None:
    graph = prepared(parse(MODEL), None)
    with Spoiling(text, which, "sse2") as workers:
        with pytest.raises(CompileError, match=message) as caught:
            build(graph, workers, 1, None)
        assert f"kernel '{workers.spoilt}'" in str(caught.value)
        assert any(node in str(caught.value).rpartition("it computes")[2] for node in ("MatMul_0", "Softmax_2"))
        assert not any(name in str(caught.value) for name in workers.asked if name != workers.spoilt)
        workers.which = -1
        workers.asked, workers.futures = [""], {}
        assert build(graph, workers, 1, None).run(FEED)["y"].shape == (5, 40)


def test_all_failing_kernels_are_named_at_once() -> None:
    graph = prepared(parse(MODEL), None)
    with Spoiling(NONSENSE, 0, "sse2") as workers:
        workers.asked = ["first"]
        submit = workers.submit

        def all_bad(name: str, text: str, optimizer: str) -> None:
            del text
            workers.asked.append(name)
            submit(name, NONSENSE.format(name=name), optimizer)

        workers.submit = all_bad  # type: ignore[method-assign]
        with pytest.raises(CompileError) as caught:
            build(graph, workers, 1, None)
    named = set(workers.asked[1:])
    assert len(named) > 1 and all(f"kernel '{name}'" in str(caught.value) for name in named)


def test_a_worker_that_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/nonexistent/python")
    with pytest.raises(Exception) as caught:
        mapsto.compile(parse(MODEL), cache=False)
    assert isinstance(caught.value, CompileError), repr(caught.value)


# -- the cache ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MAPSTO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def count_made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the kernels that LLVM is given from here on."""
    made: list[str] = []
    from mapsto.devices.cpu.compiler import _Worker

    run = _Worker.run

    def counted(self: _Worker, kind: str, optimizer: str, name: str, text: str) -> bytes:
        made.append(name)
        return run(self, kind, optimizer, name, text)

    monkeypatch.setattr(_Worker, "run", counted)
    return made


def test_a_second_compile_makes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = count_made(monkeypatch)
    first = mapsto.compile(parse(MODEL))
    assert sorted(made) == sorted(set(first.program.functions())) and any(folder.rglob("*.o"))
    made.clear()
    second = mapsto.compile(parse(MODEL))
    assert made == []
    assert_same_bits(second.run(FEED), first.run(FEED))
    mapsto.compile(parse(MODEL), cache=False)
    assert sorted(made) == sorted(set(first.program.functions()))


def test_another_instruction_set_has_files_of_its_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mapsto.compile(parse(MODEL), isa="sse2")
    made = count_made(monkeypatch)
    if not isas.runs(isas.AVX2):
        pytest.skip("this processor does not run avx2")
    exe = mapsto.compile(parse(MODEL), isa="avx2")
    assert len(made) == len(set(exe.program.functions()))


@pytest.mark.parametrize("damage", ["cut", "flipped", "emptied"])
def test_damaged_files_are_made_again(damage: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = mapsto.compile(parse(MODEL))
    for path in folder.rglob("*.o"):
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes({"cut": data[: len(data) // 3], "flipped": data, "emptied": b""}[damage])
    made = count_made(monkeypatch)
    second = mapsto.compile(parse(MODEL))
    assert sorted(made) == sorted(set(first.program.functions()))
    assert_same_bits(second.run(FEED), first.run(FEED))


def test_a_folder_that_cannot_be_written_is_told_of_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("MAPSTO_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(store, "_warned", set())
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        exe = mapsto.compile(parse(MODEL))
        again = mapsto.compile(parse(MODEL))
    messages = [str(w.message) for w in told if w.category is RuntimeWarning]
    assert len(messages) == 1 and f"{tmp_path / 'file' / 'cache'} (Not a directory)" in messages[0], messages
    assert "MAPSTO_CACHE" in messages[0]
    assert_same_bits(again.run(FEED), exe.run(FEED))


def test_the_workers_are_gone_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it went well or not."""
    started: list[object] = []
    from mapsto.devices.cpu import compiler

    init = compiler._Worker.__init__

    def noted(self: compiler._Worker, isa: isas.Isa) -> None:
        init(self, isa)
        started.append(self)

    monkeypatch.setattr(compiler._Worker, "__init__", noted)
    mapsto.compile(parse(MODEL), cache=False)
    monkeypatch.setattr(session, "decide", lambda *a: (_ for _ in ()).throw(CompileError("stopped")))
    with pytest.raises(CompileError, match="stopped"):
        mapsto.compile(parse(MODEL), cache=False)
    assert started and not any(worker.alive for worker in started)  # type: ignore[attr-defined]


def test_what_a_kernel_computes_does_not_depend_on_the_cache(folder: Path) -> None:
    fresh = mapsto.compile(parse(MODEL), cache=False).run(FEED)
    for _ in range(2):
        assert_same_bits(mapsto.compile(parse(MODEL)).run(FEED), fresh)
    assert np.isfinite(fresh["y"]).all()
