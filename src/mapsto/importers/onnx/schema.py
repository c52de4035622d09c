"""A node against the standard: element types of its inputs, and its attributes, by what `onnx.defs` says of its opset.

Rows may then rely on them: no float is taken for an index, none for an operand of an integer product, and no attribute
that would change what a node computes is passed over.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence

import onnx

from mapsto.errors import ModelError, UnsupportedError
from mapsto.importers.onnx.sequences import SequenceType, TensorOrSequence, type_of
from mapsto.importers.onnx.tensors import DTYPES
from mapsto.ir.dtypes import DType

_TEXT: dict[DType, str] = {
    ours: f"tensor({onnx.TensorProto.DataType.Name(number).lower()})" for number, ours in DTYPES.items()
}
_OURS: dict[str, DType | SequenceType] = {
    **{text: dtype for dtype, text in _TEXT.items()},
    **{f"seq({text})": SequenceType(dtype) for dtype, text in _TEXT.items()},
}
# an optional value is what it holds
_OURS.update({f"optional({text})": ours for text, ours in _OURS.items()})


class _Input:
    """What an op says of one input: its name, its types, and the type variable that inputs of one type share."""

    def __init__(self, formal: onnx.defs.OpSchema.FormalParameter) -> None:
        self.name: str = formal.name
        self.types = frozenset(_OURS[t] for t in formal.types if t in _OURS)
        self.variable: str | None = formal.type_str if formal.is_homogeneous else None
        self.variadic = formal.option == onnx.defs.OpSchema.FormalParameterOption.Variadic


@functools.cache
def _inputs(domain: str, op: str, opset: int) -> tuple[_Input, ...] | None:
    """None for an op that the standard of this opset does not have."""
    try:
        schema = onnx.defs.get_schema(op, opset, domain)
    except onnx.defs.SchemaError:
        return None
    return tuple(_Input(formal) for formal in schema.inputs)


def input_name(domain: str, op: str, opset: int, i: int) -> str:
    """What the standard calls an input of an op; "" where it does not say."""
    formals = _inputs(domain, op, opset) or ()
    return formals[min(i, len(formals) - 1)].name if formals else ""


def check_counts(domain: str, op: str, opset: int, inputs: int, outputs: int) -> None:
    """Raises ModelError for fewer inputs or outputs than the op has at least. (More are seen when they are read.)"""
    if _inputs(domain, op, opset) is None:
        return
    schema = onnx.defs.get_schema(op, opset, domain)
    if inputs < schema.min_input:
        raise ModelError(f"{inputs} inputs are given, the op takes {schema.min_input} at least")
    if outputs < schema.min_output:
        raise ModelError(f"{outputs} outputs are named, the op has {schema.min_output} at least")


def check_given(domain: str, op: str, opset: int, inputs: Sequence[object]) -> None:
    """Raises ModelError where an input is left out that the op must have."""
    formals = onnx.defs.get_schema(op, opset, domain).inputs
    for i, given in enumerate(inputs):
        formal = formals[min(i, len(formals) - 1)]
        if given is None and formal.option != onnx.defs.OpSchema.FormalParameterOption.Optional:
            raise ModelError(f"input {i} ({formal.name}) is left out")


def check_types(domain: str, op: str, opset: int, inputs: Sequence[TensorOrSequence | None]) -> None:
    """Raises ModelError for an input of a type that the op does not take, or of another type than one it must equal."""
    fault = _fault(domain, op, opset, tuple([None if value is None else type_of(value) for value in inputs]))
    if fault:
        raise ModelError(fault)


@functools.lru_cache(1 << 12)
def _fault(domain: str, op: str, opset: int, inputs: tuple[DType | SequenceType | None, ...]) -> str:
    """What is wrong with inputs of these types; "" where nothing is."""
    formals = _inputs(domain, op, opset)
    if not formals:
        return ""
    bound: dict[str, tuple[str, DType | SequenceType]] = {}
    for i, given in enumerate(inputs):
        if given is None:
            continue
        formal = formals[min(i, len(formals) - 1)]
        if i >= len(formals) and not formal.variadic:
            return f"{len(inputs)} inputs are given, the op takes {len(formals)}"
        what = f"input {i} ({formal.name})"
        if given not in formal.types:
            allowed = ", ".join(t.value for t in dict.fromkeys(_OURS.values()) if t in formal.types)
            return f"{what} is {given.value}; allowed: {allowed or 'no tensor that is supported'}"
        if formal.variable is None or formal.variable not in _variables(domain, op, opset):
            continue
        first, dtype = bound.setdefault(formal.variable, (what, given))
        if dtype is not given:
            return f"{what} is {given.value}, but {first} is {dtype.value}: they must be of one type"
    return ""


def check_attributes(domain: str, op: str, opset: int, names: Iterable[str]) -> None:
    """Raises UnsupportedError for attributes that the op of this opset does not have: what they ask for is unknown."""
    allowed = _attributes(domain, op, opset)
    unknown = [] if allowed is None else sorted(name for name in names if name not in allowed)
    if not unknown:
        return
    said = ", ".join(repr(name[:80]) for name in unknown[:8])
    raise UnsupportedError(
        f"{op} of opset {opset} has no attribute {said}, only {', '.join(sorted(allowed or ())) or 'none'}; "
        "remove it, or import the opset that it was written for"
    )


@functools.cache
def _attributes(domain: str, op: str, opset: int) -> frozenset[str] | None:
    """Names of an op's attributes; None for an op that the standard of this opset does not have."""
    try:
        schema = onnx.defs.get_schema(op, opset, domain)
    except onnx.defs.SchemaError:
        return None
    # until opset 5 this said which inputs a result may overwrite; nodes were copied with it into later versions
    return frozenset((*schema.attributes, "consumed_inputs"))


@functools.cache
def _variables(domain: str, op: str, opset: int) -> frozenset[str]:
    """The type variables of an op; what else stands for a type is a type by itself."""
    schema = onnx.defs.get_schema(op, opset, domain)
    return frozenset(constraint.type_param_str for constraint in schema.type_constraints)
