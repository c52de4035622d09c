"""The graph of a model after each pass, and which pass first changes what it computes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mapsto.arguments import Shapes
from mapsto.ir.graph import Graph
from mapsto.report.accuracy import Verdict, judge

IMPORTED = "imported"


@dataclass(frozen=True)
class Stage:
    """A graph and the pass that made it: "imported", then "1 dead-code", "2 identities", as a compile runs them."""

    name: str
    graph: Graph


def stages(model: Path, shapes: Shapes | None = None, data_root: Path | None = None) -> Iterator[Stage]:
    """The imported graph, then the graph after each pass of a compile."""
    from mapsto.importers import onnx
    from mapsto.passes import default_passes, run_passes

    graph = onnx.load(model, shapes, data_root=data_root)
    yield Stage(IMPORTED, graph)
    for number, step in enumerate(default_passes(), 1):
        graph = run_passes(graph, [step])
        yield Stage(f"{number} {step.name}", graph)


def first_change(
    model: Path, feed: Mapping[str, np.ndarray], shapes: Shapes | None = None, data_root: Path | None = None
) -> tuple[str, list[Verdict]] | None:
    """The first pass after which the numpy reference gives something else, with what differs; None where none does."""
    from mapsto.ops.interpret import run_graph

    expected: Mapping[str, np.ndarray] | None = None
    for stage in stages(model, shapes, data_root):
        found = run_graph(stage.graph, feed)
        if expected is None:
            expected = found
        wrong = [verdict for verdict in judge(expected, found) if not verdict.ok]
        if wrong:
            return stage.name, wrong
    return None
