"""`python -m tests.fuzz`: tries damaged files until the time is up; ends with 1 where something was found."""

from __future__ import annotations

import argparse
import collections
import gc
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tests.fuzz.children import Attempt, Children
from tests.fuzz.findings import Findings
from tests.fuzz.targets import TARGETS, Target
from tests.fuzz.worker import install

ROUND = 15  # cases of a target's share of one


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz",
        description="Tries damaged models, artifacts, plans and machine files. Each ends in an error of mapsto.errors, "
        "or in a run between pages that fault, whose results are the numpy reference's; all else is a finding.",
    )
    parser.add_argument("--minutes", type=float, default=60, help="how long (default: 60)")
    parser.add_argument("--cases", type=int, help="how many cases, whatever time they take")
    parser.add_argument("--seed", type=int, help="what cases are drawn by (else drawn, and printed)")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument(
        "--target", choices=["all", *TARGETS], default="all", help="what is damaged (default: all, by turns)"
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes; each has a seed of its own")
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="findings are kept here, as files, with how they came"
    )
    parser.add_argument("--replay", type=Path, metavar="FILE", help="tries one file that was kept, and nothing else")
    return parser.parse_args()


def main() -> int:
    asked = arguments()
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    os.environ["MAPSTO_MACHINE"] = "typical"  # what this machine was measured at does not decide what is found
    if asked.replay:
        return replay(asked.replay)
    seed = random.SystemRandom().randrange(1 << 32) if asked.seed is None else asked.seed
    if asked.jobs > 1:
        return jobs(asked, seed)
    print(f"seed {seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        return Session(asked, seed, Path(folder)).run()


def jobs(asked: argparse.Namespace, seed: int) -> int:
    """Several of this, side by side, by seeds of their own."""
    started = []
    for k in range(asked.jobs):
        command = [sys.executable, "-m", "tests.fuzz", "--minutes", str(asked.minutes), "--seed", str(seed + k)]
        command += ["--target", asked.target, "--first", str(asked.first)]
        command += ["--keep", str(asked.keep / str(k))] if asked.keep else []
        command += ["--cases", str(asked.cases)] if asked.cases else []
        started.append(subprocess.Popen(command))
    return max(process.wait() for process in started)


class Session:
    """One run of the fuzzer."""

    def __init__(self, asked: argparse.Namespace, seed: int, folder: Path) -> None:
        self.asked, self.seed, self.folder = asked, seed, folder
        self.findings = Findings(asked.keep)
        self.counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
        tempfile.tempdir = str(folder)

    def children(self, attempt: Attempt) -> Children:
        return Children(attempt, lambda: install(self.folder / "objects"))

    def run(self) -> int:
        chosen = [t for t in TARGETS.values() if self.asked.target in ("all", t.name)]
        for target in chosen:
            target.made(self.seed, 0, frozenset())  # what seeds need is loaded before the first child
        gc.collect()
        gc.freeze()
        began, spent = time.monotonic(), _spent()
        for target, numbers in self._rounds(chosen, began):
            self._round(target, numbers)
        self._tell(time.monotonic() - began, _spent() - spent)
        return 1 if self.findings.found else 0

    def _rounds(self, chosen: list[Target], began: float) -> Iterator[tuple[Target, range]]:
        at = dict.fromkeys((t.name for t in chosen), self.asked.first)
        done = 0
        while True:
            for target in chosen:
                count = ROUND * target.share
                if self.asked.cases is not None:
                    count = min(count, self.asked.cases - done)
                if count <= 0 or (self.asked.cases is None and time.monotonic() - began > 60 * self.asked.minutes):
                    return
                yield target, range(at[target.name], at[target.name] + count)
                at[target.name] += count
                done += count

    def _round(self, target: Target, numbers: range) -> None:
        attempt = self.children(lambda number, desk: target.tried(target.made(self.seed, number, frozenset()), desk))
        for number, outcome in attempt.tried(numbers):
            told = outcome.kind if not outcome.where or outcome.finding else f"{outcome.kind}: {outcome.where}"
            self.counts[target.name][("FOUND " if outcome.finding else "") + told] += 1
            if outcome.finding:
                found = self.findings.add(target, self.seed, number, outcome, self.children)
                if found is not None:
                    print(found.text(), flush=True)

    def _tell(self, seconds: float, spent: float) -> None:
        total = sum(sum(counter.values()) for counter in self.counts.values())
        rate = total / max(spent, 1e-9)
        print(f"\n{total} cases in {seconds:.0f} s ({spent:.0f} s of processor time, {rate:.1f} cases a second of it)")
        for name, counter in self.counts.items():
            cases = sum(counter.values())
            print(f"{name}: {cases}")
            for kind, count in counter.most_common():
                print(f"  {count:8} {100 * count / cases:5.1f} %  {kind}")
        print(f"{len(self.findings.found)} findings")


def _spent() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def replay(path: Path) -> int:
    """Tries a file again; beside it may lie what is known of it (.json)."""
    beside = path.with_suffix(".json")
    told: dict[str, Any] = json.loads(beside.read_text()) if beside.exists() else {}
    fits = [t for t in TARGETS.values() if t.name == told.get("target") or (not told and t.suffix == path.suffix)]
    if not fits:
        print(f"{path}: of no target's kind; there are {', '.join(t.suffix for t in TARGETS.values())}")
        return 2
    target = fits[0]
    if path.suffix == ".json":
        path = path.with_suffix(target.suffix)
    if path.with_suffix(".npz").exists():
        with np.load(path.with_suffix(".npz")) as feed:
            told["feed"] = dict(feed)
    case = target.from_file(path.read_bytes(), told)
    with tempfile.TemporaryDirectory() as folder:
        children = Children(lambda number, desk: target.tried(case, desk), lambda: install(Path(folder)))
        ((_, outcome),) = children.tried([0])
    print(f"{outcome.kind}: {outcome.where}\n{outcome.message}")
    return 1 if outcome.finding else 0


if __name__ == "__main__":
    sys.exit(main())
