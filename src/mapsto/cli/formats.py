"""What a command was asked of number formats, as `mapsto.compile` takes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mapsto.cli.amounts import parse_formats
from mapsto.cli.inputs import existing
from mapsto.cli.options import AccuracyOptions, FormatOptions
from mapsto.cli.usage import UsageError


def formats_asked(asked: FormatOptions, within: AccuracyOptions) -> dict[str, Any]:
    """Arguments of `mapsto.compile`. Raises UsageError, and ArgumentError for what is not there."""
    found: dict[str, Any] = {"exact_integers": asked.exact_integers}
    if within.accuracy is not None:
        return found | {"accuracy": _accuracy(within.accuracy, asked, within)}
    if within:
        raise UsageError("--metric, --drop and --max-error say what may be lost on the examples of --accuracy")
    found["formats"] = parse_formats(asked.formats or []) or None
    if asked.calibrate is None:
        if asked.calibrator is not None:
            raise UsageError("--calibrator says how ranges are chosen of the examples of --calibrate")
        return found
    from mapsto.formats.ranges import USUAL
    from mapsto.session.calibration import Calibration

    return found | {"calibration": Calibration(_examples(asked.calibrate), asked.calibrator or USUAL)}


def _accuracy(file: Path, asked: FormatOptions, within: AccuracyOptions) -> Any:
    from mapsto.formats.ranges import USUAL
    from mapsto.session.accuracy import Accuracy

    if asked.formats or asked.calibrate is not None:
        raise UsageError("--accuracy finds formats: leave --formats and --calibrate out")
    lost = within.max_error if within.metric is None else within.drop
    if lost is None or (within.max_error is not None and within.drop is not None):
        said = "or a metric and what it may lose: --metric top-1 --drop 0.005"
        raise UsageError(f"--accuracy needs --max-error 1e-2, {said}")
    return Accuracy(_examples(file), within.metric, lost, calibrator=asked.calibrator or USUAL)


def _examples(file: Path) -> dict[str, Any]:
    from mapsto.report.arrays import load_arrays

    return dict(load_arrays(existing(file, "examples")))
