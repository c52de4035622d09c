"""Shuffles of several vectors of equally many lanes: transposes; streams of small groups taken apart, or put together.

Each function takes values and `name`, which gives a value a name, and returns named values. A shuffle picks from two
vectors; which lanes it picks is chosen so that processors do it in one instruction where they can.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mapsto.loop import ast as loop

Name = Callable[[loop.Value], loop.Value]


def transposed(rows: Sequence[loop.Value], chunk: int, name: Name) -> list[loop.Value]:
    """The columns of a power of two of rows, which have as many lanes, or more by a power of two.

    chunk: lanes within which a processor interleaves two vectors at once. Rows are taken `chunk` at a time:
    interleaving them again and again transposes each chunk; whole chunks then change places.
    """
    height, lanes = len(rows), rows[0].type.lanes
    chunk = min(chunk, height)
    groups = _chunks_transposed(rows, chunk, name)
    by_place = [[group[k] for group in groups] for k in range(chunk)]
    if height == lanes:
        found = [apart(vectors, chunk, name) for vectors in by_place]
        return [columns[place] for place in range(lanes // chunk) for columns in found]
    pieces = [_pieces(_interleaved(vectors, chunk, name), height, name) for vectors in by_place]
    return [columns[place] for place in range(lanes // chunk) for columns in pieces]


def joined(columns: Sequence[loop.Value], chunk: int, name: Name) -> list[loop.Value]:
    """The inverse of `transposed`: as many rows as a column has lanes."""
    height, lanes = columns[0].type.lanes, len(columns)
    if height == lanes:
        return transposed(columns, chunk, name)
    chunk = min(chunk, height)
    count, each = height // chunk, lanes // height
    vectors = [
        _side_by_side([columns[chunk * (g * each + s) + k] for s in range(each)], name)
        for g in range(count)
        for k in range(chunk)
    ]
    groups = _chunks_transposed(vectors, chunk, name)
    found = [apart([group[k] for group in groups], chunk, name) for k in range(chunk)]
    return [rows[place] for place in range(count) for rows in found]


def _chunks_transposed(rows: Sequence[loop.Value], chunk: int, name: Name) -> list[list[loop.Value]]:
    """Rows `chunk` at a time, each chunk of their lanes transposed."""
    lanes = rows[0].type.lanes
    groups = []
    for first in range(0, len(rows), chunk):
        group = list(rows[first : first + chunk])
        for _ in range(chunk.bit_length() - 1):
            pairs = zip(group[: chunk // 2], group[chunk // 2 :], strict=True)
            group = [name(half) for a, b in pairs for half in _zipped(a, b, lanes, chunk)]
        groups.append(group)
    return groups


def _interleaved(vectors: Sequence[loop.Value], block: int, name: Name) -> list[loop.Value]:
    """Block k of every vector, then block k + 1 of every one: a stream of groups put together."""
    count, blocks = len(vectors), vectors[0].type.lanes // block
    halves = [_blocks([b for k in range(first, first + blocks // 2) for b in (k, blocks + k)], block)
              for first in (0, blocks // 2)]  # fmt: skip
    made = list(vectors)
    for _ in range(count.bit_length() - 1):
        pairs = zip(made[: count // 2], made[count // 2 :], strict=True)
        made = [name(loop.Shuffle(a, b, half)) for a, b in pairs for half in halves]
    return made


def _pieces(vectors: Sequence[loop.Value], lanes: int, name: Name) -> list[loop.Value]:
    return [
        name(loop.Shuffle(v, v, tuple(range(first, first + lanes))))
        for v in vectors
        for first in range(0, v.type.lanes, lanes)
    ]


def _side_by_side(pieces: Sequence[loop.Value], name: Name) -> loop.Value:
    """One vector of the lanes of a power of two of them."""
    made = list(pieces)
    while len(made) > 1:
        pairs = zip(made[::2], made[1::2], strict=True)
        made = [name(loop.Shuffle(a, b, tuple(range(2 * a.type.lanes)))) for a, b in pairs]
    return made[0]


def apart(vectors: Sequence[loop.Value], block: int, name: Name) -> list[loop.Value]:
    """A stream of groups of `len(vectors)` blocks taken apart: result k has block k of each group."""
    count = len(vectors)
    if count == 1:
        return list(vectors)
    if count % 2:
        return [_picked(vectors, [place * count + k for place in _places(vectors, block)], block, name)
                for k in range(count)]  # fmt: skip
    lanes = vectors[0].type.lanes
    pairs = list(zip(vectors[::2], vectors[1::2], strict=True))
    even, odd = (
        apart(
            [name(loop.Shuffle(a, b, _blocks(range(k, 2 * lanes // block, 2), block))) for a, b in pairs], block, name
        )
        for k in (0, 1)
    )
    return [value for pair in zip(even, odd, strict=True) for value in pair]


def together(vectors: Sequence[loop.Value], name: Name) -> list[loop.Value]:
    """The inverse of `apart` with blocks of one lane: the stream of lane 0 of each vector, then lane 1 of each."""
    count = len(vectors)
    if count == 1:
        return list(vectors)
    lanes = vectors[0].type.lanes
    if count % 2:
        stream = [(at % count) * lanes + at // count for at in range(count * lanes)]
        return [_picked(vectors, stream[k * lanes : (k + 1) * lanes], 1, name) for k in range(count)]
    even, odd = together(vectors[::2], name), together(vectors[1::2], name)
    return [name(half) for a, b in zip(even, odd, strict=True) for half in _zipped(a, b, lanes, lanes)]


def _zipped(a: loop.Value, b: loop.Value, lanes: int, chunk: int) -> tuple[loop.Value, loop.Value]:
    """Two vectors interleaved lane by lane, chunk by chunk: the first halves of chunks, the second halves."""
    low = [at for q in range(0, lanes, chunk) for k in range(q, q + chunk // 2) for at in (k, lanes + k)]
    return loop.Shuffle(a, b, tuple(low)), loop.Shuffle(a, b, tuple(at + chunk // 2 for at in low))


def _places(vectors: Sequence[loop.Value], block: int) -> range:
    return range(vectors[0].type.lanes // block)


def _blocks(numbers: Sequence[int], block: int) -> tuple[int, ...]:
    return tuple(number * block + k for number in numbers for k in range(block))


def _picked(vectors: Sequence[loop.Value], blocks: Sequence[int], block: int, name: Name) -> loop.Value:
    """Blocks picked from all vectors, counted through them: one vector after the other gives its own."""
    lanes = vectors[0].type.lanes
    wanted = _blocks(blocks, block)
    result = vectors[0]
    for k in range(1, len(vectors)):
        # lanes of vectors up to k are in place; of later ones, any will do for now
        kept = [at if k > 1 and want < k * lanes else want % lanes for at, want in enumerate(wanted)]
        lane = [lanes + want % lanes if want // lanes == k else own for own, want in zip(kept, wanted, strict=True)]
        result = name(loop.Shuffle(result, vectors[k], tuple(lane)))
    return result
