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
__kernel void kernel_square_sum(__global const float* x_1, __global float* y_2, const long n_3, \
const long first_, const long last_, const long chunk_) {
  const long begin_ = first_ + chunk_*(long)get_global_id(0);
  const long end_ = min(begin_ + chunk_, last_);
  const long stop_4 = end_;
  for (long i_5 = begin_; i_5 < stop_4; i_5 += 1L) {
    float8 s_6 = (float8)(0x0p+0f);
    const long stop_7 = n_3;
    for (long j_8 = 0L; j_8 < stop_7; j_8 += 8L) {
      const float8 a_9 = vload8(0, x_1 + ((i_5*n_3 + j_8) + 0L));
      s_6 = fma(a_9, a_9, s_6);
    }
    const float8 fold_10 = s_6;
    const float4 fold_11 = (fold_10.lo + fold_10.hi);
    const float2 fold_12 = (fold_11.lo + fold_11.hi);
    *(y_2 + (i_5 + 0L)) = (fold_12.s0 + fold_12.s1);
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
    assert "x_1 + (0L + 16L)" in source


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
    assert "float_2 + (half_3" in to_opencl(function)


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
