"""The progress of a training on standard error, where that is a terminal: epoch, loss, metrics, examples a second, and
the time that is left.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mapsto.arguments import Progress, brief, telling
from mapsto.errors import ArgumentError


def _silent(done: int, total: int, label: str) -> None:
    pass


@contextmanager
def shown(progress: Any) -> Iterator[Progress]:
    """Yields a function (steps done, steps in all, label). progress: True: a bar, where standard error is a terminal;
    False or None: nothing; or a function that is told instead. Raises ArgumentError for anything else.
    """
    if progress is not None and not isinstance(progress, bool):
        if not callable(progress):
            raise ArgumentError(f"progress: expected True, False or a function, got {brief(progress)}")
        yield telling(progress) or _silent
    elif progress and sys.stderr.isatty():
        with _bar() as tell:
            yield tell
    else:
        yield _silent


@contextmanager
def _bar() -> Iterator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.fields[label]}"), BarColumn(bar_width=20), TimeRemainingColumn(compact=True))
    # what is printed meanwhile stays on standard output, where that is not the bar's terminal
    mixed = sys.stdout.isatty()
    with Bar(*columns, console=Console(stderr=True), transient=True, redirect_stdout=mixed) as bar:
        task = bar.add_task("training", total=None, label="")
        yield lambda done, total, label: bar.update(task, completed=done, total=total or None, label=label)
