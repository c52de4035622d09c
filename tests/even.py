"""Devices that are as fast as the host, in place of what they turn out to take while tests run beside each other."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from mapsto.devices.backend import Backend
from mapsto.plan.initial import constants_of
from mapsto.plan.placing import Correction, HandOver
from mapsto.session import calibrate, handing
from mapsto.session.predict import predict
from mapsto.session.trial import Trials

_part_seconds = Trials.part_seconds


def even_devices(monkeypatch: pytest.MonkeyPatch, other: float = 1.0) -> None:
    """Each device is as fast as another (those that are not the host take `other` times as long), is handed what it
    needs in no time, and nothing is tried, whatever else the machine is doing.
    """

    def calibrated(name: str, backend: Backend, threads: int, is_host: bool) -> SimpleNamespace:
        predicted = _predicted(backend, threads if is_host else backend.maker({}).spec.units)
        found = {kind: (1e-3 if is_host else 1e-3 * other) / seconds for kind, seconds in predicted.items()}
        return SimpleNamespace(correction=Correction(**found), times=lambda: 1.0)

    monkeypatch.setattr("mapsto.session.divide.calibrated", calibrated)
    monkeypatch.setattr(
        "mapsto.session.divide.handed_over",
        lambda backends, threads: (HandOver(0.0), *(HandOver(0.0, 1e11) for _ in range(len(backends) - 1))),
    )
    monkeypatch.setattr(Trials, "part_seconds", lambda self, division: None)


def measured_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """As without `even_devices`: for tests of what is measured, and of the whole way."""
    monkeypatch.setattr("mapsto.session.divide.calibrated", calibrate.calibrated)
    monkeypatch.setattr("mapsto.session.divide.handed_over", handing.handed_over)
    monkeypatch.setattr(Trials, "part_seconds", _part_seconds)


_PREDICTED: dict[tuple[str, int], dict[str, float]] = {}


def _predicted(backend: Backend, units: int) -> dict[str, float]:
    """Seconds of each probe; once for each kind of device."""
    key = (backend.name, units)
    if key not in _PREDICTED:
        _PREDICTED[key] = {
            kind: sum(e.cost.seconds for e in predict(graph, {}, backend.maker(constants_of(graph)), units).values())
            for kind, graph in calibrate.probes().items()
        }
    return _PREDICTED[key]
