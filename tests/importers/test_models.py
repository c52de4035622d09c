"""The public models through importer, passes and numpy references, against ONNX Runtime without optimisations.

They come from scripts/fetch_models.py; where they are not there these tests are skipped.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from scripts.fetch_models import DEFAULT_FOLDER, model_path
from scripts.real_inputs import real_inputs

from mapsto.importers.onnx import load
from mapsto.ops.interpret import run_graph
from mapsto.ops.verify import verify_graph
from mapsto.passes import run_passes

MODELS = Path(os.environ.get("MAPSTO_MODELS", DEFAULT_FOLDER))
pytestmark = pytest.mark.models

# What is left open: nothing, all that the model leaves open, or all but extents that the rank of a branch hangs on.
CASES = [
    *((key, "fixed") for key in ("nudenet", "minilm", "silero-vad", "silero-vad-ifless", "piper")),
    *((key, "open") for key in ("nudenet", "minilm", "silero-vad", "silero-vad-ifless", "piper")),
]
OPEN: dict[str, dict[str, tuple[int | None, ...]]] = {"silero-vad": {"input": (None, 576)}}


@pytest.mark.parametrize(("key", "how"), CASES)
def test_a_public_model(key: str, how: str) -> None:
    path = model_path(MODELS, key)
    if not path.exists():
        pytest.skip(f"{path} is missing: run scripts/fetch_models.py")
    onnxruntime = pytest.importorskip("onnxruntime")
    feeds = real_inputs(MODELS, key)[0]
    shapes = {name: array.shape for name, array in feeds.items()} if how == "fixed" else OPEN.get(key)
    graph = run_passes(load(path, shapes))
    verify_graph(graph)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    found = run_graph(graph, feeds)
    assert list(found) == names
    for name, expected in zip(names, session.run(names, feeds), strict=True):
        assert found[name].dtype == expected.dtype and found[name].shape == expected.shape
        if expected.dtype.kind == "i":
            np.testing.assert_array_equal(found[name], expected)
        else:
            np.testing.assert_allclose(found[name], expected, rtol=0, atol=1e-4 * np.max(np.abs(expected)))
