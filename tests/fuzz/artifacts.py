"""Damaged artifacts: refused, or, where only what is not trusted was changed, loaded and run between fences.

Plain damage must be refused. Where the header was changed and its checksums made right again, the file may be loaded;
what it holds is run if every step that it has calls a function on the same operands as one of the whole program, with
the same sizes, under the same conditions. (What a function does with other operands is the writer's: machine code.)
"""

from __future__ import annotations

import functools
import hashlib
import json
import random
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mapsto
from mapsto.errors import CompileError, ExecutionError, ModelError, ShapeError
from mapsto.runtime import artifact
from mapsto.runtime.program import ALIGNMENT, Program, Run, operands_of
from tests.fuzz import jsons
from tests.fuzz.children import Desk, Outcome
from tests.fuzz.models import RUN_SECONDS, Beyond, Bounded, guarded
from tests.fuzz.mutating import damaged
from tests.fuzz.plans import bases

_PAGE = 4096


@dataclass(frozen=True)
class Case:
    """A damaged file, how it came, the number of the model that it was made of."""

    data: bytes
    how: tuple[str, ...]
    base: int
    plain: bool
    noise: int


@functools.cache
def files() -> tuple[tuple[bytes, Program], ...]:
    """An artifact of each model, and its program."""
    exes = [mapsto.compile(base.data, threads=1, cache=False) for base in bases()]
    return tuple((b"".join(bytes(part) for part in exe.parts()), exe.program) for exe in exes)


def made(seed: int, number: int, without: frozenset[int] = frozenset()) -> Case:
    """A file with bytes changed, or with its header changed and written anew."""
    rng = random.Random(f"{seed} artifacts {number}")
    base = rng.randrange(len(files()))
    data, how = files()[base][0], [f"artifact of {bases()[base].name!r}"]
    plain, count = rng.random() < 0.25, rng.choice([1, 1, 1, 2, 3])
    late = rng.random() < 0.1
    noise = rng.randrange(1 << 30)
    steps = [k for k in range(count) if k not in without]
    if plain:
        for k in steps:
            data, done = damaged(data, random.Random(f"{seed} artifacts {number} {k}"))
            how.append(done)
        return Case(data, tuple(how), base, True, noise)
    header, blobs = taken_apart(data)
    for k in steps:
        part = header if late or rng.random() < 0.1 else header.get("program", header)
        how.append(
            jsons.mutate(part, random.Random(f"{seed} artifacts {number} {k}"))
            if isinstance(part, (dict, list)) and part
            else ""
        )
    return Case(written(header, blobs, late), tuple(how), base, False, noise)


def taken_apart(data: bytes) -> tuple[Any, list[bytes]]:
    """The header of a file, and its blobs."""
    (length,) = struct.unpack("<Q", data[8:16])
    header = json.loads(data[64 : 64 + length])
    return header, [data[start : start + size] for start, size, _ in header["blobs"]]


def written(header: Any, blobs: list[bytes], late: bool) -> bytes:
    """A file of a header and its blobs, checksums right. late: where the header says that the blobs lie stays."""
    if not late:
        header["blobs"] = [[0, len(blob), hashlib.sha256(blob).hexdigest()] for blob in blobs]
        header["sums"] = artifact.page_sums(blobs[-1])
        header["bytes"] = 0
    room = len(json.dumps(header)) + 24 * (len(blobs) + 1)
    position, body = 64 + room, b""
    for number, blob in enumerate(blobs):
        step = _PAGE if number == len(blobs) - 1 else ALIGNMENT
        start = -(-position // step) * step
        body += bytes(start - position) + blob
        if not late:
            header["blobs"][number][0] = start
        position = start + len(blob)
    end = -(-position // ALIGNMENT) * ALIGNMENT + ALIGNMENT
    body += bytes(end - position)
    if not late:
        header["bytes"] = end
    text = json.dumps(header).encode().ljust(room)
    return artifact.MAGIC + struct.pack("<Q", len(text)) + hashlib.sha256(text).digest() + bytes(16) + text + body


def tried(case: Case, desk: Desk) -> Outcome:
    """Loads a file; runs what it holds."""
    whole, program = files()[case.base]
    desk.stage("load", 5)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.mapsto"
        path.write_bytes(case.data)
        exe = guarded(lambda: mapsto.load(path, threads=1), (ModelError, CompileError))
        if isinstance(exe, Outcome):
            return exe
        if case.plain:
            return Outcome("loaded", "unchanged") if case.data == whole else Outcome("loads", "damage", "", True)
        if not same_code(exe.program, program):
            return Outcome("loaded", "other code")
        desk.stage("run", RUN_SECONDS)
        exe.guard(Bounded(bool(case.noise % 2), lambda step: desk.step(f"step {step}")))
        feed = bases()[case.base].feed
        names = [port.name for port in exe.program.inputs]
        given = dict(zip(names, feed.values(), strict=True)) if len(names) == len(feed) else feed
        found = guarded(lambda: exe.run(given), (ExecutionError, ShapeError, Beyond))
        if isinstance(found, Outcome) and found.kind == "Beyond":
            return _beyond(exe.program, program, found.message)
        return found if isinstance(found, Outcome) else Outcome("ran")


def _beyond(found: Program, whole: Program, what: str) -> Outcome:
    """Of a run that is larger or longer than those of the whole file. That jumps come to an end is the writer's, as
    code is: where steps stand, lead or bind otherwise, a run may go on for ever.
    """
    trusted = [_flow(step) for step in found.steps] != [_flow(step) for step in whole.steps]
    return Outcome("ran", "jumps without end") if trusted else Outcome("hang", "run: as the whole file", what, True)


def _flow(step: Any) -> tuple[Any, ...]:
    """What of a step decides what is walked next, and by which sizes."""
    target, symbol = getattr(step, "target", None), getattr(step, "symbol", None)
    return type(step), tuple(operands_of(step)), _calls(step), target, symbol, getattr(step, "value", None)


def same_code(found: Program, whole: Program) -> bool:
    """Whether each step of `found` calls a function as one of `whole` does."""
    if [(p.dtype, p.shape, p.buffer) for p in (*found.inputs, *found.outputs)] != [
        (p.dtype, p.shape, p.buffer) for p in (*whole.inputs, *whole.outputs)
    ]:
        return False
    if [(b.kind, b.bytes, b.offset) for b in found.buffers] != [(b.kind, b.bytes, b.offset) for b in whole.buffers]:
        return False
    if [c.condition for c in found.checks] != [c.condition for c in whole.checks]:
        return False
    known = {(type(step), tuple(operands_of(step)), *_calls(step)) for step in whole.steps}
    return all((type(step), tuple(operands_of(step)), *_calls(step)) in known for step in found.steps)


def _calls(step: Any) -> tuple[Any, ...]:
    return (step.function, step.dims, step.extent) if isinstance(step, Run) else ()
