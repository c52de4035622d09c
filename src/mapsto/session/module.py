"""`mapsto.compile` of a `torch.nn.Module`: traced by torch.export, compiled, called with torch's tensors."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.utils import _pytree as pytree

from mapsto.arguments import Shapes, brief
from mapsto.boundary import public
from mapsto.errors import ArgumentError, ShapeError
from mapsto.importers.torch import Supplied, TracedProgram, exported, functional, translated_program
from mapsto.importers.torch.translate import Imported
from mapsto.ir.graph import Graph
from mapsto.runtime.executable import Executable
from mapsto.session.request import Request
from mapsto.session.traced import FROZEN, SHARED, TracedExecutable

Make = Callable[[Request], Executable]


class ModuleExecutable:
    """A module of torch, compiled. It is called as the module is, with tensors in whatever structure that takes, and
    gives what that gives. Results are new tensors in memory of their own; tensors that are not contiguous are copied
    when they come in, others are read where they lie. What the module writes into its buffers, or into tensors that it
    is given, is written there after the run. No gradients flow through it.
    """

    def __init__(
        self, program: TracedProgram, traced: TracedExecutable, buffers: Mapping[str, Callable[[], Any]]
    ) -> None:
        self._program = program
        self._traced = traced
        self._buffers = buffers
        spec = program.exported.call_spec
        self._takes, self._gives = spec.in_spec, spec.out_spec
        self._count = len(program.feeds)
        self._is_flat = self._takes == pytree.tree_structure(((None,) * len(program.users), {}))
        self._has_numbers = any(program.feeds[at].is_number for at in program.users)
        self._is_plain = self._gives.is_leaf() and all(kind == "output" for kind, _ in program.results)
        self._places = {program.feeds[at].name: at for at in program.users}

    @property
    def executable(self) -> Executable:
        """What runs now: its inputs are the module's tensors in order, as arrays. It can be saved, profiled, and asked
        for its plan.
        """
        return self._traced.executable

    @property
    def compilations(self) -> int:
        """How often the module was compiled: once, and again where its weights changed."""
        return self._traced.compilations

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the module gives for these arguments. Raises ArgumentError for arguments of another structure than the
        examples had, ShapeError for tensors that do not fit, ExecutionError where the run fails.
        """
        given: list[Any] = [None] * self._count
        for at, leaf in zip(self._program.users, self._leaves(args, kwargs), strict=True):
            feed = self._program.feeds[at]
            if self._has_numbers and feed.is_number and (leaf != feed.number or type(leaf) is not type(feed.number)):
                raise ArgumentError(
                    f"{feed.name}: {brief(leaf)} was {brief(feed.number)} in the examples, and is part of what was "
                    "compiled; compile for it"
                )
            given[at] = leaf
        made = self._traced(given)
        if self._is_plain:
            return made[0]
        results: list[Any] = []
        written: dict[int, Any] = {}
        for value, (kind, name) in zip(made, self._program.results, strict=True):
            if kind == "output":  # what was written is given back as the tensor that it was written to
                results.append(written.get(id(value), value))
            else:
                target = self._buffers[name]() if kind == "buffer" else given[self._places[name]]
                with torch.no_grad():
                    target.copy_(value)
                written[id(value)] = target
        return pytree.tree_unflatten(results, self._gives)

    def _leaves(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
        if self._is_flat and not kwargs and len(args) == len(self._program.users):
            if all(isinstance(arg, torch.Tensor) for arg in args):
                return list(args)
        leaves, spec = pytree.tree_flatten((args, kwargs))
        if spec == self._takes:
            return leaves  # type: ignore[no-any-return]
        leaves, spec = pytree.tree_flatten(_in_order((args, kwargs), self._takes))
        if spec == self._takes:
            return leaves  # type: ignore[no-any-return]
        raise ArgumentError(
            f"the arguments' structure is {brief(spec)}, that of the examples was {brief(self._takes)}; call it as "
            "the module was traced, keywords as keywords"
        )

    def report(self) -> str:
        """How weights are held, and what has been done for the sizes that runs brought."""
        held = "weights are read in each run" if self._traced.reads_weights else "weights are compiled as constants"
        times = f"compiled {self.compilations} times" if self.compilations > 1 else "compiled once"
        return f"{held}; {times}\n{self.executable.report()}"


def _in_order(value: Any, like: Any) -> Any:
    """A structure with the keys of its dicts in the order of another one, where both have the same."""
    if like.type is dict and isinstance(value, dict) and set(value) == set(like.context):
        return {key: _in_order(value[key], each) for key, each in zip(like.context, like.children(), strict=True)}
    if like.type in (tuple, list) and type(value) is like.type and len(value) == len(like.children()):
        return like.type(_in_order(each, its) for each, its in zip(value, like.children(), strict=True))
    return value


def is_module(model: Any) -> bool:
    """Whether a model is a module, or an exported program, of torch."""
    return isinstance(model, (torch.nn.Module, torch.export.ExportedProgram))


@public
def compiled_module(
    asked: Request, examples: Any, keywords: Any, dynamic_shapes: Any, weights: str, make: Make
) -> ModuleExecutable:
    """What `mapsto.compile` gives for a module. Raises as it does."""
    _see_arguments(asked, weights)
    module = asked.model
    program = _program(asked, examples, keywords, dynamic_shapes)
    name = type(module).__name__
    holders, written = _holders(module, program), {n for kind, n in program.results if kind == "buffer"}
    weights_at = {
        at: holders[feed.name]
        for at, feed in enumerate(program.feeds)
        if feed.held is not None and feed.name not in written
    }
    written_at = {
        at: holders[feed.name]
        for at, feed in enumerate(program.feeds)
        if feed.held is not None and feed.name in written
    }

    def imported(held: Collection[int]) -> Imported:
        feeds = tuple(
            feed if feed.held is None else Supplied(feed.name, holders[feed.name]() if at in held else None)
            for at, feed in enumerate(program.feeds)
        )
        return translated_program(replace(program, feeds=feeds), name, budget=asked.budget)

    first = [True]

    def compiled(graph: Graph) -> Executable:
        pinned, first[0] = (asked.plan if first[0] else None), False
        return make(replace(asked, model=graph, shapes={}, plan=pinned))

    traced = TracedExecutable(imported, compiled, weights_at, weights)
    traced.also(written_at)
    return ModuleExecutable(program, traced, {n: holders[n] for n in written})


def _program(asked: Request, examples: Any, keywords: Any, dynamic_shapes: Any) -> TracedProgram:
    """The module, traced; or what was exported."""
    module, named = asked.model, None
    if isinstance(module, torch.export.ExportedProgram):
        if examples is not None or keywords or dynamic_shapes is not None or asked.shapes:
            raise ArgumentError("an exported program has its inputs' shapes; leave the examples and shapes out")
        return functional(module)
    if examples is None and not keywords:
        return _by_its_inputs(module, asked.shapes, dynamic_shapes)
    args = tuple(examples) if isinstance(examples, (tuple, list)) else () if examples is None else (examples,)
    if asked.shapes:
        if dynamic_shapes is not None:
            raise ArgumentError("shapes, dynamic_shapes: both say which sizes stay open; leave one of them out")
        dynamic_shapes, named = open_sizes(module, args, dict(keywords or {}), asked.shapes)
    return exported(module, args, keywords, dynamic_shapes, named)


def _by_its_inputs(module: Any, shapes: Shapes, dynamic_shapes: Any) -> TracedProgram:
    """A model of Keras that was built from inputs, traced with examples of these; what they leave open stays open."""
    keras, given = sys.modules.get("keras"), None
    if keras is not None and isinstance(module, keras.Model) and dynamic_shapes is None:
        from mapsto.importers.keras.examples import call_examples, closed_axes

        try:
            given = call_examples(module, shapes)
        except ValueError as error:
            raise ShapeError(f"shapes: {error}") from error
    if given is None:
        raise ArgumentError(
            "a module of torch is traced with examples: mapsto.compile(module, example_inputs), a tuple of tensors; "
            "only a model of Keras that was built from inputs says itself what it takes"
        )
    try:
        program = exported(module, given.args, None, given.dynamic_shapes)
    except ArgumentError as error:
        raise ShapeError(f"its layers fix a size that was to stay open; say it by `shapes`: {error}") from error
    if closed := closed_axes(program.exported, given.names, given.open_axes):
        raise ShapeError(f"its layers fix {closed}; say it by `shapes`")
    return program


def _see_arguments(asked: Request, weights: Any) -> None:
    """Raises ArgumentError for what does not go with a module."""
    if weights not in (SHARED, FROZEN):
        raise ArgumentError(f"weights: expected {SHARED!r} or {FROZEN!r}, got {brief(weights)}")
    for name, given, why in (
        ("overridable", asked.overridable, 'a module\'s weights are its own memory: `weights="shared"` sees changes'),
        ("updates", asked.updates, "what a module writes into its buffers and inputs is written there anyhow"),
        ("data_root", asked.data_root, "a module reads no files"),
    ):
        if given:
            raise ArgumentError(f"{name}: {why}; leave it out")
    if weights == SHARED and (asked.accuracy is not None or asked.calibration is not None):
        raise ArgumentError(
            'accuracy, calibration: formats are found for the weights that there are: say `weights="frozen"`'
        )


def _holders(module: Any, program: TracedProgram) -> dict[str, Callable[[], Any]]:
    """What gives the tensor that each name of the module is now, also where it has been replaced."""
    found: dict[str, Callable[[], Any]] = {}
    for feed in program.feeds:
        if feed.held is None:
            continue
        found[feed.name] = _holder(module, feed)
    return found


def _holder(module: Any, feed: Supplied) -> Callable[[], Any]:
    path, _, name = feed.name.rpartition(".")
    if isinstance(module, torch.nn.Module):
        try:
            owner = module.get_submodule(path)
        except AttributeError:
            return lambda: feed.held
        for held in (owner._parameters, owner._buffers):
            if held.get(name) is not None:
                return lambda: held[name]
    return lambda: feed.held


def open_sizes(
    module: Any, args: Sequence[Any], kwargs: Mapping[str, Any], shapes: Shapes
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Our shapes as torch's, and the names: a name leaves an axis open; a number, or None, keeps the example's. What
    arguments in any number (`*args`) stand for are args_0, args_1 and so on, as torch calls them.
    """
    signature = inspect.signature(module.forward)
    bound = signature.bind(*args, **kwargs)
    every = signature.parameters.values()
    several = [p.name for p in every if p.kind is p.VAR_POSITIONAL and p.name in bound.arguments]
    given = {name: value for name, value in bound.arguments.items() if name not in several}
    places = {name: [f"{name}_{at}" for at in range(len(bound.arguments[name]))] for name in several}
    for name, each in places.items():
        given.update(zip(each, bound.arguments[name], strict=True))
    unknown = sorted(set(shapes) - set(given))
    if unknown:
        raise ShapeError(f"shapes: the module takes no {', '.join(unknown)}; its arguments are {', '.join(given)}")
    found: dict[str, Any] = dict.fromkeys(given)
    named: dict[str, Any] = dict.fromkeys(given, {})
    for name, dims in shapes.items():
        tensor = given[name]
        if not isinstance(tensor, torch.Tensor):
            raise ShapeError(f"shapes: {name} is no tensor; say its sizes by `dynamic_shapes`")
        if len(dims) != tensor.dim():
            raise ShapeError(f"shapes: {name} has {tensor.dim()} axes, {len(dims)} are named")
        for axis, dim in enumerate(dims):
            if isinstance(dim, int) and dim != tensor.shape[axis]:
                raise ShapeError(
                    f"shapes: {name}: axis {axis} is {tensor.shape[axis]} in the example, {dim} was asked for"
                )
        named[name] = {axis: dim for axis, dim in enumerate(dims) if isinstance(dim, str)}
        found[name] = dict.fromkeys(named[name], torch.export.Dim.DYNAMIC) or None
    for name, each in places.items():
        found[name], named[name] = (tuple(sizes[place] for place in each) for sizes in (found, named))
    return {name: found[name] for name in bound.arguments}, {name: named[name] for name in bound.arguments}
