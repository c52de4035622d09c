"""The LLVM printer against the interpreter, on every instruction set that this processor runs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.loop.agreement import ISAS, assert_same, both, check, special_values
from tests.loop.helpers import native

from mapsto.devices.cpu.isa import Isa
from mapsto.errors import UnsupportedError
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, floordiv, load, maximum, minimum, mod, mul, sym
from mapsto.loop.ast import (
    Alloc,
    Assign,
    Binary,
    Bitcast,
    Broadcast,
    Cast,
    Compare,
    Const,
    Declare,
    Dot,
    Fma,
    For,
    Function,
    If,
    IndexValue,
    Let,
    LetIndex,
    Load,
    Lookup,
    Nearest,
    Param,
    ReduceLanes,
    Select,
    Shuffle,
    Statement,
    Store,
    Type,
    Unary,
    Value,
    Var,
    While,
)
from mapsto.loop.interpret import interpret
from mapsto.loop.llvm import to_llvm

INTEGERS = [DType.I8, DType.I16, DType.I32, DType.I64, DType.U8, DType.U16, DType.U32, DType.U64]
FLOATS = [DType.F32, DType.F64]
BOOL = DType.BOOL


# ---- values ---------------------------------------------------------------------------------------------------------


def operations(a: Value, b: Value, c: Value) -> list[tuple[str, Value]]:
    """Every arithmetic form for operands of one type, with a name."""
    element, lanes = a.type.element, a.type.lanes
    found: list[tuple[str, Value]] = []
    if element is BOOL:
        found += [(op, Binary(op, a, b)) for op in ("and", "or", "xor", "min", "max")]
        found += [("not", Unary("not", a)), ("eq", Compare("eq", a, b)), ("lt", Compare("lt", a, b))]
        found += [(op, ReduceLanes(op, a, Type(BOOL))) for op in ("any", "all")]
        return found
    binaries = ["add", "sub", "mul", "div", "rem", "min", "max"]
    binaries += ["copysign"] if element.is_float else ["and", "or", "xor", "shl", "shr"]
    found += [(op, Binary(op, a, b)) for op in binaries]
    unaries = ["neg", "abs"] + (["sqrt", "floor", "ceil", "rint", "trunc"] if element.is_float else ["not"])
    found += [(op, Unary(op, a)) for op in unaries]
    compares = [(op, Compare(op, a, b)) for op in ("eq", "ne", "lt", "le", "gt", "ge")]
    found += compares
    found.append(("select", Select(compares[2][1], a, b)))
    found += [(f"reduce {op}", ReduceLanes(op, a, Type(element))) for op in ("sum", "prod", "min", "max")]
    literal = Const(3, a.type)
    found += [
        ("max 3", Binary("max", a, literal)),
        ("3 min", Binary("min", literal, a)),
        ("div 3", Binary("div", a, literal)),
    ]
    if element.is_float:
        found += [("fma", Fma(a, b, c)), ("broadcast", Broadcast(ReduceLanes("max", b, Type(element)), a.type))]
    else:
        found += [("shl 3", Binary("shl", a, literal)), ("shr 3", Binary("shr", a, literal))]
    assert all(v.type.lanes in (1, lanes) for _, v in found)
    return found


def arithmetic_function(element: DType, lanes: int) -> tuple[Function, list[str]]:
    """out_k = the k-th operation on three vectors, for `end - begin` vectors."""
    t, i = Type(element, lanes), sym("i")
    a, b, c = (Load(name, mul(i, lanes), t) for name in "abc")
    forms = operations(a, b, c)
    outs = tuple(Param(f"out{k}", v.type.element, True) for k, (_, v) in enumerate(forms))
    stores = tuple(Store(f"out{k}", mul(i, v.type.lanes), v) for k, (_, v) in enumerate(forms))
    params = (*(Param(name, element) for name in "abc"), *outs)
    loop = For("i", sym("begin"), sym("end"), stores)
    return Function(f"arithmetic_{element.value}_{lanes}", params, (), (loop,)), [name for name, _ in forms]


@pytest.mark.parametrize("lanes", [1, 3, 4, 16])
def test_arithmetic(isa: Isa, lanes: int) -> None:
    made = [arithmetic_function(element, lanes) for element in (*INTEGERS, *FLOATS, DType.F16, DType.BF16, BOOL)]
    calls = native([f for f, _ in made], isa)
    rounds = 48
    for function, names in made:
        element = function.params[0].element
        inputs = [special_values(element, rounds * lanes, seed) for seed in (1, 2, 3)]
        outs = [np.zeros(rounds * lanes, p.element.numpy) for p in function.params[3:]]
        ours, theirs = [o.copy() for o in outs], [o.copy() for o in outs]
        interpret(function, [*inputs, *theirs], (), 0, rounds)
        calls[function.name]([*inputs, *ours], [], 0, rounds)
        for name, got, wanted in zip(names, ours, theirs, strict=True):
            if element.is_float and name.split()[-1] in ("min", "max", "3"):  # the sign of a zero is open there
                got, wanted = (np.where(x == 0, np.zeros((), x.dtype), x) for x in (got, wanted))
            if element is DType.BF16 and isa.has("bf16"):  # the processor's conversion makes denormal numbers zero
                if name == "reduce prod":
                    continue  # inside the product too
                got, wanted = (
                    np.where(abs(x) < np.float32(2.0**-126), np.zeros((), x.dtype), x) for x in (got, wanted)
                )
            assert_same(got, wanted, (isa.name, element, lanes, name))


def test_cheap_extremes_agree_without_nan(isa: Isa) -> None:
    t = Type(DType.F32, 8)
    a, b = Load("a", 0, t), Load("b", 0, t)
    stores = (Store("out", 0, Binary("minnum", a, b)), Store("out", 8, Binary("maxnum", a, b)))
    f = Function("cheap", (Param("a", DType.F32), Param("b", DType.F32), Param("out", DType.F32, True)), (), stores)
    x = np.random.default_rng(0).normal(size=(2, 8)).astype(np.float32)
    both(f, native([f], isa)["cheap"], [x[0], x[1], np.zeros(16, np.float32)], [], 0, 1)


ELEMENTS = (*INTEGERS, DType.F16, DType.BF16, *FLOATS, BOOL)


def cast_function(source: DType, lanes: int) -> Function:
    i = sym("i")
    value = Load("a", mul(i, lanes), Type(source, lanes))
    stores = tuple(Store(t.value, mul(i, lanes), Cast(value, Type(t, lanes))) for t in ELEMENTS)
    params = (Param("a", source), *(Param(t.value, t, True) for t in ELEMENTS))
    return Function(f"cast_{source.value}_{lanes}", params, (), (For("i", sym("begin"), sym("end"), stores),))


@pytest.mark.parametrize("lanes", [1, 16])
def test_casts(isa: Isa, lanes: int) -> None:
    functions = [cast_function(source, lanes) for source in ELEMENTS]
    calls = native(functions, isa)
    rounds = 64 if lanes == 16 else 256
    for function in functions:
        source = function.params[0].element
        a = special_values(source, rounds * lanes, 5)
        if isa.has("bf16") and source.is_float:  # the processor's conversion to bf16 takes denormal numbers for zero
            a = np.where(np.abs(a.astype(np.float64)) < 2.0**-126, np.zeros((), a.dtype), a)
        outs = [np.zeros(rounds * lanes, t.numpy) for t in ELEMENTS]
        both(function, calls[function.name], [a, *outs], [], 0, rounds)


@pytest.mark.parametrize("source", [DType.F32, DType.F64])
@pytest.mark.parametrize("lanes", [2, 8])
def test_integers_of_floats_at_their_limits(isa: Isa, lanes: int, source: DType) -> None:
    """Each limit, half a step beside it, and the floats next to it; what is no number."""
    limits = sorted({edge for t in INTEGERS for edge in (np.iinfo(t.numpy).min, np.iinfo(t.numpy).max + 1)})
    near = [float(edge) + by for edge in limits for by in (-1.5, -1, -0.5, 0, 0.5, 1)]
    edges = np.asarray([*near, np.nan, np.inf, -np.inf, -0.0], source.numpy)
    with np.errstate(over="ignore"):
        beside = [np.nextafter(edges, np.asarray(way, source.numpy)) for way in (np.inf, -np.inf)]
    a = np.concatenate([edges, *beside])
    a = np.concatenate([a, -a])
    a = np.resize(a, -(-a.size // lanes) * lanes)
    function = cast_function(source, lanes)
    outs = [np.zeros(a.size, t.numpy) for t in ELEMENTS]
    both(function, native([function], isa)[function.name], [a, *outs], [], 0, a.size // lanes)


NEAREST = [
    (0, 255, 0, DType.U8), (-7, 248, 7, DType.U8), (-128, 127, 0, DType.I8), (5, 5, 0, DType.I32),
    (-7, 248, 7, DType.I16), (-300, 200, -3, DType.I16), (-7, 248, 7, DType.I32),
]  # fmt: skip


@pytest.mark.parametrize("low, high, zero, element", NEAREST)
@pytest.mark.parametrize("lanes", [1, 3, 8, 16])
def test_the_nearest_integers_between_bounds(
    isa: Isa, lanes: int, low: int, high: int, zero: int, element: DType
) -> None:
    """Halves to even; beyond the bounds, and what is no number."""
    halves = np.arange(low - 4, high + 5, 0.5, np.float32)
    hard = [*halves, *np.nextafter(halves, np.float32(np.inf)), *np.nextafter(halves, np.float32(-np.inf))]
    a = np.asarray([*hard, np.nan, np.inf, -np.inf, -0.0, 3e38, -3e38, 2.0**31, -(2.0**31)], np.float32)
    a = np.resize(a, -(-a.size // lanes) * lanes)
    at = mul(sym("i"), lanes)
    found = Nearest(Load("a", at, Type(DType.F32, lanes)), low, high, zero, element)
    name = Var("n", found.type)
    stores = (Store("out", at, name), Store("wide", at, Cast(name, Type(DType.I32, lanes))))
    params = (Param("a", DType.F32), Param("out", element, True), Param("wide", DType.I32, True))
    body = (For("i", sym("begin"), sym("end"), (Let("n", found), *stores)),)
    function = Function("nearest", params, (), body)
    out, wide = np.zeros(a.size, element.numpy), np.zeros(a.size, np.int32)
    both(function, native([function], isa)["nearest"], [a, out, wide], [], 0, a.size // lanes)
    interpret(function, [a, out, wide], (), 0, a.size // lanes)
    held = np.where(np.isnan(a), low, np.clip(np.rint(a.astype(np.float64)), low, high)) + zero
    np.testing.assert_array_equal(out, held)
    np.testing.assert_array_equal(wide, held)


def test_a_table_of_bytes_is_looked_up(isa: Isa) -> None:
    """Where registers hold one; elsewhere it is refused, and nobody asks for it."""
    rng = np.random.default_rng(0)
    table = tuple(int(n) for n in rng.integers(0, 256, 256))
    t = Type(DType.I32, 16)
    store = Store("out", mul(sym("i"), 16), Lookup(Load("a", mul(sym("i"), 16), t), table))
    params = (Param("a", DType.I32), Param("out", DType.I32, True))
    function = Function("table", params, (), (For("i", sym("begin"), sym("end"), (store,)),))
    a = np.concatenate([np.arange(256), rng.permutation(256)]).astype(np.int32)
    if not isa.has("permute_words"):
        with pytest.raises(UnsupportedError, match="table of bytes"):
            to_llvm(function, isa.capabilities)
        return
    out = np.zeros(a.size, np.int32)
    native([function], isa)["table"]([a, out], [], 0, a.size // 16)
    np.testing.assert_array_equal(out, np.asarray(table)[a])
    both(function, native([function], isa)["table"], [a, out], [], 0, a.size // 16)


@pytest.mark.parametrize("target", [DType.F16, DType.BF16])
def test_narrow_floats_round_to_even_everywhere(isa: Isa, target: DType) -> None:
    """All f32 values half way between two neighbours of the narrow type, and those just beside."""
    bits = np.arange(0, 1 << 16, dtype=np.uint16)
    narrow = bits.view(target.numpy).astype(np.float32)
    with np.errstate(all="ignore"):
        middle = ((narrow[:-1].astype(np.float64) + narrow[1:]) / 2).astype(np.float32)
        near = np.concatenate(
            [middle, np.nextafter(middle, np.float32(-np.inf)), np.nextafter(middle, np.float32(np.inf))]
        )
    near = near[: near.size // 16 * 16]
    if isa.has("bf16") and target is DType.BF16:
        near = np.where(np.abs(near) < 2.0**-126, np.float32(0), near)
    value = Cast(Load("a", mul(sym("i"), 16), Type(DType.F32, 16)), Type(target, 16))
    params = (Param("a", DType.F32), Param("out", target, True))
    f = Function("narrow", params, (), (For("i", sym("begin"), sym("end"), (Store("out", mul(sym("i"), 16), value),)),))
    out = np.zeros(near.size, target.numpy)
    native([f], isa)["narrow"]([near, out], [], 0, near.size // 16)
    with np.errstate(all="ignore"):
        assert_same(out, near.astype(target.numpy), isa.name)


@pytest.mark.parametrize("lanes", [4, 8, 16, 32])
def test_dot_products(isa: Isa, lanes: int) -> None:
    rng = np.random.default_rng(1)
    narrow = lambda n: rng.normal(size=n).astype(DType.BF16.numpy)  # noqa: E731
    forms = {
        "bf16": (DType.BF16, DType.BF16, DType.F32, 2, narrow(2 * lanes), narrow(2 * lanes)),
        "u8s8": (
            DType.U8,
            DType.I8,
            DType.I32,
            4,
            special_values(DType.U8, 4 * lanes),
            special_values(DType.I8, 4 * lanes),
        ),
        "s16": (
            DType.I16,
            DType.I16,
            DType.I32,
            2,
            special_values(DType.I16, 2 * lanes),
            special_values(DType.I16, 2 * lanes)[::-1].copy(),
        ),
    }
    for kind, (ea, eb, ec, group, a, b) in forms.items():
        load_a, load_b = Load("a", 0, Type(ea, group * lanes)), Load("b", 0, Type(eb, group * lanes))
        dot = Dot(kind, load_a, load_b, Load("out", 0, Type(ec, lanes)))
        f = Function("dots", (Param("a", ea), Param("b", eb), Param("out", ec, True)), (), (Store("out", 0, dot),))
        c = np.arange(lanes).astype(ec.numpy)
        ours, theirs = c.copy(), c.copy()
        native([f], isa)["dots"]([a, b, ours], [], 0, 1)
        interpret(f, [a, b, theirs], (), 0, 1)
        if kind != "bf16":
            assert_same(ours, theirs, isa.name)
        else:
            np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)


def test_bit_casts_change_lanes() -> None:
    words = Bitcast(Load("a", 0, Type(DType.BF16, 8)), Type(DType.I32, 4))
    pair = Broadcast(Bitcast(Load("a", 2, Type(DType.BF16, 2)), Type(DType.I32)), Type(DType.I32, 4))
    back = Bitcast(Binary("xor", words, pair), Type(DType.BF16, 8))
    f = Function("bits", (Param("a", DType.BF16), Param("out", DType.BF16, True)), (), (Store("out", 0, back),))
    check(f, [np.arange(8).astype(DType.BF16.numpy), np.zeros(8, DType.BF16.numpy)])


def shuffle_function(element: DType, lanes: int) -> tuple[Function, list[np.ndarray]]:
    """Vectors and scalars from vectors and scalars: repeated lanes, concatenation, extraction, any order; buffers."""
    rng = np.random.default_rng(lanes)
    pair = Load("a", 0, Type(element, lanes)), Load("a", lanes, Type(element, lanes))
    wanted = [(k,) for k in range(2 * lanes)] + [tuple(range(2 * lanes)), tuple(range(lanes, 2 * lanes))]
    wanted += [tuple(int(k) for k in rng.integers(0, 2 * lanes, n)) for n in (1, 2, 3, 8, 16, 21)]
    stores, at = [], 0
    for picked in wanted:
        stores.append(Store("out", at, Shuffle(*pair, picked)))
        at += len(picked)
    f = Function("shuffled", (Param("a", element), Param("out", element, True)), (), tuple(stores))
    return f, [special_values(element, 2 * lanes, 7), np.zeros(at, element.numpy)]


@pytest.mark.parametrize("element", [*INTEGERS, *FLOATS, BOOL, DType.F16, DType.BF16], ids=repr)
@pytest.mark.parametrize("lanes", [1, 2, 5, 16])
def test_shuffles(element: DType, lanes: int) -> None:
    check(*shuffle_function(element, lanes))


# ---- integers --------------------------------------------------------------------------------------------------------

NAMES = ("i", "j", "n", "m", "u", "loaded")
leaves = st.one_of(st.integers(-40, 40), st.sampled_from(NAMES).map(sym))
divisors = st.one_of(st.integers(1, 48), st.sampled_from(("n", "m")).map(lambda name: sym(name) + 1))


def grow(inner: st.SearchStrategy[Dim]) -> st.SearchStrategy[Dim]:
    return st.one_of(
        st.tuples(inner, inner).map(lambda p: p[0] + p[1]),
        st.tuples(inner, inner).map(lambda p: p[0] - p[1]),
        st.tuples(inner, st.one_of(st.integers(-5, 5), st.sampled_from(NAMES).map(sym))).map(lambda p: p[0] * p[1]),
        st.tuples(inner, divisors).map(lambda p: floordiv(*p)),
        st.tuples(inner, divisors).map(lambda p: mod(*p)),
        st.tuples(inner, inner).map(lambda p: minimum(*p)),
        st.tuples(inner, inner).map(lambda p: maximum(*p)),
    )


expressions: st.SearchStrategy[Dim] = st.recursive(leaves, grow, max_leaves=8)


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(expressions, min_size=12, max_size=30), st.integers(0, 9), st.integers(0, 9))
def test_index_expressions(exprs: list[Dim], n: int, m: int) -> None:
    """Random integer expressions over loop variables, sizes, an unrolled variable and a loaded (negative) number."""
    rows = sym("row")
    stores = tuple(Store("out", rows * len(exprs) + k, IndexValue(e, Type(DType.I64))) for k, e in enumerate(exprs))
    inner = For("j", -3, sym("m"), (LetIndex("row", sym("i") * 64 + (sym("j") + 3) * 2 + sym("u")), *stores))
    body: tuple[Statement, ...] = (
        LetIndex("loaded", Load("a", 0, Type(DType.I64))),
        For("i", sym("begin"), sym("end"), (For("u", 0, 2, (inner,), unroll=True),)),
    )
    f = Function("integers", (Param("a", DType.I64), Param("out", DType.I64, True)), ("n", "m"), body)
    out = np.zeros(3 * 64 * len(exprs), np.int64)
    check(f, [np.array([-7]), out], [n, m], 0, 3)


def test_index_values_in_lanes() -> None:
    forms = [
        Type(DType.I64, 4),
        Type(DType.I32, 16),
        Type(DType.F32, 8),
        Type(DType.U8, 16),
        Type(DType.F64, 1),
        Type(DType.F16, 4),
    ]
    body = []
    for k, t in enumerate(forms):
        for h, stride in enumerate((0, 1, 3, sym("n"))):
            body.append(Store(f"out{k}", 16 * h, IndexValue(sym("n") - 4, t, stride)))
    f = Function("lanes", tuple(Param(f"out{k}", t.element, True) for k, t in enumerate(forms)), ("n",), tuple(body))
    check(f, [np.zeros(64, t.element.numpy) for t in forms], (9,))


def test_integers_loaded_inside_an_index() -> None:
    at = load("index", (sym("i"),))
    body = (For("i", 0, 4, (Store("out", at, Load("a", at * 2 + 1, Type(DType.F32))),)),)
    params = (Param("index", DType.I32), Param("a", DType.F32), Param("out", DType.F32, True))
    f = Function("inside", params, (), body)
    check(f, [np.array([3, 0, 1, 2], np.int32), np.arange(10, dtype=np.float32), np.zeros(4, np.float32)])


def test_a_division_by_a_size_of_zero_is_not_reached_by_hoisting() -> None:
    """The loop runs no round where n is 0, but its index arithmetic is computed before it."""
    body = (For("i", 0, sym("n"), (Store("out", floordiv(sym("m") * 3, sym("n")), Const(1, Type(DType.F32))),)),)
    f = Function("empty", (Param("out", DType.F32, True),), ("n", "m"), body)
    check(f, [np.zeros(8, np.float32)], (0, 5))
    check(f, [np.zeros(8, np.float32)], (4, 5))


# ---- control flow ----------------------------------------------------------------------------------------------------

I32 = Type(DType.I32)


def var(name: str, t: Type = I32) -> Var:
    return Var(name, t)


def const(value: int, t: Type = I32) -> Const:
    return Const(value, t)


def plus(a: Value, b: Value) -> Binary:
    return Binary("add", a, b)


@pytest.mark.parametrize(("n", "m"), [(0, 0), (3, 0), (0, 4), (5, 7)])
def test_variables_through_nested_loops(n: int, m: int) -> None:
    """Loops that may run no round, variables assigned at several depths, one that only the inner loop assigns."""
    inner = (
        Assign("b", plus(var("b"), IndexValue(sym("i") * sym("j"), I32))),
        If((sym("j") - 2,), (Assign("c", plus(var("c"), var("b"))),), (Assign("a", plus(var("a"), const(1))),)),
    )
    body = (
        Declare("a", const(1)),
        Declare("b", const(2)),
        Declare("c", const(3)),
        For("i", 0, sym("n"), (Assign("a", plus(var("a"), var("b"))), For("j", 0, sym("m"), inner))),
        Store("out", 0, var("a")),
        Store("out", 1, var("b")),
        Store("out", 2, var("c")),
    )
    f = Function("nested", (Param("out", DType.I32, True),), ("n", "m"), body)
    check(f, [np.zeros(3, np.int32)], (n, m))


def test_while_loops() -> None:
    """Collatz steps of several numbers; a While inside a For, an If with both arms inside it."""
    even = Compare("eq", Binary("and", var("x"), const(1)), const(0))
    step = If(
        even,
        (Assign("x", Binary("shr", var("x"), const(1))),),
        (Assign("x", plus(Binary("mul", var("x"), const(3)), const(1))),),
    )
    loop = While(Compare("ne", var("x"), const(1)), (step, Assign("steps", plus(var("steps"), const(1)))))
    body = (
        For(
            "i",
            sym("begin"),
            sym("end"),
            (
                Declare("x", plus(IndexValue(sym("i"), I32), const(1))),
                Declare("steps", const(0)),
                loop,
                Store("out", sym("i"), var("steps")),
            ),
        ),
    )
    f = Function("collatz", (Param("out", DType.I32, True),), (), body)
    check(f, [np.zeros(30, np.int32)], (), 0, 30)


def test_a_branch_that_leaves_a_variable_alone() -> None:
    body = (
        Declare("a", const(1)),
        Declare("b", const(2)),
        If((sym("n") - 3, 5 - sym("n")), (Assign("a", const(10)), If((sym("n") - 4,), (Assign("b", const(20)),))), ()),
        Store("out", 0, var("a")),
        Store("out", 1, var("b")),
    )
    f = Function("arms", (Param("out", DType.I32, True),), ("n",), body)
    for n in range(8):
        check(f, [np.zeros(2, np.int32)], (n,))


def test_names_end_with_their_block() -> None:
    """The same name in two sibling loops and, outside, with another type."""
    t = Type(DType.F32, 4)
    loops = tuple(
        For("i", 0, 2, (Let("x", Const(k, t)), Declare("y", var("x", t)), Assign("y", plus(var("y", t), var("x", t))),
                        Store("out", sym("i") * 4 + 8 * k, var("y", t))))
        for k in (0, 1)
    )  # fmt: skip
    body = (*loops, Let("x", Const(7, Type(DType.F32))), Store("out", 16, var("x", Type(DType.F32))))
    f = Function("scopes", (Param("out", DType.F32, True),), (), body)
    check(f, [np.zeros(17, np.float32)])


def test_local_arrays() -> None:
    """A local array made inside a loop is one stack slot, 64-byte aligned; bools take a byte."""
    body = (
        For(
            "i",
            sym("begin"),
            sym("end"),
            (
                Alloc("t", DType.I32, 40),
                Alloc("f", BOOL, 3),
                For("k", 0, 40, (Store("t", sym("k"), IndexValue(sym("k") * sym("i"), I32)),)),
                Store("f", 1, Compare("gt", IndexValue(sym("i"), I32), const(5))),
                Store("out", sym("i"), Select(Load("f", 1, Type(BOOL)), Load("t", 39, I32), Load("t", 7, I32))),
            ),
        ),
    )
    f = Function("local", (Param("out", DType.I32, True),), (), body)
    check(f, [np.zeros(100_000, np.int32)], (), 99_000, 100_000)


def test_in_place_updates_are_seen() -> None:
    """Two parameters may be one buffer: a store through one is read through the other."""
    body = (For("i", 0, 7, (Store("y", sym("i") + 1, plus(Load("x", sym("i"), I32), const(2))),)),)
    f = Function("alias", (Param("x", DType.I32), Param("y", DType.I32, True)), (), body)
    for isa in ISAS:
        x = np.zeros(8, np.int32)
        native([f], isa)["alias"]([x, x], [], 0, 1)
        assert x.tolist() == [0, 2, 4, 6, 8, 10, 12, 14]


def test_constants_are_exact() -> None:
    values = [0.1, -0.0, 1e-45, np.inf, -np.inf, np.nan, 3.4e38, 1 / 3]
    body: list[Statement] = []
    elements = (DType.F16, DType.BF16, DType.F32, DType.F64)
    for k, element in enumerate(elements):
        body += [Store(f"out{k}", i, Const(v, Type(element))) for i, v in enumerate(values)]
        body.append(Store(f"out{k}", len(values), Const(0.3, Type(element, 8))))
    params = tuple(Param(f"out{k}", element, True) for k, element in enumerate(elements))
    f = Function("constants", params, (), tuple(body))
    with np.errstate(all="ignore"):
        check(f, [np.zeros(16, e.numpy) for e in elements])


def test_several_functions_in_a_module(isa: Isa) -> None:
    one = Function("one", (Param("out", DType.I32, True),), (), (Store("out", 0, const(1)),))
    two = replace(one, name="two", body=(Store("out", 0, const(2)),))
    assert to_llvm([one, two]).count("define void") == 2
    calls = native([one, two], isa)
    out = np.zeros(1, np.int32)
    calls["two"]([out], [], 0, 1)
    assert out[0] == 2
