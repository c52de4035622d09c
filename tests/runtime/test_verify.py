"""An inconsistent program is refused before anything native runs, with the place of the fault."""

from dataclasses import replace

import pytest
from tests.runtime.helpers import N, chain_program, relu_program

from mapsto.errors import VerifyError
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import load, sym
from mapsto.runtime.program import Bind, BranchIfFalse, Buffer, Jump, Port, Program, Run
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
    (_step(follows=True), "follows"),
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
    (
        _changed(
            GOOD, inputs=(Port("x", DType.F32, (N * 2,), 0),), buffers=(Buffer("x", "input", N * 8), GOOD.buffers[1])
        ),
        "n",
    ),
    (_changed(BIND, steps=BIND.steps[1:] + BIND.steps[:1] + (Bind("n", (2, 0)),)), "by an input and"),
    (_changed(BIND, steps=(BIND.steps[0], BIND.steps[2], BIND.steps[1])), "symbols m"),
    (_changed(BIND, steps=(replace(BIND.steps[2], extent=1), BIND.steps[0], BIND.steps[1])), "before that is bound"),
    (_changed(BIND, steps=(*BIND.steps[:2], BIND.steps[2], BIND.steps[1], BranchIfFalse((2, 0), 2))), "carried over"),
]


@pytest.mark.parametrize("program, message", BAD, ids=[message for _, message in BAD])
def test_a_fault_is_named(program, message):
    with pytest.raises(VerifyError, match=message):
        verify_program(program)
