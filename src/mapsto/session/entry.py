"""`mapsto.compile`: an executable from the cache where it is there, else made, and kept. What makes one is imported
only then.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

from mapsto.arguments import Progress, brief, flag_of, names_of, pairs_of, shapes_of, telling
from mapsto.boundary import public
from mapsto.errors import ArgumentError, MapstoError
from mapsto.formats.format import wanted as wanted_formats
from mapsto.runtime.cpus import thread_count
from mapsto.runtime.executable import Executable, Overriding
from mapsto.session.cache.executables import FOUND, KEPT, Kept, Place
from mapsto.session.cache.key import Uncached
from mapsto.session.request import Request
from mapsto.witness import witnessing

if TYPE_CHECKING:
    from mapsto.budget import Budget
    from mapsto.plan.plan import Plan
    from mapsto.session.accuracy import Accuracy
    from mapsto.session.calibration import Calibration


@public
def compile_model(
    model: Any,
    shapes: Mapping[str, Sequence[int | str | None]] | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    cache: bool = True,
    plan: Plan | str | None = None,
    isa: str | None = None,
    budget: Budget | Mapping[str, float] | None = None,
    check_indices: bool = True,
    data_root: str | os.PathLike[str] | None = None,
    overridable: Collection[str] = (),
    device: str = "cpu",
    updates: Mapping[str, str] | None = None,
    adapt: bool = False,
    formats: str | Mapping[str, str] | None = None,
    calibration: Any = None,
    accuracy: Accuracy | None = None,
    exact_integers: bool = False,
    example_inputs: Any = None,
    example_kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: Any = None,
    weights: str = "shared",
) -> Executable:
    """Compile a model for a device of this machine: an `Executable`, or, for a module of torch, a
    `session.module.ModuleExecutable`.

    model: path of an ONNX or `.keras` file, the bytes of an ONNX file, an `onnx.ModelProto`, an `ir.graph.Graph`, a
    `torch.nn.Module`, or an exported program of torch.
    shapes: dims of inputs by name; a dim that is not fixed stays a run-time size. A tuple or list is taken for the
    examples of a module.
    threads: how many share a step (None: as many as this process may use).
    cache: whether what was compiled before is taken from the cache folder, and what is compiled now is kept there
    (docs/cache.md); `cache_note` of the executable says what came of it.
    plan: decisions to replay.
    isa: an instruction set to make code for (`sse2`, `avx2`, `avx512`...); None: the widest that this processor has.
    budget: limits of the work that differ from the defaults, by name ({"nodes": 10**6}) or as a whole.
    check_indices: a run raises ExecutionError for an index out of range, where that cannot be ruled out before; else
    such an index wraps round its axis.
    data_root: a folder that symbolic links of the model's external data may lead into (a download cache); None: links
    are refused.
    progress: is told (done, total, label); what it raises ends the compilation with an ArgumentError.
    overridable: initializers that a run may replace, by name: inputs with a default, and not folded or packed ahead.
    Others are constants; those that the model lists as inputs too may be given as well, and are compiled for then.
    updates: inputs whose memory an output takes over, by the inputs' names: {"past": "present"}. A run writes the
    output into the array that is given for the input, and returns that array: a state, as a cache of keys and values,
    without a copy of it. Both are of one type and shape; the array is C-contiguous and writable.
    adapt: whether executables for single sizes are made in the background where runs bring these often and that is
    faster (docs/sizes.md); their results may have other bits. `report()` of the executable says what was made.
    formats: the number format of products of f32, by its name for those that take less in it ("bf16",
    "f16"; "bf16-weights", "f16-weights", "int8-weights", "int4-weights": constant operands alone; "int8" and "int16",
    which need `calibration`), or by patterns of nodes, of which the last one that fits counts, whatever it takes:
    {"*": "bf16", "head*": "f32"} (docs/formats.md). Results are as accurate as the format; `plan` says what was done.
    calibration: examples by which values are quantised: a dict of arrays by inputs, with all examples along their first
    axes, or a list of dicts, one a run; or a `Calibration`, which says how ranges are chosen as well.
    accuracy: what results may lose, in the place of `formats`: the fastest formats that hold are looked for, which
    takes a minute or more, and are kept where they are faster than f32 (docs/formats.md).
    exact_integers: whether products that a model has quantised with DequantizeLinear around them are always computed in
    integers, whose sums are exact and the same on every processor; else each is computed in f32 where that is predicted
    to take less (docs/formats.md).
    device: `cpu`, or `opencl`: the first OpenCL device (`opencl:1`: the second one), on which every step runs.
    example_inputs, example_kwargs: tensors that a module is traced with (docs/pytorch.md); a model of Keras that was
    built from inputs needs none. dynamic_shapes: sizes that stay open, as torch.export takes them, where `shapes` does
    not say it by names.
    weights: of a module: "shared": each call sees whether they are what was compiled; "frozen": they are constants.

    Raises ArgumentError, ModelError (BudgetError where it asks for too much), UnsupportedError, ShapeError,
    CompileError, ExecutionError for an impossible number of threads; ParseError for a plan that cannot be read, or is
    of another graph (shapes included) or instruction set.
    """
    from_torch, given = _is_of_torch(model), cast(Any, shapes)
    if from_torch and isinstance(given, (tuple, list)) and example_inputs is None:
        shapes, example_inputs = None, given
    count, tell, wanted = thread_count(threads), telling(progress), shapes_of(shapes)
    names, pairs = names_of(overridable, "overridable"), pairs_of(updates, "updates")
    asked = Request(
        model, wanted, count, tell, cache, plan, isa, budget, check_indices, data_root, names, device, pairs,
        flag_of(adapt, "adapt"), wanted_formats(formats),
        None if calibration is None else _calibration(calibration), accuracy, flag_of(exact_integers, "exact_integers"),
    )  # fmt: skip
    _see_formats(asked)
    if asked.adapt and plan is not None:
        raise ArgumentError("adapt: a plan that is replayed is of one graph; leave `plan` or `adapt` out")
    if from_torch:
        from mapsto.session.module import compiled_module

        module = compiled_module(asked, example_inputs, example_kwargs, dynamic_shapes, weights, executable_for)
        return cast(Executable, module)  # called with tensors; a model of arrays is what most callers have
    if example_inputs is not None or example_kwargs is not None or dynamic_shapes is not None:
        raise ArgumentError("example_inputs, example_kwargs, dynamic_shapes: they are for modules of torch")
    return executable_for(asked)


def _is_of_torch(model: Any) -> bool:
    """Whether a model is a module or an exported program of torch, which whoever has one has imported."""
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "nn"):
        return False
    kinds = [torch.nn.Module, getattr(sys.modules.get("torch.export"), "ExportedProgram", None)]
    return isinstance(model, tuple(kind for kind in kinds if kind is not None))


def _see_formats(asked: Request) -> None:
    """Raises ArgumentError for what does not go together."""
    if asked.accuracy is not None:
        from mapsto.session.accuracy import Accuracy

        if not isinstance(asked.accuracy, Accuracy):
            raise ArgumentError(f"accuracy: expected a mapsto.Accuracy, got {brief(asked.accuracy)}")
        if asked.formats.pairs or asked.calibration is not None or asked.plan is not None:
            raise ArgumentError("accuracy: it finds formats: leave `formats`, `calibration` and `plan` out")
    if asked.calibration is not None and not asked.formats.needs_ranges:
        raise ArgumentError("calibration: nothing is quantised: ask for int8 or int16 by `formats`")


def _calibration(given: Any) -> Calibration:
    from mapsto.session.calibration import Calibration

    return given if isinstance(given, Calibration) else Calibration(given)


def executable_for(asked: Request) -> Executable:
    """The executable of a request; one of several where open sizes that runs bring decide what it is."""
    try:
        return _single(asked)
    except MapstoError as refusal:
        if not refusal.axes:
            raise
        from mapsto.session.varied import varied

        several = varied(asked, refusal, _single)
        if several is None:
            raise
        return several


def _single(asked: Request) -> Executable:
    """The executable of a request, wherever it comes from."""
    place: Place | None = None
    try:
        place = Place(asked)
        made, note = place.find(), FOUND
    except Uncached as reason:
        made, note = None, f"not cached: {reason}"
    if made is None:
        made = _compiled(asked, place)
        if place is not None:
            note = _kept(place, made)
    exe = made.executable
    exe.cache_note = note
    if made.listed:

        def with_inputs(given: frozenset[str]) -> Executable:
            names = (*asked.overridable, *sorted(given))
            return executable_for(replace(asked, progress=None, plan=None, overridable=names))

        exe.overriding = Overriding(made.listed, with_inputs)
    if any(check.liftable for check in exe.program.checks):
        from mapsto.session.varied import narrowing

        exe.narrowing = narrowing(asked, exe, _single)
    if asked.adapt and exe.open_sizes:
        from mapsto.session.adapt import adaptive_sizes

        exe.adaptive = adaptive_sizes(_as_made(asked, exe), exe, _single)
    return exe


def _as_made(asked: Request, exe: Executable) -> Request:
    """What gives values the ranges that they have in an executable."""
    if not asked.formats.needs_ranges and asked.accuracy is None:
        return asked
    from mapsto.session.formed import said

    return replace(asked, formats=said(exe.plan.formats), calibration=None, accuracy=None)


def _compiled(asked: Request, place: Place | None) -> Kept:
    from mapsto.session.compile import compiled  # which brings all that makes code

    with witnessing(None if place is None else place.witness):
        made = compiled(asked)
    return Kept(made.executable, made.listed)


def _kept(place: Place, made: Kept) -> str:
    """Keeps what was compiled; what came of it."""
    try:
        place.keep(made)
        return KEPT
    except Uncached as reason:
        return f"not cached: {reason}"
