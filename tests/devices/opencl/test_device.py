"""OpenCL C made from the loop language, run on this machine's OpenCL device, against the interpreter: equal bits."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
from tests.devices.opencl.support import built
from tests.loop.agreement import assert_same, special_values
from tests.loop.helpers import fresh_names, streamed
from tests.loop.test_functions import samples
from tests.loop.test_llvm import ELEMENTS, arithmetic_function, cast_function, shuffle_function

from mapsto.devices.opencl.device import Device, open_device
from mapsto.errors import CompileError, UnsupportedError
from mapsto.ir.dtypes import DType, from_numpy
from mapsto.ir.expr import add, floordiv, load, maximum, minimum, mod, mul, sym
from mapsto.kernel.ast import SCALAR_FNS
from mapsto.loop.ast import (
    Alloc,
    Assign,
    Binary,
    Bitcast,
    Broadcast,
    Compare,
    Const,
    Declare,
    Dot,
    For,
    Function,
    Gather,
    If,
    IndexValue,
    LaneMask,
    Let,
    LetIndex,
    Load,
    Param,
    ReduceLanes,
    Scatter,
    Select,
    Statement,
    Store,
    Type,
    Var,
    While,
)
from mapsto.loop.functions import FUNCTIONS, emit
from mapsto.loop.interpret import interpret

F32, F32X4, F32X16, I64, BOOL = (
    Type(DType.F32),
    Type(DType.F32, 4),
    Type(DType.F32, 16),
    Type(DType.I64),
    Type(DType.BOOL),
)
STEP = sym("i")


pytestmark = pytest.mark.opencl


def share(*body: Statement) -> tuple[Statement, ...]:
    return (For("i", sym("begin"), sym("end"), body),)


def check(
    device: Device,
    function: Function,
    buffers: list[np.ndarray],
    dims: Iterable[int] = (),
    begin: int = 0,
    end: int = 1,
) -> None:
    """Every buffer ends as the interpreter leaves it, whatever the number of work-items."""
    wanted = [b.copy() for b in buffers]
    interpret(function, wanted, tuple(dims), begin, end)
    kernel = built(device, [function])[function.name]
    for chunk in (None, 1):
        got = [b.copy() for b in buffers]
        kernel(got, tuple(dims), begin, end, chunk)
        for param, ours, theirs in zip(function.params, got, wanted, strict=True):
            assert_same(ours, theirs, (function.name, param.name, chunk))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("lanes", [1, 16])
def test_vector_mathematics(device: Device, dtype: type, lanes: int) -> None:
    element = from_numpy(dtype)
    names = sorted(FUNCTIONS)
    functions = [
        streamed(fn, lambda args, fn=fn: emit(fn, args, fresh_names()), [element] * SCALAR_FNS[fn], lanes)
        for fn in names
    ]
    kernels = built(device, functions)
    x = samples(dtype, 16 * 16 if lanes == 16 else 24, 21)
    x = x[: x.size // lanes * lanes]
    y = np.random.default_rng(1).permutation(x)
    for function in functions:
        inputs = [x, y][: len(function.params) - 1]
        got, wanted = (np.zeros(x.size, function.params[-1].element.numpy) for _ in range(2))
        kernels[function.name]([*inputs, got], (), 0, x.size // lanes)
        interpret(function, [*inputs, wanted], (), 0, x.size // lanes)
        assert_same(got, wanted, function.name)


WIDE = (DType.F32, DType.I32, DType.U8, DType.BF16, DType.BOOL)  # PoCL takes 5 s to build a type's sixteen lanes


@pytest.mark.parametrize(("lanes", "elements"), [(1, ELEMENTS), (3, ELEMENTS), (16, WIDE), (32, (DType.F32,))])
def test_arithmetic(device: Device, lanes: int, elements: tuple[DType, ...]) -> None:
    made = [arithmetic_function(element, lanes) for element in elements]
    made = [(without_half_fma(f), names) for f, names in made]
    kernels = built(device, [f for f, _ in made])
    rounds = 16
    for function, names in made:
        element = function.params[0].element
        inputs = [special_values(element, rounds * lanes, seed) for seed in (1, 2, 3)]
        got, wanted = ([np.zeros(rounds * lanes, p.element.numpy) for p in function.params[3:]] for _ in range(2))
        interpret(function, [*inputs, *wanted], (), 0, rounds)
        kernels[function.name]([*inputs, *got], [], 0, rounds)
        for name, ours, theirs in zip(names, got, wanted, strict=True):
            if element.is_float and name.split()[-1] in ("min", "max", "3"):  # the sign of a zero is open there
                with np.errstate(invalid="ignore"):
                    ours, theirs = (np.where(x == 0, np.zeros((), x.dtype), x) for x in (ours, theirs))
            assert_same(ours, theirs, (element, lanes, name))


def without_half_fma(function: Function) -> Function:
    """f16 and bf16 have no fma in OpenCL C."""
    if function.params[0].element not in (DType.F16, DType.BF16):
        return function
    (loop,) = function.body
    body = tuple(s for s in loop.body if not (isinstance(s, Store) and type(s.value).__name__ == "Fma"))
    return Function(function.name, function.params, function.dims, (For(loop.var, loop.start, loop.stop, body),))


@pytest.mark.parametrize(("lanes", "rounds"), [(1, 200), (8, 64)])
def test_casts(device: Device, lanes: int, rounds: int) -> None:
    functions = [cast_function(source, lanes) for source in ELEMENTS]
    kernels = built(device, functions)
    for function in functions:
        a = special_values(function.params[0].element, rounds * lanes, 5)
        got, wanted = ([np.zeros(rounds * lanes, t.numpy) for t in ELEMENTS] for _ in range(2))
        interpret(function, [a, *wanted], [], 0, rounds)
        kernels[function.name]([a, *got], [], 0, rounds)
        for element, ours, theirs in zip(ELEMENTS, got, wanted, strict=True):
            assert_same(ours, theirs, (function.name, element))


def test_softmax_rows_with_a_masked_tail(device: Device) -> None:
    """y[i, :] = exp(x[i, :] - max) / sum, rows of n elements, n no multiple of the lanes."""
    fresh, n, j = fresh_names(), sym("n"), sym("j")
    mask = LaneMask(add(n, mul(j, -1)), Type(DType.BOOL, 16))
    at = add(mul(STEP, n), j)
    x = Select(Var("mask", mask.type), Load("x", at, F32X16, mask=Var("mask", mask.type)), Const(-np.inf, F32X16))
    top, total = Var("top", F32X16), Var("total", F32X16)
    statements, e = emit("exp", [Binary("sub", Var("v", F32X16), Broadcast(Var("peak", F32), F32X16))], fresh)
    store = Store("y", at, e, mask=Var("mask", mask.type))
    scale = Binary("div", Load("y", at, F32X16, mask=Var("mask", mask.type)), Broadcast(Var("norm", F32), F32X16))
    function = Function(
        "softmax",
        (Param("x", DType.F32), Param("y", DType.F32, True)),
        ("n",),
        share(
            Declare("top", Const(-np.inf, F32X16)),
            For("j", 0, n, (Let("mask", mask), Assign("top", Binary("max", top, x))), step=16),
            Let("peak", ReduceLanes("max", top, F32)),
            Declare("total", Const(0.0, F32X16)),
            For(
                "j",
                0,
                n,
                (Let("mask", mask), Let("v", x), *statements, store, Assign("total", Binary("add", total, e))),
                step=16,
            ),
            Let("norm", ReduceLanes("sum", total, F32)),
            For("j", 0, n, (Let("mask", mask), Store("y", at, scale, mask=Var("mask", mask.type))), step=16),
        ),
    )
    rows, width = 5, 37
    data = np.random.default_rng(2).normal(size=rows * width).astype(np.float32) * 4
    check(device, function, [data, np.zeros_like(data)], [width], 0, rows)
    out = np.zeros_like(data)
    built(device, [function])["softmax"]([data, out], {"n": width}, 0, rows)
    exact = np.exp(data.reshape(rows, width).astype(np.float64))
    np.testing.assert_allclose(out.reshape(rows, width), exact / exact.sum(axis=1, keepdims=True), rtol=2e-6)


def test_memory_access_of_every_kind(device: Device) -> None:
    lanes = IndexValue(0, Type(DType.I64, 4), 1)
    mask = LaneMask(sym("n"), Type(DType.BOOL, 4))
    twice = Binary("mul", lanes, Const(2, Type(DType.I64, 4)))
    body = (
        Alloc("t", DType.F32, 32),
        Store("t", 0, Load("x", 0, F32X16)),
        Store("t", 16, Load("x", 30, F32X16, stride=-2)),
        Store("y", 0, Load("t", 3, F32X4, stride=sym("n"))),
        Store("y", 4, Load("x", 29, F32X4, mask=mask)),
        Store("y", 8, Gather("t", twice, F32X4, mask)),
        Store("y", 12, Gather("x", twice, F32X4)),
        Store("y", 16, Load("x", 3, F32X4), stride=2),
        Store("y", 24, Load("x", 8, F32X4), mask=mask),
        Scatter("y", Binary("add", twice, Const(40, Type(DType.I64, 4))), Load("t", 0, F32X4), mask),
        Scatter("y", Const(60, Type(DType.I64, 4)), Load("t", 4, F32X4)),
        Store("b", 0, Load("b", 4, Type(DType.BOOL, 4))),
        Store("b", 5, Compare("lt", Load("x", 0, F32X16), Const(0.0, F32X16))),
        Store("y", 61, Select(Load("b", 6, BOOL), Load("x", 1, F32), Load("x", 2, F32))),
    )
    params = (Param("x", DType.F32), Param("y", DType.F32, True), Param("b", DType.BOOL, True))
    x = np.random.default_rng(3).normal(size=32).astype(np.float32)
    flags = np.arange(24) % 3 == 0
    check(device, Function("memory", params, ("n",), body), [x, np.zeros(64, np.float32), flags], [3])


def test_what_is_loaded_before_an_overlapping_store_stays(device: Device) -> None:
    """32 lanes are stored in two parts: the second must not read what the first wrote."""
    body = (Store("y", 16, Load("y", 0, Type(DType.F32, 32))),)
    check(device, Function("shift", (Param("y", DType.F32, True),), (), body), [np.arange(64, dtype=np.float32)])


def test_control_flow(device: Device) -> None:
    """Nested loops, an unrolled one, while, branches of both kinds, loaded indices."""
    total, left = Var("total", F32), Var("left", I64)
    collatz = Select(
        Compare("eq", Binary("rem", left, Const(2, I64)), Const(0, I64)),
        Binary("div", left, Const(2, I64)),
        Binary("add", Binary("mul", left, Const(3, I64)), Const(1, I64)),
    )
    more = Assign("total", Binary("add", total, Const(1.0, F32)))
    q = IndexValue(add(sym("u"), sym("w")), F32)
    steps = (Let("q", q), Assign("total", Binary("add", total, Var("q", F32))))
    body = share(
        LetIndex("k", Load("k", STEP, I64)),
        Declare("total", Const(0.0, F32)),
        Declare("left", IndexValue(add(sym("k"), 1), I64)),
        While(Compare("ne", left, Const(1, I64)), (Assign("left", collatz), more)),
        For("u", 0, 3, (For("w", sym("u"), 3, steps, unroll=True),), unroll=True),
        For("j", STEP, sym("k"), (If((add(sym("j"), -3), add(6, mul(sym("j"), -1))), (more,), (more, more)),), step=2),
        If(Compare("gt", total, Const(20.0, F32)), (Store("y", STEP, total),), (Store("y", STEP, Const(-1.0, F32)),)),
    )  # fmt: skip
    params = (Param("k", DType.I64), Param("y", DType.F32, True))
    check(device, Function("flow", params, (), body), [np.arange(2, 22), np.zeros(20, np.float32)], (), 1, 18)


def test_index_expressions(device: Device) -> None:
    n, k = sym("n"), sym("k")
    forms = [
        floordiv(add(k, -7), 3), mod(add(k, -7), 3), floordiv(add(k, -7), 4), mod(mul(k, -5), n), minimum(k, n),
        maximum(mul(k, k), add(n, 5)), add(mul(mul(k, n), -3), 11), load("t", (mod(k, 4),)),
    ]  # fmt: skip
    stores = [Store("y", add(mul(STEP, len(forms)), f), IndexValue(e, I64)) for f, e in enumerate(forms)]
    lanes = Store("z", mul(STEP, 4), IndexValue(k, Type(DType.I32, 4), add(n, -6)))
    body = share(LetIndex("k", add(STEP, -3)), *stores, lanes)
    params = (Param("t", DType.U8), Param("y", DType.I64, True), Param("z", DType.I32, True))
    buffers = [np.array([9, 200, 3, 1], np.uint8), np.zeros(10 * len(forms), np.int64), np.zeros(40, np.int32)]
    check(device, Function("indices", params, ("n",), body), buffers, [4], 0, 10)


@pytest.mark.parametrize("lanes", [1, 4, 16])
def test_dot_products_and_their_bits(device: Device, lanes: int) -> None:
    """Operands loaded as words and broadcast, as the contraction templates do."""
    rng = np.random.default_rng(1)
    for kind, group, ea, eb, ec in (
        ("bf16", 2, DType.BF16, DType.BF16, DType.F32),
        ("u8s8", 4, DType.U8, DType.I8, DType.I32),
    ):
        word = Bitcast(Load("a", 0, Type(ea, group)), Type(DType.I32))
        a = Bitcast(Broadcast(word, Type(DType.I32, lanes)) if lanes > 1 else word, Type(ea, group * lanes))
        dot = Dot(kind, a, Load("b", 0, Type(eb, group * lanes)), Load("c", 0, Type(ec, lanes)))
        function = Function(
            f"dot_{kind}", (Param("a", ea), Param("b", eb), Param("c", ec, True)), (), (Store("c", 0, dot),)
        )
        x, y = (rng.integers(0 if e is DType.U8 else -100, 100, group * lanes).astype(e.numpy) for e in (ea, eb))
        check(device, function, [x, y, np.arange(lanes).astype(ec.numpy)])


def test_bits_of_wide_values_are_joined(device: Device) -> None:
    words = Bitcast(Load("a", 0, Type(DType.U8, 64)), Type(DType.I32, 16))
    body = (Store("y", 0, Binary("add", words, words)),)
    params = (Param("a", DType.U8), Param("y", DType.I32, True))
    check(device, Function("join", params, (), body), [np.arange(64, dtype=np.uint8), np.zeros(16, np.int32)])


@pytest.mark.parametrize("lanes", [1, 5, 16])
def test_shuffles(device: Device, lanes: int) -> None:
    for element in (*ELEMENTS, DType.BOOL):
        check(device, *shuffle_function(element, lanes))


def test_a_device_that_is_not_there_is_said(device: Device) -> None:
    with pytest.raises(UnsupportedError, match="no OpenCL device 99"):
        open_device(99)


def test_the_devices_log_comes_with_a_failed_build(device: Device) -> None:
    with pytest.raises(CompileError, match="that computes relu_3, conv_1: .*BUILD_PROGRAM_FAILURE"):
        device.build("__kernel void f( { nonsense", ["relu_3", "conv_1"])
