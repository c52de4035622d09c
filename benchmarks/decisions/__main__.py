"""Are the plan's decisions right? Of real models' plans, ways that were beaten are forced, and timed beside the plan.

    mapsto devices --measure               # once: predictions are this machine's
    python -m benchmarks.decisions --seed 0 --count 20

Looked at are decisions whose runner-up is predicted to lose 3 to 50 % of the step that it is about, and at least
0.5 us: less no clock can see, and more nobody would get wrong. benchmarks/README.md says more.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scripts.fetch_models import DEFAULT_FOLDER, FetchError

import mapsto
from benchmarks.decisions.force import NotForced, forced_plan, took
from benchmarks.decisions.pool import KINDS, MAPPED, Decision, Draw, Window, decisions, looked_at
from benchmarks.decisions.timing import Beside, beside
from benchmarks.models import Case, cases, machine_line
from benchmarks.versions import given_cases
from mapsto.cli.output import table
from mapsto.devices.named import host_machine
from mapsto.errors import MapstoError
from mapsto.files import write_text
from mapsto.machine.spec import DeviceSpec
from mapsto.plan.items import tasks
from mapsto.plan.plan import Plan
from mapsto.plan.replay import replay
from mapsto.runtime.executable import Executable
from mapsto.session.compile import prepared

MAPPED_SHARE = 0.4  # of those drawn, what the plan decided and no maker, where there are as many
TOLERANCE = 1e-3  # of an output's largest element: sums in another order differ by less
HEADERS = ("model", "kind", "what", "predicted loss", "measured loss", "quartiles", "of the run", "slower")


Runs = Callable[..., Any]  # as `Executable.__call__`


@dataclass(frozen=True)
class Opened:
    """A model as its plan has it. nodes: first outputs and other values of its graph's nodes."""

    case: Case
    exe: Executable
    plan: Plan
    decisions: tuple[Decision, ...]
    nodes: frozenset[str]

    @property
    def inputs(self) -> list[np.ndarray]:
        return [self.case.feeds[0][port.name] for port in self.exe.program.inputs]


@dataclass(frozen=True)
class Result:
    """What forcing a runner-up lost. foreseen: seconds that the forced plan as a whole is predicted to lose, which
    differs from what the decision alone does where others follow from it.
    """

    decision: Decision
    measured: Beside
    foreseen: float

    def to_json(self) -> dict[str, Any]:
        about = asdict(self.decision) | {"share": self.decision.share, "foreseen": self.foreseen}
        return about | {"measured": asdict(self.measured), "slower": self.measured.slower}


def opened(case: Case, threads: int) -> Opened:
    """Raises MapstoError where the model cannot be compiled."""
    exe = mapsto.compile(case.model, shapes=case.shapes, threads=threads)
    plan = exe.plan
    graph = prepared(case.model, case.shapes)
    made = {task.name: task for task in tasks(replay(plan, graph).items)}
    nodes = frozenset(value.name for node in graph.walk() for value in node.outputs)
    return Opened(case, exe, plan, tuple(decisions(case.name, plan, made)), nodes)


def proved(decision: Decision, model: Opened, threads: int, seconds: float, window: Window) -> Result:
    """Forces the runner-up and times it. Raises NotForced; MapstoError where the run's results are others."""
    try:
        forced = forced_plan(decision, model.plan, model.nodes)
        exe = mapsto.compile(model.case.model, shapes=model.case.shapes, threads=threads, plan=forced)
    except MapstoError as error:
        raise NotForced(str(error)) from error
    made = exe.plan
    if why := took(decision, model.plan, made):
        raise NotForced(why)
    functions = [Counter(step.function for step in each.profile(*model.inputs)) for each in (model.exe, exe)]
    if functions[0] == functions[1]:
        raise NotForced("it is the same program")
    agree(model.exe, exe, model.inputs)
    foreseen = decision.loss if decision.kind == "as" else predicted(made) - predicted(model.plan)
    if foreseen < max(window.seconds, window.least * decision.predicted):
        raise NotForced(f"others follow from it, and the whole is predicted to lose {foreseen * 1e6:.2f} us")
    return Result(decision, beside(model.exe, exe, model.inputs, seconds), foreseen)


def predicted(plan: Plan) -> float:
    return math.fsum(work.predicted for work in plan.works)


def agree(planned: Runs, forced: Runs, inputs: Sequence[np.ndarray]) -> None:
    """Raises MapstoError where the two give other results than rounding explains."""
    for which, (a, b) in enumerate(zip(*(_outputs(exe, inputs) for exe in (planned, forced)), strict=True)):
        limit = TOLERANCE * float(np.max(np.abs(a), initial=0.0)) if a.dtype.kind == "f" else 0.0
        if a.shape != b.shape or not np.allclose(a, b, rtol=0.0, atol=limit, equal_nan=True):
            raise MapstoError(f"output {which} of a forced program differs")


def _outputs(exe: Runs, inputs: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
    found = exe(*inputs)
    return found if isinstance(found, tuple) else (found,)


def row_of(result: Result) -> list[str]:
    d, m = result.decision, result.measured
    return [
        d.model,
        d.kind,
        f"{d.work or '-'} {d.what[:60]} -> {d.runner_up.of[:24]} {d.runner_up.schedule[:40]}".strip(),
        f"{d.loss * 1e6:.2f} us ({d.share:.0%}; whole {result.foreseen * 1e6:.2f})",
        f"{m.lost * 1e6:.2f} us ({m.share:.0%})",
        f"{m.low * 1e6:.2f} to {m.high * 1e6:.2f}",
        f"{m.whole_lost * 1e6:.2f} us of {m.whole * 1e6:.0f}",
        "yes" if m.slower else "NO",
    ]


def counted(pool: Sequence[Decision]) -> str:
    """How many of each kind."""
    kinds = Counter(decision.kind for decision in pool)
    return ", ".join(f"{kinds[kind]} {kind}" for kind in KINDS)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.decisions", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", type=Path, default=DEFAULT_FOLDER, help=f"models folder (default {DEFAULT_FOLDER})")
    parser.add_argument("--only", action="append", help="this case only; may be repeated")
    parser.add_argument("--model", action="append", default=[], metavar="FILE[:NAME=DIMS;...]", help="one more model")
    parser.add_argument("--kind", action="append", choices=KINDS, help="this kind only; may be repeated")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=20, help="how many decisions are drawn")
    parser.add_argument("--threads", type=int, help="default: units of the machine, which predictions are for")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long a decision is timed, about")
    parser.add_argument("--least-us", type=float, default=0.5, help="the least loss that is looked at, in us")
    parser.add_argument("--least", type=float, default=0.03, help="and as a share of the step")
    parser.add_argument("--most", type=float, default=0.5, help="the greatest loss, as a share of the step")
    parser.add_argument("--json", type=Path, help="write the results here as well")
    return parser.parse_args()


def chosen(args: argparse.Namespace, threads: int) -> Iterator[Opened]:
    """The models asked for, compiled. Raises FileNotFoundError, FetchError, MapstoError."""
    for case in (*cases(args.models.expanduser()), *given_cases(args.model, args.seed)):
        if not args.only or case.name in args.only:
            print(f"{case.name} ...", file=sys.stderr, flush=True)
            yield opened(case, threads)


def measured_host() -> DeviceSpec:
    """This machine's figures. Raises MapstoError where they are not measured: others prove nothing."""
    host = host_machine()
    if host.machine.host.source != "measured":
        raise MapstoError(
            f"this machine's figures are {host.machine.host.source}: run `mapsto devices --measure` first"
        )
    return host.machine.host


def drawn(
    draw: Draw, models: dict[str, Opened], threads: int, seconds: float, window: Window
) -> tuple[list[Result], list[str]]:
    """Results, and what could not be forced. Raises MapstoError where a forced program's results are others."""
    results: list[Result] = []
    others: list[str] = []
    while (decision := draw.next()) is not None:
        try:
            results.append(proved(decision, models[decision.model], threads, seconds, window))
            print("  ".join(row_of(results[-1])), file=sys.stderr, flush=True)
        except NotForced as error:
            others.append(f"{decision.model} {decision.work or decision.what} {decision.kind}: {error}")
            draw.again(decision)
    return results, others


def main() -> int:
    args = arguments()
    try:
        spec = measured_host()
        threads = spec.units if args.threads is None else args.threads
        models = {model.case.name: model for model in chosen(args, threads)}
    except (FileNotFoundError, FetchError, MapstoError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    every = [d for model in models.values() for d in model.decisions if not args.kind or d.kind in args.kind]
    window = Window(args.least, args.most, args.least_us * 1e-6)
    pool = looked_at(every, window)
    mapped = math.ceil(MAPPED_SHARE * args.count)
    print(f"decisions: {len(every)} ({counted(every)})")
    print(
        f"pool: {len(pool)} ({counted(pool)}): of different ones those whose runner-up is predicted to lose "
        f"{args.least:.0%} to {args.most:.0%}, and at least {args.least_us:g} us, which a clock can see; "
        f"{args.count} are drawn with seed {args.seed}, {mapped} of them {' or '.join(MAPPED)}"
    )
    try:
        results, others = drawn(Draw(pool, args.count, mapped, args.seed), models, threads, args.seconds, window)
    except MapstoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(table(HEADERS, [row_of(result) for result in results]))
    print("".join(f"not forced: {line}\n" for line in others), end="")
    print(f"slower in {sum(result.measured.slower for result in results)} of {len(results)}")
    print(f"\n{machine_line(threads)}")
    if args.json is not None:
        about = {"seed": args.seed, "threads": threads, "pool": dict(Counter(d.kind for d in pool))}
        found = {"results": [result.to_json() for result in results], "not_forced": others}
        write_text(args.json, json.dumps(about | found, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
