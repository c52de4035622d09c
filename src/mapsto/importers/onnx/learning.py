"""ONNX models that are to be trained: which initializers are weights, and what rows do otherwise for the sake of it.

A file that was exported for inference does not say how it was trained; what layers do in training follows from what
they are: batch normalisation goes by the batch and moves its running statistics, dropout drops.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import onnx

from mapsto.importers.onnx.tensors import DTYPES, TensorReader
from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Value
from mapsto.ops.builder import Builder

_STATISTICS = (3, 4)  # inputs of BatchNormalization
_SETTINGS = {"Resize": (1, 2, 3), "Upsample": (1,), "QuantizeLinear": (1,), "DequantizeLinear": (1,)}
_SMALL = {"BatchNormalization": (1, 2), "Conv": (1, 2), "ConvTranspose": (1, 2), "Gemm": (1, 2), "PRelu": (1,)}


class Learning:
    """What a model's rows are told, and what they tell, where it is imported to be trained. is_training: else it is
    imported as it infers, whatever its nodes say of training.
    """

    def __init__(self, is_training: bool) -> None:
        self.is_training = is_training
        self._moved: dict[str, tuple[Value, Value]] = {}  # by a running statistic's name: it, and what it becomes
        self._run: Value | None = None

    def run(self, builder: Builder) -> Value:
        """The input that makes draws differ from run to run."""
        if self._run is None:
            while builder.parent is not None:
                builder = builder.parent
            self._run = builder.input("random.run", DType.U64, ())
        return self._run

    @property
    def updates(self) -> list[tuple[Value, Value]]:
        """Running statistics, each with what it becomes."""
        return list(self._moved.values())

    def now(self, statistic: Value) -> Value:
        """What a statistic has become so far: a layer may be read twice."""
        return self._moved.get(statistic.name, (statistic, statistic))[1]

    def move(self, statistic: Value, becomes: Value) -> None:
        self._moved[statistic.name] = (statistic, becomes)

    @property
    def run_name(self) -> str:
        return "" if self._run is None else self._run.name


def unmerged(model: Any, tensors: TensorReader) -> Any:
    """The model with an initializer of its own for each of those that an exporter made one because they were equal, as
    weights and statistics are before anything was learnt: PyTorch names such a one by an Identity. Tied weights stay.
    """
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = list(model.graph.node)
    apart = {k: n for k, n in enumerate(nodes) if n.op_type == "Identity" and _is_flat(held, n, tensors)}
    if not apart:
        return model
    made = type(model)()
    made.CopyFrom(model)
    del made.graph.node[:]
    made.graph.node.extend(node for k, node in enumerate(nodes) if k not in apart)
    for node in apart.values():
        tensor = made.graph.initializer.add()
        tensor.CopyFrom(held[node.input[0]])
        tensor.name = node.output[0]
    return made


def _is_flat(held: dict[str, Any], node: Any, tensors: TensorReader) -> bool:
    """Whether a node names an initializer of floats that are all the same."""
    tensor = held.get(node.input[0]) if node.input else None
    if tensor is None or DTYPES.get(tensor.data_type) is None or not DTYPES[tensor.data_type].is_float:
        return False
    array = tensors.array(tensor, "initializer")
    return array.size > 0 and bool((array == array.reshape(-1)[0]).all())


def statistics_of(model: Any) -> tuple[str, ...]:
    """The initializers that hold running means and variances."""
    names = {tensor.name for tensor in model.graph.initializer}
    read = [n.input[i] for n in _nodes(model.graph, "BatchNormalization") for i in _STATISTICS if i < len(n.input)]
    return tuple(dict.fromkeys(name for name in read if name in names))


def weights_of(model: Any) -> tuple[str, ...]:
    """The float initializers that are weights: of two elements or more, or of one where an op has weights; none that
    says how an op works (the scales of a Resize).
    """
    others = set(statistics_of(model)) | set(_read_as(model.graph, _SETTINGS))
    small = set(_read_as(model.graph, _SMALL))
    found = []
    for tensor in model.graph.initializer:
        dtype, size = DTYPES.get(tensor.data_type), math.prod(tensor.dims)
        if tensor.name in others or dtype is None or not dtype.is_float:
            continue
        if size >= 2 or (size == 1 and tensor.name in small):
            found.append(tensor.name)
    return tuple(found)


def _read_as(graph: Any, inputs: dict[str, tuple[int, ...]]) -> Iterator[str]:
    for kind, places in inputs.items():
        for node in _nodes(graph, kind):
            yield from (node.input[i] for i in places if i < len(node.input))


def _nodes(graph: Any, kind: str) -> Iterator[Any]:
    for node in graph.node:
        if node.op_type == kind:
            yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _nodes(attribute.g, kind)
