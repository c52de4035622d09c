"""Files that ask for much end in an error of ours or in a right plan, in little memory; none crashes or hangs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MEMORY = 1 << 30
SECONDS = 2.0  # of processor time, as `trying` measures it
# `trying` times a loop to know how fast a processor is; others than the reference were up to 1.5 times slower at this.
MARGIN = 2.0
# Honest work: thousands of parts that are built and compiled one by one, or large constants that are folded, in time
# that is linear in them.
HONEST = {
    "branches_both_ways": 8.0,
    "concat_of_many": 5.0,
    "empty_initializers": 5.0,
    "graph_of_many_open_inputs": 5.0,
    "inputs_to_outputs": 6.0,
    "many_convolutions_of_one_constant": 5.0,
    "one_constant_divided_by_many_times": 4.0,
    "one_weight_scaled_many_times": 4.0,
    "sizes_put_together": 5.0,
}


def outcomes(kind: str, *sizes: int) -> list[dict[str, object]]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.hostile.trying", kind, *map(str, sizes)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def bad(found: list[dict[str, object]]) -> list[str]:
    return [
        f"{case['name']}: {case['kind']} {case['message']} ({case['seconds']:.1f} s, {int(case['bytes']) >> 20} MiB)"
        for case in found
        if str(case["kind"]).startswith(("crashed", "killed"))
        or float(case["bytes"]) > MEMORY
        or float(case["seconds"]) > MARGIN * HONEST.get(str(case["name"]), SECONDS)
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "least"), [("growing", 26), ("wide", 50), ("many", 40), ("costly", 21)])
def test_files_that_ask_for_much(kind: str, least: int) -> None:
    found = outcomes(kind)
    assert len(found) >= least
    assert bad(found) == []


@pytest.mark.slow
@pytest.mark.parametrize("size", [10**6, 10**9, 2**40, 2**62])
def test_one_number_that_asks_for_much(size: int) -> None:
    found = outcomes("scaled", size)
    assert len(found) > 80
    assert bad(found) == []


def test_the_trial_sees_a_crash_and_too_much_memory() -> None:
    from tests.hostile.trying import tried

    def crash() -> None:
        raise MemoryError

    makes = {
        "crash": lambda: crash,
        "memory": lambda: lambda: bytearray(1 << 33),
        "kill": lambda: lambda: os.kill(os.getpid(), 9),
        "large": lambda: lambda: bytearray(b"x") * (1 << 30),
        "small": lambda: lambda: None,
    }
    found = dict(tried(makes, lambda model: model()))
    assert list(found) == list(makes)
    assert found["crash"].kind == found["memory"].kind == "crashed: MemoryError"
    assert found["kill"].kind == "killed by signal 9"
    assert found["large"].bytes > 1 << 29 > found["small"].bytes


def test_the_trial_counts_the_time_of_the_processes_that_a_model_starts() -> None:
    from tests.hostile.trying import tried

    def started() -> None:
        subprocess.run([sys.executable, "-c", "sum(range(10**7))"], check=True)

    ((_, found),) = tried({"started": lambda: started}, lambda model: model())
    assert found.seconds > 0.02
