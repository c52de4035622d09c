"""A plan's integers: written for other engines, and timed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from tests.cli.conftest import Call

import mapsto

EXAMPLES = Path(__file__).parents[2] / "examples"
MODEL = EXAMPLES / "mnist-cnn.onnx"


@pytest.fixture
def plan(call: Call, tmp_path: Path) -> Path:
    asked = ("--formats", "int8", "--calibrate", EXAMPLES / "digits.npz")
    code, _, err = call("plan", MODEL, *asked, "-o", tmp_path / "p.txt")
    assert code == 0, err
    return tmp_path / "p.txt"


def test_a_model_of_integers(call: Call, plan: Path, tmp_path: Path) -> None:
    code, out, err = call("qdq", MODEL, "--plan", plan, "-o", tmp_path / "q.onnx")
    assert code == 0, err
    assert "products of integers" in out
    digits = np.load(EXAMPLES / "digits.npz")
    found = mapsto.compile(tmp_path / "q.onnx")(digits["image"])
    assert (found.argmax(1) == digits["label"]).all()
    code, out, _ = call("qdq", MODEL, "--plan", plan, "-o", tmp_path / "q.onnx", "--json")
    assert code == 0
    said = json.loads(out)
    assert said["bytes"] == (tmp_path / "q.onnx").stat().st_size
    assert len(said["quantised"]) == sum(n.op_type in ("Conv", "Gemm", "MatMul") for n in onnx.load(MODEL).graph.node)


def test_nothing_to_write(call: Call, tmp_path: Path) -> None:
    code, _, _ = call("plan", MODEL, "--formats", "bf16", "-o", tmp_path / "p.txt")
    assert code == 0
    code, _, err = call("qdq", MODEL, "--plan", tmp_path / "p.txt", "-o", tmp_path / "q.onnx")
    assert code == 2
    assert "no product of it is of integers" in err
    assert "bf16 is no format of integers" in err
    assert not (tmp_path / "q.onnx").exists()


def test_ours_is_timed_by_a_plan(call: Call, tmp_path: Path) -> None:
    plan, shape = tmp_path / "p.txt", ("--shape", "image=4,1,28,28")
    assert call("plan", MODEL, *shape, "--formats", "bf16", "-o", plan)[0] == 0
    code, out, err = call("bench", MODEL, *shape, "--against", "", "--plan", plan, "--seconds", "0.1")
    assert code == 0, err
    assert "mapsto" in out
    code, _, err = call("bench", MODEL, *shape, "--kernels", "--plan", plan)
    assert code == 2
    assert "leave them or --kernels out" in err
