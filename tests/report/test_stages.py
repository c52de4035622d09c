"""The graph after each pass, and the search for the pass that changes a result."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

import mapsto.passes
from mapsto.ir.graph import Graph
from mapsto.report.stages import first_change, stages

MNIST = Path(__file__).parent.parent.parent / "examples" / "mnist-cnn.onnx"
FEED = {"image": np.random.default_rng(0).random((2, 1, 28, 28), np.float32)}


@dataclass(frozen=True)
class LosesBias:
    """A pass with a fault: the last constant becomes ones."""

    name: str = "loses-bias"

    def __call__(self, graph: Graph) -> Graph:
        name, array = list(graph.constants.items())[-1]
        return replace(graph, constants={**graph.constants, name: np.ones_like(array)})


def test_stages_begin_with_the_imported_graph_and_count_the_passes() -> None:
    names = [stage.name for stage in stages(MNIST)]
    assert names[0] == "imported" and len(names) == len(mapsto.passes.default_passes()) + 1
    assert all(name.split()[0] == str(number) for number, name in enumerate(names[1:], 1))


def test_no_pass_changes_what_the_digit_network_computes() -> None:
    assert first_change(MNIST, FEED) is None


def test_the_pass_at_fault_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    right = mapsto.passes.default_passes()
    monkeypatch.setattr(mapsto.passes, "default_passes", lambda: (*right[:2], LosesBias(), *right[2:]))
    found = first_change(MNIST, FEED)
    assert found is not None and found[0] == "3 loses-bias"
    assert [verdict.name for verdict in found[1]] == ["logits"]
