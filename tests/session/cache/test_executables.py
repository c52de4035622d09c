"""A model that was compiled before is found again, one that has changed never is, and nothing else goes wrong."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from tests.session.cache.support import PLAIN, N, X, compiled, factor_of, on, overwritten, written

import mapsto
from mapsto import witness
from mapsto.errors import ModelError
from mapsto.importers.onnx import load
from mapsto.session.cache import content
from mapsto.session.cache.executables import FOUND, KEPT, Place, executables, references

SOURCE = Path(mapsto.__file__).parents[1]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return on(monkeypatch, tmp_path / "cache")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return written(tmp_path / "m.onnx", 2)


def files(cache: Path) -> list[Path]:
    return sorted((cache / "executables").iterdir())


# -- found again -------------------------------------------------------------------------------------------------------


def test_the_second_compile_is_found(model: Path) -> None:
    assert compiled(model) == (2, KEPT)
    assert compiled(model) == (2, FOUND)
    assert compiled(str(model)) == (2, FOUND)
    assert compiled(model, cache=False) == (2, "not cached: `cache` is off")


def test_what_is_found_says_all_that_what_was_compiled_said(model: Path, tmp_path: Path) -> None:
    first, second = (mapsto.compile(model, threads=1) for _ in range(2))
    assert second.cache_note == FOUND and second.plan_text == first.plan_text
    assert second.plan.explain("scale") == first.plan.explain("scale")
    assert [s.label for s in second.profile(X)] == [s.label for s in first.profile(X)]
    assert second.memory() == first.memory() and second.target == first.target
    second.save(tmp_path / "again.mapsto")
    first.save(tmp_path / "first.mapsto")
    assert (tmp_path / "again.mapsto").read_bytes() == (tmp_path / "first.mapsto").read_bytes()


def test_any_number_of_threads_is_one_entry(model: Path) -> None:
    mapsto.compile(model, threads=1)
    found = mapsto.compile(model, threads=2)
    assert found.cache_note == FOUND and found.threads == 2 and factor_of(found) == 2


@pytest.mark.parametrize("options", [{"shapes": {"x": (N,)}}, {"check_indices": False}, {"isa": "sse2"}])
def test_other_options_are_other_entries(options: dict[str, object], model: Path) -> None:
    compiled(model)
    assert compiled(model, **options) == (2, KEPT)
    assert compiled(model, **options) == (2, FOUND)
    assert compiled(model) == (2, FOUND)


def test_a_copy_elsewhere_is_found_by_its_content(model: Path, tmp_path: Path) -> None:
    compiled(model)
    (tmp_path / "other").mkdir()
    copy = shutil.copy(model, tmp_path / "other" / "another.onnx")
    assert compiled(copy) == (2, FOUND)
    assert compiled(model.read_bytes()) == (2, FOUND)


def test_a_program_that_is_called_by_its_file_is_not_another_files(tmp_path: Path) -> None:
    first = written(tmp_path / "first.onnx", 2, name="")
    second = shutil.copy(first, tmp_path / "second.onnx")
    names = [mapsto.compile(path, threads=1).program.name for path in (first, second, first, second)]
    assert names == ["first", "second"] * 2
    assert compiled(first) == compiled(second) == (2, FOUND)


def test_bytes_are_found_by_their_content(model: Path) -> None:
    data = model.read_bytes()
    assert compiled(data) == (2, KEPT)
    assert compiled(bytearray(data)) == compiled(memoryview(data)) == (2, FOUND)
    assert compiled(model) == (2, FOUND)
    written(model, 3)
    assert compiled(model) == (3, KEPT)
    assert compiled(model.read_bytes()) == (3, FOUND)


def test_graphs_and_messages_are_not_cached(model: Path) -> None:
    assert "as a Graph" in mapsto.compile(load(model), threads=1).cache_note
    assert "as a ModelProto" in mapsto.compile(onnx.load(model), threads=1).cache_note


def test_initializers_can_be_given_as_before(tmp_path: Path) -> None:
    made = onnx.load(written(tmp_path / "m.onnx", 2))
    made.graph.input.append(onnx.helper.make_tensor_value_info("w", onnx.TensorProto.FLOAT, [N]))
    (tmp_path / "m.onnx").write_bytes(made.SerializeToString())
    for _ in range(2):
        exe = mapsto.compile(tmp_path / "m.onnx", threads=1)
        np.testing.assert_array_equal(exe.run({"x": X})["y"], 2 * X)
        np.testing.assert_array_equal(exe.run({"x": X, "w": np.full(N, 5, np.float32)})["y"], 5 * X)
        assert exe.overriding is not None
    assert exe.cache_note == FOUND and exe.overriding.executable(frozenset({"w"})).cache_note == FOUND


def test_a_known_model_brings_in_nothing_that_makes_one(model: Path, cache: Path) -> None:
    """In a process of its own, which counts modules and processes."""
    script = (
        "import subprocess, sys\n"
        "subprocess.Popen = None\n"
        "import mapsto, numpy\n"
        "from mapsto.session.cache import key\n"
        "key.own_code = lambda: 'this code'\n"
        f"exe = mapsto.compile({str(model)!r})\n"
        f"y = exe(numpy.ones({N}, numpy.float32))\n"
        "print(exe.cache_note, float(y.sum()), len([m for m in sys.modules if m.startswith('mapsto')]))\n"
        "print(*sorted({m.split('.')[0] for m in sys.modules}))\n"
        "print(*sorted(m for m in sys.modules if m.startswith('mapsto')))\n"
    )
    compiled(model)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=_environment(cache))
    assert done.returncode == 0, done.stderr
    first, packages, modules = done.stdout.splitlines()
    note, total, count = first.rsplit(" ", 2)
    assert (note, float(total)) == (FOUND, 2 * N) and int(count) < 70
    heavy = {"onnx", "google", "llvmlite", "ml_dtypes", "multiprocessing", "typer", "rich", "scipy", "highspy"}
    assert not heavy & set(packages.split())
    making = ("session.compile", "passes", "ops", "plan", "loop", "kernel", "solve", "importers.onnx", "devices.making")
    assert not [m for m in modules.split() if m.removeprefix("mapsto.").startswith(making)]


def _environment(cache: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(SOURCE), "MAPSTO_CACHE": str(cache)}


# -- never stale -------------------------------------------------------------------------------------------------------


def test_a_change_that_keeps_size_inode_and_mtime(model: Path, tmp_path: Path) -> None:
    compiled(model)
    compiled(model)
    overwritten(model, written(tmp_path / "other.onnx", 3).read_bytes())
    assert compiled(model) == (3, KEPT)


def test_a_change_within_a_tick(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stamp stays the very same, as it may where a file is changed twice between two ticks of the clock."""
    stamp = witness.stamp_of(model.stat())
    for module in (witness, content):
        monkeypatch.setattr(module, "stamp_of", lambda status: stamp)
    monkeypatch.setattr(content, "TICK", 10**15)  # it was changed just now
    assert compiled(model) == (2, KEPT) and compiled(model) == (2, FOUND)
    overwritten(model, written(tmp_path / "other.onnx", 3).read_bytes())
    assert compiled(model) == (3, KEPT)


def test_the_stamp_decides_once_the_file_was_left_alone(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the test above would say nothing: with a stamp that is trusted, the bytes are not looked at."""
    stamp = witness.stamp_of(model.stat())
    for module in (witness, content):
        monkeypatch.setattr(module, "stamp_of", lambda status: stamp)
    compiled(model)
    overwritten(model, written(tmp_path / "other.onnx", 3).read_bytes())
    assert compiled(model) == (2, FOUND)


def test_a_stamp_is_trusted_later(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    whole = content.Files.whole
    monkeypatch.setattr(content.Files, "whole", lambda self: read.append(self.path) or whole(self))
    monkeypatch.setattr(content, "TICK", 10**15)
    compiled(model)
    assert compiled(model) == (2, FOUND) and len(read) == 2  # looked for by content; then compared
    monkeypatch.setattr(content, "TICK", 0)
    assert compiled(model) == (2, FOUND) and len(read) == 3  # compared for the last time
    assert compiled(model) == (2, FOUND) and len(read) == 3


def test_another_file_under_the_same_name(model: Path, tmp_path: Path) -> None:
    compiled(model)
    before = model.stat()
    other = written(tmp_path / "other.onnx", 3)
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(model)
    assert compiled(model) == (3, KEPT)
    written(model, 2)
    assert compiled(model) == (2, FOUND)  # by its content


def test_a_link_that_leads_elsewhere(model: Path, tmp_path: Path) -> None:
    other, link = written(tmp_path / "other.onnx", 3), tmp_path / "link.onnx"
    link.symlink_to(model)
    assert compiled(link)[0] == 2 and compiled(link) == (2, FOUND)
    link.unlink()
    link.symlink_to(other)
    assert compiled(link)[0] == 3 and compiled(link) == (3, FOUND)


def test_a_file_that_only_was_touched(model: Path) -> None:
    compiled(model)
    os.utime(model)
    assert compiled(model) == (2, FOUND)


def test_a_file_that_is_gone_or_cut(model: Path) -> None:
    compiled(model)
    data = model.read_bytes()
    model.write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelError):
        compiled(model)
    model.unlink()
    with pytest.raises(ModelError, match="No such file"):
        compiled(model)


def test_a_file_that_changes_while_it_is_read(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mapsto.session import compile as session

    decide, data = session.decide, written(tmp_path / "other.onnx", 3).read_bytes()

    def changing(*arguments: object) -> object:
        overwritten(model, data)
        return decide(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(session, "decide", changing)
    assert compiled(model) == (2, "not cached: the model's files changed while they were read")
    monkeypatch.setattr(session, "decide", decide)
    assert compiled(model) == (3, KEPT)


def test_the_machine_is_measured_while_it_compiles(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mapsto.session import compile as session

    decide = session.decide

    def changing(*arguments: object) -> object:
        monkeypatch.setattr("mapsto.devices.cpu.deciding.figures", lambda: "new figures")
        return decide(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(session, "decide", changing)
    assert "changed while it was compiled" in compiled(model)[1]
    assert not executables(Path(os.environ["MAPSTO_CACHE"])).entries()


# -- external data -----------------------------------------------------------------------------------------------------


def test_external_data(tmp_path: Path) -> None:
    model = written(tmp_path / "m.onnx", 2, external=True)
    data = tmp_path / "m.bin"
    assert compiled(model) == (2, KEPT) and compiled(model) == (2, FOUND)
    os.utime(data)
    assert compiled(model) == (2, FOUND)
    overwritten(data, np.full(N, 3, np.float32).tobytes())
    assert compiled(model) == (3, KEPT) and compiled(model) == (3, FOUND)
    other = tmp_path / "other.bin"
    other.write_bytes(np.full(N, 4, np.float32).tobytes())
    other.replace(data)
    assert compiled(model) == (4, KEPT)
    data.unlink()
    with pytest.raises(ModelError, match="m.bin"):
        compiled(model)


def test_external_data_of_a_copy(tmp_path: Path) -> None:
    """The model's own bytes are the same; those of its data may not be."""
    compiled(written(tmp_path / "m.onnx", 2, external=True))
    for name, factor in (("same", 2), ("other", 3)):
        (tmp_path / name).mkdir()
        copy = Path(shutil.copy(tmp_path / "m.onnx", tmp_path / name / "m.onnx"))
        (tmp_path / name / "m.bin").write_bytes(np.full(N, factor, np.float32).tobytes())
        assert compiled(copy) == (factor, FOUND if factor == 2 else KEPT)
    assert compiled(tmp_path / "m.onnx") == (2, FOUND)


def test_external_data_that_became_a_link_is_refused_as_ever(tmp_path: Path) -> None:
    model = written(tmp_path / "m.onnx", 2, external=True)
    compiled(model)
    (tmp_path / "m.bin").rename(tmp_path / "elsewhere")
    (tmp_path / "m.bin").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match="symbolic link"):
        compiled(model)


def test_two_names_of_one_file_are_both_looked_at(tmp_path: Path) -> None:
    """The bytes of a region are read once, under the first name; later the second may lead elsewhere."""
    store, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    store.mkdir(), snapshot.mkdir()
    for factor in (2, 3):
        (store / str(factor)).write_bytes(np.full(N, factor, np.float32).tobytes())
    for name in ("a.bin", "b.bin"):
        (snapshot / name).symlink_to(store / "2")
    made = onnx.load(written(tmp_path / "plain.onnx", 2))
    made.graph.initializer.append(made.graph.initializer[0])
    made.graph.initializer[1].name = "v"
    for tensor, name in zip(made.graph.initializer, ("a.bin", "b.bin"), strict=True):
        tensor.ClearField("raw_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=name)
    made.graph.node[0].output[0] = "half"
    made.graph.node.append(onnx.helper.make_node("Mul", ["half", "v"], ["y"]))
    (snapshot / "m.onnx").write_bytes(made.SerializeToString())
    for note in (KEPT, FOUND):
        assert compiled(snapshot / "m.onnx", data_root=tmp_path) == (4, note)
    (snapshot / "b.bin").unlink()
    (snapshot / "b.bin").symlink_to(store / "3")
    assert compiled(snapshot / "m.onnx", data_root=tmp_path) == (6, KEPT)


# -- damage ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", [0.0, 0.02, 0.2, 0.4, 0.6, 0.8, 0.9, 0.999])
@pytest.mark.parametrize("how", ["flipped", "cut"])
def test_a_damaged_executable_is_told_of_and_made_again(where: float, how: str, model: Path, cache: Path) -> None:
    compiled(model)
    (path,) = files(cache)
    data = bytearray(path.read_bytes())
    at = int(where * len(data))
    data[at] ^= 4
    path.write_bytes(data if how == "flipped" else data[:at])
    with pytest.warns(RuntimeWarning, match="made again") as told:
        assert compiled(model) == (2, KEPT)
    assert len([w for w in told if w.category is RuntimeWarning]) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        assert compiled(model) == (2, FOUND)


def test_every_byte_of_an_executable_is_looked_at(model: Path, cache: Path) -> None:
    """One in 97 of them, each changed by itself."""
    compiled(model)
    (path,) = files(cache)
    whole, place = path.read_bytes(), Place(replace(PLAIN, model=model))
    assert place.find() is not None
    for at in range(0, len(whole), 97):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << at % 8
        path.write_bytes(damaged)
        with pytest.warns(RuntimeWarning, match="made again"):
            assert place.find() is None
        assert not path.exists()


def test_an_executable_under_anothers_name(model: Path, tmp_path: Path, cache: Path) -> None:
    compiled(model)
    (own,) = files(cache)
    compiled(written(tmp_path / "other.onnx", 3))
    (other,) = set(files(cache)) - {own}
    own.write_bytes(other.read_bytes())
    with pytest.warns(RuntimeWarning, match="not the one that it is called by"):
        assert compiled(model) == (2, KEPT)


def test_an_executable_that_is_gone(model: Path, cache: Path) -> None:
    compiled(model)
    (path,) = files(cache)
    path.unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        assert compiled(model) == (2, KEPT) and compiled(model) == (2, FOUND)


@pytest.mark.parametrize(
    "data", [b"", b"{}", b"[1]", b"null", b'{"files": {"": 1}, "listed": [], "name": "x"}', b"\xff"]
)
def test_damaged_records_are_no_records(data: bytes, model: Path, cache: Path) -> None:
    compiled(model)
    paths = [entry.path for entry in references(cache).entries()]
    assert len(paths) == 2
    for path in paths:
        path.write_bytes(data)
    assert compiled(model) == (2, KEPT)
    for path in paths:  # whose checksum is right
        references(cache).put(path.parent.name + path.stem, data)
    assert compiled(model) == (2, KEPT) and compiled(model) == (2, FOUND)


# -- folders that cannot be used ---------------------------------------------------------------------------------------


def test_off(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAPSTO_CACHE", "off")
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        for _ in range(2):
            assert compiled(model) == (2, "not cached: the cache is off")
    assert sorted(os.listdir(tmp_path)) == ["m.onnx"]


def test_a_folder_that_others_may_write_is_not_used(model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled(model)
    before = files(cache)
    for folder in (cache, cache / "executables"):
        folder.chmod(0o770)
        monkeypatch.setattr("mapsto.store._warned", set())
        with pytest.warns(RuntimeWarning, match="may be written by others"):
            factor, note = compiled(model)
        assert factor == 2 and note != FOUND
        folder.chmod(0o700)
    assert files(cache) == before and compiled(model) == (2, FOUND)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give folders away")
def test_a_folder_of_another_user_is_not_used(model: Path, cache: Path) -> None:
    compiled(model)
    os.chown(cache / "executables", 1234, 1234)
    with pytest.warns(RuntimeWarning, match="belongs to user 1234"):
        factor, note = compiled(model)
    assert factor == 2 and note.startswith("not cached")


def test_folders_are_only_this_users(model: Path, cache: Path) -> None:
    before = os.umask(0)
    try:
        compiled(model)
    finally:
        os.umask(before)
    folders = [cache, *(path for path in cache.rglob("*") if path.is_dir())]
    assert len(folders) >= 5 and {path.stat().st_mode & 0o777 for path in folders} == {0o700}


def test_an_entry_larger_than_the_bound_is_not_kept(model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mapsto.session.cache.executables.BOUND", 1000)
    assert compiled(model)[1].startswith("not cached") and not executables(cache).entries()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a mount")
def test_a_full_and_a_read_only_disk(model: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full one keeps nothing, and a read-only one gives what it has."""
    cache.mkdir()
    options = ["-o", "size=256k,mode=700"]
    if subprocess.run(["mount", "-t", "tmpfs", *options, "none", str(cache)], capture_output=True).returncode:
        pytest.skip("this process may not mount")
    try:
        assert compiled(model) == (2, KEPT)
        filling = cache / "filling"
        with pytest.raises(OSError), filling.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        other = written(tmp_path / "other.onnx", 3)
        with pytest.warns(RuntimeWarning, match="No space left"):
            assert compiled(other)[0] == 3
        assert compiled(other) == (3, f"not cached: it cannot be kept in {cache}") and compiled(model) == (2, FOUND)
        filling.unlink()
        subprocess.run(["mount", "-o", "remount,ro", str(cache)], check=True)
        monkeypatch.setattr("mapsto.store._warned", set())
        with pytest.warns(RuntimeWarning, match="cannot be kept"):
            assert compiled(other)[0] == 3
        assert compiled(model) == (2, FOUND)
    finally:
        subprocess.run(["umount", "-l", str(cache)], check=True)
