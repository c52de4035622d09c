"""python -m tests.differential: many cases, by the hour."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter

from mapsto.devices.cpu.workers import Workers
from tests.differential.forms import FORMS
from tests.differential.trying import Finding, executing, form_of, tried


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.differential", description=__doc__)
    parser.add_argument("--cases", type=int, default=5000, help="runs that are compared (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the first form (default: %(default)s)")
    parser.add_argument("--op", action="append", choices=sorted(FORMS), metavar="OP", help="these ops only")
    parser.add_argument("--replay", metavar="OP:SEED", help="one form again, with its model and inputs")
    asked = parser.parse_args()
    with Workers(cache=False) as workers:
        if asked.replay:
            op, seed = asked.replay.split(":")
            return _replayed(op, int(seed), workers)
        return _many(asked.op or sorted(FORMS), asked.cases, asked.seed, workers)


def _replayed(op: str, seed: int, workers: Workers) -> int:
    form, feeds, opened = form_of(op, seed)
    print(form.op, form.opset, dict(form.attributes), form.constants, "open dims" if opened else "")
    for feed in feeds:
        print({name: (str(a.dtype), a.shape, a if a.size < 20 else "...") for name, a in feed.items()})
    findings = list(tried(op, seed, executing(workers), Counter()))
    print(*findings, sep="\n")
    return int(bool(findings))


def _many(ops: list[str], cases: int, seed: int, workers: Workers) -> int:
    counts: Counter[str] = Counter()
    findings: list[Finding] = []
    execute, begun = executing(workers), time.monotonic()
    while sum(counts.values()) + len(findings) < cases:
        for op in ops:
            for finding in tried(op, seed, execute, counts):
                findings.append(finding)
                print(finding, flush=True)
        seed += 1
    print(f"{sum(counts.values()) + len(findings)} cases in {time.monotonic() - begun:.0f} s, seeds up to {seed - 1}")
    for name, count in counts.most_common():
        print(f"{count:8d} {name}")
    print(f"{len(findings)} findings")
    return int(bool(findings))


if __name__ == "__main__":
    sys.exit(main())
