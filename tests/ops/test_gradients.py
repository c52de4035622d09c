"""Every gradient rule against central finite differences, in f64."""

import numpy as np
import pytest

import mapsto.ops  # noqa: F401
from mapsto.ir.dtypes import DType, from_numpy
from mapsto.ops.builder import Builder
from mapsto.ops.interpret import run_graph
from mapsto.ops.registry import known_ops, op
from mapsto.ops.verify import verify_graph

STEP = 1e-6
CONV = {"strides": (1, 1), "pads": (1, 1, 1, 1), "dilations": (1, 1), "group": 1}


def _r(*shape, seed=0, low=-2.0, high=2.0):
    return np.random.default_rng(seed + 31 * sum(shape)).uniform(low, high, shape)


def _positive(*shape):
    return _r(*shape, low=0.3, high=2.0)


AT = np.array([2, 0, 2])
# name -> (operands, attributes); integers and bools get no gradient
CASES = {
    "neg": ([_r(3)], {}),
    "abs": ([_r(3)], {}),
    "sqrt": ([_positive(3)], {}),
    "exp": ([_r(3)], {}),
    "log": ([_positive(3)], {}),
    "tanh": ([_r(3)], {}),
    "sigmoid": ([_r(3)], {}),
    "erf": ([_r(3)], {}),
    "softplus": ([_r(3)], {}),
    "relu": ([_r(5)], {}),
    "leaky_relu": ([_r(5)], {"alpha": 0.2}),
    "elu": ([_r(5)], {"alpha": 0.7}),
    "reciprocal": ([_positive(3)], {}),
    "sin": ([_r(3)], {}),
    "cos": ([_r(3)], {}),
    "copy": ([_r(3)], {}),
    "cast": ([_r(3)], {"to": DType.F64}),
    "add": ([_r(2, 3), _r(3)], {}),
    "sub": ([_r(2, 1), _r(1, 3)], {}),
    "mul": ([_r(2, 3), _r(2, 1)], {}),
    "div": ([_r(2, 3), _positive(3)], {}),
    "pow": ([_positive(2, 3), _positive(3)], {}),
    "min": ([_r(2, 3), _r(3, seed=5)], {}),
    "variadic": ([_r(2, 3), _r(3, seed=5), _r(2, 1, seed=6)], {"fn": "max"}),
    "max": ([_r(2, 3), _r(1, 3, seed=5)], {}),
    "select": ([np.array([[True], [False]]), _r(2, 3), _r(3)], {}),
    "reshape": ([_r(2, 6)], {"shape": (3, 4)}),
    "transpose": ([_r(2, 3, 4)], {"perm": (2, 0, 1)}),
    "expand": ([_r(2, 1)], {"shape": (3, 2, 4)}),
    "slice": ([_r(5, 7)], {"starts": (4, 1), "steps": (-1, 2), "shape": (3, 3)}),
    "concat": ([_r(2, 3), _r(2, 1)], {"axis": 1}),
    "pad": ([_r(2, 3)], {"before": (1, 0), "after": (0, 2), "mode": "constant", "value": 3.0}),
    "gather": ([_r(2, 3, 4), AT], {"axis": 1}),
    "matmul": ([_r(2, 3, 4), _r(4, 5)], {}),
    "conv": ([_r(2, 4, 6, 5), _r(6, 2, 3, 2), _r(6)], {**CONV, "strides": (2, 1), "dilations": (1, 2), "group": 2}),
    "max_pool": ([_r(1, 2, 5, 5)], {"kernel": (3, 2), "strides": (2, 1), "pads": (1, 0, 1, 1), "dilations": (1, 1)}),
    "cumsum": ([_r(2, 4)], {"axis": 1, "exclusive": True, "reverse": False}),
    "reduce": ([_r(2, 3, 4)], {"kind": "mean", "axes": (0, 2), "keepdims": False}),
}
MORE = {
    "pow_constant": ("pow", [_r(3), np.array(3.0)], {}),
    "gather_at_the_end": ("gather", [_r(4, 3), np.array([[2, -1], [0, 2]])], {"axis": -1}),
    "matmul_vector_left": ("matmul", [_r(4), _r(2, 4, 3)], {}),
    "matmul_vector_right": ("matmul", [_r(2, 3, 4), _r(4)], {}),
    "matmul_vectors": ("matmul", [_r(4), _r(4, seed=1)], {}),
    "matmul_broadcast": ("matmul", [_r(1, 3, 4), _r(5, 4, 2)], {}),
    "conv_unread": ("conv", [_r(1, 1, 6, 6), _r(2, 1, 2, 2)], {**CONV, "strides": (3, 3), "pads": (0, 0, 0, 0)}),
    **{
        f"reduce_{k}": ("reduce", [_r(3, 4)], {"kind": k, "axes": (1,), "keepdims": True})
        for k in ("sum", "max", "min")
    },
}  # fmt: skip


def _all_cases():
    found = {name: (name, *case) for name, case in CASES.items()}
    return {**found, **MORE}


def test_every_gradient_has_a_case():
    assert {name for name in known_ops() if op(name).gradient is not None} == set(CASES)


@pytest.mark.parametrize("case", _all_cases())
def test_gradient(case):
    name, arrays, attrs = _all_cases()[case]
    b = Builder("t")
    constant = {1} if case == "pow_constant" else set()
    values = [
        b.constant(a) if k in constant else b.input(f"x{k}", from_numpy(a.dtype), a.shape) for k, a in enumerate(arrays)
    ]
    given = {f"x{k}": a for k, a in enumerate(arrays) if k not in constant}
    (y,) = b.add(name, values, attrs)
    node = next(n for n in b.nodes if n.op == name)
    g = b.input("g", DType.F64, y.shape)
    rule = op(name).gradient
    assert rule is not None
    found = rule(b, node, [g])
    assert len(found) == len(arrays)
    differentiable = [k for k, a in enumerate(arrays) if a.dtype == np.float64 and k not in constant]
    assert [k for k, v in enumerate(found) if v is not None] == differentiable
    graph = b.finish([y, *(v for v in found if v is not None)])
    verify_graph(graph, provenance=False)
    incoming = np.random.default_rng(9).uniform(0.5, 1.5, [int(d) for d in y.shape])

    def loss(operands):
        return float((run_graph(graph, {**operands, "g": incoming})[graph.outputs[0]] * incoming).sum())

    outputs = run_graph(graph, {**given, "g": incoming})
    for k, output in zip(differentiable, graph.outputs[1:], strict=True):
        expected = _differences(loss, given, f"x{k}")
        np.testing.assert_allclose(outputs[output], expected, rtol=1e-6, atol=1e-7, err_msg=f"{case}, operand {k}")


def _differences(loss, given, name):
    result = np.zeros_like(given[name])
    for at in np.ndindex(result.shape):
        moved = []
        for sign in (1, -1):
            array = given[name].copy()
            array[at] += sign * STEP
            moved.append(loss({**given, name: array}))
        result[at] = (moved[0] - moved[1]) / (2 * STEP)
    return result


def test_a_pool_s_windows_beside_the_input_give_nothing_back():
    b = Builder("t")
    x = b.input("x", DType.F64, (1, 1, 2, 2))
    attrs = {"kernel": (1, 1), "strides": (1, 1), "pads": (1, 0, 1, 0), "dilations": (1, 1)}
    (y,) = b.add("max_pool", [x], attrs)
    g = b.input("g", DType.F64, y.shape)
    rule = op("max_pool").gradient
    assert rule is not None
    (found,) = rule(b, next(n for n in b.nodes if n.op == "max_pool"), [g])
    assert found is not None
    given = np.arange(1, 9, dtype=np.float64).reshape(1, 1, 4, 2)
    (result,) = run_graph(b.finish([found]), {"x": _r(1, 1, 2, 2), "g": given}).values()
    assert result.tolist() == given[:, :, 1:3].tolist()
