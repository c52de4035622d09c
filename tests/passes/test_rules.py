"""Each rule fires where its line of algebra holds, and not where it does not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import mapsto.ops  # noqa: F401  (registers the ops)
from mapsto.errors import ShapeError
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import sym
from mapsto.ir.graph import Graph, Value
from mapsto.ops import composite
from mapsto.ops.builder import Builder
from mapsto.ops.interpret import run_graph
from mapsto.passes import (
    AffineFolding,
    DeadCode,
    Identities,
    LayoutMoves,
    Strength,
    run_passes,
    specialise,
)
from mapsto.passes.identities import represents
from mapsto.passes.retrace import retrace

Build = Callable[[Builder, Value], Value]
COMPUTED = [dtype for dtype in DType if not dtype.is_storage]


def graph_of(build: Build, shape: tuple[Any, ...] = (2, 3, 4, 4), dtype: DType = DType.F32) -> Graph:
    b = Builder("g")
    x = b.input("x", dtype, shape)
    with b.source("n"):
        return b.finish([build(b, x)], names=["y"])


def ops_after(
    step: Callable[[Graph], Graph], build: Build, shape: tuple[Any, ...] = (2, 3, 4, 4), dtype: DType = DType.F32
) -> list[str]:
    return [node.op for node in DeadCode()(step(graph_of(build, shape, dtype))).nodes]


def number(b: Builder, value: float, x: Value) -> Value:
    return b.constant(np.asarray(value), "c", x.dtype)


def two(b: Builder, name: str, x: Value, value: float) -> Value:
    return b.one(name, [x, number(b, value, x)])


def transposed(b: Builder, x: Value, *perm: int) -> Value:
    return b.one("transpose", [x], perm=perm)


def sliced(b: Builder, x: Value, axis: int, start: Any, extent: Any, step: int = 1) -> Value:
    starts = tuple(start if k == axis else 0 for k in range(x.rank))
    steps = tuple(step if k == axis else 1 for k in range(x.rank))
    return b.one(
        "slice", [x], starts=starts, steps=steps, shape=tuple(extent if k == axis else d for k, d in enumerate(x.shape))
    )


GONE: dict[str, Build] = {
    "x + -0": lambda b, x: two(b, "add", x, -0.0),
    "-0 + x": lambda b, x: b.one("add", [number(b, -0.0, x), x]),
    "x - 0": lambda b, x: two(b, "sub", x, 0),
    "x * 1": lambda b, x: two(b, "mul", x, 1),
    "x / 1": lambda b, x: two(b, "div", x, 1),
    "x ^ 1": lambda b, x: two(b, "pow", x, 1),
    "max(x, -inf)": lambda b, x: two(b, "max", x, -np.inf),
    "min(x, inf)": lambda b, x: two(b, "min", x, np.inf),
    "max(x, x)": lambda b, x: b.one("max", [x, x]),
    "neg(neg(x))": lambda b, x: b.one("neg", [b.one("neg", [x])]),
    "select(c, x, x)": lambda b, x: b.one("select", [two(b, "gt", x, 0), x, x]),
    "transpose in order": lambda b, x: transposed(b, x, 0, 1, 2, 3),
    "transpose and back": lambda b, x: transposed(b, transposed(b, x, 0, 2, 3, 1), 0, 3, 1, 2),
    "reshape and back": lambda b, x: b.one("reshape", [b.one("reshape", [x], shape=(96,))], shape=x.shape),
    "expand to own shape": lambda b, x: b.one("expand", [x], shape=x.shape),
    "slice all": lambda b, x: sliced(b, x, 1, 0, 3),
    "slice backwards twice": lambda b, x: sliced(b, sliced(b, x, 1, 2, 3, -1), 1, 2, 3, -1),
    "pad nothing": lambda b, x: b.one("pad", [x], before=(0,) * 4, after=(0,) * 4, mode="constant", value=0.0),
    "tile once": lambda b, x: b.one("tile", [x], repeats=(1,) * 4),
    "cast wider and back": lambda b, x: b.one("cast", [b.one("cast", [x], to=DType.F64)], to=DType.F32),
    "concat of one": lambda b, x: b.one("concat", [x], axis=1),
    "concat with nothing": lambda b, x: b.one("concat", [x, sliced(b, x, 1, 0, 0)], axis=1),
}


@pytest.mark.parametrize("build", GONE.values(), ids=GONE.keys())
def test_what_changes_nothing_goes(build: Build) -> None:
    assert ops_after(Identities(), build) == ["copy"]


STAYS: dict[str, Build] = {
    "a constant that broadcasts x": lambda b, x: b.one("add", [x, b.constant(np.zeros((5, 1, 1, 1, 1), np.float32))]),
    "x ^ 0": lambda b, x: two(b, "pow", x, 0),
    "cast narrower and back": lambda b, x: b.one("cast", [b.one("cast", [x], to=DType.F16)], to=DType.F32),
    "another transpose": lambda b, x: transposed(b, transposed(b, x, 0, 2, 3, 1), 0, 2, 3, 1),
    "0 - x": lambda b, x: b.one("sub", [number(b, 0, x), x]),
    "x + 0": lambda b, x: two(b, "add", x, 0),  # -0 + 0 is +0
    "x - -0": lambda b, x: two(b, "sub", x, -0.0),
}


@pytest.mark.parametrize("build", STAYS.values(), ids=STAYS.keys())
def test_what_changes_something_stays(build: Build) -> None:
    assert ops_after(Identities(), build) != ["copy"]


@pytest.mark.parametrize("narrow", COMPUTED, ids=str)
def test_a_type_holds_another_only_where_its_extremes_come_back(narrow: DType) -> None:
    if narrow is DType.BOOL:
        edges = np.array([False, True])
    elif narrow.is_float:
        info = ml_dtypes.finfo(narrow.numpy)
        edges = np.array([info.max, info.tiny, 1 + float(info.eps), -float(info.max)], np.float64).astype(narrow.numpy)
    else:
        edges = np.array([np.iinfo(narrow.numpy).min, np.iinfo(narrow.numpy).max], narrow.numpy)
    for wide in COMPUTED:
        with np.errstate(all="ignore"):
            there = edges.astype(wide.numpy)
            back = there.astype(narrow.numpy)
        # integers that wrap come back too, but as other numbers
        kept = np.array_equal(back, edges) and bool(np.all((there < 0) == (edges < 0)))
        assert kept or not represents(wide, narrow), wide
    assert represents(narrow, narrow) and represents(narrow, DType.BOOL)


@pytest.mark.parametrize("stored", [d for d in DType if d.is_storage], ids=str)
def test_storage_types_hold_only_themselves_as_no_cast_leads_to_them(stored: DType) -> None:
    assert represents(stored, stored)
    assert not any(represents(stored, other) or represents(other, stored) for other in COMPUTED)


CHEAPER: dict[str, tuple[Build, list[str]]] = {
    "x ^ 2": (lambda b, x: two(b, "pow", x, 2), ["mul"]),
    "x ^ 3": (lambda b, x: two(b, "pow", x, 3), ["mul", "mul"]),
    "(x*x) ^ 1/2": (lambda b, x: two(b, "pow", b.one("mul", [x, x]), 0.5), ["mul", "sqrt"]),
    "x ^ 1/2": (lambda b, x: two(b, "pow", x, 0.5), ["pow"]),
    "(x*x) ^ 3/4": (lambda b, x: two(b, "pow", b.one("mul", [x, x]), 0.75), ["mul", "sqrt", "sqrt", "mul"]),
    "x ^ 3/4": (lambda b, x: two(b, "pow", x, 0.75), ["pow"]),
    "x ^ -1": (lambda b, x: two(b, "pow", x, -1), ["reciprocal"]),
    "x / 8": (lambda b, x: two(b, "div", x, 8), ["mul"]),
    "x / 3": (lambda b, x: two(b, "div", x, 3), ["div"]),
    "1 / x": (lambda b, x: b.one("div", [number(b, 1, x), x]), ["reciprocal"]),
    "x * -1": (lambda b, x: two(b, "mul", x, -1), ["neg"]),
    "x + -y": (lambda b, x: b.one("add", [x, b.one("neg", [b.one("exp", [x])])]), ["exp", "sub"]),
    "gather of neighbours": (lambda b, x: b.one("gather", [x, b.constant(np.array([1, 2]))], axis=1), ["slice"]),
    "gather of one": (lambda b, x: b.one("gather", [x, b.constant(np.array(-1))], axis=1), ["slice", "reshape"]),
    "gather in no order": (lambda b, x: b.one("gather", [x, b.constant(np.array([1, 0]))], axis=1), ["gather"]),
}


@pytest.mark.parametrize(("build", "expected"), CHEAPER.values(), ids=CHEAPER.keys())
def test_cheaper_operations(build: Build, expected: list[str]) -> None:
    assert ops_after(Strength(), build) == expected


EVERY_RULE = {**GONE, **STAYS, **{name: build for name, (build, _) in CHEAPER.items()}}
# Roots of what a rule takes to be nowhere below zero, zeros of either sign among it.
EVERY_RULE |= {
    "relu(x) ^ 1/2": lambda b, x: two(b, "pow", b.one("relu", [x]), 0.5),
    "max(x, -0) ^ 1/2": lambda b, x: two(b, "pow", two(b, "max", x, -0.0), 0.5),
    "(x*x + 1) ^ 1/2": lambda b, x: two(b, "pow", two(b, "add", b.one("mul", [x, x]), 1), 0.5),
    "sqrt(|x|) ^ 1/2": lambda b, x: two(b, "pow", b.one("sqrt", [b.one("abs", [x])]), 0.5),
}
EVERY_RULE |= {
    "max(x, -0) ^ 3/4": lambda b, x: two(b, "pow", two(b, "max", x, -0.0), 0.75),
    "(relu(x) + x) ^ 3/4": lambda b, x: two(b, "pow", b.one("add", [b.one("relu", [x]), x]), 0.75),
}
# Roots of what is below zero, or minus infinity, though a part of it is not.
EVERY_RULE |= {
    "(relu(x) + x) ^ 1/2": lambda b, x: two(b, "pow", b.one("add", [b.one("relu", [x]), x]), 0.5),
    "(|x| * x) ^ 1/2": lambda b, x: two(b, "pow", b.one("mul", [b.one("abs", [x]), x]), 0.5),
    "min(|x|, x) ^ 1/2": lambda b, x: two(b, "pow", b.one("min", [b.one("abs", [x]), x]), 0.5),
    "(exp(x) / sqrt(max(x, -0))) ^ 1/2": lambda b, x: two(
        b, "pow", b.one("div", [b.one("exp", [x]), b.one("sqrt", [two(b, "max", x, -0.0)])]), 0.5
    ),
}


def test_the_norm_of_a_local_response_takes_roots() -> None:
    def build(b: Builder, x: Value) -> Value:
        return composite.local_response_norm(b, x, 3, 1e-4, 0.75, 1.0)

    graph = run_passes(graph_of(build))
    ops = [node.op for node in graph.nodes]
    assert "pow" not in ops and ops.count("sqrt") == 2
    feed = {"x": np.random.default_rng(0).standard_normal((2, 3, 4, 4)).astype(np.float32) * 100}
    before, after = (run_graph(g, feed)["y"] for g in (graph_of(build), graph))
    np.testing.assert_allclose(after, before, rtol=4e-7)


@pytest.mark.parametrize("build", EVERY_RULE.values(), ids=EVERY_RULE.keys())
def test_rewriting_keeps_zeros_signs_infinities_and_nan(build: Build) -> None:
    special = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1.0, -1.0, 2.0, -8.0, 1e-40, -1e-40, 3e38], np.float32)
    feed = {"x": np.resize(special, (2, 3, 4, 4))}
    graph = graph_of(build)
    with np.errstate(all="ignore"):
        before, after = (run_graph(g, feed)["y"] for g in (graph, run_passes(graph)))
    np.testing.assert_allclose(after, before, rtol=3e-7 if before.dtype.kind == "f" else 0, atol=1e-45)
    numbers = ~np.isnan(before) if before.dtype.kind == "f" else np.ones(before.shape, np.bool_)
    np.testing.assert_array_equal(np.signbit(after[numbers]), np.signbit(before[numbers]))


@pytest.mark.parametrize("dtype", [d for d in DType if d.is_integer], ids=lambda d: d.value)
def test_a_rewritten_chain_of_casts_gives_the_same_integers(dtype: DType) -> None:
    """A float on the way saturates, an integer wraps."""
    info = np.iinfo(dtype.numpy)
    x = np.array([info.min, info.min + 1, 0, 1, 100, info.max - 1, info.max], dtype.numpy)
    for through in COMPUTED:
        for to in COMPUTED:
            graph = graph_of(lambda b, v, t=through, u=to: b.one("cast", [b.one("cast", [v], to=t)], to=u), (7,), dtype)  # type: ignore[misc]
            with np.errstate(all="ignore"):
                before, after = (run_graph(g, {"x": x})["y"] for g in (graph, run_passes(graph)))
            np.testing.assert_array_equal(after, before, err_msg=f"{through.value}, {to.value}")


def test_pow_of_a_square_root_keeps_minus_infinity() -> None:
    graph = graph_of(lambda b, x: two(b, "pow", x, 0.5), (1,))
    assert run_graph(run_passes(graph), {"x": np.array([-np.inf], np.float32)})["y"][0] == np.inf


def conv(b: Builder, x: Value, channels: int = 4) -> Value:
    generator = np.random.default_rng(1)
    w = b.constant(generator.standard_normal((channels, x.shape[1], 3, 3)).astype(np.float32))  # type: ignore[misc]
    return b.one("conv", [x, w], strides=(1, 1), pads=(1, 1, 1, 1), dilations=(1, 1), group=1)


def channels(*numbers: float) -> np.ndarray:
    return np.array(numbers, np.float32).reshape(-1, 1, 1)


def test_batch_norm_becomes_weights_and_bias() -> None:
    def build(b: Builder, x: Value) -> Value:
        scaled = b.one("mul", [conv(b, x), b.constant(channels(1, 2, 3, 4))])
        return b.one("relu", [b.one("add", [scaled, b.constant(channels(4, 3, 2, 1))])])

    assert ops_after(AffineFolding(), build) == ["conv", "relu"]


def contracted(kind: str, biased: bool) -> Build:
    """A contraction of x[2, 4, 4, 4] with six result channels (columns)."""

    def build(b: Builder, x: Value) -> Value:
        generator = np.random.default_rng(3)

        def varied(*shape: int) -> Value:
            return b.constant(generator.standard_normal(shape).astype(np.float32))

        bias = [varied(6)] if biased else []
        attrs = {"strides": (1, 1), "pads": (1, 0, 0, 1), "dilations": (1, 1), "group": 2}
        if kind == "conv":
            return b.one("conv", [x, varied(6, 2, 2, 2), *bias], **attrs)
        if kind == "conv_transpose":
            return b.one("conv_transpose", [x, varied(4, 3, 2, 2), *bias], **attrs, output_padding=(0, 0))
        return b.one("matmul", [x, varied(4, 6)])

    return build


FOLDED = [(kind, op) for kind in ("conv", "conv_transpose") for op in ("mul", "div", "add", "sub")]


@pytest.mark.parametrize("biased", [False, True], ids=["bare", "biased"])
@pytest.mark.parametrize(("kind", "op"), [*FOLDED, ("matmul", "mul"), ("matmul", "div")])
def test_what_is_folded_into_a_contraction_is_computed(kind: str, op: str, biased: bool) -> None:
    """Twice, so that a bias of its own is scaled or shifted as well."""
    last = kind == "matmul"
    numbers = np.array([2, -3, 0.5, 7, -1.5, 4], np.float32).reshape((6,) if last else (6, 1, 1))

    def build(b: Builder, x: Value) -> Value:
        once = b.one(op, [contracted(kind, biased)(b, x), b.constant(numbers)])
        return b.one(op, [once, b.constant(numbers[::-1].copy())])

    graph = graph_of(build, (2, 4, 4, 4))
    after = DeadCode()(AffineFolding()(graph))
    assert [node.op for node in after.nodes] == [kind]
    x = np.random.default_rng(0).standard_normal((2, 4, 4, 4)).astype(np.float32)
    expected, found = (run_graph(g, {"x": x}, wide=True)["y"] for g in (graph, after))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_a_convolution_read_twice_is_not_folded_into() -> None:
    def build(b: Builder, x: Value) -> Value:
        y = conv(b, x)
        return b.one("add", [b.one("mul", [y, b.constant(channels(1, 2, 3, 4))]), y])

    assert ops_after(AffineFolding(), build) == ["conv", "mul", "add"]


def test_a_scale_along_another_axis_is_not_folded() -> None:
    row = np.ones((1, 1, 1, 4), np.float32) * 2
    assert ops_after(AffineFolding(), lambda b, x: b.one("mul", [conv(b, x), b.constant(row)])) == ["conv", "mul"]


def test_transposes_around_elementwise_ops_cancel() -> None:
    def build(b: Builder, x: Value) -> Value:
        y = b.one("tanh", [b.one("relu", [transposed(b, x, 0, 2, 3, 1)])])
        return transposed(b, y, 0, 3, 1, 2)

    assert ops_after(LayoutMoves(), build) == ["relu", "tanh"]


def test_two_transposed_operands_become_one_transpose() -> None:
    def build(b: Builder, x: Value) -> Value:
        return b.one("add", [transposed(b, x, 0, 2, 3, 1), transposed(b, b.one("exp", [x]), 0, 2, 3, 1)])

    assert sorted(ops_after(LayoutMoves(), build)) == ["add", "exp", "transpose"]


def test_a_slice_of_a_concat_is_the_part() -> None:
    def build(b: Builder, x: Value) -> Value:
        whole = b.one("concat", [b.one("neg", [x]), b.one("exp", [x])], axis=1)
        return sliced(b, whole, 1, 3, 3)

    assert ops_after(LayoutMoves(), build) == ["exp"]


def test_expand_before_a_broadcasting_op_goes() -> None:
    def build(b: Builder, x: Value) -> Value:
        row = b.one("reduce", [x], kind="sum", axes=(1,), keepdims=True)
        return b.one("sub", [x, b.one("expand", [row], shape=x.shape)])

    assert ops_after(Identities(), build) == ["reduce", "sub"]


def test_equal_nodes_are_shared_and_keep_both_sources() -> None:
    b = Builder("g")
    x = b.input("x", DType.F32, (2,))
    made = []
    for name in ("first", "second"):
        with b.source(name):
            made.append(b.one("exp", [b.one("add", [x, b.constant(np.float32(2))])]))
    with b.source("last"):
        y = b.one("mul", made)
    graph = retrace(b.finish([y], names=["y"]))
    assert [node.op for node in DeadCode()(graph).nodes] == ["add", "exp", "mul"]
    assert set(DeadCode()(graph).nodes[0].provenance) == {"first", "second"}


def test_fixed_sizes_fold_what_depends_on_them() -> None:
    n = sym("n")
    b = Builder("g")
    x = b.input("x", DType.F32, (n, 3))
    with b.source("s"):
        size = b.one("cast", [b.known(np.array([n, 3], dtype=object))], to=DType.F32)
        y = b.one("mul", [x, b.one("reduce", [size], kind="sum", axes=(0,), keepdims=False)])
    graph = specialise(b.finish([y], names=["y"]), {"n": 2})
    assert [node.op for node in DeadCode()(graph).nodes] == ["mul"]
    assert graph.inputs[0].shape == (2, 3)


def test_sizes_that_a_condition_rules_out_are_refused() -> None:
    b = Builder("g")
    x = b.input("x", DType.F32, (sym("n"),))
    with b.source("s"):
        b.require(sym("n") - 4, "at least four")
        graph = b.finish([b.one("neg", [x])], names=["y"])
    assert [node.op for node in DeadCode()(graph).nodes] == ["require", "neg"]
    with pytest.raises(ShapeError, match="at least four"):
        specialise(graph, {"n": 3})
    assert [node.op for node in specialise(graph, {"n": 4}).nodes] == ["neg"]


def test_a_branch_that_is_decided_is_inlined() -> None:
    b = Builder("g")
    x = b.input("x", DType.F32, (2,))
    c = b.input("c", DType.BOOL, ())
    graphs = []
    for op in ("neg", "exp"):
        inner = Builder(op, b)
        with inner.source(op):
            graphs.append(inner.finish([inner.one(op, [x])]))
    with b.source("if"):
        (y,) = b.add("if", [c], {}, graphs)
    graph = b.finish([y], names=["y"])
    assert [node.op for node in run_passes(graph).nodes] == ["if"]
    known = Graph(graph.name, graph.inputs[:1], graph.outputs, graph.nodes, {"c": np.array(False)})
    assert [node.op for node in run_passes(known).nodes] == ["exp"]


def test_a_size_that_nothing_uses_is_not_bound() -> None:
    b = Builder("g")
    x = b.input("x", DType.F32, (4,))
    with b.source("s"):
        indices, count = b.add("nonzero", [x])
        found = b.bind(count, "count")
        b.one("slice", [indices], starts=(0, 0), steps=(1, 1), shape=(1, found))
        graph = b.finish([b.one("neg", [x])], names=["y"])
    assert [node.op for node in DeadCode()(graph).nodes] == ["neg"]
