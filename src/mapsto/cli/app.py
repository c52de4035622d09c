"""The commands and their options. What a command does is in the file of its name, imported when it is called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mapsto.cli.options import (
    AccuracyOptions,
    BudgetOption,
    CacheOption,
    DataRoot,
    DeviceOption,
    DivisionOptions,
    ExactIntegersOption,
    FeedOptions,
    FormatOptions,
    FormatsOption,
    Json,
    Model,
    OnnxModel,
    PinOption,
    PlanOption,
    ReadOptions,
    TargetOptions,
    Threads,
    with_groups,
)

app = typer.Typer(
    help="Compiles neural networks to native code for this machine, and says how each operation was mapped and why.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

def _version(wanted: bool) -> None:
    if wanted:
        from mapsto.report.machine import version_of

        typer.echo(f"mapsto {version_of('mapsto') or '(not installed)'}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
@with_groups
def run(
    model: Model,
    feeding: FeedOptions,
    reading: ReadOptions,
    target: TargetOptions,
    division: DivisionOptions,
    formats: FormatOptions,
    within: AccuracyOptions,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE.npz", help="Write the outputs here.")
    ] = None,
    repeat: Annotated[
        int | None,
        typer.Option("--repeat", min=1, help="Runs to time, at most; they end after a second. Default: 10."),
    ] = None,
    plan: PlanOption = None,
    deadline: Annotated[
        str | None,
        typer.Option(
            "--deadline", metavar="30ms", help="Say whether 99 of 100 runs meet it (exit code 1: not); up to 1000 runs."
        ),
    ] = None,
    adapt: Annotated[
        bool,
        typer.Option("--adapt", help="Make code for these sizes alone where that is faster, and time that as well."),
    ] = False,
    budget: BudgetOption = None,
    json: Json = False,
) -> None:
    """Compile a model and run it: prints its outputs and how long it took.

    Inputs that are not given are random. If the npz file has a `label` for each example, the accuracy is printed too.
    """
    from mapsto.cli.open import Opening
    from mapsto.cli.run import run_model

    opening = Opening(reading, target, division, formats, within)
    raise typer.Exit(run_model(model, feeding, opening, output, repeat, plan, deadline, adapt, json))


@app.command("compile")
@with_groups
def compile_(
    model: OnnxModel,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE.mapsto", help="Where the executable goes.")],
    reading: ReadOptions,
    target: TargetOptions,
    division: DivisionOptions,
    formats: FormatOptions,
    within: AccuracyOptions,
    plan: PlanOption = None,
    update: Annotated[
        list[str] | None,
        typer.Option(
            "--update", metavar="INPUT=OUTPUT", help="The output takes over the input's memory (repeatable)."
        ),
    ] = None,
    budget: BudgetOption = None,
    json: Json = False,
) -> None:
    """Compile a model into one file that runs without compiling again."""
    from mapsto.cli.compile import compile_model
    from mapsto.cli.open import Opening

    compile_model(model, output, Opening(reading, target, division, formats, within), update or [], plan, json)


@app.command()
def qdq(
    model: OnnxModel,
    plan: Annotated[Path, typer.Option("--plan", metavar="FILE", help="A plan with formats: `mapsto plan -o`.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE.onnx", help="Where the model goes.")],
    data_root: DataRoot = None,
    json: Json = False,
) -> None:
    """Write a model with the integers that a plan says, as QuantizeLinear and DequantizeLinear, for other engines."""
    from mapsto.cli.qdq import write_qdq

    write_qdq(model, output, plan, data_root, json)


@app.command()
@with_groups
def bench(
    model: OnnxModel,
    feeding: FeedOptions,
    reading: ReadOptions,
    against: Annotated[
        str, typer.Option("--against", metavar="ENGINES", help="Comma-separated: onnxruntime, openvino, openvino-bf16.")
    ] = "onnxruntime",
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads of each engine.")] = 1,
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, help="How long each engine runs, about.")] = 3.0,
    dynamic: Annotated[
        bool, typer.Option("--dynamic", help="Leave open dims open, instead of fixing them to the inputs'.")
    ] = False,
    device: DeviceOption = "cpu",
    pin: PinOption = None,
    plan: PlanOption = None,
    kernels: Annotated[
        bool,
        typer.Option("--kernels", help="Instead, time each kernel beside the least that this machine needs for it."),
    ] = False,
    worst: Annotated[
        bool, typer.Option("--worst", help="With --kernels: those first that lose most time to their limit.")
    ] = False,
    formats: FormatsOption = None,
    exact_integers: ExactIntegersOption = False,
    budget: BudgetOption = None,
    json: Json = False,
) -> None:
    """Time a model beside other engines: alternately, each in a process of its own, medians and quartiles."""
    timed = (model, reading, feeding, threads, seconds, dynamic)
    if not kernels:
        from mapsto.cli.bench import bench_model

        if worst:
            raise typer.BadParameter("--worst goes with --kernels")
        engines = [name.strip() for name in against.split(",") if name.strip()]
        bench_model(*timed, engines, device, pin or [], plan, exact_integers, formats or [], json)
        return
    from mapsto.cli.kernels import bench_kernels

    if plan is not None or formats:
        raise typer.BadParameter(
            "--plan, --formats: kernels are timed as they are planned now; leave them or --kernels out"
        )
    bench_kernels(*timed, worst, device, exact_integers, json)


RecipeFile = Annotated[
    Path, typer.Argument(metavar="RECIPE", help="A recipe, in TOML (docs/training.md).", show_default=False)
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="In the place of the recipe's: train.batch=64. Repeatable."),
]
Epochs = Annotated[int | None, typer.Option("--epochs", min=1, help="In the place of the recipe's.")]
TrainSeed = Annotated[
    int | None, typer.Option("--seed", min=0, help="Of the order of data and all that is drawn, in the recipe's place.")
]


@app.command()
def train(
    recipe: RecipeFile,
    epochs: Epochs = None,
    seed: TrainSeed = None,
    threads: Threads = None,
    head: Annotated[
        str | None,
        typer.Option("--head", metavar="classes=N", help="Give the model a new last layer of so many classes."),
    ] = None,
    sets: SetOption = None,
    resume: Annotated[
        bool, typer.Option("--resume/--no-resume", help="Go on from the recipe's checkpoint, where there is one.")
    ] = True,
    budget: BudgetOption = None,
    json: Json = False,
) -> None:
    """Train a model by a recipe: data, loss, optimizer, schedule, and the files that come of it.

    Where the recipe names a function of a Python file, that file's code is run. An interrupted training (Ctrl-C) writes
    its checkpoint, and goes on from there when it is called again, with the same bits.
    """
    from mapsto.cli.train import train_recipe

    train_recipe(recipe, epochs, seed, threads, head, sets or [], resume, json)


@app.command()
def search(
    recipe: RecipeFile,
    trials: Annotated[
        int | None, typer.Option("--trials", min=1, help="How many trials the study has in the end.")
    ] = None,
    epochs: Epochs = None,
    seed: TrainSeed = None,
    threads: Threads = None,
    sets: SetOption = None,
    budget: BudgetOption = None,
    json: Json = False,
) -> None:
    """Look for better settings of a recipe: trials within its table [search], the worse ones ended early.

    Trials are kept in the study's file, and go on from there. Needs Optuna: pip install 'mapsto[search]'.
    """
    from mapsto.cli.search import search_recipe

    search_recipe(recipe, trials, epochs, seed, threads, sets or [], json)


@app.command()
@with_groups
def tune(
    model: OnnxModel,
    feeding: FeedOptions,
    reading: ReadOptions,
    within: Annotated[
        str, typer.Option("--budget", metavar="60s", help="How long it may take, about.")
    ] = "60s",
    threads: Threads = None,
    cache: CacheOption = True,
    json: Json = False,
) -> None:
    """Measure other schedules of a model's kernels on this machine, and keep what is faster for later compiles.

    What is kept stands in a file beside the machine's figures; equal kernels of any model are compiled so from then on.
    """
    from mapsto.cli.tune import tune_model

    tune_model(model, within, reading, feeding, threads, cache, json)


@app.command()
@with_groups
def check(
    model: OnnxModel,
    feeding: FeedOptions,
    reading: ReadOptions,
    target: TargetOptions,
    division: DivisionOptions,
    formats: FormatOptions,
    reference: Annotated[
        bool, typer.Option("--reference/--no-reference", help="Run the numpy reference too (slow on large models).")
    ] = True,
    passes: Annotated[
        bool, typer.Option("--passes", help="Instead, find the first pass that changes what the graph computes.")
    ] = False,
    max_error: Annotated[
        float | None,
        typer.Option("--max-error", metavar="1e-2", min=0.0, help="Of each channel, instead of the rule for f32."),
    ] = None,
    budget: BudgetOption = None,
    json: Json = False,
) -> None:
    """Compare our outputs with the numpy reference and, if installed, ONNX Runtime. Exit code 1 if too far off."""
    from mapsto.cli.check import check_model, check_passes
    from mapsto.cli.open import Opening

    if passes:
        code = check_passes(model, reading, feeding, json)
    else:
        code = check_model(model, feeding, Opening(reading, target, division, formats), reference, max_error, json)
    raise typer.Exit(code)


@app.command()
def verify(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A .mapsto file that `mapsto compile` made.", show_default=False)
    ],
    json: Json = False,
) -> None:
    """See whether a compiled model is, byte for byte, what was written. Runs nothing of it."""
    from mapsto.cli.verify import verify_file

    verify_file(file, json)


@app.command()
@with_groups
def plan(
    reading: ReadOptions,
    feeding: FeedOptions,
    target: TargetOptions,
    division: DivisionOptions,
    formats: FormatOptions,
    within: AccuracyOptions,
    model: Annotated[
        Path | None,
        typer.Argument(
            metavar="MODEL", help="An ONNX file, or a .mapsto file that `mapsto compile` made.", show_default=False
        ),
    ] = None,
    diff: Annotated[
        tuple[Path, Path] | None,
        typer.Option("--diff", metavar="A.txt B.txt", help="Instead, say in what two plans differ (exit code 1)."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write the plan's text here, to edit and replay."),
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Instead, run it and print what each kernel was predicted to take.")
    ] = False,
    worst: Annotated[bool, typer.Option("--worst", help="With --verify: the worst predictions first.")] = False,
    seconds: Annotated[float, typer.Option("--seconds", min=0.0, help="With --verify: how long it runs, about.")] = 3.0,
    machine: Annotated[
        str | None,
        typer.Option(
            "--machine",
            metavar="FILE.toml",
            help="Instead, place it on this machine, which is only described: a file, or a name that `advise` lists.",
        ),
    ] = None,
    deadline: Annotated[
        str | None,
        typer.Option("--deadline", metavar="30ms", help="Say whether a run is predicted to meet it (exit code 1)."),
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option("--trace", metavar="FILE.json", help="With --machine: write the timeline for Perfetto or Chrome."),
    ] = None,
    budget: BudgetOption = None,
    json: Json = False,
) -> None:
    """Print the plan: how each operation is mapped onto this machine, with the reason; or onto a described one."""
    from mapsto.cli.open import Opening
    from mapsto.cli.plan import show_difference, show_plan

    if diff is not None:
        if model is not None:
            raise typer.BadParameter("--diff compares two plans: leave MODEL out")
        raise typer.Exit(show_difference(*diff, json))
    if model is None:
        raise typer.BadParameter("a model is needed (MODEL), or two plans to compare (--diff)")
    opening = Opening(reading, target, division, formats, within)
    if machine is not None:
        from mapsto.cli.machines import show_simulation

        if feeding or verify or worst:
            raise typer.BadParameter("--verify, --worst, --inputs and --input are of this machine, not of --machine")
        raise typer.Exit(show_simulation(model, machine, opening, deadline, trace, output, json))
    if trace:
        raise typer.BadParameter("--trace is to go with --machine")
    if verify:
        from mapsto.cli.prediction import verify_plan

        if deadline:
            raise typer.BadParameter("--verify says what kernels take: leave --deadline out")
        verify_plan(model, feeding, opening, output, seconds, worst, json)
        return
    raise typer.Exit(show_plan(model, opening, output, deadline, json))


@app.command()
@with_groups
def advise(
    model: OnnxModel,
    reading: ReadOptions,
    machine: Annotated[
        list[str] | None,
        typer.Option("--machine", metavar="FILE.toml", help="A machine file, or a name. Default: all that come along."),
    ] = None,
    deadline: Annotated[str | None, typer.Option("--deadline", metavar="30ms", help="Of one run.")] = None,
    energy: Annotated[float | None, typer.Option("--energy", metavar="J", help="Joules of one run, at most.")] = None,
    price: Annotated[
        float | None, typer.Option("--price", metavar="P", help="Of an hour, at most, as the machine files have it.")
    ] = None,
    budget: BudgetOption = None,
    json: Json = False,
) -> None:
    """Say which of some machines suits a model: how long a run takes on each, and what it waits for there."""
    from mapsto.cli.machines import advise as advise_model

    advise_model(model, machine or [], reading, deadline, energy, price, json)


@app.command()
@with_groups
def explain(
    model: Model,
    node: Annotated[str, typer.Argument(help="The name of a node or a value of the model.", show_default=False)],
    reading: ReadOptions,
    target: TargetOptions,
    division: DivisionOptions,
    formats: FormatOptions,
    within: AccuracyOptions,
    budget: BudgetOption = None,
    json: Json = False,
) -> None:
    """Say what became of one node: where it runs, in which kernel and layout, and what was considered instead."""
    from mapsto.cli.open import Opening
    from mapsto.cli.plan import explain_node

    explain_node(model, node, Opening(reading, target, division, formats, within), json)


@app.command()
@with_groups
def graph(
    model: OnnxModel,
    reading: ReadOptions,
    after: Annotated[
        str | None,
        typer.Option(
            "--after", metavar="STAGE", help="`imported`, a pass by name or number, or `all`. Default: the last."
        ),
    ] = None,
    budget: BudgetOption = None,
    json: Json = False,
) -> None:
    """Print the graph of a model as text: as it was imported, or after a pass."""
    from mapsto.cli.graph import show_graph

    show_graph(model, after, reading, json)


@app.command()
def devices(
    measure: Annotated[
        bool, typer.Option("--measure", help="Measure this machine first (some seconds), and keep the figures.")
    ] = False,
    json: Json = False,
) -> None:
    """List the devices of this machine that mapsto can make code for, and the figures that decide how."""
    from mapsto.cli.devices import list_devices

    list_devices(measure, json)


cache_commands = typer.Typer(no_args_is_help=True, help="What is kept on disk from one start to the next.")
app.add_typer(cache_commands, name="cache")


@cache_commands.command("info")
def cache_info(json: Json = False) -> None:
    """Where the cache is, what is in it, and how large it may grow."""
    from mapsto.cli.cache import info

    info(json)


@cache_commands.command("clear")
def cache_clear(json: Json = False) -> None:
    """Remove all that was compiled. What is in use stays as long as it is used."""
    from mapsto.cli.cache import clear

    clear(json)


@cache_commands.command("prune")
def cache_prune(
    max_size: Annotated[
        str | None,
        typer.Option("--max-size", metavar="SIZE", help="Keep so much at most, of what was used last: 500M, 2G."),
    ] = None,
    older_than: Annotated[
        str | None, typer.Option("--older-than", metavar="TIME", help="Remove what was not used for so long: 12h, 30d.")
    ] = None,
    json: Json = False,
) -> None:
    """Remove what was used longest ago, and what killed processes have left."""
    from mapsto.cli.cache import prune

    prune(max_size, older_than, json)
