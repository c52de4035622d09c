"""Getting an executable for a command: compiling an ONNX file for one device or dividing it among several, or loading a
saved one, with a progress bar.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mapsto.cli.amounts import parse_limits, parse_pins
from mapsto.cli.formats import formats_asked
from mapsto.cli.inputs import InputPort, existing, parse_shapes
from mapsto.cli.options import AccuracyOptions, DivisionOptions, FormatOptions, ReadOptions, TargetOptions
from mapsto.cli.progress import progress_bar
from mapsto.cli.usage import UsageError

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
class Opening:
    """All that a command was asked of how a model is read, compiled or divided."""

    reading: ReadOptions = field(default_factory=ReadOptions)
    target: TargetOptions = field(default_factory=TargetOptions)
    division: DivisionOptions = field(default_factory=DivisionOptions)
    formats: FormatOptions = field(default_factory=FormatOptions)
    accuracy: AccuracyOptions = field(default_factory=AccuracyOptions)

    @property
    def has_formats(self) -> bool:
        return bool(self.formats or self.accuracy)


AS_USUAL = Opening()
_ONLY_SEVERAL = (
    "--objective, --pin, --placer and --limit go with --machine, or with several devices (--device cpu,opencl), as "
    "--power does"
)


def open_model(
    model: Path,
    opening: Opening = AS_USUAL,
    plan: str | None = None,
    updates: Mapping[str, str] | None = None,
    adapt: bool = False,
) -> Opened:
    """Compiles an ONNX file; loads a .mapsto file (for what, was said when it was compiled). plan: the text of
    one, for one device or for several. Raises MapstoErrors.
    """
    existing(model)
    if model.suffix == ARTIFACT_SUFFIX:
        _refuse_of_compiled(model, opening, plan, adapt)
        return _loaded(model, opening.target.threads)
    target, device = opening.target, opening.target.device
    options: dict[str, Any] = {
        "shapes": parse_shapes(opening.reading.shape or []), "data_root": opening.reading.data_root,
        "threads": target.threads, "check_indices": target.check_indices, "cache": target.cache, "updates": updates,
    }  # fmt: skip
    if several(device) or (plan is not None and _is_division(plan)):
        if adapt:
            raise UsageError("--adapt is for one device")
        if opening.has_formats:
            raise UsageError("--formats and --exact-integers are for one device so far")
        return _divided(model, device, opening.division, plan, options)
    if opening.division:
        raise UsageError(_ONLY_SEVERAL)
    options |= {"device": device, "plan": plan, "adapt": adapt}
    return _compiled(model, options | formats_asked(opening.formats, opening.accuracy))


def _refuse_of_compiled(model: Path, opening: Opening, plan: str | None, adapt: bool) -> None:
    """Raises UsageError for what can only be said when a model is compiled."""
    refused = {
        "--shape belongs to `mapsto compile`": bool(opening.reading.shape),
        "--no-check-indices belongs to `mapsto compile`": not opening.target.check_indices,
        "--plan needs an ONNX file": plan is not None,
        _ONLY_SEVERAL: bool(opening.division),
        "it is for the CPU, --device needs an ONNX file": opening.target.device != "cpu",
        "--adapt needs an ONNX file": adapt,
        "--formats and --exact-integers need an ONNX file": opening.has_formats,
    }
    for why, is_asked in refused.items():
        if is_asked:
            raise UsageError(f"{model} is compiled already: {why}")


def _loaded(model: Path, threads: int | None) -> Opened:
    import mapsto

    began = time.perf_counter()
    executable = mapsto.load(model, threads=threads)
    divided = isinstance(executable, mapsto.DividedExecutable)
    return Opened(executable, "loaded", time.perf_counter() - began, divided)


def _compiled(model: Path, options: Mapping[str, Any]) -> Opened:
    import mapsto
    from mapsto.session.cache.executables import FOUND

    began = time.perf_counter()
    with progress_bar(f"compiling {model.name}") as progress:
        executable = mapsto.compile(model, progress=progress, **options)
    came = FOUND if executable.cache_note == FOUND else "compiled"
    return Opened(executable, came, time.perf_counter() - began)


def several(device: str) -> list[str]:
    """The devices of a list with commas; none where there is no comma."""
    return [name.strip() for name in device.split(",")] if "," in device else []


def _is_division(plan: str) -> bool:
    from mapsto.plan.division_text import is_division

    return is_division(plan)


def _divided(
    model: Path, device: str, division: DivisionOptions, plan: str | None, options: Mapping[str, Any]
) -> Opened:
    import mapsto

    began = time.perf_counter()
    devices = several(device)
    if plan is None:
        limits = {name: {"memory": count} for name, count in parse_limits(division.limit or []).items()}
        made = mapsto.divide(
            model, devices, objective=division.objective or "latency", pins=parse_pins(division.pin or []),
            placer=division.placer or "exact", power=division.power, limits=limits, **options,
        )  # fmt: skip
    elif division:
        raise UsageError(
            "--plan says where works go: leave --objective, --pin, --placer, --limit, --power out, or edit the plan"
        )
    else:
        from mapsto.plan.division_text import parse_division

        given = None if device == "cpu" else devices or [device]
        made = mapsto.divide(model, given, plan=parse_division(plan), **options)
    return Opened(made, "divided", time.perf_counter() - began, True)
