"""Steps of `mapsto.train.Trainer` beside torch's own: eager, with its fused optimizer and images channels last, and
that by torch's own compiler (inductor; where it finds no C++ compiler its column is empty).

    python -m benchmarks.training [--only NAME] [--samples 9] [--profile]

One thread; a sample is a step (forward, loss, backward, Adam), in the process's own time, which neighbours do not add
to; of each way the median of samples, taken by turns, and the least. --profile: where our step's time goes, by what its
kernels compute.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from benchmarks.models import machine_line
from benchmarks.modules import WORKS
from mapsto.cli.output import seconds_text, table
from mapsto.train import Adam, Trainer

HEADERS = ["module", "eager", "fused", "inductor", "mapsto", "times the fastest", "least, each"]
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


def row_of(name: str, samples: int, profile: bool) -> list[str]:
    torch.manual_seed(0)
    trainer, batch = _ours(name)
    ways: dict[str, Callable[[], object]] = {
        "eager": _peer(name, False), "fused": _peer(name, True), "inductor": _peer(name, True, True),
        "mapsto": lambda: trainer.step(batch),
    }  # fmt: skip
    try:
        ways["inductor"]()
    except Exception as error:  # no compiler, or none that it can use
        warnings.warn(f"{name}: inductor: {type(error).__name__}", stacklevel=1)
        del ways["inductor"]
    took: dict[str, list[float]] = {way: [] for way in ways}
    for k in range(samples + 2):
        for way, step in ways.items():
            begun = time.process_time()
            step()
            if k >= 2:  # memory is touched, caches are warm
                took[way].append(time.process_time() - begun)
    if profile:
        print(f"{name}\n{_profile(trainer, batch)}\n")
    median = {way: statistics.median(each) for way, each in took.items()}
    least = ", ".join(seconds_text(min(each)) for each in took.values())
    ratio = min(each for way, each in median.items() if way != "mapsto") / median["mapsto"]
    times = (seconds_text(median[way]) if way in median else "" for way in ("eager", "fused", "inductor", "mapsto"))
    return [name, *times, f"{ratio:.2f}", least]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", default=[], help="this module only; may be repeated")
    parser.add_argument("--samples", type=int, default=9, help="of each way (default 9)")
    parser.add_argument("--profile", action="store_true", help="where our step's time goes")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows = [row_of(n, asked.samples, asked.profile) for n in WORKS if not asked.only or n in asked.only]
    print(table(HEADERS, rows))
    print(machine_line(1), f"torch {torch.__version__}", sep="\n")


if __name__ == "__main__":
    main()
