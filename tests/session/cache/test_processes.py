"""Several processes at once, and processes that are killed: right answers, nothing left, no more than the bound.

MAPSTO_KILLS says how often a process is killed (`scripts/nightly`: 50).
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.session.cache.support import N, compiled, on, written

import mapsto
from mapsto.session.cache.executables import FOUND, executables, references

SOURCE = Path(mapsto.__file__).parents[1]
KILLS = int(os.environ.get("MAPSTO_KILLS", "4"))
# Rewrites its model with another factor, compiles it, and says what the answer should be and is; again and again.
SCRIPT = f"""
import sys
import numpy
import mapsto
from pathlib import Path
from mapsto.session.cache import executables, key
from tests.session.cache.support import written
key.own_code = lambda: "this code"
executables.BOUND = {{bound}}
path, factors = Path(sys.argv[1]), [float(f) for f in sys.argv[2:]]
print("ready", flush=True)
for factor in factors:
    written(path, factor)
    exe = mapsto.compile(path, threads=1)
    y = exe(numpy.ones({N}, numpy.float32))
    print(factor, float(y[0]), exe.cache_note, flush=True)
"""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return on(monkeypatch, tmp_path / "cache")


def started(cache: Path, model: Path, *factors: float, bound: int = 1 << 30) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join((str(SOURCE), str(SOURCE.parent))),
        "MAPSTO_CACHE": str(cache),
    }
    command = [sys.executable, "-c", SCRIPT.format(bound=bound), str(model), *map(str, factors)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )


def said(process: subprocess.Popen[str]) -> list[tuple[float, float, str]]:
    """(factor, answer, note) of each round."""
    out, err = process.communicate(timeout=300)
    assert process.returncode in (0, -signal.SIGKILL), err
    whole = [line for line in out.splitlines(keepends=True) if line.endswith("\n") and line != "ready\n"]
    lines = (line.split(" ", 2) for line in whole)
    return [(float(factor), float(answer), note.strip()) for factor, answer, note in lines]


def test_two_processes_at_once(cache: Path, tmp_path: Path) -> None:
    """The same models under the same keys at the same time, then each other's."""
    processes = [started(cache, tmp_path / f"{name}.onnx", 2, 3, 2, 4) for name in "ab"]
    rounds = [said(process) for process in processes]
    for found in rounds:
        assert [f for f, _, _ in found] == [2, 3, 2, 4] and all(f == y for f, y, _ in found)
    assert rounds[0][2][2] == FOUND
    assert len(executables(cache).entries()) == 3


def test_a_store_that_is_cleared_and_pruned_all_the_time(cache: Path, tmp_path: Path) -> None:
    """What one process removes, others have mapped or look for just now."""
    process = started(cache, tmp_path / "m.onnx", *[2, 3] * 6)
    while process.poll() is None:
        for store in (executables(cache), references(cache)):
            for entry in store.entries():
                entry.path.unlink(missing_ok=True)
            store.sweep()
        time.sleep(0.01)
    found = said(process)
    assert len(found) == 12 and all(f == y for f, y, _ in found)


def test_an_executable_outlives_its_entry(cache: Path, tmp_path: Path) -> None:
    import numpy as np

    model = written(tmp_path / "m.onnx", 2)
    compiled(model)
    exe = mapsto.compile(model, threads=1)
    assert exe.cache_note == FOUND
    for entry in executables(cache).entries():
        entry.path.unlink()
    assert (exe(np.ones(N, np.float32)) == 2).all() and exe.plan_text


def test_killed_at_random_moments(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After each kill: right answers from what is left, nothing unfinished after the next write, within the bound."""
    rng = random.Random(KILLS)
    bound = 200_000  # some of these executables
    monkeypatch.setattr("mapsto.session.cache.executables.BOUND", bound)
    model, seen = tmp_path / "m.onnx", 0
    for _ in range(KILLS):
        process = started(cache, model, *range(2, 40), bound=bound)
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        time.sleep(rng.uniform(0, 2.5))
        os.killpg(process.pid, signal.SIGKILL)
        found = said(process)
        seen += len(found)
        assert all(factor == answer for factor, answer, _ in found)
        assert sum(entry.bytes for entry in executables(cache).entries()) <= bound
        factor = float(rng.randrange(2, 6))
        written(model, factor)
        assert compiled(model)[0] == factor  # what was left is right, or made again
        written(model, 50 + factor)
        assert compiled(model)[0] == 50 + factor
        executables(cache).sweep()
        assert not list((cache / "executables").glob(".mapsto-unfinished-*"))
    assert len(executables(cache).entries()) >= 1
    print(f"{KILLS} kills, {seen} rounds")
