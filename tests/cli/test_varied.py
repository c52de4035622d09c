"""Commands on a model of which each size has an executable of its own, as some extent decides a rank."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from tests.cli.conftest import Call
from tests.session.test_varied import one_axis


@pytest.fixture
def path(tmp_path: Path) -> Path:
    onnx.save(one_axis(), tmp_path / "ranks.onnx")
    return tmp_path / "ranks.onnx"


def test_it_is_run_and_checked(call: Call, path: Path, tmp_path: Path) -> None:
    name = onnx.load(path).graph.input[0].name
    rank = len(onnx.load(path).graph.input[0].type.tensor_type.shape.dim)
    for extent in (1, 3):
        array = np.random.default_rng(0).standard_normal((extent,) * rank).astype(np.float32)
        np.save(tmp_path / "x.npy", array)
        code, out, err = call("run", path, "--input", f"{name}={tmp_path / 'x.npy'}", "--json")
        assert (code, err) == (0, "") and json.loads(out)["outputs"]
        assert call("check", path, "--input", f"{name}={tmp_path / 'x.npy'}")[0] == 0


def test_what_is_of_one_program_is_refused(call: Call, path: Path, tmp_path: Path) -> None:
    for words in (("plan", path), ("compile", path, "-o", tmp_path / "m.mapsto")):
        code, out, err = call(*words)
        assert code == 2 and not out and "mapsto: error: " in err and "fix" in err
