"""The command as a process: exit codes, closed pipes, streams that are not there, names that are not text."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from mapsto.cli.entry import main

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-c", "from mapsto.cli import main; main()"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, the same compiled, and files that are none."""
    made = tmp_path_factory.mktemp("manners")
    text = '<ir_version: 8, opset_import: ["" : 17]> twice (float[2, 3] x) => (float[2, 3] y) { y = Add(x, x) }'
    onnx.save(onnx.parser.parse_model(text), made / "m.onnx")
    assert run(made, "compile", "m.onnx", "-o", "m.mapsto").returncode == 0
    x = np.ones((2, 3), np.float32)
    np.savez(made / "x.npz", x=x)
    np.savez_compressed(made / "packed.npz", x=np.random.default_rng(0).random((200, 300), np.float32))
    whole = (made / "packed.npz").read_bytes()
    (made / "cut.npz").write_bytes(whole[: len(whole) // 2])
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 255
    (made / "flipped.npz").write_bytes(flipped)
    np.save(made / "pickle.npy", np.array([{}], object), allow_pickle=True)
    np.save(made / "text.npy", np.array(["a"]))
    (made / "empty").write_bytes(b"")
    (made / "text.onnx").write_text("hello\n")
    (made / "lfs.onnx").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    (made / "cut.mapsto").write_bytes((made / "m.mapsto").read_bytes()[:-1])
    os.mkfifo(made / "pipe")
    return made


def environment(folder: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT / "src"), "MAPSTO_CACHE": str(folder / "cache"), **more}


def run(folder: Path, *arguments: object, **options: Any) -> subprocess.CompletedProcess[bytes]:
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": environment(folder), **options}
    command = [*COMMAND, *(a if isinstance(a, bytes) else str(a) for a in arguments)]
    return subprocess.run(command, cwd=folder, timeout=120, **options)


# -- exit codes --------------------------------------------------------------------------------------------------------

WRONG = [
    [],
    ["walk"],
    ["run"],
    ["run", "none.onnx"],
    ["run", "."],
    ["run", "pipe"],
    ["run", "/dev/null"],
    ["run", "empty"],
    ["run", "text.onnx"],
    ["run", "lfs.onnx"],
    ["run", "x.npz"],
    ["run", "cut.mapsto"],
    ["run", "m.onnx", "--what"],
    ["run", "m.onnx", "--threads", "0"],
    ["run", "m.onnx", "--threads", "1.5"],
    ["run", "m.onnx", "--threads", "1000000000"],
    ["run", "m.onnx", "--repeat", "0"],
    ["run", "m.onnx", "--seed", "-1"],
    ["run", "m.onnx", "--shape", "x"],
    ["run", "m.onnx", "--shape", "x=2,a"],
    ["run", "m.onnx", "--shape", "x=2,99999999999999999999999"],
    ["run", "m.onnx", "--shape", "z=2,3"],
    ["run", "m.onnx", "--inputs", "none.npz"],
    ["run", "m.onnx", "--inputs", "pipe"],
    ["run", "m.onnx", "--inputs", "empty"],
    ["run", "m.onnx", "--inputs", "cut.npz"],
    ["run", "m.onnx", "--inputs", "flipped.npz"],
    ["run", "m.onnx", "--inputs", "m.onnx"],
    ["run", "m.onnx", "--input", "x=pickle.npy"],
    ["run", "m.onnx", "--input", "x=text.npy"],
    ["run", "m.onnx", "--input", "x=[[1], [2, 3]]"],
    ["run", "m.onnx", "--input", "x=" + "[" * 10_000],
    ["run", "m.onnx", "--input", "x=lunch"],
    ["run", "m.onnx", "--output", "none/a.npz"],
    ["run", "m.onnx", "--output", "."],
    ["run", "m.onnx", "--output", "m.onnx"],
    ["run", "m.onnx", "--data-root", "none"],
    ["compile", "m.onnx"],
    ["compile", "m.onnx", "-o", "none/a"],
    ["compile", "m.onnx", "-o", "m.onnx"],
    ["compile", "m.onnx", "-o", "a", "--plan", "none"],
    ["compile", "m.onnx", "-o", "a", "--plan", "m.mapsto"],
    ["compile", "m.onnx", "-o", "a", "--plan", "text.onnx"],
    ["bench", "m.onnx", "--against", "lunch"],
    ["bench", "m.onnx", "--seconds", "nan"],
    ["check", "none.onnx"],
    ["plan", "pipe"],
    ["explain", "m.mapsto", "nothing"],
    ["graph", "m.onnx", "--after", "lunch"],
    ["graph", "m.mapsto"],
    ["train"],
    ["train", "none.toml"],
    ["train", "pipe"],
    ["train", "text.onnx"],
    ["train", "lfs.onnx", "--set", "x"],
    ["search", "m.mapsto"],
    ["search", "empty", "--trials", "2"],
    ["verify", "m.onnx"],
    ["verify", "cut.mapsto"],
    ["verify", "pipe"],
]


@pytest.mark.parametrize("arguments", WRONG, ids=lambda a: " ".join(a)[:40])
def test_every_error_of_the_user_is_2_and_one_message_and_in_json(
    folder: Path, arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MAPSTO_CACHE", str(folder / "cache"))
    monkeypatch.setattr(sys, "argv", ["mapsto", *arguments, *(["--json"] if arguments else [])])
    before = sorted(os.listdir(folder))
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    assert ended.value.code == 2 and err.startswith("mapsto: error: ") and "Traceback" not in err
    if arguments:
        told = json.loads(out)
        assert set(told) == {"error", "message", "exit_code"} and told["exit_code"] == 2 and told["error"]
        assert err == f"mapsto: error: {told['message']}\n"
    assert sorted(os.listdir(folder)) == before


def test_what_is_right_is_0(folder: Path) -> None:
    for arguments in (
        ["--help"],
        ["run", "--help"],
        ["train", "--help"],
        ["--version"],
        ["devices", "--json"],
        ["run", "m.onnx", "--inputs", "x.npz", "-o", "/dev/null"],
        ["run", "m.mapsto", "--json"],
        ["compile", "m.onnx", "-o", "/dev/null"],
        ["plan", "m.mapsto"],
        ["verify", "m.mapsto"],
    ):
        done = run(folder, *arguments)
        assert (done.returncode, done.stderr) == (0, b""), arguments


def test_verify_says_what_the_file_is(folder: Path) -> None:
    told = json.loads(run(folder, "verify", "m.mapsto", "--json").stdout)
    assert told["ok"] and told["bytes"] == (folder / "m.mapsto").stat().st_size and told["target"]["arch"]
    damaged = bytearray((folder / "m.mapsto").read_bytes())
    damaged[-1] ^= 4  # filling, which nothing reads
    (folder / "damaged").write_bytes(damaged)
    done = run(folder, "verify", "damaged")
    assert done.returncode == 2 and b"damaged: damaged: bytes that must be zero are not" in done.stderr


@pytest.mark.parametrize("debug", ["", "1"])
def test_a_fault_of_ours_is_3(folder: Path, debug: str) -> None:
    script = (
        "import mapsto.session.compile as c\n"
        "def broken(*a, **k):\n    raise ZeroDivisionError('oh')\n"
        "c.decide = broken\nfrom mapsto.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "run", "m.onnx", "--json", "--no-cache"],
        cwd=folder,
        capture_output=True,
        env=environment(folder, MAPSTO_DEBUG=debug),
        timeout=120,
    )
    assert done.returncode == 3 and b"internal error: ZeroDivisionError: oh" in done.stderr and b"report" in done.stderr
    assert json.loads(done.stdout) | {"message": ""} == {"error": "InternalError", "message": "", "exit_code": 3}
    assert (b"Traceback" in done.stderr) == bool(debug)


def test_what_is_not_installed_is_told_with_how_to_install_it(folder: Path) -> None:
    script = "import sys\nsys.modules['onnxruntime'] = None\nfrom mapsto.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", script, "check", "m.onnx", "--no-reference"],
        cwd=folder,
        capture_output=True,
        env=environment(folder),
        timeout=120,
    )
    assert done.returncode == 2 and b"pip install onnxruntime" in done.stderr


# -- streams -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["run", "--help"],
        ["plan", "m.mapsto"],
        ["plan", "m.mapsto", "--json"],
        ["run", "m.mapsto"],
        ["devices"],
        ["run", "m.mapsto", "-o", "/dev/stdout"],
    ],
    ids=" ".join,
)
def test_a_reader_that_has_had_enough_is_no_error(folder: Path, arguments: list[str]) -> None:
    """Standard output is a pipe whose other end is closed before anything is written."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = run(folder, *arguments, stdout=writer)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_messages_that_nobody_reads_change_no_exit_code(folder: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        for arguments, code in (
            (["run", "m.mapsto"], 0),
            (["run", "none.onnx"], 2),
            (["run", "none.onnx", "--json"], 2),
        ):
            assert run(folder, *arguments, stderr=writer).returncode == code
            done = run(folder, *arguments, stdout=writer, stderr=writer)
            assert done.returncode == code
    finally:
        os.close(writer)


@pytest.mark.parametrize("closed", [[0], [1], [2], [0, 1, 2]], ids=str)
def test_standard_streams_that_are_closed(folder: Path, closed: list[int]) -> None:
    def close() -> None:
        for number in closed:
            os.close(number)

    for arguments, code in (
        (["run", "m.onnx", "--input", "x=ones", "-o", "closed.npz"], 0),
        (["run", "none.onnx"], 2),
        (["plan", "m.mapsto", "--json"], 0),
    ):
        assert run(folder, *arguments, preexec_fn=close).returncode == code
    with np.load(folder / "closed.npz") as found:
        np.testing.assert_array_equal(found["y"], np.full((2, 3), 2))


def test_a_full_disk_behind_standard_output(folder: Path) -> None:
    with open("/dev/full", "wb") as full:
        done = run(folder, "plan", "m.mapsto", stdout=full)
    assert (done.returncode, done.stderr) == (
        2,
        b"mapsto: error: standard output cannot be written: No space left on device\n",
    )


def test_an_artifact_to_standard_output_has_nothing_else_in_it(folder: Path) -> None:
    done = run(folder, "compile", "m.onnx", "-o", "/dev/stdout")
    assert done.returncode == 0 and done.stdout == (folder / "m.mapsto").read_bytes() and b"compiled in" in done.stderr


# -- names, places, encodings ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["", "ascii", "latin-1"])
def test_names_that_are_not_text(folder: Path, encoding: str) -> None:
    more = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"} if encoding else {}
    options = {"env": environment(folder, PYTHONIOENCODING=encoding, **more)}
    name = b"b\xff\xe9\xcf\x86"
    (folder / os.fsdecode(name + b".onnx")).write_bytes((folder / "m.onnx").read_bytes())
    for arguments in (
        ["compile", name + b".onnx", "-o", name + b".mapsto"],
        ["run", name + b".mapsto", "-o", name + b".npz"],
        ["run", name + b".onnx", "--inputs", name + b".npz", "--json"],
        ["verify", name + b".mapsto"],
        ["run", "--help"],
    ):
        done = run(folder, *arguments, **options)
        assert done.returncode == 0, done.stderr
    done = run(folder, "run", name, **options)
    assert done.returncode == 2 and b"there is no model file b" in done.stderr


def test_a_folder_that_may_not_be_written_is_told_before_any_work(folder: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write anywhere")
    (folder / "closed").mkdir(mode=0o500)
    done = run(folder / "closed", "run", "../m.onnx", "-o", "a.npz", env=environment(folder))
    assert done.returncode == 2 and b"may make no file" in done.stderr
    assert run(folder / "closed", "run", "../m.onnx", env=environment(folder)).returncode == 0


def test_a_working_folder_that_is_gone(folder: Path) -> None:
    (folder / "gone").mkdir()
    script = f'cd {folder}/gone && rmdir ../gone && exec "$@"'
    command = ["sh", "-c", script, "sh", *COMMAND, "run", str(folder / "m.onnx"), "--input", "x=ones"]
    done = subprocess.run(command, capture_output=True, env=environment(folder), timeout=120)
    assert done.returncode == 0, done.stderr


# -- interruption ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("whole_group", [True, False])
def test_an_interruption_is_130_and_quiet(folder: Path, whole_group: bool) -> None:
    """While it compiles: it is stopped where a `progress` would tell of the first function."""
    script = (
        "import time\nimport mapsto.session.compile as c\n"
        "def slow(*a, **k):\n    print('here', flush=True)\n    time.sleep(100)\n"
        "c.decide = slow\nfrom mapsto.cli import main; main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, "compile", "m.onnx", "-o", "stopped.mapsto", "--no-cache"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(folder),
        start_new_session=True,
    )
    assert process.stdout is not None and process.stdout.readline() == b"here\n"
    time.sleep(0.2)
    if whole_group:
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, b"", b"")
    assert not (folder / "stopped.mapsto").exists()
