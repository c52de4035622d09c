"""What all tests share: the draws of property tests, the instruction sets, and the options that change them.

Property tests draw the same examples every time, everywhere. `--fresh` draws others and says by which seed they can be
had again; `--examples` draws more of them. `--isa` makes all of mapsto go as on a processor that has no wider
instructions, in this process and in those that tests start.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import hypothesis
import pytest
from hypothesis import settings

from mapsto.devices.cpu import isa as isas
from mapsto.devices.cpu.workers import Workers
from tests.ending import Running, tell_of_exits
from tests.even import even_devices, measured_devices
from tests.instruction_sets import instruction_sets

SEED = "hypothesis_seed"  # of hypothesis's own option --hypothesis-seed


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("mapsto")
    group.addoption("--fresh", action="store_true", help="draw new examples; the seed is printed (--hypothesis-seed)")
    group.addoption("--examples", type=int, default=1, metavar="TIMES", help="draw so many times as many examples")
    group.addoption("--isa", metavar="NAME", help="go as on a processor with this instruction set: sse2, avx2, avx512")


def pytest_configure(config: pytest.Config) -> None:
    seed = config.getoption(SEED, None)
    if seed is None and config.getoption("--fresh"):
        seed = random.SystemRandom().randrange(2**32)
        setattr(config.option, SEED, seed)  # for the workers of xdist
    if seed is not None:
        hypothesis.core.global_force_seed = int(seed)
    # no database: what another run found must not decide what this one draws
    settings.register_profile("mapsto", derandomize=seed is None, database=None, deadline=None, print_blob=True)
    settings.load_profile("mapsto")
    os.environ["MAPSTO_MACHINE"] = "typical"  # what this machine was measured at must not decide what is tested
    if name := config.getoption("--isa"):
        os.environ["MAPSTO_ISA"] = name
        isas.host.cache_clear()
    if hasattr(config, "workerinput"):
        tell_of_exits()
        config.pluginmanager.register(Running())
    isas.host()  # a name that there is not, or that this processor does not run, is an error at once


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.getoption(SEED, None) is not None:
        seed = getattr(config.option, SEED)
        terminalreporter.write_line(f"fresh examples; the same again by --hypothesis-seed={seed}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    times, done = config.getoption("--examples"), set()
    for item in items if times != 1 else ():
        function = getattr(item, "obj", None)
        own = getattr(function, "_hypothesis_internal_use_settings", None)
        if own is not None and function not in done:
            done.add(function)
            function._hypothesis_internal_use_settings = settings(own, max_examples=times * own.max_examples)


@pytest.fixture(autouse=True)
def no_executables_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test compiles must be compiled, and not be what another one left in the cache. Tests of the cache itself
    set this back.
    """
    monkeypatch.setattr("mapsto.session.cache.executables.BOUND", 0)


@pytest.fixture(scope="session", autouse=True)
def devices_are_even() -> Iterator[None]:
    """What the devices of this machine turn out to take while tests run beside each other must not decide what is
    tested: all are as fast as the host. Tests of what is measured, and of the whole way, ask for `measured`.
    """
    with pytest.MonkeyPatch.context() as patched:
        even_devices(patched)
        yield


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices as they turn out to be."""
    measured_devices(monkeypatch)


# -- instruction sets --------------------------------------------------------------------------------------------------


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for `isa`, by itself or by a fixture, runs for each instruction set, unless it names some."""
    named = [mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")]
    if "isa" in metafunc.fixturenames and not any("isa" in names for names in named):
        metafunc.parametrize("isa", instruction_sets(), ids=lambda isa: isa.name, indirect=True, scope="module")


@pytest.fixture(scope="module")
def isa(request: pytest.FixtureRequest) -> isas.Isa:
    """An instruction set that this processor runs."""
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def workers(isa: isas.Isa) -> Iterator[Workers]:
    """Compile workers for an instruction set: starting some for each test would take longer than the compiling."""
    with Workers(cache=False, isa=isa.name) as found:
        yield found
