"""Changes of the process that last while any thread is inside."""

from __future__ import annotations

import logging
import threading
import warnings

import pytest
from tests.pytorch import torch

from mapsto.importers.torch.exported import quiet
from mapsto.importers.torch.whole import kept_whole


@pytest.mark.parametrize("change", [quiet, kept_whole])
def test_what_was_set_is_so_again_whoever_leaves_last(change) -> None:
    def state() -> tuple[object, ...]:
        return logging.root.manager.disable, len(warnings.filters), torch.backends.mha.get_fastpath_enabled()

    before, inside, leave = state(), threading.Event(), threading.Event()

    def first() -> None:
        with change():
            inside.set()
            leave.wait(30)

    thread = threading.Thread(target=first)
    thread.start()
    assert inside.wait(30)
    with change():
        assert state() != before
        leave.set()
        thread.join()
        assert state() != before
    assert state() == before
