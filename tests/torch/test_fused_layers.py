"""Layers that torch fuses in inference, and gradients of pools, against torch's own."""

from __future__ import annotations

import pytest
from tests.pytorch import torch

import mapsto.torch


def made(layer, *given, **named):
    """What torch's compiler makes of a layer with this backend; nothing is left to torch."""
    torch._dynamo.reset()
    options = {"threads": 1, "fallback": False}
    with torch.no_grad():
        return torch.compile(layer, backend=mapsto.torch.backend, options=options)(*given, **named)


@pytest.mark.parametrize(("activation", "first"), [("relu", False), ("gelu", True)])
@pytest.mark.parametrize("padded", [False, True])
def test_a_layer_of_an_encoder(activation, first, padded):
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(32, 4, 64, activation=activation, batch_first=True, norm_first=first)
    encoder = torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval()
    x, mask = torch.randn(3, 7, 32), torch.zeros(3, 7, dtype=torch.bool)
    mask[1, 5:] = True
    named = {"src_key_padding_mask": mask} if padded else {}
    with torch.no_grad():
        want = encoder(x, **named)
    torch.testing.assert_close(made(encoder, x, **named), want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("averaged", [False, True])
def test_attention_that_gives_its_weights(averaged):
    torch.manual_seed(0)
    layer = torch.nn.MultiheadAttention(32, 4, batch_first=True).eval()
    x, mask = torch.randn(3, 7, 32), torch.zeros(3, 7, dtype=torch.bool)
    mask[2, 3:] = True
    named = {"key_padding_mask": mask, "average_attn_weights": averaged}
    with torch.no_grad():
        want = layer(x, x, x, **named)
    for ours, theirs in zip(made(layer, x, x, x, **named), want, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "pool"),
    [
        ((2, 3, 8, 8), torch.nn.MaxPool2d(2)),
        ((2, 3, 9, 7), torch.nn.MaxPool2d((3, 2))),  # rows and columns behind the last window
        ((2, 3, 7, 7), torch.nn.MaxPool2d(2, ceil_mode=True)),
        ((2, 3, 9, 9), torch.nn.MaxPool2d(3, 2, 1)),  # windows that meet
        ((2, 3, 6, 6, 6), torch.nn.MaxPool3d(2)),
        ((3, 8, 8), torch.nn.MaxPool2d(2)),
    ],
)
def test_gradients_of_pools(shape, pool):
    torch.manual_seed(0)
    torch._dynamo.reset()
    made = torch.compile(pool, backend=mapsto.torch.backend, options={"threads": 1, "fallback": False})
    x, y = torch.randn(shape).requires_grad_(), None
    grads = []
    for run in (pool, made):
        x.grad = None
        y = run(x)
        y.backward(torch.arange(float(y.numel())).reshape(y.shape))
        grads.append(x.grad)
    assert torch.equal(*grads)
