"""The ONNX backend test-suite through the importer, the passes and the numpy references."""

from __future__ import annotations

import fnmatch
from typing import Any

import numpy as np
import onnx
import pytest
from tests.conformance import EXCLUDED, Case, check_case, conformance_cases, excluded_names

from mapsto.importers.onnx import load
from mapsto.ops.interpret import run_graph
from mapsto.ops.verify import verify_graph
from mapsto.passes import run_passes


def interpret(model: Any, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    graph = run_passes(load(model))
    verify_graph(graph)
    outputs = run_graph(graph, feeds)
    return [outputs[name] for name in graph.outputs]


@pytest.mark.parametrize("case", conformance_cases(), ids=lambda case: case.name)
def test_a_case_of_the_standard(case: Case) -> None:
    check_case(case, interpret)


# The table of exclusions is for this version of onnx and later ones; older ones have fewer cases.
NEWEST = tuple(int(part) for part in onnx.__version__.split(".")[:2]) >= (1, 23)


@pytest.mark.skipif(not NEWEST, reason="an older onnx has fewer cases")
def test_most_of_the_suite_is_held_to() -> None:
    assert len(conformance_cases()) > 1400


@pytest.mark.skipif(not NEWEST, reason="an older onnx has fewer cases")
@pytest.mark.parametrize("pattern", EXCLUDED)
def test_every_exclusion_excludes_something(pattern: str) -> None:
    assert any(fnmatch.fnmatch(name, pattern) for name in excluded_names())
