"""What an engine tells a driver, and what it makes of a driver that fails; no device is needed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.devices.opencl.fake import CODES, Driver, device_of

from mapsto.devices.opencl.engine import OpenClEngine, OpenClLauncher
from mapsto.errors import CompileError, ExecutionError
from mapsto.ir.dtypes import DType
from mapsto.loop.ast import Function, Param
from mapsto.loop.opencl import printed

COPY = Function("copy", (Param("x", DType.F32), Param("y", DType.F32, True)), ("n",), ())


def engine_of(driver: Driver) -> OpenClEngine:
    return OpenClEngine("opencl", device_of(driver), {"copy": COPY}, {"copy": "program"})


def set_to(launcher: OpenClLauncher, operands: list[Any], n: int, extent: int, grain: int = 1) -> None:
    launcher.set(operands, [n], extent, grain)


def test_arguments_are_given_once_and_again_where_they_change() -> None:
    driver = Driver()
    engine = engine_of(driver)
    x, y, z = (engine.reserve(400) for _ in range(3))
    launcher = engine.launcher("copy")

    def told() -> list[tuple[Any, ...]]:
        """What the driver has been told since the last call."""
        log, driver.log = driver.log, []
        return log

    told()
    set_to(launcher, [(x, 0), (y, 0)], 7, 100)
    assert [what[0] for what in told()] == ["copy", *["argument"] * 6]  # two tensors, numbers, first, last, chunk
    for _ in range(3):
        launcher.start()
    assert told() == [("start", (4,), 0)] * 3  # one command a start, and nothing else
    set_to(launcher, [(x, 0), (y, 0)], 7, 100)
    assert told() == []
    set_to(launcher, [(x, 0), (z, 0)], 7, 100)
    assert told() == [("argument", 1, z)]
    set_to(launcher, [(x, 8), (z, 0)], 7, 100)
    assert [what[0] for what in told()] == ["copy"]  # where a tensor begins is a number in memory


def test_copies_are_waited_for_together() -> None:
    held: list[int] = []

    class Watched(Driver):
        def _did(self, *what: Any) -> None:
            super()._did(*what)
            held.append(self.held)

    driver = Watched()
    engine = engine_of(driver)
    memory, arrays, nothing = engine.reserve(16), [np.zeros(n, np.float32) for n in (4, 2, 3)], np.zeros(0, np.float32)
    driver.log = []
    sent = [engine.write(memory, 0, array) for array in (*arrays, nothing)]
    assert driver.log == [("copy", "write", False)] * 3 and driver.held == 3
    driver.log = []
    engine.read(*((memory, 0, array) for array in (*arrays, nothing)))
    assert driver.log == [("copy", "read", False)] * 2 + [("copy", "read", True)]
    assert held[-1] == 5 and driver.held == 3  # none was let go before the last one was there
    driver.log = []
    engine.read((memory, 0, nothing))
    assert driver.log == [("finish",)]  # what was started has been done, whatever came out
    del sent
    assert driver.held == 0


def test_work_items_are_no_smaller_than_a_grain() -> None:
    driver = Driver()
    launcher = engine_of(driver).launcher("copy")
    memory = driver.Buffer(None, 0, 8)
    for extent, grain, items in (
        (100, 1, 4),
        (100, 60, 1),
        (100, 50, 2),
        (3, 1, 3),
        (9, 4, 2),
        (1, 1000, 1),
        (5, 1, 3),
    ):
        set_to(launcher, [(memory, 0), (memory, 0)], 0, extent, grain)
        launcher.start()
        assert driver.log[-1] == ("start", (items,), 0), (extent, grain)


def test_a_step_is_timed_by_the_drivers_clock() -> None:
    driver = Driver()
    launcher = engine_of(driver).launcher("copy")
    memory = driver.Buffer(None, 0, 8)
    set_to(launcher, [(memory, 0), (memory, 0)], 0, 4)
    driver.log = []
    assert launcher.timed() == 700
    assert driver.log == [("finish",), ("start", (4,), 2), ("wait",)]


ACTS = ("reserve", "write", "read", "set", "start", "timed", "launcher")


@pytest.mark.parametrize("act", ACTS)
@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("DEVICE_NOT_AVAILABLE", "a fake device is lost .*DEVICE_NOT_AVAILABLE.* Compile again"),
        ("INVALID_CONTEXT", "a fake device is lost .* Compile again; .*start a new process"),
        ("INVALID_COMMAND_QUEUE", "a fake device is lost"),
        ("OUT_OF_RESOURCES", "a fake device has no memory left .* smaller inputs"),
        ("INVALID_KERNEL_ARGS", "a fake device: clSomething failed: INVALID_KERNEL_ARGS"),
    ],
)
def test_a_driver_that_fails_is_an_error_that_says_what_to_do(act: str, code: str, said: str) -> None:
    driver = Driver()
    engine = engine_of(driver)
    memory, launcher, array = engine.reserve(16), engine.launcher("copy"), np.zeros(4, np.float32)
    set_to(launcher, [(memory, 0), (memory, 0)], 1, 4)
    driver.failing = code
    acts = {
        "reserve": lambda: engine.reserve(8),
        "write": lambda: engine.write(memory, 0, array),
        "read": lambda: engine.read((memory, 0, array)),
        "set": lambda: set_to(launcher, [(memory, 0), (memory, 8)], 2, 4),
        "start": launcher.start,
        "timed": launcher.timed,
        "launcher": lambda: engine.launcher("copy"),
    }
    with pytest.raises(ExecutionError, match=said):
        acts[act]()
    assert set(acts) == set(ACTS)


def test_what_was_set_halfway_is_set_anew() -> None:
    driver = Driver()
    engine = engine_of(driver)
    memory, other, launcher = engine.reserve(16), engine.reserve(16), engine.launcher("copy")
    set_to(launcher, [(memory, 0), (memory, 0)], 1, 4)
    driver.failing = "OUT_OF_HOST_MEMORY"
    with pytest.raises(ExecutionError):
        set_to(launcher, [(other, 0), (other, 0)], 1, 4)
    driver.failing, driver.log = "", []
    set_to(launcher, [(memory, 0), (memory, 0)], 1, 4)
    assert len([what for what in driver.log if what[0] == "argument"]) == 6


def test_a_device_that_is_lost_while_compiling() -> None:
    driver = Driver()
    device = device_of(driver)
    driver.failing = "DEVICE_NOT_AVAILABLE"
    with pytest.raises(CompileError, match=r"a fake device is lost .*\(kernel kernel_copy\)"):
        device.finish("program", printed(COPY))
    assert CODES.DEVICE_NOT_AVAILABLE == -2
