"""The runner compiles for each architecture; bad object code is an error."""

import subprocess
import sys
from pathlib import Path

import pytest
from tests.runtime.helpers import objects

from mapsto.errors import CompileError
from mapsto.runtime import native
from mapsto.runtime.native import Library

SOURCE = Path(__file__).parents[2] / "src"


@pytest.mark.parametrize(
    "arch, triple", [("x86_64", "x86_64-linux-gnu"), ("aarch64", "aarch64-linux-gnu"), ("riscv64", "riscv64-linux-gnu")]
)
def test_the_runner_compiles_for(arch, triple):
    """In a process of its own: LLVM ends the process on an instruction that a target lacks."""
    script = f"""
import llvmlite.binding as llvm
llvm.initialize_all_targets()
llvm.initialize_all_asmprinters()
from mapsto.runtime import native
from mapsto.runtime.runner_ir import runner_ir
code = native._compile(runner_ir({arch!r}), {triple!r}, "")
assert code.startswith(b"\\x7fELF") and all(name in code for name in (b"mapsto_run", b"mapsto_worker", b"mapsto_stop"))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], env={"PYTHONPATH": str(SOURCE)}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_what_is_no_object_code():
    code = objects("relu")[0]
    for bad in (b"", b"text", code[:200], code[: len(code) // 2]):
        with pytest.raises(CompileError):
            Library([bad], ["relu"])


def test_two_objects_with_the_same_function():
    with pytest.raises(CompileError, match="relu"):
        Library(objects("relu") * 2, ["relu"])


def test_no_functions_need_no_code():
    assert Library([], []).addresses == {}


def test_this_machine_has_features():
    assert native.architecture() and native.host_features()
