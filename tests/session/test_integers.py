"""Integer ops at the edges of every integer type: reference, interpreted lowering and native code for each instruction
set against exact integers. Some 10^5 cases an instruction set, in few kernels: all pairs of edges are one tensor.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from tests.session import exact
from tests.session.exact import INTEGERS

from mapsto.devices.cpu import isa as isas
from mapsto.devices.cpu.workers import Workers
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import sym
from mapsto.ir.graph import Graph, Value
from mapsto.kernel.interpret import run_kernel
from mapsto.ops.builder import Builder
from mapsto.ops.interpret import run_graph
from mapsto.ops.lowering import node_kernel
from mapsto.session.compile import build, prepared

Array = np.ndarray
Feed = dict[str, Array]
ISAS = [name for name in ("sse2", "avx2", "avx512") if isas.runs(isas.by_name(name))]

# Every type once and every instruction set several times: for ops whose code differs little between them.
SPREAD = [(ISAS[i % len(ISAS)], dtype) for i, dtype in enumerate(INTEGERS)]
spread = pytest.mark.parametrize(
    ("workers", "dtype"), SPREAD, indirect=["workers"], ids=[f"{isa}-{dtype.value}" for isa, dtype in SPREAD]
)


@pytest.fixture(scope="module", params=ISAS)
def workers(request: pytest.FixtureRequest) -> Iterator[Workers]:
    with Workers(cache=False, isa=request.param) as found:
        yield found


def apply(b: Builder, name: str, *operands: Value) -> Value:
    if name in ("mod", "fmod"):
        return b.one("mod", operands, fmod=name == "fmod")
    return b.one(name, operands)


def pairs_graph(dtype: DType) -> Graph:
    """Every op on pairs side by side (vectors and their tail), and on a column against a row read backwards."""
    b = Builder("pairs")
    a, c = (b.input(name, dtype, (sym("n"),)) for name in ("a", "b"))
    column = b.input("column", dtype, (sym("m"), 1))
    row = b.input("row", dtype, (sym("k"),))
    back = b.one("slice", [row], starts=(sym("k") - 1,), steps=(-1,), shape=(sym("k"),))
    names = list(exact.BINARY)
    outputs = [apply(b, name, a, c) for name in names] + [apply(b, name, a) for name in exact.UNARY]
    wide = [apply(b, name, column, back) for name in names]
    return b.finish([*outputs, *wide], names=[*names, *exact.UNARY, *(f"{name}_table" for name in names)])


def pairs_expected(feed: Feed, dtype: DType) -> Feed:
    found = {name: exact.binary(name, feed["a"], feed["b"], dtype) for name in exact.BINARY}
    for name, rule in exact.UNARY.items():
        found[name] = exact.array([rule(v) for v in exact.integers(feed["a"])], dtype)
    for name in exact.BINARY:
        found[f"{name}_table"] = exact.binary(name, feed["column"], feed["row"][::-1], dtype)
    return found


def pairs_feed(values: list[int], others: list[int], dtype: DType) -> Feed:
    both = [(a, b) for a in values for b in others]
    return {
        "a": exact.array([a for a, _ in both], dtype),
        "b": exact.array([b for _, b in both], dtype),
        "column": exact.array(values, dtype, (len(values), 1)),
        "row": exact.array(others, dtype),
    }


def assert_exact(found: Feed, expected: Feed, what: str) -> None:
    for name, wanted in expected.items():
        got = found[name]
        assert got.dtype == wanted.dtype and got.shape == wanted.shape, (what, name, got.dtype, got.shape)
        wrong = np.flatnonzero(got.reshape(-1) != wanted.reshape(-1))
        assert not wrong.size, (
            f"{what}: {name} gives {got.reshape(-1)[wrong][:5]} for {wanted.reshape(-1)[wrong][:5]} at {wrong[:5]}"
        )


@pytest.mark.parametrize("dtype", INTEGERS, ids=lambda d: d.value)
def test_ops_on_all_pairs_of_edges_natively(workers: Workers, dtype: DType) -> None:
    edges = exact.edges(dtype)
    exe = build(prepared(pairs_graph(dtype), None), workers, 1, None)
    whole = pairs_feed(edges, edges, dtype)
    assert_exact(exe.run(whole), pairs_expected(whole, dtype), workers.isa.name)
    rng = np.random.default_rng(0)
    for size in (1,) * 20 + (2, 3, 5):  # scalars and short tails
        some = [edges[i] for i in rng.integers(0, len(edges), size)]
        feed = pairs_feed(some, [edges[i] for i in rng.integers(0, len(edges), size)], dtype)
        assert_exact(exe.run(feed), pairs_expected(feed, dtype), f"{workers.isa.name}, {size} elements")


@pytest.mark.parametrize("dtype", INTEGERS, ids=lambda d: d.value)
def test_ops_on_all_pairs_of_edges_by_reference_and_lowering(dtype: DType) -> None:
    graph = pairs_graph(dtype)
    feed = pairs_feed(exact.edges(dtype), exact.edges(dtype), dtype)
    expected = pairs_expected(feed, dtype)
    assert_exact(run_graph(graph, feed), expected, "reference")
    one = {name: array[:1] for name, array in feed.items()}
    assert_exact(run_graph(graph, one), pairs_expected(one, dtype), "reference of one")
    b = Builder("one")
    x, y = (b.input(name, dtype, (feed["a"].size,)) for name in ("a", "b"))
    for name in exact.BINARY:
        node = b.producer(apply(b, name, x, y))
        assert node is not None
        found = run_kernel(node_kernel(node, b.lookup), {"a": feed["a"], "b": feed["b"]})
        assert_exact({name: found[node.output.name]}, {name: expected[name]}, "interpreted")


def powers_graph(base: DType, exponents: list[DType]) -> Graph:
    b = Builder("powers")
    x = b.input("x", base, (sym("n"), 1))
    outputs = [b.one("pow", [x, b.input(e.value, e, (sym(f"k_{e.value}"),))]) for e in exponents]
    return b.finish(outputs, names=[f"by_{e.value}" for e in exponents])


@spread
def test_powers_of_mixed_types(workers: Workers, dtype: DType) -> None:
    """Integer exponents of every type, floats that are whole and floats that are not."""
    floats = [DType.F32, DType.F64]
    feed = {"x": exact.array(exact.edges(dtype), dtype, (-1, 1))}
    expected: Feed = {}
    for kind in (*INTEGERS, *floats):
        whole = exact.edges(DType.I64 if kind.is_float else kind)
        if kind.is_float:
            whole = [v for v in whole if abs(v) < 1 << 20]
        feed[kind.value] = np.array(whole, dtype=kind.numpy)
        results = [exact.power(x, e) for x in exact.integers(feed["x"]) for e in whole]
        expected[f"by_{kind.value}"] = exact.array(results, dtype, (feed["x"].size, len(whole)))
    graph = powers_graph(dtype, [*INTEGERS, *floats])
    assert_exact(run_graph(graph, feed), expected, "reference")
    exe = build(prepared(graph, None), workers, 1, None)
    assert_exact(exe.run(feed), expected, workers.isa.name)


COMPUTED = [dtype for dtype in DType if not dtype.is_storage]


def casts_graph() -> Graph:
    b = Builder("casts")
    outputs, names = [], []
    for source in COMPUTED:
        x = b.input(source.value, source, (sym(f"n_{source.value}"),))
        for to in COMPUTED:
            if to is not source:
                outputs.append(b.one("cast", [x], to=to))
                names.append(f"{source.value}_{to.value}")
    return b.finish(outputs, names=names)


def float_edges(dtype: DType) -> Array:
    """What truncates, saturates, rounds, and has no number."""
    ends = [v for t in INTEGERS for v in exact.limits(t)]
    near = [0.5, -0.5, 0.99, -0.99, 1.5, 127.5, 255.9, -128.9, 1e30, -1e30, np.inf, -np.inf, np.nan, 0.0, -0.0]
    with np.errstate(all="ignore"):
        found = np.array([*(float(v) for v in ends), *near]).astype(dtype.numpy)
        finite = found[np.isfinite(found.astype(np.float64))]
        return np.concatenate([found, *(np.nextafter(finite, finite.dtype.type(s * np.inf)) for s in (1, -1))])


def cast_value(value: int | float, to: DType) -> int | bool:
    if to is DType.BOOL:
        return value != 0
    if isinstance(value, int):
        return exact.wrapped(value, to)
    if value != value:
        return 0
    if abs(value) == float("inf"):
        return exact.limits(to)[value > 0]
    return exact.saturated(int(value), to)


def test_casts_between_all_types(workers: Workers) -> None:
    feed: Feed = {"bool": np.array([True, False, True])}
    for dtype in COMPUTED:
        if dtype.is_integer:
            feed[dtype.value] = exact.array(exact.edges(dtype), dtype)
        elif dtype.is_float:
            feed[dtype.value] = float_edges(dtype)
    expected: Feed = {}
    for source in COMPUTED:
        x = feed[source.value]
        values = x.astype(np.float64).tolist() if source.is_float else exact.integers(x)
        for to in COMPUTED:
            name = f"{source.value}_{to.value}"
            if to is source:
                continue
            if not to.is_float:
                expected[name] = np.array([cast_value(v, to) for v in values], dtype=to.numpy)
            elif not source.is_float and to in (DType.F32, DType.F64):
                digits = 24 if to is DType.F32 else 53
                expected[name] = np.array([float(exact.rounded(v, digits)) for v in values], dtype=to.numpy)
    graph = casts_graph()
    assert_exact(run_graph(graph, feed), expected, "reference")
    exe = build(prepared(graph, None), workers, 1, None)
    assert_exact(exe.run(feed), expected, workers.isa.name)


REDUCTIONS = {
    "sum": sum,
    "prod": lambda v: int(np.prod(np.array(v, dtype=object))),
    "max": max,
    "min": min,
    "mean": exact.truncated_mean,
}


def reductions_graph(dtype: DType) -> Graph:
    b = Builder("reductions")
    x = b.input("x", dtype, (sym("n"), sym("m")))
    outputs, names = [], []
    for axis in (0, 1):
        for kind in REDUCTIONS:
            outputs.append(b.one("reduce", [x], kind=kind, axes=(axis,), keepdims=False))
            names.append(f"{kind}_{axis}")
        for kind in ("argmax", "argmin"):
            for last in (False, True):
                outputs.append(b.one(kind, [x], axis=axis, keepdims=False, select_last=last))
                names.append(f"{kind}_{axis}_{last}")
        for backwards in (False, True):
            outputs.append(b.one("cumsum", [x], axis=axis, exclusive=backwards, reverse=backwards))
            names.append(f"cumsum_{axis}_{backwards}")
    outputs.append(b.one("reduce", [x], kind="mean", axes=(0, 1), keepdims=False))
    return b.finish(outputs, names=[*names, "mean_all"])


def reductions_expected(x: Array, dtype: DType) -> Feed:
    expected: Feed = {}
    for axis in (0, 1):
        lines = [exact.integers(line) for line in (x.T if axis == 0 else x)]
        for kind, rule in REDUCTIONS.items():
            expected[f"{kind}_{axis}"] = exact.array([rule(line) for line in lines], dtype)
        for kind, best in (("argmax", max), ("argmin", min)):
            first = [line.index(best(line)) for line in lines]
            last = [len(line) - 1 - line[::-1].index(best(line)) for line in lines]
            expected[f"{kind}_{axis}_False"] = np.array(first, dtype=np.int64)
            expected[f"{kind}_{axis}_True"] = np.array(last, dtype=np.int64)
        running = [list(itertools.accumulate(line)) for line in lines]
        from_back = [[0, *itertools.accumulate(line[::-1])][-2::-1] for line in lines]
        for name, totals in (("False", running), ("True", from_back)):
            table = exact.array([v for line in totals for v in line], dtype, (len(lines), -1))
            expected[f"cumsum_{axis}_{name}"] = table.T if axis == 0 else table
    expected["mean_all"] = exact.array([exact.truncated_mean(exact.integers(x))], dtype, ())
    return expected


@spread
def test_reductions(workers: Workers, dtype: DType) -> None:
    """More elements than the type can count, and sums beyond it."""
    graph = reductions_graph(dtype)
    exe = build(prepared(graph, None), workers, 1, None)
    rng = np.random.default_rng(1)
    edges = exact.edges(dtype)
    for shape in ((301, 5), (3, 300), (1, 1), (2, 17)):
        for chosen in (edges, edges[-3:], edges[:2]):
            x = rng.choice(exact.array(chosen, dtype), shape)
            expected = reductions_expected(x, dtype)
            assert_exact(run_graph(graph, {"x": x}), expected, f"reference, {shape}")
            assert_exact(exe.run({"x": x}), expected, f"{workers.isa.name}, {shape}")


def products_graph(dtype: DType) -> Graph:
    b = Builder("products")
    x = b.input("x", dtype, (sym("m"), sym("k")))
    y = b.input("y", dtype, (sym("k"), sym("n")))
    column = b.one("slice", [y], starts=(0, 0), steps=(1, 1), shape=(sym("k"), 1))
    return b.finish([b.one("matmul", [x, y]), b.one("matmul", [x, column])], names=["matrix", "vector"])


@spread
def test_matrix_products_wrap(workers: Workers, dtype: DType) -> None:
    graph = products_graph(dtype)
    exe = build(prepared(graph, None), workers, 1, None)
    rng = np.random.default_rng(2)
    edges = exact.edges(dtype)
    for m, k, n in ((5, 67, 19), (1, 1, 1), (17, 3, 33)):
        x, y = (rng.choice(exact.array(edges, dtype), shape) for shape in ((m, k), (k, n)))
        whole = x.astype(object) @ y.astype(object)
        expected = {"matrix": exact.array(whole.reshape(-1), dtype, (m, n))}
        expected["vector"] = expected["matrix"][:, :1]
        assert_exact(run_graph(graph, {"x": x, "y": y}), expected, "reference")
        assert_exact(exe.run({"x": x, "y": y}), expected, workers.isa.name)
