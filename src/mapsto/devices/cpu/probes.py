"""Small kernels whose times tell what a processor does: made as all code is, from kernels by loops to native code.

Each probe works on arrays that fit the first-level cache unless it says otherwise, and does one thing many times.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from mapsto.devices.contraction.products import dot_of
from mapsto.devices.cpu.isa import Isa
from mapsto.devices.cpu.traits import processor_of
from mapsto.devices.generic import choose_schedule, lower
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, load, sym
from mapsto.kernel.ast import Cast, Const, Iter, Kernel, Load, Op, Reduce, Scalar, Scan, Stmt, Tensor
from mapsto.kernel.compose import loads_of
from mapsto.loop import ast as loop
from mapsto.plan.layout import plain

F32, I32, I64 = DType.F32, DType.I32, DType.I64

ELEMENTS = 1024  # of an operand in the first-level cache: 4 KiB
# Operations of a probe of one class, one upon the other: more wait for their own latency, whatever else goes on.
FEW, MANY = 4, 12
STRIDE = 7  # elements apart, where elements are picked: no vector holds two
OPERANDS = 8
SHORT, LONG = 40, 80  # rounds of a loop, too many to be written out
ROWS = 16  # vectors of rows, each with such a loop
ACCUMULATORS = 12  # hide the latency of two multiply-adds a cycle; 12, and two operands, fit 16 registers
PEAK_ROUNDS = 4096
ROUNDS_NAME = "rounds"

# Element types whose products have a peak of their own: of a, of b, of the sum, how many go into one lane, and by which
# ability of an instruction set (without it, they are multiplied as wider ones).
_FORMATS = (
    (F32, F32, F32, 1, ""),
    (DType.F64, DType.F64, DType.F64, 1, ""),
    (DType.I16, DType.I16, I32, 2, ""),
    (DType.BF16, DType.BF16, F32, 2, "dot_bf16"),
    (DType.U8, DType.I8, I32, 4, "dot_u8s8"),
)


@dataclass(frozen=True)
class Probe:
    """A function, its operands as (element type, elements), and how often the thing that it measures happens in one
    round. The function does `ROUNDS_NAME` rounds: a call from Python takes longer than one of them.
    """

    name: str
    function: loop.Function
    operands: tuple[tuple[DType, int], ...]
    extent: int
    count: float
    optimizer: str = "generic"


def formats(isa: Isa) -> list[tuple[DType, DType, DType, int]]:
    """Types of a, of b, of the sum, and how many go into one lane, of the products that have a peak of their own."""
    return [fmt[:4] for fmt in _FORMATS if not fmt[4] or isa.has(fmt[4])]


def probes(isa: Isa) -> list[Probe]:
    """All of them but those that measure memory, whose sizes are the processor's."""
    found = [_peak(isa, *fmt) for fmt in formats(isa)]
    found += [
        _chain(isa, "copy", 0, lambda x, y, k: x),
        _chain(isa, "few_adds", FEW, _add),
        _chain(isa, "many_adds", MANY, _add),
        _chain(isa, "max", FEW, lambda x, y, k: _op("max" if k % 2 else "min", x, y)),
        _chain(isa, "convert", 1, lambda x, y, k: Cast(x, F32), I32),
        _chain(isa, "truncate", 1, lambda x, y, k: Cast(x, I32)),
        _chain(isa, "divide", FEW, lambda x, y, k: _op("div", x, y)),
        _chain(isa, "sqrt", FEW, lambda x, y, k: _op("sqrt", x)),
        *(_chain(isa, fn, 1, _unary(fn)) for fn in ("exp", "log", "tanh", "erf", "sigmoid", "sin")),
        _chain(isa, "pow", 1, lambda x, y, k: _op("pow", x, y)),
        _chain(isa, "integer_divide", 2, lambda x, y, k: _op("div", x, y), I32),
        _loads(isa, "loads", OPERANDS),
        _loads(isa, "one_load", 1),
        _moved(isa, "strided_load", lambda i: STRIDE * i, lambda i: i),
        _moved(isa, "strided_store", lambda i: i, lambda i: STRIDE * i),
        _gather(isa),
        _scalar(isa, "few_scalars", FEW),
        _scalar(isa, "many_scalars", MANY),
        _scan(isa),
        _rounds(isa, "short_loop", SHORT),
        _rounds(isa, "long_loop", LONG),
    ]
    return found


def reading(isa: Isa, size: int) -> Probe:
    """Adds up an array of so many bytes, and stores one number."""
    count = size // F32.size
    it = Iter("k", count)
    stmt = Stmt("out", F32, (), Reduce("sum", (it,), Load("x", (sym("k"),), F32)))
    return _probe(isa, f"read_{size}", [("x", F32, count)], ("out", F32, 1), stmt, count * F32.size, out_shape=())


def writing(isa: Isa, size: int) -> Probe:
    """Fills an array of so many bytes with one number."""
    count = size // F32.size
    return _probe(
        isa, f"write_{size}", [], ("out", F32, count), Stmt("out", F32, (Iter("i", count),), Const(1.0, F32)),
        count * F32.size,
    )  # fmt: skip


def streaming(isa: Isa, size: int, writes: bool, ahead: int = 0, apart: bool = False) -> Probe:
    """Reads about so many bytes, or writes them, with as little besides as can be: sums of their own for neighbouring
    vectors, which wait for nothing. ahead: how many bytes before it is read each line is asked for; 0: never.
    apart: from as many places at once as there are sums, as a product walks along its rows.
    """
    lanes = isa.lanes(F32)
    vector, step = loop.Type(F32, lanes), ACCUMULATORS * lanes
    rounds = max(size // (step * F32.size), 1)
    names = [f"acc{k}" for k in range(ACCUMULATORS)]
    by, far = (lanes, rounds * lanes) if apart else (step, lanes)
    places = [sym("i") * by + k * far for k in range(ACCUMULATORS)]
    start = [loop.Declare(name, loop.Const(1, vector)) for name in names]
    body: list[loop.Statement] = []
    for name, at in zip(names, places, strict=True):
        own = loop.Var(name, vector)
        if writes:
            body.append(loop.Store("x", at, own))
            continue
        if ahead:
            body.append(loop.Prefetch("x", at + ahead // F32.size))
        body.append(loop.Assign(name, loop.Binary("add", own, loop.Load("x", at, vector))))
    end = [loop.Store("out", k * lanes, loop.Var(name, vector)) for k, name in enumerate(names)]
    name = f"{'stream_out' if writes else 'stream_in'}_{size}_{ahead}_{apart}"
    params = (loop.Param("x", F32, writes), loop.Param("out", F32, True))
    rest = loop.For("i", sym("begin"), sym("end"), tuple(body))
    function = loop.Function(name, params, (), (*start, rest, *end))
    count = rounds * step
    return Probe(name, repeated(function), ((F32, count), (F32, step)), rounds, count * F32.size, "none")


def repeated(function: loop.Function) -> loop.Function:
    """The function's whole work, as many times as its only size says."""
    assert not function.dims
    kept: list[loop.Statement] = [s for s in function.body if isinstance(s, loop.Alloc)]
    rest = tuple(s for s in function.body if not isinstance(s, loop.Alloc))
    return replace(function, dims=(ROUNDS_NAME,), body=(*kept, loop.For("round", 0, sym(ROUNDS_NAME), rest)))


def nothing() -> loop.Function:
    """A step that does nothing."""
    return loop.Function("nothing", (loop.Param("x", F32, True),), (), ())


# ---- peaks ---------------------------------------------------------------------------------------------------------


def peak_function(a: DType, b: DType, total: DType, isa: Isa) -> loop.Function:
    """end - begin rounds of `ACCUMULATORS` vector multiply-adds (dot products of narrow types), all in registers."""
    interleave = total.size // a.size if a is not total else 1
    lanes = isa.lanes(total)
    sums = loop.Type(total, lanes)
    names = [f"acc{i}" for i in range(ACCUMULATORS)]
    words = loop.Var("words", loop.Type(DType.I32, lanes * interleave * a.size // DType.I32.size))
    x = loop.Var("x", loop.Type(a, lanes * interleave))
    y = loop.Var("y", loop.Type(b, lanes * interleave))
    head: list[loop.Statement] = [
        loop.Let("x", loop.Load("a", 0, x.type)),
        loop.Let("y", loop.Load("b", 0, y.type)),
        *(loop.Declare(name, loop.Const(0, sums)) for name in names),
    ]
    body: list[loop.Statement] = []
    if _adds_apart(isa, a, interleave):  # products are the same all along: each is made anew
        head.append(loop.Declare("words", loop.Bitcast(x, words.type)))
        again = loop.Bitcast(words, x.type)
        for name in names:
            product = _multiply(isa, again, y, loop.Var(name, sums), interleave)
            body += [loop.Fence(("words",)), loop.Assign(name, product)]
    else:
        body += [loop.Assign(name, _multiply(isa, x, y, loop.Var(name, sums), interleave)) for name in names]
    store = [loop.Store("out", i * lanes, loop.Var(name, sums)) for i, name in enumerate(names)]
    params = (loop.Param("a", a), loop.Param("b", b), loop.Param("out", total, True))
    rounds = loop.For("i", sym("begin"), sym("end"), tuple(body))
    return loop.Function(f"peak_{a.value}_{b.value}_{total.value}", params, (), (*head, rounds, *store))


def _adds_apart(isa: Isa, a: DType, interleave: int) -> bool:
    """Whether a product is added by an instruction of its own."""
    return a is DType.I16 if interleave > 1 else not isa.has("fma")


def _multiply(isa: Isa, a: loop.Value, b: loop.Value, total: loop.Var, interleave: int) -> loop.Value:
    if interleave > 1:
        return loop.Dot(dot_of(a.type.element), a, b, total)
    if isa.has("fma"):
        return loop.Fma(a, b, total)
    return loop.Binary("add", total, loop.Binary("mul", a, b))


def products_a_round(isa: Isa, total: DType, interleave: int) -> int:
    return ACCUMULATORS * isa.lanes(total) * interleave


def _peak(isa: Isa, a: DType, b: DType, total: DType, interleave: int) -> Probe:
    function = peak_function(a, b, total, isa)
    count = PEAK_ROUNDS * products_a_round(isa, total, interleave)
    operands = ((a, 256), (b, 256), (total, ACCUMULATORS * isa.lanes(total)))
    return Probe(function.name, repeated(function), operands, PEAK_ROUNDS, count, "none")


# ---- elementwise ---------------------------------------------------------------------------------------------------

ChainStep = Callable[[Scalar, Scalar, int], Scalar]


def _op(fn: str, *args: Scalar) -> Scalar:
    return Op(fn, args, args[0].dtype)


def _unary(fn: str) -> ChainStep:
    return lambda x, y, k: _op(fn, x)


def _add(x: Scalar, y: Scalar, k: int) -> Scalar:
    """By turns, since some cores add and multiply in different places."""
    return _op("add" if k % 2 else "mul", x, y)


def _chain(isa: Isa, name: str, count: int, step: ChainStep, dtype: DType = F32, lanes: int = 0) -> Probe:
    """`count` operations on each element, one upon the other; elements are independent."""
    i = sym("i")
    x: Scalar = Load("x", (i,), dtype)
    y = Load("y", (i,), dtype)
    value = x
    for k in range(count):
        value = step(value, y, k)
    stmt = Stmt("out", value.dtype, (Iter("i", ELEMENTS),), value)
    read = {load.tensor for load in loads_of(stmt)}
    operands = [(tensor, dtype, ELEMENTS) for tensor in sorted(read)]
    return _probe(isa, name, operands, ("out", value.dtype, ELEMENTS), stmt, ELEMENTS, lanes)


def _loads(isa: Isa, name: str, operands: int) -> Probe:
    """`OPERANDS` additions, of so many operands by turns."""
    i = sym("i")
    value: Scalar = Load("x0", (i,), F32)
    for k in range(1, OPERANDS):
        value = _op("add", value, Load(f"x{k % operands}", (i,), F32))
    given = [(f"x{k}", F32, ELEMENTS) for k in range(operands)]
    return _probe(isa, name, given, ("out", F32, ELEMENTS), Stmt("out", F32, (Iter("i", ELEMENTS),), value), ELEMENTS)


def _moved(isa: Isa, name: str, source: Callable[[Dim], Dim], target: Callable[[Dim], Dim]) -> Probe:
    i = sym("i")
    stmt = Stmt("out", F32, (Iter("i", ELEMENTS),), Load("x", (source(i),), F32), (target(i),))
    whole = STRIDE * ELEMENTS
    return _probe(isa, name, [("x", F32, whole)], ("out", F32, whole), stmt, ELEMENTS)


def _gather(isa: Isa) -> Probe:
    i = sym("i")
    stmt = Stmt("out", F32, (Iter("i", ELEMENTS),), Load("x", (load("at", (i,)),), F32))
    operands = [("x", F32, ELEMENTS), ("at", I64, ELEMENTS)]
    return _probe(isa, "gather", operands, ("out", F32, ELEMENTS), stmt, ELEMENTS)


def _scalar(isa: Isa, name: str, count: int) -> Probe:
    """Additions of one element at a time."""
    return _chain(isa, name, count, _add, lanes=1)


def _scan(isa: Isa) -> Probe:
    """Running sums: each waits for the one before."""
    stmt = Stmt("out", F32, (Iter("i", ELEMENTS),), Load("x", (sym("i"),), F32), None, Scan("i"))
    return _probe(isa, "scan", [("x", F32, ELEMENTS)], ("out", F32, ELEMENTS), stmt, ELEMENTS)


def _rounds(isa: Isa, name: str, rounds: int) -> Probe:
    """A sum of so many rounds for each of `ROWS` vectors of rows."""
    rows = ROWS * isa.accumulator_lanes
    i, k = sym("i"), sym("k")
    value = Reduce("sum", (Iter("k", rounds),), Load("x", (k * rows + i,), F32))
    stmt = Stmt("out", F32, (Iter("i", rows),), value)
    return _probe(isa, name, [("x", F32, rows * rounds)], ("out", F32, rows), stmt, ROWS)


def _probe(
    isa: Isa,
    name: str,
    inputs: list[tuple[str, DType, int]],
    output: tuple[str, DType, int],
    stmt: Stmt,
    count: float,
    lanes: int = 0,
    out_shape: tuple[int, ...] | None = None,
) -> Probe:
    given = tuple(Tensor(n, t, (size,)) for n, t, size in inputs)
    out = Tensor(output[0], output[1], (output[2],) if out_shape is None else out_shape)
    kernel = Kernel(name, given, (out,), (), (stmt,))
    layouts = {t.name: plain(t.shape) for t in (*given, out)}
    processor = processor_of(isa)
    schedule = choose_schedule(kernel, layouts, processor.with_lanes(lanes) if lanes else processor)
    function, extent = lower(kernel, layouts, schedule, name, processor)
    assert isinstance(extent, int)
    return Probe(name, repeated(function), (*((t, size) for _, t, size in inputs), output[1:]), extent, count)
