"""The items of a contraction share out its output: every element, tail lanes included, is stored exactly once,
wherever the range is cut. (A result alone cannot tell: what is stored twice is stored with the same value.)
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from benchmarks.contraction.cases import (
    BF16,
    FP32,
    FP64,
    INT8,
    Case,
    Convolution,
    Format,
    Product,
    convolution_case,
    product_case,
)
from benchmarks.contraction.native import plain
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.devices.contraction.plans import forced, in_slices, sized_product, with_groups, with_packed_stride

from mapsto.devices.contraction.template import TilePlan, contraction, plan_contraction
from mapsto.devices.cpu import isa as isas
from mapsto.ir.expr import evaluate
from mapsto.loop.interpret import interpret

# the interpreter needs no processor that runs them
ISAS = (isas.SSE2, isas.AVX2, isas.AVX512, isas.AVX512_FULL)
FORMATS = (FP32, BF16, INT8, FP64)


class Counted(np.ndarray):
    """An array that counts the stores to each of its elements."""

    stores: np.ndarray

    @staticmethod
    def make(size: int, like: np.dtype[Any]) -> Counted:
        made = np.zeros(size, like).view(Counted)
        made.stores = np.zeros(size, np.int64)
        return made

    def __setitem__(self, index: Any, value: Any) -> None:
        np.add.at(self.stores, index, 1)
        super().__setitem__(index, value)


def stores_of(plan: TilePlan, a: np.ndarray, b: np.ndarray, out: int, sizes: dict[str, int], parts: int) -> np.ndarray:
    """How often each of the `out` elements of the output is stored to, by all shares of the range together."""
    function, extent = contraction(plan, plain)
    counted = Counted.make(out, plan.form.out.element.numpy)
    whole = evaluate(extent, sizes)
    for part in range(parts):
        begin, end = whole * part // parts, whole * (part + 1) // parts
        interpret(function, [a.reshape(-1), b.reshape(-1), counted], sizes, begin, end)
    return counted.stores


def check(case: Case, plan: TilePlan, parts: int = 1) -> None:
    plan = with_groups(case, plan)
    packed = plan.packing.pack(case.weights)
    stores = stores_of(plan, case.a, packed, case.reference.size, {}, parts)
    assert (stores == 1).all(), (sorted(set(stores.tolist())), case.form, plan)
    assert packed.shape[-1] == plan.packing.size


@pytest.mark.parametrize("isa", ISAS[:3], ids=lambda isa: isa.name)
@pytest.mark.parametrize("block", [0, 4, 8, 16, 32])
def test_every_number_of_columns(isa: isas.Isa, block: int) -> None:
    for columns in range(1, 73):
        conv = Convolution(2, columns, (2, 3), kernel=1)
        case = convolution_case(conv, FP32, block=block or 16, blocked=block > 0)
        check(case, plan_contraction(case.form, isa.core), parts=1 + columns % 3)


@pytest.mark.parametrize("isa", ISAS, ids=lambda isa: isa.name)
@pytest.mark.parametrize("fmt", FORMATS, ids=lambda fmt: fmt.name)
def test_every_format(isa: isas.Isa, fmt: Format) -> None:
    for columns in (1, 7, 8, 12, 16, 24, 40, 48, 56, 96):
        for case in (
            convolution_case(Convolution(5, columns, (3, 2), kernel=(1, 2)), fmt),
            convolution_case(Convolution(2 * 5, 2 * columns, (2, 2), kernel=1, groups=2), fmt),
            product_case(Product(5, 6, columns), fmt),
        ):
            check(case, plan_contraction(case.form, isa.core), parts=2)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_any_tile_in_any_order(data: st.DataObject) -> None:
    isa, fmt = data.draw(st.sampled_from(ISAS)), data.draw(st.sampled_from(FORMATS))
    conv = Convolution(
        data.draw(st.integers(1, 6)),
        data.draw(st.integers(1, 100)),
        (data.draw(st.integers(1, 4)), data.draw(st.integers(1, 20))),
        data.draw(st.integers(1, 2)),
        batch=data.draw(st.integers(1, 2)),
    )
    block = data.draw(st.sampled_from((4, 8, 16, 32, 64)))
    case = convolution_case(conv, fmt, block=block, blocked=data.draw(st.booleans()))
    vectors, rows, chunk = (data.draw(st.integers(1, most)) for most in (5, 17, 5))
    plan = forced(case, isa.core, vectors, rows, data.draw(st.booleans()), chunk)
    if data.draw(st.booleans()):
        plan = in_slices(plan, data.draw(st.integers(1, 3)))
    check(case, plan, data.draw(st.integers(1, 5)))


@pytest.mark.parametrize("isa", ISAS[:3], ids=lambda isa: isa.name)
@pytest.mark.parametrize("direct", [True, False], ids=["direct", "packed"])
def test_sizes_of_a_run(isa: isas.Isa, direct: bool) -> None:
    plan = plan_contraction(sized_product(direct), isa.core)
    stride = plan.packing.size
    if not direct:
        plan = with_packed_stride(plan)
    for g, m, k, n in [(1, 1, 1, 1), (2, 3, 2, 7), (1, 14, 2, 32), (1, 29, 1, 33), (2, 6, 1, 70), (1, 0, 3, 4)]:
        sizes = {"g": g, "m": m, "k": k, "n": n}
        b = np.zeros(g * (k * n if direct else evaluate(stride, sizes)), np.float32)
        for parts in (1, 3):
            stores = stores_of(plan, np.zeros(g * m * k, np.float32), b, g * m * n, sizes, parts)
            assert (stores == 1).all(), (g, m, k, n)
