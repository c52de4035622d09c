"""The collector of cyclic garbage is asked rarely while a model is compiled, and as before afterwards."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.importers.models import model, node

import mapsto
from mapsto.session.collecting import RARELY, collecting_rarely

OWN = (321, 7, 5)


@pytest.fixture(autouse=True)
def thresholds() -> Iterator[None]:
    before = gc.get_threshold()
    gc.set_threshold(*OWN)
    yield
    gc.set_threshold(*before)


def test_inside_it_is_rare_and_afterwards_as_before() -> None:
    with collecting_rarely():
        assert gc.get_threshold() == RARELY
    assert gc.get_threshold() == OWN


def test_an_error_puts_it_back() -> None:
    with pytest.raises(KeyError), collecting_rarely():
        raise KeyError
    assert gc.get_threshold() == OWN


def test_nested_ones_put_it_back_once() -> None:
    with collecting_rarely():
        with collecting_rarely():
            pass
        assert gc.get_threshold() == RARELY
    assert gc.get_threshold() == OWN


def test_of_two_threads_the_first_to_end_puts_it_back() -> None:
    first, second = collecting_rarely(), collecting_rarely()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert gc.get_threshold() == OWN
    second.__exit__(None, None, None)
    assert gc.get_threshold() == OWN


@pytest.mark.parametrize("chosen", [(0, 10, 10), (RARELY[0] + 1, 3, 3)])
def test_who_collects_more_rarely_or_never_is_left_alone(chosen: tuple[int, int, int]) -> None:
    gc.set_threshold(*chosen)
    with collecting_rarely():
        assert gc.get_threshold() == chosen
    assert gc.get_threshold() == chosen


def test_what_is_set_meanwhile_stays() -> None:
    with collecting_rarely():
        gc.set_threshold(55, 4, 3)
    assert gc.get_threshold() == (55, 4, 3)


def test_a_compile_collects_rarely_and_puts_it_back() -> None:
    seen = []
    constants = {"c": np.arange(4, dtype=np.float32)}
    relu = model([node("Add", ["x", "c"], ["y"])], {"x": [4]}, constants=constants)
    mapsto.compile(relu, cache=False, progress=lambda *_: seen.append(gc.get_threshold()))
    assert seen and set(seen) == {RARELY} and gc.get_threshold() == OWN
    with pytest.raises(mapsto.errors.MapstoError):
        mapsto.compile(b"no model")
    assert gc.get_threshold() == OWN


def test_a_compile_leaves_the_collector_next_to_nothing() -> None:
    """What keeps itself alive is memory, and the collector's time, until it is found."""
    digits = Path(__file__).parents[2] / "examples" / "mnist-cnn.onnx"
    mapsto.compile(digits, {"image": (1, 1, 28, 28)}, cache=False)  # what is made once
    gc.collect()
    gc.disable()
    try:
        mapsto.compile(digits, {"image": (1, 1, 28, 28)}, cache=False)
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        left = [type(each).__name__ for each in gc.garbage if type(each).__module__.startswith("mapsto.")]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert len(left) < 100, Counter(left).most_common(5)
