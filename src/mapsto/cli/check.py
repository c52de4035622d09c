"""`mapsto check`: our outputs beside the numpy reference and ONNX Runtime, under `report.accuracy`'s rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mapsto.cli.codes import CHECK_FAILED
from mapsto.cli.inputs import feed_of_model, make_feed, parse_shapes, read_given
from mapsto.cli.open import Opening, open_model
from mapsto.cli.options import FeedOptions, ReadOptions
from mapsto.cli.output import print_json, shape_text, table
from mapsto.cli.progress import progress_bar
from mapsto.errors import MapstoError
from mapsto.report.accuracy import ERROR_FACTOR, LIMIT_WITHOUT_PEER, SLACK, Outputs, Verdict, judge
from mapsto.report.engines import Setup, open_engine
from mapsto.report.stages import first_change

REFERENCE = "onnxruntime-unoptimised"
PEER = "onnxruntime"
HEADERS = ("output", "shape", "channel", "ours", "peer", "limit", "")


@dataclass(frozen=True)
class Section:
    """Our outputs beside one reference."""

    reference: str
    rule: str
    verdicts: list[Verdict]

    @property
    def ok(self) -> bool:
        return all(verdict.ok for verdict in self.verdicts)

    def to_json(self) -> dict[str, Any]:
        outputs = [verdict.to_json() for verdict in self.verdicts]
        return {"reference": self.reference, "rule": self.rule, "ok": self.ok, "outputs": outputs}


@dataclass
class Found:
    """The outputs of each engine that could run the model, and why others could not."""

    outputs: dict[str, Outputs] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)


def check_model(
    model: Path,
    feeding: FeedOptions,
    opening: Opening,
    reference: bool,
    max_error: float | None,
    as_json: bool,
) -> int:
    """Prints the comparison; the exit code."""
    reading = opening.reading
    read, shapes = read_given(feeding.inputs, feeding.given or []), parse_shapes(reading.shape or [])
    opened = open_model(model, opening)
    fed = make_feed(opened.inputs, read, feeding.seed)
    ours: Outputs = opened.executable.run(fed.feed)
    engines = [REFERENCE, PEER, *(["numpy"] if reference else [])]
    found = _run_others(engines, Setup(model, shapes, data_root=reading.data_root), fed.feed)
    sections = judged(ours, found.outputs, max_error)
    if not sections:
        reasons = "\n".join(f"  {name}: {why}" for name, why in found.absent.items())
        raise MapstoError(f"nothing to compare with:\n{reasons}")
    ok = all(section.ok for section in sections)
    if as_json:
        data = {"model": str(model), "ok": ok, "made_inputs": dict(fed.made), "absent": found.absent}
        print_json(data | {"sections": [section.to_json() for section in sections]})
    else:
        _print_text(sections, fed.made, found.absent, ok)
    return 0 if ok else CHECK_FAILED


def check_passes(model: Path, reading: ReadOptions, feeding: FeedOptions, as_json: bool) -> int:
    """Prints which pass first changes what the numpy reference computes; the exit code."""
    fed = feed_of_model(model, reading, feeding)
    found = first_change(model, fed.feed, parse_shapes(reading.shape or []), reading.data_root)
    name, verdicts = found if found is not None else (None, [])
    if as_json:
        print_json({"model": str(model), "ok": name is None, "pass": name, "outputs": [v.to_json() for v in verdicts]})
    elif name is None:
        print("ok: every pass keeps what the graph computes")
    else:
        print(f"FAILED: pass {name} changes what the graph computes")
        print(table(HEADERS, [_row(verdict) for verdict in verdicts]))
    return 0 if name is None else CHECK_FAILED


def _run_others(engines: Sequence[str], setup: Setup, feed: Mapping[str, np.ndarray]) -> Found:
    found = Found()
    with progress_bar("running references") as progress:
        for i, name in enumerate(engines):
            progress(i, len(engines), name)
            try:
                found.outputs[name] = open_engine(name, setup).run(feed)
            except MapstoError as error:
                found.absent[name] = str(error)
    return found


def judged(ours: Outputs, others: Mapping[str, Outputs], max_error: float | None = None) -> list[Section]:
    """Our outputs under the rule for each reference there is, or with this error of each channel at most.

    Unoptimised ONNX Runtime has the optimised one as its peer; the numpy reference whichever ONNX Runtime there is.
    """
    sections = []
    if REFERENCE in others:
        peer = others.get(PEER)
        rule = _rule(PEER if peer else None, max_error)
        sections.append(Section(REFERENCE, rule, judge(others[REFERENCE], ours, peer, max_error)))
    if "numpy" in others:
        name = next((name for name in (PEER, REFERENCE) if name in others), None)
        peer = others[name] if name else None
        sections.append(Section("numpy", _rule(name, max_error), judge(others["numpy"], ours, peer, max_error)))
    return sections


def _rule(peer: str | None, max_error: float | None) -> str:
    if peer is None or max_error is not None:
        return f"error of each channel at most {LIMIT_WITHOUT_PEER if max_error is None else max_error:g}"
    return f"error of each channel at most {ERROR_FACTOR:g} times that of {peer}, plus {SLACK:g}"


def _print_text(sections: Sequence[Section], made: Mapping[str, str], absent: Mapping[str, str], ok: bool) -> None:
    for name, how in made.items():
        print(f"input {name}: {how}")
    for section in sections:
        print(f"against {section.reference}: {section.rule}")
        print(table(HEADERS, [_row(verdict) for verdict in section.verdicts]))
    for name, why in absent.items():
        print(f"{name}: {why}")
    print("ok" if ok else "FAILED")


def _row(verdict: Verdict) -> tuple[str, ...]:
    head = (verdict.name, f"{verdict.dtype}{shape_text(verdict.shape)}", f"{verdict.channel}/{verdict.channels}")
    if verdict.mismatch is not None:
        return (*head, "-", "-", "-", f"FAILED: {verdict.mismatch}")
    peer = "-" if verdict.peer is None else f"{verdict.peer:.1e}"
    return (*head, f"{verdict.ours:.1e}", peer, f"{verdict.limit:.1e}", "ok" if verdict.ok else "FAILED")
