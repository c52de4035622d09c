"""Amounts and pairs as options have them: 30ms, 2GiB, 'conv*=DEVICE'."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from mapsto.cli.usage import UsageError
from mapsto.formats.format import ALL

_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}
_AMOUNT = re.compile(r"\s*(\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)\s*([A-Za-z]*)\s*\Z")


def parse_limits(texts: Sequence[str]) -> dict[str, float]:
    """gpu.memory=2GiB. Raises UsageError."""
    found: dict[str, float] = {}
    for text in texts:
        what, amount = _pair(text, "--limit", "DEVICE.memory=AMOUNT")
        device, _, kind = what.rpartition(".")
        if kind != "memory" or not device:
            raise UsageError(f"--limit {text}: only memory has a limit, as gpu.memory=2GiB")
        found[device] = _amount(amount, _UNITS, f"--limit {text}", "2GiB or 500MB")
    return found


def parse_pins(texts: Sequence[str]) -> list[tuple[str, str]]:
    """'conv*=gpu'. Raises UsageError."""
    return [_pair(text, "--pin", "PATTERN=DEVICE") for text in texts]


def parse_formats(texts: Sequence[str]) -> dict[str, str]:
    """bf16, or 'conv*=bf16'. Raises UsageError."""
    pairs = (_pair(text, "--formats", "FORMAT or PATTERN=FORMAT") if "=" in text else (ALL, text) for text in texts)
    return dict(pairs)


def parse_budget(text: str) -> dict[str, float]:
    """`nodes=1000000,seconds=60` as a mapping. Raises UsageError."""
    limits: dict[str, float] = {}
    for part in text.split(","):
        name, _, number = (piece.strip() for piece in part.partition("="))
        try:
            limits[name] = int(number) if number.isdecimal() else float(number)
        except ValueError:
            raise UsageError(f"--budget {text}: expected NAME=NUMBER, such as nodes=1000000") from None
    return limits


def seconds_of(text: str, option: str) -> float:
    """30ms. Raises UsageError."""
    return _amount(text, _SECONDS, f"{option} {text}", "30ms or 0.5s")


def _amount(text: str, units: Mapping[str, float], what: str, example: str) -> float:
    match = _AMOUNT.match(text)
    if match is None or match[2] not in units or not math.isfinite(float(match[1])):
        raise UsageError(f"{what}: expected an amount, as {example}")
    return float(match[1]) * units[match[2]]


def _pair(text: str, option: str, form: str) -> tuple[str, str]:
    left, equals, right = text.rpartition("=")
    if not (left and equals and right):
        raise UsageError(f"{option} {text}: expected {form}")
    return left, right
