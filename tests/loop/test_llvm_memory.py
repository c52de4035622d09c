"""The LLVM printer's loads and stores: strides, gathers, masks, prefetches; nothing that is off is touched."""

from __future__ import annotations

import ctypes
import mmap
import re

import numpy as np
import pytest
from tests.loop.agreement import ISAS, check, special_values
from tests.loop.helpers import native

from mapsto.devices.cpu.compiler import compile_modules
from mapsto.devices.cpu.isa import AVX2
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, add, floordiv, mul, sym
from mapsto.loop.ast import (
    Assign,
    Binary,
    Compare,
    Const,
    Declare,
    Fence,
    For,
    Function,
    Gather,
    LaneMask,
    Let,
    Load,
    Param,
    Prefetch,
    Scatter,
    Statement,
    Store,
    Type,
    Unary,
    Var,
)
from mapsto.loop.llvm import to_llvm

BOOL = DType.BOOL


@pytest.mark.parametrize("element", [DType.F32, DType.U8, DType.F64, BOOL, DType.F16], ids=repr)
@pytest.mark.parametrize("stride", [0, 1, -1, 2, 3, 4, 5, -3, "s"])
def test_strided_loads(element: DType, stride: int | str) -> None:
    step: Dim = sym("s") if stride == "s" else int(stride)
    count = 16
    first = 3 * (count - 1) + 1 if isinstance(step, int) and step < 0 else 1
    stores = []
    for k, lanes in enumerate((16, 5, 1)):
        stores.append(Store("out", 16 * k, Load("a", first, Type(element, lanes), step)))
    stores.append(Store("out", 48, Load("a", first, Type(element, 16), step, LaneMask(sym("n"), Type(BOOL, 16)))))
    f = Function("strided", (Param("a", element), Param("out", element, True)), ("s", "n"), tuple(stores))
    used = first + (5 * 15 if not isinstance(step, int) or step > 0 else 0) + 1
    out = np.zeros(64, element.numpy)
    check(f, [special_values(element, used, 3), out], (5, 11))


@pytest.mark.parametrize("stride", [1, 2, -1, "s"])
def test_strided_and_scattered_stores(stride: int | str) -> None:
    step: Dim = sym("s") if stride == "s" else int(stride)
    t = Type(DType.F32, 16)
    base = 40 if stride == -1 else 3
    index = Load("index", 0, Type(DType.I64, 16))
    body = (
        Store("out", base, Load("a", 0, t), step),
        Store("out", base + 50, Load("a", 0, t), step, LaneMask(7, Type(BOOL, 16))),
        Scatter("out", index, Load("a", 0, t)),
        Scatter("out", index, Unary("neg", Load("a", 0, t)), Compare("lt", Load("a", 0, t), Const(0, t))),
        Scatter("out", Load("index", 3, Type(DType.I64)), Load("a", 5, Type(DType.F32))),
    )
    params = (Param("a", DType.F32), Param("index", DType.I64), Param("out", DType.F32, True))
    f = Function("scattered", params, ("s",), body)
    rng = np.random.default_rng(2)
    index_values = rng.integers(0, 9, 16)  # many meet: the last lane must win
    check(f, [rng.normal(size=16).astype(np.float32), index_values, np.zeros(120, np.float32)], (3,))


def test_gathers() -> None:
    index = Load("index", 0, Type(DType.I64, 8))
    mask = Load("mask", 0, Type(BOOL, 8))
    body = []
    for k, element in enumerate((DType.F32, DType.U8, BOOL)):
        name = f"a{k}"
        body += [
            Store(f"out{k}", 0, Gather(name, index, Type(element, 8))),
            Store(f"out{k}", 8, Gather(name, index, Type(element, 8), mask)),
            Store(f"out{k}", 16, Gather(name, Load("index", 2, Type(DType.I64)), Type(element))),
        ]
    elements = (DType.F32, DType.U8, BOOL)
    params = (Param("index", DType.I64), Param("mask", BOOL), *(Param(f"a{k}", e) for k, e in enumerate(elements)))
    params += tuple(Param(f"out{k}", e, True) for k, e in enumerate(elements))
    f = Function("gathers", params, (), tuple(body))
    rng = np.random.default_rng(3)
    sources = [special_values(e, 20, 4) for e in elements]
    outs = [np.zeros(17, e.numpy) for e in elements]
    check(f, [rng.integers(0, 20, 8), rng.integers(0, 2, 8).astype(np.bool_), *sources, *outs])


def test_a_prefetch_may_point_anywhere() -> None:
    """Into the buffer, past it, and where no process has memory."""
    copy = Store("out", sym("i"), Load("a", sym("i"), Type(DType.F32)))
    body = [
        For("i", 0, 4, (Prefetch("a", sym("i") * 4 + sym("n")), copy)),
        Prefetch("out", 2**44),
        Prefetch("a", -(2**44)),
    ]
    f = Function("asking", (Param("a", DType.F32), Param("out", DType.F32, True)), ("n",), tuple(body))
    assert to_llvm(f).count("call void @llvm.prefetch.p0(ptr") == 3
    check(f, [np.arange(4, dtype=np.float32), np.zeros(4, np.float32)], (10**6,))


@pytest.mark.parametrize("fenced", [True, False])
def test_loads_stay_behind_a_fence(fenced: bool) -> None:
    """Vectors that lie side by side are loaded together else, before the first of them is needed."""
    t, body = Type(DType.F32, 8), []
    for at in range(4):
        body += [Fence()] if fenced else []
        body.append(Let(f"a{at}", Load("a", 8 * at, t)))
        before = Var(f"sum{at - 1}", t) if at else Const(1.0, t)
        value = Binary("mul", Binary("add", before, Var(f"a{at}", t)), Var(f"a{at}", t))
        body.append(Let(f"sum{at}", value))
    params = (Param("a", DType.F32), Param("out", DType.F32, True))
    f = Function("fenced", params, (), (*body, Store("out", 0, Var("sum3", t))))
    check(f, [np.arange(32, dtype=np.float32), np.zeros(8, np.float32)])
    (made,) = compile_modules([(f.name, to_llvm(f, AVX2.capabilities))], AVX2, kind="assembly")
    steps = re.findall(r"vmovups\s+\d*\(|vmulps", made.decode())
    alternately = ["load" if "vmovups" in step else "product" for step in steps] == ["load", "product"] * 4
    assert alternately == fenced, made.decode()
    assert "mfence" not in made.decode()


@pytest.mark.parametrize("lanes", [1, 8])
@pytest.mark.parametrize("kept", [True, False])
def test_sums_of_integers_that_a_fence_keeps_are_not_taken_apart(kept: bool, lanes: int) -> None:
    """Terms of all steps are added up first else, and the sum last."""
    t, total = Type(DType.I32, lanes), Var("total", Type(DType.I32, lanes))
    step: list[Statement] = []
    for at in range(3):
        term = Load("a", add(mul(sym("i"), 3 * lanes), at * lanes), t)
        step += [Assign("total", Binary("add", total, Binary("mul", term, Load("b", at * lanes, t))))]
        step += [Fence(("total",) if kept else ())]
    body = (Declare("total", Const(7, t)), For("i", 0, 4, tuple(step)), Store("out", 0, total))
    params = (Param("a", DType.I32), Param("b", DType.I32), Param("out", DType.I32, True))
    f = Function("sums", params, (), body)
    rng = np.random.default_rng(5)
    check(f, [*(rng.integers(-(2**31), 2**31, 12 * lanes).astype(np.int32) for _ in "ab"), np.zeros(lanes, np.int32)])
    assert to_llvm(f).count("@llvm.arithmetic.fence") == (4 if kept else 0)  # three, and what declares it


def test_lanes_off_by_the_mask_touch_no_memory() -> None:
    """The vector would reach into a page that cannot be read."""
    libc = ctypes.CDLL(None, use_errno=True)
    page = mmap.PAGESIZE
    region = mmap.mmap(-1, 2 * page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(region))
    assert libc.mprotect(ctypes.c_void_p(start + page), page, 0) == 0
    try:
        for element in (DType.F32, DType.U8, DType.F64, DType.BF16):
            n = sym("n")
            mask = LaneMask(n, Type(BOOL, 16))
            base = page // element.size - 5
            value = Load("edge", base, Type(element, 16), mask=mask)
            strided = (
                Load("edge", base, Type(element, 16), step, LaneMask(count, Type(BOOL, 16)))
                for step, count in ((2, 3), (2, floordiv(n + 1, 2)), (3, floordiv(n + 1, 3)), (4, floordiv(n + 3, 4)))
            )
            stores = (Store("out", 16 * (1 + k), each) for k, each in enumerate(strided))
            body = (Store("out", 0, value), Store("edge", base, value, mask=mask), *stores)
            f = Function("edges", (Param("edge", element, True), Param("out", element, True)), ("n",), body)
            for isa in ISAS:
                out = np.zeros(80, element.numpy)
                edge = np.frombuffer(region, element.numpy, page // element.size)
                edge[base:] = np.arange(5)
                native([f], isa)["edges"]([edge, out], [5], 0, 1)
                assert out[:16].astype(np.float64).tolist() == [0, 1, 2, 3, 4] + [0] * 11, isa.name
                for k, on in enumerate(([0, 2, 4], [0, 2, 4], [0, 3], [0, 4])):
                    got = out[16 * (k + 1) : 16 * (k + 2)].astype(np.float64).tolist()
                    assert got == on + [0] * (16 - len(on)), isa.name
                del edge
    finally:
        assert libc.mprotect(ctypes.c_void_p(start + page), page, 3) == 0
