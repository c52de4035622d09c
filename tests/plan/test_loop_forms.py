"""How loops are divided."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

import mapsto
from mapsto.ir.expr import Dim, sym
from mapsto.plan.loop_forms import BLOCK_TERMS, FEW_TERMS, sum_division


@pytest.mark.parametrize("extents", [(0, sym("n")), (sym("n"), 0), (0, 10**6), (3, 0, sym("n"), 3)])
def test_a_sum_of_no_terms_is_not_divided(extents: tuple[Dim, ...]) -> None:
    assert sum_division(extents) is None
    assert sum_division((sym("n"), 5), inside=0) is None


def test_a_sum_is_divided_where_a_block_is_full() -> None:
    assert sum_division((FEW_TERMS,)) is None
    assert sum_division((FEW_TERMS + 1,)) == (0, BLOCK_TERMS)
    assert sum_division((sym("n"), 4), inside=8) == (0, BLOCK_TERMS // 32)
    assert sum_division((4, sym("n")), inside=8) == (1, BLOCK_TERMS // 8)


def test_a_window_that_meets_nothing_of_an_open_number_of_channels() -> None:
    """Weights whose number of channels is open: their windows lie outside of the image in some of its rows."""
    x, w = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (("x", [1, 1, 7, 5]), ("w", [1, "n", 3, 3]))
    )
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    node = helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2])
    graph = helper.make_graph([node], "g", [x, w], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    exe = mapsto.compile(model, threads=1, cache=False)
    found = exe(np.ones((1, 1, 7, 5), np.float32), np.ones((1, 1, 3, 3), np.float32))
    np.testing.assert_array_equal(np.asarray(found).reshape(4, 3)[:, 1], [6, 9, 9, 6])
