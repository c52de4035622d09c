"""Loops as the standard has them, made of ours (`ops.loops`): states are what is carried, the number of the round, and
tensors in which what each round yields is collected.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from mapsto.errors import ShapeError, UnsupportedError
from mapsto.importers.onnx.table import NodeCall
from mapsto.ir.bounds import ALL
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, Expr, equality, maximum, sym, symbols
from mapsto.ir.graph import Node, Value, binds
from mapsto.ops.arranging import reshape, slice_axis
from mapsto.ops.builder import Builder
from mapsto.ops.ranges import Noted

COUNTER = DType.I64


@dataclass(frozen=True)
class Round:
    """What a body makes of one round: whether to go on (None: nothing but the count ends the loop), the states that it
    hands on, and what is collected.
    """

    again: Value | None
    states: Sequence[Value]
    rows: Sequence[Value]


@dataclass(frozen=True)
class Trips:
    """How many rounds there are at most: as a scalar (None: no limit), and as a size where it is known as one.
    `is_exact`: the size is the count, and not only no less.
    """

    count: Value | None
    size: Dim | None
    is_exact: bool = True


# (builder of the body, the number of the round, states) -> what it makes of them.
MakeRound = Callable[[Builder, Value, Sequence[Value]], Round]


# ---- building --------------------------------------------------------------------------------------------------------

# Up to so many rows are made room for where a loop may end before; else room is made as rows come.
_ROOM = 4096
# How many rows there is room for at first, where room is made as rows come.
_FIRST_ROOM = 16
# A loop of a known number of rounds is written out where that comes to so many nodes at most.
_WRITTEN_OUT = 64


@dataclass
class _Attempt:
    """A body, built for states of these shapes. `pairs`: the sizes that change, by what they are called in the body."""

    builder: Builder
    number: Value
    states: list[Value]
    made: Round
    pairs: Mapping[str, _Changing]


@dataclass(frozen=True)
class _Changing:
    """A size that changes: what it begins as, and where it stands: (state, axis)."""

    start: Dim
    places: tuple[tuple[int, int], ...]


def built(
    call: NodeCall, b: Builder, starts: Sequence[Value], trips: Trips, go: Value | None, body: MakeRound, part: str = ""
) -> list[Value]:
    """A loop in `b`: the last states, then what was collected, one row a round; rows of rounds that a count less than
    `trips.size` leaves out are zeros. part: which one, where a node is made into several.
    """
    attempt = _settled(call, b, starts, trips, body, part)
    made = attempt.made
    if made.rows and made.again is None and go is not None and trips.count is not None:
        zero = b.constant(0, "zero", COUNTER)  # all rounds, or none
        trips, go = Trips(b.one("select", [go, trips.count, zero]), None), None
    size = trips.size
    ends = go is not None or made.again is not None
    if trips.is_exact and isinstance(size, int) and not ends and size * _count(attempt.builder.nodes) <= _WRITTEN_OUT:
        return _written_out(b, starts, size, body, made.rows)
    if made.rows and ends and not (isinstance(size, Expr) or (isinstance(size, int) and size <= _ROOM)):
        return _in_pieces(call, b, starts, trips, go, body, attempt, part)
    if made.rows and size is None:
        size = _size(call, b, trips)
    return _looped(call, b, starts, trips, size, go, attempt)


def _count(nodes: Iterable[Node]) -> int:
    """Nodes with those of their graphs."""
    return sum(1 + sum(_count(graph.nodes) for graph in node.graphs) for node in nodes)


def _written_out(
    b: Builder, starts: Sequence[Value], rounds: int, body: MakeRound, like: Sequence[Value]
) -> list[Value]:
    """All rounds, one after the other. like: what is collected in one."""
    states: Sequence[Value] = starts
    collected: list[list[Value]] = [[] for _ in like]
    for at in range(rounds):
        made = body(b, b.constant(at, "round", COUNTER), states)
        states = made.states
        for rows, value in zip(collected, made.rows, strict=True):
            rows.append(reshape(b, value, (1, *value.shape)))
    if not rounds:
        blanks = [b.one("blank", [], shape=(0, *value.shape), dtype=value.dtype) for value in like]
        return [*states, *blanks]
    return [*states, *(rows[0] if rounds == 1 else b.one("concat", rows, axis=0) for rows in collected)]


def _looped(
    call: NodeCall, b: Builder, starts: Sequence[Value], trips: Trips, size: Dim | None, go: Value | None,
    attempt: _Attempt,
) -> list[Value]:  # fmt: skip
    inner, number, made = attempt.builder, attempt.number, attempt.made
    handed = [reshape(inner, value, state.shape) if not attempt.pairs else value
              for state, value in zip(attempt.states, made.states, strict=True)]
    if size is not None:
        inner.note_bounds(number.name, Noted("place", (ALL,), (size,)))
    blanks, collected = [], []
    for i, value in enumerate(made.rows):
        assert size is not None
        _look_at_row(call, attempt, value, i)
        shape = (size, *value.shape)
        blanks.append(b.one("blank", [], shape=shape, dtype=value.dtype))
        rows = inner.input(f"{call.name}.rows", value.dtype, shape)
        collected.append(inner.one("scatter_nd", [rows, reshape(inner, number, (1,)), value], reduction="none"))
    following = inner.one("add", [number, inner.constant(1, "one", COUNTER)])
    again = _all(inner, _below(inner, following, trips.count), made.again)
    zero = b.constant(0, "zero", COUNTER)
    begins = _all(b, _below(b, zero, trips.count), go)
    below = (-1 if size is None else size, *(-1 for _ in (*handed, *collected)))
    sizes = tuple((name, b.fresh(f"{name}_last")) for name in attempt.pairs)
    graph = inner.finish([again, following, *handed, *collected])
    count, *results = b.add(
        "loop", [begins, zero, *starts, *blanks], {"sizes": sizes, "below": below}, [graph], ["", *call.outputs]
    )
    if made.again is None and go is None:
        return results
    rounds = b.dims(count, "rounds")[0] if collected else 0
    return [*results[: len(starts)], *(_first(b, rows, rounds) for rows in results[len(starts) :])]


# ---- states that change their sizes ----------------------------------------------------------------------------------


def _settled(
    call: NodeCall, b: Builder, starts: Sequence[Value], trips: Trips, body: MakeRound, part: str
) -> _Attempt:
    """The body for states whose sizes change as it changes them: first it is built as if none did, then with a symbol
    for each that turned out to, until no other does. In a body that is built again, what was found is where it begins:
    loops in loops in loops are not built 2^depth times.
    """
    notes = call.translator.notes
    changing = _begun(call, b, starts, notes.get((call.name, part), ()))
    empty = [(i, axis) for i, v in enumerate(starts) for axis, d in enumerate(v.shape) if d == 0]
    while True:
        try:
            attempt = _attempt(call, b, starts, trips, body, changing)
        except (ShapeError, UnsupportedError):
            if changing or not empty:  # else what begins without elements may be why, and not stay so
                raise
            changing = _begun(call, b, starts, [empty])
            continue
        found = _changed(call, b, attempt, starts)
        if found is None:
            return attempt
        changing = found
        notes[call.name, part] = tuple(each.places for each in found.values())


def _begun(
    call: NodeCall, b: Builder, starts: Sequence[Value], known: Sequence[Sequence[tuple[int, int]]]
) -> dict[str, _Changing]:
    """Sizes of these places, which change together; those that begin as one are one."""
    groups: dict[tuple[int, Dim], list[tuple[int, int]]] = {}
    for number, places in enumerate(known):
        for i, axis in places:
            if i < len(starts) and axis < starts[i].rank:
                groups.setdefault((number, starts[i].shape[axis]), []).append((i, axis))
    return _named(call, b, ((start, places) for (_, start), places in groups.items()))


def _named(
    call: NodeCall, b: Builder, groups: Iterable[tuple[Dim, Sequence[tuple[int, int]]]]
) -> dict[str, _Changing]:
    return {b.fresh(f"{call.name}.n"): _Changing(start, tuple(places)) for start, places in groups}


def _attempt(
    call: NodeCall, b: Builder, starts: Sequence[Value], trips: Trips, body: MakeRound,
    changing: Mapping[str, _Changing],
) -> _Attempt:  # fmt: skip
    inner = Builder(b.fresh(f"{call.name}.body"), b)
    number = inner.input("round", COUNTER, ())
    if trips.size is not None:
        inner.note_bounds(number.name, Noted("place", (ALL,), (trips.size,)))
    named = {place: sym(name) for name, each in changing.items() for place in each.places}
    states = [
        inner.input(v.name, v.dtype, [named.get((i, axis), d) for axis, d in enumerate(v.shape)])
        for i, v in enumerate(starts)
    ]
    return _Attempt(inner, number, states, body(inner, number, states), changing)


def _changed(
    call: NodeCall, b: Builder, attempt: _Attempt, starts: Sequence[Value]
) -> dict[str, _Changing] | None:
    """The sizes that change: those of the attempt, and others; None where there are no others. Sizes that begin as one
    and are handed on as one are one.
    """
    inner = attempt.builder
    followed = {place: name for name, each in attempt.pairs.items() for place in each.places}
    groups: dict[tuple[str, Dim, Dim], list[tuple[int, int]]] = {}
    news = False
    for i, (state, value) in enumerate(zip(attempt.states, attempt.made.states, strict=True)):
        if value.dtype is not state.dtype or value.rank != state.rank:
            raise call.wrong(f"the value {i} that it carries begins as {state} and is handed on as {value}")
        for axis, (a, d) in enumerate(zip(state.shape, value.shape, strict=True)):
            place = i, axis
            if place in followed:
                groups.setdefault((followed[place], starts[i].shape[axis], d), []).append(place)
            elif a != d and not inner.proves(equality(a, d)):
                news = True
                groups.setdefault(("", starts[i].shape[axis], d), []).append(place)
    if not news and len(groups) == len(attempt.pairs):
        return None
    return _named(call, b, ((start, places) for (_, start, _), places in groups.items()))


def _size(call: NodeCall, b: Builder, trips: Trips) -> Dim:
    """How many rows are collected, where only the run knows it."""
    if trips.count is None:
        raise call.unsupported("it collects a row in each round and never ends: give it a trip count or a condition")
    zero = b.constant(0, "zero", COUNTER)
    return b.dims(b.one("max", [trips.count, zero]), "trips")[0]


def _look_at_row(call: NodeCall, attempt: _Attempt, value: Value, i: int) -> None:
    """Raises where the size of a row is known in its round alone."""
    inside = {name for node in attempt.builder.nodes for name in binds(node)} | attempt.pairs.keys()
    found = inside & {name for d in value.shape for name in symbols(d)}
    if found:
        raise call.unsupported(
            f"what it collects {i}-th is {value}, and only the round knows the size {', '.join(sorted(found))}; "
            "all rows must have one size"
        )


# ---- rows of loops that end when they like ---------------------------------------------------------------------------


def _in_pieces(
    call: NodeCall, b: Builder, starts: Sequence[Value], trips: Trips, go: Value | None, body: MakeRound,
    attempt: _Attempt, part: str,
) -> list[Value]:  # fmt: skip
    """A loop of loops: each of them has room for as many rows as there are by then, and hands on all rows, its own
    included. So no row is copied more than a few times.
    """
    count = len(starts)
    rows = []
    for i, value in enumerate(attempt.made.rows):
        _look_at_row(call, attempt, value, i)
        rows.append(b.one("blank", [], shape=(0, *value.shape), dtype=value.dtype))

    def piece(middle: Builder, number: Value, states: Sequence[Value]) -> Round:
        done, own, before = states[0], states[1 : 1 + count], states[1 + count :]
        room = maximum(before[0].shape[0], _FIRST_ROOM)
        left = middle.known(room, COUNTER, "room")
        if trips.count is not None:
            left = middle.one("min", [left, middle.one("sub", [trips.count, done])])

        def one(inner: Builder, at: Value, held: Sequence[Value]) -> Round:
            made = body(inner, inner.one("add", [done, at]), held[:count])
            again = inner.constant(True, "true") if made.again is None else made.again
            return Round(made.again, [*made.states, again], made.rows)

        flag = middle.constant(True, "true")
        # the condition for the first round of the piece holds, or there would be no piece
        made = built(call, middle, [*own, flag], Trips(left, room, False), flag, one, f"{part}/piece")
        after = [middle.one("concat", [a, r], axis=0) for a, r in zip(before, made[count + 1 :], strict=True)]
        more = middle.one("add", [done, middle.known(made[count + 1].shape[0], COUNTER, "rounds")])
        return Round(_all(middle, made[count], _below(middle, more, trips.count)), [more, *made[:count], *after], ())

    zero = b.constant(0, "zero", COUNTER)
    begins = _all(b, _below(b, zero, trips.count), go)
    results = built(call, b, [zero, *starts, *rows], Trips(None, None), begins, piece, f"{part}/pieces")
    return results[1:]


def _below(b: Builder, number: Value, count: Value | None) -> Value | None:
    return None if count is None else b.one("lt", [number, count])


def _all(b: Builder, *conditions: Value | None) -> Value:
    """Whether all of some conditions hold; one that is None does."""
    found: Value | None = None
    for value in conditions:
        if value is not None:
            found = value if found is None else b.one("and", [found, value])
    return b.constant(True, "true") if found is None else found


def _first(b: Builder, rows: Value, count: Dim) -> Value:
    """The rows that were made."""
    return slice_axis(b, rows, 0, 0, count)
