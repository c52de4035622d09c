"""An inconsistent program is refused before anything native runs, with the place of the fault."""

from dataclasses import replace

import pytest
from tests.runtime.helpers import N, chain_program, relu_program

from mapsto.errors import VerifyError
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import load, sym
from mapsto.runtime import dataflow
from mapsto.runtime.program import Bind, Bounds, BranchIfFalse, Buffer, Jump, Port, Program, Require, Run, SetSize
from mapsto.runtime.verify import verify_program

GOOD = relu_program(N)
BIND = Program(
    "bind",
    (Port("x", DType.F32, (N,), 0),),
    (Port("y", DType.F32, (sym("m"),), 1),),
    (Buffer("x", "input", 4 * N), Buffer("y", "output", 4 * sym("m")), Buffer("c", "arena", 8)),
    (
        Run("count", ((0, 0), (2, 0)), (N,), writes=(1,)),
        Bind("m", (2, 0)),
        Run("relu", ((0, 0), (1, 0)), (), sym("m"), (1,)),
    ),
)


def _changed(program, **fields):
    return replace(program, **fields)


def _step(**fields):
    return _changed(GOOD, steps=(replace(GOOD.steps[0], **fields),))


def _buffer(index, **fields):
    buffers = list(GOOD.buffers)
    buffers[index] = replace(buffers[index], **fields)
    return _changed(GOOD, buffers=tuple(buffers))


def test_good_programs_pass():
    for program in (GOOD, BIND, chain_program(5, N)):
        verify_program(program)


BAD = [
    (_step(operands=((0, 0), (7, 0))), "no buffer 7"),
    (_step(operands=((0, -4), (1, 0))), "offset -4"),
    (_step(operands=((0, 0), (-1, 0))), "no buffer -1"),
    (_step(writes=(0, 1)), "writes input x"),
    (_step(writes=(5,)), "writes operands"),
    (_step(extent=sym("k")), "symbols k"),
    (_step(extent=load("t", (N,))), "cannot load"),
    (_step(function=""), "no function"),
    (_step(grain=0), "grain"),
    (_buffer(0, kind="heap"), "kind heap"),
    (_buffer(0, bytes=N * 8), "holds"),
    (_buffer(1, kind="arena"), "kind arena"),
    (_changed(GOOD, buffers=(*GOOD.buffers, Buffer("c", "constant", 64, 0))), "constants"),
    (_changed(GOOD, buffers=(*GOOD.buffers, Buffer("c", "constant", 4, 32)), constants=b"0" * 64), "constants"),
    (_changed(GOOD, buffers=(*GOOD.buffers, Buffer("z", "output", 4))), "no port"),
    (_changed(GOOD, outputs=(*GOOD.outputs, replace(GOOD.outputs[0], name="z"))), "another port"),
    (_changed(GOOD, outputs=(GOOD.outputs[0], GOOD.outputs[0])), "share a name"),
    (_changed(GOOD, inputs=(replace(GOOD.inputs[0], buffer=9),)), "no buffer 9"),
    (_changed(GOOD, updates=(("x", "y"),)), "differ"),
    (_changed(GOOD, updates=(("x", "nothing"),)), "pair"),
    (_changed(GOOD, steps=(Jump(5),)), "no step 5"),
    (_changed(GOOD, steps=(Bind("m", (0, 0), DType.F32),)), "no integer"),
    (_changed(BIND, steps=(*BIND.steps, Bounds((2, 4), "signed", "index", 0, 3, "g"))), "a word from 4 bytes"),
    (_changed(BIND, steps=(*BIND.steps, Bounds((2, 0), "any", "index", 0, 3, "g"))), "no known indices"),
    (_changed(GOOD, steps=(*GOOD.steps, Bounds((0, 0), "signed", "index", 0, sym("m"), "g"))), "symbols m"),
    (
        _changed(
            GOOD, inputs=(Port("x", DType.F32, (N * 2,), 0),), buffers=(Buffer("x", "input", N * 8), GOOD.buffers[1])
        ),
        "n",
    ),
    (_changed(BIND, steps=BIND.steps[1:] + BIND.steps[:1] + (Bind("n", (2, 0)),)), "by an input and"),
    (_changed(BIND, steps=(BIND.steps[0], BIND.steps[2], BIND.steps[1])), "symbols m"),
    (_changed(BIND, steps=(replace(BIND.steps[2], extent=1), BIND.steps[0], BIND.steps[1])), "before that is bound"),
    (
        _changed(
            BIND,
            buffers=(*BIND.buffers, Buffer("t", "arena", 8 * sym("m"))),
            steps=(BIND.steps[0], Bind("m", (3, 0)), BIND.steps[2]),
        ),
        "step 1: it uses t, sized by m, before that is bound",
    ),
    (_changed(BIND, steps=(*BIND.steps, BIND.steps[1], BranchIfFalse((2, 0), 2))), "output y: a path to the end"),
    (_changed(BIND, steps=(*BIND.steps, SetSize("m", sym("k")))), "symbols k"),
    (_changed(BIND, steps=(*BIND.steps, SetSize("n", 4))), "by an input and"),
]


@pytest.mark.parametrize("program, message", BAD, ids=[message for _, message in BAD])
def test_a_fault_is_named(program, message):
    with pytest.raises(VerifyError, match=message):
        verify_program(program)


# -- what is read was written ------------------------------------------------------------------------------------------


def _flow(*steps, outputs=(1,), count=6):
    """Steps over buffers: 0 the input x, 1 the output y (and 2, where it is one), the others scratch."""
    kinds = ["input", *("output" if i in outputs else "arena" for i in range(1, count))]
    ports = tuple(Port(f"y{i}", DType.F32, (N,), i) for i in outputs)
    buffers = tuple(Buffer(f"b{i}", kind, 4 * N) for i, kind in enumerate(kinds))
    return Program("flow", (Port("x", DType.F32, (N,), 0),), ports, buffers, steps)


def _do(reads, *writes):
    return Run("f", tuple((b, 0) for b in (*reads, *writes)), (), N, tuple(range(len(reads), len(reads) + len(writes))))


def _if(condition, target):
    return BranchIfFalse((condition, 0), target)


IF = (_do([0], 3), _if(3, 4), _do([0], 4), Jump(5), _do([0], 4), _do([4], 1))
LOOP = (_do([0], 3), _do([3], 4), _do([4], 3, 5), _if(5, 1), _do([3], 1))
SOUND = {
    "chain": (_do([0], 3), _do([3], 4), _do([4], 1)),
    "both branches write": IF,
    "a branch that always fails": (_do([0], 3), _if(3, 4), _do([0], 1), Jump(5), Require(-1, "no")),
    "a loop": LOOP,
    "in place": (_do([0], 3), _do([3], 3), _do([3], 1)),
    "writes anything": (Run("f", ((0, 0), (1, 0))),),
    "nothing leads there": (_do([0], 1), Jump(3), _do([4], 5)),
    "a loop entered in its middle": (_do([0], 3, 4), Jump(3), _do([4], 5), _do([4], 5), _if(5, 2), _do([5], 1)),
}
UNSOUND = {
    "never written": (_do([3], 1)),
    "one branch writes": (_do([0], 3), _if(3, 3), _do([0], 4), _do([4], 1)),
    "an output on one path": (_do([0], 3), _if(3, 3), _do([0], 1)),
    "the condition": (_if(3, 2), _do([0], 1), _do([0], 1)),
    "written later in the loop": (_do([0], 3), _do([4], 5), _do([5], 4), _if(4, 1), _do([5], 1)),
    "jumped over": (Jump(2), _do([0], 4), _do([4], 1)),
    "entered in the middle": (_do([0], 3), _if(3, 4), _do([0], 4), _do([4], 5), _do([0], 3), _if(3, 3), _do([3], 1)),
    "a size": (Bind("m", (3, 0)), _do([0], 1)),
}


@pytest.mark.parametrize("name", SOUND)
def test_a_program_that_reads_what_it_wrote(name):
    verify_program(_flow(*SOUND[name]))


@pytest.mark.parametrize("name", UNSOUND)
def test_a_program_that_reads_what_nothing_wrote(name):
    steps = UNSOUND[name]
    with pytest.raises(VerifyError, match="which no step may have written|writes nothing there"):
        verify_program(_flow(*(steps if isinstance(steps, tuple) else (steps,))))


def _sized(*steps):
    """Steps over the input x, the output y, a condition (2), and scratch of m (3) and k (4) elements."""
    buffers = (
        Buffer("x", "input", 4 * N), Buffer("y", "output", 4 * sym("m")), Buffer("c", "arena", 8),
        Buffer("t", "arena", 4 * sym("m")), Buffer("u", "arena", 4 * sym("k")),
    )  # fmt: skip
    return Program("sized", (Port("x", DType.F32, (N,), 0),), (Port("y", DType.F32, (sym("m"),), 1),), buffers, steps)


_M, _K = SetSize("m", N), SetSize("k", sym("m"))
CARRIED = (
    _M, _do([0], 3), _K, _do([3], 4), SetSize("m", sym("k") + 1), _do([4], 3, 2), _if(2, 8), Jump(2), _do([3], 1)
)  # fmt: skip


def test_what_is_handed_on_is_in_memory_of_another_size():
    verify_program(_sized(*CARRIED))


@pytest.mark.parametrize(
    "change",
    [
        {5: _do([3], 3, 2)},  # reads what m elements were before
        {3: _do([0], 4), 2: _do([0], 2), 1: _K, 7: Jump(3), 5: _do([0], 2)},  # nothing is handed on
    ],
)
def test_what_a_buffer_held_before_its_size_changed(change):
    with pytest.raises(VerifyError, match="since it got its size|writes nothing there|that is bound|symbols m"):
        verify_program(_sized(*(change.get(at, step) for at, step in enumerate(CARRIED))))


@pytest.mark.parametrize("steps", [SOUND["chain"], IF, LOOP], ids=["chain", "if", "loop"])
def test_a_step_that_is_lost_or_comes_late(steps):
    """Each step that writes, dropped (it calls nothing and writes nothing), and each put behind its reader."""
    verify_program(_flow(*steps))
    for index, step in enumerate(steps):
        if not isinstance(step, Run):
            continue
        lost = replace(step, operands=step.operands[:1], writes=())
        with pytest.raises(VerifyError):
            verify_program(_flow(*steps[:index], lost, *steps[index + 1 :]))
        following = steps[index + 1] if index + 1 < len(steps) else None
        if isinstance(following, Run) and {b for b, _ in following.operands[:1]} & {b for b, _ in step.operands[1:]}:
            with pytest.raises(VerifyError):
                verify_program(_flow(*steps[:index], following, step, *steps[index + 2 :]))


M = sym("m")


def _sized(*steps):
    """Steps over buffers: 0 the input x, 1 the output y of m elements, 2 and 3 scratch of m elements, 4 and 5 of n."""
    kinds = ["input", "output", "arena", "arena", "arena", "arena"]
    buffers = [Buffer(f"b{i}", kind, 4 * (M if i in (1, 2, 3) else N)) for i, kind in enumerate(kinds)]
    ports = (Port("x", DType.F32, (N,), 0),), (Port("y", DType.F32, (M,), 1),)
    return Program("sized", *ports, tuple(buffers), steps)


_BIND = Bind("m", (4, 0))
_TO = {
    "bound": (_do([0], 4), _BIND, _do([0], 2), _do([2], 1)),
    "bound in both branches": (_do([0], 4), _if(4, 4), _BIND, Jump(5), _BIND, _do([0], 1)),
    "anew in a loop": (_do([0], 4), _BIND, _do([0], 2), _do([2], 1), _if(4, 1)),
}
_NOT = {
    "in one branch": ((_do([0], 4), _if(4, 3), _BIND, _do([0], 1)), "size m, which a path to it has not bound"),
    "jumped over": ((_do([0], 4), Jump(3), _BIND, _do([0], 1)), "size m, which a path to it has not bound"),
    "anew while it is in use": ((_do([0], 4), _BIND, _do([0], 2), _BIND, _do([2], 1)), "reads b2"),
    "anew after the output": ((_do([0], 4), _BIND, _do([0], 1), _BIND), "writes nothing there"),
    "an offset": (
        (_do([0], 4), _if(4, 3), _BIND, Run("f", ((0, 0), (5, M)), (), N, (1,))), "size m, which a path to it",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", _TO)
def test_a_size_that_every_path_binds(name):
    verify_program(_sized(*_TO[name]))


@pytest.mark.parametrize("name", _NOT)
def test_a_size_that_a_path_leaves_out_or_changes(name):
    """Where a jump leaves out what binds a size, its outputs would have no memory; where it is bound again, what lies
    in buffers of that size would be left behind.
    """
    steps, said = _NOT[name]
    with pytest.raises(VerifyError, match=said):
        verify_program(_sized(*steps))


def test_an_update_needs_no_write_and_no_byte_needs_one():
    ports = (Port("x", DType.F32, (N,), 0),), (Port("y", DType.F32, (N,), 0), Port("z", DType.F32, (0,), 1))
    buffers = (
        Buffer("x", "input", 4 * N),
        Buffer("z", "output", 0),
        Buffer("e", "arena", 0),
        Buffer("t", "arena", 4 * N),
    )
    steps = (Run("f", ((0, 0), (2, 0), (3, 0)), writes=(2,)),)
    verify_program(Program("update", *ports, buffers, steps, updates=(("x", "y"),)))


def test_a_long_program_is_followed_in_two_rounds(monkeypatch):
    """10,000 steps, a branch and a loop every ten."""
    steps = []
    for i in range(0, 10_000, 10):
        steps += [_do([0], 3), _if(3, i + 4), _do([3], 4), Jump(i + 5), _do([0], 4), *[_do([4], 5)] * 4, _if(5, i)]
    looked = []
    accesses = dataflow._accesses
    monkeypatch.setattr(dataflow, "_accesses", lambda *given: looked.append(0) or accesses(*given))
    verify_program(_flow(*steps, _do([5], 1)))
    assert len(looked) == 2 * len(steps) + 2
