"""How tensors lie: orders of axes, and moved data seen as views, against torch's own strides."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from tests.pytorch import torch  # isort: skip  (first: it skips the file where there is no torch)

from mapsto.importers.torch.strides import Look, looked_at, order_of
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import sym
from mapsto.ir.graph import Value
from mapsto.ops.builder import Builder
from mapsto.ops.interpret import run_graph


@pytest.mark.parametrize(
    ("tensor", "order"),
    [
        (torch.zeros(2, 3), None),
        (torch.zeros(2, 3).t(), (1, 0)),
        (torch.zeros(2, 3, 4).permute(1, 2, 0), (2, 0, 1)),
        (torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last), (0, 2, 3, 1)),
        (torch.zeros(2, 1, 4, 5).to(memory_format=torch.channels_last), None),  # one channel: the same places
        (torch.zeros(3, 128, 16, 8)[1].permute(1, 0, 2), (1, 0, 2)),
        (torch.zeros(4, 6)[:, ::2], None),  # not dense
        (torch.zeros(4, 6)[:, :3].t(), None),
        (torch.zeros(1).expand(4, 3), None),
        (torch.zeros(0, 3).t(), None),
        (torch.zeros(()), None),
    ],
)
def test_orders(tensor: Any, order: tuple[int, ...] | None) -> None:
    assert order_of(tensor) == order
    if order is not None:
        assert tensor.permute(order).is_contiguous()


def _moved(data: st.DataObject, b: Builder, x: Value) -> Value:
    kind = data.draw(st.sampled_from(["reshape", "transpose", "slice"]))
    if kind == "transpose":
        return b.one("transpose", [x], perm=tuple(data.draw(st.permutations(range(x.rank)))))
    if kind == "slice":
        starts, steps, shape = [], [], []
        for extent in map(int, x.shape):  # type: ignore[arg-type]
            start = data.draw(st.sampled_from([0, 0, extent // 2]))
            step = data.draw(st.sampled_from([1, 1, 2]))
            starts.append(start), steps.append(step), shape.append(-(-(extent - start) // step))
        return b.one("slice", [x], starts=tuple(starts), steps=tuple(steps), shape=tuple(shape))
    rest, shape = int(np.prod(x.shape)), []  # type: ignore[arg-type]
    while rest > 1:
        shape.append(data.draw(st.sampled_from([d for d in range(2, rest + 1) if rest % d == 0])))
        rest //= shape[-1]
    return b.one("reshape", [x], shape=(*shape, 1) if not shape or data.draw(st.booleans()) else tuple(shape))


@given(st.data())
@settings(max_examples=400, deadline=None)
def test_views_have_the_elements_of_what_they_are(data: st.DataObject) -> None:
    b = Builder("g")
    x = b.input("x", DType.F32, data.draw(st.sampled_from([(4, 6), (2, 3, 4), (12,), (2, 2, 2, 3), (1, 6, 4)])))
    value = x
    for _ in range(data.draw(st.integers(0, 5))):
        value = _moved(data, b, value)
    base, look = looked_at(b, value)
    feed = {"x": np.arange(24, dtype=np.float32)[: int(np.prod(x.shape))].reshape(x.shape)}  # type: ignore[arg-type]
    graph = b.finish([value, base], names=["value", "base"])
    found = run_graph(graph, feed)
    whole = torch.from_numpy(np.ascontiguousarray(found["base"]))
    shape = tuple(map(int, look.shape))  # type: ignore[arg-type]
    seen = whole.reshape(shape) if look.strides is None else whole.as_strided(shape, look.strides, look.offset)
    np.testing.assert_array_equal(seen.numpy(), found["value"])


def test_what_is_a_view_though_what_it_is_made_of_is_not() -> None:
    """Heads of a packed projection, as torch's attention takes them apart."""
    b = Builder("g")
    x = b.input("x", DType.F32, (6, 2, 12))
    parts = b.one("transpose", [b.one("reshape", [x], shape=(6, 2, 3, 4))], perm=(2, 0, 1, 3))
    second = b.one("slice", [parts], starts=(1, 0, 0, 0), steps=(1,) * 4, shape=(1, 6, 2, 4))
    own = b.one("reshape", [second], shape=(6, 4, 2))
    heads = b.one("reshape", [b.one("transpose", [own], perm=(1, 0, 2))], shape=(2, 2, 6, 2))
    assert looked_at(b, own)[0] == parts  # several strides for an axis
    assert looked_at(b, heads) == (x, Look((2, 2, 6, 2), (12, 2, 24, 1), 4))


def test_open_extents() -> None:
    b = Builder("g")
    x = b.input("x", DType.F32, (sym("batch"), 4))
    flat = b.one("reshape", [x], shape=(sym("batch") * 4,))
    assert looked_at(b, flat) == (x, Look(flat.shape))
    turned = b.one("transpose", [x], perm=(1, 0))
    assert looked_at(b, turned) == (turned, Look(turned.shape))
