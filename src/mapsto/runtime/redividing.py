"""What changes a division while it runs: devices are watched, and another division is made or taken in the background.

While something is made, runs say little of devices: what is made takes time of all of them. Where one seems to have
changed meanwhile all the same, what is made rests, and a probe decides (`session.turns`).
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from mapsto.errors import MapstoError
from mapsto.runtime.adapting import PROBED, Adapting
from mapsto.runtime.background import aside, in_background, is_ending
from mapsto.runtime.divisions import CurrentDivision, Division, Replanning
from mapsto.runtime.lanes import DeviceThread

_LONGEST = 10.0  # seconds that a probe on a lane is waited for
_STEP = 0.1  # seconds after which it is asked whether the process ends: lanes drop what waits then


class Redividing:
    """current: the division of the next run. lost: devices that failed and were taken out. history: what happened, as
    `report` says it. is_making: something is made in the background.
    """

    def __init__(
        self, division: Division, devices: Sequence[str], lanes: Mapping[str, DeviceThread],
        replanning: Replanning | None, notes: Sequence[str],
    ) -> None:  # fmt: skip
        """devices: the first is the host. replanning: None: the division stays as it is."""
        self.current = CurrentDivision(division)
        self.devices, self.host = devices, devices[0]
        self.lost: list[str] = []
        self.history = list(notes)
        self.is_making = self._is_prepared = False
        self.replanning = replanning
        self._lanes, self._adapting = lanes, Adapting(devices)
        self._looked_at: set[str] = set()  # devices that are being probed
        self._next: Division | None = None
        self._runs = 0
        self._guard = threading.RLock()  # as a signal handler may run the model

    def switched(self) -> CurrentDivision:
        """The division of a run that begins: another one, where one was made."""
        if self._next is not None:
            with self._guard:
                if self._next is not None:
                    self.current, self._next = CurrentDivision(self._next), None
        return self.current

    def lose(self, device: str, error: Exception) -> None:
        """It failed, and is taken out."""
        with self._guard:
            if device not in self.lost:
                self.lost.append(device)
                said = error if isinstance(error, MapstoError) else f"{type(error).__name__}: {error}"
                self.history.append(f"{device} failed and was taken out; its parts run on {self.host}: {said}")
        if self.replanning is not None:
            self._take_ready(self.replanning)

    def look(self, current: CurrentDivision) -> None:
        """After a run: whether devices are as fast as its division, if it is still the present one, was made for."""
        if self.replanning is None or current is not self.current:
            return
        with self._guard:
            self._runs += 1
            free = not self.is_making and self._next is None
            first, self._is_prepared = not self._is_prepared, True
            changed = self._adapting.ran(self._known(current.spent())) if free and not first else None
            doubted = self._adapting.doubted(self._known(current.spent_beside())) if self.is_making else set()
            self.is_making = self.is_making or first or changed is not None
        if first:
            prepare = self.replanning.prepare
            self._in_background(lambda: aside(prepare))
        elif changed is not None:
            self.replan(changed, current, self.replanning)
        elif self._runs % PROBED == 0:
            for device in {*self.devices} - {part.device for part in current.parts}:
                self._look_at(device, False)
        for device in doubted - {self.host}:
            self._look_at(device, True)

    def _known(self, spent: Mapping[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
        return {device: each for device, each in spent.items() if device not in self.lost}

    def _look_at(self, device: str, in_quiet: bool) -> None:
        """Has a device probed, on its lane: once what is made rests, or at once."""
        probe = None if self.replanning is None else self.replanning.probes.get(device)
        if probe is None or device in self._looked_at or device in self.lost:
            return
        self._looked_at.add(device)
        if not in_quiet:
            self._lanes[device].put(lambda: self.probe(device, probe))
            return
        try:
            in_background(lambda: self._probe_in_quiet(device, probe), "probe")
        except RuntimeError:  # no thread is to be had
            self._looked_at.discard(device)

    def _probe_in_quiet(self, device: str, probe: Callable[[], float]) -> None:
        """The lane goes on with runs while what is made comes to its rest."""
        assert self.replanning is not None
        done = threading.Event()

        def on_lane() -> None:
            try:
                self.probe(device, probe)
            finally:
                done.set()

        end = time.monotonic() + _LONGEST
        with self.replanning.quietly():
            self._lanes[device].put(on_lane)
            while not (done.wait(_STEP) or is_ending() or time.monotonic() > end):
                pass

    def probe(self, device: str, probe: Callable[[], float]) -> None:
        """On a device's lane: code that is there may suit it better now. Where it seems to have changed, that is seen
        to at once.
        """
        changed, again = None, True
        while again:
            times = self._probed(device, probe)
            if times is None or self.replanning is None:
                break
            with self._guard:
                is_at_work = any(part.device == device for part in self.current.parts)
                changed = self._adapting.probed(device, times, is_at_work)
                again = self._adapting.is_doubtful(device)
        self._looked_at.discard(device)
        if changed is not None and self.replanning is not None:
            self._say(changed)
            self._take_ready(self.replanning)

    def _probed(self, device: str, probe: Callable[[], float]) -> float | None:
        """None: the device failed, and is taken out."""
        try:
            return probe()
        except Exception as error:
            self.lose(device, error)
            return None

    def _take_ready(self, replanning: Replanning) -> None:
        try:
            self._offer(replanning.ready(self._speed()))
        except Exception as error:
            self.history.append(f"after {self._runs} runs: dividing anew failed ({error})")

    def _speed(self) -> dict[str, float]:
        """How many times what they did at first devices take; inf: those that are lost."""
        return {name: math.inf if name in self.lost else times for name, times in self._adapting.speed.items()}

    def replan(self, changed: Mapping[str, float], current: CurrentDivision, replanning: Replanning) -> None:
        """In the background: runs go on as before until another division is there."""
        took = current.took()
        self._say(changed)

        def plan() -> None:
            for device in changed:  # is it the device that has changed, or were its works predicted wrong?
                if device != self.host and device in replanning.probes and device not in self.lost:
                    self._looked_at.add(device)  # one probe at a time
                    times = self._probed(device, replanning.probes[device])
                    self._looked_at.discard(device)
                    if times is not None:
                        self._adapting.confirmed(device, changed[device], times)
            replanning.learn(dict(self._adapting.speed), [each for each in took if each[0].device not in self.lost])
            self._offer(replanning.ready(self._speed()))
            aside(lambda: replanning.best(self._speed()))
            self._offer(replanning.ready(self._speed()))  # devices may have changed meanwhile

        self._in_background(plan)

    def _say(self, changed: Mapping[str, float]) -> None:
        said = ", ".join(f"{device} takes {times:.2g} times what it did" for device, times in changed.items())
        self.history.append(f"after {self._runs} runs: {said}")

    def _offer(self, division: Division | None) -> None:
        """For the next run."""
        if division is not None:
            with self._guard:
                self.history.append(f"after {self._runs} runs: divided anew, in {len(division.parts)} parts")
                self._next = division

    def _in_background(self, task: Callable[[], None]) -> None:
        """Makes what is to come; runs go on meanwhile."""

        def work() -> None:
            try:
                task()
            except Exception as error:
                self.history.append(f"after {self._runs} runs: dividing anew failed ({error})")
            finally:
                self.is_making = False

        try:
            in_background(work, "divide")
        except RuntimeError as error:  # no thread is to be had
            self.is_making = False
            self.history.append(f"after {self._runs} runs: dividing anew failed ({error})")
