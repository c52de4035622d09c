"""Walks a model's graph node by node and builds ours; branches, functions and the list of what is unsupported live
here.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import onnx

from mapsto.arguments import Shapes
from mapsto.budget import current
from mapsto.errors import MapstoError, ModelError, UnsupportedError
from mapsto.importers.onnx.carrying import JOINS, MONOTONE, MOVES, carry
from mapsto.importers.onnx.counting import charge_nodes
from mapsto.importers.onnx.functions import LocalFunctions
from mapsto.importers.onnx.inputs import add_inputs
from mapsto.importers.onnx.learning import Learning
from mapsto.importers.onnx.order import in_order, label_of
from mapsto.importers.onnx.quantised import DequantisedValues
from mapsto.importers.onnx.reader import Source, opset_of
from mapsto.importers.onnx.schema import check_attributes, check_counts, check_given, check_types
from mapsto.importers.onnx.sequences import TensorOrSequence, TensorSequence
from mapsto.importers.onnx.table import NodeCall, Row, find_row
from mapsto.importers.onnx.tensors import TensorReader
from mapsto.ir.expr import bare_symbol
from mapsto.ir.graph import Graph, Value
from mapsto.ops.builder import Builder
from mapsto.passes.retrace import settled

_CARRIES = MOVES | JOINS | MONOTONE


class Gone(enum.Enum):
    """Why a name has no value: an optional input left out, or the output of a node that is not supported."""

    ABSENT = "absent"
    UNSUPPORTED = "unsupported"


class UnsupportedPlace(NamedTuple):
    """What is unsupported, with its place; the open sizes that it hangs on (`MapstoError.sizes`)."""

    said: str
    sizes: frozenset[str] = frozenset()


class _Unavailable(UnsupportedError):
    """A nested graph yields what an unsupported node, already noted, would have made."""


@dataclass
class GraphNames:
    """Names of one graph: its values so far, its initializers, the graph around it."""

    builder: Builder
    parent: GraphNames | None = None
    values: dict[str, TensorOrSequence | Gone] = field(default_factory=dict)
    initializers: dict[str, Any] = field(default_factory=dict)
    constants: dict[int, Value] = field(default_factory=dict)  # by the id of an array that the tensor reader keeps

    def find(self, name: str) -> GraphNames | None:
        """The nearest scope that defines a name."""
        scope: GraphNames | None = self
        while scope is not None and name not in scope.values and name not in scope.initializers:
            scope = scope.parent
        return scope


@dataclass(frozen=True)
class NodePlace:
    """Where nodes stand: the operator sets they are for, the prefix of their names, the functions around them."""

    opsets: Mapping[str, int]
    prefix: str = ""
    within: tuple[str, ...] = ()


class Translator:
    """One import of one model."""

    def __init__(self, source: Source, learning: Learning | None = None) -> None:
        self.source = source
        self.learning = learning
        self.meter = current()
        self.tensors = TensorReader(source.files)
        self.functions = LocalFunctions(source.model)
        self.scope: GraphNames | None = None
        self.place = NodePlace({})
        self.notes: dict[tuple[str, str], Any] = {}
        self.quantised = DequantisedValues()

    # -- graphs --------------------------------------------------------------------------------------------------------

    def model(self, shapes: Shapes, overridable: Collection[str] = ()) -> Graph:
        """The whole model as a graph."""
        model = self.source.model
        names = [entry.name for entry in model.graph.output]
        if len(set(names)) != len(names) or not names:
            listed = _cut(", ".join(map(repr, names)), 1000)
            raise ModelError(
                f"{self.source.name}: the graph's outputs must be there and have different names: {listed}"
            )
        inputs = {entry.name for entry in model.graph.input}.difference(t.name for t in model.graph.initializer)
        self.meter.check("inputs", len(inputs), self.source.name)
        self.meter.check("outputs", len(names), self.source.name)
        charge_nodes(model, self.source.name)
        builder = Builder(model.graph.name or self.source.name)
        builder.reserve(sorted(set(names) - {entry.name for entry in model.graph.input}))
        refused = add_inputs(builder, model.graph, shapes, overridable)
        scope = GraphNames(builder)
        scope.values.update({value.name: value for value in builder.inputs})
        scope.values.update(dict.fromkeys(refused, Gone.UNSUPPORTED))
        faults = [UnsupportedPlace(said) for said in refused.values()]
        try:
            outputs = self.body(scope, model.graph, NodePlace(self.source.opsets), faults)
        except MapstoError as error:
            error.axes = _axes(builder, error.sizes)
            raise
        tensors = [value for value in outputs if isinstance(value, Value)]
        raise_faults(
            [
                UnsupportedPlace(
                    f"output {name!r} is {value}: only tensors are supported; give its elements, or their concatenation"
                )
                for name, value in zip(names, outputs, strict=True)
                if isinstance(value, TensorSequence)
            ]
        )
        changed = [] if self.learning is None else self.learning.updates
        tensors += [new for _, new in changed]
        pairs = [(old.name, f"{old.name}.updated") for old, _ in changed]
        names += [updated for _, updated in pairs]
        return settled(builder.finish(tensors, pairs, names=names, labels=_labels(scope)))

    def body(
        self, scope: GraphNames, graph: Any, place: NodePlace, faults: list[UnsupportedPlace] | None = None
    ) -> list[TensorOrSequence]:
        """Builds the nodes of a graph in `scope`; gives its outputs. Raises one UnsupportedError with all that is
        unsupported, `faults` of its inputs among it.
        """
        faults = [] if faults is None else faults
        for tensor in graph.sparse_initializer:
            named = _cut(tensor.values.name, 80)
            faults.append(
                UnsupportedPlace(f"sparse initializer {named!r}: it is not supported; store it as a dense tensor")
            )
            scope.values[tensor.values.name] = Gone.UNSUPPORTED
        scope.initializers.update({tensor.name: tensor for tensor in graph.initializer})
        for index, node in in_order(graph.node):
            self._node(scope, node, f"{place.prefix}{label_of(node, index)}", place, faults)
        raise_faults(faults)
        return [self._read(scope, entry.name, f"output {entry.name!r}") for entry in graph.output]

    def _node(self, scope: GraphNames, node: Any, name: str, place: NodePlace, faults: list[UnsupportedPlace]) -> None:
        if place.prefix:
            self.meter.charge("text", len(name), f"node {_cut(name, 80)!r}")
        domain = "" if node.domain == "ai.onnx" else node.domain

        def where() -> str:
            kind = _cut(f"{domain}.{node.op_type}" if domain else node.op_type, 200)
            return f"node {_cut(name, 400)!r} ({kind}, opset {place.opsets.get(domain, '?')})"

        try:
            results = self._results(scope, node, name, domain, place)
        except _Unavailable:
            results = [Gone.UNSUPPORTED] * len(node.output)
        except UnsupportedError as error:
            said = error.faults or [f"{where()}: {_cut(str(error), 4000)}"]
            faults.extend(UnsupportedPlace(each, error.sizes) for each in said)
            results = [Gone.UNSUPPORTED] * len(node.output)
        except MapstoError as error:
            if error.placed:  # by the node of a nested graph or function, whose name says where that is
                raise
            raise _placed(type(error)(f"{where()}: {_cut(str(error), 4000)}"), error.sizes) from error
        except RecursionError as error:
            raise _placed(ModelError(f"{where()}: nested too deep")) from error
        if len(results) < sum(1 for o in node.output if o):
            raise _placed(ModelError(f"{where()}: {len(node.output)} outputs are named, the op has {len(results)}"))
        for output, value in zip(node.output, results, strict=False):
            if not output:
                continue
            if output in scope.values or output in scope.initializers:
                raise _placed(ModelError(f"{where()}: output {output!r} is defined twice"))
            scope.values[output] = Gone.ABSENT if value is None else value

    def _results(
        self, scope: GraphNames, node: Any, name: str, domain: str, place: NodePlace
    ) -> Sequence[TensorOrSequence | Gone | None]:
        """Values of a node's outputs. Raises UnsupportedError where there is no row."""
        operands = [self._operand(scope, operand) for operand in node.input]
        values = tuple(None if isinstance(v, Gone) else v for v in operands)
        found = find_row(domain, node.op_type)
        function = own = self.functions.of_model(node)
        by_standard = found is None and own is None
        if by_standard and not self.functions.in_standard(node, domain, place.opsets):
            raise UnsupportedError(_no_row(node, domain))
        if any(operand is Gone.UNSUPPORTED for operand in operands):
            return [Gone.UNSUPPORTED] * len(node.output)
        if own is None:  # the model's own functions say nothing of types
            version = place.opsets.get(domain, 1)
            check_counts(domain, node.op_type, version, len(node.input), len(node.output))
            check_types(domain, node.op_type, version, values)
            check_attributes(domain, node.op_type, version, (attribute.name for attribute in node.attribute))
        if by_standard:
            check_given(domain, node.op_type, version, values)
            function = self.functions.of_standard(node, domain, place.opsets, values)
            if function is None:
                raise UnsupportedError(_no_row(node, domain))
        attributes = {attribute.name: attribute for attribute in node.attribute}
        if function is not None:
            return self._inline(scope, function, values, attributes, name, place)
        assert found is not None
        call = NodeCall(
            self, scope.builder, node.op_type, name, place.opsets.get(domain, 1), values, attributes, tuple(node.output)
        )
        return self._call(scope, place, found, call)

    def _call(self, scope: GraphNames, place: NodePlace, row: Row, call: NodeCall) -> Sequence[TensorOrSequence | None]:
        """What a row makes of a node. Values that have no node of their own are told what they stand for."""
        builder = scope.builder
        sources = [] if call.op == "Constant" else [call.name]
        before = self.scope, self.place
        self.scope, self.place = scope, place
        try:
            ports = len(call.inputs) + len(call.outputs)
            with builder.source(*sources, of=_parts(call.inputs), place=f"node {call.name!r} ({call.op})", ports=ports):
                result = row(call)
                results = list(result) if isinstance(result, Sequence) else [result]
                if call.op in _CARRIES and call.inputs:
                    carry(row, call, results)
                for value in _parts(results) if sources else ():
                    builder.attribute_here(value)
        except (ArithmeticError, LookupError, TypeError, ValueError, AttributeError) as error:
            # rows are written for nodes as the standard has them; in any other node it is the node that is wrong
            raise ModelError(
                f"its inputs and attributes do not fit the op ({type(error).__name__}: {_cut(str(error), 400)})"
            ) from error
        finally:
            self.scope, self.place = before
        return results

    def _operand(self, scope: GraphNames, name: str) -> TensorOrSequence | Gone:
        """The value of a name; the empty name is absent."""
        if not name:
            return Gone.ABSENT
        owner = scope.find(name)
        if owner is None:
            raise ModelError(f"it reads {name!r}, which nothing before it defines")
        if name not in owner.values:
            array = self.tensors.array(tensor := owner.initializers[name], "initializer")
            if self.tensors.is_kept(tensor):  # many tensors may name one region: one constant
                if id(array) not in owner.constants:
                    owner.constants[id(array)] = owner.builder.constant(array, name)
                owner.values[name] = owner.constants[id(array)]
            else:
                owner.values[name] = owner.builder.constant(array, name)
        return owner.values[name]

    def _read(self, scope: GraphNames, name: str, where: str) -> TensorOrSequence:
        value = self._operand(scope, name) if scope.find(name) is not None else Gone.ABSENT
        if value is Gone.UNSUPPORTED:
            raise _Unavailable
        if isinstance(value, Gone):
            raise ModelError(f"{where}: nothing defines it")
        return value

    # -- nested graphs and functions -----------------------------------------------------------------------------------

    def inline_graph(
        self, graph: Any, name: str, given: Sequence[TensorOrSequence] = (), builder: Builder | None = None
    ) -> list[TensorOrSequence]:
        """A nested graph built in place, inside the graph of the node that is being translated, or one (`builder`) that
        is nested in it. given: its inputs.
        """
        assert self.scope is not None
        scope = GraphNames(builder or self.scope.builder, self.scope)
        scope.values.update(zip(_inputs(graph, len(given)), given, strict=True))
        return self.body(scope, graph, self._deeper(name))

    def _deeper(self, name: str) -> NodePlace:
        within = (*self.place.within, name)
        self.meter.check("depth", len(within), "nested graphs")
        return NodePlace(self.place.opsets, f"{name}/", within)

    def _inline(
        self,
        scope: GraphNames,
        function: Any,
        inputs: Sequence[TensorOrSequence | None],
        attributes: Mapping[str, Any],
        name: str,
        place: NodePlace,
    ) -> list[TensorOrSequence | None]:
        """A function's body in place of its call."""
        self.meter.check("depth", len(place.within) + 1, f"functions that call functions (is {function.name!r} one?)")
        if len(inputs) > len(function.input):
            raise ModelError(f"function {function.name!r} takes {len(function.input)} inputs, {len(inputs)} are given")
        inner = GraphNames(scope.builder)  # a function sees nothing of the graph that calls it
        for i, formal in enumerate(function.input):
            given = inputs[i] if i < len(inputs) else None
            inner.values[formal] = Gone.ABSENT if given is None else given
        inside = NodePlace({**place.opsets, **opset_of(function.opset_import, name)}, f"{name}/", (*place.within, name))
        defaults = {a.name: a for a in function.attribute_proto}
        faults: list[UnsupportedPlace] = []
        for index, node in in_order(function.node):
            bound = self.functions.bind(node, attributes, defaults)
            self._node(inner, bound, f"{name}/{label_of(node, index)}", inside, faults)
        raise_faults(faults)
        outputs = [inner.values.get(output) for output in function.output]
        return [None if isinstance(value, Gone) else value for value in outputs]


def _parts(operands: Sequence[TensorOrSequence | None]) -> list[Value]:
    """The values that operands are, or are made of."""
    found: list[Value] = []
    for operand in operands:
        if operand is not None:
            found.extend(operand.parts if isinstance(operand, TensorSequence) else (operand,))
    return found


def _inputs(graph: Any, count: int) -> list[str]:
    """The names of a nested graph's inputs. Raises ModelError where there are not so many, or two of one name."""
    own = {tensor.name for tensor in graph.initializer}  # which files of before IR version 4 list as inputs as well
    names = [entry.name for entry in graph.input if entry.name not in own]
    if len(names) != count or len(set(names)) != count:
        raise ModelError(f"the nested graph {graph.name!r} must have {count} inputs of different names: {names}")
    return names


def _placed(error: MapstoError, sizes: frozenset[str] = frozenset()) -> MapstoError:
    error.placed, error.sizes = True, sizes
    return error


def raise_faults(faults: Sequence[UnsupportedPlace]) -> None:
    """One error for all that is unsupported. It hangs on sizes where each of them does."""
    if not faults:
        return
    told = [fault.said for fault in faults]
    listed = "\n".join(f"  {said}" for said in told)
    what = "nodes" if all(said.startswith("node ") for said in told) else "inputs and nodes"
    error = UnsupportedError(told[0] if len(told) == 1 else f"{len(told)} {what} are not supported:\n{listed}")
    error.faults = tuple(told)
    if all(fault.sizes for fault in faults):
        error.sizes = frozenset[str]().union(*(fault.sizes for fault in faults))
    raise error


def _axes(builder: Builder, sizes: Collection[str]) -> tuple[tuple[str, int], ...]:
    """(input, axis) wherever an input has one of these sizes."""
    return tuple(
        (value.name, axis)
        for value in builder.inputs
        for axis, dim in enumerate(value.shape)
        if bare_symbol(dim) in sizes
    )


def _cut(text: str, length: int) -> str:
    """A text that a file may have made as long as it likes."""
    return text if len(text) <= length else f"{text[: length - 3]}..."


def _no_row(node: Any, domain: str) -> str:
    if node.op_type == "ATen":  # what PyTorch's exporter leaves where it knows no op of the standard
        said = next((a.s.decode("utf-8", "replace") for a in node.attribute if a.name == "operator"), "")
        return (
            f"it stands for PyTorch's operator {_cut(said, 200)!r}, for which its exporter knew no op of the standard; "
            "rewrite that part of the model in other operators, or export with a newer PyTorch"
        )
    if domain not in ("", "ai.onnx.ml") and not domain.startswith("com.microsoft"):
        return f"there is no op {node.op_type!r} of domain {domain!r}; add it as a function to the model"
    schema = not domain and onnx.defs.has(node.op_type)
    return (
        "the op is not supported yet; replace it or rewrite it with supported ones"
        if schema or domain
        else "there is no such op"
    )


def _labels(scope: GraphNames) -> dict[str, str]:
    """Our names of values -> the model's, for those that a node made."""
    labels: dict[str, str] = {}
    for name, value in scope.values.items():
        if isinstance(value, Value):
            labels.setdefault(value.name, name)
    return labels
