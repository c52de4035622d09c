"""From a model to an executable: import, passes, plan, code, program."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mapsto import debug
from mapsto.arguments import text_of
from mapsto.budget import current, metering, metering_anew
from mapsto.devices.backend import Backend, Progress
from mapsto.devices.maker import Made, Maker
from mapsto.devices.named import backend_named
from mapsto.errors import ArgumentError, ModelError, ParseError, ShapeError
from mapsto.files import is_keras_file
from mapsto.formats.format import WantedFormats
from mapsto.importers.keras import load as load_keras
from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Graph
from mapsto.ir.text import graph_digest
from mapsto.machine.spec import DeviceSpec
from mapsto.ops.charges import FOLD_PER_BYTE
from mapsto.passes.checks import unchecked
from mapsto.plan.decide import decide
from mapsto.plan.initial import constants_of
from mapsto.plan.items import tasks
from mapsto.plan.judge import Choice
from mapsto.plan.mapped import Mapped, Taken, plan_of
from mapsto.plan.plan import Plan, parse
from mapsto.plan.replay import check_origin, replay
from mapsto.plan.works import NO_PINS, Beaten, Offer
from mapsto.runtime.executable import Executable
from mapsto.session.accurate import accurately
from mapsto.session.assemble import assemble, link
from mapsto.session.calibration import ranges_of
from mapsto.session.collecting import collecting_rarely
from mapsto.session.constants import fold_calls
from mapsto.session.describe import steps_text
from mapsto.session.formed import Formed, as_multiplied, bytes_lie_as, formed, said, unsigned
from mapsto.session.request import Request
from mapsto.session.shapes import with_shapes
from mapsto.session.updates import with_updates
from mapsto.session.weighed import ByArithmetic, as_asked, in_integers, weighed
from mapsto.version import VERSION

if TYPE_CHECKING:
    from mapsto.formats.ranges import SeenRange
    from mapsto.passes import Pass



@dataclass(frozen=True)
class Compiled:
    """An executable, and the initializers that the model lists as inputs too, which it takes for constants."""

    executable: Executable
    listed: frozenset[str]


def compiled(asked: Request) -> Compiled:
    """What `mapsto.compile` gives (`session.entry`), made anew."""
    pinned = _plan(asked.plan)
    try:
        with (
            collecting_rarely(),
            metering(asked.budget),
            backend_named(asked.device, asked.cache, asked.isa) as backend,
        ):
            opened, listed, defaults = opened_model(asked.model, asked.overridable, asked.data_root, asked.shapes)
            formats = _formats(asked.formats, pinned)
            made = _in_formats(replace(asked, model=opened, plan=pinned, formats=formats), backend)
            looked = asked.accuracy is not None or made.formats  # for formats, at other forms, which took their own
            with metering_anew() if looked else nullcontext():
                exe = build(made.graph, backend, asked.threads, asked.progress, pinned, defaults, made)
    except RecursionError as error:
        raise ModelError("its graphs, expressions or types are nested too deep to compile") from error
    return Compiled(exe, listed)


def asked_graph(asked: Request, backend: Backend) -> Formed:
    """The graph that a request is compiled from, the passes done with it."""
    spec = backend.maker({}).spec
    bytes = bytes_lie_as(spec)
    by = _by_arithmetic(asked, backend, spec)
    found = _formed(by.graph, asked, None, bytes, backend)
    mapped = by.mapped if found.graph is by.graph else found.mapped
    return replace(found, formats=(*by.formats, *found.formats), mapped=mapped)


def _formed(
    graph: Graph, asked: Request, ranges: Mapping[str, SeenRange] | None, bytes: DType, backend: Backend
) -> Formed:
    """The graph in the formats that are asked for where they pay; as a plan says where one is replayed."""
    if not asked.formats.pairs or _is_replayed(asked):
        return formed(graph, asked.formats, ranges, bytes)
    from mapsto.formats.chosen import chosen
    from mapsto.session.paying import paying

    found = chosen(graph, asked.formats, ranges, bytes)
    return paying(graph, found, asked.formats, lambda graph: backend.maker(constants_of(graph)))


def _is_replayed(asked: Request) -> bool:
    return isinstance(asked.plan, Plan) and bool(asked.plan.items)


def _by_arithmetic(asked: Request, backend: Backend, spec: DeviceSpec) -> ByArithmetic:
    """The graph of a request, its products of dequantised integers in integers or in floats."""
    from mapsto.passes import run_passes

    graph = _imported(asked.model, asked.shapes, asked.data_root, asked.overridable, asked.updates)

    def finish(graph: Graph) -> Graph:
        graph = run_passes(unsigned(graph, spec))
        return as_multiplied(graph if asked.check_indices else unchecked(graph), bytes_lie_as(spec))

    if asked.exact_integers:
        return in_integers(graph, finish, asked.formats, "exact integers were asked for")
    if asked.formats.pairs or asked.calibration is not None or asked.accuracy is not None or _is_replayed(asked):
        return as_asked(graph, finish, asked.formats)
    return weighed(graph, finish, lambda graph: backend.maker(constants_of(graph)))


def _in_formats(asked: Request, backend: Backend) -> Formed:
    """The graph of a request, in the formats that accuracy allows, or by the ranges that calibration finds."""
    if not asked.formats.needs_ranges and asked.accuracy is None:
        return asked_graph(asked, backend)
    if asked.calibration is None and asked.accuracy is None:
        raise ArgumentError("formats: int8 and int16 need `calibration`: examples by which values are quantised")
    plain = asked_graph(replace(asked, formats=asked.formats.of_quantised), backend)
    graph = plain.graph
    bytes = bytes_lie_as(backend.maker({}).spec)

    def made(other: Graph) -> Executable:
        return build(other, backend, asked.threads, None)

    if asked.accuracy is not None:
        found = accurately(graph, asked.accuracy, made, asked.progress, bytes)
    else:
        assert asked.calibration is not None
        found = _formed(graph, asked, ranges_of(graph, asked.calibration, made), bytes, backend)
    return replace(found, formats=(*plain.formats, *found.formats))


def _formats(asked: WantedFormats, plan: Plan | None) -> WantedFormats:
    """Those that a plan says. Raises ArgumentError where others are asked for as well."""
    if plan is None or not plan.formats:
        return asked
    if asked:
        raise ArgumentError("formats: the plan says them: leave `formats` out, or edit the plan")
    return said(plan.formats)


def opened_model(
    model: Any,
    names: Sequence[str],
    data_root: str | os.PathLike[str] | None,
    shapes: Mapping[str, Sequence[int | str | None]] | None = None,
) -> tuple[Any, frozenset[str], dict[str, np.ndarray]]:
    """The model as it was read, the initializers that are inputs too (without those of `names`), and the values of
    those named. shapes: those that a Keras file is traced with.
    """
    if isinstance(model, Graph):
        if names:
            raise ShapeError("overridable: a graph has no initializers; make them inputs of it")
        return model, frozenset(), {}
    if is_keras_file(model):
        if names:
            raise ShapeError("overridable: a Keras file has no initializers")
        return load_keras(model, shapes), frozenset(), {}
    from mapsto.importers.onnx import default_arrays, default_names, read

    source = read(model, data_root)
    return source, default_names(source) - frozenset(names), default_arrays(source, names)


def _plan(plan: Any) -> Plan | None:
    if plan is None or isinstance(plan, Plan):
        return plan
    return parse(text_of(plan, "plan (a Plan, or its text)"))


def prepared(
    model: Any,
    shapes: Mapping[str, Sequence[int | str | None]] | None,
    passes: Sequence[Pass] | None = None,
    data_root: str | os.PathLike[str] | None = None,
    overridable: Collection[str] = (),
    updates: Sequence[tuple[str, str]] = (),
) -> Graph:
    """The graph of a model after these device-blind passes (None: all that a compile runs). overridable: initializers
    that are to be inputs. updates: inputs and the outputs that take over their memory.
    """
    from mapsto.passes import run_passes

    return run_passes(_imported(model, shapes, data_root, overridable, updates), passes)


def _imported(
    model: Any,
    shapes: Mapping[str, Sequence[int | str | None]] | None,
    data_root: str | os.PathLike[str] | None,
    overridable: Collection[str],
    updates: Sequence[tuple[str, str]],
) -> Graph:
    """The graph of a model as it is read."""
    if is_keras_file(model):
        model = load_keras(model, shapes)
    if isinstance(model, Graph):
        model = with_shapes(model, shapes) if shapes else model
        _earn(model)
    else:
        from mapsto.importers.onnx import load

        model = load(model, shapes, data_root=data_root, overridable=overridable)
    return with_updates(model, updates) if updates else model


def planned_graph(
    model: Any,
    plan: Plan,
    shapes: Mapping[str, Sequence[int | str | None]] | None = None,
    data_root: str | os.PathLike[str] | None = None,
    device: str = "cpu",
) -> Graph:
    """The graph of a model that a plan is of: its products in the formats that the plan says."""
    asked = Request(
        model, shapes or {}, 1, None, False, plan, None, None, True, data_root, (), device, formats=said(plan.formats)
    )
    with backend_named(device, cache=False, isa=None) as backend:
        return asked_graph(asked, backend).graph


def build(
    graph: Graph,
    backend: Backend,
    threads: int | None,
    progress: Progress | None,
    pinned: Plan | None = None,
    defaults: Mapping[str, np.ndarray] | None = None,
    formed: Formed | None = None,
) -> Executable:
    """Plan, generate, compile and assemble a graph that the passes are done with. `defaults` of inputs by name; formed:
    what its products have been given formats by.
    """
    with metering(), np.errstate(all="ignore"):  # numbers of the model overflow as IEEE 754 says
        _earn(graph)
        return _build(graph, backend, threads, progress, pinned, defaults, formed)


def _earn(graph: Graph) -> None:
    """Says how large a graph's own constants are, where no importer has said it yet."""
    meter = current()
    if meter.earned:
        return
    elements = sum(array.size for array in graph.constants.values())
    meter.earn("folded_bytes", FOLD_PER_BYTE * sum(array.nbytes for array in graph.constants.values()))
    meter.earn("folded_operations", FOLD_PER_BYTE * elements)
    meter.earn("native_operations", 2 * FOLD_PER_BYTE * elements)


def _build(
    graph: Graph,
    backend: Backend,
    threads: int | None,
    progress: Progress | None,
    pinned: Plan | None,
    defaults: Mapping[str, np.ndarray] | None,
    formed: Formed | None,
) -> Executable:
    origin = graph_digest(graph), VERSION
    constants = constants_of(graph)
    maker = backend.maker(constants)
    replayed = pinned if pinned is not None and pinned.items else None
    if pinned is not None:
        check_origin(pinned, origin, backend.name, maker.traits)
    pins = NO_PINS if pinned is None else pinned.pins
    if replayed is not None:
        mapped = replay(replayed, graph)
    elif formed is not None and formed.mapped is not None and formed.mapped.graph is graph and pins == NO_PINS:
        mapped = formed.mapped
    else:
        mapped = decide(graph, maker, pins)
    lines = {} if replayed is None else replayed.lines
    offers = templates_of(mapped) if replayed is None else {w.name: w.offer for w in replayed.works}
    made = _made(mapped, maker, offers, lines)
    taken = {name: _taken(each, mapped.choices.get(name), maker.spec) for name, each in made.items()}
    exe = executable_of(mapped, made, constants, backend, threads, progress, defaults)
    said = ((), "") if formed is None else (formed.formats, formed.accuracy)
    plan = plan_of(mapped, taken, backend.name, origin, *said) if replayed is None else replayed
    exe.plan_text = plan.text() + steps_text(exe)
    debug.show(debug.PLAN, "plan", lambda: exe.plan_text)
    return exe


def executable_of(
    mapped: Mapped,
    made: Mapping[str, Made],
    constants: Mapping[str, np.ndarray],
    backend: Backend,
    threads: int | None,
    progress: Progress | None = None,
    defaults: Mapping[str, np.ndarray] | None = None,
) -> Executable:
    """What a graph's tasks were made into, put together. It says nothing of its plan yet."""
    linked = link(mapped, made, constants)
    ports = {v.name for v in mapped.graph.inputs} | {mapped.homes[place].buffer for place in mapped.places.values()}
    sources = {c.function: c.task.sources for calls in linked.calls.values() for c in calls}
    linked = fold_calls(linked, ports, lambda program: backend.executable(program, 1, None, sources))
    return backend.executable(assemble(linked, defaults), threads, progress, sources)


def templates_of(mapped: Mapped) -> dict[str, Offer]:
    """Of tasks that could be made by several: the one that was taken, its schedule still open."""
    several = ((n, c) for n, c in mapped.choices.items() if any(b.how == "as" for b in c.beaten))
    return {name: Offer(choice.quote.template, None) for name, choice in several}


def _taken(made: Made, choice: Choice | None, spec: DeviceSpec) -> Taken:
    """How a task was made; what other schedules would have lost, where its kernels are those that were quoted."""
    beaten = []
    kernels = 0 if choice is None else len(choice.quote.tallies)
    for rival in made.beaten:
        if choice is not None and kernels == len(made.calls) and rival.offer.schedule is not None:
            loss = choice.quote.slower(rival.at, rival.ratio, spec)
            beaten.append(Beaten("as", rival.offer.template, rival.offer.schedule, float(f"{loss:.3g}")))
    return Taken(made.offer, made.because, tuple(beaten))


def _made(
    mapped: Mapped, maker: Maker, offers: Mapping[str, Offer], lines: Mapping[str, int]
) -> dict[str, Made]:
    """Code of all tasks; offers: those that a plan has taken already; lines: where it was read."""
    made: dict[str, Made] = {}
    for task in tasks(mapped.items):
        current().tick(f"code for {', '.join(task.sources[:4]) or task.name}")
        try:
            made[task.name] = maker.make(task, mapped.homes, offers.get(task.name))
        except ParseError as error:
            line = lines.get(f"item {task.name}")
            raise ParseError(f"plan, line {line}: {error}" if line else f"plan: {error}") from error
    return made
