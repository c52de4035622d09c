"""Vector mathematics against exact references: error in ulp, special values, signs of zero."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
from tests.loop.helpers import evaluate_lanes, fresh_names, native, streamed

from mapsto.devices.cpu.isa import Isa
from mapsto.errors import UnsupportedError
from mapsto.ir.dtypes import DType, from_numpy
from mapsto.kernel.ast import SCALAR_FNS
from mapsto.loop.ast import Const, Type
from mapsto.loop.functions import ERROR_ULP, FUNCTIONS, emit
from mapsto.loop.interpret import interpret

UNARY = sorted({fn for fn, _ in ERROR_ULP} - {"pow"})
DIRECT = {
    *(
        "neg",
        "abs",
        "sqrt",
        "floor",
        "ceil",
        "not",
        "bitnot",
        "bitcast",
        "add",
        "sub",
        "mul",
        "div",
        "min",
        "max",
        "fma",
        "select",
    ),
    *("eq", "ne", "lt", "le", "gt", "ge", "and", "or", "xor", "bitand", "bitor", "bitxor", "shl", "shr"),
}


def evaluate(fn: str, *inputs: np.ndarray) -> np.ndarray:
    return evaluate_lanes(lambda args: emit(fn, args, fresh_names()), list(inputs))


def _sigmoid(x: np.ndarray) -> np.ndarray:
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1.0) / (1.0 + e)


NUMPY = {
    **{fn: getattr(np, fn) for fn in ("exp", "expm1", "log", "log1p", "tanh", "sin", "cos", "tan", "sinh", "cosh")},
    **{fn: getattr(np, "arc" + fn[1:]) for fn in ("asin", "acos", "atan", "asinh", "acosh", "atanh")},
    "erf": np.vectorize(math.erf, otypes=[np.float64]),
    "sigmoid": _sigmoid,
}


def specials(dtype: type) -> np.ndarray:
    info = np.finfo(dtype)
    edges = [
        info.max,
        info.tiny,
        info.smallest_subnormal,
        info.tiny / 2,
        np.inf,
        0.0,
        1.0,
        0.5,
        2.0,
        np.pi,
        1e5,
        2.0**30,
    ]
    around_one = [np.nextafter(dtype(1), dtype(2)), np.nextafter(dtype(1), dtype(0))]
    values = np.array([*edges, *around_one], dtype)
    return np.concatenate([values, -values, np.array([np.nan], dtype)])


def samples(dtype: type, count: int, seed: int) -> np.ndarray:
    """Random bit patterns, uniform at several scales, around +-1, multiples of pi/2, special values."""
    rng = np.random.default_rng(seed)
    integer = {np.float32: np.uint32, np.float64: np.uint64}[dtype]
    bits = rng.integers(0, np.iinfo(integer).max, count, dtype=integer, endpoint=True).view(dtype)
    uniform = [rng.uniform(-s, s, count) for s in (1, 8, 120)]
    small = np.exp(rng.uniform(-40, 3, count)) * rng.choice([-1, 1], count)
    near_one = (1 + np.exp(rng.uniform(-35, 0, count)) * rng.choice([-1, 1], count)) * rng.choice([-1, 1], count)
    turns = np.pi / 2 * rng.integers(1, 10**6, count)
    others = [a.astype(dtype) for a in (*uniform, small, near_one, turns)]
    return np.concatenate([bits, *others, specials(dtype)])


def ulp_size(exact: np.ndarray, dtype: type) -> np.ndarray:
    """The spacing of `dtype` at f64 values."""
    info = np.finfo(dtype)
    _, exponent = np.frexp(exact)
    return np.ldexp(1.0, np.maximum(exponent - 1, info.minexp) - info.nmant)


@pytest.mark.parametrize("fn", UNARY)
def test_f32_error_stays_within_the_stated_bound(fn: str) -> None:
    x = samples(np.float32, 40_000, seed=7)
    got = evaluate(fn, x)
    with np.errstate(all="ignore"):
        exact = NUMPY[fn](x.astype(np.float64))
        rounded = exact.astype(np.float32)
        error = np.abs(got.astype(np.float64) - exact) / ulp_size(exact, np.float32)
    finite = np.isfinite(rounded)
    edge = np.isinf(rounded) & np.isfinite(exact) & (np.abs(exact) < 2.0**128)  # rounds either way at the largest float
    np.testing.assert_array_equal(np.isnan(got), np.isnan(rounded))
    np.testing.assert_array_equal(got[~finite & ~edge], rounded[~finite & ~edge])
    flushed = (got == 0) & (np.abs(exact) < FLUSHED.get((fn, DType.F32), 0.0))
    error = np.where(flushed, 0, error)
    worst = np.argmax(np.where(finite, error, 0))
    assert error[worst] <= ERROR_ULP[fn, DType.F32], f"{fn}({x[worst]!r}) = {got[worst]!r}, exact {exact[worst]!r}"
    zero = rounded == 0
    np.testing.assert_array_equal(np.signbit(got[zero & (got == 0)]), np.signbit(rounded[zero & (got == 0)]))


# Smaller results than that are 0: they would be denormal, or little larger.
FLUSHED = {("sigmoid", DType.F32): 1.3e-38, ("sigmoid", DType.F64): 2.5e-308}

EXACT = {
    **{fn: getattr(mpmath, fn) for fn in set(UNARY) - {"sigmoid"}},
    "sigmoid": lambda x: 1 / (1 + mpmath.exp(-x)),
}


SATURATES = ("exp", "expm1", "tanh", "erf", "sigmoid")  # 0, 1, -1 or infinite far from the origin


def exact_f64(fn: str, x: float) -> mpmath.mpf:
    """The function in high precision for a finite x inside its domain."""
    # The argument's exponent costs bits: 2^1023 modulo pi needs more than 1023 of them, log1p(2^-1074) as many.
    with mpmath.workprec(2300 if not 1e-30 < abs(x) < 1e15 else 250):
        return EXACT[fn](mpmath.mpf(x))


@pytest.mark.parametrize("fn", UNARY)
def test_f64_error_stays_within_the_stated_bound(fn: str) -> None:
    x = samples(np.float64, 300, seed=11)
    got = evaluate(fn, x)
    with np.errstate(all="ignore"):
        plain = NUMPY[fn](x)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(plain))
    infinite = np.isinf(plain)
    np.testing.assert_array_equal(got[infinite], plain[infinite])
    for value, result, close in zip(x.tolist(), got.tolist(), plain.tolist(), strict=True):
        if not (math.isfinite(value) and math.isfinite(close)) or (fn in SATURATES and abs(value) > 800):
            assert result == close or math.isnan(close)
            continue
        exact = exact_f64(fn, value)
        if result == 0 and abs(exact) < FLUSHED.get((fn, DType.F64), 0.0):
            continue
        error = abs(mpmath.mpf(result) - exact) / mpmath.mpf(float(ulp_size(np.float64(close), np.float64)))
        assert error <= ERROR_ULP[fn, DType.F64], f"{fn}({value!r}) = {result!r}, exact {mpmath.nstr(exact, 20)}"


def test_pow_f32_rounds_correctly_almost_always() -> None:
    rng = np.random.default_rng(3)
    count = 20_000
    bits = rng.integers(0, 2**32, (2, count), dtype=np.uint32).view(np.float32)
    positive, real = np.exp(rng.uniform(-20, 20, count)), rng.uniform(-10, 10, count)
    signed, whole = rng.uniform(-5, 5, count), rng.integers(-40, 40, count)
    bases = np.concatenate([bits[0], *(a.astype(np.float32) for a in (positive, signed))])
    powers = np.concatenate([bits[1], *(a.astype(np.float32) for a in (real, whole))])
    got = evaluate("pow", bases, powers)
    with np.errstate(all="ignore"):
        exact = np.power(bases.astype(np.float64), powers.astype(np.float64))
        error = np.abs(got - exact) / ulp_size(exact, np.float32)
        rounded = exact.astype(np.float32)
    finite = np.isfinite(rounded)
    assert error[finite].max() <= ERROR_ULP["pow", DType.F32]
    np.testing.assert_array_equal(got[~finite], rounded[~finite])


def test_pow_f64_error_stays_within_the_stated_bound() -> None:
    rng = np.random.default_rng(4)
    count = 1500
    bases = np.concatenate([np.exp(rng.uniform(-20, 20, count)), 1 + rng.standard_normal(count) * 1e-3])
    powers = np.concatenate([rng.uniform(-30, 30, count), rng.standard_normal(count) * 1e5])
    got = evaluate("pow", bases, powers)
    for base, exponent, result in zip(bases.tolist(), powers.tolist(), got.tolist(), strict=True):
        with mpmath.workprec(200):
            exact = mpmath.power(base, exponent)
            error = abs(result - exact) / mpmath.mpf(float(ulp_size(np.float64(result), np.float64)))
        assert error <= ERROR_ULP["pow", DType.F64], f"{base!r} ** {exponent!r} = {result!r}"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pow_follows_the_rules_of_c_at_special_values(dtype: type) -> None:
    values = [
        0,
        1,
        2,
        3,
        0.5,
        1.5,
        np.inf,
        1e30,
        1e-30,
        2.0 ** np.finfo(dtype).nmant - 0.5,
        2.0 ** np.finfo(dtype).nmant + 1,
    ]
    signed = np.array([*values, *(-v for v in values), np.nan], dtype)
    signed = np.concatenate([signed, np.array([-0.0], dtype)])
    bases, powers = (a.ravel() for a in np.meshgrid(signed, signed))
    with np.errstate(all="ignore"):
        expected = np.power(bases.astype(np.float64), powers.astype(np.float64)).astype(dtype)  # the C library's pow
    got = evaluate("pow", bases, powers)
    np.testing.assert_allclose(got, expected, rtol=4 * np.finfo(dtype).eps)
    same = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(got[same]), np.signbit(expected[same]))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.int8, np.uint8, np.int64])
def test_sign_mod_and_fmod_are_those_of_numpy(dtype: type) -> None:
    rng = np.random.default_rng(5)
    x = (
        rng.integers(0, 100, 400).astype(dtype)
        if np.dtype(dtype).kind == "u"
        else rng.integers(-100, 100, 400).astype(dtype)
    )
    y = rng.integers(1, 9, 400).astype(dtype)
    if np.dtype(dtype).kind != "u":
        y = np.where(rng.random(400) < 0.5, y, -y).astype(dtype)
    if np.dtype(dtype).kind == "f":
        x, y = (
            np.append(x / 8, [np.nan, np.inf, -0.0, 5, -5, 5]).astype(dtype),
            np.append(y / 4, [1, 1, 3, np.inf, np.inf, 0]).astype(dtype),
        )
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(evaluate("sign", x), np.sign(x))
        np.testing.assert_array_equal(evaluate("mod", x, y), np.mod(x, y))
        np.testing.assert_array_equal(evaluate("fmod", x, y), np.fmod(x, y))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_isnan_isinf_and_round_are_those_of_numpy(dtype: type) -> None:
    x = np.concatenate([samples(dtype, 500, 6), np.arange(-3, 4, 0.5).astype(dtype)])
    np.testing.assert_array_equal(evaluate("isnan", x), np.isnan(x))
    np.testing.assert_array_equal(evaluate("isinf", x), np.isinf(x))
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(evaluate("round", x), np.rint(x))


@pytest.mark.parametrize("fn", sorted(FUNCTIONS))
def test_one_lane_and_sixteen_give_the_same_bits(fn: str) -> None:
    """The slow path of sin, taken for all lanes when one needs it, must not change the others."""
    x = np.array([0.3, 1e9, -4.0, 1e30, 0.0, 5.5, -1e9, 77.0, 0.01, -0.9, 3e4, -0.2, 1.0, 2.0, 9.0, -7.5], np.float32)
    inputs = [x] * SCALAR_FNS[fn]
    together = evaluate(fn, *inputs)
    apart = np.concatenate([evaluate(fn, *(i[k : k + 1] for i in inputs)) for k in range(x.size)])
    np.testing.assert_array_equal(together.view(np.uint8), apart.view(np.uint8))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_native_code_gives_the_bits_of_the_interpreter(dtype: type, isa: Isa) -> None:
    lanes, element = 64 // np.dtype(dtype).itemsize, from_numpy(dtype)
    functions = [
        streamed(f"map_{fn}", lambda args, fn=fn: emit(fn, args, fresh_names()), [element] * SCALAR_FNS[fn], lanes)
        for fn in sorted(FUNCTIONS)
    ]
    compiled = native(functions, isa)
    x = samples(dtype, 300, 21)
    x = np.resize(x, -(-x.size // lanes) * lanes)
    y = np.random.default_rng(1).permutation(x)
    for function in functions:
        inputs = [x, y][: len(function.params) - 1]
        out, expected = (np.zeros(x.size, function.params[-1].element.numpy) for _ in range(2))
        compiled[function.name]([*inputs, out], (), 0, x.size // lanes)
        interpret(function, [*inputs, expected], (), 0, x.size // lanes)
        np.testing.assert_array_equal(out, expected, err_msg=function.name)
        signs = [np.signbit(a)[~np.isnan(a)] for a in (out, expected)] if out.dtype.kind == "f" else [out, expected]
        np.testing.assert_array_equal(*signs, err_msg=function.name)


def test_every_scalar_function_is_direct_or_has_code() -> None:
    assert set(SCALAR_FNS) == DIRECT | set(FUNCTIONS)


def test_unknown_functions_and_element_types_are_refused() -> None:
    half = Const(1.0, Type(DType.F16, 4))
    with pytest.raises(UnsupportedError, match="gamma"):
        emit("gamma", [half], fresh_names())
    with pytest.raises(UnsupportedError, match="cast to f32"):
        emit("exp", [half], fresh_names())
