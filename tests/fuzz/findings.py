"""Findings: one a cause, made small, kept as files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tests.fuzz.children import Children, Outcome
from tests.fuzz.targets import Target

TRIES = 24  # cases tried to make one smaller


@dataclass
class Finding:
    """The first case of a cause, and how many there were."""

    target: str
    seed: int
    number: int
    outcome: Outcome
    without: frozenset[int] = frozenset()
    how: tuple[str, ...] = ()
    count: int = 1

    @property
    def name(self) -> str:
        told = f"{self.target} {self.outcome.kind} {self.outcome.where}"
        plain = "".join(c if c.isalnum() else "-" for c in told.lower())[:80].strip("-")
        return f"{plain}-{hashlib.sha256(told.encode()).hexdigest()[:8]}"

    def text(self) -> str:
        lines = [
            f"{self.target} {self.number} (seed {self.seed}): {self.outcome.kind}: {self.outcome.where} ({self.count}x)"
        ]
        return "\n".join(
            [*lines, *(f"  {line}" for line in self.how), *(f"  | {x}" for x in self.outcome.message.splitlines()[:12])]
        )


@dataclass
class Findings:
    """All of a run. `keep`: a folder for them."""

    keep: Path | None = None
    found: dict[tuple[str, str, str], Finding] = field(default_factory=dict)

    def add(
        self, target: Target, seed: int, number: int, outcome: Outcome, child: Callable[..., Children]
    ) -> Finding | None:
        """The finding, where it is a new one."""
        key = (target.name, *outcome.key)
        if key in self.found:
            self.found[key].count += 1
            return None
        finding = self.found[key] = Finding(target.name, seed, number, outcome)
        _minimise(finding, target, child)
        case = target.made(seed, number, finding.without)
        finding.how = tuple(case.how)
        if self.keep is not None:
            self._save(finding, target, case)
        return finding

    def _save(self, finding: Finding, target: Target, case: object) -> None:
        assert self.keep is not None
        self.keep.mkdir(parents=True, exist_ok=True)
        path = self.keep / finding.name
        path.with_suffix(target.suffix).write_bytes(target.to_file(case))
        told = {
            "target": target.name, "seed": finding.seed, "number": finding.number, "without": sorted(finding.without),
            "kind": finding.outcome.kind, "where": finding.outcome.where, "how": list(finding.how),
            "message": finding.outcome.message, **{name: getattr(case, name, 0) for name in ("noise", "base", "plain")},
        }  # fmt: skip
        if getattr(case, "feed", {}):
            np.savez(path.with_suffix(".npz"), **case.feed)  # type: ignore[attr-defined]
        path.with_suffix(".json").write_text(json.dumps(told, indent=1))


def _minimise(finding: Finding, target: Target, child: Callable[..., Children]) -> None:
    """Leaves out one mutation after the other, as long as the same comes of it."""
    count = len(target.made(finding.seed, finding.number, frozenset()).how) - 1
    for k in range(min(count, TRIES) if count > 1 else 0):
        without = finding.without | {k}
        if len(without) == count:
            break
        children = child(lambda number, desk, w=without: target.tried(target.made(finding.seed, number, w), desk))
        for _, outcome in children.tried([finding.number]):
            if outcome.finding and outcome.key == finding.outcome.key:
                finding.without, finding.outcome = without, outcome
