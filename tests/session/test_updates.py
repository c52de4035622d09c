"""Outputs that take over an input's memory: a state that a run updates where it lies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from tests.importers.models import model, node, port

import mapsto
from decode import decoder, empty_caches, generate
from mapsto.errors import ArgumentError, ExecutionError, MapstoError, ShapeError
from mapsto.ir.expr import sym

SIZES = {"layers": 2, "hidden": 24, "heads": 6, "groups": 2, "inner": 40, "words": 97}


def counting() -> Any:
    """next = past + x, and what is read of it."""
    nodes = [node("Add", ["past", "x"], ["next"]), node("Neg", ["next"], ["y"])]
    return model(nodes, {"past": ["n", 3], "x": ["n", 3]}, ["y", "next"])


def cache_of(capacity: int = 40) -> dict[str, np.ndarray]:
    return empty_caches(SIZES["layers"], SIZES["groups"], capacity, SIZES["hidden"] // SIZES["heads"])


def updating(caches: dict[str, np.ndarray]) -> dict[str, str]:
    return {name: f"{name}.next" for name in caches}


def test_a_state_is_updated_where_it_lies() -> None:
    exe = mapsto.compile(counting(), updates={"past": "next"}, cache=False)
    state, x = np.zeros((2, 3), np.float32), np.ones((2, 3), np.float32)
    for step in range(1, 4):
        results = exe.run({"past": state, "x": x})
        assert results["next"] is state or np.shares_memory(results["next"], state)
        np.testing.assert_array_equal(state, np.full((2, 3), step, np.float32))
        np.testing.assert_array_equal(results["y"], -state)


# by op: the shapes of the state and of what is new, where that goes, and the order of these two as inputs
SCATTERS: dict[str, tuple[tuple[int, ...], tuple[int, ...], Any, str]] = {
    "TensorScatter": ((1, 3, 5, 2), (1, 3, 1, 2), [2], "new at"),
    "ScatterElements": ((1, 5, 2), (1, 3, 2), [[[2, 2], [0, 1], [4, 4]]], "at new"),
    "ScatterND": ((1, 3, 5, 4), (2, 1, 4), [[[0, 0, 2]], [[0, 1, 2]]], "at new"),
}


@pytest.mark.parametrize("op", SCATTERS)
def test_a_scatter_writes_what_it_changes_alone(op: str) -> None:
    shape, part, places, order = SCATTERS[op]
    at, new = np.array(places), np.arange(np.prod(part), dtype=np.float32).reshape(part) + 1
    attributes = {} if op == "ScatterND" else {"axis": -2}
    ports = [port("past", shape), port("new", new.shape), port("at", at.shape, np.int64)]
    made = model([node(op, ["past", *order.split()], ["next"], **attributes)], ports, ["next"], opset=24)
    feed = {"past": np.zeros(shape, np.float32), "new": new, "at": at}
    plain = mapsto.compile(made, cache=False).run(feed)["next"]
    exe = mapsto.compile(made, updates={"past": "next"}, cache=False)
    assert "next is an update of past, in place" in exe.plan.text()
    assert np.shares_memory(exe.run(feed)["next"], feed["past"])
    np.testing.assert_array_equal(feed["past"], plain)
    assert plain.any() and not plain.all()


def test_arrays_that_cannot_be_updated_are_refused() -> None:
    exe = mapsto.compile(counting(), updates={"past": "next"}, cache=False)
    x = np.ones((2, 3), np.float32)
    fixed = np.zeros((2, 3), np.float32)
    fixed.flags.writeable = False
    for wrong in (fixed, np.zeros((3, 2), np.float32).T, np.zeros((2, 3)), [[0.0] * 3] * 2):
        with pytest.raises(MapstoError, match="past"):
            exe.run({"past": wrong, "x": x})
    with pytest.raises(ExecutionError, match="shares its memory"):
        exe.run({"past": x, "x": x})


@pytest.mark.parametrize(
    ("updates", "said"),
    [
        ({"passed": "next"}, "there is no input 'passed'"),
        ({"past": "z"}, "there is no output 'z'"),
        ({"past": "y", "x": "y"}, "cannot take over both"),
    ],
)
def test_pairs_that_there_are_not(updates: dict[str, str], said: str) -> None:
    with pytest.raises(ShapeError, match=said):
        mapsto.compile(counting(), updates=updates, cache=False)


def test_an_output_of_another_shape_cannot_take_over() -> None:
    made = model([node("Concat", ["past", "x"], ["next"], axis=0)], {"past": ["p", 3], "x": [1, 3]}, ["next"])
    with pytest.raises(ShapeError, match="both must be of one type and shape"):
        mapsto.compile(made, updates={"past": "next"}, cache=False)
    for wrong in ([("past", "next")], {"past": 1}, "past"):
        with pytest.raises(ArgumentError, match="updates"):
            mapsto.compile(counting(), updates=wrong, cache=False)  # type: ignore[arg-type]


def by_another(proto: Any, prompt: list[int], tokens: int, caches: dict[str, np.ndarray]) -> list[int]:
    """By ONNX Runtime: the prompt as one, then token by token."""
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    given, at, found = np.array([prompt]), 0, list[int]()
    for _ in range(tokens):
        results = dict(zip(names, session.run(None, {"ids": given, "at": np.array([at]), **caches}), strict=True))
        at, given = at + given.shape[1], results["next"].reshape(1, 1)
        for name in caches:
            caches[name] = results[f"{name}.next"]
        found.append(int(given[0, 0]))
    return found


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("shapes", [None, {"ids": [1, 1]}])
def test_a_decoder_writes_the_tokens_that_another_implementation_writes(threads: int, shapes: Any) -> None:
    """One executable, whatever the cache's capacity."""
    proto = decoder(**SIZES)
    exe = mapsto.compile(proto, shapes, threads=threads, updates=updating(cache_of()), cache=False)
    for capacity in (30, 64):
        caches, theirs = cache_of(capacity), cache_of(capacity)
        assert generate(exe, [5, 6, 7, 8], 20, caches) == by_another(proto, [5, 6, 7, 8], 20, theirs)
        for name, cache in caches.items():
            np.testing.assert_allclose(cache, theirs[name], rtol=1e-4, atol=1e-4)


def test_a_prompt_may_come_as_a_whole() -> None:
    proto, caches, theirs = decoder(**SIZES), cache_of(), cache_of()
    exe = mapsto.compile(proto, updates=updating(caches), cache=False)
    (expected,) = by_another(proto, [5, 6, 7, 8], 1, theirs)
    assert exe.run({"ids": np.array([[5, 6, 7, 8]]), "at": np.array([0]), **caches})["next"][0] == expected
    for name, cache in caches.items():
        np.testing.assert_allclose(cache, theirs[name], rtol=1e-4, atol=1e-4)


def test_a_token_copies_no_cache() -> None:
    """Keys and values of a token are written where the caches lie, and read there: scores alone grow with them."""
    sizes = {**SIZES, "hidden": 384}  # heads of 64 elements: such small ones as the others have may as well be packed
    caches = empty_caches(sizes["layers"], sizes["groups"], 40, sizes["hidden"] // sizes["heads"])
    exe = mapsto.compile(decoder(**sizes), {"ids": [1, 1]}, threads=1, updates=updating(caches), cache=False)
    kept = [work.recipe for work in exe.plan.works if str(work.recipe).startswith("kept(")]
    assert len(kept) == len(caches)
    growing = {buffer.name for buffer in exe.program.buffers if "capacity" in str(buffer.bytes)} - caches.keys()
    values = exe.plan.homes
    assert growing and all(values[name].layout.shape[-1] == sym("capacity") for name in growing & values.keys())
    assert not any("packed" in name for name in growing)
    small, large = (exe.memory({"capacity": capacity}) for capacity in (100, 10_100))
    assert large.arena - small.arena <= 10_000 * (4 * SIZES["heads"] * 3 + 1)  # at most three of scores, and a mask


def test_the_plan_of_an_update_is_replayed() -> None:
    caches = cache_of()
    proto = decoder(**SIZES)
    exe = mapsto.compile(proto, updates=updating(caches), cache=False)
    again = mapsto.compile(proto, updates=updating(caches), plan=exe.plan.text(), cache=False)
    assert again.plan == exe.plan
    assert generate(exe, [1, 2], 5, cache_of()) == generate(again, [1, 2], 5, cache_of())


def test_a_saved_executable_updates_too(tmp_path: Path) -> None:
    exe = mapsto.compile(counting(), updates={"past": "next"}, cache=False)
    exe.save(tmp_path / "counting.mapsto")
    state = np.zeros((2, 3), np.float32)
    mapsto.load(tmp_path / "counting.mapsto").run({"past": state, "x": np.ones((2, 3), np.float32)})
    np.testing.assert_array_equal(state, 1)
