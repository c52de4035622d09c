"""The ONNX backend test-suite through native code: the same cases that the importer's tests hold the references to."""

from __future__ import annotations

import fnmatch
from typing import Any

import numpy as np
import pytest

from mapsto.devices.cpu.workers import Workers
from mapsto.session.compile import build, prepared
from tests.conformance import Case, check_case, conformance_cases

# Cases that the references pass and native code does not, and why. Patterns, as of fnmatch.
EXCLUDED: dict[str, str] = {}


def reason(name: str) -> str | None:
    return next((why for pattern, why in EXCLUDED.items() if fnmatch.fnmatch(name, pattern)), None)


@pytest.mark.parametrize("case", conformance_cases(), ids=lambda case: case.name)
def test_a_case_of_the_standard(workers: Workers, case: Case) -> None:
    why = reason(case.name)
    if why is not None:
        pytest.skip(why)

    def native(model: Any, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
        outputs = build(prepared(model, None), workers, 2, None).run(feeds)
        return list(outputs.values())

    check_case(case, native)


@pytest.mark.parametrize("pattern", EXCLUDED)
def test_every_exclusion_excludes_something(pattern: str) -> None:
    assert any(fnmatch.fnmatch(case.name, pattern) for case in conformance_cases())
