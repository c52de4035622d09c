"""The bisector names the kernel that computes something wrong, and only that."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from tests.plan.graphs import small_cnn
from tests.session.support import Feed, normal, parse

from mapsto.devices.cpu.workers import Workers
from mapsto.errors import CompileError
from mapsto.ir.expr import sym
from mapsto.ir.graph import Graph
from mapsto.session import bisect as bisector
from mapsto.session.bisect import WorkError, bisect
from mapsto.session.compile import prepared

MODEL = """g (float[N, 24] x, float[24, 40] w, bool c)
    => (float[N, 40] y, int64[N] best, float[N, 3] top, int64[N, 3] at) {
    h = MatMul(x, w)
    k = Relu(h)
    p = Softmax(k)
    y = If (c) <
        then_branch = t () => (float[N, 40] a) { m = MatMul(x, w) n = Abs(m) a = Sqrt(n) },
        else_branch = e () => (float[N, 40] b) { b = Neg(p) }
    >
    best = ArgMax<axis = 1, keepdims = 0>(p)
    three = Constant<value_ints = [3]>()
    top, at = TopK(p, three)
}"""


def feed(condition: bool = True) -> Feed:
    return {"x": normal(5, 24), "w": normal(24, 40, seed=1), "c": np.array(condition)}


def spoil(monkeypatch: pytest.MonkeyPatch, change: Callable[[str], str]) -> None:
    """From here on LLVM is given other text than was printed, and no cache hides it."""
    submit = Workers.submit
    monkeypatch.setattr(Workers, "submit", lambda self, name, text, how: submit(self, name, change(text), how))
    monkeypatch.setattr(bisector, "backend_named", lambda *_: Workers(False))


@pytest.mark.parametrize("condition", [True, False])
def test_right_kernels_give_no_verdict(condition: bool) -> None:
    assert list(bisect(prepared(parse(MODEL), None), feed(condition))) == []


@pytest.mark.parametrize("graph", [small_cnn(), small_cnn(sym("h"), sym("w"))], ids=["fixed", "open"])
def test_right_kernels_of_a_convolutional_network(graph: Graph) -> None:
    assert list(bisect(prepared(graph, None), {"x": normal(1, 3, 32, 32)})) == []


def test_only_the_wrong_kernel_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Subtractions that add: softmax alone has some."""
    spoil(monkeypatch, lambda text: text.replace(" fsub ", " fadd "))
    (verdict,) = bisect(prepared(parse(MODEL), None), feed(False))
    assert isinstance(verdict, WorkError) and "sub" in verdict.ops and "matmul" not in verdict.ops
    assert verdict.error > 1e-3 and verdict.message == ""


def test_a_wrong_kernel_in_a_branch_is_found_where_the_branch_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, lambda text: text.replace("@llvm.sqrt", "@llvm.fabs"))
    graph = prepared(parse(MODEL), None)
    found = {condition: list(bisect(graph, feed(condition))) for condition in (True, False)}
    assert ["sqrt" in v.ops for v in found[True]] == [True] and found[False] == []


def test_a_kernel_that_cannot_be_made_is_a_verdict_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    build = bisector.build

    def failing(graph: Graph, *more: object) -> object:
        if any(node.op == "topk" for node in graph.nodes):
            raise CompileError("kernel 'k1': no registers left")
        return build(graph, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(bisector, "build", failing)
    (verdict,) = bisect(prepared(parse(MODEL), None), feed())
    assert verdict.ops == ("topk",) and verdict.message == "CompileError: kernel 'k1': no registers left"


def test_numbers_that_are_none_are_compared_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    """NaN where the reference has NaN is right; elsewhere it is not."""
    model = parse("g (float[N] x) => (float[N] y) { h = Sqrt(x) y = Softmax(h) }")
    given = {"x": np.array([1, -1, 4], np.float32)}
    graph = prepared(model, None)
    assert list(bisect(graph, given)) == []
    spoil(monkeypatch, lambda text: text.replace("@llvm.sqrt", "@llvm.fabs"))
    assert len(list(bisect(graph, given))) == 1


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    onnx.save(parse(MODEL), tmp_path / "model.onnx")
    np.savez(tmp_path / "inputs.npz", **feed())
    monkeypatch.setattr(sys, "argv", ["bisect", str(tmp_path / "model.onnx"), str(tmp_path / "inputs.npz")])
    bisector.main()
    assert capsys.readouterr().out == ""
    spoil(monkeypatch, lambda text: text.replace(" fsub ", " fadd "))
    bisector.main()
    assert "WorkError(work=" in capsys.readouterr().out
