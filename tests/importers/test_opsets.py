"""Every version of every op of the standard is read as that version has it, or refused by name.

Cases of the suite are written for the newest version of an op. Here they are rewritten for each older one: what was an
attribute then becomes one again, and defaults that have changed are spelt out. Versions that no case can be rewritten
for have cases of their own in `old_opsets.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from tests.conformance import Case, check_case, conformance_cases
from tests.importers.old_opsets import WITHOUT_CASES, OldCase, own_cases

from mapsto.errors import ModelError, UnsupportedError
from mapsto.importers.onnx import load
from mapsto.importers.onnx.reader import NEWEST_OPSET
from mapsto.importers.onnx.table import find_row
from mapsto.ops.interpret import run_graph
from mapsto.passes import run_passes

# How many cases of the suite each version is held to.
EACH = 3
# Ops whose second operand was broadcast by an attribute before opset 7.
BROADCAST = {"Add", "Sub", "Mul", "Div", "Pow", "And", "Or", "Xor", "Equal", "Greater", "Less", "PRelu", "Gemm"}
# The opset from which an op means what it means now, where older versions cannot be told apart by what they take.
MEANING = {
    "Softmax": 13, "LogSoftmax": 13, "Hardmax": 13, "GroupNormalization": 21, "Sum": 8, "Max": 8, "Min": 8, "Mean": 8,
    "Tile": 6, "Resize": 11, "Upsample": 9, "RoiAlign": 16,
}  # fmt: skip


@functools.cache
def versions() -> tuple[tuple[str, int, int], ...]:
    """(op, version, the last opset that has this version), for all of the standard's domain."""
    found: dict[str, set[int]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "" and not schema.deprecated:
            found.setdefault(schema.name, set()).add(schema.since_version)
    result = []
    for op, numbers in sorted(found.items()):
        ends = [*sorted(numbers)[1:], min(NEWEST_OPSET, onnx.defs.onnx_opset_version()) + 1]
        result += [(op, first, end - 1) for first, end in zip(sorted(numbers), ends, strict=True)]
    return tuple(result)


@dataclass(frozen=True)
class Old:
    """A case as an older opset has it."""

    model: Any
    case: Case


@functools.cache
def _of_op() -> dict[str, tuple[Case, ...]]:
    """Cases of one node, by its op."""
    found: dict[str, list[Case]] = {}
    for case in conformance_cases():
        nodes = case.model.graph.node
        if len(nodes) == 1 and nodes[0].domain == "":
            found.setdefault(nodes[0].op_type, []).append(case)
    return {op: tuple(cases) for op, cases in found.items()}


def _is_alike(one: Any, other: Any) -> bool:
    """Whether two versions of an op take the same inputs and attributes, whatever their types."""
    return _taken(one) == _taken(other)


def _taken(schema: Any) -> list[Any]:
    attributes = ((name, a.default_value.SerializeToString()) for name, a in schema.attributes.items())
    return [*sorted(attributes), *(formal.name for formal in schema.inputs)]


def _written_for(case: Case) -> int:
    return next(int(entry.version) for entry in case.model.opset_import if entry.domain == "")


def rewritten(case: Case, schema: Any, opset: int) -> Any:
    """The model of a case with its node as another version of the op has it; None where that cannot say the same."""
    node = case.model.graph.node[0]
    if node.op_type == "Loop" and opset != _written_for(case):
        return None  # the nodes of its body would mean something else
    now = onnx.defs.get_schema(node.op_type, _written_for(case), "")
    arrays = {t.name: numpy_helper.to_array(t) for t in case.model.graph.initializer} | case.feeds
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    inputs: list[str] = []
    for i, name in enumerate(node.input):
        formal = now.inputs[min(i, len(now.inputs) - 1)].name
        attribute = {"constant_value": "value"}.get(formal, formal.lower())
        if attribute in schema.attributes and attribute not in now.attributes:
            if name:
                attributes[attribute] = arrays[name].reshape(-1).tolist()
            continue
        inputs.append(name)
    while inputs and not inputs[-1]:
        inputs.pop()
    if not _fits(inputs, arrays, schema) or len(node.output) > schema.max_output:
        return None
    if node.op_type in BROADCAST and opset < 7 and len({arrays[name].shape for name in inputs[:2]}) > 1:
        return None
    found = _attributes(attributes, now, schema)
    if found is None:
        return None
    changed = helper.make_node(node.op_type, inputs, node.output, name=node.name, **found)
    graph = helper.make_graph(
        [changed], "old", [entry for entry in case.model.graph.input if entry.name in inputs],
        case.model.graph.output, [t for t in case.model.graph.initializer if t.name in inputs],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def _fits(inputs: Sequence[str], arrays: dict[str, np.ndarray], schema: Any) -> bool:
    """Whether a version takes these inputs."""
    if not schema.min_input <= len(inputs) <= schema.max_input:
        return False
    for i, name in enumerate(inputs):
        formal = schema.inputs[min(i, len(schema.inputs) - 1)]
        kind = onnx.TensorProto.DataType.Name(helper.np_dtype_to_tensor_dtype(arrays[name].dtype)) if name else ""
        if name and f"tensor({kind.lower()})" not in formal.types:
            return False
    return True


def _attributes(given: dict[str, Any], now: Any, schema: Any) -> dict[str, Any] | None:
    """A node's attributes in another version, the defaults that differ spelt out; None where it has not all of them."""
    defaults = {
        name: helper.get_attribute_value(a.default_value) for name, a in now.attributes.items() if a.default_value.name
    }
    found: dict[str, Any] = {}
    for name, value in (defaults | given).items():
        if name in schema.attributes:
            if value != []:
                found[name] = _as_kind(value, schema.attributes[name])
        elif name in given and value != defaults.get(name):
            return None
    for name, attribute in schema.attributes.items():
        if name == "is_test":
            found[name] = 1
        elif name == "consumed_inputs" and attribute.required:
            found[name] = [0, 0, 0, 1, 1]
        elif attribute.required and name not in found:
            return None
    return found


def _as_kind(value: Any, attribute: Any) -> Any:
    kind, types = attribute.type, onnx.defs.OpSchema.AttrType
    if kind == types.STRING and isinstance(value, int):
        return onnx.TensorProto.DataType.Name(value)
    if isinstance(value, list) and kind in (types.INT, types.FLOAT):
        value = value[0]
    return float(value) if kind == types.FLOAT else value


def _rewritten_cases(op: str, version: int, opset: int) -> Iterator[Old]:
    if opset < MEANING.get(op, 0):
        return
    schema = onnx.defs.get_schema(op, version, "")
    for case in _of_op().get(op, ()):
        newer = version > _written_for(case) and not _is_alike(schema, onnx.defs.get_schema(op, _written_for(case), ""))
        model = None if newer else rewritten(case, schema, opset)
        if model is not None:
            yield Old(model, case)


def interpret(model: Any, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    graph = run_passes(load(model))
    names = {value.name for value in graph.inputs}
    outputs = run_graph(graph, {name: array for name, array in feeds.items() if name in names})
    return [outputs[name] for name in graph.outputs]


@pytest.mark.parametrize(("op", "version", "last"), versions(), ids=lambda v: str(v))
def test_a_version_of_an_op(op: str, version: int, last: int) -> None:
    if op in WITHOUT_CASES and find_row("", op) is None:
        node = helper.make_node(op, ["x"], ["y"], name="it")
        x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, (2,)) for name in "xy")
        model = helper.make_model(
            helper.make_graph([node], "g", [x], [y]), opset_imports=[helper.make_opsetid("", version)], ir_version=8
        )
        with pytest.raises((UnsupportedError, ModelError), match=rf"node 'it' \({op}, opset {version}\)"):
            load(model)
        return
    checked = 0
    for opset in sorted({version, last}):
        for old in list(_rewritten_cases(op, version, opset))[:EACH]:
            check_case(old.case, lambda _, feeds, model=old.model: interpret(model, feeds))
            checked += 1
        for own in own_cases(op, opset):
            _check_own(own, op, opset)
            checked += 1
    assert checked or op in WITHOUT_CASES, f"{op} {version}: no case says what it means; add one to old_opsets.py"


def _check_own(own: OldCase, op: str, opset: int) -> None:
    found = interpret(own.model(op, opset), own.feeds())
    assert len(found) == len(own.expected)
    for array, expected in zip(found, own.expected, strict=True):
        assert array.dtype == expected.dtype and array.shape == expected.shape
        if own.drawn:
            continue
        np.testing.assert_allclose(array, expected, rtol=1e-5, atol=1e-6)
