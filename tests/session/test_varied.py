"""Models whose open sizes decide a rank: an executable for each that a run brings, right beside ONNX Runtime."""

from __future__ import annotations

import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from tests.importers.models import model, node, port
from tests.session.support import by_onnxruntime, normal, parse
from tests.test_models import model_of, references

import mapsto
from mapsto.errors import ArgumentError, ExecutionError, ModelError, ShapeError, UnsupportedError
from mapsto.report.accuracy import judge_runs
from mapsto.runtime import variants
from mapsto.runtime.variants import VariedExecutable

X = normal(2, 3, 4)


def branch(op: str, inputs: list[str], axes: int | None = None) -> Any:
    kept = [] if axes is None else [numpy_helper.from_array(np.array([axes]), "axes")]
    made = helper.make_node(op, inputs if axes is None else [*inputs, "axes"], ["inner"])
    return helper.make_graph([made], "branch", [], [onnx.ValueInfoProto(name="inner")], kept)


def squeezed(axis: int, source: str, result: str) -> list[Any]:
    """An axis left out where it is 1, as exporters write it."""
    known = f"axis_{result}"
    return [
        node("Constant", [], [known], value_ints=[axis]),
        node("Constant", [], [f"one_{result}"], value_ints=[1]),
        node("Shape", [source], [f"shape_{result}"]),
        node("Gather", [f"shape_{result}", known], [f"extent_{result}"]),
        node("Equal", [f"extent_{result}", f"one_{result}"], [f"is_{result}"]),
        node(
            "If",
            [f"is_{result}"],
            [result],
            then_branch=branch("Squeeze", [source], axis),
            else_branch=branch("Identity", [source]),
        ),
    ]


def one_axis() -> Any:
    return model([*squeezed(1, "x", "s"), node("Relu", ["s"], ["y"])], [port("x", ["a", "b", "c"])])


def test_a_rank_that_an_open_extent_decides() -> None:
    exe = mapsto.compile(one_axis(), threads=1)
    assert isinstance(exe, VariedExecutable) and exe.report().startswith("chosen by b: node")
    for a, b, c in ((2, 1, 4), (2, 3, 4), (5, 1, 2), (1, 1, 1), (0, 3, 2)):
        x = normal(a, b, c)
        np.testing.assert_array_equal(exe(x), np.maximum(x[:, 0] if b == 1 else x, 0))
        np.testing.assert_array_equal(exe.run({"x": x})["y"], exe(x))
    assert exe.report().count("made in") == 2, "other extents stay open"


def test_another_extent_of_a_known_one_compiles_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    exe = mapsto.compile(one_axis(), threads=1)
    exe(X)
    monkeypatch.setattr("mapsto.session.entry._compiled", None)
    assert exe(normal(7, 3, 9)).shape == (7, 3, 9)


def test_what_decides_is_found_step_by_step() -> None:
    """The second squeeze is of what the first gives: which extents decide it follows from how many axes that has."""
    made = model([*squeezed(1, "x", "s"), *squeezed(0, "s", "t"), node("Relu", ["t"], ["y"])],
                 [port("x", ["a", "b", "c"])])  # fmt: skip
    exe = mapsto.compile(made, threads=1)
    for shape in ((2, 3, 4), (1, 3, 4), (1, 1, 4), (2, 1, 4)):
        x = normal(*shape)
        np.testing.assert_array_equal(exe(x), by_onnxruntime(made, {"x": x})["y"])
    assert "b = 1, a = 1: made" in exe.report()


def test_where_data_decides_it_is_refused_at_once() -> None:
    then, other = branch("Squeeze", ["x"], 1), branch("Identity", ["x"])
    inputs = [port("x", ["a", "b"]), port("c", [], np.bool_)]
    with pytest.raises(UnsupportedError, match="in one branch and"):
        mapsto.compile(model([node("If", ["c"], ["y"], then_branch=then, else_branch=other)], inputs), threads=1)


def test_what_no_size_helps_is_refused_at_once() -> None:
    nodes = [*squeezed(1, "x", "s"), node("NoSuchOp", ["s"], ["y"])]
    nodes += [node("NoSuchOp", ["x"], ["z"])]
    with pytest.raises(UnsupportedError, match="NoSuchOp") as caught:
        mapsto.compile(model(nodes, [port("x", ["a", "b", "c"])]), threads=1)
    assert not caught.value.sizes and not caught.value.axes


KINDS: dict[str, tuple[str, list[dict[str, Any]], int]] = {
    "window": (
        "m (float[1, 1, 8, 8] x, float[1, 1, k, k] w) => (float[1, 1, h, v] y) { y = Conv(x, w) }",
        [{"x": normal(1, 1, 8, 8), "w": normal(1, 1, k, k)} for k in (1, 3)],
        18,
    ),
    "determinant": (
        "m (float[b, n, n] x) => (float[b] y) { y = Det(x) }",
        [{"x": normal(3, n, n)} for n in (1, 2, 4)],
        18,
    ),
    "reshape": (
        "m (float[6] x, int64[n] to) => (float y) { y = Reshape(x, to) }",
        [{"x": normal(6), "to": np.array(to)} for to in ([2, 3], [6], [1, -1, 2])],
        18,
    ),
    "unsqueeze": (
        "m (float[n] x, int64[k] axes) => (float y) { y = Unsqueeze(x, axes) }",
        [{"x": normal(n), "axes": np.array(axes)} for n, axes in ((3, [0]), (2, [0, 2]), (5, [1]))],
        18,
    ),
    "squeeze": (
        "m (float[1, n, 1] x, int64[k] axes) => (float y) { y = Squeeze(x, axes) }",
        [{"x": normal(1, 3, 1), "axes": np.array(axes)} for axes in ([0], [0, 2], [2])],
        18,
    ),
    "reduced": (
        "m (float[a, b, c] x, int64[k] axes) => (float y) { y = ReduceSum<keepdims = 0>(x, axes) }",
        [{"x": X, "axes": np.array(axes)} for axes in ([0], [0, 2], [2])],
        18,
    ),
    "parts": (
        "m (float[n] x) => (float y) { two = Constant<value_int = 2>() s = SplitToSequence(x, two) "
        "i = Constant<value_int = 1>() y = SequenceAt(s, i) }",
        [{"x": normal(n)} for n in (4, 6)],
        18,
    ),
    "pads": (
        "m (float[1, 1, n] x, float[1, 1, 3] w) => (float[1, 1, m] y) "
        "{ y = ConvTranspose<output_shape = [9], strides = [2]>(x, w) }",
        [{"x": normal(1, 1, n), "w": normal(1, 1, 3)} for n in (4, 5)],
        18,
    ),
    "list of sizes": (
        "m (int64[k] to) => (float y) { y = ConstantOfShape(to) }",
        [{"to": np.array(to)} for to in ([2, 3], [4], [1, 2, 2])],
        18,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_refusal_that_fixing_sizes_lifts(kind: str) -> None:
    text, feeds, opset = KINDS[kind]
    made = parse(text, opset)
    for output in made.graph.output:  # their ranks are what is open
        output.type.tensor_type.ClearField("shape")
    exe = mapsto.compile(made, threads=1)
    assert isinstance(exe, VariedExecutable), kind
    for feed in feeds:
        (found,), (wanted,) = exe.run(feed).values(), by_onnxruntime(made, feed).values()
        assert found.shape == wanted.shape and found.dtype == wanted.dtype
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_no_more_are_kept_than_may_be_and_the_one_used_longest_ago_goes() -> None:
    exe = mapsto.compile(one_axis(), threads=1)
    for b in (*range(1, variants.KEPT + 1), 1, variants.KEPT + 1):
        exe(np.zeros((1, b, 1), np.float32))
    lines = exe.report().splitlines()
    kept = [line.split(":")[0] for line in lines if "made in" in line]
    assert kept == [f"b = {b}" for b in (1, *range(3, variants.KEPT + 2))] and lines[-1] == "1 made way for others"


def test_what_is_refused_for_a_size_is_compiled_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    exe = mapsto.compile(parse(KINDS["determinant"][0]), threads=1)
    with pytest.raises(UnsupportedError, match="for n = 50: .*up to 32 rows"):
        exe(normal(1, 50, 50))
    monkeypatch.setattr("mapsto.session.entry._compiled", None)
    with pytest.raises(UnsupportedError, match="for n = 50: .*up to 32 rows"):
        exe(normal(1, 50, 50))
    assert "refused for n = 50" in exe.report()


def test_a_wrong_input_is_the_callers_fault() -> None:
    exe = mapsto.compile(one_axis(), threads=1)
    for wrong in ({}, {"y": X}):
        with pytest.raises(ShapeError, match="missing: x"):
            exe.run(wrong)
    with pytest.raises(ShapeError, match="has 2 axes"):
        exe(X[0])
    with pytest.raises(ShapeError, match="missing: x"):
        exe()
    with pytest.raises(ShapeError):
        exe(X, X)
    with pytest.raises(ArgumentError, match="expected a dict by name"):
        exe.run(X)  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="axis 2 is 3, and n is 2 already"):
        mapsto.compile(parse(KINDS["determinant"][0]), threads=1)(normal(1, 2, 3))
    assert exe.run({"x": X.tolist()})["y"].shape == X.shape


def test_it_can_be_asked_what_an_executable_can(tmp_path: Path) -> None:
    exe = mapsto.compile(one_axis(), threads=1)
    assert isinstance(exe, mapsto.Executable) and [str(p) for p in exe.inputs] == ["x: f32[a, b, c]"]
    assert exe.sizes(X) == {"a": 2, "b": 3, "c": 4}
    assert exe.open_sizes == {"a": (0, 0), "b": (0, 1), "c": (0, 2)}
    np.testing.assert_array_equal(exe.outputs_of([X])[0], np.maximum(X, 0))
    assert exe.memory({"a": 2, "b": 3, "c": 4}).outputs == X.nbytes
    with pytest.raises(ArgumentError, match="b decides which variant runs"):
        exe.memory({"a": 2})
    assert exe.profile(X)
    exe.release_memory()
    exe.poison()
    np.testing.assert_array_equal(exe(X), np.maximum(X, 0))
    np.testing.assert_array_equal(exe(X[:, :1]), np.maximum(X[:, 0], 0))
    for refused in (lambda: exe.save(tmp_path / "x.mapsto"), lambda: exe.plan, lambda: exe.program, exe.parts,
                    lambda: exe.addresses, lambda: pickle.dumps(exe)):  # fmt: skip
        with pytest.raises(UnsupportedError, match="fix b by `shapes`"):
            refused()
    assert not list(tmp_path.iterdir())


def test_sizes_that_are_said_stay_and_others_have_their_names() -> None:
    exe = mapsto.compile(one_axis(), threads=1, shapes={"x": (2, "width", None)})
    assert exe(X).shape == X.shape and exe.report().startswith("chosen by width")
    with pytest.raises(ShapeError):
        exe(normal(3, 3, 4))
    fixed = mapsto.compile(one_axis(), threads=1, shapes={"x": (None, 3, None)})
    assert not isinstance(fixed, VariedExecutable)


def test_a_model_file_that_has_changed_is_not_mixed_with_what_it_was(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(one_axis(), path)
    exe = mapsto.compile(path, threads=1)
    exe(X)
    onnx.save(model([*squeezed(1, "x", "s"), node("Neg", ["s"], ["y"])], [port("x", ["a", "b", "c"])]), path)
    with pytest.raises(ModelError, match="has been changed since"):
        exe(X[:, :1])
    np.testing.assert_array_equal(exe(X), np.maximum(X, 0))


def test_a_model_in_memory_may_be_changed_by_whoever_gave_it() -> None:
    given = one_axis()
    exe = mapsto.compile(given, threads=1)
    given.graph.node[-1].op_type = "Neg"
    np.testing.assert_array_equal(exe(X), np.maximum(X, 0))


def test_initializers_that_a_run_gives() -> None:
    made = model(
        [*squeezed(1, "x", "s"), node("Mul", ["s", "w"], ["y"])],
        [port("x", ["a", "b", "c"]), port("w", [1])],
        constants={"w": np.array([2], np.float32)},
    )
    for options in ({}, {"overridable": ["w"]}):
        exe = mapsto.compile(made, threads=1, **options)
        np.testing.assert_array_equal(exe.run({"x": X})["y"], 2 * X)
        np.testing.assert_array_equal(exe.run({"x": X, "w": np.array([3], np.float32)})["y"], 3 * X)


def test_callers_at_once() -> None:
    exe = mapsto.compile(one_axis(), threads=2)
    failed: list[Any] = []

    def work(seed: int) -> None:
        for at in range(12):
            x = normal(2, 1 + (seed + at) % 3, 4, seed=seed)
            if not np.array_equal(exe(x), np.maximum(x[:, 0] if x.shape[1] == 1 else x, 0)):
                failed.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed and exe.report().count("made in") == 3


@pytest.mark.models
def test_a_real_model_for_every_length() -> None:
    known = model_of("silero-vad")
    exe = mapsto.compile(known.path, threads=1)
    assert isinstance(exe, VariedExecutable)
    found = [exe.run(feed) for feed in known.feeds]
    expected, peers = (references("silero-vad", name) for name in ("onnxruntime-unoptimised", "onnxruntime"))
    assert not [verdict for verdict in judge_runs(expected, found, peers) if not verdict.ok]


def test_a_squeeze_that_names_no_axes() -> None:
    """Open axes are taken not to be 1; where one is in a run, that has an executable of its own."""
    made = parse("m (float[n, 3, h, w] x, float[k] z) => (float y, float t) "
                 "{ g = GlobalAveragePool(x) y = Squeeze(g) t = Squeeze(z) }")  # fmt: skip
    for output in made.graph.output:
        output.type.tensor_type.ClearField("shape")
    exe = mapsto.compile(made, threads=1)
    for n, h, k in ((2, 4, 3), (1, 4, 3), (5, 2, 1), (1, 5, 1), (1, 6, 4), (2, 3, 3)):
        feed = {"x": normal(n, 3, h, h), "z": normal(k)}
        wanted = by_onnxruntime(made, feed)
        for found in (exe.run(feed), exe.run(feed)):
            for name, array in wanted.items():
                assert found[name].shape == array.shape
                np.testing.assert_allclose(found[name], array, rtol=1e-5, atol=1e-6)
    said = exe.report()
    assert said.count("n = 1: made in") == 1 and said.count("k = 1: made in") == 2


def test_an_executable_from_a_file_says_what_to_fix(tmp_path: Path) -> None:
    """It has no model to compile from; nor has one whose plan was said."""
    made = parse("m (float[n, 3] x) => (float y) { y = Squeeze(x) }")
    made.graph.output[0].type.tensor_type.ClearField("shape")
    exe = mapsto.compile(made, threads=1)
    assert exe(normal(1, 3)).shape == (3,)
    exe.save(tmp_path / "m.mapsto")
    for other in (mapsto.load(tmp_path / "m.mapsto", threads=1), mapsto.compile(made, threads=1, plan=exe.plan)):
        assert other.program.checks == exe.program.checks and other.program.checks[0].liftable
        with pytest.raises(ExecutionError, match="fix it by `shapes`"):
            other(normal(1, 3))
        assert other(normal(2, 3)).shape == (2, 3)


def test_a_state_is_updated_once_by_whichever_runs() -> None:
    made = parse("m (float[n] past, float[n, 3] x) => (float[n] present, float y) "
                 "{ y = Squeeze(x) one = Constant<value_float = 1.0>() present = Add(past, one) }")  # fmt: skip
    made.graph.output[1].type.tensor_type.ClearField("shape")
    exe = mapsto.compile(made, threads=1, updates={"past": "present"})
    for n in (1, 2):
        state = np.zeros(n, np.float32)
        for at in range(1, 4):
            present, y = exe(state, normal(n, 3))
            assert present is state and y.shape == ((3,) if n == 1 else (n, 3)) and (state == at).all()


def test_adaptive_variants() -> None:
    made = parse("m (float[n, k] x) => (float y) { y = Squeeze(x) }")
    made.graph.output[0].type.tensor_type.ClearField("shape")
    for model_, shapes in ((made, {"x": (None, None)}), (one_axis(), None)):
        exe = mapsto.compile(model_, shapes, threads=1, adapt=True)
        x = normal(1, 1, 3) if shapes is None else normal(1, 3)
        for _ in range(80):
            exe(x)
        assert "runs lately" in exe.report()
