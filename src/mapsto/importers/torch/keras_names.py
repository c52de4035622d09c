"""The layers of Keras that make the calls of torch's graph, and in which tracing fails: by their path, "block/dense".
Keras calls its layers past torch's modules, so torch knows of none of them.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch

_MODULE = "keras.src.layers.layer"
_KEY = "mapsto.keras_layer"
_FAILED = "_mapsto_keras_layer"
_path: ContextVar[tuple[str, ...]] = ContextVar("keras_path", default=())


@contextmanager
def keras_layers_named() -> Iterator[None]:
    """While it is entered, calls that are traced say in which of Keras's layers they are made, where Keras is there."""
    layers = sys.modules.get(_MODULE)
    if layers is None or not hasattr(layers, "Layer"):
        yield
        return
    call, create = layers.Layer.__call__, torch.fx.Graph.create_node
    layers.Layer.__call__, torch.fx.Graph.create_node = _called(call), _created(create)
    try:
        yield
    finally:
        layers.Layer.__call__, torch.fx.Graph.create_node = call, create


def _called(before: Callable[..., Any]) -> Callable[..., Any]:
    def called(layer: Any, *args: Any, **kwargs: Any) -> Any:
        with inside_layer(layer):
            return before(layer, *args, **kwargs)

    return called


@contextmanager
def inside_layer(layer: Any) -> Iterator[None]:
    """While it is entered, calls that are traced, and what is raised, are of this layer within those around it."""
    token = _path.set((*_path.get(), str(layer.name)))
    try:
        yield
    except Exception as error:
        if not hasattr(error, _FAILED):
            setattr(error, _FAILED, "/".join(_path.get()))
        raise
    finally:
        _path.reset(token)


def _created(before: Callable[..., Any]) -> Callable[..., Any]:
    def created(graph: Any, *args: Any, **kwargs: Any) -> Any:
        node = before(graph, *args, **kwargs)
        if path := "/".join(_path.get()):
            node.meta["custom"] = {**(node.meta.get("custom") or {}), _KEY: path}  # torch hands that on
        return node

    return created


def name_captured(graph: Any, scope: Mapping[str, Any]) -> None:
    """The same for a graph that torch's compiler captured, which names modules by where they are found: "L['self'].a",
    with `scope` for L.
    """
    kind: Any = getattr(sys.modules.get(_MODULE), "Layer", None)
    for node in graph.nodes if kind is not None else ():
        stack = [str(held[0]) for held in (node.meta.get("nn_module_stack") or {}).values()]
        if path := _captured_path(stack, {"L": scope}, kind):
            node.meta["custom"] = {**(node.meta.get("custom") or {}), _KEY: path}


def _captured_path(stack: list[str], scope: Mapping[str, Any], kind: type) -> str:
    """The path of the layers that are found in these places, the first of them with what it is found in."""
    found: list[Any] = []
    for place in stack:
        way = [each for each in _way(place, scope) if isinstance(each, kind)]
        found += [way[0], way[-1]] if way and not found else way[-1:]
    return "/".join(str(layer.name) for at, layer in enumerate(found) if at == 0 or layer is not found[at - 1])


def _way(place: str, scope: Mapping[str, Any]) -> list[Any]:
    """What is met on the way to a place, "L['args'][0].block", the place last; nothing where it is not as simple."""

    def follow(node: ast.expr) -> Any:
        if isinstance(node, ast.Name):
            held = scope[node.id]
        elif isinstance(node, ast.Attribute):
            held = getattr(follow(node.value), node.attr)
        elif isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
            held = follow(node.value)[node.slice.value]
        else:
            raise LookupError(place)
        met.append(held)
        return held

    met: list[Any] = []
    try:
        follow(ast.parse(place, mode="eval").body)
    except (SyntaxError, LookupError, AttributeError, TypeError):
        return []
    return met


def keras_layer_of(node: Any) -> str:
    """The path of the layer that makes a call; "" where it is none of Keras's."""
    return str((node.meta.get("custom") or {}).get(_KEY, ""))


def keras_layer_in(error: BaseException) -> str:
    """The path of the layer in which this was raised; "" where it is none of Keras's."""
    return str(getattr(error, _FAILED, ""))
