"""Layers that torch would take apart while a module is traced, as operators that stay whole: LSTM, GRU and plain
recurrent layers. Torch unrolls them over their steps, which fixes the length, and makes hundreds of calls of one layer.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from mapsto.importers.torch.counted import WhileAnyone
from mapsto.importers.torch.keras_layers import keras_layers_whole
from mapsto.importers.torch.keras_names import keras_layers_named

_REST = "bool has_biases, int num_layers, float dropout, bool train, bool bidirectional, bool batch_first"
_LAYERS = {"lstm": "Tensor[] hx", "gru": "Tensor hx", "rnn_tanh": "Tensor hx", "rnn_relu": "Tensor hx"}


def operators_known() -> None:
    """From here on torch knows the operators: a program that was saved may have them."""
    _library()


@functools.cache
def _library() -> Any:
    """The operators `mapsto::lstm`, ..., defined once in a process, with what is needed to trace them."""
    library = torch.library.Library("mapsto", "FRAGMENT")
    for name, states in _LAYERS.items():
        results = "(Tensor, Tensor, Tensor)" if name == "lstm" else "(Tensor, Tensor)"
        library.define(f"{name}(Tensor input, {states}, Tensor[] params, {_REST}) -> {results}")
        library.impl(name, getattr(torch._VF, name), "CompositeExplicitAutograd")
        torch.library.register_fake(f"mapsto::{name}", _traced, lib=library)
    return library


def _traced(
    x: Any, hx: Any, params: Any, has_biases: bool, num_layers: int, dropout: float, train: bool, bidirectional: bool,
    batch_first: bool,
) -> Any:  # fmt: skip
    """Results without elements."""
    states = hx if isinstance(hx, (list, tuple)) else [hx]
    width = states[0].shape[-1] * (2 if bidirectional else 1)
    return (x.new_empty((*x.shape[:-1], width)), *(torch.empty_like(s) for s in states))


class _Whole(TorchFunctionMode):  # type: ignore[misc]
    """While it is entered, recurrent layers call the operators of `_library`."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(function, "__name__", "")
        if name in _LAYERS and function is getattr(torch._VF, name, None) and not _is_packed(args):
            function = getattr(torch.ops.mapsto, name)
        return function(*args, **(kwargs or {}))


def _is_packed(args: Any) -> bool:
    """Whether this is the form of packed sequences, which has the lengths second."""
    return len(args) > 3 and isinstance(args[3], (list, tuple))


@contextmanager
def _without_fast_paths() -> Iterator[None]:
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with keras_layers_whole(), keras_layers_named():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


_not_fused = WhileAnyone(_without_fast_paths)


@contextmanager
def kept_whole() -> Iterator[None]:
    """Recurrent layers, Keras's too, stay one call each, and attention layers take the way that is not fused."""
    _library()
    with _not_fused(), _Whole():
        yield


def keep_whole(module: Any) -> None:
    """The same of a graph that torch's compiler captured: calls of recurrent layers call the operators, which have no
    gradients.
    """
    functions = {getattr(torch._VF, name): name for name in _LAYERS}
    for node in module.graph.nodes:
        name = functions.get(node.target) if node.op == "call_function" else None
        if name is not None and not _is_packed(node.args):
            _library()
            node.target = getattr(torch.ops.mapsto, name).default
            module.recompile()
