"""The options of commands, one by one and in groups.

A group is a frozen dataclass: what several commands are asked alike, under one name. A command takes it as one argument
(`with_groups`), and the command line has its fields as options.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

Model = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL", help="An ONNX file, or a .mapsto file that `mapsto compile` made.", show_default=False
    ),
]
OnnxModel = Annotated[Path, typer.Argument(metavar="MODEL", help="An ONNX file.", show_default=False)]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, help="Threads to run on. Default: what this process may use.")
]
CacheOption = Annotated[
    bool,
    typer.Option(
        "--cache/--no-cache", help="Take what was compiled before from the cache folder, and keep what is compiled now."
    ),
]
DeviceOption = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="NAME",
        help="Where it runs: cpu, or opencl (opencl:1: the second of them); cpu,opencl: works of it on each.",
    ),
]
PinOption = Annotated[
    list[str] | None,
    typer.Option("--pin", metavar="PATTERN=DEVICE", help="Of several devices: 'conv*=opencl', by names. Repeatable."),
]
ExactIntegersOption = Annotated[
    bool,
    typer.Option(
        "--exact-integers",
        help="Products of a quantised model in integers, the same on every processor; none in f32 as it may be faster.",
    ),
]
FormatsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--formats",
        metavar="FORMAT|PATTERN=FORMAT",
        help="Compute products in bf16, f16, int8, int16, or narrow weights alone: bf16-weights, f16-weights, "
        "int8-weights, int4-weights: those that take less in it; or by names: 'conv*=bf16', '*=bf16'. Repeatable.",
    ),
]
PlanOption = Annotated[
    Path | None, typer.Option("--plan", metavar="FILE", help="Do as this plan says, which `mapsto plan -o` wrote.")
]
DataRoot = Annotated[
    Path | None,
    typer.Option(
        "--data-root",
        metavar="FOLDER",
        help="The folder (a download cache) that links to a model's data may lead into.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]


def _budget(context: typer.Context, text: str | None) -> str | None:
    """Holds for every compile of the command, and ends with it."""
    if text is not None:
        from mapsto.budget import defaulting
        from mapsto.cli.amounts import parse_budget

        context.with_resource(defaulting(parse_budget(text)))
    return text


BudgetOption = Annotated[
    str | None,
    typer.Option(
        "--budget",
        metavar="NAME=N,...",
        callback=_budget,
        help="Limits of what a model may ask for, where they differ from the defaults: nodes=1000000,seconds=60.",
    ),
]

# -- groups ------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class ReadOptions:
    """How a model's file is read."""

    shape: Annotated[
        list[str] | None,
        typer.Option(
            "--shape",
            metavar="NAME=DIMS",
            help="Fix an input's shape: x=1,3,224,224; `?` leaves a dim open. Repeatable.",
        ),
    ] = None
    data_root: DataRoot = None


@dataclasses.dataclass(frozen=True)
class FeedOptions:
    """What a model's inputs get."""

    inputs: Annotated[
        Path | None,
        typer.Option("--inputs", metavar="FILE.npz", help="An npz file with an array for each input, by name."),
    ] = None
    given: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="NAME=WHAT",
            help="What an input gets: FILE.npy, FILE.npz, random, zeros, ones, a number, or a list [1, 2]. Repeatable.",
        ),
    ] = None
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the random inputs.")] = 0

    def __bool__(self) -> bool:
        """Whether an input was given."""
        return bool(self.inputs or self.given)


@dataclasses.dataclass(frozen=True)
class TargetOptions:
    """What is compiled for. device: one, or several with commas between."""

    threads: Threads = None
    device: DeviceOption = "cpu"
    check_indices: Annotated[
        bool,
        typer.Option(
            "--check-indices/--no-check-indices",
            help="Stop a run at an index out of range. Without: it wraps round its axis.",
        ),
    ] = True
    cache: CacheOption = True


@dataclasses.dataclass(frozen=True)
class DivisionOptions:
    """What several devices are asked for besides; None: nothing was said."""

    pin: PinOption = None
    objective: Annotated[
        str | None,
        typer.Option(
            "--objective", help="Of several devices: latency, throughput (of a stream), or energy (modelled)."
        ),
    ] = None
    placer: Annotated[
        str | None,
        typer.Option("--placer", help="Of several devices: exact; or, to compare, greedy, heft, exhaustive."),
    ] = None
    limit: Annotated[
        list[str] | None,
        typer.Option(
            "--limit", metavar="DEVICE.memory=AMOUNT", help="Of several devices: gpu.memory=2GiB. Repeatable."
        ),
    ] = None
    power: Annotated[
        str | None,
        typer.Option(
            "--power", metavar="FILE.toml", help="A machine file that has figures of power by devices' names."
        ),
    ] = None

    def __bool__(self) -> bool:
        return bool(self.pin or self.objective or self.placer or self.limit or self.power)


@dataclasses.dataclass(frozen=True)
class FormatOptions:
    """What number formats are asked for. calibrate: a file of examples by which values are quantised."""

    formats: FormatsOption = None
    calibrate: Annotated[
        Path | None,
        typer.Option("--calibrate", metavar="FILE.npz", help="Examples to quantise by, along the first axes."),
    ] = None
    calibrator: Annotated[
        str | None,
        typer.Option(
            "--calibrator", help="How ranges are chosen of them: mse (default), min-max, percentile, entropy."
        ),
    ] = None
    exact_integers: ExactIntegersOption = False

    def __bool__(self) -> bool:
        return bool(self.formats or self.calibrate or self.calibrator or self.exact_integers)


@dataclasses.dataclass(frozen=True)
class AccuracyOptions:
    """What the formats that are looked for may lose, and on which examples."""

    accuracy: Annotated[
        Path | None,
        typer.Option(
            "--accuracy",
            metavar="FILE.npz",
            help="Look for the fastest formats that lose no more on these examples than --max-error (or --drop) says.",
        ),
    ] = None
    metric: Annotated[
        str | None, typer.Option("--metric", help="Of --accuracy: top-1, by an array `label`.")
    ] = None
    drop: Annotated[
        float | None, typer.Option("--drop", metavar="0.005", help="What the metric may lose.")
    ] = None
    max_error: Annotated[
        float | None,
        typer.Option("--max-error", metavar="1e-2", help="Without a metric: how far outputs may move, of their size."),
    ] = None

    def __bool__(self) -> bool:
        return any(part is not None for part in (self.accuracy, self.metric, self.drop, self.max_error))


GROUPS = (ReadOptions, FeedOptions, TargetOptions, DivisionOptions, FormatOptions, AccuracyOptions)


def with_groups(command: Callable[..., None]) -> Callable[..., None]:
    """The command with each parameter that is a group replaced by the group's options, as the command line has them."""
    hints = get_type_hints(command, include_extras=True)
    spread: list[inspect.Parameter] = []
    fields: dict[str, Sequence[str]] = {}
    for parameter in inspect.signature(command).parameters.values():
        group = hints[parameter.name]
        if group not in GROUPS:
            spread.append(parameter.replace(annotation=group, kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        of_group = get_type_hints(group, include_extras=True)
        fields[parameter.name] = [field.name for field in dataclasses.fields(group)]
        spread += [
            inspect.Parameter(
                field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=of_group[field.name]
            )
            for field in dataclasses.fields(group)
        ]

    def called(**options: Any) -> None:
        grouped = {
            name: hints[name](**{field: options.pop(field) for field in names}) for name, names in fields.items()
        }
        command(**options, **grouped)

    called.__name__, called.__doc__ = command.__name__, command.__doc__
    called.__signature__ = inspect.Signature(spread)  # type: ignore[attr-defined]
    called.__annotations__ = {parameter.name: parameter.annotation for parameter in spread}
    return called
