"""How A comes to the template where it is multiplied in a wider type than it lies in."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mapsto.devices.contraction import stage
from mapsto.devices.contraction.form import ContractionForm, LoopAxis
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import evaluate, sym
from mapsto.loop import ast as loop
from mapsto.loop.ast import Function, Param
from mapsto.loop.interpret import interpret

SHORTS = ContractionForm(
    name="f",
    a=Param("a", DType.I8),
    b=Param("b", DType.I16),
    out=Param("out", DType.I32, True),
    accumulator=DType.I32,
    columns=16,
    rows=(LoopAxis(4, 300, 0, 16),),
    channels=300,
    interleave=2,
    staged=DType.I16,
)


@pytest.mark.parametrize("dtype", [DType.I8, DType.U8, DType.I16])
@pytest.mark.parametrize("pair", [(3, 5), (-3, 5), (3, -5), (-1, -128), (127, 0), (-128, 127)])
def test_a_pair_that_is_read_by_itself_keeps_both_signs(dtype: DType, pair: tuple[int, int]) -> None:
    """The word that a dot product takes: the first element in its lower half; alone, the upper half is 0."""
    a = np.array(pair).astype(dtype.numpy)
    form = replace(SHORTS, a=Param("a", dtype))
    body = tuple(loop.Store("out", count - 1, stage.lone_group(form, 0, count)) for count in (1, 2))
    out = np.zeros(2, np.int32)
    interpret(Function("f", (form.a, form.out), (), body), [a, out], {}, 0, 1)
    assert out.view(np.int16).reshape(2, 2).tolist() == [[int(a[0]), 0], [int(a[0]), int(a[1])]]


@pytest.mark.parametrize("interleave", [1, 2])
@pytest.mark.parametrize("groups", [1, 2, 31, 32, 33, 63, 64, 65, 127, 128, 129, 300, 512])
@pytest.mark.parametrize("stride", [300, 20])
@pytest.mark.parametrize("is_open", [False, True])
def test_pieces_cover_every_group_once_and_nothing_past_them(
    interleave: int, groups: int, stride: int, is_open: bool
) -> None:
    staged = DType.I16 if interleave == 2 else DType.F32
    form = replace(SHORTS, interleave=interleave, staged=staged, rows=(LoopAxis(4, stride, 0, 16),))
    found = []
    for piece in stage.pieces(form, sym("g") if is_open else groups, "p"):
        for number in range(evaluate(piece.count, {"g": groups})):
            sizes = {"g": groups, "p": number}
            first = evaluate(piece.first, sizes)
            found += range(first, first + evaluate(piece.groups, sizes))
    assert found == list(range(groups))
