"""Pictures of trainings: the learning curve of one, and the trials of a search. Needs matplotlib (extra `plot`)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from mapsto.boundary import public
from mapsto.errors import UnsupportedError
from mapsto.files import name_of, written
from mapsto.train.history import History

_DOTS = 150  # an inch


@public
def draw_curve(history: History, path: str | os.PathLike[str], title: str = "") -> None:
    """Draws losses, and metrics beside them, by epoch. The format is that of the name's ending: png, svg, pdf.

    Raises UnsupportedError without matplotlib or for another ending, FileError.
    """
    figure = figure_class()(figsize=(7.0, 4.2), layout="constrained")
    axes = figure.subplots()
    numbers = [epoch.number for epoch in history.epochs]
    axes.plot(numbers, history.series("loss"), marker=".", label="loss (training)")
    held = [epoch.number for epoch in history.epochs if epoch.validation is not None]
    axes.plot(held, history.series("validation"), marker=".", label="loss (validation)") if held else None
    if history.best is not None:
        axes.axvline(history.best, color="grey", linewidth=0.8, linestyle=":", label=f"best epoch: {history.best}")
    axes.set_xlabel("epoch")
    axes.set_ylabel("loss")
    axes.xaxis.get_major_locator().set_params(integer=True)
    lines = axes.get_legend_handles_labels()
    names = list(dict.fromkeys(name for epoch in history.epochs for name in epoch.metrics))
    if names:
        beside = axes.twinx()
        beside.set_ylabel(", ".join(names))
        for at, name in enumerate(names):
            having = [epoch.number for epoch in history.epochs if name in epoch.metrics]
            beside.plot(having, history.series(name), marker=".", linestyle="--", color=f"C{at + 2}", label=name)
        lines = tuple(a + b for a, b in zip(lines, beside.get_legend_handles_labels(), strict=True))
    figure.legend(*lines, loc="outside lower center", ncols=len(lines[0]))
    axes.set_title(title)
    save_figure(figure, path)


def draw_trials(
    figures: Sequence[float | None], better: str, larger: bool, path: str | os.PathLike[str], title: str = ""
) -> None:
    """Draws the figure of each trial (None: it was pruned, or failed), and the best so far. Raises as `draw_curve`
    does.
    """
    figure = figure_class()(figsize=(7.0, 4.2), layout="constrained")
    axes = figure.subplots()
    done = [(at, value) for at, value in enumerate(figures) if value is not None]
    axes.plot([at for at, _ in done], [value for _, value in done], "o", label="a trial")
    best: list[float] = []
    for _, value in done:
        best.append(value if not best else max(best[-1], value) if larger else min(best[-1], value))
    axes.step([at for at, _ in done], best, where="post", label="the best so far")
    for at in (at for at, value in enumerate(figures) if value is None):
        axes.axvline(at, color="grey", linewidth=0.8, linestyle=":")
    axes.plot([], [], color="grey", linestyle=":", label="pruned, or failed")
    axes.set_xlabel("trial")
    axes.set_ylabel(better)
    axes.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(loc="outside lower center", ncols=3)
    axes.set_title(title)
    save_figure(figure, path)


def figure_class() -> Any:
    """Matplotlib's `Figure`. Raises UnsupportedError that names the extra where it is missing."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UnsupportedError(
            "pictures are drawn by matplotlib, which is not installed: pip install 'mapsto[plot]'"
        ) from None
    return Figure


def save_figure(figure: Any, path: str | os.PathLike[str]) -> None:
    """Writes a picture as `mapsto.files.written` does."""
    ending = os.path.splitext(name_of(path, "the picture"))[1].lstrip(".").lower()
    if ending not in ("png", "svg", "pdf"):
        raise UnsupportedError(f"{path}: a picture is a .png, .svg or .pdf file")
    with written(path) as file:
        figure.savefig(file, format=ending, dpi=_DOTS)
