"""A progress bar on standard error while long work goes on; nothing where that is no terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from mapsto.arguments import Progress


def _silent(done: int, total: int, label: str) -> None:
    pass


@contextmanager
def progress_bar(title: str) -> Iterator[Progress]:
    """Yields a function (done, total, label) that moves the bar. The bar is gone when the work is done."""
    if not sys.stderr.isatty():
        yield _silent
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[label]}"), TimeElapsedColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None, label="")
        yield lambda done, total, label: bar.update(task, completed=done, total=total or None, label=label[:60])
