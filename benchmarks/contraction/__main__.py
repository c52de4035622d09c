"""`python -m benchmarks.contraction [fp32|bf16|int8 ...]`: the share of this core's measured peak, kernel by kernel: in
quiet samples (`canary`), by which goals are judged, and in all of them.

Exit code 1 when a result differs from numpy's or a goal is missed (`--no-goals`: only differences count). Where there
were too few quiet samples, no goal is judged, and the line says so.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from dataclasses import asdict, dataclass

import numpy as np

from benchmarks.contraction import canary
from benchmarks.contraction.cases import FORMATS, Format
from benchmarks.contraction.measure import Loop, Watch, compare, pin
from benchmarks.contraction.native import aligned, load
from benchmarks.contraction.peak import multiplications_per_round, peak_function
from benchmarks.contraction.shapes import GOALS
from benchmarks.contraction.whole import compile_whole
from mapsto.devices.cpu.isa import Isa, host
from mapsto.devices.cpu.workers import Workers

_PEAK_ROUNDS = 30_000


@dataclass(frozen=True)
class Row:
    """One line of the result: what was measured, in 10^9 operations per second, and the share that it must reach."""

    format: str
    kernel: str
    tile: str
    gops: float
    peak_gops: float
    share: float
    quiet: float | None
    calm: float
    goal: float

    @property
    def missed(self) -> bool:
        return self.quiet is not None and self.quiet < self.goal

    def __str__(self) -> str:
        quiet = "too few" if self.quiet is None else f"{self.quiet:.1%}"
        speed = f"{self.gops:7.1f} of {self.peak_gops:6.1f} Gop/s  {self.share:6.1%}"
        calm = f"quiet ({self.calm:.0%}) {quiet:>7}"
        verdict = f"goal {self.goal:.0%}{'  MISSED' if self.missed else ''}"
        return f"{self.format:5} {self.kernel:26} {self.tile:>28} {speed}, {calm}  {verdict}"


def run(fmt: Format, isa: Isa, only: str = "") -> list[Row]:
    """Measure every goal of one format: the contraction step of a whole program, beside the peak loop, by turns."""
    goals = [goal for goal in GOALS if only in goal.shape.name]
    with Workers(True) as workers:
        made = [compile_whole(goal.shape, fmt, workers) for goal in goals]
    fastest = _peak(fmt, isa)
    steady = fastest if fmt.name == "fp32" else _peak(FORMATS["fp32"], isa)
    watch = Loop(canary.canary(isa), canary.ROUNDS * canary.multiplications_per_round(isa))
    rows: list[Row] = []
    for goal, whole in zip(goals, made, strict=True):
        part = functools.partial(whole.native.prepared, whole.operands, [])
        got = compare(part, whole.extent, goal.shape.multiplications, fastest, Watch(watch, steady))
        least = goal.fp32 if fmt.name == "fp32" else goal.narrow
        tile = whole.schedule.removeprefix("tile ").split(";")[0]
        speeds = 2 * got.kernel / 1e9, 2 * got.peak / 1e9
        rows.append(Row(fmt.name, goal.shape.name, tile, *speeds, got.share, got.quiet, got.calm, least))
    return rows


def _peak(fmt: Format, isa: Isa) -> Loop:
    (native,) = load([peak_function(fmt, isa)], isa)
    operands = [aligned(np.ones(64, t.numpy)) for t in (fmt.a, fmt.b)] + [aligned(np.zeros(4096, np.float64))]
    work = _PEAK_ROUNDS * multiplications_per_round(fmt, isa)
    return Loop(native.prepared(operands, [], 0, _PEAK_ROUNDS), work, operands)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("formats", nargs="*", default=["fp32", "bf16", "int8"])
    parser.add_argument("--only", default="", help="part of a kernel's name")
    parser.add_argument("--no-goals", action="store_true")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    isa, core = host(), pin()
    if not args.json:
        print(f"{isa.name}, thread on core {core}; one operation is one multiplication or one addition")
    rows: list[Row] = []
    for name in args.formats:
        for row in run(FORMATS[name], isa, args.only):
            rows.append(row)
            if not args.json:
                print(row)
    if args.json:
        print(json.dumps([asdict(row) for row in rows], indent=1))
    return 1 if any(row.missed for row in rows) and not args.no_goals else 0


if __name__ == "__main__":
    sys.exit(main())
