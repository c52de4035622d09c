"""Executables for sizes that runs bring often: what they are predicted to gain, and how they are made."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from mapsto.budget import giving_up_when, metering
from mapsto.devices.named import backend_named
from mapsto.errors import ArgumentError
from mapsto.ir.expr import bare_symbol
from mapsto.runtime.adaptive import AdaptiveSizes
from mapsto.runtime.background import is_ending
from mapsto.runtime.executable import Executable
from mapsto.session.later import fixed_shapes, for_later
from mapsto.session.request import Request


def adaptive_sizes(asked: Request, whole: Executable, compiled: Callable[[Request], Executable]) -> AdaptiveSizes:
    """For an executable of open sizes. compiled: gives the executable of a request."""
    inputs, places = whole.inputs, dict(whole.open_sizes)
    named = {(p.name, axis): bare_symbol(dim) for p in inputs for axis, dim in enumerate(p.shape)}
    again = for_later(asked)

    def fixed(sizes: Mapping[str, int]) -> Request:
        axes = {axis: sizes[name] for axis, name in named.items() if name is not None and name in sizes}
        return replace(again(fixed_shapes(inputs, asked.shapes, axes)), progress=_stay, adapt=False)

    def predict(sizes: Mapping[str, int], all_sizes: Mapping[str, int]) -> float:
        single = fixed(sizes)
        with giving_up_when(is_ending):
            before = _seconds(replace(single, shapes=asked.shapes), all_sizes)
            return before / _seconds(single, all_sizes)

    def make(sizes: Mapping[str, int]) -> Executable:
        with giving_up_when(is_ending):
            return compiled(fixed(sizes))

    return AdaptiveSizes(places, predict, make)


def _seconds(asked: Request, sizes: Mapping[str, int]) -> float:
    """What a run with these sizes is predicted to take."""
    from mapsto.plan.guesses import guesses
    from mapsto.plan.initial import constants_of
    from mapsto.session.compile import asked_graph
    from mapsto.session.predict import predict

    with metering(asked.budget), np.errstate(all="ignore"):
        backend = backend_named(asked.device, asked.cache, asked.isa)
        graph = asked_graph(asked, backend).graph
        maker = backend.maker(constants_of(graph))
        found = predict(graph, guesses(graph) | dict(sizes), maker, asked.threads)
    return sum(each.cost.seconds for each in found.values())


def _stay(done: int, total: int, label: str) -> None:
    """Progress that ends a compile which nobody needs any more."""
    if is_ending():
        raise ArgumentError("the process ends")
