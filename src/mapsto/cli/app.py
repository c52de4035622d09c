"""The commands and their options. What a command does is in the file of its name, imported when it is called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Compiles neural networks to native code for this machine, and says how each operation was mapped and why.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Model = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL", help="An ONNX file, or a .mapsto file that `mapsto compile` made.", show_default=False
    ),
]
OnnxModel = Annotated[Path, typer.Argument(metavar="MODEL", help="An ONNX file.", show_default=False)]
ShapesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--shape", metavar="NAME=DIMS", help="Fix an input's shape: x=1,3,224,224; `?` leaves a dim open. Repeatable."
    ),
]
Inputs = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="NAME=WHAT",
        help="What an input gets: FILE.npy, FILE.npz, random, zeros, ones, or a number or [list]. Repeatable.",
    ),
]
InputsFile = Annotated[
    Path | None, typer.Option("--inputs", metavar="FILE.npz", help="An npz file with an array for each input, by name.")
]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, help="Threads to run on. Default: what this process may use.")
]


def _budget(context: typer.Context, text: str | None) -> str | None:
    """Holds for every compile of the command, and ends with it."""
    if text is not None:
        from mapsto.budget import defaulting
        from mapsto.cli.inputs import parse_budget

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
CheckIndices = Annotated[
    bool,
    typer.Option(
        "--check-indices/--no-check-indices",
        help="Stop a run at an index out of range. Without: it wraps round its axis.",
    ),
]
CacheOption = Annotated[
    bool,
    typer.Option(
        "--cache/--no-cache", help="Take what was compiled before from the cache folder, and keep what is compiled now."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Of the random inputs.")]
DataRoot = Annotated[
    Path | None,
    typer.Option(
        "--data-root",
        metavar="FOLDER",
        help="The folder (a download cache) that links to a model's data may lead into.",
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
ObjectiveOption = Annotated[
    str | None,
    typer.Option("--objective", help="Of several devices: latency, throughput (of a stream), or energy (modelled)."),
]
LimitOption = Annotated[
    list[str] | None,
    typer.Option("--limit", metavar="DEVICE.memory=AMOUNT", help="Of several devices: gpu.memory=2GiB. Repeatable."),
]
PowerOption = Annotated[
    str | None,
    typer.Option("--power", metavar="FILE.toml", help="A machine file that has figures of power by devices' names."),
]
PlacerOption = Annotated[
    str | None, typer.Option("--placer", help="Of several devices: exact; or, to compare, greedy, heft, exhaustive.")
]

FormatsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--formats",
        metavar="FORMAT|PATTERN=FORMAT",
        help="Compute products in bf16, f16, int8, int16, or narrow weights alone: bf16-weights, f16-weights, "
        "int8-weights, int4-weights. All products, or 'conv*=bf16'. Repeatable.",
    ),
]
ExactIntegersOption = Annotated[
    bool,
    typer.Option(
        "--exact-integers",
        help="Products of a quantised model in integers, the same on every processor; none in f32 as it may be faster.",
    ),
]
CalibrateOption = Annotated[
    Path | None,
    typer.Option("--calibrate", metavar="FILE.npz", help="Examples to quantise by, along the first axes."),
]
CalibratorOption = Annotated[
    str | None,
    typer.Option("--calibrator", help="How ranges are chosen of them: mse (default), min-max, percentile, entropy."),
]
AccuracyOption = Annotated[
    Path | None,
    typer.Option(
        "--accuracy",
        metavar="FILE.npz",
        help="Look for the fastest formats that lose no more on these examples than --max-error (or --drop) says.",
    ),
]
MetricOption = Annotated[str | None, typer.Option("--metric", help="Of --accuracy: top-1, by an array `label`.")]
DropOption = Annotated[float | None, typer.Option("--drop", metavar="0.005", help="What the metric may lose.")]
MaxErrorOption = Annotated[
    float | None,
    typer.Option("--max-error", metavar="1e-2", help="Without a metric: how far outputs may move, of their size."),
]


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
def run(
    model: Model,
    inputs: InputsFile = None,
    given: Inputs = None,
    shape: ShapesOption = None,
    threads: Threads = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE.npz", help="Write the outputs here.")
    ] = None,
    repeat: Annotated[
        int | None,
        typer.Option("--repeat", min=1, help="Runs to time, at most; they end after a second. Default: 10."),
    ] = None,
    plan: Annotated[
        Path | None,
        typer.Option("--plan", metavar="FILE", help="Do as this plan says, which `mapsto plan -o` wrote."),
    ] = None,
    pin: PinOption = None,
    objective: ObjectiveOption = None,
    placer: PlacerOption = None,
    limit: LimitOption = None,
    power: PowerOption = None,
    deadline: Annotated[
        str | None,
        typer.Option(
            "--deadline", metavar="30ms", help="Say whether 99 of 100 runs meet it (exit code 1: not); up to 1000 runs."
        ),
    ] = None,
    check_indices: CheckIndices = True,
    seed: Seed = 0,
    budget: BudgetOption = None,
    data_root: DataRoot = None,
    device: DeviceOption = "cpu",
    cache: CacheOption = True,
    adapt: Annotated[
        bool,
        typer.Option("--adapt", help="Make code for these sizes alone where that is faster, and time that as well."),
    ] = False,
    formats: FormatsOption = None,
    calibrate: CalibrateOption = None,
    calibrator: CalibratorOption = None,
    accuracy: AccuracyOption = None,
    metric: MetricOption = None,
    drop: DropOption = None,
    max_error: MaxErrorOption = None,
    exact_integers: ExactIntegersOption = False,
    json: Json = False,
) -> None:
    """Compile a model and run it: prints its outputs and how long it took.

    Inputs that are not given are random. If the npz file has a `label` for each example, the accuracy is printed too.
    """
    from mapsto.cli.open import Divided, Formatted
    from mapsto.cli.run import run_model

    formed = Formatted(
        formats or [], calibrate, calibrator, accuracy, metric, drop, max_error, exact_integers
    )  # fmt: skip
    fed, how = (inputs, given or [], shape or []), Divided(pin or [], objective, placer, limit or [], power)
    code = run_model(
        model, *fed, threads, output, repeat, check_indices, seed, data_root, device, cache, adapt, plan, how, deadline,
        formed, json,
    )  # fmt: skip
    raise typer.Exit(code)


@app.command("compile")
def compile_(
    model: OnnxModel,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE.mapsto", help="Where the executable goes.")],
    shape: ShapesOption = None,
    threads: Threads = None,
    plan: Annotated[
        Path | None, typer.Option("--plan", metavar="FILE", help="Replay the plan that `mapsto plan` wrote.")
    ] = None,
    update: Annotated[
        list[str] | None,
        typer.Option(
            "--update", metavar="INPUT=OUTPUT", help="The output takes over the input's memory (repeatable)."
        ),
    ] = None,
    budget: BudgetOption = None,
    check_indices: CheckIndices = True,
    data_root: DataRoot = None,
    cache: CacheOption = True,
    device: DeviceOption = "cpu",
    pin: PinOption = None,
    objective: ObjectiveOption = None,
    placer: PlacerOption = None,
    limit: LimitOption = None,
    power: PowerOption = None,
    formats: FormatsOption = None,
    calibrate: CalibrateOption = None,
    calibrator: CalibratorOption = None,
    accuracy: AccuracyOption = None,
    metric: MetricOption = None,
    drop: DropOption = None,
    max_error: MaxErrorOption = None,
    exact_integers: ExactIntegersOption = False,
    json: Json = False,
) -> None:
    """Compile a model into one file that runs without compiling again."""
    from mapsto.cli.compile import compile_model
    from mapsto.cli.open import Divided, Formatted

    formed = Formatted(
        formats or [], calibrate, calibrator, accuracy, metric, drop, max_error, exact_integers
    )  # fmt: skip
    how = Divided(pin or [], objective, placer, limit or [], power)
    asked = (model, output, shape or [], update or [])
    compile_model(*asked, threads, plan, check_indices, data_root, cache, device, how, formed, json)


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
def bench(
    model: OnnxModel,
    against: Annotated[
        str, typer.Option("--against", metavar="ENGINES", help="Comma-separated: onnxruntime, openvino.")
    ] = "onnxruntime",
    inputs: InputsFile = None,
    given: Inputs = None,
    shape: ShapesOption = None,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads of each engine.")] = 1,
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, help="How long each engine runs, about.")] = 3.0,
    dynamic: Annotated[
        bool, typer.Option("--dynamic", help="Leave open dims open, instead of fixing them to the inputs'.")
    ] = False,
    seed: Seed = 0,
    budget: BudgetOption = None,
    data_root: DataRoot = None,
    device: DeviceOption = "cpu",
    pin: PinOption = None,
    plan: Annotated[
        Path | None,
        typer.Option("--plan", metavar="FILE", help="Ours by this plan (`mapsto plan -o`): its formats and seats."),
    ] = None,
    kernels: Annotated[
        bool,
        typer.Option("--kernels", help="Instead, time each kernel beside the least that this machine needs for it."),
    ] = False,
    worst: Annotated[
        bool, typer.Option("--worst", help="With --kernels: those first that lose most time to their limit.")
    ] = False,
    exact_integers: ExactIntegersOption = False,
    json: Json = False,
) -> None:
    """Time a model beside other engines: alternately, each in a process of its own, medians and quartiles."""
    from mapsto.cli.bench import bench_model

    fed = (inputs, given or [], shape or [])
    if kernels or worst:
        from mapsto.cli.inputs import UsageError
        from mapsto.cli.kernels import bench_kernels

        if plan is not None:
            raise UsageError("--plan: kernels are timed as they are planned now; leave --plan or --kernels out")
        bench_kernels(
            model, *fed, threads, seconds, dynamic, kernels, worst, seed, data_root, device, exact_integers, json
        )
        return

    engines = [name.strip() for name in against.split(",") if name.strip()]
    bench_model(
        model, engines, *fed, threads, seconds, dynamic, seed, data_root, device, pin or [], plan, exact_integers, json
    )


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
def tune(
    model: OnnxModel,
    within: Annotated[
        str, typer.Option("--budget", metavar="60s", help="How long it may take, about.")
    ] = "60s",
    inputs: InputsFile = None,
    given: Inputs = None,
    shape: ShapesOption = None,
    threads: Threads = None,
    seed: Seed = 0,
    data_root: DataRoot = None,
    cache: CacheOption = True,
    json: Json = False,
) -> None:
    """Measure other schedules of a model's kernels on this machine, and keep what is faster for later compiles.

    What is kept stands in a file beside the machine's figures; equal kernels of any model are compiled so from then on.
    """
    from mapsto.cli.tune import tune_model

    tune_model(model, within, inputs, given or [], shape or [], threads, seed, data_root, cache, json)


@app.command()
def check(
    model: OnnxModel,
    inputs: InputsFile = None,
    given: Inputs = None,
    shape: ShapesOption = None,
    threads: Threads = None,
    reference: Annotated[
        bool, typer.Option("--reference/--no-reference", help="Run the numpy reference too (slow on large models).")
    ] = True,
    passes: Annotated[
        bool, typer.Option("--passes", help="Instead, find the first pass that changes what the graph computes.")
    ] = False,
    check_indices: CheckIndices = True,
    seed: Seed = 0,
    budget: BudgetOption = None,
    data_root: DataRoot = None,
    device: DeviceOption = "cpu",
    pin: PinOption = None,
    objective: ObjectiveOption = None,
    placer: PlacerOption = None,
    limit: LimitOption = None,
    power: PowerOption = None,
    cache: CacheOption = True,
    formats: FormatsOption = None,
    calibrate: CalibrateOption = None,
    calibrator: CalibratorOption = None,
    max_error: Annotated[
        float | None,
        typer.Option("--max-error", metavar="1e-2", min=0.0, help="Of each channel, instead of the rule for f32."),
    ] = None,
    exact_integers: ExactIntegersOption = False,
    json: Json = False,
) -> None:
    """Compare our outputs with the numpy reference and, if installed, ONNX Runtime. Exit code 1 if too far off."""
    from mapsto.cli.check import check_model, check_passes
    from mapsto.cli.open import Divided, Formatted

    formed = Formatted(formats or [], calibrate, calibrator, exact_integers=exact_integers)
    fed, how = (inputs, given or [], shape or []), Divided(pin or [], objective, placer, limit or [], power)
    if passes:
        code = check_passes(model, *fed, seed, data_root, json)
    else:
        code = check_model(
            model, *fed, threads, reference, check_indices, seed, data_root, device, cache, how, formed,
            max_error, json,
        )  # fmt: skip
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


def _refuse_of_this_machine(*given: object) -> None:
    if any(given):
        raise typer.BadParameter(
            "--verify, --worst, --inputs, --input, --threads, --device, --power, --formats are of this machine, not of "
            "--machine"
        )


@app.command()
def plan(
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
    shape: ShapesOption = None,
    threads: Threads = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write the plan's text here, to edit and replay."),
    ] = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Instead, run it and print what each kernel was predicted to take.")
    ] = False,
    worst: Annotated[bool, typer.Option("--worst", help="With --verify: the worst predictions first.")] = False,
    seconds: Annotated[float, typer.Option("--seconds", min=0.0, help="With --verify: how long it runs, about.")] = 3.0,
    inputs: InputsFile = None,
    given: Inputs = None,
    seed: Seed = 0,
    machine: Annotated[
        str | None,
        typer.Option(
            "--machine",
            metavar="FILE.toml",
            help="Instead, place it on this machine, which is only described: a file, or a name that `advise` lists.",
        ),
    ] = None,
    objective: ObjectiveOption = None,
    pin: PinOption = None,
    placer: PlacerOption = None,
    limit: LimitOption = None,
    power: PowerOption = None,
    deadline: Annotated[
        str | None,
        typer.Option("--deadline", metavar="30ms", help="Say whether a run is predicted to meet it (exit code 1)."),
    ] = None,
    trace: Annotated[
        Path | None,
        typer.Option("--trace", metavar="FILE.json", help="With --machine: write the timeline for Perfetto or Chrome."),
    ] = None,
    budget: BudgetOption = None,
    data_root: DataRoot = None,
    device: DeviceOption = "cpu",
    cache: CacheOption = True,
    formats: FormatsOption = None,
    calibrate: CalibrateOption = None,
    calibrator: CalibratorOption = None,
    accuracy: AccuracyOption = None,
    metric: MetricOption = None,
    drop: DropOption = None,
    max_error: MaxErrorOption = None,
    exact_integers: ExactIntegersOption = False,
    json: Json = False,
) -> None:
    """Print the plan: how each operation is mapped onto this machine, with the reason; or onto a described one."""
    from mapsto.cli.plan import show_difference, show_plan

    if diff is not None:
        if model is not None:
            raise typer.BadParameter("--diff compares two plans: leave MODEL out")
        raise typer.Exit(show_difference(*diff, json))
    if model is None:
        raise typer.BadParameter("a model is needed (MODEL), or two plans to compare (--diff)")
    if machine is not None:
        from mapsto.cli.machines import show_simulation

        _refuse_of_this_machine(verify, worst, inputs, given, threads, device != "cpu", power)
        _refuse_of_this_machine(formats, calibrate, calibrator, accuracy, exact_integers)
        places = (limit or [], pin or [], placer or "exact", deadline, trace)
        code = show_simulation(model, machine, shape or [], objective or "latency", *places, output, data_root, json)
        raise typer.Exit(code)
    if trace:
        raise typer.BadParameter("--trace is to go with --machine")
    if verify:
        if objective or pin or placer or deadline or limit or power or "," in device:
            raise typer.BadParameter(
                "--verify is of one device: leave --objective, --pin, --placer, --limit, --power and --deadline out"
            )
        if formats or calibrate or calibrator or accuracy or exact_integers:
            raise typer.BadParameter("--verify is of formats as the model has them: leave --formats and the like out")
        from mapsto.cli.prediction import verify_plan

        fed = (inputs, given or [], shape or [])
        verify_plan(model, *fed, threads, output, seconds, worst, seed, data_root, device, json)
        return
    from mapsto.cli.open import Divided, Formatted

    formed = Formatted(
        formats or [], calibrate, calibrator, accuracy, metric, drop, max_error, exact_integers
    )  # fmt: skip
    how = Divided(pin or [], objective, placer, limit or [], power)
    code = show_plan(model, shape or [], threads, output, data_root, device, cache, how, deadline, formed, json)
    raise typer.Exit(code)


@app.command()
def advise(
    model: OnnxModel,
    machine: Annotated[
        list[str] | None,
        typer.Option("--machine", metavar="FILE.toml", help="A machine file, or a name. Default: all that come along."),
    ] = None,
    shape: ShapesOption = None,
    deadline: Annotated[str | None, typer.Option("--deadline", metavar="30ms", help="Of one run.")] = None,
    energy: Annotated[float | None, typer.Option("--energy", metavar="J", help="Joules of one run, at most.")] = None,
    price: Annotated[
        float | None, typer.Option("--price", metavar="P", help="Of an hour, at most, as the machine files have it.")
    ] = None,
    budget: BudgetOption = None,
    data_root: DataRoot = None,
    json: Json = False,
) -> None:
    """Say which of some machines suits a model: how long a run takes on each, and what it waits for there."""
    from mapsto.cli.machines import advise as advise_model

    advise_model(model, machine or [], shape or [], deadline, energy, price, data_root, json)


@app.command()
def explain(
    model: Model,
    node: Annotated[str, typer.Argument(help="The name of a node or a value of the model.", show_default=False)],
    shape: ShapesOption = None,
    threads: Threads = None,
    budget: BudgetOption = None,
    data_root: DataRoot = None,
    device: DeviceOption = "cpu",
    pin: PinOption = None,
    objective: ObjectiveOption = None,
    placer: PlacerOption = None,
    limit: LimitOption = None,
    power: PowerOption = None,
    cache: CacheOption = True,
    formats: FormatsOption = None,
    calibrate: CalibrateOption = None,
    calibrator: CalibratorOption = None,
    accuracy: AccuracyOption = None,
    metric: MetricOption = None,
    drop: DropOption = None,
    max_error: MaxErrorOption = None,
    exact_integers: ExactIntegersOption = False,
    json: Json = False,
) -> None:
    """Say what became of one node: where it runs, in which kernel and layout, and what was considered instead."""
    from mapsto.cli.open import Divided, Formatted
    from mapsto.cli.plan import explain_node

    formed = Formatted(
        formats or [], calibrate, calibrator, accuracy, metric, drop, max_error, exact_integers
    )  # fmt: skip
    how = Divided(pin or [], objective, placer, limit or [], power)
    explain_node(model, node, shape or [], threads, data_root, device, cache, how, formed, json)


@app.command()
def graph(
    model: OnnxModel,
    after: Annotated[
        str | None,
        typer.Option(
            "--after", metavar="STAGE", help="`imported`, a pass by name or number, or `all`. Default: the last."
        ),
    ] = None,
    shape: ShapesOption = None,
    budget: BudgetOption = None,
    data_root: DataRoot = None,
    json: Json = False,
) -> None:
    """Print the graph of a model as text: as it was imported, or after a pass."""
    from mapsto.cli.graph import show_graph

    show_graph(model, after, shape or [], data_root, json)


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
