"""Entries on disk: whole, bounded, only this user's; nothing waits for another process, whatever became of that."""

from __future__ import annotations

import os
import random
import resource
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest

import mapsto
from mapsto import store
from mapsto.store import EntryStore, default_folder, fault_of, trim

KEYS = [f"{n:064x}" for n in range(1000)]
SOURCE = Path(mapsto.__file__).parents[1]


@pytest.fixture(autouse=True)
def nothing_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "_warned", set())


def kept(root: Path, bound: int = 1 << 20, sharded: bool = False) -> EntryStore:
    return EntryStore(root / "cache", "things", ".x", bound, sharded)


def used(entries: EntryStore, key: str, seconds_ago: float) -> None:
    path = entries.find(key)
    assert path is not None
    when = time.time() - seconds_ago
    os.utime(path, (when, when))


@pytest.mark.parametrize("sharded", [False, True])
def test_what_is_kept_is_found(sharded: bool, tmp_path: Path) -> None:
    entries = kept(tmp_path, sharded=sharded)
    assert entries.get(KEYS[0]) is None and entries.entries() == []
    assert entries.put(KEYS[0], b"one") and entries.put(KEYS[1], b"two")
    assert (entries.get(KEYS[0]), entries.get(KEYS[1]), entries.get(KEYS[2])) == (b"one", b"two", None)
    assert sorted(e.bytes for e in entries.entries()) == [35, 35]
    entries.remove(KEYS[0])
    entries.remove(KEYS[0])
    assert entries.get(KEYS[0]) is None and len(entries.entries()) == 1


@pytest.mark.parametrize("damage", [b"", b"x" * 10, b"x" * 35])
def test_what_is_damaged_is_missing(damage: bytes, tmp_path: Path) -> None:
    entries = kept(tmp_path)
    entries.put(KEYS[0], b"one")
    path = entries.find(KEYS[0])
    assert path is not None
    path.write_bytes(damage)
    assert entries.get(KEYS[0]) is None
    assert entries.put(KEYS[0], b"one") and entries.get(KEYS[0]) == b"one"


def test_off_keeps_nothing() -> None:
    entries = EntryStore(None, "things", ".x", 1 << 20)
    assert not entries.put(KEYS[0], b"one") and entries.get(KEYS[0]) is None and entries.entries() == []
    entries.sweep()
    entries.remove(KEYS[0])


@pytest.mark.parametrize(
    "named, folder",
    [
        ("/some/where", Path("/some/where")),
        ("", Path("/xdg/mapsto")),
        *((word, None) for word in ("off", "OFF", "0", "no", "False", "none")),
    ],
)
def test_the_variable(named: str, folder: Path | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    monkeypatch.setenv("MAPSTO_CACHE", named)
    assert default_folder() == folder


# -- the bound ---------------------------------------------------------------------------------------------------------


def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    entries = kept(tmp_path, bound=5 * 132)
    for number in range(5):
        entries.put(KEYS[number], bytes(100))
        used(entries, KEYS[number], 100 - number)
    used(entries, KEYS[0], 1)
    assert entries.put(KEYS[5], bytes(100)) and entries.put(KEYS[6], bytes(150))
    assert {e.path.stem for e in entries.entries()} == {KEYS[n] for n in (0, 5, 6, 4)}


def test_a_use_is_noted_once_an_hour(tmp_path: Path) -> None:
    entries = kept(tmp_path)
    entries.put(KEYS[0], b"one")
    for ago, left in ((1800, 1800), (7200, 0), (-7200, 0)):
        used(entries, KEYS[0], ago)
        path = entries.find(KEYS[0])
        assert path is not None and abs(time.time() - path.stat().st_mtime - left) < 60


@pytest.mark.parametrize("sharded", [False, True])
def test_any_number_of_writes_stays_within_the_bound(sharded: bool, tmp_path: Path) -> None:
    bound = 256 * 400 if sharded else 4000
    entries = kept(tmp_path, bound, sharded)
    for number in range(300):
        assert entries.put(f"{number % 3:02x}{number:062x}", bytes(number % 200 + 1))
    found = entries.entries()
    assert sum(e.bytes for e in found) <= (1200 if sharded else 4000) and len(found) >= 6


def test_what_is_larger_than_the_bound_is_not_kept(tmp_path: Path) -> None:
    entries = kept(tmp_path, bound=100)
    entries.put(KEYS[0], b"small")
    assert not entries.put(KEYS[1], bytes(100)) and entries.get(KEYS[0]) == b"small"


def test_a_link_counts_as_itself(tmp_path: Path) -> None:
    """Not with the size and age of what it leads to, which is not the store's."""
    entries = kept(tmp_path, bound=500)
    assert entries.put(KEYS[0], bytes(68))
    large = tmp_path / "large"
    large.write_bytes(bytes(10_000))
    os.utime(large, (0, 0))
    (tmp_path / "cache" / "things" / f"{KEYS[1]}.x").symlink_to(large)
    assert sum(e.bytes for e in entries.entries()) < 500 and min(e.used for e in entries.entries()) > 0
    assert entries.put(KEYS[2], bytes(68)) and entries.get(KEYS[0]) == bytes(68)
    trim(entries.entries(), -1)
    assert large.read_bytes() == bytes(10_000)


def test_trim_goes_by_size_and_age(tmp_path: Path) -> None:
    entries = kept(tmp_path)
    for number in range(6):
        entries.put(KEYS[number], bytes(68))
        used(entries, KEYS[number], 1000 * (6 - number))
    assert len(trim(entries.entries(), 350)) == 3
    assert len(trim(entries.entries(), float("inf"), time.time() - 2500)) == 1
    (tmp_path / "cache" / "things" / f"{KEYS[4]}.x").unlink()
    assert {e.path.stem for e in entries.entries()} == {KEYS[5]}
    assert len(trim(entries.entries(), -1)) == 1 and not entries.entries()


def test_what_another_process_removes_first_counts_as_gone(tmp_path: Path) -> None:
    entries = kept(tmp_path)
    for number in range(4):
        entries.put(KEYS[number], bytes(68))
        used(entries, KEYS[number], 100 - number)
    listed = entries.entries()
    entries.remove(KEYS[0])
    assert [e.path.stem for e in trim(listed, 250)] == [KEYS[1]]


def test_other_files_are_left_alone(tmp_path: Path) -> None:
    entries = kept(tmp_path)
    entries.put(KEYS[0], b"one")
    for name in ("notes.x", "notes.txt", f"{KEYS[1]}.y"):
        (tmp_path / "cache" / "things" / name).write_text("mine")
    assert len(trim(entries.entries(), -1)) == 1
    assert len(list((tmp_path / "cache" / "things").iterdir())) == 3


# -- folders -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [0o720, 0o702, 0o777])
@pytest.mark.parametrize("below", [False, True])
def test_a_folder_that_others_may_write(mode: int, below: bool, tmp_path: Path) -> None:
    entries = kept(tmp_path)
    entries.put(KEYS[0], b"one")
    folder = tmp_path / "cache" / ("things" if below else "")
    folder.chmod(mode)
    with pytest.warns(RuntimeWarning, match=f"{folder} may be written by others"):
        assert entries.get(KEYS[0]) is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it was said
        assert not entries.put(KEYS[1], b"two") and entries.entries() == []
    folder.chmod(0o700)
    assert entries.get(KEYS[0]) == b"one" and len(entries.entries()) == 1


def test_a_folder_that_others_may_read_is_closed(tmp_path: Path) -> None:
    entries = kept(tmp_path)
    entries.put(KEYS[0], b"one")
    (tmp_path / "cache" / "things").chmod(0o755)
    assert entries.get(KEYS[0]) == b"one" and entries.put(KEYS[1], b"two")
    assert (tmp_path / "cache" / "things").stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give folders away")
@pytest.mark.parametrize("below", [False, True])
def test_a_folder_of_another_user(below: bool, tmp_path: Path) -> None:
    entries = kept(tmp_path)
    entries.put(KEYS[0], b"one")
    os.chown(tmp_path / "cache" / ("things" if below else ""), 1234, 1234)
    with pytest.warns(RuntimeWarning, match="belongs to user 1234"):
        assert entries.get(KEYS[0]) is None
    assert not entries.put(KEYS[1], b"two") and "1234" in fault_of(tmp_path / "cache" / "things")


def test_a_folder_that_cannot_be_made_is_told_of_once(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("in the way")
    entries = kept(tmp_path)
    with pytest.warns(RuntimeWarning, match="MAPSTO_CACHE") as told:
        assert not entries.put(KEYS[0], b"one") and not entries.put(KEYS[0], b"one")
    assert len(told) == 1 and entries.get(KEYS[0]) is None


def test_a_full_disk_is_told_of_and_leaves_nothing(tmp_path: Path) -> None:
    """A file may not grow past a limit, as on a disk without room."""
    entries = kept(tmp_path)
    entries.put(KEYS[0], b"one")
    script = (
        "import resource, signal, sys, warnings\n"
        "from pathlib import Path\n"
        "from mapsto.store import EntryStore\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "entries = EntryStore(Path(sys.argv[1]), 'things', '.x', 1 << 20)\n"
        "with warnings.catch_warnings(record=True) as told:\n"
        "    warnings.simplefilter('always')\n"
        f"    kept = [entries.put({KEYS[1]!r}, bytes(100_000)), entries.put({KEYS[2]!r}, bytes(100_000))]\n"
        f"print(kept, len(told), entries.get({KEYS[0]!r}), 'File too large' in str(told[0].message))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "cache")], capture_output=True, text=True, env=environment
    )
    assert done.stdout == "[False, False] 1 b'one' True\n", done.stderr
    assert os.listdir(tmp_path / "cache" / "things") == [f"{KEYS[0]}.x"]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 50_000


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a mount")
def test_a_disk_that_really_is_full_or_read_only(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k,mode=700", "none", str(tmp_path / "cache")], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("this process may not mount")
    try:
        entries = kept(tmp_path)
        assert entries.put(KEYS[0], b"one")
        with pytest.warns(RuntimeWarning, match="No space left"):
            assert not entries.put(KEYS[1], bytes(100_000))
        assert entries.get(KEYS[0]) == b"one" and len(os.listdir(tmp_path / "cache" / "things")) == 1
        store._warned.clear()
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path / "cache")], check=True)
        used_before = entries.entries()[0].used
        assert entries.get(KEYS[0]) == b"one" and entries.entries()[0].used == used_before
        with pytest.warns(RuntimeWarning, match="may make no file"):
            assert not entries.put(KEYS[1], b"two")
        entries.remove(KEYS[0])
        entries.sweep()
        assert trim(entries.entries(), -1) == [] and entries.get(KEYS[0]) == b"one"
    finally:
        subprocess.run(["umount", str(tmp_path / "cache")], check=True)


def test_what_a_killed_writer_left_is_swept(tmp_path: Path) -> None:
    entries = kept(tmp_path, sharded=True)
    entries.put(KEYS[0], b"one")
    left = tmp_path / "cache" / "things" / "00" / ".mapsto-unfinished-0123456789abcdef"
    left.write_bytes(bytes(1000))
    assert len(entries.entries()) == 1
    entries.sweep()
    assert not left.exists() and entries.get(KEYS[0]) == b"one"


def test_writers_that_are_killed_while_they_write(tmp_path: Path) -> None:
    """Large entries without end, and a kill in the midst of them: those that are there are whole, and fit."""
    bound, rng = 12 << 20, random.Random(0)
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from mapsto.store import EntryStore\n"
        f"entries = EntryStore(Path(sys.argv[1]), 'things', '.x', {bound})\n"
        "print('ready', flush=True)\n"
        "number = 0\n"
        "while True:\n"
        "    assert entries.put(f'{number % 50:064x}', bytes([number % 256]) * (4 << 20))\n"
        "    number += 1\n"
    )
    entries, cut = kept(tmp_path, bound), 0
    for _ in range(int(os.environ.get("MAPSTO_KILLS", "4"))):
        process = subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path / "cache")],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(SOURCE)},
        )
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        time.sleep(rng.uniform(0, 0.1))
        process.kill()
        process.wait()
        process.stdout.close()
        there = entries.entries()
        assert sum(e.bytes for e in there) <= bound
        bodies = [entries.get(e.path.stem) for e in there]
        assert all(body and body == body[:1] * (4 << 20) for body in bodies)
        left = list((tmp_path / "cache" / "things").glob(".mapsto-unfinished-*"))
        cut += len(left)
        assert len(left) <= 1 and entries.put(KEYS[999], b"next")
        assert not list((tmp_path / "cache" / "things").glob(".mapsto-unfinished-*"))
        assert sum(e.bytes for e in entries.entries()) <= bound
        entries.remove(KEYS[999])
    print(f"{cut} were cut short")
