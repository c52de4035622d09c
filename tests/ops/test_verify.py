"""The verifier of types: what a node says of its outputs is what the shape rule says."""

import numpy as np
import pytest

from mapsto.errors import VerifyError
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import sym
from mapsto.ir.text import parse_graph
from mapsto.ops.builder import Builder
from mapsto.ops.verify import verify_graph


def test_a_built_graph_verifies():
    b = Builder("main")
    with b.source("Layer_0"):
        n = sym("n")
        x = b.input("x", DType.F32, (n, 3))
        y = b.one("matmul", [x, b.constant(np.ones((3, 4), np.float32))])
        then, other = Builder("then", b), Builder("else", b)
        first = then.finish([then.one("neg", [y])])
        second = other.finish([y])
        (z,) = b.add(
            "if", [b.one("reduce", [b.one("gt", [y, y])], kind="any", axes=(0, 1), keepdims=False)], {}, [first, second]
        )
    assert z.shape == (n, 4)
    verify_graph(b.finish([z]))


@pytest.mark.parametrize(
    "line,message",
    [
        ('y: f32[n, 5] = matmul(x, w) from "a"', r"y is \[n, 5\], the shape rule says \[n, 4\]"),
        ('y: f32[n] = matmul(x, w) from "a"', r"y is \[n\], the shape rule says \[n, 4\]"),
        ('y: f64[n, 4] = matmul(x, w) from "a"', "y is f64, the shape rule says f32"),
        ('y: f32[n, 4] = matmul(w, w) from "a"', "the shape rule refuses this node"),
        ('y: f32[n, 4] = matmul(x) from "a"', "input 1 is missing"),
        ('y: f32[n, 3] = reduce(x) {axes: (0,), keepdims: true} from "a"', "attribute 'kind' is missing"),
        ('y: f32[n, 3], z: f32[n, 3] = neg(x) from "a"', "2 outputs, the shape rule gives 1"),
        ('y: f32[n, 3] = negate(x) from "a"', "there is no op named 'negate'"),
    ],
)
def test_faults(line, message):
    graph = parse_graph(f"graph g(x: f32[n, 3], w: f32[3, 4]) -> (y) {{\n  {line}\n}}\n")
    with pytest.raises(VerifyError, match=message) as found:
        verify_graph(graph)
    assert "^" in str(found.value) and line.split(" from")[0] in str(found.value)


def test_extents_that_may_be_equal_are_left_to_the_run():
    verify_graph(
        parse_graph('graph g(x: f32[n, m]) -> (y) {\n  y: f32[n, 4] = expand(x) {shape: (<n>, 4)} from "a"\n}\n')
    )
