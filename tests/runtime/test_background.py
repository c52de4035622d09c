"""What is made while runs go on: it makes way for them, and leaves priorities as they were."""

from __future__ import annotations

import contextvars
import os
import threading

import pytest

from mapsto.errors import MapstoError
from mapsto.runtime.background import aside

VARIABLE: contextvars.ContextVar[str] = contextvars.ContextVar("VARIABLE", default="")


def priority() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def test_it_makes_way_and_nobody_else_does() -> None:
    before = priority()
    assert aside(priority) == min(before + 10, 19)
    assert priority() == before and os.getpriority(os.PRIO_PROCESS, os.getpid()) == before


def test_its_errors_and_context_are_those_of_who_waits() -> None:
    def wrong() -> None:
        raise MapstoError("no")

    with pytest.raises(MapstoError, match="no"):
        aside(wrong)
    token = VARIABLE.set("here")
    assert aside(VARIABLE.get) == "here"
    VARIABLE.reset(token)


def test_without_a_thread_it_is_done_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    assert aside(threading.current_thread) is threading.current_thread()
