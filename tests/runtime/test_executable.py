"""Calls: what is accepted, what is refused and how, and that memory is treated as promised."""


import ml_dtypes
import numpy as np
import pytest
from tests.runtime.helpers import N, chain_program, f32, objects, relu_program

from mapsto.errors import CompileError, ExecutionError, ShapeError
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import sym
from mapsto.runtime.arrays import pack_constants
from mapsto.runtime.executable import Executable
from mapsto.runtime.program import Buffer, Check, Port, Program, Require, Run

M = sym("m")


def _relu(*shape, threads=1):
    return Executable(relu_program(*shape), objects("relu"), threads)


def test_positional_and_by_name():
    exe = _relu(3)
    x = np.array([-1, 0, 2], np.float32)
    assert exe(x).tolist() == [0, 0, 2]
    assert exe.run({"x": x})["y"].tolist() == [0, 0, 2]


def test_outputs_are_fresh_arrays():
    exe = _relu(N)
    first = exe(np.ones(5000, np.float32))
    second = exe(np.full(5000, 2, np.float32))
    assert first is not second and (first == 1).all() and (second == 2).all()
    assert first.flags.writeable and first.dtype == np.float32


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_shapes_change_from_call_to_call(threads):
    exe = Executable(chain_program(7, N), objects("reverse"), threads)
    rng = np.random.default_rng(0)
    for size in rng.integers(0, 4000, 60):
        x = rng.standard_normal(size).astype(np.float32)
        assert np.array_equal(exe(x), x[::-1])


def test_a_tensor_of_no_elements():
    exe = _relu(N, 3)
    assert exe(np.zeros((0, 3), np.float32)).shape == (0, 3)
    assert exe(np.ones((2, 3), np.float32)).sum() == 6
    assert exe(np.zeros((0, 3), np.float32)).shape == (0, 3)


def test_a_scalar():
    y = _relu()(np.float32(-3))
    assert y.shape == () and y == 0


def _spoiled():
    x = np.arange(-6, 6, dtype=np.float32).reshape(3, 4)
    frozen = x.copy()
    frozen.flags.writeable = False
    raw = np.zeros(x.nbytes + 1, np.uint8)
    unaligned = raw[1:].view(np.float32).reshape(3, 4)
    unaligned[:] = x
    return {
        "transposed": np.ascontiguousarray(x.T).T,
        "strided": np.repeat(x, 2, axis=1)[:, ::2],
        "reversed": np.ascontiguousarray(x[::-1])[::-1],
        "read-only": frozen,
        "byte-swapped": x.astype(">f4"),
        "unaligned": unaligned,
        "subclass": x.view(np.matrix),
        "nested list": x.tolist(),
        "broadcast": np.broadcast_to(x[:1], (3, 4)),
    }


@pytest.mark.parametrize("name", _spoiled())
def test_arrays_of_any_memory_layout(name):
    value = _spoiled()[name]
    before = np.array(value, copy=True)
    exe = _relu(3, 4)
    for _ in range(2):
        y = exe(value)
        assert type(y) is np.ndarray and np.array_equal(y, np.maximum(np.asarray(value, np.float32), 0))
    assert np.array_equal(np.array(value), before)


def test_inputs_are_read_in_place():
    exe = _relu(N)
    x = np.ones(100_000, np.float32)
    assert (exe(x) == 1).all()
    x[:] = 3
    assert (exe(x) == 3).all()


def test_integers_of_python_fit_where_they_fit():
    program = Program(
        "bytes",
        (Port("x", DType.U8, (2,), 0),),
        (Port("y", DType.U8, (0,), 1),),
        (Buffer("x", "input", 2), Buffer("y", "output", 0)),
        (),
    )
    exe = Executable(program, [], 1)
    exe([1, 255])
    with pytest.raises(ShapeError, match="not an array of uint8"):
        exe([1, 256])
    with pytest.raises(ShapeError, match="dtype float64"):
        exe([1.0, 2.0])


@pytest.mark.parametrize(
    "inputs, message",
    [
        ({}, "missing: x"),
        ({"z": 1}, "missing: x; unknown: z"),
        ({"x": 1, "z": 1}, "unknown: z"),
        ({"x": np.zeros((2, 3))}, "dtype float64 where float32"),
        ({"x": np.zeros(3, np.float32)}, r"shape \(3,\) where 2 dims were expected"),
        (
            {"x": np.zeros((2, 4), np.float32)},
            r"shape \(2, 4\) where \(2, 3\) was expected \(x: f32\[n, 3\] with n = 2\)",
        ),
        ({"x": np.zeros((2, 3), ml_dtypes.bfloat16)}, "dtype bfloat16"),
        ({"x": "text"}, "dtype"),
        ({"x": [[1, 2], [3]]}, "not an array"),
        ({"x": None}, "dtype object"),
    ],
)
def test_what_does_not_fit_is_refused(inputs, message):
    exe = _relu(N, 3)
    with pytest.raises(ShapeError, match=message):
        exe.run(inputs)
    assert exe(np.ones((1, 3), np.float32)).shape == (1, 3)
    with pytest.raises(ShapeError, match=message):  # also when the frame knows other shapes
        exe.run(inputs)


def test_the_number_of_positional_inputs():
    exe = _relu(1)
    exe(np.zeros(1, np.float32))
    for inputs in ((), (np.zeros(1, np.float32),) * 2):
        with pytest.raises(ShapeError, match="takes 1"):
            exe(*inputs)


def test_one_symbol_in_two_inputs_must_agree():
    shapes = ((N, M), (M, N * 2))
    program = Program(
        "two",
        tuple(Port(name, DType.F32, shape, i) for i, (name, shape) in enumerate(zip("ab", shapes, strict=True))),
        (),
        tuple(Buffer(name, "input", f32(*shape)) for name, shape in zip("ab", shapes, strict=True)),
        (),
    )
    exe = Executable(program, [], 1)
    assert exe(np.zeros((2, 3), np.float32), np.zeros((3, 4), np.float32)) == ()
    with pytest.raises(ShapeError, match=r"'b': shape \(3, 5\) where \(3, 4\) was expected .* with n = 2, m = 3"):
        exe(np.zeros((2, 3), np.float32), np.zeros((3, 5), np.float32))


def test_several_outputs_and_inner_use_of_an_output():
    program = Program(
        "several",
        (Port("x", DType.F32, (N,), 0),),
        (Port("y", DType.F32, (N,), 1), Port("z", DType.F32, (N,), 2)),
        (Buffer("x", "input", f32(N)), Buffer("y", "output", f32(N)), Buffer("z", "output", f32(N))),
        (
            Run("increment", ((0, 0), (1, 0)), (), N, (1,)),
            Run("reverse", ((1, 0), (2, 0)), (N,), N, (1,)),
        ),
    )
    exe = Executable(program, objects(), 2)
    x = np.arange(1000, dtype=np.float32)
    y, z = exe(x)
    assert np.array_equal(y, x + 1) and np.array_equal(z, (x + 1)[::-1])
    assert list(exe.run({"x": x})) == ["y", "z"]


def test_operands_at_offsets():
    """Two writers into one buffer (concat), one reader of its middle."""
    half = N * 4
    program = Program(
        "concat",
        (Port("x", DType.F32, (N,), 0),),
        (Port("y", DType.F32, (N * 2,), 1), Port("z", DType.F32, (N,), 2)),
        (Buffer("x", "input", half), Buffer("y", "output", half * 2), Buffer("z", "output", half)),
        (
            Run("relu", ((0, 0), (1, 0)), (), N, (1,)),
            Run("increment", ((0, 0), (1, half)), (), N, (1,)),
            Run("relu", ((1, N * 2), (2, 0)), (), N, (1,)),
        ),
    )
    exe = Executable(program, objects(), 2)
    for size in (2, 10, 2000):
        x = np.arange(-size // 2, size - size // 2, dtype=np.float32)
        y, z = exe(x)
        assert np.array_equal(y, np.concatenate([np.maximum(x, 0), x + 1]))
        assert np.array_equal(z, np.maximum(y[size // 2 : size // 2 + size], 0))


def test_many_operands_in_one_input():
    steps = tuple(Run("relu", ((0, 4 * i), (1, 4 * i)), extent=1, writes=(1,)) for i in range(100))
    program = relu_program(100)
    exe = Executable(Program("many", program.inputs, program.outputs, program.buffers, steps), objects("relu"), 1)
    for seed in range(3):
        x = np.random.default_rng(seed).standard_normal(100).astype(np.float32)
        assert np.array_equal(exe(x), np.maximum(x, 0))


def test_constants():
    block, offsets = pack_constants({"a": np.arange(3, dtype=np.float32), "b": np.full(5, 7, np.float32)})
    assert offsets == {"a": 0, "b": 64} and block.ctypes.data % 64 == 0
    for constants in (block, block.tobytes(), memoryview(b"x" * 64 + block.tobytes())[64:]):
        program = Program(
            "constant",
            (),
            (Port("y", DType.F32, (5,), 0),),
            (Buffer("y", "output", 20), Buffer("b", "constant", 20, 64)),
            (Run("increment", ((1, 0), (0, 0)), (), 5, (1,)),),
            constants,
        )
        assert Executable(program, objects(), 1)().tolist() == [8] * 5


UPDATE = Program(
    "sgd",
    (Port("w", DType.F32, (N,), 0), Port("g", DType.F32, (N,), 1)),
    (Port("w_new", DType.F32, (N,), 0),),
    (Buffer("w", "input", f32(N)), Buffer("g", "input", f32(N))),
    (Run("accumulate", ((0, 0), (1, 0)), (), N, (0,)),),
    updates=(("w", "w_new"),),
)


def test_an_update_writes_the_callers_array():
    exe = Executable(UPDATE, objects(), 2)
    w = np.zeros(1000, np.float32)
    for step in range(1, 4):
        result = exe(w, np.ones(1000, np.float32))
        assert result is w and (w == step).all()


def test_an_update_that_would_be_lost_is_refused():
    exe = Executable(UPDATE, objects(), 1)
    good, ones = np.zeros(4, np.float32), np.ones(4, np.float32)
    frozen = good.copy()
    frozen.flags.writeable = False
    for _ in range(2):
        for bad in (frozen, np.zeros(8, np.float32)[::2], np.zeros(4, ">f4"), [0.0] * 4):
            with pytest.raises(ShapeError, match="updated in place"):
                exe(bad, ones)
        assert (frozen == 0).all()
        exe(good, ones)


def test_an_update_of_memory_that_another_input_reads_is_refused():
    exe = Executable(UPDATE, objects(), 1)
    both = np.zeros(12, np.float32)
    with pytest.raises(ExecutionError, match="shares its memory"):
        exe(both[:8], both[4:])
    assert exe(both[:6], both[6:]) is not None


def test_checks_and_requirements():
    base = relu_program(N)
    checked = Program(
        "c", base.inputs, base.outputs, base.buffers, base.steps, checks=(Check(N - 3, "at least three"),)
    )
    required = Program("r", base.inputs, base.outputs, base.buffers, (Require(N - 3, "at least three"), *base.steps))
    for program in (checked, required):
        for threads in (1, 2):
            exe = Executable(program, objects("relu"), threads)
            for _ in range(2):
                assert len(exe(np.ones(3, np.float32))) == 3
                for _ in range(2):
                    with pytest.raises(ExecutionError, match="at least three"):
                        exe(np.ones(2, np.float32))


def test_too_much_memory_is_an_error_that_names_the_buffer():
    exe = Executable(
        Program(
            "big",
            (Port("x", DType.F32, (N,), 0),),
            (),
            (Buffer("x", "input", f32(N)), Buffer("huge", "arena", f32(N, N, N, 1 << 20))),
            (Run("relu", ((0, 0), (1, 0)), (), 1, (1,)),),
        ),
        objects("relu"),
        1,
    )
    exe(np.zeros(1, np.float32))
    with pytest.raises(ExecutionError, match="scratch memory.*huge"):
        exe(np.zeros(1000, np.float32))
    with pytest.raises(ExecutionError, match="64 bits"):
        exe(np.zeros(100_000, np.float32))
    exe(np.zeros(1, np.float32))


def test_a_missing_function_is_named():
    with pytest.raises(CompileError, match="relu"):
        Executable(relu_program(1), objects("add"), 1)


def test_an_absurd_thread_count_is_refused():
    for threads in (0, -1, 10_000):
        with pytest.raises(ExecutionError, match="threads"):
            _relu(1, threads=threads)


def test_memory_use_and_release():
    exe = Executable(chain_program(10, N), objects(), 1)
    use = exe.memory({"n": 1000})
    assert use.arena == use.arena_bound == 2 * 4032
    assert use.outputs == 4000
    assert exe.memory({"n": 0}).arena == 0
    x = np.ones(1000, np.float32)
    exe(x)
    exe.release_memory()
    assert np.array_equal(exe(x), x)


def test_large_outputs_are_aligned():
    exe = _relu(N)
    assert all(exe(np.ones(n, np.float32)).ctypes.data % 64 == 0 for n in (1024, 1025, 70_000))


def test_many_sizes_in_turn():
    """More sizes than layouts are kept."""
    exe = Executable(chain_program(3, N), objects(), 1)
    for _ in range(3):
        for n in range(1, 30):
            x = np.arange(n, dtype=np.float32)
            assert np.array_equal(exe(x), x[::-1])


def test_a_long_chain_at_many_sizes():
    """3000 steps, laid out anew for each size; an odd number of reversals is one."""
    exe = Executable(chain_program(3001, N), objects("reverse"), 1)
    for n in (0, 1, 7, 100, 101, 200, 100):
        x = np.arange(n, dtype=np.float32)
        np.testing.assert_array_equal(exe(x), x[::-1])
