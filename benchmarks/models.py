"""The real models beside other engines: time, compile time and error, on real input, one table.

    python scripts/fetch_models.py            # once
    python -m benchmarks.models               # one thread, against ONNX Runtime and, where installed, OpenVINO

Each engine runs in a process of its own; the processes are kept alive and run alternately (see `mapsto.report.bench`).
Every engine gets the same feeds in turn and knows the inputs' shapes beforehand; all compute in fp32. README.md here
says more.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scripts.fetch_models import DEFAULT_FOLDER, FetchError, model_path
from scripts.real_inputs import model_key_of, real_inputs

from mapsto.cli.output import seconds_text, table
from mapsto.errors import MapstoError
from mapsto.files import write_text
from mapsto.report import machine
from mapsto.report.accuracy import Verdict, judge_runs
from mapsto.report.bench import OURS, BenchReport, BenchSetup, measure
from mapsto.report.engines import Setup, open_engine

ROOT = Path(__file__).resolve().parent.parent
PEER = "onnxruntime"
REFERENCE = "onnxruntime-unoptimised"
LIMIT = 1.5  # how many times ONNX Runtime's time ours may be, for --check

Feed = dict[str, np.ndarray]


@dataclass(frozen=True)
class Case:
    """A model with its inputs, all of one shape."""

    name: str
    model: Path
    feeds: Sequence[Feed]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(array.shape) for name, array in self.feeds[0].items()}


@dataclass(frozen=True)
class Result:
    """What was measured of a case."""

    case: str
    report: BenchReport
    verdicts: list[Verdict]

    @property
    def ratio(self) -> float | None:
        found = self.report.ratios.get(PEER)
        return None if found is None else found.median

    @property
    def ok(self) -> bool:
        return (self.ratio is None or self.ratio <= LIMIT) and all(verdict.ok for verdict in self.verdicts)

    def to_json(self) -> dict[str, Any]:
        data = {"case": self.case, "ok": self.ok, "accuracy": [verdict.to_json() for verdict in self.verdicts]}
        return data | self.report.to_json()


def digit_cases() -> Iterator[Case]:
    """The network that ships with the project: a digit at a time, and all 64 at once."""
    with np.load(ROOT / "examples" / "digits.npz") as digits:
        images = digits["image"]
    model = ROOT / "examples" / "mnist-cnn.onnx"
    yield Case("mnist-cnn", model, [{"image": images[i : i + 1]} for i in range(len(images))])
    yield Case("mnist-cnn x64", model, [{"image": images}])


def cases(models_dir: Path) -> Iterator[Case]:
    """Every case. Raises FileNotFoundError or FetchError where a model or its inputs are not to be had."""
    yield from digit_cases()
    for key in ("nudenet", "minilm", "silero-vad", "silero-vad-ifless", "piper"):
        yield Case(key, model_path(models_dir, model_key_of(key)), real_inputs(models_dir, key))


def measure_case(
    case: Case,
    engines: Sequence[str],
    threads: int,
    seconds: float,
    isa: str | None = None,
    formats: Mapping[str, str] | None = None,
) -> Result:
    """isa: the instruction set that our code is made for (None: the widest); formats: of our products."""
    setup = BenchSetup(
        case.model, case.feeds, case.shapes, threads, seconds, keep_outputs=True, isa=isa, formats=formats
    )
    report = measure(setup, engines)
    return Result(case.name, report, verdicts_of(case, report.outputs))


def errors_of(case: Case, outputs: Mapping[str, list[Feed]]) -> dict[str, float]:
    """By engine, the largest difference from ONNX Runtime without optimisations, of the output's largest magnitude."""
    reference = open_engine(REFERENCE, Setup(case.model))
    found = dict.fromkeys(outputs, 0.0)
    for number, feed in enumerate(case.feeds):
        for name, right in reference.run(feed).items():
            if right.dtype.kind != "f" or not right.size:
                continue
            most = float(np.abs(right).max()) or 1.0
            for engine, runs in outputs.items():
                off = np.abs(runs[number][name].astype(np.float64) - right).max()
                found[engine] = max(found[engine], float(off) / most)
    return found


def verdicts_of(case: Case, outputs: Mapping[str, list[Feed]]) -> list[Verdict]:
    """Our error under the rule of `mapsto.report.accuracy`; empty where there is no ONNX Runtime to compare with."""
    if OURS not in outputs or PEER not in outputs:
        return []
    reference = open_engine(REFERENCE, Setup(case.model))
    return judge_runs([reference.run(feed) for feed in case.feeds], outputs[OURS], outputs[PEER])


def row_of(result: Result, engines: Sequence[str]) -> list[str]:
    report = result.report
    cells = [result.case]
    for engine in engines:
        timing = report.timing(engine)
        cells.append("-" if timing is None else seconds_text(timing.seconds.median))
    for engine in engines[1:]:
        ratio = report.ratios.get(engine)
        cells.append("-" if ratio is None else f"{ratio.median:.2f} ({ratio.low:.2f}-{ratio.high:.2f})")
    ours = report.timing(OURS)
    cells.append("-" if ours is None else seconds_text(ours.open_seconds))
    return [*cells, error_text(result.verdicts)]


def error_text(verdicts: Sequence[Verdict]) -> str:
    """Our largest error, and the limit for the output and channel where it is nearest to it."""
    if not verdicts:
        return "-"
    wrong = next((verdict for verdict in verdicts if verdict.mismatch is not None), None)
    if wrong is not None:
        return f"{wrong.name}: {wrong.mismatch}"
    nearest = max(verdicts, key=lambda verdict: verdict.ours / verdict.limit)
    return f"{nearest.ours:.1e} ({'within' if nearest.ok else 'OVER'} {nearest.limit:.1e})"


def headers(engines: Sequence[str]) -> list[str]:
    return ["model", *engines, *[f"ratio to {engine}" for engine in engines[1:]], "compiled in", "error (limit)"]


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def put_between_marks(path: Path, text: str, what: str = "measured") -> None:
    """Replaces what lies between the lines `<!-- WHAT: begin ... -->` and `<!-- WHAT: end -->` of a file."""
    before, begin, rest = path.read_text(encoding="utf-8").partition(f"<!-- {what}: begin")
    mark, end_of_mark, rest = rest.partition("-->")
    _, end, after = rest.partition(f"<!-- {what}: end -->")
    if not (begin and end_of_mark and end):
        raise SystemExit(f"{path} has no `{what}` marks")
    write_text(path, f"{before}{begin}{mark}{end_of_mark}\n\n{text}\n\n{end}{after}")


def machine_line(*threads: int) -> str:
    about = machine.describe()
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    counts = " and ".join(map(str, threads))
    return (
        f"{counts} thread(s), {about['processor']} with {about['cores']} cores, Python {about['python']}, {versions}"
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", type=Path, default=DEFAULT_FOLDER, help=f"models folder (default {DEFAULT_FOLDER})")
    parser.add_argument("--only", action="append", help="this case only; may be repeated")
    parser.add_argument("--against", default="onnxruntime,openvino", help="engines, comma-separated")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3.0, help="how long each engine runs a case, about")
    parser.add_argument("--json", type=Path, help="write the results here as well")
    parser.add_argument("--markdown", action="store_true", help="print the table as markdown")
    parser.add_argument(
        "--update", type=Path, metavar="README.md", help="put the table between the file's `measured` marks"
    )
    parser.add_argument(
        "--check", action="store_true", help=f"exit code 1 where a ratio is above {LIMIT} or an error too large"
    )
    return parser.parse_args()


def main() -> int:
    args = arguments()
    engines = [OURS, *[name for name in args.against.split(",") if name]]
    results: list[Result] = []
    try:
        chosen = [case for case in cases(args.models.expanduser()) if not args.only or case.name in args.only]
    except (FileNotFoundError, FetchError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    failed = []
    for case in chosen:
        print(f"{case.name} ...", file=sys.stderr, flush=True)
        try:
            results.append(measure_case(case, engines, args.threads, args.seconds))
        except MapstoError as error:
            failed.append(f"{case.name}: {error}")
    rows = [row_of(result, engines) for result in results]
    print((markdown if args.markdown else table)(headers(engines), rows))
    print(f"\n{machine_line(args.threads)}")
    reports = [result.report.absent for result in results]
    absent = {f"{name}: not measured: {why.splitlines()[0]}" for report in reports for name, why in report.items()}
    print("\n".join([*sorted(absent), *failed]))
    if args.update is not None:
        put_between_marks(args.update, f"{markdown(headers(engines), rows)}\n\n{machine_line(args.threads)}.")
    if args.json is not None:
        write_text(args.json, json.dumps([result.to_json() for result in results], indent=2))
    return int(args.check and (bool(failed) or not all(result.ok for result in results)))


if __name__ == "__main__":
    sys.exit(main())
