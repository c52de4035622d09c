"""What a plan comes to, as comments below its text: the program's steps and its memory."""

from __future__ import annotations

import re

from mapsto.runtime.executable import Executable
from mapsto.runtime.program import step_text


def steps_text(exe: Executable) -> str:
    """Lines of comment: each step, and the arena where all sizes are known before a run."""
    program = exe.program
    lines = [f"# step {number} {_one_line(step_text(program, step))}" for number, step in enumerate(program.steps)]
    if all(isinstance(d, int) for d in program.dims()):
        use = exe.memory()
        lines.append(f"# arena {use.arena} bytes, at least {use.arena_bound} needed")
    return "".join(f"{line}\n" for line in lines)


def _one_line(text: str) -> str:
    """Without characters that would end the line: a model may call a value anything."""
    return re.sub(r"[\x00-\x1f\x7f]", lambda found: found[0].encode("unicode_escape").decode(), text).strip()
