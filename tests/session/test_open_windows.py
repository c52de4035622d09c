"""Pools of open axes that round up, or pad by themselves, and slices as native code, beside ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from tests.session.support import check, normal, parse

from mapsto.devices.cpu.workers import Workers
from mapsto.errors import ExecutionError, UnsupportedError
from mapsto.runtime.guard import Fences
from mapsto.session.compile import build, prepared

POOLS = [
    "MaxPool<kernel_shape = [3], strides = [2], ceil_mode = 1>",
    "MaxPool<kernel_shape = [5], strides = [3], pads = [2, 2], ceil_mode = 1>",
    'MaxPool<kernel_shape = [3], strides = [2], auto_pad = "SAME_LOWER">',
    "AveragePool<kernel_shape = [3], strides = [2], pads = [1, 1], ceil_mode = 1>",
    "AveragePool<kernel_shape = [2], strides = [3], pads = [0, 1], ceil_mode = 1, count_include_pad = 1>",
    "AveragePool<kernel_shape = [2], strides = [3], pads = [1, 1], ceil_mode = 1>",
    'AveragePool<kernel_shape = [3], auto_pad = "SAME_UPPER">',
    'AveragePool<kernel_shape = [2], strides = [2], auto_pad = "SAME_UPPER", count_include_pad = 1>',
    'LpPool<kernel_shape = [3], strides = [2], auto_pad = "SAME_UPPER">',
]


@pytest.mark.parametrize("pool", POOLS)
def test_a_pool_of_an_open_axis(workers: Workers, pool: str) -> None:
    name, attributes = pool.split("<")
    model = parse(f"g (float[n, 2, w] x) => (float[n, 2, v] y) {{ y = {name}<{attributes}(x) }}", opset=19)
    check(workers, model, *({"x": normal(2, 2, w)} for w in range(3, 12)))


def test_places_of_maxima_with_open_pads(workers: Workers) -> None:
    text = 'MaxPool<kernel_shape = [3], strides = [2], auto_pad = "SAME_UPPER">'
    model = parse(f"g (float[n, 2, w] x) => (float[n, 2, v] y, int64[n, 2, v] i) {{ y, i = {text}(x) }}")
    check(workers, model, *({"x": normal(2, 2, w)} for w in range(1, 9)))


def test_slices_of_short_axes(workers: Workers) -> None:
    """x[:, 2:], x[:, -3:], x[:, :-2], x[:, 1:-1] and x[:, ::-1] of axes of any length."""
    model = parse("""g (float[a, b] x) => (float[a, p] y, float[a, q] z, float[a, r] u, float[a, s] v, float[a, b] w)
        <int64[1] zero = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] last = {-1}, int64[1] back = {-2},
         int64[1] three = {-3}, int64[1] far = {9223372036854775807}, int64[1] low = {-9223372036854775808}> {
        y = Slice(x, two, far, one)
        z = Slice(x, three, far, one)
        u = Slice(x, zero, back, one)
        v = Slice(x, one, last, one)
        w = Slice(x, last, low, one, last)
    }""")
    exe = check(workers, model, *({"x": normal(3, b)} for b in range(1, 9)))
    found = exe.run({"x": np.zeros((3, 0), np.float32)})
    assert {name: array.shape for name, array in found.items()} == dict.fromkeys("yzuvw", (3, 0))


@pytest.mark.parametrize("op", ["AveragePool", "LpPool"])
def test_pads_below_zero_are_refused_where_what_is_rounded_up_hides_them(op: str) -> None:
    pool = f"{op}<kernel_shape = [2], strides = [2], pads = [0, -1], ceil_mode = 1>"
    with pytest.raises(UnsupportedError, match="negative pads"):
        prepared(parse(f"g (float[1, 1, n] x) => (float[1, 1, m] y) {{ y = {pool}(x) }}", opset=22), None)


@pytest.mark.parametrize("behind", [False, True])
def test_images_that_are_smaller_than_the_windows_end_the_run(workers: Workers, behind: bool) -> None:
    """Inside of a model, where no output has the extent that would be negative; nothing runs on it."""
    model = parse("""g (float[1, 16, n, 9] x, float[40, 16, 1, 1] w) => (float[1, 40, 1, 1] y) {
        a = MaxPool<kernel_shape = [3, 3], strides = [2, 2]>(x)
        b = MaxPool<kernel_shape = [3, 3], strides = [2, 2]>(a)
        c = Conv(b, w)
        d = Relu(c)
        y = GlobalAveragePool(d)
    }""")
    exe = build(prepared(model, None), workers, 1, None)
    exe.guard(Fences(behind))
    feed = {"w": normal(40, 16, 1, 1)}
    for rows in (0, 1, 2):
        with pytest.raises(ExecutionError, match=r"max_pool: its result would have the shape \[1, 16, .*n"):
            exe.run({"x": normal(1, 16, rows, 9), **feed})
    for rows in (3, 7, 9):
        assert exe.run({"x": normal(1, 16, rows, 9), **feed})["y"].shape == (1, 40, 1, 1)
