"""topk: the k first elements of each row in sorted order, with their places; a full sort when k is the row's length.

Each row becomes *entries*: 64-bit integers whose order is the wanted order, ties by place, so no two are equal and the
result is one whatever the algorithm. The first k entries form a heap with the last in order at its root; of the rest,
only what comes before the root is put in (a whole vector of others costs one test); then the k are merge-sorted.
O(n + n log k) steps for a row of n.
"""

from __future__ import annotations

from mapsto.devices.routines.code import RoutineCall, RoutineCode, Scratch
from mapsto.devices.routines.sorting import Entries, StridedRow, before, merge_sort, words_of
from mapsto.devices.routines.writer import I64, Writer, as_value, both, integer, split_index
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, floordiv, maximum, minimum, mul, product
from mapsto.ir.graph import Node, Value
from mapsto.loop import ast as loop

# Entries of a row up to this many bytes live on the stack, longer ones in scratch memory.
STACK_BYTES = 32 * 1024


def topk(node: Node, inputs: tuple[Value | None, ...], lanes: int, name: str) -> RoutineCode:
    """x[outer, n, inner] -> values and places i64, both [outer, k, inner], sorted along the axis."""
    x = inputs[0]
    assert x is not None
    values, indices = node.outputs
    axis = int(node.attrs["axis"]) % x.rank  # type: ignore[arg-type]
    length, k = x.shape[axis], values.shape[axis]
    outer, inner = product(x.shape[:axis]), product(x.shape[axis + 1 :])
    words = words_of(x.dtype)
    w = Writer([*x.shape, *values.shape])
    source = w.tensor("x", x)
    targets = (w.tensor("values", values, writes=True), w.tensor("indices", indices, writes=True))
    each = mul(2 * words, k)
    local = isinstance(k, int) and 8 * 2 * words * k <= STACK_BYTES
    spill = Scratch(f"{name}_entries", DType.I64, (mul(outer, inner), each))
    if not local:
        w.param("entries", spill.name, DType.I64, writes=True)
    elif k:
        w.add(loop.Alloc("entries", DType.I64, int(each)))  # type: ignore[arg-type]
    with w.share("row") as row:
        line_of, column = split_index(w, row, inner)
        base = w.index("base", mul(line_of, mul(length, inner)) + column)
        target = w.index("target", mul(line_of, mul(k, inner)) + column)
        line = StridedRow(source, x.dtype, base, inner, length, bool(node.attrs.get("largest", True)))
        entries = Entries("entries", 0 if local else w.index("own", mul(row, each)), words, k)
        count = w.index("count", minimum(k, length))
        with w.when((count - 1,)):
            _select(w, line, entries, count, lanes)
            final = merge_sort(w, entries, count, mul(words, k))
            _write(w, line, final, count, target, targets)
        _clear(w, values.dtype, count, k, inner, target, targets)
    extent = mul(outer, inner) if k != 0 else 0
    return RoutineCode((RoutineCall(w.function(name), extent, w.operands, () if local else (spill,)),))


# -- selection: a heap whose root is the last in order ----------------------------------------------------------------


def _select(w: Writer, row: StridedRow, entries: Entries, count: Dim, lanes: int) -> None:
    """The first `count` entries in order, as a heap (or, where that is the whole row, in the row's own order)."""
    with w.loop("i", 0, count) as i:
        entries.store(w, i, row.entry(w, i))
    with w.when((row.length - count - 1,)):
        half = w.index("half", floordiv(count, 2))
        with w.loop("i", 0, half) as i:
            hole = w.index("hole", half - 1 - i)
            _sift(w, entries, hole, entries.load(w, hole), count)
        _scan(w, row, entries, count, lanes)


def _scan(w: Writer, row: StridedRow, entries: Entries, count: Dim, lanes: int) -> None:
    """Puts in what comes before the root. A later element that ties with the root stays out: its place is after."""
    wide = max(1, lanes // 2) if entries.words == 2 else lanes
    with w.loop("chunk", count, row.length, step=wide) as chunk:
        mask = loop.LaneMask(row.length - chunk, loop.Type(DType.BOOL, wide))
        keys = row.keys(w, chunk, wide, mask)
        with w.when(loop.ReduceLanes("any", both(_above_root(entries, keys), mask), loop.Type(DType.BOOL))):
            with w.loop("i", chunk, minimum(row.length, chunk + wide)) as i:
                entry = row.entry(w, i)
                with w.when(before(entry, entries.load(w, 0))):
                    _sift(w, entries, 0, entry, count)


def _above_root(entries: Entries, keys: loop.Value) -> loop.Value:
    """Lanes whose key is before the root's (on equal keys, for one-word entries too, the root's place is earlier)."""
    root: loop.Value = loop.Load(entries.buffer, entries.base, I64)
    if entries.words == 1:  # the upper half of the word, by a shift in place
        root = loop.Cast(loop.Binary("shr", root, integer(32)), loop.Type(DType.I32))
    if keys.type.lanes > 1:
        root = loop.Broadcast(root, keys.type)
    return loop.Compare("lt", keys, root)


def _sift(w: Writer, entries: Entries, start: Dim, entry: tuple[loop.Value, ...], count: Dim) -> None:
    """Puts `entry` at the hole `start` and moves later entries up until each parent is after its children."""
    hole = w.declare("hole", as_value(start))
    child = w.declare("child", as_value(2 * start + 1))
    last = as_value(count)
    with w.repeat(loop.Compare("lt", child, last)):
        left = w.index("left", child)
        right = w.index("right", minimum(left + 1, count - 1))
        a, b = entries.load(w, left), entries.load(w, right)
        use_right = w.let("use_right", before(a, b))
        larger = tuple(w.let("larger", loop.Select(use_right, q, p)) for p, q in zip(a, b, strict=True))
        with w.when(before(entry, larger)):
            entries.store(w, w.index("to", hole), larger)
            w.assign(hole, loop.Select(use_right, as_value(right), as_value(left)))
            w.assign(child, loop.Binary("add", loop.Binary("add", hole, hole), integer(1)))
        with w.otherwise():
            w.assign(child, last)
    entries.store(w, w.index("to", hole), entry)


# -- results ----------------------------------------------------------------------------------------------------------


def _write(w: Writer, row: StridedRow, entries: Entries, count: Dim, target: Dim, outputs: tuple[str, str]) -> None:
    with w.loop("i", 0, count) as i:
        word = entries.load(w, i)[-1]
        if entries.words == 1:
            word = loop.Binary("and", word, integer((1 << 32) - 1))
        place = w.index("place", word)
        value = loop.Load(row.buffer, row.base + mul(place, row.stride), loop.Type(row.element))
        to = w.index("to", target + mul(i, row.stride))
        w.store(outputs[0], to, value)
        w.store(outputs[1], to, as_value(place))


def _clear(w: Writer, element: DType, count: Dim, k: Dim, stride: Dim, target: Dim, outputs: tuple[str, str]) -> None:
    """Zeros where a row has fewer than k elements: a k that only a run knows must not make us read past the row."""
    with w.loop("i", maximum(count, 0), k) as i:
        to = w.index("to", target + mul(i, stride))
        zero = loop.Const(False if element is DType.BOOL else 0, loop.Type(element))
        w.store(outputs[0], to, zero)
        w.store(outputs[1], to, integer(0))
