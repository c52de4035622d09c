"""Layers that torch computes by one call of its own in inference (a layer of a transformer's encoder, attention with
its projections), as the calls that they stand for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

_KEYS = 1  # the kind of a mask that is [batch, keys]; others broadcast to [batch, heads, queries, keys]


def fused_layers() -> dict[Any, Callable[..., Any]]:
    """What takes them apart, for a table of decompositions."""
    aten = torch.ops.aten
    return {
        aten._transformer_encoder_layer_fwd.default: _encoder_layer,
        aten._native_multi_head_attention.default: _attention_layer,
    }


def _encoder_layer(
    src: Any, embed_dim: int, num_heads: int, qkv_weight: Any, qkv_bias: Any, proj_weight: Any, proj_bias: Any,
    use_gelu: bool, norm_first: bool, eps: float, norm_weight_1: Any, norm_bias_1: Any, norm_weight_2: Any,
    norm_bias_2: Any, ffn_weight_1: Any, ffn_bias_1: Any, ffn_weight_2: Any, ffn_bias_2: Any, mask: Any = None,
    mask_type: int | None = None,
) -> Any:  # fmt: skip
    """`aten::_transformer_encoder_layer_fwd`."""

    def first(x: Any) -> Any:
        return functional.layer_norm(x, (embed_dim,), norm_weight_1, norm_bias_1, eps)

    def second(x: Any) -> Any:
        return functional.layer_norm(x, (embed_dim,), norm_weight_2, norm_bias_2, eps)

    def attended(x: Any) -> Any:
        projections = qkv_weight, qkv_bias, proj_weight, proj_bias
        return _attention_layer(x, x, x, embed_dim, num_heads, *projections, mask, False, True, mask_type)[0]

    def fed_forward(x: Any) -> Any:
        wide = functional.linear(x, ffn_weight_1, ffn_bias_1)
        wide = functional.gelu(wide) if use_gelu else functional.relu(wide)
        return functional.linear(wide, ffn_weight_2, ffn_bias_2)

    if norm_first:
        x = src + attended(first(src))
        return x + fed_forward(second(x))
    x = first(src + attended(src))
    return second(x + fed_forward(x))


def _attention_layer(
    query: Any, key: Any, value: Any, embed_dim: int, num_head: int, qkv_weight: Any, qkv_bias: Any, proj_weight: Any,
    proj_bias: Any, mask: Any = None, need_weights: bool = True, average_attn_weights: bool = True,
    mask_type: int | None = None,
) -> Any:  # fmt: skip
    """`aten::_native_multi_head_attention`: the result, and the weights where they are wanted."""
    batch, width = query.shape[0], embed_dim // num_head
    q, k, v = (
        functional.linear(x, w, b).reshape(batch, -1, num_head, width).transpose(1, 2)
        for x, w, b in zip((query, key, value), qkv_weight.chunk(3), qkv_bias.chunk(3), strict=True)
    )
    seen = None if mask is None else _seen(mask, mask_type)
    if not need_weights:
        made = functional.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        weights = query.new_empty(0)
    else:
        scores = (q * width**-0.5) @ k.transpose(-2, -1)
        scores = scores if seen is None else scores.masked_fill(~seen, float("-inf"))
        weights = torch.softmax(scores, -1)
        made = weights @ v
        weights = weights.mean(1) if average_attn_weights else weights
    made = made.transpose(1, 2).reshape(batch, -1, embed_dim)
    return functional.linear(made, proj_weight, proj_bias), weights


def _seen(mask: Any, kind: int | None) -> Any:
    """The keys that count, where a mask says which do not."""
    hidden = mask if mask.dtype is torch.bool else mask != 0
    if kind == _KEYS:
        hidden = hidden[:, None, None, :]
    return ~hidden
