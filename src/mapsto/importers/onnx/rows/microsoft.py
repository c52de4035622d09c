"""Rows of `com.microsoft`: fused ops of floats that ONNX Runtime's optimizers and quantizers write into files.

What they mean is said in ONNX Runtime's docs/ContribOperators.md; each is composed of ops that are there.
"""

from __future__ import annotations

from collections.abc import Callable

from mapsto.importers.onnx.rows.contraction import conv
from mapsto.importers.onnx.table import NodeCall, Result, row
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim
from mapsto.ir.graph import Value
from mapsto.ops import composite
from mapsto.ops.arranging import positions, reshape, slice_axis, transpose
from mapsto.ops.builder import Builder

DOMAIN = "com.microsoft"


# -- activations -------------------------------------------------------------------------------------------------------


@row("Gelu", "BiasGelu", domain=DOMAIN)
def _gelu(call: NodeCall) -> Result:
    """x/2 (1 + erf(x/sqrt 2)), of the sum with a bias."""
    return composite.gelu(call.builder, _biased(call, 1))


@row("FastGelu", domain=DOMAIN)
def _fast_gelu(call: NodeCall) -> Result:
    """By tanh, of the sum with a bias where there is one."""
    return composite.gelu(call.builder, _biased(call, 1), "tanh")


@row("QuickGelu", domain=DOMAIN)
def _quick_gelu(call: NodeCall) -> Result:
    return composite.quick_gelu(call.builder, call.input(), call.number("alpha", 1.702))


def _biased(call: NodeCall, i: int) -> Value:
    x, bias = call.input(), call.optional(i)
    return x if bias is None else call.builder.one("add", [x, bias])


_BY_NAME: dict[str, Callable[[Builder, Value], Value]] = {
    "Relu": lambda b, x: b.one("relu", [x]),
    "Tanh": lambda b, x: b.one("tanh", [x]),
    "Sigmoid": lambda b, x: b.one("sigmoid", [x]),
}


def _activated(call: NodeCall, x: Value, name: str, parameters: list[float]) -> Value:
    """x by a fused activation; parameters in the order of alpha and beta, or of the ends of a clip."""
    b = call.builder
    if not name:
        return x
    if name in _BY_NAME:
        return _BY_NAME[name](b, x)
    if name == "Clip" and len(parameters) == 2:
        low, high = (call.scalar(end, x) for end in parameters)
        return composite.clip(b, x, low, high)
    if name == "LeakyRelu":
        alpha = parameters[0] if parameters else 0.01
        below = b.one("mul", [x, call.scalar(alpha, x)])
        return b.one("select", [b.one("lt", [x, call.scalar(0, x)]), below, x])
    if name == "HardSigmoid":
        alpha, beta = parameters if len(parameters) == 2 else (0.2, 0.5)
        return composite.hard_sigmoid(b, x, alpha, beta)
    raise call.unsupported(f"activation {name[:80]!r} with {len(parameters)} parameters is not supported")


# -- products ----------------------------------------------------------------------------------------------------------


@row("FusedMatMul", "TransposeMatMul", domain=DOMAIN)
def _fused_matmul(call: NodeCall) -> Result:
    """alpha * A B; `trans` turns the last two axes, `transBatch` moves the first axis to the last but one."""
    b = call.builder
    a, c = (_turned(call, call.input(i), which) for i, which in enumerate("AB"))
    product = b.one("matmul", [a, c])
    alpha = call.number("alpha", 1.0)
    return product if alpha == 1 else b.one("mul", [product, call.scalar(alpha, product)])


def _turned(call: NodeCall, x: Value, which: str) -> Value:
    order = list(range(x.rank))
    if call.integer(f"transBatch{which}", 0) and x.rank > 2:
        order = [*order[1:-1], order[0], order[-1]]
    if call.integer(f"trans{which}", 0) and x.rank > 1:
        order[-2:] = order[:-3:-1]
    return transpose(call.builder, x, order)


@row("FusedGemm", domain=DOMAIN)
def _fused_gemm(call: NodeCall) -> Result:
    whole = call.standard("Gemm", *call.inputs)
    parameters = [call.number(f"activation_{n}") for n in ("alpha", "beta") if call.has_attribute(f"activation_{n}")]
    return _activated(call, whole, call.text("activation", ""), parameters)


@row("FusedConv", domain=DOMAIN)
def _fused_conv(call: NodeCall) -> Result:
    """activation(conv(x, w) + bias + z)"""
    whole = conv(call, call.input(0), call.input(1), call.optional(2))
    if call.has(3):
        whole = call.builder.one("add", [whole, call.input(3)])
    return _activated(call, whole, call.text("activation", ""), call.numbers("activation_params") or [])


# -- normalisations ----------------------------------------------------------------------------------------------------


@row("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain=DOMAIN)
def _skip_layer_norm(call: NodeCall) -> Result:
    """The norm of input + skip + bias, and that sum as the fourth output. The simplified form takes no mean away."""
    b, x, skip, scale = call.builder, call.input(0), call.input(1), call.input(2)
    simple = call.op == "SkipSimplifiedLayerNormalization"
    beta, bias = (None, call.optional(3)) if simple else (call.optional(3), call.optional(4))
    total = b.one("add", [x, skip])
    total = total if bias is None else b.one("add", [total, bias])
    epsilon = call.number("epsilon", 1e-12)
    last = total.rank - 1
    if simple:
        return [composite.rms_norm(b, total, scale, last, epsilon), None, None, total]
    y = composite.layer_norm(b, total, scale, beta, last, epsilon)
    _, mean, inverse = composite.normalised(b, total, [last], epsilon) if call.wants(1) or call.wants(2) else [None] * 3
    return [y, mean, inverse, total]


@row("EmbedLayerNormalization", domain=DOMAIN)
def _embed_layer_norm(call: NodeCall) -> Result:
    """The norm of the sum of word, position and segment rows; (it, lengths of the mask, the sum)."""
    b, ids = call.builder, call.input(0)
    segments = call.optional(4)
    total = b.one("gather", [call.input(2), ids], axis=0)
    if call.has(8):
        rows = b.one("gather", [call.input(3), call.input(8)], axis=0)
    else:
        rows = slice_axis(b, call.input(3), 0, 0, ids.shape[1])
    total = b.one("add", [total, rows])
    if segments is not None and call.has(1):
        total = b.one("add", [total, b.one("gather", [segments, call.input(1)], axis=0)])
    y = composite.layer_norm(b, total, call.input(5), call.input(6), total.rank - 1, call.number("epsilon", 1e-12))
    lengths = None
    if call.wants(1):
        if call.has(7):
            mask = b.one("cast", [call.input(7)], to=DType.I32)
            lengths = b.one("reduce", [mask], kind="sum", axes=(1,), keepdims=False)
        else:
            lengths = b.one("full", [], shape=(ids.shape[0],), value=0, dtype=DType.I32)
    return [y, lengths, total]


# -- attention ---------------------------------------------------------------------------------------------------------


@row("Attention", domain=DOMAIN)
def _attention(call: NodeCall) -> Result:
    """Self-attention of x[batch, rows, width]: one product makes queries, keys and values of all heads."""
    b, x, weights, bias = call.builder, call.input(0), call.input(1), call.optional(2)
    if call.has(6):
        raise call.unsupported("past_sequence_length (input 6), a shared buffer, is not supported; leave it out")
    made = b.one("matmul", [x, weights])
    made = made if bias is None else b.one("add", [made, bias])
    return attended(call, made, call.optional(3), call.optional(4), call.optional(5))


def attended(
    call: NodeCall, made: Value, mask: Value | None, past: Value | None, bias: Value | None
) -> list[Value | None]:
    """(result, present) of made[batch, rows, queries + keys + values] with a mask, a past [2, batch, heads, rows, size]
    and a bias of the scores.
    """
    b, heads = call.builder, call.integer("num_heads")
    if heads < 1 or call.integer("do_rotary", 0):
        raise call.unsupported("num_heads must be positive, and do_rotary 0")
    widths = call.integers("qkv_hidden_sizes") or None
    batch, rows, total = made.shape
    if widths is None and not isinstance(total, int):
        raise call.unsupported("the weights' width must be known when compiling; make them an initializer")
    widths = widths or [int(total) // 3] * 3  # type: ignore[arg-type]
    starts = (0, widths[0], widths[0] + widths[1])
    parts = [
        transpose(b, reshape(b, slice_axis(b, made, 2, at, width), (batch, rows, heads, width // heads)), (0, 2, 1, 3))
        for at, width in zip(starts, widths, strict=True)
    ]
    present = None
    if past is not None:
        for k in (1, 2):
            old = slice_axis(b, past, 0, k - 1, 1)
            parts[k] = b.one("concat", [reshape(b, old, old.shape[1:]), parts[k]], axis=2)
    if call.wants(1):
        present = b.one("concat", [reshape(b, v, (1, *v.shape)) for v in parts[1:]], axis=0)
    query, key, value = parts
    return [by_heads(call, query, key, value, mask, bias), present]


def by_heads(call: NodeCall, query: Value, keys: Value, values: Value, mask: Value | None, bias: Value | None) -> Value:
    """softmax(scale * query keys^T + bias, masked) values, of [batch, heads, rows or keys, size] each, as [batch, rows,
    heads * size].
    """
    b = call.builder
    scores = b.one("matmul", [query, composite.transpose_last(b, keys)])
    scores = b.one("mul", [scores, call.scalar(scale_of(call, query.shape[3]), scores)])
    scores = scores if bias is None else b.one("add", [scores, bias])
    scores = masked(call, scores, mask)
    result = transpose(b, b.one("matmul", [composite.softmax(b, scores, 3), values]), (0, 2, 1, 3))
    batch, rows, heads, size = result.shape
    return reshape(b, result, (batch, rows, heads * size))


def scale_of(call: NodeCall, size: Dim) -> float:
    """Of scores: the attribute, or 1 / sqrt(size) of a head."""
    scale = call.number("scale", 0.0)
    if not scale and not isinstance(size, int):
        raise call.unsupported("the width of a head must be known when compiling; give a scale, or fix the shape")
    return scale or float(size) ** -0.5  # type: ignore[arg-type]


def masked(call: NodeCall, scores: Value, mask: Value | None) -> Value:
    """Scores plus the filter's value where a mask is 0: [batch, keys], [batch, rows, keys], of 4 axes, or lengths
    [batch]. Where `unidirectional`, a key after the query has about the lowest score there is, so that it weighs
    nothing beside keys that the mask leaves out, either.
    """
    b = call.builder
    batch, _, rows, keys = scores.shape
    low = call.scalar(call.number("mask_filter_value", -10000.0), scores)
    zero = call.scalar(0, scores)
    if mask is not None:
        if mask.rank == 1 and isinstance(mask.shape[0], int) and isinstance(batch, int) and mask.shape[0] != batch:
            raise call.unsupported(f"mask_index {mask} is not supported; give one length, or one row, a batch")
        if mask.rank == 1:
            places = positions(b, keys)
            lengths = reshape(b, b.one("cast", [mask], to=DType.I64), (batch, 1))
            allowed = b.one("lt", [places, lengths])
        else:
            allowed = b.one("ne", [mask, call.scalar(0, mask)]) if mask.dtype is not DType.BOOL else mask
        if allowed.rank in (2, 3):  # of all heads, and rows
            allowed = reshape(b, allowed, (allowed.shape[0], 1, *[1] * (3 - allowed.rank), *allowed.shape[1:]))
        scores = b.one("add", [scores, b.one("select", [allowed, zero, low])])
    if call.integer("unidirectional", 0):
        last = b.one("add", [reshape(b, positions(b, rows), (rows, 1)), b.known(keys - rows)])
        after = b.one("gt", [positions(b, keys), last])
        lowest = call.scalar(-65504.0 if scores.dtype is DType.F16 else -3e38, scores)
        scores = b.one("select", [after, lowest, scores])
    return scores
