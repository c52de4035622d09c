"""A layer or model of Keras on torch as a module that learns: its variables as parameters and buffers that have their
paths for names, and what it does to statistics as writes. Keras reads its variables past torch's modules, learns where
a call says so and not where the module is in training, and assigns to variables in a way that cannot be traced;
`stateless_call` is its own function of all of that.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch

from mapsto.errors import UnsupportedError
from mapsto.importers.torch.keras_names import inside_layer


def as_learning(module: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """The module itself, or what stands for a layer of Keras. args, kwargs: what it is called with. Raises
    UnsupportedError for a layer whose variables are not there before it is called, or bear one name.
    """
    keras: Any = sys.modules.get("keras")
    if keras is None or not isinstance(module, getattr(keras, "Layer", ())):
        return module
    module = cast(Any, module)
    if not module.built:  # its variables come with its first call
        with torch.no_grad():
            module(*args, **kwargs)
    return _Learning(module)


class _Learning(torch.nn.Module):  # type: ignore[misc]  # torch tells no types
    """Tensors have the names of the variables' paths in Keras. moved, others: by these, what gradients move and what
    calls do.
    """

    def __init__(self, layer: Any) -> None:
        super().__init__()
        object.__setattr__(self, "layer", layer)  # no part of this module: its tensors would be there twice
        self.moved = _named(layer.trainable_variables)
        self.others = _named(layer.non_trainable_variables)
        if len(self.moved) + len(self.others) != len({*self.moved, *self.others}):
            raise UnsupportedError("variables of the Keras model bear one path: name its layers differently")
        for name, tensor in self.moved.items():
            self.register_parameter(_attribute(name), tensor)
        for name, tensor in self.others.items():
            self.register_buffer(_attribute(name), tensor.data)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        moved = [getattr(self, _attribute(name)) for name in self.moved]
        others = [getattr(self, _attribute(name)) for name in self.others]
        # a model that knows of no training is called without, as Keras's own steps call it
        asked = {**kwargs, "training": self.training} if self.layer._call_has_training_arg else kwargs
        with inside_layer(self.layer):  # which Keras does not call as layers call each other
            result, after = self.layer.stateless_call(moved, others, *args, **asked)
        if self.training:
            for tensor, made in zip(others, after, strict=True):
                if made is not tensor:
                    tensor.copy_(made)
        return result


def _named(variables: Sequence[Any]) -> dict[str, Any]:
    found = {str(variable.path): variable.value for variable in variables}
    if len(found) != len(variables):
        raise UnsupportedError("variables of the Keras model bear one path: name its layers differently")
    return found


def _attribute(path: str) -> str:
    """A path as torch takes names: without dots."""
    return path.replace(".", "_")
