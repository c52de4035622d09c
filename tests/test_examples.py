"""The examples run as their pages say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_a_network_writes_tokens_the_same_ones_every_time() -> None:
    command = [sys.executable, str(EXAMPLES / "decode.py"), "--tokens", "12", "--layers", "2", "--threads", "1"]
    first, second = (subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in range(2))
    tokens, rate = first.splitlines()
    assert len(tokens.split()) == 12 and all(0 <= int(token) < 1000 for token in tokens.split())
    assert rate.endswith("tokens a second") and second.splitlines()[0] == tokens


def test_a_placement_is_printed_and_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture = tmp_path / "placement.png"
    command = [sys.executable, str(EXAMPLES / "placement.py"), "--machine", "conv-board", "-o", str(picture)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=tmp_path)
    placed, timeline, last = done.stdout.rstrip("\n").split("\n\n")
    head, host, *works = placed.splitlines()
    assert head.startswith("one run on conv-board: ") and host.startswith("all on cpu: ")
    assert {line.split()[2] for line in works} >= {"cpu", "conv"} and any("max_pool" in line for line in works)
    lanes = [line.split(" us  ")[1] for line in timeline.splitlines()]
    assert sum(not lane.startswith("bus ") for lane in lanes) == len(works) < len(lanes)
    assert last == f"the picture is in {picture}" and list(tmp_path.iterdir()) == [picture]
    data = picture.read_bytes()
    assert data.startswith(b"\x89PNG\r\n") and len(data) > 10_000
