"""Arguments of public functions: refused before any work is done, by an error of ours that names them."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import mapsto
from mapsto.errors import (
    ArgumentError,
    CompileError,
    ExecutionError,
    MapstoError,
    ModelError,
    ParseError,
    ShapeError,
    UnsupportedError,
)
from mapsto.importers.keras import load as read_keras
from mapsto.importers.onnx import load as read_onnx
from mapsto.plan.plan import parse
from mapsto.session.shapes import with_shapes
from mapsto.session.simulate import read_machine
from mapsto.train import Trainer

MODEL = onnx.parser.parse_model(
    '<ir_version: 8, opset_import: ["" : 17]> g (float[N, 3] x, int64[M] k) => (float[N, 3] y) { y = Relu(x) }'
)
X = np.arange(6, dtype=np.float32).reshape(2, 3)
K = np.zeros(1, np.int64)


class Odd:
    """Whatever is asked of it, it fails."""

    __hash__ = object.__hash__

    def _fail(self, *_: Any) -> Any:
        raise RuntimeError("odd")

    __len__ = __iter__ = __getitem__ = __repr__ = __bool__ = __index__ = __float__ = __array__ = __fspath__ = _fail


@pytest.fixture(scope="module")
def exe() -> mapsto.Executable:
    return mapsto.compile(MODEL, threads=1)


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails where a compile gets as far as starting its workers, or a load as far as looking at a file."""

    def started(*_: Any, **__: Any) -> None:
        raise AssertionError("work was done before the arguments were looked at")

    monkeypatch.setattr("mapsto.devices.cpu.workers.Workers.__init__", started)
    monkeypatch.setattr("mapsto.runtime.artifact.load", started)


# -- threads, shapes, plans --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "threads", [0, -1, 10**9, 10**30, True, False, "2", b"2", 1.5, 2.0, float("nan"), [], Odd()], ids=type
)
def test_numbers_of_threads(no_work: None, threads: Any) -> None:
    for call in (
        lambda: mapsto.compile(MODEL, threads=threads),
        lambda: mapsto.load("none", threads=threads),
        lambda: Trainer(MODEL, threads=threads),
    ):
        with pytest.raises(ExecutionError, match="threads: .* is no number of threads"):
            call()


def test_numbers_of_threads_as_numpy_has_them() -> None:
    for threads in (np.int64(2), np.uint8(2), np.array(2)):
        assert mapsto.compile(MODEL, threads=threads).threads == 2


WRONG_SHAPES = [
    (5, ArgumentError, "expected a dict"),
    ([("x", (2, 3))], ArgumentError, "expected a dict"),
    ("x", ArgumentError, "expected a dict"),
    (Odd(), ArgumentError, "expected a dict"),
    ({1: (2, 3)}, ArgumentError, "1 is no name"),
    ({b"x": (2, 3)}, ArgumentError, "b'x' is no name"),
    ({"x": 5}, ShapeError, "5 is no shape"),
    ({"x": "23"}, ShapeError, "'23' is no shape"),
    ({"x": None}, ShapeError, "None is no shape"),
    ({"x": {2: 3}}, ShapeError, "is no shape"),
    ({"x": Odd()}, ShapeError, "an object of type Odd is no shape"),
    ({"x": (2.0, 3)}, ShapeError, "axis 0: 2.0 is no integer"),
    ({"x": (float("nan"), 3)}, ShapeError, "axis 0: nan is no integer"),
    ({"x": (True, 3)}, ShapeError, "axis 0: True is no integer"),
    ({"x": ("", 3)}, ShapeError, "axis 0: '' is no integer"),
    ({"x": (Odd(), 3)}, ShapeError, "axis 0: an object of type Odd is no integer"),
    ({"x": ([2], 3)}, ShapeError, "axis 0: .* is no integer"),
    ({"x": np.array([2.0, 3.0])}, ShapeError, "axis 0: .* is no integer"),
    ({"x": (-2, 3)}, ShapeError, "axis 0: extent -2 is negative"),
    ({"x": (1 << 62, 3)}, ShapeError, "axis 0: extent .* is more than"),
    ({"x": (10**5000, 3)}, ShapeError, "axis 0: extent .* is more than"),
]


@pytest.mark.parametrize(("shapes", "kind", "message"), WRONG_SHAPES, ids=[m for _, _, m in WRONG_SHAPES])
def test_shapes(no_work: None, shapes: Any, kind: type[MapstoError], message: str) -> None:
    graph = read_onnx(MODEL)
    for call in (
        lambda: mapsto.compile(MODEL, shapes=shapes),
        lambda: read_onnx(MODEL, shapes),
        lambda: with_shapes(graph, shapes),
    ):
        with pytest.raises(kind, match=message):
            call()


def test_shapes_as_numpy_has_them() -> None:
    for shape in ([2, 3], np.array([2, 3]), (np.int64(2), None), ("n", 3), range(2, 4)):
        assert read_onnx(MODEL, {"x": shape}).inputs[0].rank == 2


@pytest.mark.parametrize(
    ("option", "value", "kind", "message"),
    [
        ("plan", 5, ArgumentError, "plan .*expected a string, got 5"),
        ("plan", b"plan", ArgumentError, "expected a string"),
        ("plan", Odd(), ArgumentError, "an object of type Odd"),
        ("plan", "", ParseError, "there is no line"),
        ("plan", "\0\ud800", ParseError, "line 1"),
        ("plan", "plan g for avx2\n  because 5", ParseError, "line 2: a detail, but no item"),
        (
            "plan",
            'plan g for avx2\nwork g rows = y\n  from 5',
            ParseError,
            "line 3: from: expected a list of texts, got '5'",
        ),
        (
            "plan",
            'plan g for avx2\nwork g rows = y\n  because 5',
            ParseError,
            "line 3: '5' is no quoted",
        ),
        ("plan", 'plan g for avx2\nwork g rows = y\n  from ' + "[" * 99_999, ParseError, "line 3"),
        ("plan", f'plan g for avx2\nhome y : f32[2] inner {"9" * 5000} in y layout "x"', ParseError, "line 2"),
        ("progress", 5, ArgumentError, "progress: expected a function"),
        ("shapes", {"x": 5}, ShapeError, "no shape"),
    ],
)
def test_options_of_a_compile(no_work: None, option: str, value: Any, kind: type[MapstoError], message: str) -> None:
    with pytest.raises(kind, match=message):
        mapsto.compile(MODEL, **{option: value})
    if option == "plan":
        with pytest.raises(kind):
            parse(value)


def test_instruction_sets() -> None:
    for wrong in (5, b"avx2", Odd()):
        with pytest.raises(ArgumentError, match="isa: expected a string"):
            mapsto.compile(MODEL, isa=wrong)
    with pytest.raises(CompileError, match="unknown instruction set"):
        mapsto.compile(MODEL, isa="")


def test_what_a_callers_progress_raises_is_the_callers() -> None:
    def broken(done: int, total: int, label: str) -> None:
        raise KeyError("mine")

    with pytest.raises(ArgumentError, match=r"progress\(1, 1, .*\) raised KeyError: 'mine'") as caught:
        mapsto.compile(MODEL, progress=broken)
    assert isinstance(caught.value.__cause__, KeyError)
    with pytest.raises(ArgumentError, match="progress.* raised TypeError"):
        mapsto.compile(MODEL, progress=lambda: None)  # type: ignore[arg-type, misc]

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        mapsto.compile(MODEL, progress=interrupted)


# -- models ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model", [5, None, {}, [], 1.5, True, object(), os, onnx.GraphProto(), np.ones(3), Odd()], ids=type
)
def test_what_is_no_model(tmp_path: Path, exe: mapsto.Executable, model: Any) -> None:
    for call in (
        lambda: mapsto.compile(model),
        lambda: read_onnx(model),
        lambda: mapsto.load(model),
        lambda: exe.save(model),
        lambda: Trainer(model),
        lambda: read_keras(model),
        lambda: read_machine(model),
    ):
        with pytest.raises(ArgumentError, match="expected a path"):
            call()


def test_paths_that_lead_to_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        paths: list[Any] = [
            "",
            "a\0b",
            "none",
            "x" * 5000,
            "\udcff",
            "/dev/null",
            "/dev/zero",
            "/proc/self/maps",
            b"/dev/null",
        ]
        paths += [tmp_path, tmp_path / "pipe", tmp_path / "loop", tmp_path / "socket", tmp_path / "none" / "a"]
        for path in paths:
            calls: list[Callable[[Any], Any]] = [mapsto.load]
            calls += [] if isinstance(path, bytes) else [mapsto.compile, read_onnx]
            for call in calls:
                with pytest.raises(MapstoError):
                    call(path)


# -- inputs of a run ---------------------------------------------------------------------------------------------------

READABLE = {
    "another order": np.asfortranarray(X),
    "backwards": np.ascontiguousarray(X[::-1, ::-1])[::-1, ::-1],
    "other byte order": X.astype(">f4"),
    "not aligned": np.frombuffer(b"\0" + X.tobytes(), np.uint8)[1:].view(np.float32).reshape(2, 3),
    "a subclass": X.view(np.matrix),
    "records": X.view(np.recarray),
    "a list": X.tolist(),
    "a memoryview": memoryview(X),
    "of no strides": np.broadcast_to(X[:, :1], (2, 3)),
}


@pytest.mark.parametrize("kind", READABLE)
def test_inputs_of_any_memory(exe: mapsto.Executable, kind: str) -> None:
    expected = np.array(READABLE[kind], np.float32)
    assert np.array_equal(exe(READABLE[kind], K), expected) and np.array_equal(
        exe.run({"x": READABLE[kind], "k": K})["y"], expected
    )


DEEP: list[Any] = []
for _ in range(sys.getrecursionlimit() * 3):
    DEEP = [DEEP]
WRONG_INPUTS: dict[str, Any] = {
    "None": None,
    "a text": "abc",
    "bytes": b"abc",
    "an object": object(),
    "what fails": Odd(),
    "ragged": [[1, 2], [3]],
    "deep": DEEP,
    "too large": [[10**400] * 3] * 2,
    "doubles": X.astype(float),
    "integers": X.astype(np.int32),
    "complex": X.astype(complex),
    "objects": X.astype(object),
    "texts": np.array([["a"] * 3] * 2),
    "dates": X.astype("M8[s]"),
    "structures": np.zeros((2, 3), [("a", "f4")]),
    "masked": np.ma.masked_array(X, X > 1),
    "a number": np.float32(1),
    "one axis": X[0],
    "another shape": X.T,
    "a generator": (i for i in range(6)),
    "a dict": {},
    "a class": int,
}


@pytest.mark.parametrize("kind", WRONG_INPUTS)
def test_inputs_that_do_not_fit(exe: mapsto.Executable, kind: str) -> None:
    value = WRONG_INPUTS[kind]
    for call in (lambda: exe(value, K), lambda: exe.run({"x": value, "k": K}), lambda: exe.profile(value, K)):
        with pytest.raises(ShapeError, match="input 'x'"):
            call()
    assert np.array_equal(exe(X, K), X)


def test_inputs_that_are_no_dict_by_name(exe: mapsto.Executable) -> None:
    for wrong in (None, 5, [X, K], (X, K), X, "xk", {"x", "k"}, Odd()):
        with pytest.raises(ArgumentError, match="inputs: expected a dict by name"):
            exe.run(wrong)  # type: ignore[arg-type]
    for names, message in (({}, "missing: x, k"), ({1: X, "k": K}, "missing: x; unknown: 1"), ({"x": X}, "missing: k")):
        with pytest.raises(ShapeError, match=message):
            exe.run(names)  # type: ignore[arg-type]

    class Failing(dict[str, Any]):
        def __getitem__(self, name: str) -> Any:
            raise RuntimeError("odd")

    with pytest.raises(ShapeError, match="cannot be had by name"):
        exe.run(Failing(x=X, k=K))


def test_sizes_and_numbers_of_runs(exe: mapsto.Executable) -> None:
    for wrong in (0, -1, 1.5, "2", None, True, Odd()):
        with pytest.raises(ArgumentError, match="runs: "):
            exe.profile(X, K, runs=wrong)  # type: ignore[arg-type]
    for sizes, kind in [
        (5, ArgumentError),
        (Odd(), ArgumentError),
        ({"N": -1}, ShapeError),
        ({"N": 2.0}, ShapeError),
        ({"N": "2"}, ShapeError),
        ({"N": 1 << 62}, ShapeError),
        ({"Z": 1}, ShapeError),
        ({1: 1}, ShapeError),
    ]:
        with pytest.raises(kind, match="sizes: "):
            exe.memory(sizes)  # type: ignore[arg-type]
    assert exe.memory({"N": np.int64(4)}) == exe.memory({"N": 4})  # type: ignore[dict-item]


def test_what_no_executable_is_made_of(exe: mapsto.Executable) -> None:
    for program, objects in ((5, []), (exe.program, 5), (exe.program, ["x"]), (exe.program, [b"x"]), (exe.program, [])):
        with pytest.raises((ArgumentError, CompileError)):
            mapsto.Executable(program, objects, 1)  # type: ignore[arg-type]


# -- training ----------------------------------------------------------------------------------------------------------


def _failing_loss(builder: Any, value: Any, label: Any) -> Any:
    return 1 / 0


def _named(value: Any) -> str:
    """Without an address: the workers that share the tests out must agree on their names."""
    return value.__name__ if callable(value) else repr(value)


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"loss": 5}, ArgumentError),
        ({"loss": None}, ArgumentError),
        ({"loss": _failing_loss}, ArgumentError),
        ({"learning_rate": "x"}, ArgumentError),
        ({"learning_rate": float("nan")}, ArgumentError),
        ({"optimizer": 5}, ArgumentError),
        ({"optimizer": "newton"}, UnsupportedError),
        ({"frozen": "conv"}, ArgumentError),
        ({"frozen": ["nothing*"]}, ShapeError),
        ({"rates": ["conv"]}, ArgumentError),
        ({"rates": {"conv*": "x"}}, ArgumentError),
        ({"rates": {"nothing*": 1.0}}, ShapeError),
        ({"seed": -1}, ArgumentError),
        ({"clip_value": 0}, ArgumentError),
        ({"clip_norm": "x"}, ArgumentError),
        ({"accumulate": 0}, ArgumentError),
        ({"classes": 1.5}, ArgumentError),
        ({"parameters": 5}, ArgumentError),
        ({"parameters": "conv"}, ArgumentError),
        ({"parameters": [5]}, ArgumentError),
        ({"output": 5}, ShapeError),
        ({"label": 5}, ArgumentError),
        ({"shapes": 5}, ArgumentError),
    ],
    ids=lambda value: "" if isinstance(value, type) else " ".join(f"{k}={_named(v)}" for k, v in value.items()),
)
def test_a_trainers_arguments(options: dict[str, Any], kind: type[MapstoError]) -> None:
    with pytest.raises(kind):
        Trainer(Path(__file__).parents[2] / "examples" / "mnist-cnn.onnx", **options)


def test_a_trainers_inputs() -> None:
    trainer = Trainer(Path(__file__).parents[2] / "examples" / "mnist-cnn.onnx", threads=1)
    batch = {"image": np.zeros((2, 1, 28, 28), np.float32), "label": np.zeros(2, np.int64)}
    for wrong in (
        5,
        None,
        {},
        {1: 2},
        {**batch, "label": [[1], [2, 3]]},
        {**batch, "label": Odd()},
        {**batch, "image": "x"},
    ):
        with pytest.raises(MapstoError):
            trainer.step(wrong)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="expected a dict by name"):
        trainer.predict(5)  # type: ignore[arg-type]
    for rate in ("x", None, float("inf")):
        trainer.learning_rate = rate  # type: ignore[assignment]
        with pytest.raises(ArgumentError, match="learning_rate"):
            trainer.step(batch)
    trainer.learning_rate = 0.1
    assert np.isfinite(trainer.step(batch))


def test_a_model_error_is_no_argument_error() -> None:
    with pytest.raises(ModelError, match="holds no graph"):
        mapsto.compile(onnx.ModelProto())
