"""Kernels of a program as text that a file holds, and back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from mapsto.errors import ModelError
from mapsto.ir.dtypes import DType
from mapsto.loop.ast import Function, Param
from mapsto.loop.opencl import Printed, kernel_name


def code_of(functions: Mapping[str, Function], printed: Mapping[str, Printed]) -> bytes:
    """Of each kernel its text, and what it is started with."""
    found = {
        name: {
            "function": function.name,
            "params": [[param.name, param.element.value] for param in function.params],
            "dims": list(function.dims),
            "printed": asdict(printed[name]),
        }
        for name, function in functions.items()
    }
    return json.dumps(found).encode()


def read_code(code: bytes) -> tuple[dict[str, Function], dict[str, Printed]]:
    """Functions without bodies, as they are started, and their kernels. Raises ModelError."""
    try:
        found = json.loads(code)
        functions = {name: _function(each) for name, each in found.items()}
        printed = {name: _printed(each["printed"]) for name, each in found.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"the kernels are damaged: {type(error).__name__}: {error}") from None
    for name, function in functions.items():
        kernel = printed[name]
        takes = len(function.params), len(function.params) + len(function.dims)
        if kernel.name != kernel_name(function) or (kernel.tensors, kernel.numbers) != takes:
            raise ModelError(f"the kernels are damaged: {name} is not started as it is written")
    return functions, printed


def _function(entry: Mapping[str, Any]) -> Function:
    params = tuple(Param(_text(name), DType(element)) for name, element in entry["params"])
    return Function(_text(entry["function"]), params, tuple(map(_text, entry["dims"])), ())


def _printed(entry: Mapping[str, Any]) -> Printed:
    helpers = {_text(name): _text(text) for name, text in entry["helpers"].items()}
    tensors, numbers = int(entry["tensors"]), int(entry["numbers"])
    return Printed(_text(entry["name"]), _text(entry["kernel"]), helpers, bool(entry["doubles"]), tensors, numbers)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a text, found {value!r:.40}")
    return value
