"""Who says what is right: onnx.reference, and ONNX Runtime as the second opinion."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from tests.differential.corrected import CORRECTED
from tests.differential.drawing import is_float
from tests.differential.form import Form, model_of, widened


class Unanswered(Exception):
    """An oracle that fails on the model or the inputs."""


def by_reference(form: Form, feed: Mapping[str, Any], *, magnitudes: bool = False) -> list[Any]:
    """Results by onnx.reference: computed in f64 where the form allows, and rounded once. `magnitudes`: of the
    inputs' absolute values.
    """
    from onnx.reference import ReferenceEvaluator

    if magnitudes:
        feed = {n: np.abs(a) if is_float(np.asarray(a).dtype) else a for n, a in feed.items()}
        constants = {n: np.abs(a) if is_float(np.asarray(a).dtype) else a for n, a in form.constants.items()}
        form = Form(**{**form.__dict__, "constants": constants})
    if form.op in CORRECTED:
        return CORRECTED[form.op](form, {**form.constants, **feed})
    first: Exception | None = None
    for wide in (True, False) if form.wide else (False,):
        try:
            with warnings.catch_warnings(), np.errstate(all="ignore"):
                warnings.simplefilter("ignore")
                evaluator = ReferenceEvaluator(model_of(form, feed, wide=wide))
                found = evaluator.run(None, {n: widened(a, wide) for n, a in feed.items()})
            return [_narrowed(np.asarray(a), form, feed) if wide else np.asarray(a) for a in found]
        except Exception as error:
            first = first or error
    raise Unanswered(f"{type(first).__name__}: {first}"[:200])


def _narrowed(array: Any, form: Form, feed: Mapping[str, Any]) -> Any:
    """A result of f64 in the type that the form's floats have."""
    kinds = [np.asarray(a).dtype for a in (*feed.values(), *form.constants.values()) if is_float(np.asarray(a).dtype)]
    if array.dtype != np.float64 or not kinds:
        return array
    with np.errstate(all="ignore"):
        return array.astype(kinds[0])


def by_runtime(form: Form, feed: Mapping[str, Any]) -> list[Any]:
    """Results by ONNX Runtime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    try:
        model = model_of(form, feed).SerializeToString()
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return [np.asarray(a) for a in session.run(None, {n: np.asarray(a) for n, a in feed.items()})]
    except Exception as error:
        raise Unanswered(f"{type(error).__name__}: {error}"[:200]) from None
