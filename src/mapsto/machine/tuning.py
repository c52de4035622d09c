"""What was measured of single kernels: schedules that a machine has shown to be faster than those that costs choose.

A file of it stands beside the machine's figures. It is JSON with a version and a checksum, written the same way every
time. Nothing in it is trusted: whoever takes a schedule out of it reads it as if a user had written it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from mapsto.errors import ParseError

FORMAT_NAME = "mapsto tuning"
FORMAT_VERSION = 1
NEAR_COST = 1.25  # how often the least cost is still near it: what counts are good for
MOST_BYTES = 1 << 24
MOST_KERNELS = 1 << 16
_MOST_SCHEDULE = 1 << 12  # characters
_KEY = re.compile(r"[0-9a-f]{32}\Z")
_TEMPLATE = re.compile(r"[a-z]{1,32}\Z")


@dataclass(frozen=True)
class TunedKernel:
    """The schedule that was measured to be faster, the template that it is of, and the share that it took of the time
    of what costs chose.
    """

    template: str
    schedule: str
    share: float


@dataclass(frozen=True)
class Tuning:
    """Tuned kernels, by the digest of their form (`key_of_form`)."""

    kernels: Mapping[str, TunedKernel] = field(default_factory=lambda: MappingProxyType({}))

    def __bool__(self) -> bool:
        return bool(self.kernels)

    def with_kernels(self, more: Mapping[str, TunedKernel]) -> Tuning:
        """The same with others besides, or in the place of those of their forms."""
        return Tuning({**self.kernels, **more})


NO_TUNING = Tuning()


def key_of_form(form: object) -> str:
    """A digest of what a kernel is, whatever its tensors are named: of a frozen value in canonical names."""
    return hashlib.sha256(repr(form).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def tuned_digest(machine: str, tuning: Tuning) -> str:
    """The digest of a machine with what was tuned on it. machine: that of its figures, which stays where nothing is."""
    if not tuning:
        return machine
    return hashlib.sha256(f"{machine} {_sum_of(_data_of(tuning))}".encode()).hexdigest()


def tuning_text(tuning: Tuning) -> str:
    """As a text that `parse_tuning` reads."""
    kernels = _data_of(tuning)
    head = {"format": FORMAT_NAME, "version": FORMAT_VERSION, "sha256": _sum_of(kernels)}
    return json.dumps(head | {"kernels": kernels}, indent=1, allow_nan=False) + "\n"


def _data_of(tuning: Tuning) -> dict[str, Any]:
    return {
        key: {"template": each.template, "schedule": each.schedule, "share": each.share}
        for key, each in sorted(tuning.kernels.items())
    }


def _sum_of(kernels: Any) -> str:
    return hashlib.sha256(json.dumps(kernels, sort_keys=True).encode()).hexdigest()


def parse_tuning(text: str, where: str = "tuning") -> Tuning:
    """Reads `tuning_text` back. Raises ParseError, naming the place, for whatever it would not write."""
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise ParseError(f"{where}, line {error.lineno}, column {error.colno}: {error.msg}") from None
    except (RecursionError, ValueError) as error:
        raise ParseError(f"{where}: this is no JSON that holds tuned kernels ({error})") from None
    if not isinstance(data, dict) or data.get("format") != FORMAT_NAME:
        raise ParseError(f"{where}: format: expected {FORMAT_NAME!r}")
    if data.get("version") != FORMAT_VERSION:
        raise ParseError(f"{where}: version: this version of mapsto reads {FORMAT_VERSION}")
    kernels = data.get("kernels")
    if not isinstance(kernels, dict) or len(kernels) > MOST_KERNELS:
        raise ParseError(f"{where}: kernels: expected at most {MOST_KERNELS} of them by their keys")
    found = {key: _kernel(key, entry, where) for key, entry in kernels.items()}
    if data.get("sha256") != _sum_of(kernels):
        raise ParseError(f"{where}: sha256: the kernels are not those that were written")
    return Tuning(found)


def _kernel(key: str, entry: Any, where: str) -> TunedKernel:
    at = f"{where}: kernels.{key[:40]}"
    if not _KEY.match(key):
        raise ParseError(f"{at}: expected 32 hexadecimal digits")
    if not isinstance(entry, dict) or set(entry) != {"template", "schedule", "share"}:
        raise ParseError(f"{at}: expected a template, a schedule and a share")
    template, schedule, share = entry["template"], entry["schedule"], entry["share"]
    if not isinstance(template, str) or not _TEMPLATE.match(template):
        raise ParseError(f"{at}: template: expected a word")
    if not isinstance(schedule, str) or not 0 < len(schedule) <= _MOST_SCHEDULE or not schedule.isprintable():
        raise ParseError(f"{at}: schedule: expected a line of text")
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share < 1e6:
        raise ParseError(f"{at}: share: expected a positive number")
    return TunedKernel(template, schedule, float(share))
