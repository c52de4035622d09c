"""Files are written whole or not at all, through links, in place where they are none; what is no file is not read."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mapsto.errors import ArgumentError, FileError, ModelError
from mapsto.files import check_writable, plain_file, taken_for, write_text, written

SOURCE = Path(__file__).parents[1] / "src"


def write(path: object, data: bytes = b"new") -> None:
    with written(path) as file:  # type: ignore[arg-type]
        file.write(data)


def run(script: str, **options: object) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    return subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, timeout=60, **options)  # type: ignore[call-overload,no-any-return]


# -- whole or not at all -----------------------------------------------------------------------------------------------


def test_a_new_file_has_the_usual_mode(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write(tmp_path / "a")
    finally:
        os.umask(before)
    assert (tmp_path / "a").read_bytes() == b"new" and stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a"
    target.write_bytes(b"old")
    for error in (KeyboardInterrupt, ValueError):
        with pytest.raises(error), written(target) as file:
            file.write(b"half")
            raise error
    assert target.read_bytes() == b"old" and os.listdir(tmp_path) == ["a"]


def test_a_full_disk_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    done = run(
        "import resource\nfrom mapsto.errors import FileError\nfrom mapsto.files import written\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        f"path = {str(tmp_path / 'a')!r}\n"
        "try:\n    with written(path) as file:\n        file.write(bytes(100_000))\n"
        "except FileError as error:\n    print(error)"
    )
    assert done.stdout.decode() == f"{tmp_path}/a cannot be written: File too large\n", done.stderr
    assert (tmp_path / "a").read_bytes() == b"old" and os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("durable", [True, False])
def test_a_file_has_its_name_when_its_bytes_are_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durable: bool
) -> None:
    """Or a crash could leave the name with nothing behind it; the folder, which holds the name, comes after that."""
    done: list[str] = []
    sync, rename = os.fsync, os.replace

    def synced(descriptor: int) -> None:
        status = os.fstat(descriptor)
        done.append("folder" if stat.S_ISDIR(status.st_mode) else f"{status.st_size} bytes")
        sync(descriptor)

    def renamed(source: str, target: str) -> None:
        done.append("name")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    with written(tmp_path / "a", durable=durable) as file:
        file.write(b"new")
    assert done == (["3 bytes", "name", "folder"] if durable else ["name"])
    assert (tmp_path / "a").read_bytes() == b"new"


def test_mode_and_owner_of_the_old_file_are_kept(tmp_path: Path) -> None:
    target = tmp_path / "a"
    target.write_bytes(b"old")
    target.chmod(0o604)
    if os.geteuid() == 0:
        os.chown(target, 1234, 2345)
    before = target.stat()
    write(target)
    after = target.stat()
    assert after.st_ino != before.st_ino
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)


def test_a_name_as_long_as_names_may_be(tmp_path: Path) -> None:
    write(tmp_path / ("n" * 255))
    assert (tmp_path / ("n" * 255)).read_bytes() == b"new"


def test_what_is_not_utf8_in_a_name(tmp_path: Path) -> None:
    write(os.fsencode(tmp_path) + b"/\xff\xe9")
    write_text(tmp_path / "t", "φ")
    assert sorted(os.listdir(os.fsencode(tmp_path))) == [b"t", b"\xff\xe9"] and (tmp_path / "t").read_text() == "φ"


# -- links and what is no file -----------------------------------------------------------------------------------------


def test_a_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    target, link, second = tmp_path / "store" / "a", tmp_path / "link", tmp_path / "second"
    target.write_bytes(b"old")
    link.symlink_to("store/a")
    second.symlink_to(link)
    write(second)
    assert second.is_symlink() and link.is_symlink() and target.read_bytes() == b"new"
    assert os.listdir(tmp_path / "store") == ["a"]


def test_a_link_to_nothing_makes_what_it_names(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("a")
    write(tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "a").read_bytes() == b"new"


def test_links_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(FileError, match="too many symbolic links"):
        write(tmp_path / "a")


def test_a_device_is_written_into_and_stays(tmp_path: Path) -> None:
    (tmp_path / "null").symlink_to("/dev/null")
    for path in ("/dev/null", tmp_path / "null"):
        write(path)
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode) and (tmp_path / "null").is_symlink()
    with pytest.raises(FileError, match="/dev/full cannot be written: No space left"):
        write("/dev/full")


def test_a_pipe_is_written_into(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    write(tmp_path / "pipe")
    reader.join(30)
    assert found == [b"new"] and stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_standard_output_is_written_where_it_stands(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom mapsto.files import written\nprint('first', flush=True)\n"
        "with written('/dev/stdout') as file:\n    file.write(b'second\\n')\nprint('third')"
    )
    assert run(script).stdout == b"first\nsecond\nthird\n"
    with open(tmp_path / "out", "wb") as out:
        environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
        subprocess.run([sys.executable, "-c", script], env=environment, stdout=out, timeout=60, check=True)
    assert (tmp_path / "out").read_bytes() == b"first\nsecond\nthird\n"


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "no name of a file"),
        ("a\0b", "no name of a file"),
        ("none/a", "there is no folder"),
        ("folder", "it is a folder"),
        ("n" * 300, "File name too long"),
        ("socket", "No such device"),
    ],
)
def test_what_cannot_be_written_is_told_beforehand_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        with pytest.raises(FileError, match=message):
            write(path)
    if path != "socket":
        with pytest.raises(FileError, match=message):
            check_writable(path)
    for wrong in (5, None, 1.5, [], object()):
        with pytest.raises(ArgumentError, match="expected a path"):
            write(wrong)
    assert sorted(os.listdir(tmp_path)) == ["folder", "socket"]


# -- what killed writers leave -----------------------------------------------------------------------------------------

_WRITER = """
import sys, time
from mapsto.files import written
with written(sys.argv[1]) as file:
    file.write(b"half")
    file.flush()
    print("writing", flush=True)
    time.sleep(60)
"""


def test_what_a_killed_writer_left_goes_with_the_next_save_and_a_living_ones_stays(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    command = [sys.executable, "-c", _WRITER, str(tmp_path / "a")]
    writers = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) for _ in range(2)]
    try:
        for writer in writers:
            assert writer.stdout is not None and writer.stdout.readline() == b"writing\n"
        assert len(os.listdir(tmp_path)) == 2
        writers[0].send_signal(signal.SIGKILL)
        writers[0].wait()
        assert len(os.listdir(tmp_path)) == 2  # nobody has cleaned up yet
        (tmp_path / ".mapsto-unfinished-notours").write_bytes(b"a user's")
        write(tmp_path / "b")
        left = sorted(os.listdir(tmp_path))
        assert len(left) == 3 and left[1:] == [".mapsto-unfinished-notours", "b"]
        writers[1].send_signal(signal.SIGKILL)
        writers[1].wait()
        write(tmp_path / "b")
        assert sorted(os.listdir(tmp_path)) == [".mapsto-unfinished-notours", "b"]
    finally:
        for writer in writers:
            writer.kill()
            writer.wait()
            assert writer.stdout is not None
            writer.stdout.close()


def test_writers_at_once_each_write_all_of_theirs(tmp_path: Path) -> None:
    failed: list[BaseException] = []

    def many(letter: bytes) -> None:
        try:
            for _ in range(30):
                write(tmp_path / "a", letter * 10_000)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=many, args=(letter,)) for letter in (b"x", b"y", b"z")]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        if (tmp_path / "a").exists():
            content = (tmp_path / "a").read_bytes()
            assert len(content) == 10_000 and len(set(content)) == 1
        time.sleep(0.001)
    assert not failed and os.listdir(tmp_path) == ["a"]


# -- reading -----------------------------------------------------------------------------------------------------------


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")  # opened without care, it waits for a writer
    (tmp_path / "loop").symlink_to("loop")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        for path, said in [
            (tmp_path / "pipe", "a pipe"),
            (tmp_path, "a folder"),
            (tmp_path / "socket", "a socket"),
            ("/dev/zero", "a device"),
            (tmp_path / "none", "No such file"),
            (tmp_path / "loop", "symbolic links"),
        ]:
            with pytest.raises(ModelError, match=f"{path}: cannot be read .*{said}"), plain_file(path, "model"):
                pass


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "git lfs pull"),
        (b"PK\x03\x04rest", "zip"),
        (b"\x93NUMPY", "array"),
        (b"<!DOCTYPE html>", "web page"),
        (bytes(64), "zeros"),
    ],
)
def test_what_is_taken_for_a_model_is_recognised(head: bytes, said: str) -> None:
    assert said in (taken_for(head) or "")
    assert taken_for(b"\x08\x08\x12\x07pytorch") is None and taken_for(b"") is None
