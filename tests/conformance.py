"""The ONNX backend test-suite, node by node, as data: models with inputs and expected outputs.

Anything that runs a model can be held against it: `for case in conformance_cases(): ...`. `EXCLUDED` says what is left
out, and why.
"""

from __future__ import annotations

import fnmatch
import functools
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx


@dataclass(frozen=True)
class Case:
    """One model with one set of inputs and the outputs that the standard expects.

    Inputs that say how an op works rather than what it works on (`PARAMETERS`) are initializers here, as they are in
    every exported model:
    the suite gives them as inputs only because it has no other way to show them.
    """

    name: str
    model: Any
    inputs: tuple[np.ndarray, ...]
    outputs: tuple[np.ndarray, ...]
    rtol: float
    atol: float

    @property
    def feeds(self) -> dict[str, np.ndarray]:
        constants = {tensor.name for tensor in self.model.graph.initializer}
        names = [entry.name for entry in self.model.graph.input if entry.name not in constants]
        return dict(zip(names, self.inputs, strict=True))


@functools.cache
def conformance_cases() -> tuple[Case, ...]:
    """All node cases of the installed version of onnx, those of `EXCLUDED` left out; cases whose data are not plain
    tensors as well.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        found = collect_testcases(None)
    return tuple(case for raw in found for case in _cases(raw) if reason(case.name) is None)


def _cases(raw: Any) -> Iterator[Case]:
    for i, (inputs, outputs) in enumerate(raw.data_sets or []):
        if not all(_is_tensor(v) for v in (*inputs, *outputs)):
            continue
        name = raw.name if i == 0 else f"{raw.name}_{i}"
        model, rest = _with_parameters(raw.model, _arrays(inputs))
        yield Case(name, model, rest, _arrays(outputs), raw.rtol, raw.atol)


def _with_parameters(model: Any, inputs: tuple[np.ndarray, ...]) -> tuple[Any, tuple[np.ndarray, ...]]:
    """The model with its parameters as initializers, and the inputs that are left."""
    wanted = {
        node.input[i] for node in model.graph.node for i in PARAMETERS.get(node.op_type, ()) if i < len(node.input)
    }
    entries = list(model.graph.input)
    if not any(entry.name in wanted for entry in entries) or len(entries) != len(inputs):
        return model, inputs
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    del changed.graph.input[:]
    rest = []
    for entry, array in zip(entries, inputs, strict=True):
        if entry.name in wanted:
            changed.graph.initializer.append(onnx.numpy_helper.from_array(array, entry.name))
        else:
            changed.graph.input.append(entry)
            rest.append(array)
    return changed, tuple(rest)


def _is_tensor(value: Any) -> bool:
    if isinstance(value, onnx.TensorProto):
        return bool(value.data_type != onnx.TensorProto.STRING)
    return isinstance(value, (np.ndarray, np.generic, int, float)) and np.asarray(value).dtype.kind not in "OUS"


def _arrays(values: Sequence[Any]) -> tuple[np.ndarray, ...]:
    return tuple(onnx.numpy_helper.to_array(v) if isinstance(v, onnx.TensorProto) else np.asarray(v) for v in values)


def reason(name: str) -> str | None:
    """Why a case is left out; None where it is not."""
    return next((why for pattern, why in EXCLUDED.items() if fnmatch.fnmatch(name, pattern)), None)


# Op -> inputs that are parameters.
PARAMETERS: dict[str, tuple[int, ...]] = {
    **{
        f"Reduce{kind}": (1,)
        for kind in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
    },
    "Squeeze": (1,),
    "Unsqueeze": (1,),
    "CumSum": (1,),
    "CumProd": (1,),
    "Slice": (3, 4),
    "Pad": (3,),
    "Resize": (1, 2, 3),
    "Upsample": (1,),
    "DFT": (1, 2),
    "STFT": (1, 3),
    "Col2Im": (1, 2),
    "CenterCropPad": (1,),
}

# Pattern of case names -> why they are left out.
EXCLUDED: dict[str, str] = {}
