"""Small models in ONNX's text form, and native code held against ONNX Runtime and the numpy reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort

from mapsto.devices.cpu.workers import Workers
from mapsto.importers.onnx import load
from mapsto.ops.interpret import run_graph
from mapsto.report.accuracy import compare
from mapsto.runtime.executable import Executable
from mapsto.session.compile import build, prepared

Feed = dict[str, np.ndarray]
Shapes = Mapping[str, Sequence[int | str | None]]

# Relative to the largest magnitude of a channel: sums of some hundred products in another order.
TOLERANCE = {"float32": 1e-5, "float64": 1e-12, "float16": 2e-3, "bfloat16": 1.6e-2}


def parse(text: str, opset: int = 18) -> Any:
    """A model from `name (inputs) => (outputs) { nodes }`."""
    return onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : {opset}]>\n{text}')


def normal(*shape: int, seed: int = 0, dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def by_onnxruntime(model: Any, feed: Feed) -> Feed:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, feed), strict=True))


def check(
    workers: Workers, model: Any, *feeds: Feed, shapes: Shapes | None = None, onnxruntime: bool = True
) -> Executable:
    """One executable for all feeds: right beside the reference (and ONNX Runtime), and of the same bits at 2 threads
    and with dead memory poisoned.
    """
    graph = load(model, shapes)
    exe = build(prepared(model, shapes), workers, 1, None)
    double = Executable(exe.program, exe.objects, 2)
    for feed in feeds:
        found = exe.run(feed)
        references = [run_graph(graph, feed)]
        references += [by_onnxruntime(model, feed)] if onnxruntime else []
        for expected in references:
            assert_close(found, expected)
        exe.poison()
        assert_same_bits(exe.run(feed), found)
        exe.poison(False)
        assert_same_bits(double.run(feed), found)
    return exe


def assert_close(found: Feed, expected: Feed) -> None:
    assert list(found) == list(expected)
    for name, array in expected.items():
        ours = found[name]
        assert ours.dtype == array.dtype and ours.shape == array.shape, (name, ours.dtype, ours.shape)
        comparison = compare(array, ours)
        assert comparison.mismatch is None, (name, comparison.mismatch)
        if array.dtype.name in TOLERANCE:
            errors = comparison.errors
            assert np.all(errors <= TOLERANCE[array.dtype.name]), (name, int(errors.argmax()), float(errors.max()))


def assert_same_bits(found: Feed, expected: Feed) -> None:
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        assert found[name].tobytes() == array.tobytes(), f"{name} has other bits"
