"""What devices turned out to take for works, beside what was predicted: of those that were seen, and of the others."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from mapsto.plan.placing import Considered, Correction

_STEP = 1.05  # corrections are powers of it: noise below that shares nothing out anew


class LearnedTimes:
    """Of works on devices: how many times as long they take as predicted. A work that a device was not seen doing takes
    as many times as the device takes for those that it was.
    """

    def __init__(self, works: Sequence[Considered]) -> None:
        self._works = works
        self._known: dict[tuple[int, int], float] = {}
        self._usual: dict[int, float] = {}

    def of(self, work: int, device: int) -> float:
        found = self._known.get((work, device))
        return self._usual.get(device, 1.0) if found is None else found

    def see(self, seen: Iterable[tuple[int, int, float]]) -> None:
        """(work, device, times): so many times as long as was known until now."""
        for work, device, times in list(seen):
            self._known[work, device] = self.of(work, device) * times
        self._usual = {d: self._mean([w for w, of in self._known if of == d], d) for d in {d for _, d in self._known}}

    def corrections(self, first: Sequence[Correction]) -> tuple[Correction, ...]:
        """Of each device, those that predictions were made with, by what is known now, kind by kind."""
        return tuple(
            Correction(each.contraction * self._of_kind(d, True), each.rows * self._of_kind(d, False))
            for d, each in enumerate(first)
        )

    def _of_kind(self, device: int, is_contraction: bool) -> float:
        works = [w for w, d in self._known if d == device and self._works[w].is_contraction == is_contraction]
        return float(_STEP ** round(math.log(self._mean(works, device), _STEP)))

    def _mean(self, works: Sequence[int], device: int) -> float:
        """Of works that are known, together."""
        predicted = [self._works[w].priced[device].seconds for w in works]
        total = math.fsum(predicted)
        if not 0 < total < math.inf:
            return 1.0
        return math.fsum(s * self._known[w, device] for w, s in zip(works, predicted, strict=True)) / total
