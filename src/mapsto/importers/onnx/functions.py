"""Functions: those that a model brings along, and those by which the ONNX standard itself defines some of its ops."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx

from mapsto.importers.onnx.sequences import TensorSequence
from mapsto.importers.onnx.tensors import DTYPES
from mapsto.ir.graph import Value

_NUMBERS = {dtype: number for number, dtype in DTYPES.items()}


class LocalFunctions:
    """Functions by the node that calls them."""

    def __init__(self, model: Any) -> None:
        self.own = {(f.domain, f.name, f.overload): f for f in model.functions}

    def of_model(self, node: Any) -> Any:
        """The model's function that a node calls, or None."""
        return self.own.get((node.domain, node.op_type, node.overload)) if self.own else None

    def in_standard(self, node: Any, domain: str, opsets: Mapping[str, int]) -> bool:
        """Whether the standard defines an op by a body, for some input types at least."""
        version = opsets.get(domain, 1)
        try:
            schema: Any = onnx.defs.get_schema(node.op_type, version, domain)
        except onnx.defs.SchemaError:
            return False
        return schema.has_function or any(v <= version for v in schema.context_dependent_function_opset_versions)

    def of_standard(self, node: Any, domain: str, opsets: Mapping[str, int], inputs: Sequence[object]) -> Any:
        """The body by which the standard defines an op (for these input types), or None. inputs: all that the op must
        have are there: onnx's own code reads their types without looking.
        """
        version = opsets.get(domain, 1)
        try:
            schema: Any = onnx.defs.get_schema(node.op_type, version, domain)
        except onnx.defs.SchemaError:
            return None
        if schema.has_function:
            return schema.function_body
        # a body is written for an opset, which its nodes are then read by, and is that of later ones as well
        written = max((v for v in schema.context_dependent_function_opset_versions if v <= version), default=None)
        if written is None:
            return None
        types = [_type(value).SerializeToString() for value in inputs]
        try:
            body = schema.get_context_dependent_function_with_opset_version(written, node.SerializeToString(), types)
        except (RuntimeError, ValueError, IndexError):
            return None
        function = onnx.FunctionProto()
        function.ParseFromString(body)
        if not function.opset_import:
            function.opset_import.add(domain=domain, version=written)
        return function if function.node else None

    def bind(self, node: Any, given: Mapping[str, Any], defaults: Mapping[str, Any]) -> Any:
        """A node of a function's body with the attributes of the call put in for its references, else the function's
        defaults.
        """
        if not any(a.ref_attr_name or a.HasField("g") for a in node.attribute):
            return node
        bound = onnx.NodeProto()
        bound.CopyFrom(node)
        del bound.attribute[:]
        for attribute in node.attribute:
            if attribute.ref_attr_name:
                source = given.get(attribute.ref_attr_name, defaults.get(attribute.ref_attr_name))
                if source is None:
                    continue  # the call leaves it out: the op's own default holds
                kept = bound.attribute.add()
                kept.CopyFrom(source)
                kept.name = attribute.name
                continue
            kept = bound.attribute.add()
            kept.CopyFrom(attribute)
            if kept.HasField("g"):
                for i, inner in enumerate(kept.g.node):
                    kept.g.node[i].CopyFrom(self.bind(inner, given, defaults))
        return bound


def _type(value: object) -> Any:
    """The TypeProto of a value; an empty one for an absent input."""
    kind = onnx.TypeProto()
    if isinstance(value, TensorSequence):
        kind.sequence_type.elem_type.tensor_type.elem_type = _NUMBERS[value.dtype]
    elif isinstance(value, Value):
        kind.tensor_type.elem_type = _NUMBERS[value.dtype]
        for dim in value.shape:
            entry = kind.tensor_type.shape.dim.add()
            if isinstance(dim, int):
                entry.dim_value = dim
        if not value.shape:
            kind.tensor_type.shape.SetInParent()
    return kind
