"""Constants laid anew: turned for the vectors that read them, halves that are read often kept as f32."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from mapsto.devices.generic.relaid import relaid
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import sym
from mapsto.kernel.ast import Cast, Iter, Load, Op, Reduce, Stmt
from mapsto.plan.home import Home
from mapsto.plan.layout import blocked, permuted, plain

F16, F32 = DType.F16, DType.F32


@dataclass
class Store:
    """Homes and constants of one statement y[n, c, w] = sum over k of x[n, c, w + k] * w[c, k]."""

    homes: Mapping[str, Home]
    constants: dict[str, np.ndarray] = field(default_factory=dict)

    def add_constant(self, name: str, array: np.ndarray) -> None:
        self.constants[name] = array


def store(dtype: DType, innermost: bool, width: int) -> Store:
    shape = (1, 16, width)
    layout = blocked(shape, 1, 16) if innermost else plain(shape)
    weights = np.arange(16 * 3, dtype=np.float32).reshape(16, 3).astype(dtype.numpy)
    return Store({"y": Home("y", dtype, layout, "")}, {"w": weights})


def convolution(dtype: DType, width: int) -> Stmt:
    n, c, w, k = (sym(name) for name in "ncwk")
    x, weight = Load("x", (n, c, w + k), dtype), Load("w", (c, k), dtype)
    wide = [e if dtype is F32 else Cast(e, F32) for e in (x, weight)]
    value = Reduce("sum", (Iter("k", 3),), Op("mul", tuple(wide), F32))
    iters = (Iter("n", 1), Iter("c", 16), Iter("w", width))
    return Stmt("y", dtype, iters, value if dtype is F32 else Cast(value, dtype))


def read(stmt: Stmt) -> Load:
    value = stmt.value.arg if isinstance(stmt.value, Cast) else stmt.value
    assert isinstance(value, Reduce) and isinstance(value.body, Op)
    (weight,) = (a for a in value.body.args if isinstance(a, Load) and a.tensor != "x")
    return weight


@pytest.mark.parametrize("dtype", [F16, DType.BF16, F32])
def test_turned_to_the_lanes(dtype: DType) -> None:
    own = store(dtype, True, 40)
    weight = read(relaid([convolution(dtype, 40)], own)[0])
    assert weight.index == (sym("k"), sym("c")) and weight.dtype is F32
    assert own.constants[weight.tensor].dtype == np.float32
    np.testing.assert_array_equal(own.constants[weight.tensor], own.constants["w"].astype(np.float32).T)


def test_turned_to_channels_in_one_piece() -> None:
    own = store(F32, True, 40)
    whole = permuted((1, 16, 40), (0, 2, 1))
    weight = read(relaid([convolution(F32, 40)], replace(own, homes={"y": Home("y", F32, whole, "")}))[0])
    assert weight.index == (sym("k"), sym("c"))


def test_halves_that_stay_as_they_lie_are_f32_too() -> None:
    own = store(F16, False, 40)
    weight = read(relaid([convolution(F16, 40)], own)[0])
    assert weight.index == (sym("c"), sym("k")) and weight.dtype is F32
    np.testing.assert_array_equal(own.constants[weight.tensor], own.constants["w"].astype(np.float32))


def test_what_is_read_once_or_twice_stays_narrow() -> None:
    """Its bytes are what it costs."""
    own, stmt = store(F16, False, 2), convolution(F16, 2)
    assert relaid([stmt], own) == [stmt] and list(own.constants) == ["w"]


def test_what_is_no_constant_stays() -> None:
    own, stmt = store(F16, True, 40), convolution(F16, 40)
    own.constants.clear()
    assert relaid([stmt], own) == [stmt] and not own.constants


def test_one_constant_may_be_turned_along_several_axes() -> None:
    """Each turn has a name of its own, whatever was turned before; equal ones share it."""
    weights = np.arange(192, dtype=np.float32).reshape(16, 4, 3)
    own = Store({"y": Home("y", F32, blocked((1, 16, 40), 1, 16), "")}, {"w": weights})
    iters = (Iter("n", 1), Iter("c", 16), Iter("t", 40))
    c, k = sym("c"), sym("k")
    for index, order in (((c, 1, k), (1, 2, 0)), ((k, c, 2), (0, 2, 1)), ((c, 0, k), (1, 2, 0))):
        stmt = Stmt("y", F32, iters, Reduce("sum", (Iter("k", 3),), Load("w", index, F32)))
        (made,) = relaid([stmt], own)
        assert isinstance(made.value, Reduce) and isinstance(made.value.body, Load)
        assert made.value.body.index == tuple(index[d] for d in order)
        np.testing.assert_array_equal(own.constants[made.value.body.tensor], weights.transpose(order))
    assert len(own.constants) == 3
