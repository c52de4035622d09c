"""Device-blind passes: each takes a graph and gives a graph. `default_passes()` is the list that a compile runs, in
order.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from mapsto import debug
from mapsto.budget import current
from mapsto.ir.graph import Graph
from mapsto.ir.text import print_graph
from mapsto.passes.affine import AffineFolding
from mapsto.passes.apart_windows import ApartWindows
from mapsto.passes.channel_shuffles import ChannelShuffles
from mapsto.passes.concat_moves import ConcatMoves
from mapsto.passes.concat_slices import ConcatSlices
from mapsto.passes.dead_code import DeadCode
from mapsto.passes.dead_taps import DeadTaps
from mapsto.passes.denormal_weights import DenormalWeights
from mapsto.passes.float_products import FloatProducts
from mapsto.passes.gradient import gradient
from mapsto.passes.hoisting import Hoisting
from mapsto.passes.identities import Identities
from mapsto.passes.layout_moves import LayoutMoves
from mapsto.passes.narrow_products import NarrowProducts
from mapsto.passes.pad_into_conv import PadIntoConv
from mapsto.passes.padded_sums import PaddedSums
from mapsto.passes.pooled_sums import PooledSums
from mapsto.passes.pools_first import PoolsFirst
from mapsto.passes.requantised import Requantised
from mapsto.passes.specialise import specialise
from mapsto.passes.split_rows import SplitRows
from mapsto.passes.strength import Strength
from mapsto.passes.turned_products import TurnedProducts
from mapsto.passes.unsigned_bytes import UnsignedBytes
from mapsto.passes.wide_bytes import WideBytes

__all__ = [
    "AffineFolding",
    "ApartWindows",
    "ChannelShuffles",
    "ConcatMoves",
    "ConcatSlices",
    "DeadCode",
    "DeadTaps",
    "DenormalWeights",
    "FloatProducts",
    "Hoisting",
    "Identities",
    "LayoutMoves",
    "NarrowProducts",
    "PadIntoConv",
    "PaddedSums",
    "Pass",
    "PooledSums",
    "PoolsFirst",
    "Requantised",
    "SplitRows",
    "Strength",
    "TurnedProducts",
    "UnsignedBytes",
    "WideBytes",
    "default_passes",
    "gradient",
    "run_passes",
    "specialise",
]


class Pass(Protocol):
    """A named function from graph to graph."""

    @property
    def name(self) -> str: ...

    def __call__(self, graph: Graph) -> Graph: ...


def default_passes() -> tuple[Pass, ...]:
    """Clean first, so that later patterns are seen; strength before affine folding, as x / c becomes x * (1/c).

    Every pass that builds the graph anew folds constants, shares equal nodes and follows sizes on the way.
    """
    return (
        DeadCode(),
        Identities(),
        Strength(),
        DeadCode(),
        Requantised(),
        AffineFolding(),
        ApartWindows(),
        LayoutMoves(),
        SplitRows(),
        TurnedProducts(),
        PooledSums(),
        PaddedSums(),
        ConcatMoves(),
        ConcatSlices(),
        PadIntoConv(),
        DeadTaps(),
        DenormalWeights(),
        NarrowProducts(),
        Identities(),
        Hoisting(),
        DeadCode(),
        ChannelShuffles(),
        DeadCode(),
    )


def run_passes(
    graph: Graph, passes: Sequence[Pass] | None = None, on_pass: Callable[[str, Graph], None] | None = None
) -> Graph:
    """Runs the passes in order; `on_pass(name, graph)` sees each result. With MAPSTO_DEBUG every result is verified,
    and printed from level 2 on. A pass that has left this very graph as it is need not be run on it again.
    """
    debug.show(debug.GRAPHS, "before the passes", lambda: print_graph(graph, elide=True))
    done: list[Pass] = []  # what has left the graph as it is
    for step in default_passes() if passes is None else passes:
        current().tick(f"pass {step.name}")
        if step not in done:
            with np.errstate(all="ignore"):  # constants overflow as IEEE 754 says
                before, graph = graph, step(graph)
            done = [*done, step] if graph is before else []
        if debug.level() >= debug.CHECKS:
            _verify(graph)
        debug.show(debug.GRAPHS, f"after pass {step.name}", functools.partial(print_graph, graph, elide=True))
        if on_pass is not None:
            on_pass(step.name, graph)
    return graph


def _verify(graph: Graph) -> None:
    from mapsto.ops.verify import verify_graph

    verify_graph(graph)
