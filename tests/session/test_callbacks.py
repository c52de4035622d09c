"""Code of the user's that is called in the middle of a compile."""

from __future__ import annotations

import numpy as np
from tests.plan.graphs import layer_norm_rows, small_cnn

import mapsto


def test_a_progress_callback_that_runs_and_compiles() -> None:
    other = mapsto.compile(layer_norm_rows(), threads=2)
    x = np.random.default_rng(0).standard_normal((1, 48, 40)).astype(np.float32)
    want, told = other(x), []

    def progress(done: int, total: int, name: str) -> None:
        inner = mapsto.compile(layer_norm_rows(), threads=2) if done == 1 else other
        told.append(np.array_equal(inner(x), want))

    exe = mapsto.compile(small_cnn(), threads=2, progress=progress)
    image = np.ones((1, 3, 32, 32), np.float32)
    assert len(told) > 1 and all(told) and np.array_equal(exe(image), mapsto.compile(small_cnn(), threads=1)(image))
