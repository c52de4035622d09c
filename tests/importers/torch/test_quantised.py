"""Models that torch's quantisers have quantised: each operator, and products of what is dequantised, as integers."""

from __future__ import annotations

from typing import Any

import pytest

from tests.pytorch import torch  # isort: skip  (first: it skips the file where there is no torch)

import torch.ao.quantization.fx._decomposed  # registers the operators
from torch import nn

import mapsto
from mapsto.importers.torch import load
from mapsto.ir.dtypes import DType
from mapsto.ir.graph import Graph

QD = torch.ops.quantized_decomposed
KINDS = {torch.uint8: (0, 255), torch.int8: (-128, 127)}


class Of(nn.Module):
    """A function as a module."""

    def __init__(self, function: Any, **buffers: Any) -> None:
        super().__init__()
        self.function = function
        for name, buffer in buffers.items():
            self.register_buffer(name, buffer)

    def forward(self, *inputs: Any) -> Any:
        return self.function(self, *inputs)


def same(module: nn.Module, *inputs: Any, near: float = 0.0) -> None:
    expected, found = module(*inputs), mapsto.compile(module, inputs, cache=False)(*inputs)
    for a, b in zip(*(each if isinstance(each, tuple) else (each,) for each in (expected, found)), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        torch.testing.assert_close(b, a, rtol=near, atol=near)


def drawn(*shape: int) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


# -- operators ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("zero", [0, 100])
def test_all_elements_by_one_scale(kind: Any, zero: int) -> None:
    low, high = KINDS[kind]

    def there(_: Any, x: Any) -> tuple[Any, Any]:
        q = QD.quantize_per_tensor(x, 0.037, zero, low + 1, high, kind)
        return q, QD.dequantize_per_tensor(q, 0.037, zero, low + 1, high, kind)

    same(Of(there), 3 * drawn(5, 40))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_channels_by_scales_of_their_own(kind: Any, axis: int) -> None:
    low, high = KINDS[kind]
    x = 3 * drawn(4, 6, 5)
    count = x.shape[axis]

    def there(self: Any, x: Any) -> tuple[Any, Any]:
        q = QD.quantize_per_channel(x, self.s, self.z, axis, low, high, kind)
        return q, QD.dequantize_per_channel(q, self.s, self.z, axis, low, high, kind)

    same(Of(there, s=torch.linspace(0.01, 0.2, count), z=torch.arange(count)), x)


def test_scales_that_a_run_finds() -> None:
    """Dynamic quantisation: by the least and the largest element."""

    def there(_: Any, x: Any) -> tuple[Any, ...]:
        s, z = QD.choose_qparams(x, 0, 255, 1e-6, torch.uint8)
        q = QD.quantize_per_tensor(x, s, z, 0, 255, torch.uint8)
        return s, z, q, QD.dequantize_per_tensor(q, s, z, 0, 255, torch.uint8)

    for x in (drawn(5, 40), drawn(5, 40) + 9, -drawn(5, 40) - 9, torch.zeros(3, 4)):
        same(Of(there), x, near=1e-6)


# -- products ----------------------------------------------------------------------------------------------------------


def dequantised(x: Any, kind: Any, scale: float, zero: int) -> Any:
    low, high = KINDS[kind]
    q = QD.quantize_per_tensor(x, scale, zero, low, high, kind)
    return QD.dequantize_per_tensor(q, scale, zero, low, high, kind)


def weights(self: Any, axis: int = 0) -> Any:
    return QD.dequantize_per_channel(self.w, self.s, self.z, axis, -128, 127, torch.int8)


def held(*shape: int, axis: int = 0) -> dict[str, Any]:
    count = shape[axis]
    w = torch.randint(-128, 128, shape, dtype=torch.int8, generator=torch.Generator().manual_seed(1))
    return {"w": w, "s": torch.linspace(0.01, 0.1, count), "z": torch.zeros(count, dtype=torch.int64)}


def _conv(**how: Any) -> Any:
    return lambda self, x: torch.conv2d(dequantised(x, torch.uint8, 0.05, 120), weights(self), self.b, **how)


def _linear(self: Any, x: Any) -> Any:
    return nn.functional.linear(dequantised(x, torch.int8, 0.03, -5), weights(self), self.b)


PRODUCTS: dict[str, tuple[nn.Module, tuple[Any, ...]]] = {
    "conv": (Of(_conv(padding=1), b=drawn(8), **held(8, 4, 3, 3)), (drawn(2, 4, 9, 11),)),
    "groups": (Of(_conv(groups=2, stride=2), b=drawn(8), **held(8, 2, 3, 3)), (drawn(2, 4, 9, 11),)),
    "depthwise": (Of(_conv(groups=4, padding=1), b=drawn(8), **held(8, 1, 3, 3)), (drawn(2, 4, 9, 9),)),
    "linear": (Of(_linear, b=drawn(6), **held(6, 40)), (drawn(3, 5, 40),)),
    "matmul": (
        Of(lambda s, x: torch.matmul(dequantised(x, torch.uint8, 0.03, 99), weights(s, 1)), **held(40, 6, axis=1)),
        (drawn(3, 5, 40),),
    ),
    "scores": (
        Of(lambda s, x, y: torch.bmm(dequantised(x, torch.uint8, 0.03, 99), dequantised(y, torch.int8, 0.02, 7))),
        (drawn(2, 5, 40), drawn(2, 40, 7)),
    ),
}  # fmt: skip


def types_of(graph: Graph) -> set[DType]:
    return {node.output.dtype for node in graph.walk() if node.op in ("conv", "matmul")}


@pytest.mark.parametrize("kind", PRODUCTS)
def test_products_of_what_is_dequantised_are_of_the_integers(kind: str) -> None:
    module, inputs = PRODUCTS[kind]
    assert types_of(load(torch.export.export(module, inputs))) == {DType.I32}
    same(module, *inputs, near=2e-5)


# -- what a quantiser makes --------------------------------------------------------------------------------------------


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16)
        self.apart = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.second, self.head = nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.Linear(32, 10)

    def forward(self, x: Any) -> Any:
        y = torch.relu(self.apart(torch.relu(self.norm(self.first(x)))))
        return self.head(torch.relu(self.second(y)).mean((2, 3)))


def test_a_network_quantised_by_torchao() -> None:
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
        X86InductorQuantizer,
        get_default_x86_inductor_quantization_config,
    )

    torch.manual_seed(0)
    x = drawn(2, 3, 16, 16)
    traced = torch.export.export(Small().eval(), (x,)).module()
    prepared = prepare_pt2e(traced, X86InductorQuantizer().set_global(get_default_x86_inductor_quantization_config()))
    for _ in range(4):
        prepared(torch.randn(2, 3, 16, 16))
    made = convert_pt2e(prepared)
    program = torch.export.export(made, (x,))
    assert types_of(load(program)) == {DType.I32}
    for source in (mapsto.compile(program, cache=False), mapsto.compile(made, (x,), cache=False)):
        torch.testing.assert_close(source(x), made(x), rtol=1e-5, atol=1e-5)
