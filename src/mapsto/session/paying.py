"""Products that another number format was asked for, in it where that takes less: what f32 has and no other format,
products at points above all, may be faster than operands of half the size. f32 is what the model says, so nothing is
lost by it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

from mapsto.budget import metering_anew
from mapsto.formats.chosen import ChosenFormat
from mapsto.formats.format import WantedFormats
from mapsto.ir.graph import Graph
from mapsto.plan.asked import Asked
from mapsto.session.formed import Formed, narrowed, planned
from mapsto.session.weighed import FLOATS
from mapsto.session.weighing import Weighed, lightest, told


def paying(
    graph: Graph, found: Sequence[ChosenFormat], wanted: WantedFormats, ask: Callable[[Graph], Asked]
) -> Formed:
    """A graph that the passes are done with, its products in these formats; those that nobody named, and whose operands
    are made in a run, in f32 where that takes less. ask: the device, about a graph.
    """
    asked = {each.value: each for each in found if _may_be_left(each, wanted)}

    def with_floats(values: Collection[str]) -> Weighed:
        formats = tuple(replace(each, format=None) if each.value in values else each for each in found)
        with metering_anew():  # a form that is only looked at takes nothing from the one that is compiled
            return Weighed.of(narrowed(graph, formats), ask)

    if not asked:
        return Formed(narrowed(graph, tuple(found)), tuple(planned(each, each.because) for each in found))
    sources = {value: each.sources for value, each in asked.items()}
    chosen = lightest(with_floats(()), with_floats(sources.keys()), sources, with_floats)

    def line(each: ChosenFormat) -> tuple[ChosenFormat, str]:
        if each.value not in chosen.others or each.format is None:
            return each, each.because
        because = told(chosen.gains[each.value], True, FLOATS, each.format.name)
        return replace(each, format=None, by=None), because

    formats = tuple(planned(*line(each)) for each in found)
    return Formed(chosen.taken.mapped.graph, formats, mapped=chosen.taken.mapped)


def _may_be_left(each: ChosenFormat, wanted: WantedFormats) -> bool:
    """Narrow weights alone are asked for to take less memory."""
    return each.format is not None and not each.format.weights_only and wanted.is_for_all(each.sources)
