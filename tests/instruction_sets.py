"""The instruction sets that native code is tested for. `isa` and `workers` (conftest.py) run a test for each."""

from __future__ import annotations

from mapsto.devices.cpu import isa as isas


def instruction_sets() -> list[isas.Isa]:
    """Those that this processor runs: the narrow ones, and its own."""
    known = {isa.name: isa for isa in (isas.SSE2, isas.AVX2, isas.AVX512) if isas.runs(isa)}
    return list({**known, isas.host().name: isas.host()}.values())
