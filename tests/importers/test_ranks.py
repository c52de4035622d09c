"""Inputs of another rank than the op takes: each is an error that says what is wrong, or is taken as the op allows."""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Iterator

import onnx
import pytest
from onnx.backend.test.loader import load_model_tests

from mapsto.errors import MapstoError
from mapsto.importers.onnx import load

CHANGES = {
    "none": lambda dims: [],
    "the first alone": lambda dims: dims[:1],
    "without the first": lambda dims: dims[1:],
    "without the last": lambda dims: dims[:-1],
    "one more": lambda dims: [*dims, *(dims[-1:] or [onnx.TensorShapeProto.Dimension(dim_value=3)])],
}


@functools.cache
def models() -> dict[str, onnx.ModelProto]:
    """The first case of the standard's suite for each set of ops."""
    found: dict[str, onnx.ModelProto] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for case in load_model_tests(kind="node"):
            if isinstance(case.model, onnx.ModelProto):
                found.setdefault("+".join(node.op_type for node in case.model.graph.node), case.model)
    return found


def changed(model: onnx.ModelProto) -> Iterator[tuple[str, onnx.ModelProto]]:
    """The model with one input's shape as another rank has it."""
    for i, given in enumerate(model.graph.input):
        dims = list(given.type.tensor_type.shape.dim)
        for how, change in CHANGES.items() if given.type.HasField("tensor_type") else ():
            other = copy.deepcopy(model)
            shape = other.graph.input[i].type.tensor_type.shape
            del shape.dim[:]
            shape.dim.extend(change(copy.deepcopy(dims)))
            shape.SetInParent()
            yield f"{given.name}: {how}", other


def test_there_are_many_models() -> None:
    assert len(models()) > 150


@pytest.mark.parametrize("part", range(4))
def test_inputs_of_other_ranks(part: int) -> None:
    unclear = []
    for name, model in list(models().items())[part::4]:
        for how, other in changed(model):
            try:
                load(other, None)
            except MapstoError as error:
                if "do not fit the op" in str(error):
                    unclear.append(f"{name}, {how}: {error}")
    assert not unclear, "\n".join(unclear)
