"""When devices are no longer as fast as a plan was made for: what is seen of their runs, and when that is enough.

A device has changed where what its parts took lately, beside what was predicted for them, is beyond `FACTOR` for
`TIMES` runs one after the other: less is noise, and a plan that followed it would go back and forth. A device of which
runs say nothing is looked at by a probe every `PROBED` runs; where it was left as it was slow, that it is somewhat
quicker (`QUICKER`) is enough to ask anew: it would not be taken again while it is thought to be a little slow.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Iterable, Mapping

FACTOR = 1.4
QUICKER = 1.1
TIMES = 5
PROBED = 4
_LAST = 7  # runs that are looked back on


class Lately:
    """Seconds that something took lately: the median of the last runs, which one that was disturbed does not change; 0
    until there were enough of them.
    """

    def __init__(self, count: int = _LAST) -> None:
        self._last: deque[float] = deque(maxlen=count)
        self.seconds = 0.0

    def add(self, seconds: float) -> None:
        self._last.append(seconds)
        self.seconds = statistics.median(self._last) if len(self._last) == self._last.maxlen else 0.0


class Adapting:
    """speed: of each device, how many times as long it takes as its plan's makers said, as far as was acted on."""

    def __init__(self, devices: Iterable[str]) -> None:
        self.speed = dict.fromkeys(devices, 1.0)
        self._beyond = 0
        self._seen: dict[str, float] = {}  # what the first of two probes said
        self._doubts: dict[str, tuple[int, int]] = {}  # runs for which a device is left alone, and the next time

    def ran(self, spent: Mapping[str, tuple[float, float]]) -> dict[str, float] | None:
        """After a run: (seconds lately, predicted) of each device that had parts. What has changed, as factors on
        `speed`, if it is to be acted on; None: nothing is.
        """
        self._doubts.clear()
        ratios = self._ratios(spent)
        changed = any(not 1 / FACTOR <= ratio <= FACTOR for ratio in ratios.values())
        self._beyond = self._beyond + 1 if changed else 0
        if self._beyond < TIMES:
            return None
        self._beyond = 0
        return self._acted(ratios)

    def doubted(self, spent: Mapping[str, tuple[float, float]]) -> set[str]:
        """After a run beside which something was made: devices that a probe should decide of, by (seconds lately,
        predicted). Where probes say that nothing has changed, they come less and less often.
        """
        found = set()
        for device, ratio in self._ratios(spent).items():
            rest, pause = self._doubts.get(device, (0, PROBED))
            if rest:
                self._doubts[device] = (rest - 1, pause)
            elif not 1 / FACTOR <= ratio <= FACTOR:
                self._doubts[device] = (pause, 2 * pause)
                found.add(device)
        return found

    def probed(self, device: str, times: float, is_at_work: bool) -> dict[str, float] | None:
        """A probe of a device took so many times as long as when it was first tried; as `ran`. Two that agree count, by
        the one that says less.
        """
        ratio = times / self.speed[device]
        least = 1 / (QUICKER if self.speed[device] > 1 and not is_at_work else FACTOR)
        before = self._seen.pop(device, 1.0)
        if least <= ratio <= FACTOR:
            return None
        if (before < 1) != (ratio < 1) or before == 1:
            self._seen[device] = ratio
            return None
        return self._acted({device: max(before, ratio) if ratio < 1 else min(before, ratio)})

    def is_doubtful(self, device: str) -> bool:
        """One probe said that a device has changed; another one must say so too."""
        return device in self._seen

    def confirmed(self, device: str, ratio: float, times: float) -> None:
        """A probe after `ran` said that a device's parts changed by that ratio: where it takes about what it took
        before, the device has not changed; its works were predicted wrong.
        """
        before = self.speed[device] / ratio
        if 1 / FACTOR <= times / before <= FACTOR:
            self.speed[device] = before

    def _ratios(self, spent: Mapping[str, tuple[float, float]]) -> dict[str, float]:
        return {
            device: lately / (predicted * self.speed[device])
            for device, (lately, predicted) in spent.items()
            if lately > 0 and predicted > 0
        }

    def _acted(self, ratios: dict[str, float]) -> dict[str, float]:
        for device, ratio in ratios.items():
            self.speed[device] *= ratio
            self._doubts.pop(device, None)
        return ratios
