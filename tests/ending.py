"""Says where a worker of the suite is when a library ends the process: LLVM and drivers call exit() with a message that
is captured and lost, and the suite only hears that a worker is gone.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os

import pytest

_at: list[tuple[int, str]] = []  # the process, and the test that it runs
_Callback = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p)


def tell_of_exits() -> None:
    """From here on, of this process and not of its children."""
    said = os.dup(2)  # before anything is captured

    def ended(status: int, _: int | None) -> None:
        if _at and _at[0][0] == os.getpid():
            os.write(said, f"\nexit({status}) while {_at[0][1]} runs\n".encode())
            faulthandler.dump_traceback(said)

    _kept.append(_Callback(ended))
    ctypes.CDLL(None).on_exit(_kept[0], None)


_kept: list[object] = []


class Running:
    """Remembers which test runs."""

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logstart(self, nodeid: str) -> None:
        _at[:] = [(os.getpid(), nodeid)]

    def pytest_runtest_logfinish(self) -> None:
        _at.clear()
