"""The graph whose products have the number formats that were asked for, and how a plan says so."""

from __future__ import annotations

import glob
from collections.abc import Sequence
from dataclasses import dataclass

from mapsto.errors import ParseError
from mapsto.formats.format import FORMATS, WantedFormats
from mapsto.ir.graph import Graph
from mapsto.plan.works import PlannedFormat


@dataclass(frozen=True)
class Formed:
    """A graph, and the formats that its products were given."""

    graph: Graph
    formats: tuple[PlannedFormat, ...] = ()


def formed(graph: Graph, asked: WantedFormats) -> Formed:
    """A graph that the passes are done with, in these formats. Raises ArgumentError for a pattern that fits no node."""
    if not asked.pairs:
        return Formed(graph)
    from mapsto.formats.chosen import chosen
    from mapsto.formats.narrow import Narrowed
    from mapsto.passes import DeadCode, Identities, run_passes

    found = chosen(graph, asked)
    graph = run_passes(graph, (Narrowed(found), Identities(), DeadCode()))
    names = ((each, "f32" if each.format is None else each.format.name) for each in found)
    return Formed(graph, tuple(PlannedFormat(name, each.sources, each.because) for each, name in names))


def said(formats: Sequence[PlannedFormat]) -> WantedFormats:
    """What a plan asks for, of the nodes that it names. Raises ParseError, naming the line, for what is no format."""
    pairs = []
    for each in formats:
        if each.format not in FORMATS:
            raise ParseError(f"plan, line {each.line}: format: {each.format!r}; there are {', '.join(FORMATS)}")
        pairs += [(glob.escape(source), each.format) for source in each.sources]
    return WantedFormats(tuple(pairs))
