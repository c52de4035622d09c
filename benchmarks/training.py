"""Steps of `mapsto.train.Trainer` beside torch's own: eager, with its fused optimizer and images channels last, and
that by torch's own compiler (inductor; where it finds no C++ compiler its column is empty).

    python -m benchmarks.training [--only NAME] [--samples 9] [--profile] [--without WAY] [--jax PYTHON]

One thread; a sample is a step (forward, loss, backward, Adam), in the process's own time, which neighbours do not add
to; of each way the median of samples, taken by turns, and the least. --profile: where our step's time goes, by what its
kernels compute. --without: a peer that is left out (one that ends the process). --jax: by JAX too, of the interpreter
that has it, for the modules that `jax_training` has.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from benchmarks.models import machine_line
from benchmarks.modules import WORKS
from mapsto.cli.output import seconds_text, table
from mapsto.train import Adam, Trainer

WAYS = ("eager", "fused", "inductor", "jax", "mapsto")
HEADERS = ["module", *WAYS, "times the fastest", "least, each"]
_LINES = 16  # of a profile


def _peer(name: str, fused: bool, compiled: bool = False) -> Callable[[], object]:
    work = WORKS[name]
    module, x = work.made().train(), torch.randn(work.training)
    if fused and x.dim() == 4:
        module, x = module.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(module.parameters(), fused=fused)
    labels = torch.randint(0, 10, (len(x),))
    run = torch.compile(module) if compiled else module

    def step() -> object:
        optimizer.zero_grad()
        loss = functional.cross_entropy(run(x), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def _ours(name: str) -> tuple[Trainer, dict[str, Any]]:
    work = WORKS[name]
    module, x = work.made(), torch.randn(work.training)
    trainer = Trainer(module, "cross_entropy", Adam(), example_inputs=(x,), threads=1)
    (taken,) = (v.name for v in trainer.trained().inputs)
    return trainer, {taken: x.numpy(), "label": np.random.default_rng(0).integers(0, 10, len(x))}


def _profile(trainer: Trainer, batch: dict[str, Any]) -> str:
    rounds = [trainer.profile(batch) for _ in range(5)]
    found: dict[str, list[float]] = {}
    for times in zip(*rounds, strict=True):
        found.setdefault(times[0].label.partition(" ")[2], []).append(min(t.nanoseconds for t in times) * 1e-9)
    rows = sorted(((sum(each), len(each), label) for label, each in found.items()), reverse=True)[:_LINES]
    return table(["time", "steps", "what"], [[seconds_text(total), str(count), label] for total, count, label in rows])


def _timed(step: Callable[[], object]) -> Callable[[], float]:
    def timed() -> float:
        begun = time.process_time()
        step()
        return time.process_time() - begun

    return timed


def _jax(python: Path, name: str) -> Callable[[], float] | None:
    """A step in a process that has JAX; None where that has no such module."""
    script = Path(__file__).with_name("jax_training.py")
    child = subprocess.Popen([python, script, name], stdin=-1, stdout=-1, text=True)
    assert child.stdin is not None and child.stdout is not None
    given, told = child.stdin, child.stdout

    def timed() -> float:
        print(file=given, flush=True)
        return float(told.readline())

    try:
        timed()
    except (OSError, ValueError):
        warnings.warn(f"{name}: jax: {python} gives no step of it", stacklevel=1)
        return None
    return timed


def row_of(name: str, samples: int, profile: bool, jax: Path | None, without: Sequence[str]) -> list[str]:
    torch.manual_seed(0)
    trainer, batch = _ours(name)
    ways = {
        "eager": _timed(_peer(name, False)), "fused": _timed(_peer(name, True)),
        "inductor": _timed(_peer(name, True, True)), "mapsto": _timed(lambda: trainer.step(batch)),
    }  # fmt: skip
    ways = {way: step for way, step in ways.items() if way not in without}
    try:
        ways.get("inductor", lambda: 0.0)()
    except Exception as error:  # no compiler, or none that it can use
        warnings.warn(f"{name}: inductor: {type(error).__name__}", stacklevel=1)
        del ways["inductor"]
    if jax is not None and (found := _jax(jax, name)) is not None:
        ways["jax"] = found
    took: dict[str, list[float]] = {way: [] for way in ways}
    for k in range(samples + 2):
        for way, step in ways.items():
            seconds = step()
            if k >= 2:  # memory is touched, caches are warm
                took[way].append(seconds)
    if profile:
        print(f"{name}\n{_profile(trainer, batch)}\n")
    median = {way: statistics.median(each) for way, each in took.items()}
    least = ", ".join(f"{way} {seconds_text(min(took[way]))}" for way in WAYS if way in took)
    ratio = min(each for way, each in median.items() if way != "mapsto") / median["mapsto"]
    times = (seconds_text(median[way]) if way in median else "" for way in WAYS)
    return [name, *times, f"{ratio:.2f}", least]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", default=[], help="this module only; may be repeated")
    parser.add_argument("--samples", type=int, default=9, help="of each way (default 9)")
    parser.add_argument("--profile", action="store_true", help="where our step's time goes")
    parser.add_argument("--without", action="append", default=[], choices=WAYS[:-1], help="not this way; repeatable")
    parser.add_argument("--jax", type=Path, help="an interpreter that has JAX")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    names = [name for name in WORKS if not asked.only or name in asked.only]
    rows = [row_of(name, asked.samples, asked.profile, asked.jax, asked.without) for name in names]
    print(table(HEADERS, rows))
    print(machine_line(1), f"torch {torch.__version__}", sep="\n")


if __name__ == "__main__":
    main()
