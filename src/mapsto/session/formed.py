"""The graph whose products have the number formats that were asked for, and how a plan says so."""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mapsto.errors import ParseError
from mapsto.formats.format import FORMATS, Quantisation, WantedFormats
from mapsto.ir.graph import Graph
from mapsto.plan.works import PlannedFormat

if TYPE_CHECKING:
    from mapsto.formats.chosen import ChosenFormat


@dataclass(frozen=True)
class Formed:
    """A graph, and the formats that its products were given. accuracy: what they lose, in words."""

    graph: Graph
    formats: tuple[PlannedFormat, ...] = ()
    accuracy: str = ""


def formed(graph: Graph, asked: WantedFormats, ranges: Mapping[str, Quantisation] | None = None) -> Formed:
    """A graph that the passes are done with, in these formats. ranges: of values that are quantised. Raises
    ArgumentError for a pattern that fits no node.
    """
    if not asked.pairs:
        return Formed(graph)
    from mapsto.formats.chosen import chosen

    found = chosen(graph, asked, ranges)
    return Formed(narrowed(graph, found), tuple(planned(each, each.because) for each in found))


def narrowed(graph: Graph, formats: tuple[ChosenFormat, ...]) -> Graph:
    """A graph that the passes are done with, its products in these formats."""
    from mapsto.formats.narrow import Narrowed
    from mapsto.passes import DeadCode, Identities, NarrowProducts, run_passes

    return run_passes(graph, (Narrowed(formats), Identities(), NarrowProducts(), Identities(), DeadCode()))


def planned(each: ChosenFormat, because: str) -> PlannedFormat:
    """The line of a plan."""
    name = "f32" if each.format is None else each.format.name
    scale, zero = (None, 0) if each.by is None else (each.by.scale, each.by.zero)
    return PlannedFormat(name, each.sources, because, scale, zero)


def said(formats: Sequence[PlannedFormat]) -> WantedFormats:
    """What a plan asks for, of the nodes that it names. Raises ParseError, naming the line, for what is no format."""
    pairs: list[tuple[str, str]] = []
    known: list[tuple[str, Quantisation]] = []
    for each in formats:
        if each.format not in FORMATS:
            raise ParseError(f"plan, line {each.line}: format: {each.format!r}; there are {', '.join(FORMATS)}")
        pairs += [(glob.escape(source), each.format) for source in each.sources]
        if each.format == "int8" and each.scale is None:
            raise ParseError(f"plan, line {each.line}: format: int8 needs a scale and a zero point")
        if each.scale is not None:
            known += [(source, Quantisation(each.scale, each.zero)) for source in each.sources]
    return WantedFormats(tuple(pairs), tuple(known))
