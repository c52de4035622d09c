"""What a plan is made of: works, views, regions and controls by name, and the pins of a user."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from mapsto.plan.recipe import Recipe


@dataclass(frozen=True)
class Offer:
    """A way in which a device makes a work. `template`: what code it is made from; `schedule`: all that the template
    leaves open, as the device reads it back; None where it is the device's to choose yet.
    """

    template: str
    schedule: str | None = ""


@dataclass(frozen=True)
class Beaten:
    """A way that was possible and would have cost the whole `loss` seconds more, by what the device's figures say.

    how: "as" (`of`: a template, with its schedule where one was made), "apart" (`of`: a value that would have been in
    memory between two works), "inner" (`of`: the dim that values would have lain innermost by, "-" for row-major).
    """

    how: str
    of: str
    schedule: str
    loss: float


@dataclass(frozen=True)
class Seats:
    """How values that lie alike were given their innermost dims. `beaten`: for each of these values, by names, the
    dims that they have not. seconds: of all works that it touches, as chosen; at least (`bound`); as most readers and
    writers would have it (`voted`). method: that of the solver. exact: whether losses are exact, else at least so much.
    """

    seconds: float
    bound: float
    voted: float
    method: str
    exact: bool
    beaten: tuple[tuple[tuple[str, ...], Beaten], ...] = ()


@dataclass(frozen=True)
class Basis:
    """What a plan's costs were counted with: the machine's figures (by their digest; measured, typical or described), a
    guess for each open size; and how values were seated by them.
    """

    machine: str
    source: str
    sizes: tuple[tuple[str, int], ...] = ()
    seats: Seats | None = None


@dataclass(frozen=True)
class Declined:
    """A way that was not taken, and why. `of`: the value or template that it was about."""

    rule: str
    of: str
    why: str


@dataclass(frozen=True)
class Work:
    """What one kernel computes. `recipe`: how its statements follow from nodes of the graph. `writes`: values in memory
    that it defines. `nodes`: by their first outputs; `ops`: theirs; `sources`: nodes of the source model. `predicted`:
    seconds, by the figures of the device, on all of its units.
    """

    name: str
    kind: str
    recipe: Recipe
    writes: tuple[str, ...]
    offer: Offer
    nodes: tuple[str, ...] = ()
    ops: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    cost: str = ""
    because: tuple[str, ...] = ()
    declined: tuple[Declined, ...] = ()
    predicted: float = 0.0
    beaten: tuple[Beaten, ...] = ()
    line: int = field(default=0, compare=False)  # where it was read; 0: nowhere


@dataclass(frozen=True)
class PlannedView:
    """A value that needs no code: it lies in the buffer of another one, or is made up of several that lie in its own.
    `recipe`: of what would compute it, which says where it lies.
    """

    name: str
    value: str
    of: tuple[str, ...]
    recipe: Recipe
    because: str = ""
    line: int = field(default=0, compare=False)


@dataclass(frozen=True)
class PlannedRegion:
    """A node with nested graphs, by its first output, and the items of each."""

    name: str
    node: str
    arms: tuple[tuple[PlannedItem, ...], ...]
    line: int = field(default=0, compare=False)


@dataclass(frozen=True)
class PlannedControl:
    """A node that reads a size or checks something. `node`: its number in the graph, those of nested graphs counted
    after the node that they are in.
    """

    name: str
    node: int
    line: int = field(default=0, compare=False)


PlannedItem = Work | PlannedView | PlannedRegion | PlannedControl


@dataclass(frozen=True)
class Pins:
    """What a user wants of a plan that is yet to be made. `apart`: no two nodes of one of these sets share a kernel.
    `inner`: the dim of a value that lies innermost, None for row-major. `sizes`: what to take open sizes for.
    """

    apart: tuple[tuple[str, ...], ...] = ()
    inner: tuple[tuple[str, int | None], ...] = ()
    sizes: tuple[tuple[str, int], ...] = ()
    lines: Mapping[tuple[str, ...], int] = field(default_factory=dict, compare=False)  # of (word, name): where read


NO_PINS = Pins()


@dataclass(frozen=True)
class PlannedFormat:
    """The number format that the products of some source nodes are computed in, and why ("f32": as the model says).
    scale, zero: what they read is quantised by; most: to so many steps either side, where that is not bytes; powers: of
    two, that the scale of each channel is multiplied by (none: there is one scale).
    """

    format: str
    sources: tuple[str, ...]
    because: str = ""
    scale: float | None = None
    zero: int = 0
    most: int | None = None
    powers: tuple[int, ...] = ()
    line: int = field(default=0, compare=False)  # where it was read


_Item = TypeVar("_Item")  # of a plan, or of what a plan is made from


def walk(items: Iterable[_Item]) -> Iterator[_Item]:
    """Items in order; those of arms before the region that they are in."""
    for item in items:
        for arm in getattr(item, "arms", ()):
            yield from walk(arm)
        yield item
