"""Rows of look-ups in tables: embeddings, and bags of them."""

from __future__ import annotations

from mapsto.importers.torch.table import AtenCall, aten
from mapsto.importers.torch.tensors import dtype_of
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, Expr
from mapsto.ir.graph import Value
from mapsto.ops import composite
from mapsto.ops.arranging import column, positions, reshape, unsqueeze


@aten("embedding")
def _embedding(call: AtenCall) -> Value:
    return call.one("gather", [call.value("weight"), call.value("indices")], axis=0)


@aten("embedding_bag", "_embedding_bag", "_embedding_bag_forward_only")
def _embedding_bag(call: AtenCall) -> list[Value]:
    """Bags of equal lengths, which a matrix of indices stands for, are reduced over an axis of their own; others by the
    place where each begins.
    """
    table, at, offsets = call.value("weight"), call.value("indices"), call.value("offsets")
    mode = call.integer("mode")  # 0: sum, 1: mean, 2: max
    weights, skipped = call.optional("per_sample_weights"), _skipped(call, table)
    bags = offsets.shape[0]
    if call.flag("include_last_offset"):
        bags = bags - 1
    found = call.one("gather", [table, at], axis=0)
    if weights is not None:
        found = call.one("mul", [found, column(call.builder, weights, 0, 2)])
    counts = None if skipped is None else call.one("ne", [at, skipped])
    length = _even(call, offsets, at.shape[0], bags)
    if length is not None:
        y = _even_bags(call, found, counts, mode, (bags, length))
    else:
        y = _reduced(call, found, _bag_of(call, at, offsets, bags), counts, mode)
    if mode == 2 and call.wants(3):
        raise call.unsupported("the places of a bag's maxima, which its gradient asks for, are not supported")
    return [y, *(_told(call, k, offsets, at, bags) for k in range(1, 4))]


def _told(call: AtenCall, k: int, offsets: Value, at: Value, bags: Dim) -> Value:
    """What torch's own backward pass is told: the bag of each index (1), and the sizes of bags (2)."""
    b, held = call.builder, call.result()[k]
    if not call.wants(k) or (k == 1 and held.shape[0] == 0):
        extent = call.sizes.dim(held.shape[0])
        return call.one("full", [], shape=(0 if extent is None else extent,), value=0, dtype=dtype_of(held.dtype))
    share = call.cast(_bag_of(call, at, offsets, bags), DType.I64)
    if k > 1:
        sizes = composite.reduce(b, share, "sum", [1], keepdims=False)
        return call.cast(sizes, dtype_of(held.dtype))
    return call.cast(bag_numbers(call, at, offsets, bags), dtype_of(held.dtype))


def bag_numbers(call: AtenCall, at: Value, offsets: Value, bags: Dim) -> Value:
    """The bag of each index."""
    b, share = call.builder, call.cast(_bag_of(call, at, offsets, bags), DType.I64)
    number = call.one("mul", [share, column(b, positions(b, bags), 0, 2)])
    return composite.reduce(b, number, "sum", [0], keepdims=False)


def _skipped(call: AtenCall, table: Value) -> Value | None:
    padding = call.given.get("padding_idx")
    if padding is None or (call.name != "embedding_bag" and padding == -1):
        return None
    number = call.integer("padding_idx")
    extent = table.shape[0]
    return call.scalar(number if number >= 0 else extent + number, call.value("indices").dtype)


def _even(call: AtenCall, offsets: Value, count: Dim, bags: Dim) -> Dim | None:
    """The length of each bag, where all are known to be of one length."""
    b = call.builder
    known, node = b.array(offsets), b.producer(offsets)
    if known is not None and len(known) and isinstance(count, int) and isinstance(bags, int) and bags:
        length = count // bags
        return length if count == bags * length and list(known[:bags]) == [k * length for k in range(bags)] else None
    if node is None or node.op != "iota" or node.attrs["start"] != 0 or call.flag("include_last_offset"):
        return None
    step = node.attrs["step"]
    return step if isinstance(step, (int, Expr)) and count == bags * step else None


def _even_bags(call: AtenCall, found: Value, counts: Value | None, mode: int, bags: tuple[Dim, Dim]) -> Value:
    """found[bag * length, D] reduced over the length."""
    b, kind = call.builder, found.dtype
    rows = reshape(b, found, (*bags, found.shape[1]))
    kept = None if counts is None else reshape(b, counts, (*bags, 1))
    if mode == 2:
        low = call.scalar(float("-inf"), kind)
        best = composite.reduce(b, rows if kept is None else call.one("select", [kept, rows, low]), "max", [1], False)
        return call.one("select", [call.one("eq", [best, low]), call.scalar(0.0, kind), best])
    rows = rows if kept is None else call.one("select", [kept, rows, call.scalar(0.0, kind)])
    total = composite.reduce(b, rows, "sum", [1], keepdims=False)
    if mode == 0:
        return total
    if kept is None:
        count = call.one("max", [call.scalar(bags[1], kind), call.scalar(1.0, kind)])
    else:
        count = composite.reduce(b, call.cast(kept, kind), "sum", [1], keepdims=False)
        count = call.one("max", [count, call.scalar(1.0, kind)])
    return call.one("div", [total, count])


def _bag_of(call: AtenCall, at: Value, offsets: Value, bags: Dim) -> Value:
    """bag[b, i]: whether index i belongs to bag b, which begins at its offset and ends where the next one begins."""
    b, n = call.builder, at.shape[0]
    i = positions(b, n)
    begin = call.cast(offsets, DType.I64)
    starts = begin if offsets.shape[0] == bags else call.one("slice", [begin], starts=(0,), steps=(1,), shape=(bags,))
    begun = call.one("le", [column(b, starts, 0, 2), i])
    if offsets.shape[0] == bags:
        tail = call.one("slice", [begin], starts=(1,), steps=(1,), shape=(bags - 1,))
        ends = call.one("concat", [tail, reshape(b, b.known(n), (1,))], axis=0)
    else:
        ends = call.one("slice", [begin], starts=(1,), steps=(1,), shape=(bags,))
    return call.one("and", [begun, call.one("lt", [i, column(b, ends, 0, 2)])])


def _reduced(call: AtenCall, found: Value, belongs: Value, counts: Value | None, mode: int) -> Value:
    """found[i, D] reduced over each bag's indices."""
    b, kind = call.builder, found.dtype
    chosen = belongs if counts is None else call.one("and", [belongs, counts])
    if mode == 2:
        spread = call.one(
            "select", [unsqueeze(b, chosen, [2]), unsqueeze(b, found, [0]), call.scalar(float("-inf"), kind)]
        )
        best = composite.reduce(b, spread, "max", [1], keepdims=False)
        return call.one(
            "select", [call.one("eq", [best, call.scalar(float("-inf"), kind)]), call.scalar(0.0, kind), best]
        )
    share = call.cast(chosen, kind)
    total = call.one("matmul", [share, found])
    if mode == 0:
        return total
    count = composite.reduce(b, share, "sum", [1])
    return call.one("div", [total, call.one("max", [count, call.scalar(1.0, kind)])])


@aten("one_hot")
def _one_hot(call: AtenCall) -> Value:
    at, classes = call.value(), call.dim("num_classes")
    if classes == -1:
        raise call.unsupported("a number of classes that the data says is not supported; give `num_classes`")
    places = column(call.builder, positions(call.builder, classes), at.rank, at.rank + 1)
    return call.cast(call.one("eq", [unsqueeze(call.builder, at, [at.rank]), places]), DType.I64)
