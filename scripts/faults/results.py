"""What was found: a line of JSON for each fault as it comes, and the page that is made of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from faults.fault import SOURCE
from faults.rooms import ROOMS, room_of
from faults.trial import CAUGHT, SURVIVED

EQUIVALENT = "equivalent"


@dataclass(frozen=True)
class Result:
    """Of one fault. `how`: caught, survived or equivalent, which is said in `by` of the test, or of the reason."""

    key: str
    kind: str
    file: str
    function: str
    line: int
    old: str
    new: str
    what: str
    how: str
    by: str
    note: str
    seconds: float


def read(path: Path) -> dict[str, Result]:
    """The last result of each fault, by its key. A line that was cut short is none."""
    found = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            result = Result(**json.loads(line))
        except (ValueError, TypeError):
            continue
        found[result.key] = result
    return found


def note(path: Path, result: Result) -> None:
    """Appends a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(asdict(result)) + "\n")


def caught_share(results: Iterable[Result]) -> float:
    """Of those that are not equivalent, the share that a test noticed; 1 of none."""
    counts = Counter(result.how for result in results)
    return counts[CAUGHT] / max(counts[CAUGHT] + counts[SURVIVED], 1) if counts[CAUGHT] + counts[SURVIVED] else 1.0


def page(results: Sequence[Result], seed: int, untried: int = 0) -> str:
    """The page: counts by room, then each fault. untried: faults of the list that have no result yet."""
    drawn = sum(result.kind != "thought" for result in results)
    counts = Counter(result.how for result in results)
    lines = [
        "# Seeded faults",
        "",
        f"{len(results)} faults, {len(results) - drawn} of them thought out and {drawn} drawn by chance (seed {seed}),",
        "were put into copies of the tree, one at a time: this is which test noticed. "
        f"{counts[CAUGHT]} were caught, {counts[SURVIVED]} survived, {counts[EQUIVALENT]} change nothing that can be",
        "observed. "
        + (
            f"{untried} more of the list are not settled: no share of what is caught can be told from these."
            if untried
            else f"Of those that change something, {100 * caught_share(results):.1f} % were caught."
        ),
        "",
        "This page is made by",
        "",
        "    python scripts/seed_faults.py --page docs/seeded-faults.md",
        "",
        "which takes hours; `--find-reach` and `--reach` make them fewer. `--seed` draws others, `--room` keeps to",
        "a room, `--resume` goes on where a run stopped, and `--settled` makes the page of the results that there are.",
        "`scripts/nightly` draws new ones. What is thought out stands in",
        "`scripts/faults/thought.toml`, why some change nothing in `scripts/faults/equivalent.toml`, and which tests",
        "hold which room in `scripts/faults/rooms.py`.",
        "",
        "## By room",
        "",
        "| room | faults | caught | survived | equivalent |",
        "|---|---:|---:|---:|---:|",
    ]
    by_room: dict[str, list[Result]] = {room: [] for room in ROOMS}
    for result in results:
        by_room[room_of(result.file)].append(result)
    for room, own in by_room.items():
        ways = Counter(result.how for result in own)
        if own:
            lines.append(f"| {room} | {len(own)} | {ways[CAUGHT]} | {ways[SURVIVED]} | {ways[EQUIVALENT]} |")
    for room, own in by_room.items():
        if own:
            lines += ["", f"## {room}", ""]
            lines += [line for result in own for line in _entry(result)]
    return "\n".join(lines) + "\n"


def _entry(result: Result) -> list[str]:
    what = "" if result.kind != "thought" else f": {result.what}"
    where = f"{result.file.removeprefix(SOURCE + '/')}, {result.function}"
    lines = [f"- **{result.key}** ({where}){what}", "", *_indented("-", result.old), *_indented("+", result.new), ""]
    note = f" ({result.note})" if result.note else ""
    if result.how == CAUGHT:
        return [*lines, f"  caught by {result.by}{note}, {result.seconds:.0f} s", ""]
    return [*lines, f"  **{result.how}**{f': {result.by}' if result.by else ''}{note}", ""]


def _indented(sign: str, text: str) -> list[str]:
    return [f"      {sign} {line}".rstrip() for line in text.splitlines() or [""]]


def summary(results: Mapping[str, Result]) -> str:
    counts = Counter(result.how for result in results.values())
    return f"{counts[CAUGHT]} caught, {counts[SURVIVED]} survived, {counts[EQUIVALENT]} equivalent"
