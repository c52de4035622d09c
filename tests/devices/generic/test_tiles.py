"""Rows walked in tiles: what is moved between layouts, alone and amid elementwise work, at any size and type."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.devices.generic.support import (
    PROCESSOR,
    Array,
    Case,
    Engine,
    Native,
    check,
    floats,
    fused,
    lowered,
    one,
    rng,
)

from mapsto.devices.generic.blocks import blocks_of
from mapsto.devices.generic.crossing import tile_of
from mapsto.devices.generic.schedule import (
    RowSchedule,
    choose_schedule,
    near_tensors,
    prepare,
    read_schedule,
    schedule_text,
)
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import floordiv
from mapsto.ir.graph import Value
from mapsto.loop.ast import Binary, Const, For, Function, If, Load, Param, Prefetch, Statement, Store, Type
from mapsto.loop.interpret import interpret
from mapsto.loop.text import format_function
from mapsto.ops.builder import Builder
from mapsto.plan.layout import Layout, blocked, permuted

TYPES = [np.uint8, np.int16, np.float16, np.float32, np.int64, np.float64, np.bool_]


def numbers(shape: tuple[int, ...], dtype: type) -> Array:
    found = rng.integers(0, 2 if dtype is np.bool_ else 200, shape)
    return found.astype(dtype)


def turned(shape: tuple[int, ...], perm: tuple[int, ...], dtype: type = np.float32) -> Case:
    return one("transpose", [numbers(shape, dtype)], perm=perm)


def image(shape: tuple[int, ...], perm: tuple[int, ...]) -> Case:
    """Bytes to floats in another order of dims."""

    def build(b: Builder, x: Value) -> Value:
        scaled = b.one("mul", [b.one("cast", [x], to=DType.F32), b.constant(np.float32(1 / 255))])
        return b.one("transpose", [scaled], perm=perm)

    return fused(build, [numbers(shape, np.uint8)])


def residual(shape: tuple[int, ...], perm: tuple[int, ...]) -> Case:
    """What lies crossed beside what does not, and a bias along the lanes."""

    def build(b: Builder, x: Value, y: Value, bias: Value) -> Value:
        return b.one("tanh", [b.one("add", [b.one("add", [b.one("transpose", [x], perm=perm), y]), bias])])

    out = tuple(shape[p] for p in perm)
    return fused(build, [floats(*shape), floats(*out), floats(out[-1])])


def two_ways(rows: int, columns: int) -> Case:
    """One result as it lies, one transposed."""

    def build(b: Builder, x: Value) -> list[Value]:
        twice = b.one("add", [x, x])
        return [twice, b.one("transpose", [twice], perm=(1, 0))]

    return fused(build, [floats(rows, columns)])


def between(make: str, shape: tuple[int, ...], dtype: type = np.float32, block: int = 16) -> Case:
    """From or to blocks of channels, or from channels last, by the operands' layouts."""
    case = one("copy", [numbers(shape, dtype)])
    (source,), (target,) = case.kernel.inputs, case.kernel.outputs
    layouts: dict[str, Layout] = {}
    if make == "to blocks":
        layouts[target.name] = blocked(shape, 1, block)
    elif make == "from blocks":
        layouts[source.name] = blocked(shape, 1, block)
    elif make == "to channels last":
        layouts[target.name] = permuted(shape, (0, 2, 3, 1))
    elif make == "blocks with a border":
        layouts[target.name] = blocked(shape, 1, block, [(0, 0), (0, 0), (1, 1), (1, 2)])
    else:
        layouts[source.name], layouts[target.name] = permuted(shape, (0, 2, 3, 1)), blocked(shape, 1, block)
    case.layouts = layouts
    return case


CASES = {
    "square": lambda: turned((32, 48), (1, 0)),
    "odd": lambda: turned((37, 50), (1, 0)),
    "thin": lambda: turned((5, 70), (1, 0)),
    "nhwc": lambda: turned((2, 18, 5, 7), (0, 2, 3, 1)),
    "nchw": lambda: turned((2, 5, 7, 18), (0, 3, 1, 2)),
    "keys": lambda: turned((3, 19, 40), (0, 2, 1)),
    "heads": lambda: turned((1, 6, 4, 32), (0, 2, 1, 3)),
    "channels of an image": lambda: turned((1, 9, 11, 3), (0, 3, 1, 2)),
    "planes of an image": lambda: turned((1, 3, 9, 11), (0, 2, 3, 1)),
    "twelve": lambda: turned((40, 12), (1, 0)),
    "fifteen": lambda: turned((33, 15), (1, 0)),
    "image": lambda: image((1, 9, 20, 3), (0, 3, 1, 2)),
    "image of many channels": lambda: image((1, 5, 7, 33), (0, 3, 1, 2)),
    "image back": lambda: image((1, 4, 7, 9), (0, 2, 3, 1)),
    "residual of whole tiles": lambda: residual((32, 48), (1, 0)),
    "residual": lambda: residual((21, 35), (1, 0)),
    "residual of three": lambda: residual((2, 40, 3), (0, 2, 1)),
    "two ways": lambda: two_ways(33, 20),
    "to blocks": lambda: between("to blocks", (1, 32, 4, 8)),
    "from blocks": lambda: between("from blocks", (1, 32, 4, 8)),
    **{f"{what} {c}": lambda what=what, c=c: between(what, (2, c, 3, 11))
       for what in ("to blocks", "from blocks", "to channels last", "blocks with a border", "channels last to blocks")
       for c in (32, 35, 7)},
    **{f"of {np.dtype(t).name}": lambda t=t: turned((35, 50), (1, 0), t) for t in TYPES},
    **{f"planes of {np.dtype(t).name}": lambda t=t: turned((3, 70), (1, 0), t) for t in TYPES},
    **{f"channels of {np.dtype(t).name}": lambda t=t: turned((70, 3), (1, 0), t) for t in TYPES},
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_move(name: str, engine: Engine) -> None:
    check(CASES[name](), engine)


# ---- results that wait ----

# Rows a power of two apart, in blocks that are whole, that are not, and of every kind of element. Along: what waits
# lies as the lanes run.
CLASHING = {
    "whole": lambda: turned((64, 1024), (1, 0)),
    "from odd": lambda: turned((37, 1024), (1, 0)),
    "to odd": lambda: turned((1024, 21), (1, 0)),
    "in a batch": lambda: turned((2, 1024, 19), (0, 2, 1)),
    "channels last": lambda: turned((1, 19, 32, 32), (0, 2, 3, 1)),
    "channels first": lambda: turned((1, 32, 32, 19), (0, 3, 1, 2)),
    "bytes": lambda: turned((35, 2048), (1, 0), np.uint8),
    "halves": lambda: turned((1024, 35), (1, 0), np.float16),
    "bools": lambda: turned((35, 2048), (1, 0), np.bool_),
    "image": lambda: image((1, 32, 32, 20), (0, 3, 1, 2)),
    "two ways, along": lambda: two_ways(33, 1024),
    "residual, along": lambda: residual((19, 1024), (1, 0)),
}


def waits(case: Case) -> bool:
    return "waiting" in format_function(lowered(case)[0])


@pytest.mark.parametrize("name", CLASHING)
def test_results_wait_where_rows_clash(name: str, native: Native) -> None:
    """And are the same by the interpreter and in every instruction set, in any shares."""
    case = CLASHING[name]()
    assert waits(case)
    check(case, interpret, shares=2)
    for shares in (1, 5):
        check(case, native, shares=shares)


def test_results_do_not_wait_where_rows_do_not_clash() -> None:
    assert not waits(turned((1000, 48), (1, 0)))
    assert not waits(turned((1024, 1024), (1, 0), np.float64))  # more than the last cache has for it
    assert not waits(turned((48, 1024), (1, 0), np.uint8))  # four sets hold the lines of a tile
    assert not waits(turned((1024, 3), (1, 0)))  # a stream put together


def test_a_row_of_an_array_is_an_odd_number_of_lines() -> None:
    """So that the array's own rows do not clash."""
    for name in CLASHING:
        case = CLASHING[name]()
        function, _, _, schedule = lowered(case)
        (part,) = prepare(case.kernel, case.all_layouts(), schedule, case.processor)
        axis, across = (part.flat.rows[k] for k in (schedule.axis, schedule.across))
        tile = tile_of(part.flat, near_tensors(part.temps), axis, across, schedule.lanes, 8, "@lane")
        assert tile is not None
        blocks = blocks_of(part.flat, tile, case.processor)
        assert blocks.waiting
        for waiting in blocks.waiting:
            assert waiting.pitch * waiting.dtype.size // 64 % 2 == 1
            assert waiting.elements * waiting.dtype.size <= case.processor.array_bytes


# ---- loads from far memory ----


def far(shape: tuple[int, ...], dtype: type = np.float32) -> Case:
    """As if the last cache held next to nothing."""
    return replace(turned(shape, (1, 0), dtype), far_bytes=64)


@pytest.mark.parametrize("shape", [(64, 128), (37, 64), (130, 96)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_far_loads_are_asked_for_ahead(shape: tuple[int, int], dtype: type, native: Native) -> None:
    case = far(shape, dtype)
    assert "prefetch" in format_function(lowered(case)[0])
    assert "prefetch" not in format_function(lowered(turned(shape, (1, 0), dtype))[0])
    check(case, interpret)
    check(case, native)


def counting(body: tuple[Statement, ...]) -> tuple[Statement, ...]:
    """The same with a count of the lines that are asked for in the place of asking for them."""
    found: list[Statement] = []
    for s in body:
        if isinstance(s, Prefetch):
            line = floordiv(s.base, 16)
            one = Binary("add", Load("asked", line, Type(DType.I32)), Const(1, Type(DType.I32)))
            s = Store("asked", line, one)
        elif isinstance(s, For):
            s = replace(s, body=counting(s.body))
        elif isinstance(s, If):
            s = replace(s, then=counting(s.then), otherwise=counting(s.otherwise))
        found.append(s)
    return tuple(found)


@pytest.mark.parametrize("lanes", [4, 8, 16])
def test_each_line_is_asked_for_once(lanes: int) -> None:
    """Also where a line is several tiles wide: each asks for it in some of its rows."""
    function, extent, _, _ = lowered(replace(far((64, 64)), lanes=lanes))
    function = replace(
        function, params=(*function.params, Param("asked", DType.I32, True)), body=counting(function.body)
    )
    asked = np.zeros(64 * 64 // 16 + 8, np.int32)
    interpret(function, [np.zeros(64 * 64, np.float32), np.zeros(64 * 64, np.float32), asked], {}, 0, extent)
    ahead = 8 * lanes // 16  # lines of the first row that nobody asks for
    assert asked[:ahead].sum() == 0
    assert set(asked[ahead : 64 * 4 + ahead]) == {1}
    assert asked.sum() == 64 * 4


def in_tiles(case: Case) -> list[RowSchedule]:
    """Every schedule of tiles of a kernel of one part."""
    best = choose_schedule(case.kernel, case.all_layouts(), case.processor)
    found = []
    for axis in range(6):
        for across in range(6):
            for lanes in (4, 8, 16):
                text = f"transposed {axis} {across} x{lanes} of {best.rows}"
                try:
                    found.append(read_schedule(text, case.kernel, case.all_layouts(), case.processor))
                except ValueError:
                    continue
    return found


@pytest.mark.parametrize("name", CASES)
def test_every_tile(name: str) -> None:
    """Also those that cost more than something else."""
    for schedule in in_tiles(CASES[name]()):
        check(CASES[name](), interpret, schedule)


TILED = (
    "square", "odd", "nhwc", "nchw", "keys", "planes of an image", "image", "to blocks",
    "from blocks", "residual of whole tiles", "of uint8", "of float64", "of bool",
)  # fmt: skip


@pytest.mark.parametrize("name", TILED)
def test_moves_are_made_in_tiles(name: str) -> None:
    case = CASES[name]()
    function, _, _, schedule = lowered(case)
    assert schedule.vector == "transposed"
    assert schedule_text(read_schedule(schedule_text(schedule), case.kernel, case.all_layouts(), case.processor)) == (
        schedule_text(schedule)
    )
    assert "shuffle(" in format_function(function)


@pytest.mark.parametrize("registers", [16, 32])
def test_streams_side_by_side_are_moved_in_one_tile_where_half_of_the_registers_hold_them(
    registers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.devices.generic.support.PROCESSOR", replace(PROCESSOR, registers=registers))
    for streams in range(2, 16):
        texts = [schedule_text(s) for s in in_tiles(turned((640, streams), (1, 0), np.uint8))]
        assert ("transposed 1 0 x16 of 2" in texts) == (2 * streams <= registers), (streams, texts)


@pytest.mark.parametrize("shape", [(128, 130), (130, 125), (161, 37)])
def test_bands_of_blocks(shape: tuple[int, int]) -> None:
    """Lanes are few, so that there are many blocks of tiles: bands of several, of one, and one band of all."""
    case = replace(turned(shape, (1, 0)), lanes=4)
    schedules = in_tiles(case)
    assert len(schedules) == 2
    for schedule in schedules:
        check(case, interpret, schedule)


def test_what_is_contiguous_along_one_iterator_is_not() -> None:
    assert lowered(CASES["heads"]())[3].vector == "rows"
    assert lowered(one("add", [floats(20, 30), floats(20, 30)]))[3].vector == "rows"


@contextmanager
def between_fences(buffers: Sequence[Array], at_the_end: bool) -> Iterator[list[Array]]:
    """Copies of buffers, each of which begins (or ends) where a page begins that may not be touched."""
    libc, page, regions, copies = ctypes.CDLL(None, use_errno=True), mmap.PAGESIZE, [], []
    for buffer in buffers:
        size = -(-max(buffer.nbytes, 1) // page) * page
        region = mmap.mmap(-1, size + 2 * page)
        start = ctypes.addressof(ctypes.c_char.from_buffer(region))
        fences = (start, start + page + size)
        assert not any(libc.mprotect(ctypes.c_void_p(fence), page, 0) for fence in fences)
        offset = page + (size - buffer.nbytes if at_the_end else 0)
        copies.append(np.frombuffer(region, buffer.dtype, buffer.size, offset))
        copies[-1][:] = buffer
        regions.append((region, fences))
    yield copies
    for buffer, copy in zip(buffers, copies, strict=True):
        buffer[:] = copy
    assert not any(libc.mprotect(ctypes.c_void_p(f), page, 3) for _, fences in regions for f in fences)


@pytest.mark.parametrize("at_the_end", [False, True])
@pytest.mark.parametrize(
    "name", [*TILED, "channels of an image", "thin", "fifteen", "twelve", "residual of three", "from blocks 35"]
)
def test_nothing_outside_of_a_buffer_is_touched(name: str, at_the_end: bool, native: Native) -> None:
    def fenced(function: Function, buffers: Sequence[Array], sizes: Mapping[str, int], begin: int, end: int) -> None:
        with between_fences(buffers, at_the_end) as copies:
            native(function, copies, sizes, begin, end)

    case = CASES[name]()
    check(case, fenced, lowered(replace(case, lanes=native.isa.lanes(DType.F32)))[3])


@st.composite
def moves(draw: st.DrawFn) -> Case:
    """A permutation of some dims, some of them open, some of 0 or 1, with or without work before and after."""
    rank = draw(st.integers(2, 4))
    sizes = st.sampled_from((0, 1, 2, 3, 4, 7, 8, 12, 16, 17, 31, 32, 35) if rank < 4 else (0, 1, 2, 3, 5, 8, 16, 17))
    shape = tuple(draw(sizes) for _ in range(rank))
    perm = tuple(draw(st.permutations(range(rank))))
    dtype = draw(st.sampled_from(TYPES))
    names = {axis: f"n{axis}" for axis in draw(st.sets(st.integers(0, rank - 1)))}
    work = draw(st.sampled_from(("none", "before", "after", "beside")))
    array = np.random.default_rng(draw(st.integers(0, 99))).integers(0, 2, shape).astype(dtype)
    out = tuple(shape[p] for p in perm)

    def build(b: Builder, x: Value, *others: Value) -> Value:
        if work == "before":
            x = b.one("cast", [x], to=DType.F32)
        y = b.one("transpose", [x], perm=perm)
        if work == "after":
            y = b.one("cast", [y], to=DType.F16)
        if work == "beside":
            y = b.one("select", [b.one("eq", [y, *others]), y, *others])
        return y

    arrays = [array]
    given = [names]
    if work == "beside":
        arrays.append(np.random.default_rng(1).integers(0, 2, out).astype(dtype))
        given.append({perm.index(axis): name for axis, name in names.items()})
    return fused(build, arrays, given)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(moves())
def test_any_move(case: Case) -> None:
    check(case, interpret)
    for schedule in in_tiles(case)[:3]:
        check(case, interpret, schedule)


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(case=moves())
def test_any_move_natively(case: Case, native: Native) -> None:
    check(case, native)
