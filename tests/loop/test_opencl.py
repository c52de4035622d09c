"""The OpenCL C text itself: its form, and what is refused. What it computes is tested in tests/devices/opencl."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mapsto.errors import UnsupportedError
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import add, floordiv, load, mod, mul, sym
from mapsto.loop.ast import (
    Assign,
    Binary,
    Bitcast,
    Const,
    Declare,
    Fence,
    Fma,
    For,
    Function,
    If,
    IndexValue,
    LaneMask,
    Let,
    Load,
    Lookup,
    Param,
    Prefetch,
    ReduceLanes,
    Statement,
    Store,
    Type,
    Value,
    Var,
)
from mapsto.loop.opencl import kernel_name, printed, to_opencl

F32X8 = Type(DType.F32, 8)

GOLDEN = """\
#pragma OPENCL FP_CONTRACT OFF
typedef struct __attribute__((packed, aligned(4))) { float8 v; } float8_at;
static __attribute__((noinline)) void body_of_kernel_square_sum(__global const float* whole_1, \
__global float* whole_3, __global const long* numbers_, const long begin_, const long end_) {
  __global const float* x_2 = whole_1 + numbers_[0];
  __global float* y_4 = whole_3 + numbers_[1];
  const long n_5 = numbers_[2];
  for (long i_6 = begin_; i_6 < end_; i_6 += 1L) {
    float8 s_7 = (float8)(0x0p+0f);
    __global const float* p_9 = x_2 + (n_5*i_6);
    for (long j_8 = 0L; j_8 < n_5; j_8 += 8L) {
      const float8 a_10 = ((__global float8_at*)(p_9 + (j_8)))->v;
      s_7 = fma(a_10, a_10, s_7);
    }
    const float8 fold_11 = s_7;
    const float4 fold_12 = (fold_11.lo + fold_11.hi);
    const float2 fold_13 = (fold_12.lo + fold_12.hi);
    *(y_4 + (i_6)) = (fold_13.s0 + fold_13.s1);
  }
}
__kernel void kernel_square_sum(__global const float* whole_1, __global float* whole_3, \
__global const long* numbers_, const long first_, const long last_, const long chunk_) {
  const long begin_ = first_ + chunk_*(long)get_global_id(0);
  const long end_ = min(begin_ + chunk_, last_);
  if (begin_ < end_) body_of_kernel_square_sum(whole_1, whole_3, numbers_, begin_, end_);
}
"""


def function_of(value: Value) -> Function:
    x, y = Param("x", DType.F32), Param("y", value.type.element, writes=True)
    return Function("f", (x, y), (), (Store("y", 0, value),))


def test_a_reduction_over_rows() -> None:
    s, a = Var("s", F32X8), Var("a", F32X8)
    row = mul(sym("i"), sym("n"))
    body = (
        Declare("s", Const(0.0, F32X8)),
        For("j", 0, sym("n"), (Let("a", Load("x", add(row, sym("j")), F32X8)), Assign("s", Fma(a, a, s))), step=8),
        Store("y", sym("i"), ReduceLanes("sum", s, Type(DType.F32))),
    )
    params = (Param("x", DType.F32), Param("y", DType.F32, writes=True))
    function = Function("square_sum", params, ("n",), (For("i", sym("begin"), sym("end"), body),))
    assert to_opencl(function) == GOLDEN


def test_wide_values_are_held_in_parts() -> None:
    source = to_opencl(function_of(Load("x", 0, Type(DType.F32, 24))))
    assert source.count("float16_at*)") == source.count("float8_at*)") == 2  # one is read, one written
    assert "(x_2 + (16L))" in source


def test_a_shared_value_is_computed_once() -> None:
    loaded: Value = Load("x", 0, F32X8)
    doubled = Binary("add", loaded, loaded)
    source = to_opencl(function_of(Binary("mul", doubled, doubled)))
    assert source.count("float8_at*)x_2") == 1
    assert source.count(" + t_") == 1


def test_names_of_built_in_functions_do_not_clash() -> None:
    x = Param("exp", DType.F32)
    value = Load("exp", 0, Type(DType.F32))
    function = Function("max", (x, Param("float", DType.F32, True)), ("half",), (Store("float", sym("half"), value),))
    assert kernel_name(function) == "kernel_max"
    assert "float_4 + (half_5" in to_opencl(function)


def lines_of(*body: Statement) -> list[str]:
    """The text of a kernel's own function, from buffers `x`, `k` to `y`, with sizes `n` and `m`."""
    params = (Param("x", DType.F32), Param("k", DType.I32), Param("y", DType.F32, writes=True))
    source = to_opencl(Function("f", params, ("n", "m"), body))
    return source[source.index("body_of_") : source.index("__kernel")].splitlines()


def depth_of(lines: list[str], text: str) -> int:
    """How deep in loops and branches the only line with a text stands."""
    (at,) = (number for number, line in enumerate(lines) if text in line)
    return sum(line.endswith("{") - line.strip().startswith("}") for line in lines[1:at])


def test_index_arithmetic_is_named_once_before_the_loops_that_do_not_change_it() -> None:
    """Division is most of a kernel's text where it is spelled out at each address."""
    n, m, i, j = (sym(name) for name in "nmij")
    at = floordiv(i, m) * n + mod(i, m) * 8 + floordiv(n, m) * 64 + j * 4
    one = [Store("y", add(at, offset), Load("x", add(at, offset), Type(DType.F32))) for offset in range(4)]
    lines = lines_of(For("i", sym("begin"), sym("end"), (For("j", 0, 8, tuple(one)),)))
    assert (depth_of(lines, "floor_div(n"), depth_of(lines, "floor_div(i"), depth_of(lines, "floor_mod(i")) == (0, 1, 1)
    inner = [line for line in lines if line.startswith("      ")]  # *(p + j*4 + 1) = *(q + j*4 + 1)
    assert len(inner) == 4 and all(line.count("*4L") == 2 and line.count("*") == 4 for line in inner)


@pytest.mark.parametrize("arm", ["then", "otherwise"])
def test_what_is_moved_out_of_a_branch_lands_before_it(arm: str) -> None:
    n, m = sym("n"), sym("m")
    store = (Store("y", 0, IndexValue(floordiv(n, m), Type(DType.F32))),)
    other = (Store("y", 1, IndexValue(m, Type(DType.F32))),)
    branch = If((add(n, -3),), store) if arm == "then" else If((add(n, -3),), other, store)
    lines = lines_of(branch)
    assert depth_of(lines, "floor_div(n") == 0
    assert [line for line in lines if "floor_div(n" in line or "if (" in line][0].strip().startswith("const long")


def test_a_number_that_is_loaded_is_loaded_wherever_it_is_read() -> None:
    """What is stored between two loads must show, also in what is computed from them."""
    size, place = floordiv(load("k", (0,)), sym("m")), IndexValue(7, Type(DType.I32))
    loop = For(
        "i",
        0,
        sym("n"),
        (
            Store("y", size, Const(1.0, Type(DType.F32))),
            Store("k", 0, place),
            Store("y", size, Const(2.0, Type(DType.F32))),
        ),
    )
    lines = lines_of(loop)
    loads = [line for line in lines if "(long)*k" in line]
    assert len(loads) == 2 and all(line.startswith("    ") for line in loads)
    divided = [line for line in lines if "floor_div(loaded" in line]
    assert len(divided) == 2 and divided[0] != divided[1]


def test_a_kernel_of_another_name_is_the_same_text() -> None:
    function = function_of(Load("x", 0, F32X8))
    other = replace(function, name="kernel")
    assert printed(function).renamed(other) == printed(other) != printed(function)


def test_a_program_holds_a_helper_once() -> None:
    masked = Load("x", 0, F32X8, mask=LaneMask(3, Type(DType.BOOL, 8)))
    source = to_opencl([function_of(masked), function_of(masked)])
    assert source.count("static float8 load_if_global_f32x8(") == 1


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (Fma(*[Const(1.0, Type(DType.F16, 8))] * 3), "fma in f16"),
        (Lookup(Const(1, Type(DType.I32, 16)), (0,) * 256), "a table of bytes in registers"),
        (Bitcast(Load("x", 0, Type(DType.F32, 12)), Type(DType.U8, 48)), "the bits of f32x12 as u8x48"),
    ],
)
def test_what_has_no_exact_form_is_refused_by_name(value: Value, reason: str) -> None:
    with pytest.raises(UnsupportedError, match=f"kernel 'f': .*{reason}"):
        to_opencl(function_of(value))


def test_a_prefetch_is_nothing() -> None:
    store = Store("y", 0, Load("x", 0, Type(DType.F32)))
    params = (Param("x", DType.F32), Param("y", DType.F32, True))
    without, asking = (Function("f", params, (), body) for body in ((store,), (Prefetch("x", 10**9), store)))
    assert to_opencl(asking) == to_opencl(without)


def test_a_fence_is_nothing() -> None:
    store = Store("y", 0, Load("x", 0, Type(DType.F32)))
    params = (Param("x", DType.F32), Param("y", DType.F32, True))
    without, fenced = (Function("f", params, (), body) for body in ((store, store), (store, Fence(), store)))
    assert to_opencl(fenced) == to_opencl(without)
