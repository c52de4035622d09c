"""A module of torch as an exported program of functional ATen calls, and what its placeholders and results are."""

from __future__ import annotations

import logging
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.export import _trace as tracing

from mapsto.errors import ArgumentError, UnsupportedError
from mapsto.importers.torch.counted import WhileAnyone
from mapsto.importers.torch.decompositions import of_export
from mapsto.importers.torch.keras_names import keras_layer_in
from mapsto.importers.torch.places import user_frame
from mapsto.importers.torch.translate import Supplied
from mapsto.importers.torch.whole import kept_whole


@dataclass(frozen=True)
class TracedProgram:
    """An exported program, functional, ready to be translated; what its results stand for: ("output", "") or what is
    written back, ("buffer", its name) and ("input", the placeholder's name).
    """

    exported: Any
    feeds: tuple[Supplied, ...]
    users: tuple[int, ...]  # placeholders of the module's own arguments, in order
    results: tuple[tuple[str, str], ...]
    names: Mapping[str, str]  # better names for torch's symbols


def exported(
    module: Any,
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None = None,
    dynamic_shapes: Any = None,
    named: Any = None,
) -> TracedProgram:
    """What torch.export makes of a module, its layers whole and its writes made results. named: the names of open
    sizes, as `dynamic_shapes` has them, where that does not say them.

    Raises UnsupportedError where the module cannot be traced as one graph, ArgumentError for wrong examples.
    """
    with quiet(), kept_whole():
        try:
            made = torch.export.export(
                module, tuple(args), dict(kwargs or {}), dynamic_shapes=dynamic_shapes, strict=False
            )
        except Exception as error:  # whatever the user's own code and torch raise
            raise refusal(error) from error
    return functional(made, _names_of(dynamic_shapes if named is None else named, made))


def functional(made: Any, names: Mapping[str, str] | None = None) -> TracedProgram:
    """The program with writes turned into results."""
    with quiet(), kept_whole():
        try:
            made = made.run_decompositions(of_export())
        except Exception as error:
            raise refusal(error) from error
    signature = made.graph_signature
    feeds, users = [], []
    nodes = [node for node in made.graph.nodes if node.op == "placeholder"]
    for at, (spec, node) in enumerate(zip(signature.input_specs, nodes, strict=True)):
        kind = spec.kind.name
        if kind == "USER_INPUT":
            users.append(at)
        feeds.append(_feed(made, spec, node))
    return TracedProgram(
        made, tuple(feeds), tuple(users), tuple(_meaning(s) for s in signature.output_specs), names or {}
    )


def _feed(made: Any, spec: Any, node: Any) -> Supplied:
    kind, name = spec.kind.name, node.name
    if kind in ("PARAMETER", "BUFFER"):
        held = made.state_dict[spec.target] if spec.target in made.state_dict else made.constants[spec.target]
        if held.device.type != "cpu":
            raise UnsupportedError(
                f"{spec.target!r} is on {held.device}: only the processor's memory is supported; call module.cpu()"
            )
        return Supplied(spec.target, held=held)
    if kind == "CONSTANT_TENSOR":
        return Supplied(spec.target, held=made.constants[spec.target])
    if kind == "USER_INPUT":
        given = getattr(spec.arg, "value", None)
        is_number = type(spec.arg).__name__ == "ConstantArgument"
        return Supplied(name, number=given, is_number=is_number)
    raise UnsupportedError(f"placeholder {name!r}: a {kind.lower().replace('_', ' ')} is not supported")


def _meaning(spec: Any) -> tuple[str, str]:
    kind = spec.kind.name
    if kind in ("USER_OUTPUT", "LOSS_OUTPUT"):
        return "output", ""
    if kind in ("BUFFER_MUTATION", "PARAMETER_MUTATION"):
        return "buffer", str(spec.target)
    if kind == "USER_INPUT_MUTATION":
        return "input", str(spec.target)
    raise UnsupportedError(f"a result that is a {kind.lower().replace('_', ' ')} is not supported")


@contextmanager
def _quiet() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(max(before, logging.WARNING))
    tracing.print = lambda *_, **__: None  # of a module that it refuses it prints the graph so far
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        delattr(tracing, "print")
        logging.disable(before)


_REMARK = "The error above occurred when calling torch.export"  # what torch adds to whatever was raised

quiet = WhileAnyone(_quiet)
"""Torch warns, logs and prints of its own inside while it traces."""


def refusal(error: BaseException) -> Exception:
    """What torch raised while it traced, in a user's words and with the place in the user's source."""
    chain: list[BaseException] = []
    seen: BaseException | None = error
    while seen is not None and seen not in chain:
        chain.append(seen)
        seen = seen.__cause__ or seen.__context__
    places = [user_frame(traceback.extract_tb(e.__traceback__)) for e in chain]
    where = next((place for place in places if place), "")
    lines = (line for e in chain for line in str(e).splitlines() if line.strip() and not line.startswith(_REMARK))
    said = next(lines, type(error).__name__)
    kinds = {type(e).__name__ for e in chain}
    layer = next((path for path in map(keras_layer_in, chain) if path), "")
    at = (f" in layer {layer!r}" if layer else "") + (f" at {where}" if where else "")
    if kinds & {"GuardOnDataDependentSymNode", "DataDependentOutputException", "DynamicOutputShapeException"}:
        return UnsupportedError(
            f"the module branches on the data of a run{at}: {said}; use torch.where or torch.cond, or compile its parts"
        )
    if "Constraints violated" in str(error) or "ConstraintViolationError" in kinds:
        return ArgumentError(f"dynamic_shapes: {_indented(str(error))}")
    if isinstance(error, (TypeError, ValueError)) and not where:
        return ArgumentError(f"the module cannot be traced with these examples: {said}")
    return UnsupportedError(f"the module cannot be traced as one graph{at}: {type(error).__name__}: {said}")


def _indented(text: str) -> str:
    return "\n  ".join(line for line in text.splitlines() if line.strip())


def _names_of(dynamic_shapes: Any, made: Any) -> dict[str, str]:
    """The names that the user gave to sizes, for torch's symbols."""
    found: dict[str, str] = {}
    if dynamic_shapes is None:
        return found
    named = [leaf for leaf in _leaves(dynamic_shapes) if leaf is not None]
    given = _tensors_of(made)
    if len(named) != len(given):
        return found
    for axes, shape in zip(named, given, strict=True):
        pairs = axes.items() if isinstance(axes, Mapping) else enumerate(axes)
        for axis, dim in pairs:
            name = getattr(dim, "__name__", None) if not isinstance(dim, str) else dim
            expression = getattr(getattr(shape[axis], "node", None), "expr", None)
            if isinstance(name, str) and name.isidentifier() and expression is not None and expression.is_Symbol:
                found.setdefault(str(expression), name)
    return found


def _leaves(spec: Any) -> Iterator[Any]:
    """What is said of each tensor: a mapping of axes by numbers, or a list of them."""
    if isinstance(spec, Mapping) and all(isinstance(k, int) for k in spec):
        yield spec
    elif isinstance(spec, Mapping):
        for each in spec.values():
            yield from _leaves(each)
    elif isinstance(spec, (list, tuple)):
        if (
            spec
            and all(not isinstance(each, (list, tuple, Mapping)) for each in spec)
            and any(each is not None for each in spec)
        ):
            yield spec
        else:
            for each in spec:
                yield from _leaves(each) if each is not None else [{}]
    else:
        yield {}


def _tensors_of(made: Any) -> list[Any]:
    """The shapes of the module's own tensors, in order."""
    names = {
        s.arg.name for s in made.graph_signature.input_specs if s.kind.name == "USER_INPUT" and hasattr(s.arg, "name")
    }
    nodes = [n for n in made.graph.nodes if n.op == "placeholder" and n.name in names]
    return [n.meta["val"].shape for n in nodes if isinstance(n.meta.get("val"), torch.Tensor)]
