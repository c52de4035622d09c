"""`mapsto graph`: the graph of a model as text, as imported, after a pass, or at the end of all of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mapsto.cli.inputs import existing, parse_shapes
from mapsto.cli.options import ReadOptions
from mapsto.cli.output import print_json
from mapsto.cli.usage import UsageError
from mapsto.report.stages import Stage, stages


def show_graph(model: Path, after: str | None, reading: ReadOptions, as_json: bool) -> None:
    from mapsto.ir.text import print_graph

    found = list(stages(existing(model), parse_shapes(reading.shape or []), reading.data_root))
    chosen = chosen_stages(found, after)
    if as_json:
        print_json({"stages": [_data(stage) for stage in chosen]})
        return
    for stage in chosen:
        print(f"# {stage.name}: {len(stage.graph.nodes)} nodes")
        print(print_graph(stage.graph, elide=True).rstrip("\n"))


def chosen_stages(found: Sequence[Stage], after: str | None) -> Sequence[Stage]:
    """None: the last; "all": every one; else those of that name or number. Raises UsageError naming what there is."""
    if after is None:
        return found[-1:]
    chosen = found if after == "all" else [stage for stage in found if after in (stage.name, *stage.name.split())]
    if not chosen:
        raise UsageError(f"--after {after}: no such stage; there are: {', '.join(stage.name for stage in found)}, all")
    return chosen


def _data(stage: Stage) -> dict[str, object]:
    from mapsto.ir.text import print_graph

    return {"stage": stage.name, "nodes": len(stage.graph.nodes), "text": print_graph(stage.graph, elide=True)}
