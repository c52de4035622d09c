"""The graph whose products have the number formats that were asked for, and how a plan says so."""

from __future__ import annotations

import glob
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mapsto.errors import ParseError
from mapsto.formats.format import FORMATS, Quantisation, WantedFormats
from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Graph
from mapsto.machine.spec import DeviceSpec
from mapsto.plan.mapped import Mapped
from mapsto.plan.works import PlannedFormat

if TYPE_CHECKING:
    from mapsto.formats.chosen import ChosenFormat
    from mapsto.formats.ranges import SeenRange


@dataclass(frozen=True)
class Formed:
    """A graph, and the formats that its products were given. accuracy: what they lose, in words. mapped: what was
    decided about the graph to find them, without pins.
    """

    graph: Graph
    formats: tuple[PlannedFormat, ...] = ()
    accuracy: str = ""
    mapped: Mapped | None = None


def bytes_lie_as(spec: DeviceSpec) -> DType:
    """What integers of 8 bits lie in memory as: in 16 bits where a device multiplies such ones, and no bytes."""
    shorts, bytes = ((a, b, DType.I32) in spec.peaks for a, b in ((DType.I16, DType.I16), (DType.U8, DType.I8)))
    return DType.I16 if shorts and not bytes else DType.U8


def lies_unsigned(spec: DeviceSpec) -> bool:
    """Whether a device multiplies bytes without a sign by signed ones, and no two signed ones."""
    unsigned, signed = ((a, DType.I8, DType.I32) in spec.peaks for a in (DType.U8, DType.I8))
    return unsigned and not signed


def unsigned(graph: Graph, spec: DeviceSpec) -> Graph:
    """A graph that the passes are yet to be done with, its signed bytes as a device multiplies them."""
    from mapsto.passes import UnsignedBytes, run_passes

    return run_passes(graph, (UnsignedBytes(),)) if lies_unsigned(spec) else graph


def as_multiplied(graph: Graph, bytes: DType) -> Graph:
    """The graph with bytes that products read stored so."""
    from mapsto.passes import WideBytes, run_passes

    return run_passes(graph, (WideBytes(),)) if bytes is DType.I16 else graph


def formed(
    graph: Graph,
    asked: WantedFormats,
    ranges: Mapping[str, SeenRange] | None = None,
    bytes: DType = DType.U8,
) -> Formed:
    """A graph that the passes are done with, in these formats. ranges: of values that are quantised; bytes: what they
    lie in memory as. Raises ArgumentError for a pattern that fits no node.
    """
    if not asked.pairs:
        return Formed(graph)
    from mapsto.formats.chosen import chosen

    found = chosen(graph, asked, ranges, bytes)
    return Formed(narrowed(graph, found), tuple(planned(each, each.because) for each in found))


def narrowed(graph: Graph, formats: tuple[ChosenFormat, ...]) -> Graph:
    """A graph that the passes are done with, its products in these formats."""
    from mapsto.formats.narrow import Narrowed
    from mapsto.passes import DeadCode, Identities, NarrowProducts, run_passes

    return run_passes(graph, (Narrowed(formats), Identities(), NarrowProducts(), Identities(), DeadCode()))


def planned(each: ChosenFormat, because: str) -> PlannedFormat:
    """The line of a plan."""
    name = "f32" if each.format is None else each.format.name
    if each.by is None:
        return PlannedFormat(name, each.sources, because)
    return PlannedFormat(name, each.sources, because, each.by.scale, each.by.zero, each.by.most, each.by.powers)


def said(formats: Sequence[PlannedFormat]) -> WantedFormats:
    """What a plan asks for, of the nodes that it names. Raises ParseError, naming the line, for what is no format."""
    pairs: list[tuple[str, str]] = []
    known: list[tuple[str, Quantisation]] = []
    for each in formats:
        if each.format not in FORMATS:
            raise ParseError(f"plan, line {each.line}: format: {each.format!r}; there are {', '.join(FORMATS)}")
        pairs += [(glob.escape(source), each.format) for source in each.sources]
        if needed := _lacks(each):
            raise ParseError(f"plan, line {each.line}: format: {each.format} needs a scale and {needed}")
        if each.scale is not None:
            by = Quantisation(each.scale, each.zero, each.most, each.powers)
            known += [(source, by) for source in each.sources]
    return WantedFormats(tuple(pairs), tuple(known))


def _lacks(each: PlannedFormat) -> str:
    """What the line of a quantised format does not say, besides a scale; "": nothing."""
    found = FORMATS[each.format]
    if found is None or not found.is_quantised:
        return ""
    if found.is_of_shorts:
        return "" if each.scale is not None and each.most is not None else "the most steps to either side"
    return "" if each.scale is not None and each.most is None else "a zero point"
