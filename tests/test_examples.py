"""The examples run as their pages say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_a_network_writes_tokens_the_same_ones_every_time() -> None:
    command = [sys.executable, str(EXAMPLES / "decode.py"), "--tokens", "12", "--layers", "2", "--threads", "1"]
    first, second = (subprocess.run(command, check=True, capture_output=True, text=True).stdout for _ in range(2))
    tokens, rate = first.splitlines()
    assert len(tokens.split()) == 12 and all(0 <= int(token) < 1000 for token in tokens.split())
    assert rate.endswith("tokens a second") and second.splitlines()[0] == tokens
