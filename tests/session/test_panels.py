"""Values that lie in panels, as a product has its packed operand: right for every reader, replayed, and only where a
pass over memory is saved.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from tests.session.support import assert_same_bits, check, normal, parse

import mapsto
from mapsto.devices.cpu.traits import TRAITS
from mapsto.devices.cpu.workers import Workers
from mapsto.ir.dtypes import DType
from mapsto.ops.builder import Builder
from mapsto.plan.home import Inner, layout_for
from mapsto.plan.layout import in_panels
from mapsto.session.compile import build, prepared

# a is made by a product, and multiplied both ways
NETS = {
    "packed operand": "a = Relu(m) y = MatMul(t, a)",
    "both operands": "a = Relu(m) y = MatMul(t, a) z = MatMul(a, u)",
    "beside an epilogue": "a = Relu(m) y = MatMul(t, a) n = MatMul(a, u) z = Add(n, s)",
    "its last columns are read": "a = Relu(m) y = MatMul(t, a) z = Slice(a, from, to, axis)",
    "rows are read": "a = Relu(m) y = MatMul(t, a) z = ReduceSum(a, axis)",
}


def _model(name: str, rows: int, inner: int, columns: int) -> Any:
    given = f"float[{rows}, 64] x, float[64, {columns}] w, float[{inner}, {rows}] t"
    given += f", float[{columns}, 48] u, float[48] s"
    lines = re.sub(r" (?=\w+ = )", "\n", NETS[name])
    outputs = "float[A, B] y" + (", float[C, D] z" if "z =" in lines else "")
    constants = "int64[1] from = {-5}, int64[1] to = {10000}, int64[1] axis = {1}"
    return parse(f"g ({given}) => ({outputs}) <{constants}> {{\nm = MatMul(x, w)\n{lines} }}")


def _feed(rows: int, inner: int, columns: int) -> dict[str, Any]:
    shapes = {"x": (rows, 64), "w": (64, columns), "t": (inner, rows), "u": (columns, 48), "s": (48,)}
    return {name: normal(*shape, seed=n) for n, (name, shape) in enumerate(shapes.items())}


def _panels(exe: Any) -> list[str]:
    return re.findall(r'^home (\S+) : .* axes "d1/16\*', exe.plan.text(), re.MULTILINE)


@pytest.mark.parametrize("name", NETS)
def test_a_value_that_is_packed_otherwise(workers: Workers, name: str) -> None:
    sizes = 1024, 200, 512
    exe = check(workers, _model(name, *sizes), _feed(*sizes), onnxruntime=name == "both operands")
    if name in ("packed operand", "both operands"):
        assert _panels(exe), exe.plan.text()


@pytest.mark.parametrize(("rows", "inner", "columns"), [(1030, 129, 48), (777, 131, 32), (1024, 128, 500)])
def test_sizes_that_fill_nothing(workers: Workers, rows: int, inner: int, columns: int) -> None:
    check(workers, _model("both operands", rows, inner, columns), _feed(rows, inner, columns), onnxruntime=False)


def test_a_plan_with_panels_is_replayed(workers: Workers) -> None:
    sizes = 1024, 200, 512
    graph, given = prepared(_model("both operands", *sizes), None), _feed(*sizes)
    exe = build(graph, workers, 1, None)
    text = exe.plan.text()
    again = mapsto.compile(graph, plan=text, isa=workers.isa.name, threads=1, cache=False)
    assert again.plan.text() == text and again.program == exe.program
    assert_same_bits(again.run(given), exe.run(given))


def test_a_reduction_that_is_read_in_parts(workers: Workers) -> None:
    """Rows of the other operand are two axes there, of which one is in blocks."""
    b = Builder("net")
    x, w = b.input("x", DType.F32, (8, 128, 64)), b.input("w", DType.F32, (64, 512))
    g = b.input("g", DType.F32, (8, 128, 160))
    a = b.one("relu", [b.one("matmul", [x, w])])
    rows = [b.one("reshape", [v], shape=(4, 256, v.shape[-1])) for v in (g, a)]
    y = b.one("matmul", [b.one("transpose", [rows[0]], perm=(0, 2, 1)), rows[1]])
    graph = b.finish([y], names=["y"])
    feed = {"x": normal(8, 128, 64), "w": normal(64, 512, seed=1), "g": normal(8, 128, 160, seed=2)}
    exe = build(prepared(graph, None), workers, 1, None)
    made = np.maximum(feed["x"].astype(np.float64) @ feed["w"], 0).reshape(4, 256, 512)
    expected = feed["g"].reshape(4, 256, 160).transpose(0, 2, 1).astype(np.float64) @ made
    found = exe.run(feed)["y"]
    assert abs(found - expected).max() < 1e-5 * abs(expected).max()


def test_the_layout() -> None:
    layout = in_panels((3, 5, 40), 2, 16)
    assert str(layout) == "[d2/16][d0][d1][d2%16]" and layout.elements == 3 * 3 * 5 * 16
    assert layout.place([1, 2, 33]) == 2 * 3 * 5 * 16 + (1 * 5 + 2) * 16 + 1
    assert layout.has_tail
    assert str(Inner(2, panels=True)) == "2 panels"
    assert layout_for((3, 5, 40), 2, TRAITS, panels=True) == layout
