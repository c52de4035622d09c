"""`mapsto plan --machine` and `mapsto advise`: what a model takes on machines that are described."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mapsto.cli.amounts import parse_limits, parse_pins, seconds_of
from mapsto.cli.codes import CHECK_FAILED
from mapsto.cli.inputs import existing, parse_shapes, writable
from mapsto.cli.open import Opening
from mapsto.cli.options import ReadOptions, TargetOptions
from mapsto.cli.output import bytes_text, print_json, seconds_text, table
from mapsto.cli.usage import UsageError
from mapsto.files import write_text
from mapsto.placement.trace import timeline_text, trace_events
from mapsto.session.simulate import Simulation, read_machine, shipped_machines, simulate


def show_simulation(
    model: Path,
    machine: str,
    opening: Opening,
    deadline: str | None,
    trace: Path | None,
    output: Path | None,
    as_json: bool,
) -> int:
    """Prints where each work goes and the timeline; the exit code."""
    _onnx(model)
    if opening.target != TargetOptions(cache=opening.target.cache) or opening.division.power or opening.has_formats:
        raise UsageError(
            "--threads, --device, --no-check-indices, --power, --formats and the like are of this machine, not of "
            "--machine"
        )
    inputs = [model, Path(machine) if Path(machine).exists() else None]
    for option, path, others in (("--trace", trace, inputs), ("--output", output, [*inputs, trace])):
        if path is not None:
            writable(path, others, option)
    wanted = None if deadline is None else seconds_of(deadline, "--deadline")
    asked, reading = opening.division, opening.reading
    limits, pins = parse_limits(asked.limit or []), parse_pins(asked.pin or [])
    found = simulate(
        model, read_machine(machine), parse_shapes(reading.shape or []), asked.objective or "latency", limits, pins,
        asked.placer or "exact", reading.data_root,
    )  # fmt: skip
    if trace is not None:
        write_text(trace, json.dumps(trace_events(found.problem, found.events)) + "\n")
    if output is not None:
        write_text(output, "\n".join(text_of(found, wanted)) + "\n")
    elif as_json:
        print_json(data_of(found, wanted))
    else:
        print("\n".join(text_of(found, wanted)))
    late = wanted is not None and not found.seconds <= wanted
    return CHECK_FAILED if late or found.seconds == math.inf else 0


def advise(
    model: Path,
    machines: Sequence[str],
    reading: ReadOptions,
    deadline: str | None,
    energy: float | None,
    price: float | None,
    as_json: bool,
) -> None:
    """Prints a table of machines, the one that suits the model best first."""
    _onnx(model)
    for option, most in (("--energy", energy), ("--price", price)):
        if most is not None and not 0 <= most < math.inf:
            raise UsageError(f"{option} {most}: expected a number, 0 or more")
    wanted = None if deadline is None else seconds_of(deadline, "--deadline")
    shapes = parse_shapes(reading.shape or [])
    known = [read_machine(name) for name in machines or shipped_machines()]
    found = [simulate(model, machine, shapes, data_root=reading.data_root) for machine in known]
    suits = [(_unmet(s, wanted, energy, price), s) for s in found]
    suits.sort(key=lambda each: (len(each[0]), each[1].seconds))
    if as_json:
        print_json({"model": str(model), "machines": [data_of(s, wanted) | {"unmet": unmet} for unmet, s in suits]})
        return
    headers = ("machine", "one run", "runs a second", "J a run", "price an hour", "bound by", "asked for")
    print(table(headers, [_advice(s, unmet) for unmet, s in suits]))
    print("Nothing was run: all figures follow from the machine files. Joules are modelled.")


def _onnx(model: Path) -> None:
    """Raises UsageError for what is no file, or a compiled model."""
    existing(model)
    if model.suffix == ".mapsto":
        raise UsageError(f"{model} is compiled for the machine that it was compiled on; give the model's ONNX file")


def _unmet(found: Simulation, deadline: float | None, energy: float | None, price: float | None) -> list[str]:
    """What was asked for and is not to be had."""
    unmet = ["runs nowhere"] if found.seconds == math.inf else []
    if deadline is not None and found.seconds > deadline:
        unmet.append("too late")
    if energy is not None and not (math.inf if found.joules is None else found.joules) <= energy:
        unmet.append("energy not known" if found.joules is None else "too much energy")
    if price is not None and not (math.inf if found.machine.price is None else found.machine.price) <= price:
        unmet.append("price not known" if found.machine.price is None else "too dear")
    return unmet


def _advice(found: Simulation, unmet: Sequence[str]) -> list[str]:
    joules, price = found.joules, found.machine.price
    return [
        found.machine.name,
        seconds_text(found.seconds) if found.seconds < math.inf else "-",
        f"{1 / found.stream:.4g}" if 0 < found.stream < math.inf else "-",
        "-" if joules is None or found.seconds == math.inf else f"{joules:.3g}",
        "-" if price is None else f"{price:g}",
        bound_by(found),
        ", ".join(unmet) or "yes",
    ]


def bound_by(found: Simulation) -> str:
    """Which of arithmetic, bytes, launches and transfers a run waits for most; or that it does not fit."""
    if found.seconds == math.inf:
        return "memory that does not suffice"
    parts = found.parts()
    shares = {
        "arithmetic": parts.arithmetic, "bytes": parts.bytes, "launches": parts.launches, "transfers": found.moving()
    }  # fmt: skip
    name, most = max(shares.items(), key=lambda each: each[1])
    return f"{name} ({most / max(sum(shares.values()), 1e-300):.0%})"


# ---- text ----------------------------------------------------------------------------------------------------------


def text_of(found: Simulation, deadline: float | None) -> Iterator[str]:
    """Sums, devices, works with what others would take, timeline."""
    place, problem = found.placement, found.problem
    yield f"machine {found.machine.name}: described; nothing was run"
    if place.seconds == math.inf:
        yield f"{place.said}: {_why_nowhere(found)}"
        return
    yield f"one run {seconds_text(found.seconds)}; a stream of runs, one each {seconds_text(found.stream)}" + (
        "" if found.joules is None else f"; {found.joules:.3g} J a run (modelled)"
    )
    yield f"objective {found.objective}: {place.said}, found by {place.method}"
    for name, figure in place.others:
        yield f"  {name}: {_figure(figure, found.objective)}"
    if deadline is not None:
        met = "met" if found.seconds <= deadline else "missed"
        yield f"deadline of {seconds_text(deadline)}: {met} (one run, as predicted)"
    yield ""
    yield table(("device", "works", "busy", "constants", "of"), list(_devices(found)))
    yield ""
    headers = ("work", "on", "takes", *(f"on {name}" for name in problem.devices))
    yield table(headers, list(_works(found)))
    reasons = dict.fromkeys(p.reason for w in found.works for p in w.priced if p.reason)
    if reasons:
        yield ""
        yield from (f"  -: {reason}" for reason in reasons)
    yield ""
    yield timeline_text(problem, found.events)


def _figure(figure: float, objective: str) -> str:
    if figure == math.inf:
        return "cannot be"
    return f"{figure:.3g} J" if objective == "energy" else seconds_text(figure)


def _devices(found: Simulation) -> Iterator[list[str]]:
    busy = [0.0] * len(found.problem.devices)
    for event in found.events:
        if event.work is not None:
            busy[event.device] += event.end - event.begin
    for d, (name, held) in enumerate(zip(found.problem.devices, found.held(), strict=True)):
        limit = found.problem.memory[d] if found.problem.memory else math.inf
        share = f"{busy[d] / found.seconds:.0%}" if found.seconds > 0 else "0%"
        room = "no limit" if limit == math.inf else bytes_text(int(limit))
        yield [name, str(found.placement.seats.count(d)), share, bytes_text(int(held)), room]


def _works(found: Simulation) -> Iterator[list[str]]:
    names = found.problem.devices
    for work, seat in zip(found.works, found.placement.seats, strict=True):
        each = ["-" if p.seconds == math.inf else seconds_text(p.seconds) for p in work.priced]
        yield [f"{work.name} {'+'.join(work.ops)}", names[seat], each[seat], *each]


def _why_nowhere(found: Simulation) -> str:
    needs = sum(job.holds for job in found.problem.works)
    each = zip(found.problem.devices, found.problem.memory or (), strict=False)
    limits = ", ".join(f"{name} {bytes_text(int(limit))}" for name, limit in each if limit < math.inf)
    return f"constants of {bytes_text(int(needs))}; limits: {limits or 'none'}"


def data_of(found: Simulation, deadline: float | None) -> dict[str, Any]:
    place, names = found.placement, found.problem.devices
    return {
        "machine": found.machine.name,
        "objective": found.objective,
        "seconds": found.seconds,
        "stream_seconds": found.stream,
        "joules": found.joules,
        "bound": place.bound,
        "said": place.said,
        "method": place.method,
        "others": dict(place.others),
        "bound_by": bound_by(found),
        "deadline_met": None if deadline is None else found.seconds <= deadline,
        "works": [
            {
                "name": work.name,
                "ops": work.ops,
                "nodes": work.sources,
                "device": names[seat],
                "seconds": {n: p.seconds for n, p in zip(names, work.priced, strict=True)},
                "refused": {n: p.reason for n, p in zip(names, work.priced, strict=True) if p.reason},
            }
            for work, seat in zip(found.works, place.seats, strict=True)
        ],
    }
