"""Getting an executable for a command: compiling an ONNX file for one device or dividing it among several, or loading a
saved one, with a progress bar.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mapsto.cli.amounts import parse_formats, parse_limits, parse_pins
from mapsto.cli.inputs import InputPort, UsageError, existing
from mapsto.cli.progress import progress_bar

ARTIFACT_SUFFIX = ".mapsto"


@dataclass(frozen=True)
class Opened:
    """An executable, how it was come by, and the seconds that took."""

    executable: Any
    how: str  # "compiled", "loaded", "found in the cache"
    seconds: float
    is_divided: bool = False  # on several devices

    @property
    def inputs(self) -> Sequence[InputPort]:
        found: Sequence[InputPort] = (
            self.executable.whole.inputs if self.is_divided else self.executable.inputs
        )  # fmt: skip
        return found

    @property
    def outputs(self) -> Sequence[InputPort]:
        """Of several devices, but for those that are inputs or constants."""
        if not self.is_divided:
            found: Sequence[InputPort] = self.executable.program.outputs
            return found
        made = {value.name: value for part in self.executable.parts for value in part.values}
        return [made[name] for name in self.executable.whole.outputs if name in made]

    @property
    def plan_text(self) -> str:
        """The plan, as it is read back."""
        return str(self.executable.plan_text if self.is_divided else self.executable.plan.text())


@dataclass(frozen=True)
class Divided:
    """What several devices are asked for besides; None: nothing was said."""

    pins: Sequence[str] = field(default_factory=list)
    objective: str | None = None
    placer: str | None = None
    limits: Sequence[str] = field(default_factory=list)
    power: str | None = None

    def __bool__(self) -> bool:
        return bool(self.pins or self.objective or self.placer or self.limits or self.power)


@dataclass(frozen=True)
class Formatted:
    """What number formats are asked for. data: a file of examples by which values are quantised; accuracy: one of
    examples by which formats are found that lose no more than max_error, or of a metric, than drop. exact_integers:
    products of a quantised model in integers alone.
    """

    formats: Sequence[str] = field(default_factory=list)
    data: Path | None = None
    calibrator: str | None = None
    accuracy: Path | None = None
    metric: str | None = None
    drop: float | None = None
    max_error: float | None = None
    exact_integers: bool = False

    def options(self) -> dict[str, Any]:
        """For `mapsto.compile`. Raises UsageError, and ArgumentError for what is not there."""
        return {**self._options(), "exact_integers": self.exact_integers}

    def _options(self) -> dict[str, Any]:
        if self.accuracy is not None:
            return {"accuracy": self._accuracy(self.accuracy)}
        if self.metric is not None or self.drop is not None or self.max_error is not None:
            raise UsageError("--metric, --drop and --max-error say what may be lost on the examples of --accuracy")
        if self.data is None:
            if self.calibrator is not None:
                raise UsageError("--calibrator says how ranges are chosen of the examples of --calibrate")
            return {"formats": parse_formats(self.formats) or None}
        from mapsto.formats.ranges import USUAL
        from mapsto.report.arrays import load_arrays
        from mapsto.session.calibration import Calibration

        examples = dict(load_arrays(existing(self.data, "examples")))
        calibration = Calibration(examples, self.calibrator or USUAL)
        return {"formats": parse_formats(self.formats) or None, "calibration": calibration}

    def _accuracy(self, file: Path) -> Any:
        from mapsto.formats.ranges import USUAL
        from mapsto.report.arrays import load_arrays
        from mapsto.session.accuracy import Accuracy

        if self.formats or self.data is not None:
            raise UsageError("--accuracy finds formats: leave --formats and --calibrate out")
        lost = self.max_error if self.metric is None else self.drop
        if lost is None or (self.max_error is not None and self.drop is not None):
            said = "or a metric and what it may lose: --metric top-1 --drop 0.005"
            raise UsageError(f"--accuracy needs --max-error 1e-2, {said}")
        examples = dict(load_arrays(existing(file, "examples")))
        return Accuracy(examples, self.metric, lost, calibrator=self.calibrator or USUAL)

    def __bool__(self) -> bool:
        return self != AS_IT_IS


NOT_SAID = Divided()
AS_IT_IS = Formatted()
_ONLY_SEVERAL = (
    "--objective, --pin, --placer and --limit go with --machine, or with several devices (--device cpu,opencl), as "
    "--power does"
)


def open_model(
    model: Path,
    shapes: Mapping[str, Sequence[int | None]] | None = None,
    threads: int | None = None,
    plan: str | None = None,
    check_indices: bool = True,
    data_root: Path | None = None,
    device: str = "cpu",
    cache: bool = True,
    updates: Mapping[str, str] | None = None,
    adapt: bool = False,
    how: Divided = NOT_SAID,
    formats: Formatted = AS_IT_IS,
) -> Opened:
    """Compiles an ONNX file; loads a .mapsto file (its shapes were said when it was made). device: one, or several with
    commas between; plan: of either kind. Raises MapstoErrors.
    """
    import mapsto
    from mapsto.session.cache.executables import FOUND

    existing(model)
    began = time.perf_counter()
    if model.suffix == ARTIFACT_SUFFIX:
        if shapes:
            raise UsageError(f"{model} is compiled already: --shape belongs to `mapsto compile`")
        if not check_indices:
            raise UsageError(f"{model} is compiled already: --no-check-indices belongs to `mapsto compile`")
        if plan is not None:
            raise UsageError(f"{model} is compiled already: --plan needs an ONNX file")
        if how:
            raise UsageError(f"{model} is compiled already: {_ONLY_SEVERAL}")
        if device != "cpu":
            raise UsageError(f"{model} is compiled already, for the CPU: --device needs an ONNX file")
        if adapt:
            raise UsageError(f"{model} is compiled already: --adapt needs an ONNX file")
        if formats:
            raise UsageError(f"{model} is compiled already: --formats and --exact-integers need an ONNX file")
        executable = mapsto.load(model, threads=threads)
        divided = isinstance(executable, mapsto.DividedExecutable)
        return Opened(executable, "loaded", time.perf_counter() - began, divided)
    if several(device) or (plan is not None and _is_division(plan)):
        if adapt:
            raise UsageError("--adapt is for one device")
        if formats:
            raise UsageError("--formats and --exact-integers are for one device so far")
        made = _divided(model, shapes, threads, plan, check_indices, data_root, device, cache, how, updates)
        return Opened(made, "divided", time.perf_counter() - began, True)
    if how:
        raise UsageError(_ONLY_SEVERAL)
    with progress_bar(f"compiling {model.name}") as progress:
        executable = mapsto.compile(
            model,
            shapes=shapes,
            threads=threads,
            plan=plan,
            progress=progress,
            check_indices=check_indices,
            data_root=data_root,
            device=device,
            cache=cache,
            updates=updates,
            adapt=adapt,
            **formats.options(),
        )
    came = FOUND if executable.cache_note == FOUND else "compiled"
    return Opened(executable, came, time.perf_counter() - began)


def several(device: str) -> list[str]:
    """The devices of a list with commas; none where there is no comma."""
    return [name.strip() for name in device.split(",")] if "," in device else []


def _is_division(plan: str) -> bool:
    from mapsto.plan.division_text import is_division

    return is_division(plan)


def _divided(
    model: Path,
    shapes: Mapping[str, Sequence[int | None]] | None,
    threads: int | None,
    plan: str | None,
    check_indices: bool,
    data_root: Path | None,
    device: str,
    cache: bool,
    how: Divided,
    updates: Mapping[str, str] | None,
) -> Any:
    import mapsto

    options: dict[str, Any] = {"threads": threads, "check_indices": check_indices, "data_root": data_root}
    options["updates"] = updates
    if plan is not None:
        if how:
            raise UsageError(
                "--plan says where works go: leave --objective, --pin, --placer, --limit, --power out, or edit the plan"
            )
        from mapsto.plan.division_text import parse_division

        given = None if device == "cpu" else several(device) or [device]
        return mapsto.divide(model, given, shapes, plan=parse_division(plan), cache=cache, **options)
    return mapsto.divide(
        model, several(device), shapes, objective=how.objective or "latency", pins=parse_pins(how.pins),
        placer=how.placer or "exact", cache=cache, power=how.power,
        limits={device: {"memory": count} for device, count in parse_limits(how.limits).items()}, **options,
    )  # fmt: skip
