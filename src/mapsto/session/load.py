"""`mapsto.load`: what a file holds, of one device or of several. Only what that needs is imported."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from mapsto.boundary import public
from mapsto.files import name_of
from mapsto.runtime.artifact import MAGIC_OF_SEVERAL
from mapsto.runtime.container import is_of_kind
from mapsto.runtime.cpus import thread_count
from mapsto.runtime.executable import Executable
from mapsto.runtime.executable import load as load_one

if TYPE_CHECKING:
    from mapsto.runtime.divided import DividedExecutable
    from mapsto.runtime.program import Program


@public
def load(
    path: str | os.PathLike[str], threads: int | None = None, verify: bool = False
) -> Executable | DividedExecutable:
    """The executable that a file of `Executable.save` or `DividedExecutable.save` holds; nothing is compiled, but for
    what drivers make of the code for their devices.

    Every byte of the file is looked at: code, plan and header by SHA-256, constants (9 ms for 100 MB) by sums that find
    accidents. verify: constants by SHA-256 as well (125 ms for 100 MB), which finds any change; so they are at any rate
    in a file of several devices.

    Raises ModelError where the file is damaged, of another version, or for another machine, ExecutionError for an
    impossible number of threads.
    """
    count = thread_count(threads)
    if not is_of_kind(name_of(path, "the compiled model"), MAGIC_OF_SEVERAL):
        return load_one(path, count, verify)
    from mapsto.devices.named import loaded
    from mapsto.runtime import division_file
    from mapsto.runtime.divided import DividedExecutable

    def making(device: str, program: Program, code: bytes, plan: str) -> Executable:
        return loaded(device, program, code, plan, count)

    saved = division_file.load(path, count, making)
    return DividedExecutable(saved.whole, saved.division, saved.devices, notes=saved.notes)
