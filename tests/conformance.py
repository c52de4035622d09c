"""The ONNX backend test-suite as data: models with inputs and expected outputs, of single nodes and of small models.

Anything that runs a model can be held against it: `for case in conformance_cases(): ...`. `EXCLUDED` says what is left
out, and why.
"""

from __future__ import annotations

import fnmatch
import functools
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx


@dataclass(frozen=True)
class Case:
    """One model with one set of inputs and the outputs that the standard expects. What an op works by (axes, sizes,
    steps) is an input as well, as the suite gives it.
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
    """All cases of the installed version of onnx, those of `EXCLUDED` left out; cases whose data are not plain tensors
    as well.
    """
    nodes = (case for raw in node_cases() for case in _cases(raw) if reason(case.name) is None)
    return (*nodes, *(case for folder in _folders() for case in _stored_cases(folder) if reason(case.name) is None))


def excluded_names() -> tuple[str, ...]:
    """Names of the cases that `EXCLUDED` leaves out."""
    names = (*(raw.name for raw in node_cases()), *(folder.name for folder in _folders()))
    return tuple(name for name in names if reason(name) is not None)


# Kinds of cases that onnx ships as files: small models, and what exporters of opset 6 wrote.
STORED_KINDS = ("simple", "pytorch-operator", "pytorch-converted")


@functools.cache
def _folders() -> tuple[Path, ...]:
    """Folders of cases with a model and sets of data."""
    data = Path(onnx.__file__).parent / "backend" / "test" / "data"
    return tuple(folder for kind in STORED_KINDS for folder in sorted((data / kind).glob("test_*")))


def _stored_cases(folder: Path) -> Iterator[Case]:
    model = onnx.load(folder / "model.onnx")
    for i, data in enumerate(sorted(folder.glob("test_data_set_*"))):
        inputs, outputs = (_stored_arrays(data, name) for name in ("input", "output"))
        yield Case(folder.name if i == 0 else f"{folder.name}_{i}", model, inputs, outputs, 1e-3, 1e-7)


def _stored_arrays(data: Path, name: str) -> tuple[np.ndarray, ...]:
    """The tensors of `input_0.pb`, `input_1.pb`..."""
    count = len(list(data.glob(f"{name}_*.pb")))
    return tuple(onnx.numpy_helper.to_array(onnx.load_tensor(data / f"{name}_{k}.pb")) for k in range(count))


@functools.cache
def node_cases() -> tuple[Any, ...]:
    """The cases of single nodes as onnx has them, those that are left out among them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        return tuple(collect_testcases(None))


def _cases(raw: Any) -> Iterator[Case]:
    for i, (inputs, outputs) in enumerate(raw.data_sets or []):
        if not all(_is_tensor(v) for v in (*inputs, *outputs)):
            continue
        name = raw.name if i == 0 else f"{raw.name}_{i}"
        yield Case(name, raw.model, _arrays(inputs), _arrays(outputs), raw.rtol, raw.atol)


def _is_tensor(value: Any) -> bool:
    if isinstance(value, onnx.TensorProto):
        return bool(value.data_type != onnx.TensorProto.STRING)
    return isinstance(value, (np.ndarray, np.generic, int, float)) and np.asarray(value).dtype.kind not in "OUS"


def _arrays(values: Sequence[Any]) -> tuple[np.ndarray, ...]:
    return tuple(onnx.numpy_helper.to_array(v) if isinstance(v, onnx.TensorProto) else np.asarray(v) for v in values)


def check_case(case: Case, run: Callable[[Any, dict[str, np.ndarray]], Sequence[np.ndarray]]) -> None:
    """Runs a case by `run(model, feeds)` and compares dtypes, shapes and elements; AssertionError where they differ.

    The suite's tolerance holds, but never less than two units in the last place of a half-precision type, nor than
    fp32 rounding at the scale of the whole output (a sum that ought to be zero).
    """
    found = run(case.model, case.feeds)
    assert len(found) == len(case.outputs)
    for array, expected in zip(found, case.outputs, strict=True):
        assert array.dtype == expected.dtype and array.shape == expected.shape, (array.dtype, array.shape)
        if expected.dtype.kind in "iub":
            np.testing.assert_allclose(array, expected, rtol=case.rtol, atol=case.atol)
            continue
        wide = expected.astype(np.float64)
        half = {"float16": 2.0**-10, "bfloat16": 2.0**-7}.get(expected.dtype.name, 0.0)
        scale = float(np.max(np.abs(wide[np.isfinite(wide)]), initial=0.0))
        tolerance = {"rtol": max(case.rtol, 2 * half), "atol": max(case.atol, 1e-6 * scale)}
        np.testing.assert_allclose(array.astype(np.float64), wide, **tolerance)


def reason(name: str) -> str | None:
    """Why a case is left out; None where it is not."""
    return next((why for pattern, why in EXCLUDED.items() if fnmatch.fnmatch(name, pattern)), None)


_STRINGS = "strings, and sequences and optional values as inputs or outputs, are not tensors"
_RANDOM = "random numbers: ours are others"
_CLASSIC = "trees and text features are no neural networks"
_TRAINING = "optimisers as ops; training has updates of its own"

# Pattern of case names -> why they are left out.
EXCLUDED: dict[str, str] = {
    "test_optional_*": _STRINGS,
    "test_bernoulli*": _RANDOM,
    "test_training_dropout": _RANDOM,
    "test_training_dropout_mask": _RANDOM,
    "test_training_dropout_default*": _RANDOM,
    "test_ai_onnx_ml_label_*": _CLASSIC,
    "test_ai_onnx_ml_tree_*": _CLASSIC,
    "test_tfidfvectorizer_*": _CLASSIC,
    "test_adagrad*": _TRAINING,
    "test_adam*": _TRAINING,
    "test_momentum*": _TRAINING,
    "test_nesterov_momentum": _TRAINING,
    "test_image_decoder_*": "reading pictures is no computation of a network",
    "test_strnorm_model_*": _STRINGS,
    "test_gradient_of_*": _TRAINING,
    "test_affine_grid_3d_align_corners_expanded": "a branch that yields another rank, decided in the run",
    "test_resize_downsample_scales_*_align_corners": "counts with a size before rounding; ONNX Runtime does not either",
}
