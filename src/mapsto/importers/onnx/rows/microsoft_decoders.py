"""Rows of `com.microsoft` that decoders of language models are made of: attention with a cache of keys and values,
rotary positions.

What they mean is said in ONNX Runtime's docs/ContribOperators.md. A query of B sequences, S new rows, H heads of D
elements; keys and values of N heads, each for H/N heads of the query; L rows in the cache.
"""

from __future__ import annotations

from mapsto.importers.onnx.rows.microsoft import DOMAIN, by_heads, scale_of
from mapsto.importers.onnx.table import NodeCall, Result, row
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, maximum
from mapsto.ir.graph import Value
from mapsto.ops import composite
from mapsto.ops.arranging import column, positions, reshape, slice_axis, transpose
from mapsto.ops.builder import Builder


@row("RotaryEmbedding", domain=DOMAIN)
def _rotary(call: NodeCall) -> Result:
    """x[B, S, H*D] or x[B, H, S, D] turned by the angles of positions: [B, S], or [1], the first one of all."""
    b, x, at, cos, sin = call.builder, *(call.input(i) for i in range(4))
    if call.integer("is_packed_batching", 0) or call.number("scale", 1.0) != 1:
        raise call.unsupported("is_packed_batching and a scale are not supported; leave them out")
    width, heads = call.integer("rotary_embedding_dim", 0), call.integer("num_heads", 0)
    if x.rank not in (3, 4):
        raise call.wrong(f"a tensor of 3 or 4 axes is turned, not {x}")
    batch, rows = x.shape[0], x.shape[-2]
    if x.rank == 3 and not heads and width:
        raise call.wrong("num_heads must be given with rotary_embedding_dim")
    if cos.rank != 2:
        raise call.wrong(f"{call.port(2)} has two axes, not {cos.rank}")
    turned = _by_heads(b, x, heads or x.shape[2] // (2 * cos.shape[1])) if x.rank == 3 else x
    if at.rank == 1:  # one place for all: the first row's
        at = b.one("add", [reshape(b, b.one("cast", [at], to=DType.I64), (1, 1)), positions(b, rows)])
        at = b.one("expand", [at], shape=(batch, rows))
    turned = _turned(call, turned, at, cos, sin, bool(call.integer("interleaved", 0)))
    return turned if x.rank == 4 else reshape(b, transpose(b, turned, (0, 2, 1, 3)), x.shape)


def _turned(call: NodeCall, x: Value, at: Value, cos: Value, sin: Value, interleaved: bool) -> Value:
    """x[B, H, S, D] turned by rows `at` [B, S] of the caches; what is behind twice their width stays."""
    b, half = call.builder, cos.shape[1]
    batch, heads, rows, size = x.shape
    cos, sin = (b.one("gather", [cache, at], axis=0) for cache in (cos, sin))
    cos, sin = (reshape(b, each, (each.shape[0], 1, rows, half)) for each in (cos, sin))
    if interleaved:
        pairs = reshape(b, slice_axis(b, x, 3, 0, 2 * half), (batch, heads, rows, half, 2))
        one, two = (reshape(b, slice_axis(b, pairs, 4, k, 1), (batch, heads, rows, half)) for k in (0, 1))
    else:
        one, two = (slice_axis(b, x, 3, start, half) for start in (0, half))
    first = b.one("sub", [b.one("mul", [one, cos]), b.one("mul", [two, sin])])
    second = b.one("add", [b.one("mul", [one, sin]), b.one("mul", [two, cos])])
    if interleaved:
        parts = [reshape(b, each, (batch, heads, rows, half, 1)) for each in (first, second)]
        whole = reshape(b, b.one("concat", parts, axis=4), (batch, heads, rows, 2 * half))
    else:
        whole = b.one("concat", [first, second], axis=3)
    if size == 2 * half:
        return whole
    return b.one("concat", [whole, slice_axis(b, x, 3, 2 * half, size - 2 * half)], axis=3)


def _by_heads(b: Builder, x: Value, heads: Dim) -> Value:
    """x[B, S, H*D] as [B, H, S, D]."""
    batch, rows, width = x.shape
    return transpose(b, reshape(b, x, (batch, rows, heads, width // heads)), (0, 2, 1, 3))


# -- attention with a cache --------------------------------------------------------------------------------------------


@row("GroupQueryAttention", domain=DOMAIN)
def _group_query_attention(call: NodeCall) -> Result:
    """(result, keys so far, values so far).

    New rows are written at the end of what each sequence has (seqlens_k + 1 rows in all). A cache has room for what
    total_sequence_length says where that is a size of the graph; where only a run knows it, it stays as large as it is,
    so that it can be updated in place.
    """
    b, heads, groups = call.builder, call.integer("num_heads"), call.integer("kv_num_heads")
    if heads < 1 or groups < 1 or heads % groups:
        raise call.wrong(f"num_heads ({heads}) must be a multiple of kv_num_heads ({groups}), both positive")
    _refuse(call)
    query, key, value = _separate(call, heads, groups)
    rows = query.shape[2]
    count = b.one("add", [b.one("cast", [call.input(5)], to=DType.I64), b.known(1)])
    count = reshape(b, count, (query.shape[0],))
    start = b.one("max", [b.one("sub", [count, b.known(rows)]), b.known(0)])  # a padded prompt begins at 0
    places = b.one("add", [column(b, start, 0, 2), positions(b, rows)])
    if call.integer("do_rotary", 0):
        at = b.one("cast", [call.input(9)], to=DType.I64) if call.has(9) else places
        interleaved = bool(call.integer("rotary_interleaved", 0))
        query, key = (_turned(call, x, at, call.input(7), call.input(8), interleaved) for x in (query, key))
    keys, values = (_cached(call, call.optional(i), x, places) for i, x in ((3, key), (4, value)))
    visible = _visible(call, places, count, keys.shape[2])
    result = _grouped(call, query, keys, values, visible)
    return [result, keys, values]


def _refuse(call: NodeCall) -> None:
    for i, what in ((11, "head_sink"), (12, "k_scale"), (13, "v_scale")):
        if call.has(i):
            raise call.unsupported(f"{what} (input {i}) is not supported; leave it out")
    for what, plain in (("smooth_softmax", 0), ("qk_output", 0), ("kv_cache_bit_width", 0)):
        if max(call.integer(what, plain), 0) != plain:
            raise call.unsupported(f"{what} is not supported; leave it out")
    if call.wants(3):
        raise call.unsupported("output 3, the scores, is not supported; leave it out")


def _separate(call: NodeCall, heads: int, groups: int) -> tuple[Value, Value, Value]:
    """Query, key and value by heads; where there is no key, all lie in the query."""
    b, query = call.builder, call.input(0)
    if call.has(1):
        return _by_heads(b, query, heads), _by_heads(b, call.input(1), groups), _by_heads(b, call.input(2), groups)
    whole = _by_heads(b, query, heads + 2 * groups)
    cuts = ((0, heads), (heads, groups), (heads + groups, groups))
    one, two, three = (slice_axis(b, whole, 1, start, extent) for start, extent in cuts)
    return one, two, three


def _cached(call: NodeCall, past: Value | None, new: Value, places: Value) -> Value:
    """The cache with new[B, N, S, D] at places[B, S]."""
    b = call.builder
    if past is None:
        return new
    room: Dim = past.shape[2]
    if call.content(6) is not None:
        room = maximum(room, call.dim(6, "total"))
    if room != past.shape[2]:
        more = (*past.shape[:2], room - past.shape[2], past.shape[3])
        past = b.one("concat", [past, b.one("full", [], shape=more, value=0.0, dtype=past.dtype)], axis=2)
    index = reshape(b, places, (places.shape[0], 1, places.shape[1], 1))
    index = b.one("expand", [index], shape=new.shape)
    return b.one("scatter_elements", [past, index, new], axis=2, reduction="none")


def _visible(call: NodeCall, places: Value, count: Value, room: Dim) -> Value:
    """[B, 1, S, L]: whether a row sees a key: none after it, none that is not there, none outside of its window."""
    b = call.builder
    batch, rows = places.shape
    keys = positions(b, room)
    at = reshape(b, places, (batch, 1, rows, 1))
    seen = b.one("le", [keys, at])
    seen = b.one("and", [seen, b.one("lt", [keys, reshape(b, count, (batch, 1, 1, 1))])])
    window = call.integer("local_window_size", -1)
    if window > 0:
        seen = b.one("and", [seen, b.one("gt", [keys, b.one("sub", [at, b.known(window)])])])
    return seen


def _grouped(call: NodeCall, query: Value, keys: Value, values: Value, visible: Value) -> Value:
    """The result [B, S, H*D]. Keys are multiplied from the left: a cache is read as it lies, once for all heads that
    share it.
    """
    b = call.builder
    batch, heads, rows, size = query.shape
    groups, room = keys.shape[1], keys.shape[2]
    together = reshape(b, query, (batch, groups, heads // groups * rows, size))
    scores = b.one("matmul", [keys, composite.transpose_last(b, together)])
    scores = reshape(b, composite.transpose_last(b, scores), (batch, heads, rows, room))
    scores = b.one("mul", [scores, call.scalar(scale_of(call, size), scores)])
    cap = call.number("softcap", 0.0)
    if cap > 0:
        limit = call.scalar(cap, scores)
        scores = b.one("mul", [b.one("tanh", [b.one("div", [scores, limit])]), limit])
    if call.has(10):
        scores = b.one("add", [scores, call.input(10)])
    scores = b.one("select", [visible, scores, call.scalar(float("-inf"), scores)])
    weights = reshape(b, composite.softmax(b, scores, 3), (batch, groups, heads // groups * rows, room))
    result = reshape(b, b.one("matmul", [weights, values]), (batch, heads, rows, values.shape[3]))
    return reshape(b, transpose(b, result, (0, 2, 1, 3)), (batch, rows, heads * values.shape[3]))


@row("MultiHeadAttention", domain=DOMAIN)
def _multi_head_attention(call: NodeCall) -> Result:
    """(result, keys so far, values so far): of query[B, S, H*D], and of keys and values [B, T, H*D] or [B, H, T, D]."""
    b, heads = call.builder, call.integer("num_heads")
    if heads < 1:
        raise call.wrong(f"num_heads is {heads}; it must be positive")
    if call.has(8) or not (call.has(1) and call.has(2)) or call.wants(3):
        raise call.unsupported(
            "keys or values packed into the query, past_sequence_length and the scores as an output are not supported"
        )
    parts: list[Value] = []
    at: Dim = 0
    for i in range(3):
        x = call.input(i)
        if x.rank not in (3, 4):
            raise call.unsupported(f"{call.port(i)} of {x.rank} axes is not supported; give 3")
        if call.has(3) and x.rank == 3:
            x = b.one("add", [x, slice_axis(b, call.input(3), 0, at, x.shape[2])])
            at = at + x.shape[2]
        parts.append(_by_heads(b, x, heads) if x.rank == 3 else x)
    for k in (1, 2):
        if call.has(5 + k):
            parts[k] = b.one("concat", [call.input(5 + k), parts[k]], axis=2)
    query, keys, values = parts
    return [by_heads(call, query, keys, values, call.optional(4), call.optional(5)), keys, values]
