"""What torch handed over to be compiled, and what came of it: counted, for `mapsto.torch.report()`."""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import dataclass, field

from mapsto.boundary import public


class EagerWarning(UserWarning):
    """A part of a module that mapsto cannot compile is run by torch."""


@dataclass
class _Account:
    """Graphs by what they are for ("inference", "forward", "backward"); reasons for those that torch runs."""

    compiled: Counter[str] = field(default_factory=Counter)
    eager: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)


_account = _Account()


def note_compiled(kind: str) -> None:
    _account.compiled[kind] += 1


def note_eager(kind: str, reasons: tuple[str, ...]) -> None:
    """Counts a graph that torch runs, and warns of each reason once."""
    _account.eager[kind] += 1
    fresh = [reason for reason in reasons if reason not in _account.reasons]
    _account.reasons.update(reasons)
    if fresh:
        listed = "\n  ".join(fresh)
        warnings.warn(
            f"mapsto leaves a {kind} graph to torch, which runs it uncompiled:\n  {listed}\n"
            "fullgraph=True makes this an error; mapsto.torch.report() counts it",
            EagerWarning,
            stacklevel=2,
        )


@public
def report() -> str:
    """What has been compiled since the process began, or `reset`: graphs by what they are for, those that torch runs
    with the reasons, and what torch itself counts of graph breaks and recompilations.
    """
    lines = [f"compiled: {_counted(_account.compiled)}", f"left to torch: {_counted(_account.eager)}"]
    lines += [f"  {count} x {reason}" for reason, count in _account.reasons.most_common()]
    from torch._dynamo.utils import counters

    for name, said in (("graph_break", "graph breaks"), ("recompiles", "recompilations")):
        found = counters.get(name) or {}
        lines.append(f"{said} by torch: {sum(found.values()) or 'none'}")
        lines += [f"  {count} x {' '.join(str(reason).split())[:200]}" for reason, count in found.items()]
    return "\n".join(lines)


@public
def reset() -> None:
    """Begins to count anew."""
    for counter in (_account.compiled, _account.eager, _account.reasons):
        counter.clear()


def _counted(counter: Counter[str]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(counter.items())) or "none"
