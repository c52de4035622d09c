"""The layers of Keras that make the calls of torch's graph, and in which tracing fails: by their path, "block/dense".
Keras calls its layers past torch's modules, so torch knows of none of them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
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
        token = _path.set((*_path.get(), str(layer.name)))
        try:
            return before(layer, *args, **kwargs)
        except Exception as error:
            if not hasattr(error, _FAILED):
                setattr(error, _FAILED, "/".join(_path.get()))
            raise
        finally:
            _path.reset(token)

    return called


def _created(before: Callable[..., Any]) -> Callable[..., Any]:
    def created(graph: Any, *args: Any, **kwargs: Any) -> Any:
        node = before(graph, *args, **kwargs)
        if path := "/".join(_path.get()):
            node.meta["custom"] = {**(node.meta.get("custom") or {}), _KEY: path}  # torch hands that on
        return node

    return created


def keras_layer_of(node: Any) -> str:
    """The path of the layer that makes a call; "" where it is none of Keras's."""
    return str((node.meta.get("custom") or {}).get(_KEY, ""))


def keras_layer_in(error: BaseException) -> str:
    """The path of the layer in which this was raised; "" where it is none of Keras's."""
    return str(getattr(error, _FAILED, ""))
