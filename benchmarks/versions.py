"""Two versions of mapsto beside each other on real models: did a change make anything slower?

    python -m venv /tmp/before && /tmp/before/bin/pip install 'mapsto @ git+file:///path/to/mapsto@REVISION'
    python -m benchmarks.versions --before /tmp/before/bin/python --threads 1

Each version runs in an interpreter of its own; the two are kept alive and take turns (see `mapsto.report.bench`). The
ratio is the present version's time over the other's, so above 1 the present one is slower. Models beside those of
`scripts/fetch_models.py` are given as files, with their inputs' shapes; their inputs are random, of a fixed seed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from scripts.fetch_models import DEFAULT_FOLDER, FetchError

from benchmarks.models import Case, cases, machine_line
from mapsto.cli.inputs import Given, make_feed, parse_shapes
from mapsto.cli.output import seconds_text, table
from mapsto.errors import MapstoError
from mapsto.files import write_text
from mapsto.importers import onnx
from mapsto.report.bench import OURS, BenchReport, BenchSetup, measure

BEFORE = f"{OURS}@before"
HEADERS = ("model", "before", "now", "now / before", "compiled in, before", "now", "ratio")


def given_cases(texts: Sequence[str], seed: int) -> Iterator[Case]:
    """`FILE` or `FILE:x=1,3,640,640;y=1` as cases with random inputs. Raises MapstoError."""
    for text in texts:
        name, _, dims = text.partition(":")
        shapes = parse_shapes([part for part in dims.split(";") if part])
        fed = make_feed(onnx.load(name, shapes).inputs, Given(), seed)
        yield Case(Path(name).stem, Path(name), [fed.feed])


def measured(case: Case, before: str, threads: int, seconds: float) -> BenchReport:
    """Both versions on one case. Raises ExecutionError where the present one cannot run it."""
    setup = BenchSetup(case.model, case.feeds, case.shapes, threads, seconds, pythons={BEFORE: before})
    return measure(setup, [OURS, BEFORE])


def row_of(name: str, report: BenchReport) -> list[str]:
    now, before = report.timing(OURS), report.timing(BEFORE)
    if now is None or before is None:
        return [name, report.absent.get(BEFORE, "-").splitlines()[0], *["-"] * (len(HEADERS) - 2)]
    ratio = report.ratios[BEFORE]
    return [
        name,
        seconds_text(before.seconds.median),
        seconds_text(now.seconds.median),
        f"{ratio.median:.3f} ({ratio.low:.3f}-{ratio.high:.3f})",
        seconds_text(before.open_seconds),
        seconds_text(now.open_seconds),
        f"{now.open_seconds / before.open_seconds:.2f}",
    ]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--before", required=True, metavar="PYTHON", help="an interpreter that has the other version")
    parser.add_argument("--models", type=Path, default=DEFAULT_FOLDER, help=f"models folder (default {DEFAULT_FOLDER})")
    parser.add_argument("--only", action="append", help="this case only; may be repeated")
    parser.add_argument("--model", action="append", default=[], metavar="FILE[:NAME=DIMS;...]", help="one more model")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3.0, help="how long each version runs a case, about")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the results here as well")
    return parser.parse_args()


def main() -> int:
    args = arguments()
    try:
        every = [*cases(args.models.expanduser()), *given_cases(args.model, args.seed)]
    except (FileNotFoundError, FetchError, MapstoError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    reports: dict[str, BenchReport] = {}
    for case in every:
        if args.only and case.name not in args.only:
            continue
        print(f"{case.name} ...", file=sys.stderr, flush=True)
        reports[case.name] = measured(case, args.before, args.threads, args.seconds)
    print(table(HEADERS, [row_of(name, report) for name, report in reports.items()]))
    print(f"\n{machine_line(args.threads)}")
    if args.json is not None:
        found = {name: report.to_json() for name, report in reports.items()}
        write_text(args.json, json.dumps(found, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
