"""The same loop code on two devices: LLVM on the processor, OpenCL C elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from tests import opencl
from tests.devices.generic.support import Array, Case, call, check, compiled, filled, lowered
from tests.devices.generic.test_lower import CASES
from tests.devices.generic.test_tiles import far, turned
from tests.devices.opencl.support import built

from mapsto.devices.cpu.isa import host
from mapsto.loop.ast import Function

NAMES = ["elementwise chain", "argmax", "softmax", "layer norm", "reduce outer and inner", "conv", "matmul", "gather"]


def on_opencl(function: Function, buffers: Sequence[Array], sizes: Mapping[str, int], begin: int, end: int) -> None:
    built(opencl.device(), [function])[function.name](buffers, sizes, begin, end)


@pytest.mark.opencl
@pytest.mark.parametrize("name", NAMES)
def test_same_code_same_answer(name: str) -> None:
    case: Case = CASES[name]()
    check(case, on_opencl, shares=1)
    function, extent, scratch, _ = lowered(case)
    assert not scratch and isinstance(extent, int)
    layouts = case.all_layouts()
    results = []
    for run in (on_opencl, on_processor):
        buffers = [filled(case.inputs[t.name], layouts[t.name], {}) for t in case.kernel.inputs]
        buffers += [np.zeros(layouts[t.name].elements, t.dtype.numpy) for t in case.kernel.outputs]
        run(function, buffers, {}, 0, extent)
        results.append(buffers[-1])
    # multiplications and additions may be contracted differently: a few units in the last place
    np.testing.assert_allclose(results[0], results[1], rtol=2e-6, atol=2e-6)


@pytest.mark.opencl
@pytest.mark.parametrize("moved", ["bytes", "floats", "far"])
def test_tiles(moved: str) -> None:
    """Tiles wider than high; results that wait in an array; loads that are asked for ahead, which is nothing here."""
    made = {
        "bytes": lambda: turned((64, 64), (1, 0), np.uint8),
        "floats": lambda: turned((64, 1024), (1, 0)),
        "far": lambda: far((64, 80)),
    }
    check(made[moved](), on_opencl, shares=1)


def on_processor(function: Function, buffers: Sequence[Array], sizes: Mapping[str, int], begin: int, end: int) -> None:
    call(compiled(function, host()), function, buffers, sizes, begin, end)
