"""Which kernels are built together, and what is found again on disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from mapsto.devices.cache import ObjectCache
from mapsto.devices.opencl.programs import Programs
from mapsto.loop.opencl import Printed


class FakeDevice:
    """Keeps the texts that it was given to build, and which kernels were compiled to the end."""

    identity = ("fake", "1")

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.finished: list[str] = []

    def build(self, text: str, computes: Sequence[str]) -> Any:
        self.texts.append(text)
        return text

    def finish(self, program: Any, kernel: Printed) -> None:
        assert kernel.kernel in program
        self.finished.append(kernel.name)


def kernels(*names: str) -> dict[str, Printed]:
    return {name: Printed(name, f"__kernel void {name}() {{}}\n", {}, False, 1, 1) for name in names}


def built(device: Any, cache: ObjectCache | None, *names: str) -> tuple[Programs, list[tuple[int, str]]]:
    told: list[tuple[int, str]] = []
    programs = Programs(device, cache)
    made = programs.built(kernels(*names), ["node"], lambda done, name: told.append((done, name)))
    assert list(made) == list(names) and all(f"void {name}(" in made[name] for name in names)
    return programs, told


@pytest.fixture
def cache(tmp_path: Path) -> Iterator[ObjectCache]:
    yield ObjectCache(tmp_path)


def test_new_kernels_are_one_program(cache: ObjectCache) -> None:
    device = FakeDevice()
    _, told = built(device, cache, "a", "b", "c")
    assert len(device.texts) == 1 and device.finished == ["a", "b", "c"]
    assert told == [(1, "a"), (2, "b"), (3, "c")]


def test_a_kernel_is_found_in_the_text_that_it_was_built_in(cache: ObjectCache) -> None:
    """Drivers know their code by that text; only what is new is a new one."""
    first = FakeDevice()
    built(first, cache, "a", "b", "c")
    again = FakeDevice()
    built(again, cache, "b", "d", "a")
    assert again.texts[0] == first.texts[0] and len(again.texts) == 2
    assert "void d(" in again.texts[1] and "void a(" not in again.texts[1]
    assert sorted(again.finished) == ["a", "b", "d"]
    third = FakeDevice()
    built(third, cache, "d", "c")
    assert sorted(third.texts) == sorted(again.texts)


def test_what_was_built_is_not_built_again(cache: ObjectCache) -> None:
    device = FakeDevice()
    programs, _ = built(device, cache, "a", "b")
    programs.built(kernels("a"), (), lambda *_: None)
    programs.built(kernels("b", "c"), (), lambda *_: None)
    assert len(device.texts) == 2 and device.finished == ["a", "b", "c"]
    assert programs.built({}, (), lambda *_: None) == {}


@pytest.mark.parametrize("change", ["device", "helpers", "damaged", "no cache"])
def test_what_is_not_the_same_is_built_anew(change: str, cache: ObjectCache) -> None:
    built(FakeDevice(), cache, "a", "b")
    device, wanted = FakeDevice(), kernels("a")
    if change == "device":
        device.identity = ("fake", "2")  # another version of the driver
    if change == "helpers":
        wanted = {"a": Printed("a", wanted["a"].kernel, {"max": "static int f() { return 1; }"}, False, 1, 1)}
    if change == "damaged":
        for file in cache.folder.rglob("*.o"):
            file.write_bytes(file.read_bytes()[:-1] + b"?")
    Programs(device, None if change == "no cache" else cache).built(wanted, (), lambda *_: None)  # type: ignore[arg-type]
    assert len(device.texts) == 1 and "void b(" not in device.texts[0]


def test_what_fails_is_not_kept(cache: ObjectCache) -> None:
    class Failing(FakeDevice):
        def finish(self, program: Any, kernel: Printed) -> None:
            raise RuntimeError(kernel.name)

    with pytest.raises(RuntimeError):
        built(Failing(), cache, "a", "b")
    assert not list(cache.folder.rglob("*.o"))
