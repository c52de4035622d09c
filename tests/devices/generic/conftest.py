"""What runs lowered kernels: `engine` stands for the interpreter and native code of each instruction set."""

from __future__ import annotations

import pytest
from tests.devices.generic.support import Native, begin_anew
from tests.instruction_sets import instruction_sets

from mapsto.loop.interpret import interpret


@pytest.fixture(autouse=True)
def _same_numbers_in_any_order() -> None:
    begin_anew()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "engine" in metafunc.fixturenames:
        sets = instruction_sets()
        engines = [interpret, *map(Native, sets)]
        metafunc.parametrize("engine", engines, ids=["interpreted", *(isa.name for isa in sets)])
    if "native" in metafunc.fixturenames:
        sets = instruction_sets()
        metafunc.parametrize("native", [Native(isa) for isa in sets], ids=[isa.name for isa in sets])
