"""The error rule: how far outputs may lie from a reference, channel by channel, beside what a peer is allowed.

The error of a channel is the largest difference from the reference in it, divided by the largest magnitude that the
reference has in it. A channel is an index of axis 1 where the axes after it hold several elements ([N, C, ...]); any
other tensor is one channel as a whole: one number has no scale of its own. Over several inputs, both are taken over all
of them, as over a batch.

The rule, for every channel:  ours <= ERROR_FACTOR * peer + SLACK.

Integers, booleans, shapes, dtypes and the places of NaN, +Inf and -Inf must be exactly those of the reference.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

ERROR_FACTOR = 4.0
# What two fp32 computations of the same sums differ by where the terms are added in another order: 64 roundings. A peer
# that shares its kernels with the reference shares their rounding as well, and says nothing of it.
SLACK = 2.0**-18
# Without a peer to say how much rounding a network costs: what fp32 rounding has cost in no network we tried.
LIMIT_WITHOUT_PEER = 1e-4

Outputs = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Comparison:
    """One output beside its reference: what is not equal that must be; largest difference and magnitude by channel."""

    mismatch: str | None
    difference: np.ndarray  # float64 [channels]
    magnitude: np.ndarray  # float64 [channels], of the reference

    @property
    def errors(self) -> np.ndarray:
        """float64 [channels]. Where the reference is zero all over, 0 if the other is too, else infinite."""
        unscaled = np.where(self.difference > 0, np.inf, 0.0)
        scale = np.where(self.magnitude > 0, self.magnitude, 1.0)
        return np.where(self.magnitude > 0, self.difference / scale, unscaled)


@dataclass(frozen=True)
class Verdict:
    """One output under the rule; `channel` is the one that comes nearest to its limit, or goes furthest past it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    mismatch: str | None
    channel: int
    channels: int
    ours: float
    peer: float | None
    limit: float

    @property
    def ok(self) -> bool:
        return self.mismatch is None and self.ours <= self.limit

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "dtype": self.dtype,
            "shape": list(self.shape),
            "ok": self.ok,
            "mismatch": self.mismatch,
            "channel": self.channel,
            "channels": self.channels,
            "error": self.ours,
            "peer_error": self.peer,
            "limit": self.limit,
        }


def is_inexact(dtype: np.dtype) -> bool:
    """Whether values of this dtype are rounded (those of `ml_dtypes` included, which numpy does not know)."""
    return dtype.kind in "fc" or dtype.name.startswith(("bfloat", "float"))


def by_channel(array: np.ndarray) -> np.ndarray:
    """float64 [channels, elements of a channel]; see the head of this file for what a channel is."""
    wide = array.astype(np.float64)
    if math.prod(array.shape[2:]) == 1:
        return wide.reshape(1, -1)
    return np.moveaxis(wide, 1, 0).reshape(array.shape[1], array.size // array.shape[1] if array.size else 0)


def _largest_by_channel(reference: np.ndarray, found: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Largest difference and largest magnitude of each channel, over the elements that are finite in both."""
    right, ours = by_channel(reference), by_channel(found)
    finite = np.isfinite(right) & np.isfinite(ours)
    right, ours = np.where(finite, right, 0), np.where(finite, ours, 0)
    return np.abs(ours - right).max(1, initial=0.0), np.abs(right).max(1, initial=0.0)


def _mismatch(reference: np.ndarray, found: np.ndarray) -> str | None:
    """What differs that must be exactly equal."""
    if found.dtype != reference.dtype:
        return f"dtype {found.dtype}, expected {reference.dtype}"
    if found.shape != reference.shape:
        return f"shape {list(found.shape)}, expected {list(reference.shape)}"
    if not is_inexact(reference.dtype):
        wrong = np.argwhere(np.asarray(reference != found))
        return f"{len(wrong)} of {reference.size} elements differ, first at {wrong[0].tolist()}" if len(wrong) else None
    right, ours = reference.astype(np.float64), found.astype(np.float64)
    for label, test in (("NaN", np.isnan), ("+Inf", np.isposinf), ("-Inf", np.isneginf)):
        wrong = np.argwhere(test(right) != test(ours))
        if len(wrong):
            return f"{label} in other places than the reference has it, first at {wrong[0].tolist()}"
    return None


def compare(reference: np.ndarray, found: np.ndarray) -> Comparison:
    """One output beside its reference. Without equal dtype and shape there are no errors to speak of."""
    mismatch = _mismatch(reference, found)
    if found.shape != reference.shape or found.dtype != reference.dtype or not is_inexact(reference.dtype):
        return Comparison(mismatch, np.zeros(1), np.zeros(1))
    return Comparison(mismatch, *_largest_by_channel(reference, found))


def judge(
    reference: Outputs, ours: Outputs, peer: Outputs | None = None, max_error: float | None = None
) -> list[Verdict]:
    """The rule for the outputs of one run; see `judge_runs`."""
    return judge_runs([reference], [ours], None if peer is None else [peer], max_error)


def judge_runs(
    references: Sequence[Outputs],
    ours: Sequence[Outputs],
    peers: Sequence[Outputs] | None = None,
    max_error: float | None = None,
) -> list[Verdict]:
    """The rule over several runs, one verdict an output. `max_error`: the limit, whatever a peer's error is. `peers`
    None: the limit is LIMIT_WITHOUT_PEER.
    """
    assert references and len(references) == len(ours)
    verdicts = []
    for name in references[0]:
        mine = [_compare_named(name, r, o) for r, o in zip(references, ours, strict=True)]
        others = None if peers is None else [_compare_named(name, r, p) for r, p in zip(references, peers, strict=True)]
        verdicts.append(_verdict(name, references[0][name], mine, others, max_error))
    return verdicts


def _compare_named(name: str, reference: Outputs, found: Outputs) -> Comparison:
    if name not in found:
        return Comparison("this output is missing", np.zeros(1), np.zeros(1))
    return compare(np.asarray(reference[name]), np.asarray(found[name]))


def _over_runs(comparisons: Sequence[Comparison]) -> Comparison:
    """The comparisons of all runs as one; of all channels together where their number changes from run to run."""
    mismatch = next((c.mismatch for c in comparisons if c.mismatch is not None), None)
    if len({len(c.difference) for c in comparisons}) > 1:
        comparisons = [_all_channels(c) for c in comparisons]
    difference = np.max([c.difference for c in comparisons], axis=0)
    return Comparison(mismatch, difference, np.max([c.magnitude for c in comparisons], axis=0))


def _all_channels(comparison: Comparison) -> Comparison:
    both = (comparison.difference, comparison.magnitude)
    return Comparison(comparison.mismatch, *(part.max(keepdims=True, initial=0.0) for part in both))


def _verdict(
    name: str,
    reference: np.ndarray,
    mine: Sequence[Comparison],
    others: Sequence[Comparison] | None,
    max_error: float | None,
) -> Verdict:
    ours, peer = _over_runs(mine), None if others is None else _over_runs(others)
    if peer is not None and len(peer.difference) != len(ours.difference):
        ours, peer = _all_channels(ours), _all_channels(peer)
    errors, allowed = ours.errors, np.full(len(ours.errors), LIMIT_WITHOUT_PEER)
    if max_error is not None:
        allowed = np.full(len(ours.errors), max_error)
    elif peer is not None:
        allowed = ERROR_FACTOR * peer.errors + SLACK
    with np.errstate(invalid="ignore"):  # both infinite: the peer fails this channel too
        nearness = np.nan_to_num(errors / allowed, nan=1.0, posinf=np.inf)
    channel = int(nearness.argmax()) if len(nearness) else 0
    return Verdict(
        name=name,
        dtype=str(reference.dtype),
        shape=tuple(reference.shape),
        mismatch=ours.mismatch,
        channel=channel,
        channels=len(errors),
        ours=float(errors[channel]) if len(errors) else 0.0,
        peer=float(peer.errors[channel]) if peer is not None and len(errors) else None,
        limit=float(allowed[channel]) if len(errors) else SLACK,
    )
