"""A model with the integers that a plan says, as an ONNX file that other engines run: QuantizeLinear and
DequantizeLinear around its products (ONNX, operators QuantizeLinear and DequantizeLinear; onnxruntime's QDQ form).

    Conv(x, w, b)   ->   Conv(DQ(Q(x)), DQ(w in integers, a scale a channel), DQ(b in 32 bits, of both scales))

Weights of the model are quantised, before a batch normalisation is multiplied into them: a factor of a channel takes
its scale along, and leaves the integers. What other formats than integers say is left as the model has it, and said.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from mapsto.arguments import text_of
from mapsto.boundary import public
from mapsto.budget import Budget, metering
from mapsto.errors import ArgumentError, ModelError
from mapsto.formats.equalise import ReadingWeights
from mapsto.formats.integers import integer_weights
from mapsto.importers.onnx import Source, read
from mapsto.importers.onnx.order import in_order, label_of
from mapsto.importers.onnx.tensors import TensorReader
from mapsto.plan.plan import Plan, parse
from mapsto.plan.works import PlannedFormat

_PRODUCTS = frozenset({"Conv", "MatMul", "Gemm"})
_OLDEST = 13  # of the operators with an axis
_OF_SHORTS = 21  # from which on they take 16 bits; before, those of com.microsoft do
_MICROSOFT = "com.microsoft"
_INTEGERS = ("int8", "int16")


@dataclass(frozen=True)
class QdqModel:
    """model: an `onnx.ModelProto`. quantised: names of the products that have integers now. left: why others that the
    plan has a format for are as they were, by their names.
    """

    model: Any
    quantised: tuple[str, ...]
    left: Mapping[str, str]


@public
def to_qdq(
    model: Any,
    plan: Plan | str,
    data_root: str | os.PathLike[str] | None = None,
    budget: Budget | Mapping[str, float] | None = None,
) -> QdqModel:
    """The model with the products that a plan computes in `int8` or `int16` quantised (docs/formats.md).

    model: a path, the bytes of an ONNX file, or an `onnx.ModelProto`, which is not changed. plan: of that model, a
    `Plan` or its text. data_root: see `mapsto.compile`. Raises ModelError, ArgumentError, ParseError, BudgetError.
    """
    lines = (plan if isinstance(plan, Plan) else parse(text_of(plan, "plan (a Plan, or its text)"))).formats
    with metering(budget):
        source = read(model, data_root, whole=True)
        if source.opsets[""] < _OLDEST:
            raise ModelError(f"{source.name}: of opset {source.opsets['']}; quantised channels need {_OLDEST} or newer")
        return _Quantising(source, lines).made()


@dataclass
class _Quantising:
    source: Source
    lines: tuple[PlannedFormat, ...]
    quantised: list[str] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)
    added: list[Any] = field(default_factory=list)  # initializers
    known: dict[tuple[object, ...], str] = field(default_factory=dict)  # values that are dequantised already

    def __post_init__(self) -> None:
        self.model = onnx.ModelProto()
        self.model.CopyFrom(self.source.model)
        graph, self.reader = self.model.graph, TensorReader(self.source.files)
        self.nodes = {label_of(node, place): node for place, node in in_order(graph.node)}
        self.makers = {output: name for name, node in self.nodes.items() for output in node.output}
        given = {entry.name for entry in graph.input}
        self.tensors = {tensor.name: tensor for tensor in graph.initializer if tensor.name not in given}
        self.names = given | set(self.makers) | {tensor.name for tensor in graph.initializer} | set(self.nodes)

    def made(self) -> QdqModel:
        lines = [line for line in self.lines if line.format not in ("f32", "integers")]
        of = {name: line for line in lines for name in self._products(line)}
        nodes: list[Any] = []
        for name, node in self.nodes.items():
            if name in of:
                nodes += self._around(name, node, of[name])
            nodes.append(node)
        graph = self.model.graph
        del graph.node[:]
        graph.node.extend(nodes)
        self._tidy()
        return QdqModel(self.model, tuple(self.quantised), dict(self.left))

    def _products(self, line: PlannedFormat) -> list[str]:
        """The product that a line is about; why there is none is noted."""
        names = [name for name in line.sources if name in self.nodes and self.nodes[name].op_type in _PRODUCTS]
        label = ", ".join(line.sources)
        if line.format not in _INTEGERS:
            self.left[label] = f"{line.format} is no format of integers"
        elif len(names) != 1:
            self.left[label] = "it is no single Conv, MatMul or Gemm of the model's outermost graph"
        elif reason := self._refused(self.nodes[names[0]], line):
            self.left[label] = reason
        else:
            return names
        return []

    def _refused(self, node: Any, line: PlannedFormat) -> str:
        if node.input[1] not in self.tensors:
            return "its weights are no initializer"
        if self.makers.get(node.input[0]) in line.sources:
            return f"what it reads, {node.input[0]}, was joined with it: the plan's scale is of what comes before"
        if _whole(node, "transA", 0):
            return "its first operand is transposed"
        return ""

    # -- around a product ----------------------------------------------------------------------------------------------

    def _around(self, name: str, node: Any, line: PlannedFormat) -> list[Any]:
        """What comes before a product, which reads that from now on."""
        w = self.reader.array(self.tensors[node.input[1]], f"weights of {name}")
        op, turned = ("conv", False) if node.op_type == "Conv" else ("matmul", bool(_whole(node, "transB", 0)))
        before, x = self._dequantised(node.input[0], line, w.ndim - 2 if op == "conv" else 0)
        by = ReadingWeights(op, w.T if turned else w, _whole(node, "group", 1))
        if line.powers and len(line.powers) != by.channels:
            raise ArgumentError(f"plan: {name} reads {by.channels} channels; the plan has powers of {len(line.powers)}")
        whole, scales = integer_weights(op, by.scaled(line.powers), line.most)
        axis = 0 if op == "conv" or turned else w.ndim - 1
        weights, made = self._constant(f"{node.input[1]}_quantized", whole.T if turned else whole, scales, line, axis)
        node.input[0], node.input[1] = x, weights
        bias = node.input[2] if len(node.input) > 2 else ""
        if line.format == "int8" and node.op_type == "Conv" and bias in self.tensors:
            added, value = self._bias(bias, scales * np.float32(line.scale or 1.0))
            node.input[2], made = value, [*made, *added]
        self.quantised.append(name)
        return [*before, *made]

    def _dequantised(self, value: str, line: PlannedFormat, after: int) -> tuple[list[Any], str]:
        """after: how many axes come after that of the channels."""
        key = (value, line.scale, line.zero, line.most, line.powers)
        if key in self.known:
            return [], self.known[key]
        dtype = np.uint8 if line.format == "int8" else np.int16
        scale = self._number(f"{value}_scale", np.asarray(line.scale, np.float32))
        zero = self._number(f"{value}_zero_point", np.asarray(line.zero, dtype))
        read, extra = value, []
        if line.powers:  # weights are multiplied by them
            factors = np.exp2(-np.asarray(line.powers, np.float32)).reshape(-1, *(1,) * after)
            read, by = self._fresh(f"{value}_equalised"), self._number(f"{value}_factors", factors)
            extra = [helper.make_node("Mul", [value, by], [read], self._fresh(f"{value}_Mul"))]
        if line.most is not None:  # what is beyond the steps is the last of them, as the plan's
            limit = np.float32(line.most) * np.float32(line.scale or 1.0)
            bounds = [self._number(f"{value}_{end}", np.asarray(at)) for end, at in (("low", -limit), ("high", limit))]
            read = self._fresh(f"{value}_clipped")
            extra = [helper.make_node("Clip", [value, *bounds], [read], self._fresh(f"{value}_Clip"))]
        short = self._fresh(f"{value}_quantized")
        real = self.known[key] = self._fresh(f"{value}_dequantized")
        names, domain = (self._fresh(f"{value}_Q"), self._fresh(f"{value}_DQ")), self._domain(line)
        return [
            *extra,
            helper.make_node("QuantizeLinear", [read, scale, zero], [short], names[0], domain=domain),
            helper.make_node("DequantizeLinear", [short, scale, zero], [real], names[1], domain=domain),
        ], real

    def _constant(
        self, name: str, whole: np.ndarray, scales: np.ndarray, line: PlannedFormat, axis: int
    ) -> tuple[str, list[Any]]:
        dtype = np.int8 if line.format == "int8" else np.int16
        stored = self._number(name, np.ascontiguousarray(whole, dtype))
        scale = self._number(f"{name}_scale", scales)
        zero = self._number(f"{name}_zero_point", np.zeros(scales.shape, dtype))
        real = self._fresh(f"{name}_dequantized")
        node = helper.make_node(
            "DequantizeLinear", [stored, scale, zero], [real], self._fresh(f"{name}_DQ"), axis=axis,
            domain=self._domain(line),
        )  # fmt: skip
        return real, [node]

    def _bias(self, name: str, scales: np.ndarray) -> tuple[list[Any], str]:
        """A bias in 32 bits, where those hold it."""
        array = self.reader.array(self.tensors[name], f"bias {name}")
        whole = np.rint(array.astype(np.float64) / scales)
        if not np.isfinite(whole).all() or np.abs(whole).max(initial=0.0) >= 2**31:
            return [], name
        stored = self._number(f"{name}_quantized", whole.astype(np.int32))
        scale = self._number(f"{name}_scale", scales)
        zero = self._number(f"{name}_zero_point", np.zeros(scales.shape, np.int32))
        real = self._fresh(f"{name}_dequantized")
        node = helper.make_node("DequantizeLinear", [stored, scale, zero], [real], self._fresh(f"{name}_DQ"), axis=0)
        return [node], real

    # -- names and constants -------------------------------------------------------------------------------------------

    def _domain(self, line: PlannedFormat) -> str:
        """Of the operators: the standard ones take 16 bits from a version on."""
        if line.format == "int8" or self.source.opsets[""] >= _OF_SHORTS:
            return ""
        if all(each.domain != _MICROSOFT for each in self.model.opset_import):
            self.model.opset_import.append(helper.make_opsetid(_MICROSOFT, 1))
        return _MICROSOFT

    def _number(self, name: str, array: np.ndarray) -> str:
        fresh = self._fresh(name)
        self.added.append(numpy_helper.from_array(array, fresh))
        return fresh

    def _fresh(self, name: str) -> str:
        found, count = name, 0
        while found in self.names:
            count += 1
            found = f"{name}_{count}"
        self.names.add(found)
        return found

    def _tidy(self) -> None:
        """Initializers that nothing reads any more go; those that lie in other files come along."""
        graph = self.model.graph
        read = Counter(name for node in _every(graph) for name in node.input)
        read.update(entry.name for entry in graph.output)
        every = list(graph.initializer)
        kept = [self._inside(each) for each in every if read[each.name] or each.name not in self.tensors]
        del graph.initializer[:]
        graph.initializer.extend([*kept, *self.added])

    def _inside(self, tensor: Any) -> Any:
        if tensor.data_location != TensorProto.EXTERNAL:
            return tensor
        return numpy_helper.from_array(self.reader.array(tensor, "initializer"), tensor.name)


def _whole(node: Any, name: str, usual: int) -> int:
    """An attribute."""
    return next((int(attribute.i) for attribute in node.attribute if attribute.name == name), usual)


def _every(graph: Any) -> list[Any]:
    """All nodes, those of inner graphs among them."""
    found = []
    waiting = [graph]
    while waiting:
        for node in waiting.pop().node:
            found.append(node)
            for attribute in node.attribute:
                waiting += [attribute.g] if attribute.HasField("g") else []
                waiting += list(attribute.graphs)
    return found


def qdq_bytes(made: QdqModel) -> bytes:
    """The file. Raises ArgumentError where it would be larger than such files can be."""
    try:
        return bytes(made.model.SerializeToString())
    except ValueError as error:  # of protobuf: 2 GiB
        raise ArgumentError(f"output: the model is too large for one ONNX file ({error})") from None
