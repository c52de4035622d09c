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
RESIZE = {
    "scales": None, "mode": "linear", "coordinate_mode": "half_pixel", "nearest_mode": "floor", "cubic_coeff_a": -0.75,
    "exclude_outside": False,
}  # fmt: skip
CONV = {"strides": (1, 1), "pads": (1, 1, 1, 1), "dilations": (1, 1), "group": 1}


def _r(*shape, seed=0, low=-2.0, high=2.0):
    return np.random.default_rng(seed + 31 * sum(shape)).uniform(low, high, shape)


def _positive(*shape):
    return _r(*shape, low=0.3, high=2.0)


def _holed(*shape):
    """With a zero in the second row and two in the third, where there are so many."""
    x = _r(*shape)
    x[1, 2] = 0
    x[2, 1] = x[2, 3] = 0
    return x


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
    "tan": ([_r(3, low=-1.2, high=1.2)], {}),
    "asin": ([_r(3, low=-0.8, high=0.8)], {}),
    "acos": ([_r(3, low=-0.8, high=0.8)], {}),
    "atan": ([_r(3)], {}),
    "sinh": ([_r(3)], {}),
    "cosh": ([_r(3)], {}),
    "asinh": ([_r(3)], {}),
    "acosh": ([_r(3, low=1.2, high=3.0)], {}),
    "atanh": ([_r(3, low=-0.8, high=0.8)], {}),
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
    "mod": ([_positive(2, 3) * 3, _positive(3)], {"fmod": False}),
    "select": ([np.array([[True], [False]]), _r(2, 3), _r(3)], {}),
    "reshape": ([_r(2, 6)], {"shape": (3, 4)}),
    "transpose": ([_r(2, 3, 4)], {"perm": (2, 0, 1)}),
    "expand": ([_r(2, 1)], {"shape": (3, 2, 4)}),
    "slice": ([_r(5, 7)], {"starts": (4, 1), "steps": (-1, 2), "shape": (3, 3)}),
    "concat": ([_r(2, 3), _r(2, 1)], {"axis": 1}),
    "pad": ([_r(2, 3)], {"before": (1, 0), "after": (0, 2), "mode": "constant", "value": 3.0}),
    "tile": ([_r(2, 3)], {"repeats": (2, 3)}),
    "resize": ([_r(1, 2, 3, 4)], {**RESIZE, "sizes": (1, 2, 5, 7)}),
    "topk": ([_r(2, 5)], {"axis": 1, "k": 3, "largest": True, "sorted": True}),
    "gather_elements": ([_r(3, 4), np.array([[2, 0, 2, -1], [0, 0, 1, 1]])], {"axis": 0}),
    "gather_nd": ([_r(2, 3, 4), np.array([[[0, 1], [2, -1]], [[0, 1], [0, 1]]])], {"batch_dims": 1}),
    "scatter_elements": ([_r(3, 4), np.array([[2, 0, 1, 0]]), _r(1, 4)], {"axis": 0, "reduction": "none"}),
    "scatter_nd": ([_r(3, 4), np.array([[2], [0], [2]]), _r(3, 4, seed=4)], {"reduction": "add"}),
    "gather": ([_r(2, 3, 4), AT], {"axis": 1}),
    "matmul": ([_r(2, 3, 4), _r(4, 5)], {}),
    "conv": ([_r(2, 4, 6, 5), _r(6, 2, 3, 2), _r(6)], {**CONV, "strides": (2, 1), "dilations": (1, 2), "group": 2}),
    "max_pool": ([_r(1, 2, 5, 5)], {"kernel": (3, 2), "strides": (2, 1), "pads": (1, 0, 1, 1), "dilations": (1, 1)}),
    "max_pool_gradient": ([_r(2, 2, 6, 4), _r(2, 2, 3, 2, seed=7)], {"kernel": (2, 2)}),
    "conv_transpose": (
        [_r(2, 4, 3, 4), _r(4, 3, 3, 2), _r(6)],
        {**CONV, "strides": (2, 1), "dilations": (1, 2), "group": 2, "output_padding": (1, 0)},
    ),
    "avg_pool": (
        [_r(1, 2, 6, 5)],
        {"kernel": (3, 2), "strides": (2, 1), "pads": (1, 0, 1, 1), "dilations": (1, 1), "count_include_pad": False},
    ),
    "cumprod": ([_holed(3, 5)], {"axis": 1, "exclusive": False, "reverse": False}),
    "cumsum": ([_r(2, 4)], {"axis": 1, "exclusive": True, "reverse": False}),
    "reduce": ([_r(2, 3, 4)], {"kind": "mean", "axes": (0, 2), "keepdims": False}),
}
POOL = {"strides": (2, 2), "kernel": (2, 2), "pads": (0, 0, 0, 0), "dilations": (1, 1)}
ROWS = np.array([[2, 0, 1, 0], [1, 0, 1, 1]])
MORE = {
    "fmod": ("mod", [_r(2, 3) * 3, _positive(3)], {"fmod": True}),
    "max_pool_apart": ("max_pool", [_r(2, 2, 5, 4)], POOL),
    "max_pool_of_a_line": ("max_pool", [_r(1, 2, 6)],
                           {"strides": (2,), "kernel": (2,), "pads": (0, 0), "dilations": (1,)}),
    "avg_pool_apart": ("avg_pool", [_r(2, 2, 5, 4)], {**POOL, "count_include_pad": True}),
    "avg_pool_padded": ("avg_pool", [_r(1, 1, 5, 5)],
                        {**POOL, "pads": (1, 0, 1, 1), "count_include_pad": True, "ceil_pads": (0, 1)}),
    "conv_transpose_plain": ("conv_transpose", [_r(1, 2, 4, 4), _r(2, 3, 3, 3)], {**CONV, "output_padding": (0, 0)}),
    "cumprod_from_behind": ("cumprod", [_holed(3, 5)], {"axis": 1, "exclusive": True, "reverse": True}),
    "topk_smallest": ("topk", [_r(4, 3)], {"axis": 0, "k": 2, "largest": False, "sorted": True}),
    "resize_nearest": ("resize", [_r(1, 2, 3, 4)], {**RESIZE, "mode": "nearest", "coordinate_mode": "asymmetric",
                                                    "sizes": (1, 2, 6, 5)}),
    "resize_cubic": ("resize", [_r(1, 1, 6, 4)], {**RESIZE, "mode": "cubic", "sizes": (1, 1, 4, 7)}),
    **{f"pad_{m}": ("pad", [_r(3, 4)], {"before": (1, 2), "after": (0, 2), "mode": m, "value": 0.0})
       for m in ("reflect", "edge", "wrap")},
    **{f"scatter_{r}": ("scatter_elements", [_r(3, 4), ROWS, _r(2, 4, seed=3)], {"axis": 0, "reduction": r})
       for r in ("add", "mul", "min", "max")},
    **{f"scatter_nd_{r}": ("scatter_nd", [_r(3, 4), np.array([[2, 1], [0, 3], [2, 1]]), _r(3, seed=8)],
                           {"reduction": r})
       for r in ("mul", "min", "max")},
    "scatter_zeros": ("scatter_elements", [_holed(3, 4), ROWS, np.array([[0.0, 0, 2, 1], [3, 0, 0, 0.5]])],
                      {"axis": 0, "reduction": "mul"}),
    "reduce_prod": ("reduce", [_holed(3, 4)], {"kind": "prod", "axes": (1,), "keepdims": False}),
    "reduce_prod_all": ("reduce", [_r(2, 3)], {"kind": "prod", "axes": (0, 1), "keepdims": True}),
    "pow_constant": ("pow", [_r(3), np.array(3.0)], {}),
    "gather_at_the_end": ("gather", [_r(4, 3), np.array([[2, -1], [0, 2]])], {"axis": -1}),
    "matmul_of_many_rows": ("matmul", [_r(2, 256, 2), _r(2, 3)], {}),
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
    flat = {"floor", "ceil", "round", "sign", "detach"}  # their gradient is zero
    assert {name for name in known_ops() if op(name).gradient is not None} - flat == set(CASES)


@pytest.mark.parametrize("case", _all_cases())
def test_gradient(case):
    name, arrays, attrs = _all_cases()[case]
    b = Builder("t")
    constant = {1} if case == "pow_constant" else set()
    values = [
        b.constant(a) if k in constant else b.input(f"x{k}", from_numpy(a.dtype), a.shape) for k, a in enumerate(arrays)
    ]
    given = {f"x{k}": a for k, a in enumerate(arrays) if k not in constant}
    y = b.add(name, values, attrs)[0]
    node = next(n for n in b.nodes if n.op == name)
    g = b.input("g", DType.F64, y.shape)
    rule = op(name).gradient
    assert rule is not None
    found = rule(b, node, [g, *[None] * (len(node.outputs) - 1)])
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
