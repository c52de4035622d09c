"""Deciding: from a graph and a device that is asked to what is computed together, how, and where everything lies.

    fuse    which nodes one kernel computes, by the rules and what they save
    seat    which dim each value lies innermost by: votes, and what tasks cost with each
    settle  homes, views, copies
    blocks  which contractions are done by blocks of rows with what reads their results
    slices  which works of a batch are done together, one element of it after the other
    judge   what each task takes, and would take otherwise; what is better apart is fused anew without that
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import count

from mapsto.ir.graph import Graph
from mapsto.plan.asked import Asked
from mapsto.plan.by_blocks import by_blocks
from mapsto.plan.by_slices import by_slices
from mapsto.plan.fuse import Together, fuse
from mapsto.plan.guesses import guesses
from mapsto.plan.home import as_it_comes
from mapsto.plan.initial import setting_of
from mapsto.plan.items import Branches, Item, tasks
from mapsto.plan.judge import Judged, judge
from mapsto.plan.mapped import Mapped
from mapsto.plan.names import FreshNames, names_in
from mapsto.plan.outputs import place_outputs
from mapsto.plan.parts import take_apart
from mapsto.plan.patterns import Sizes
from mapsto.plan.pinned import guessed, innermost, kept_apart
from mapsto.plan.prices import Prices
from mapsto.plan.recipe import Recipe
from mapsto.plan.rounds import hand_on, handed
from mapsto.plan.seats import LEAST_GAIN, Free, Seated, seat
from mapsto.plan.settle import settle
from mapsto.plan.shuffled import through_shuffles
from mapsto.plan.slices import slice_concats
from mapsto.plan.task import Task
from mapsto.plan.votes import Wishes, wishes
from mapsto.plan.works import NO_PINS, Basis, Beaten, Pins, Seats


def decide(graph: Graph, asked: Asked, pins: Pins = NO_PINS) -> Mapped:
    """Fuse, seat, settle, judge. asked: the device that it is planned for. Raises ParseError, naming line and name, for
    pins that cannot be kept to.
    """
    prices = Prices(asked, Sizes(guessed(pins, guesses(graph))))
    pinned, inner = kept_apart(pins, graph), innermost(pins, graph)
    mapped, judged = _decided(graph, prices, pinned, inner)
    shuffles = through_shuffles(tasks(mapped.items))
    if shuffles:
        together = _stored(shuffles, pinned)
        other, anew = _decided(graph, prices, together, inner)
        if anew.seconds < judged.seconds * (1 - LEAST_GAIN):
            mapped, judged, pinned = other, anew, together
    if sum(judged.undone.values()) > LEAST_GAIN * judged.seconds:
        other, anew = _decided(graph, prices, _without(judged.undone, pinned), inner)
        if anew.seconds < judged.seconds:
            mapped, judged = other, anew
    return replace(mapped, choices=judged.choices)


def _decided(
    graph: Graph, prices: Prices, together: Together | None, inner: Mapping[str, int | None]
) -> tuple[Mapped, Judged]:
    traits = prices.asked.traits
    setting = setting_of(graph, traits)
    names = FreshNames(names_in(graph))
    items = fuse(graph, setting, prices, together, inner.keys())
    made = {name: value for task in tasks(items) for name, value in task.made.items()}
    values = {**made, **setting.values}
    inputs, constants = [v.name for v in graph.inputs], list(setting.constants)
    narrowed = [name for task in tasks(items) for name in task.constants]
    coming = [*inputs, *constants, *narrowed]
    going = [*graph.outputs, *(v.name for node in graph.walk() if node.graphs for v in node.outputs), *handed(graph)]
    wished = wishes(items, values, {*inputs, *graph.outputs}, {*constants, *narrowed}, inner, traits)
    known = {name: as_it_comes(values[name]) for name in coming}
    seated = seat(Free(items, wished, setting, known, frozenset(going), values, prices))
    wished = wished.seated(seated.choice)
    items, slices, border = slice_concats(items, values, wished, traits.block)
    items, homes = settle(items, setting, wished, slices, border, (coming, going), made, names.fresh)
    items, homes = take_apart(items, homes, traits.block, names.fresh)
    items, homes = hand_on(items, setting, homes, names.fresh)
    items, homes, places = place_outputs(graph, items, setting, homes, names.fresh)
    items, homes = by_blocks(items, homes, {*going, *places.values(), *inputs}, prices)
    items = by_slices(items, homes, {*going, *places.values(), *inputs}, prices)
    items = _named(items)
    basis = Basis(prices.asked.machine, prices.spec.source, tuple(prices.sizes.items()), _seats(wished, seated))
    return Mapped(graph, traits, items, homes, places, basis=basis), judge(items, homes, prices)


def _without(undone: Mapping[tuple[Recipe, Recipe], float], pinned: Together | None) -> Together:
    def apart(source: Task, reader: Task) -> str:
        saved = undone.get((source.recipe, reader.recipe))
        if saved is not None:
            return f"one after the other they take {saved * 1e6:.3g} us less"
        return pinned(source, reader) if pinned is not None else ""

    return apart


def _stored(shuffles: frozenset[tuple[Recipe, Recipe]], pinned: Together | None) -> Together:
    def apart(source: Task, reader: Task) -> str:
        if (source.recipe, reader.recipe) in shuffles:
            return "stored once in its new order, windows over it are read side by side"
        return pinned(source, reader) if pinned is not None else ""

    return apart


def _seats(wished: Wishes, seated: Seated) -> Seats | None:
    """As plans have it; None where there was nothing to choose."""
    if not seated.choice:
        return None
    beaten = []
    for at, losses in sorted(seated.losses.items()):
        of = wished.seats[at]
        for chosen, loss in enumerate(losses):
            if chosen != seated.choice[at] and loss < float("inf"):
                inner = of.inners[chosen]
                beaten.append((of.values, Beaten("inner", "-" if inner is None else str(inner), "", _rounded(loss))))
    seconds, bound, voted = map(_rounded, (seated.seconds, seated.bound, seated.voted))
    return Seats(seconds, bound, voted, seated.method, seated.exact, tuple(beaten))


def _rounded(seconds: float) -> float:
    return float(f"{seconds:.3g}")


def _named(items: tuple[Item, ...]) -> tuple[Item, ...]:
    numbers = count()

    def named(item: Item) -> Item:
        if isinstance(item, Branches):
            item = replace(item, arms=tuple(tuple(map(named, arm)) for arm in item.arms))
        return replace(item, name=f"g{next(numbers)}")

    return tuple(map(named, items))
