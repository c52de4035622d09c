"""Initializers that are inputs: a default, which a run may replace."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.importers.models import model, node, port

import mapsto
import mapsto.errors
from mapsto.errors import ArgumentError, ModelError, ShapeError
from mapsto.runtime.program_json import program_from_json, program_to_json

X = np.array([1, 2, 3], np.float32)
W = np.array([10, 20, 30], np.float32)


def add(listed: bool = True, ir: int = 9, shape: Any = (3,)) -> Any:
    """y = x + w; `listed`: w is an input too."""
    inputs = [port("x", [*shape]), *([port("w", [*shape])] if listed else [])]
    made = model([node("Add", ["x", "w"])], inputs, constants={"w": W})
    made.ir_version = ir
    return made


@pytest.mark.parametrize("ir", [3, 9])
def test_a_default_is_a_constant_until_a_run_gives_another(ir: int) -> None:
    exe = mapsto.compile(add(ir=ir), threads=1)
    assert [p.name for p in exe.program.inputs] == ["x"]
    np.testing.assert_array_equal(exe.run({"x": X})["y"], X + W)
    np.testing.assert_array_equal(exe.run({"x": X, "w": 2 * W})["y"], X + 2 * W)
    np.testing.assert_array_equal(exe.run({"x": X})["y"], X + W)


def test_it_is_compiled_for_once() -> None:
    exe = mapsto.compile(add(), threads=1)
    exe.run({"x": X, "w": W})
    assert exe.overriding is not None
    first = exe.overriding.executable(frozenset({"w"}))
    exe.run({"w": W, "x": X})
    assert exe.overriding.executable(frozenset({"w"})) is first


@pytest.mark.parametrize("listed", [True, False])
def test_overridable_makes_an_input_with_a_default(listed: bool, tmp_path: Any) -> None:
    exe = mapsto.compile(add(listed), threads=1, overridable=["w"])
    exe.save(tmp_path / "add.mapsto")
    for made in (exe, mapsto.load(tmp_path / "add.mapsto", threads=1)):
        np.testing.assert_array_equal(made.run({"x": X})["y"], X + W)
        np.testing.assert_array_equal(made.run({"x": X, "w": 2 * W})["y"], X + 2 * W)
        np.testing.assert_array_equal(made(X), X + W)
        np.testing.assert_array_equal(made(X, 3 * W), X + 3 * W)


def test_a_default_of_open_dims() -> None:
    exe = mapsto.compile(add(shape=("n",)), threads=1, overridable=["w"])
    np.testing.assert_array_equal(exe.run({"x": X})["y"], X + W)
    np.testing.assert_array_equal(exe.run({"x": X[:2], "w": W[:2]})["y"], X[:2] + W[:2])
    with pytest.raises(ShapeError, match="w"):
        exe.run({"x": X[:2]})


def test_what_is_no_input_says_how_it_could_be() -> None:
    exe = mapsto.compile(add(listed=False), threads=1)
    with pytest.raises(ShapeError, match="unknown: w .*`overridable`"):
        exe.run({"x": X, "w": W})
    with pytest.raises(ShapeError, match="missing: x"):
        mapsto.compile(add(), threads=1, overridable=["w"]).run({"w": W})
    with pytest.raises(ShapeError, match="no initializer named v"):
        mapsto.compile(add(), overridable=["v"])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("w", "overridable: expected a list of names, got 'w'"),
        (5, "overridable: expected a list of names, got 5"),
        (["w", 5], "overridable: 5 is no name"),
        ([b"w"], "overridable: b'w' is no name"),
    ],
)
def test_what_names_no_initializers_is_refused(names: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        mapsto.compile(add(), threads=1, overridable=names)


def test_a_damaged_default_is_refused() -> None:
    exe = mapsto.compile(add(), threads=1, overridable=["w"])
    value = program_to_json(exe.program)
    start, shape = value["inputs"][1][4]
    for damaged in ([start + 64, shape], [start, [3, 1]], [start, [1 << 40]], [-64, shape], [start], "w"):
        value["inputs"][1][4] = damaged
        with pytest.raises((ModelError, mapsto.errors.VerifyError)):
            mapsto.Executable(program_from_json(value, exe.program.constants), exe.objects, 1)


def test_the_proto_is_not_changed() -> None:
    proto = add()
    before = proto.SerializeToString()
    mapsto.compile(proto, threads=1).run({"x": X, "w": W})
    assert proto.SerializeToString() == before
