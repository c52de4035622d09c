"""The OpenCL C text itself: its form, and what is refused. What it computes is tested in tests/devices/opencl."""

from __future__ import annotations

import pytest

from mapsto.errors import UnsupportedError
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import add, mul, sym
from mapsto.loop.ast import (
    Assign,
    Binary,
    Bitcast,
    Const,
    Declare,
    Fma,
    For,
    Function,
    LaneMask,
    Let,
    Load,
    Param,
    Prefetch,
    ReduceLanes,
    Store,
    Type,
    Value,
    Var,
)
from mapsto.loop.opencl import kernel_name, to_opencl

F32X8 = Type(DType.F32, 8)

GOLDEN = """\
#pragma OPENCL FP_CONTRACT OFF
__kernel void kernel_square_sum(__global const float* whole_1, __global float* whole_3, \
__global const long* numbers_, const long first_, const long last_, const long chunk_) {
  __global const float* x_2 = whole_1 + numbers_[0];
  __global float* y_4 = whole_3 + numbers_[1];
  const long n_5 = numbers_[2];
  const long begin_ = first_ + chunk_*(long)get_global_id(0);
  const long end_ = min(begin_ + chunk_, last_);
  if (begin_ >= end_) return;
  const long stop_6 = end_;
  for (long i_7 = begin_; i_7 < stop_6; i_7 += 1L) {
    float8 s_8 = (float8)(0x0p+0f);
    const long stop_9 = n_5;
    for (long j_10 = 0L; j_10 < stop_9; j_10 += 8L) {
      const float8 a_11 = vload8(0, x_2 + ((i_7*n_5 + j_10) + 0L));
      s_8 = fma(a_11, a_11, s_8);
    }
    const float8 fold_12 = s_8;
    const float4 fold_13 = (fold_12.lo + fold_12.hi);
    const float2 fold_14 = (fold_13.lo + fold_13.hi);
    *(y_4 + (i_7 + 0L)) = (fold_14.s0 + fold_14.s1);
  }
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
    assert source.count("vload16") == source.count("vstore16") == 1
    assert source.count("vload8") == source.count("vstore8") == 1
    assert "x_2 + (0L + 16L)" in source


def test_a_shared_value_is_computed_once() -> None:
    loaded: Value = Load("x", 0, F32X8)
    doubled = Binary("add", loaded, loaded)
    source = to_opencl(function_of(Binary("mul", doubled, doubled)))
    assert source.count("vload8") == 1
    assert source.count(" + t_") == 1


def test_names_of_built_in_functions_do_not_clash() -> None:
    x = Param("exp", DType.F32)
    value = Load("exp", 0, Type(DType.F32))
    function = Function("max", (x, Param("float", DType.F32, True)), ("half",), (Store("float", sym("half"), value),))
    assert kernel_name(function) == "kernel_max"
    assert "float_4 + (half_5" in to_opencl(function)


def test_a_program_holds_a_helper_once() -> None:
    masked = Load("x", 0, F32X8, mask=LaneMask(3, Type(DType.BOOL, 8)))
    source = to_opencl([function_of(masked), function_of(masked)])
    assert source.count("static float8 load_if_global_f32x8(") == 1


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (Fma(*[Const(1.0, Type(DType.F16, 8))] * 3), "fma in f16"),
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
