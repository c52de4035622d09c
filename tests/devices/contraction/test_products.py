"""In what types operands of a contraction meet: they hold every value of theirs, and sums hold every product."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mapsto.devices.contraction.products import multiply
from mapsto.devices.cpu import isa as isas
from mapsto.devices.cpu.isa import AVX2, AVX512_FULL, SSE2, Isa
from mapsto.ir.dtypes import DType

# The last has instructions for bytes and for bf16, which not every processor that runs this has.
ISAS = (SSE2, AVX2, isas.AVX512, AVX512_FULL)
INTEGERS = (DType.U8, DType.I8, DType.I16)


@pytest.mark.parametrize("isa", ISAS, ids=lambda isa: isa.name)
@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize("a, b", itertools.product(INTEGERS, INTEGERS), ids=str)
def test_integers_meet_in_types_that_hold_them(isa: Isa, is_open: bool, a: DType, b: DType) -> None:
    by = multiply(isa.core, a, b, is_open)
    for own, met in ((a, by.a), (b, by.b)):
        assert np.can_cast(own.numpy, met.numpy), (own, met)


def test_bytes_meet_as_they_are_where_an_instruction_takes_them() -> None:
    found = multiply(AVX512_FULL.core, DType.U8, DType.I8)
    assert (found.a, found.b, found.interleave) == (DType.U8, DType.I8, 4)
    assert multiply(AVX2.core, DType.U8, DType.I8).a is DType.I16
