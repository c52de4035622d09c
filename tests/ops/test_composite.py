"""Composite functions against their formulas in f64, and that half precision is rounded once."""

import math

import numpy as np
import pytest

from mapsto.ir.dtypes import DType, from_numpy
from mapsto.ops import composite
from mapsto.ops.builder import Builder
from mapsto.ops.interpret import run_graph

RNG = np.random.default_rng(3)
X = RNG.normal(0, 2, (2, 6, 4)).astype(np.float32)
V = RNG.uniform(0.5, 1.5, 6).astype(np.float32)
LAST, SHIFT = (RNG.uniform(0.5, 1.5, 4).astype(np.float32) for _ in range(2))
# scale, bias, mean, variance of each channel
S, B, M, R = (RNG.uniform(0.5, 1.5, 6).astype(np.float32) for _ in range(4))


def _channel(v):
    return v.astype(np.float64)[:, None]


def _softmax(x, axis):
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return e / e.sum(axis=axis, keepdims=True)


def _normal(x, axes, eps):
    return (x - x.mean(axis=axes, keepdims=True)) / np.sqrt(x.var(axis=axes, keepdims=True) + eps)


def _sigmoid(x):
    return 1 / (1 + np.exp(-x))


erf, erfc = np.vectorize(math.erf), np.vectorize(math.erfc)
CASES = {
    "softmax": (lambda b, x: composite.softmax(b, x, 1), lambda x: _softmax(x, 1)),
    "log_softmax": (lambda b, x: composite.log_softmax(b, x, -1), lambda x: np.log(_softmax(x, 2))),
    "log_sum_exp": (
        lambda b, x: composite.log_sum_exp(b, x, [0, 2], False),
        lambda x: np.log(np.exp(x).sum(axis=(0, 2))),
    ),
    "layer_norm": (
        lambda b, x: composite.layer_norm(b, x, b.constant(LAST), b.constant(SHIFT), -1, 1e-5),
        lambda x: _normal(x, 2, 1e-5) * LAST + SHIFT,
    ),
    "rms_norm": (
        lambda b, x: composite.rms_norm(b, x, b.constant(LAST), -1, 1e-5),
        lambda x: x / np.sqrt((x * x).mean(axis=2, keepdims=True) + 1e-5) * LAST,
    ),
    "batch_norm": (
        lambda b, x: composite.batch_norm(b, x, *(b.constant(v) for v in (S, B, M, R)), 1e-3),
        lambda x: (x - _channel(M)) / np.sqrt(_channel(R) + 1e-3) * _channel(S) + _channel(B),
    ),
    "instance_norm": (
        lambda b, x: composite.instance_norm(b, x, b.constant(S), b.constant(B), 1e-5),
        lambda x: _normal(x, 2, 1e-5) * _channel(S) + _channel(B),
    ),
    "group_norm": (
        lambda b, x: composite.group_norm(b, x, b.constant(S), b.constant(B), 3, 1e-5),
        lambda x: _normal(x.reshape(2, 3, 8), 2, 1e-5).reshape(2, 6, 4) * _channel(S) + _channel(B),
    ),
    "lp_norm": (lambda b, x: composite.lp_norm(b, x, 1, 2), lambda x: x / np.sqrt((x * x).sum(axis=1, keepdims=True))),
    "lp_norm_1": (lambda b, x: composite.lp_norm(b, x, 1, 1), lambda x: x / np.abs(x).sum(axis=1, keepdims=True)),
    "gelu": (lambda b, x: composite.gelu(b, x), lambda x: x / 2 * (1 + erf(x / math.sqrt(2)))),
    "gelu_tanh": (
        lambda b, x: composite.gelu(b, x, "tanh"),
        lambda x: x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    ),
    "silu": (lambda b, x: composite.quick_gelu(b, x, 1.0), lambda x: x * _sigmoid(x)),
    "quick_gelu": (lambda b, x: composite.quick_gelu(b, x), lambda x: x * _sigmoid(1.702 * x)),
    "hard_sigmoid": (lambda b, x: composite.hard_sigmoid(b, x), lambda x: np.clip(0.2 * x + 0.5, 0, 1)),
    "hard_swish": (lambda b, x: composite.hard_swish(b, x), lambda x: x * np.clip(x / 6 + 0.5, 0, 1)),
    "mish": (lambda b, x: composite.mish(b, x), lambda x: x * np.tanh(np.log1p(np.exp(x)))),
    "softsign": (lambda b, x: composite.softsign(b, x), lambda x: x / (1 + np.abs(x))),
    "selu": (lambda b, x: composite.selu(b, x, 1.67, 1.05), lambda x: 1.05 * np.where(x < 0, 1.67 * np.expm1(x), x)),
    "prelu": (
        lambda b, x: composite.prelu(b, x, b.constant(np.asarray(0.25, x.dtype.numpy))),
        lambda x: np.where(x < 0, x / 4, x),
    ),
}


def _local_response(x):
    square = np.pad(x * x, ((0, 0), (1, 1), (0, 0)))
    total = square[:, :-2] + square[:, 1:-1] + square[:, 2:]
    return x / (2 + 0.3 / 3 * total) ** 0.75


CASES["local_response_norm"] = (lambda b, x: composite.local_response_norm(b, x, 3, 0.3, 0.75, 2.0), _local_response)


@pytest.mark.parametrize("dtype,tolerance", [(DType.F32, 3e-6), (DType.F16, 1e-3), (DType.BF16, 8e-3)])
@pytest.mark.parametrize("name", CASES)
def test_formula(name, dtype, tolerance):
    build, formula = CASES[name]
    x = X.astype(dtype.numpy)
    b = Builder("g")
    y = build(b, b.input("x", dtype, x.shape))
    (found,) = run_graph(b.finish([y]), {"x": x}).values()
    expected = formula(x.astype(np.float64))
    assert from_numpy(found.dtype) is dtype and found.shape == expected.shape
    np.testing.assert_allclose(found.astype(np.float64), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("value", [1e4, -1e4])
def test_softmax_of_large_values_is_finite(value):
    b = Builder("g")
    y = composite.softmax(b, b.constant(np.array([value, value, 0], np.float32)), 0)
    assert np.isfinite(b.array(y)).all() and b.array(y).sum() == pytest.approx(1)


def test_log_sum_exp_of_nothing_possible():
    b = Builder("g")
    y = composite.log_sum_exp(b, b.constant(np.full(3, -np.inf, np.float32)), [0], True)
    assert b.array(y).tolist() == [-np.inf]


def test_batch_norm_with_constants_is_one_multiply_add():
    b = Builder("g")
    CASES["batch_norm"][0](b, b.input("x", DType.F32, X.shape))
    assert [n.op for n in b.nodes] == ["mul", "add"]


@pytest.mark.parametrize("trans_x", [False, True])
@pytest.mark.parametrize("trans_y", [False, True])
def test_gemm(trans_x, trans_y):
    x, y, c = (RNG.normal(size=s).astype(np.float32) for s in ((3, 4), (4, 5), (5,)))
    b = Builder("g")
    operands = [b.constant(x.T if trans_x else x), b.constant(y.T if trans_y else y), b.constant(c)]
    found = b.array(composite.gemm(b, *operands, 0.5, 2.0, trans_x, trans_y))
    np.testing.assert_allclose(found, 0.5 * (x @ y) + 2 * c, rtol=1e-5, atol=1e-5)


def test_gemm_of_integers_with_a_fraction():
    b = Builder("g")
    x, y = (b.constant(np.full((2, 2), v, np.int32)) for v in (3, 2))
    assert b.array(composite.gemm(b, x, y, None, 0.5)).tolist() == [[6, 6], [6, 6]]


def test_erfc_keeps_its_digits_where_erf_has_none():
    """1 - erf(x) is 0 from x = 6 on; at 26 erfc is 1e-296."""
    x = np.array([*np.linspace(-6, 26, 641), np.inf, -np.inf, np.nan])
    b = Builder("test")
    b.input("x", DType.F64, x.shape)
    found = run_graph(b.finish([composite.erfc(b, b.lookup("x"))], names=["y"]), {"x": x})["y"]
    np.testing.assert_allclose(found, erfc(x), rtol=2e-13, atol=0)
