"""A worker that a library ends says which test it ran, and the suite ends with it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_a_worker_that_a_library_ends_says_where(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(
        "from tests.ending import Running, tell_of_exits\n"
        "def pytest_configure(config):\n"
        "    if hasattr(config, 'workerinput'):\n"
        "        tell_of_exits()\n"
        "        config.pluginmanager.register(Running())\n"
    )
    (tmp_path / "test_it.py").write_text(
        "import ctypes\ndef test_well(): pass\ndef test_that_ends(): ctypes.CDLL(None).exit(3)\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-n", "1", "--max-worker-restart", "0", "-c", os.devnull, "."]
    done = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60
    )
    said = done.stdout + done.stderr
    assert done.returncode != 0
    assert "exit(3) while" in said and "::test_that_ends runs" in said and "in test_that_ends" in said
