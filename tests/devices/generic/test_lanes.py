"""How many lanes a kernel of narrow elements has."""

from __future__ import annotations

import pytest

from mapsto.devices.cpu.isa import AVX512
from mapsto.devices.cpu.traits import TRAITS, processor_of
from mapsto.devices.generic import choose_schedule
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import sym
from mapsto.kernel.ast import Iter, Kernel, Load, Stmt, Tensor
from mapsto.plan.home import layout_for
from mapsto.plan.layout import plain


@pytest.mark.parametrize(("dtype", "lanes"), [(DType.F32, 16), (DType.F16, 32), (DType.U8, 64)])
def test_no_more_than_a_block_holds(dtype: DType, lanes: int) -> None:
    """Beyond a block of channels the next one lies elsewhere: lanes would be picked one by one."""
    shape = (1, 128, 6, 6)
    iters = tuple(Iter(n, e) for n, e in zip("ncyx", shape, strict=True))
    value = Load("x", tuple(sym(i.name) for i in iters), dtype)
    x, y = (Tensor(name, dtype, shape) for name in "xy")
    kernel = Kernel("k", (x,), (y,), (), (Stmt("y", dtype, iters, value),))
    blocked = layout_for(shape, 1, TRAITS)
    assert blocked.block is not None and blocked.block[1] == 16
    assert choose_schedule(kernel, {"x": blocked, "y": blocked}, processor_of(AVX512)).lanes == 16
    whole = plain(shape)
    assert choose_schedule(kernel, {"x": whole, "y": whole}, processor_of(AVX512)).lanes == lanes
