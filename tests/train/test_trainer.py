"""Training natively: gradients against finite differences, parameters that stay where they are, real digits learnt."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import mapsto
from mapsto.errors import ArgumentError, ExecutionError, ShapeError, UnsupportedError
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, sym
from mapsto.ir.graph import Graph
from mapsto.ops.builder import Builder
from mapsto.ops.interpret import run_graph
from mapsto.passes import gradient
from mapsto.passes.gradient import as_inputs
from mapsto.session.compile import prepared
from mapsto.train import LOSSES, SGD, Trainer
from mapsto.train.head import with_head
from mapsto.train.model import learnable_of, trainable
from mapsto.train.optimizers import Optimizer
from mapsto.train.step import with_loss

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
PARAMETERS = ("w1", "b1", "w2", "b2")

Arrays = dict[str, np.ndarray]


def perceptron(inner: int = 6, inputs: int = 4, classes: int = 3, rows: Dim = 5, dtype: DType = DType.F32) -> Graph:
    """scores = relu(x w1 + b1) w2 + b2"""
    rng = np.random.default_rng(0)
    shapes = {"w1": (inputs, inner), "b1": (inner,), "w2": (inner, classes), "b2": (classes,)}
    b = Builder("perceptron")
    x = b.input("x", dtype, (rows, inputs))
    p = {k: b.constant(rng.standard_normal(s) * (2 / s[0]) ** 0.5, k, dtype) for k, s in shapes.items()}
    hidden = b.one("relu", [b.one("add", [b.one("matmul", [x, p["w1"]]), p["b1"]])])
    return b.finish([b.one("add", [b.one("matmul", [hidden, p["w2"]]), p["b2"]])], names=["scores"])


def loss_by_numpy(x: np.ndarray, label: np.ndarray, p: Arrays) -> float:
    """The same perceptron and its cross-entropy in float64, written once more."""
    p = {k: v.astype(np.float64) for k, v in p.items()}
    scores = np.maximum(x.astype(np.float64) @ p["w1"] + p["b1"], 0) @ p["w2"] + p["b2"]
    shifted = scores - scores.max(1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    return float(-logs[np.arange(len(label)), label].mean())


def differences(loss: Callable[[Arrays], float], at: Arrays, name: str, step: float = 1e-6) -> np.ndarray:
    """Central differences of a loss by every element of one array."""
    result = np.zeros(at[name].shape)
    for place in np.ndindex(*result.shape):
        moved = [at[name].astype(np.float64) for _ in range(2)]
        moved[0][place] += step
        moved[1][place] -= step
        result[place] = (loss({**at, name: moved[0]}) - loss({**at, name: moved[1]})) / (2 * step)
    return result


def data(rows: int = 5, inputs: int = 4, classes: int = 3, dtype: type = np.float32) -> Arrays:
    rng = np.random.default_rng(1)
    return {"x": rng.standard_normal((rows, inputs)).astype(dtype), "label": rng.integers(0, classes, rows)}


@cache
def digits() -> Arrays:
    with np.load(EXAMPLES / "digits.npz") as found:
        return {"image": found["image"], "label": found["label"]}


def rows_of_digits() -> Arrays:
    return {"x": digits()["image"].reshape(64, 784), "label": digits()["label"]}


# -- gradients ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("rows", [5, sym("rows")], ids=["fixed", "open"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(DType.F32, 2e-5), (DType.F64, 1e-8)])
def test_native_gradients_are_those_of_finite_differences(
    threads: int, rows: Dim, dtype: DType, tolerance: float
) -> None:
    model = perceptron(rows=rows, dtype=dtype)
    graph = gradient(with_loss(model, "scores", LOSSES["cross_entropy"], "label"), "loss", [*PARAMETERS, "x"])
    arrays = {name: model.constants[name] for name in PARAMETERS}
    feeds = {**data(dtype=dtype.numpy.type), **arrays}
    exe = mapsto.compile(graph, threads=threads)
    exe.poison()
    found, reference = exe.run(feeds), run_graph(graph, feeds)
    assert found["loss"] == pytest.approx(loss_by_numpy(feeds["x"], feeds["label"], arrays), rel=1e-5)
    assert list(found) == ["loss", *(f"{name}.gradient" for name in (*PARAMETERS, "x"))]

    def loss(at: Arrays) -> float:
        return loss_by_numpy(at["x"], feeds["label"], {name: at[name] for name in PARAMETERS})

    for name in (*PARAMETERS, "x"):
        expected = differences(loss, feeds, name)
        scale = np.abs(expected).max()
        np.testing.assert_allclose(found[f"{name}.gradient"], expected, rtol=0, atol=max(tolerance * scale, 3e-9))
        np.testing.assert_allclose(
            found[f"{name}.gradient"], reference[f"{name}.gradient"], rtol=0, atol=tolerance * scale
        )


def test_native_gradients_of_the_digit_network_are_those_of_finite_differences() -> None:
    """Convolutions, batch norms folded into them, max-pools: against the reference in float64, everywhere, and against
    differences of its loss in some elements of each parameter.
    """
    model = prepared(EXAMPLES / "mnist-cnn.onnx", None)
    scored = with_loss(model, "logits", LOSSES["cross_entropy"], "label")
    names = trainable(scored)
    assert sorted(model.constants[n].ndim for n in names) == [1, 1, 1, 1, 2, 2, 4, 4]
    rng = np.random.default_rng(2)  # the trained weights leave next to no gradient
    arrays = {n: (rng.standard_normal(model.constants[n].shape) * 0.1).astype(np.float32) for n in names}
    feeds = {"image": digits()["image"][:6], "label": digits()["label"][:6], **arrays}
    graph = gradient(scored, "loss", names)
    found, reference = mapsto.compile(graph).run(feeds), run_graph(graph, feeds, wide=True)
    forward = as_inputs(scored, names)
    for name in names:
        g, wide = found[f"{name}.gradient"], reference[f"{name}.gradient"]
        np.testing.assert_allclose(g, wide, rtol=0, atol=2e-5 * np.abs(wide).max(), err_msg=name)
        for place in [tuple(rng.integers(0, d) for d in g.shape) for _ in range(3)]:
            losses = []
            for sign in (1, -1):
                moved = feeds[name].astype(np.float64)
                moved[place] += sign * 1e-5
                losses.append(_wide_loss(forward, {**feeds, name: moved}))
            assert wide[place] == pytest.approx((losses[0] - losses[1]) / 2e-5, rel=1e-3, abs=1e-7), (name, place)


def _wide_loss(graph: Graph, feeds: Arrays) -> float:
    """The loss in float64; inputs that are float64 already go in as they are."""
    wide = {n for n, a in feeds.items() if a.dtype == np.float64}
    inputs = tuple(type(v)(v.name, DType.F64, v.shape) if v.name in wide else v for v in graph.inputs)
    opened = type(graph)(graph.name, inputs, graph.outputs, graph.nodes, graph.constants)
    return float(run_graph(opened, feeds, wide=True)["loss"])


# -- steps -------------------------------------------------------------------------------------------------------------


def test_a_step_moves_the_parameters_where_they_lie() -> None:
    trainer = Trainer(perceptron(), optimizer="sgd", learning_rate=0.1)
    before = {name: array.copy() for name, array in trainer.parameters.items()}
    arrays = dict(trainer.parameters)
    addresses = {name: array.ctypes.data for name, array in arrays.items()}
    feeds = data()
    loss = trainer.step(feeds)
    assert loss == pytest.approx(loss_by_numpy(feeds["x"], feeds["label"], before), rel=1e-5)

    def by_numpy(at: Arrays) -> float:
        return loss_by_numpy(feeds["x"], feeds["label"], at)

    for name in PARAMETERS:
        assert trainer.parameters[name] is arrays[name] and arrays[name].ctypes.data == addresses[name]
        expected = before[name] - 0.1 * differences(by_numpy, before, name)
        np.testing.assert_allclose(arrays[name], expected, rtol=0, atol=2e-6)
        assert not np.array_equal(arrays[name], before[name])


def test_what_a_caller_writes_into_a_parameter_counts() -> None:
    trainer = Trainer(perceptron(), optimizer="sgd", learning_rate=0.0)
    feeds = data()
    trainer.parameters["w2"][...] = 0
    trainer.parameters["b2"][...] = 0
    assert trainer.step(feeds) == pytest.approx(np.log(3), rel=1e-6)


def test_hundreds_of_steps_learn_real_digits() -> None:
    trainer = Trainer(perceptron(32, 784, 10, sym("rows")), optimizer="sgd", learning_rate=0.1)
    feeds = rows_of_digits()
    rng = np.random.default_rng(3)
    losses = []
    for _ in range(300):
        chosen = rng.permutation(64)[:32]
        losses.append(trainer.step({k: np.ascontiguousarray(v[chosen]) for k, v in feeds.items()}))
    assert losses[0] > 2 and np.mean(losses[-10:]) < 0.05
    assert (trainer.predict({"x": feeds["x"]})["scores"].argmax(1) == feeds["label"]).all()


def test_the_digit_network_learns_from_scratch_and_compiles_again() -> None:
    trainer = Trainer(EXAMPLES / "mnist-cnn.onnx", optimizer=SGD(0.02, momentum=0.9))
    rng = np.random.default_rng(4)
    for name, array in trainer.parameters.items():
        if array.ndim == 1:
            array[...] = name in ("norm1.weight", "norm2.weight")
        else:
            array[...] = rng.standard_normal(array.shape) * (2 / np.prod(array.shape[1:])) ** 0.5
    losses = [trainer.step(digits()) for _ in range(40)]
    assert losses[0] > 1.5 and losses[-1] < 0.1
    scores = trainer.predict({"image": digits()["image"]})["logits"]
    assert (scores.argmax(1) == digits()["label"]).all()
    again = mapsto.compile(trainer.trained()).run({"image": digits()["image"]})["logits"]
    np.testing.assert_allclose(again, scores, rtol=1e-4, atol=1e-4)


def test_one_step_serves_any_batch_and_compiles_nothing_again(monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(perceptron(rows=sym("rows")), optimizer="sgd", learning_rate=0.05)
    feeds = data(40)
    state = {name: array.copy() for name, array in trainer.parameters.items()}

    def forbidden(*args: object, **more: object) -> None:
        raise AssertionError("a compile worker was started")

    monkeypatch.setattr("mapsto.devices.cpu.compiler.CompilePool.__init__", forbidden)
    for rows in (1, 7, 16, 40, 7):
        part = {name: array[:rows].copy() for name, array in feeds.items()}
        assert trainer.step(part) == pytest.approx(loss_by_numpy(part["x"], part["label"], state), rel=1e-5)
        state = {name: array.copy() for name, array in trainer.parameters.items()}


def test_threads_and_poison_change_no_bit() -> None:
    trained = []
    for threads, poison in ((1, False), (2, False), (2, True)):
        trainer = Trainer(perceptron(40, 784, 10, 64), optimizer=SGD(0.1, momentum=0.5), threads=threads)
        trainer.executable.poison(poison)
        losses = [trainer.step(rows_of_digits()) for _ in range(8)]
        trained.append((losses, {name: array.tobytes() for name, array in trainer.parameters.items()}))
    assert trained[0] == trained[1] == trained[2]


def test_momentum_and_a_rate_that_changes() -> None:
    trainer = Trainer(perceptron(dtype=DType.F64), optimizer=SGD(0.5, momentum=0.5))
    feeds = data(dtype=np.float64)
    p = {name: array.copy() for name, array in trainer.parameters.items()}
    v = {name: np.zeros_like(array) for name, array in p.items()}

    def by_numpy(at: Arrays) -> float:
        return loss_by_numpy(feeds["x"], feeds["label"], at)

    for rate in (0.5, 0.25, 0.125):
        trainer.learning_rate = rate
        trainer.step(feeds)
        g = {name: differences(by_numpy, p, name) for name in PARAMETERS}
        v = {name: 0.5 * v[name] + g[name] for name in PARAMETERS}
        p = {name: p[name] - rate * v[name] for name in PARAMETERS}
    for name in PARAMETERS:
        np.testing.assert_allclose(trainer.parameters[name], p[name], rtol=0, atol=1e-8)


def test_only_chosen_parameters_move() -> None:
    trainer = Trainer(perceptron(), optimizer="sgd", learning_rate=0.1, parameters=["w2"])
    assert list(trainer.parameters) == ["w2"]
    losses = [trainer.step(data()) for _ in range(20)]
    assert losses[-1] < losses[0]
    kept = trainer.trained().constants
    assert np.array_equal(kept["w1"], perceptron().constants["w1"])
    assert np.array_equal(kept["w2"], trainer.parameters["w2"])


def test_mean_squared_error_fits_a_line() -> None:
    b = Builder("line")
    x = b.input("x", DType.F32, (sym("n"), 2))
    w = b.constant(np.zeros((2, 1), np.float32), "w")
    graph = b.finish([b.one("add", [b.one("matmul", [x, w]), b.constant(np.zeros((1, 1), np.float32), "c")])])
    trainer = Trainer(graph, "mean_squared_error", SGD(0.3), parameters=["w", "c"], label="target")
    rng = np.random.default_rng(5)
    points = rng.uniform(-1, 1, (50, 2)).astype(np.float32)
    wanted = points @ np.array([[2.0], [-1.0]], np.float32) + np.float32(0.5)
    for _ in range(150):
        loss = trainer.step({"x": points, "target": wanted})
    assert loss < 1e-9
    np.testing.assert_allclose(trainer.parameters["w"], [[2], [-1]], atol=1e-4)
    np.testing.assert_allclose(trainer.parameters["c"], [[0.5]], atol=1e-4)


def test_a_loss_of_ones_own() -> None:
    def mean_of_squares(b: Builder, output: object, label: str) -> object:
        del label
        return LOSSES["mean_squared_error"](b, output, "wanted")  # type: ignore[arg-type]

    trainer = Trainer(perceptron(), loss=mean_of_squares, optimizer="sgd", learning_rate=0.05)  # type: ignore[arg-type]
    feeds = {"x": data()["x"], "wanted": np.ones((5, 3), np.float32)}
    losses = [trainer.step(feeds) for _ in range(30)]
    assert losses[-1] < 0.5 * losses[0]


def test_a_saved_step_goes_on_in_place(tmp_path: Path) -> None:
    trainer = Trainer(perceptron(), optimizer="sgd", learning_rate=0.1)
    trainer.executable.save(tmp_path / "step.mapsto")
    exe = mapsto.load(tmp_path / "step.mapsto")
    state = {name: array.copy() for name, array in trainer.parameters.items()}
    found = exe.run({**data(), **state, "optimizer.rate": np.float32(0.1)})
    assert found["loss"] == np.float32(trainer.step(data()))
    for name in PARAMETERS:
        assert found[f"{name}.updated"] is state[name]
        assert state[name].tobytes() == trainer.parameters[name].tobytes()


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_a_label_that_is_no_class_is_refused() -> None:
    trainer = Trainer(perceptron())
    for wrong in (3, -1):
        feeds = data()
        feeds["label"][2] = wrong
        with pytest.raises(ExecutionError, match=rf"label {wrong} at \[2\] is no class; classes are 0 to 2"):
            trainer.step(feeds)


def test_wrong_inputs_name_what_was_expected() -> None:
    trainer = Trainer(perceptron())
    with pytest.raises(ShapeError, match="missing: label"):
        trainer.step({"x": data()["x"]})
    with pytest.raises(ShapeError, match="w1 belongs to the trainer"):
        trainer.step({**data(), "w1": np.zeros((4, 6), np.float32)})
    with pytest.raises(ShapeError, match=r"\(5, 4\) was expected"):
        trainer.step({**data(), "x": np.zeros((6, 4), np.float32)})


def test_wrong_settings_are_refused() -> None:
    model = perceptron()
    with pytest.raises(UnsupportedError, match="no loss 'hinge'; known: cross_entropy, mean_squared_error"):
        Trainer(model, loss="hinge")
    with pytest.raises(ShapeError, match="no constant named w9; its float constants are w1, b1, w2, b2"):
        Trainer(model, parameters=["w9"])
    with pytest.raises(ShapeError, match="no output 'probabilities'"):
        Trainer(model, output="probabilities")
    with pytest.raises(ShapeError, match="named 'x' already"):
        Trainer(model, label="x")
    with pytest.raises(ArgumentError, match="SGD.momentum: 1.5"):
        SGD(momentum=1.5)


def test_a_model_without_weights_cannot_be_trained() -> None:
    b = Builder("relu")
    graph = b.finish([b.one("relu", [b.input("x", DType.F32, (2, 3))])])
    with pytest.raises(ShapeError, match="nothing to train"):
        Trainer(graph)


def test_an_op_without_a_gradient_is_named() -> None:
    b = Builder("growing")
    scaled = b.one("mul", [b.input("x", DType.F32, (2, sym("n"))), b.constant(np.array([[1], [2]], np.float32), "w")])
    with b.source("the border"):
        attrs = {"before": (0, 1), "after": (0, 1), "mode": "reflect", "value": 0.0}
        made = b.one("pad", [scaled], **attrs)
    with pytest.raises(UnsupportedError, match="pad -> .*no gradient along an axis of open size n; fix it.*the border"):
        Trainer(b.finish([made]), "mean_squared_error")


def test_a_loss_of_more_than_one_number_is_refused() -> None:
    for wrong, said in (
        (lambda b, y, label: y, "a loss is one float"),
        (lambda b, y, label: b.one("argmax", [b.one("reshape", [y], shape=(15,))], axis=0, keepdims=False,
                                   select_last=False), "a loss is one float"),  # fmt: skip
    ):
        with pytest.raises(ShapeError, match=said):
            Trainer(perceptron(), loss=wrong)
    with pytest.raises(ArgumentError, match="which is no value of the builder"):
        Trainer(perceptron(), loss=lambda b, y, label: 5)  # type: ignore[arg-type,return-value]


def test_a_profile_says_what_a_step_spends_its_time_on() -> None:
    trainer = Trainer(perceptron(), optimizer="sgd", threads=1)
    before = {name: array.copy() for name, array in trainer.parameters.items()}
    times = trainer.profile(data())
    assert all(np.array_equal(array, before[name]) for name, array in trainer.parameters.items())
    assert sum(t.nanoseconds for t in times) > 0 and any("w1" in " ".join(t.provenance) for t in times)
    with pytest.raises(ShapeError, match="missing: label"):
        trainer.profile({"x": data()["x"]})


# -- another head ------------------------------------------------------------------------------------------------------


def test_another_number_of_classes_has_fresh_weights_by_the_seed() -> None:
    model = learnable_of(EXAMPLES / "mnist-cnn.onnx", None, None, None)
    first, again, other = (with_head(model, "logits", 5, seed).arrays for seed in (1, 1, 2))
    assert first["fc2.weight"].shape == (5, 64) and first["fc2.bias"].shape == (5,)
    assert np.array_equal(first["fc2.weight"], again["fc2.weight"])
    assert not np.array_equal(first["fc2.weight"], other["fc2.weight"])
    assert 0.9 / 8 < np.abs(first["fc2.weight"]).max() <= 1 / 8
    assert np.array_equal(first["conv1.weight"], model.arrays["conv1.weight"])


def test_a_head_alone_is_trained_by_patterns() -> None:
    digits_of_five = {"image": digits()["image"], "label": digits()["label"] % 5}
    trainer = Trainer(
        EXAMPLES / "mnist-cnn.onnx", "cross_entropy", SGD(0.1), classes=5, parameters=["fc2.*"], threads=1
    )  # fmt: skip
    assert list(trainer.parameters) == ["fc2.weight", "fc2.bias"]
    losses = [trainer.step(digits_of_five) for _ in range(40)]
    assert losses[0] > 1.2 and losses[-1] < 0.3
    found = run_graph(trainer.trained(), {"image": digits()["image"][:4]})["logits"]
    np.testing.assert_allclose(trainer.predict({"image": digits()["image"][:4]})["logits"], found, atol=1e-4)


def test_an_output_that_no_layer_makes_has_no_head() -> None:
    b = Builder("summed")
    x, w = b.input("x", DType.F32, (4, 3)), b.constant(np.ones((3, 3), np.float32), "w")
    product = b.one("matmul", [x, w])
    with pytest.raises(ShapeError, match="made by `exp`; it can be replaced where a dense layer"):
        Trainer(b.finish([b.one("exp", [product])], names=["y"]), classes=5)
    b = Builder("tied")
    x, w = b.input("x", DType.F32, (4, 3)), b.constant(np.ones((3, 3), np.float32), "w")
    with pytest.raises(ShapeError, match="w, a weight of the layer that makes 'y', is read elsewhere"):
        Trainer(b.finish([b.one("matmul", [b.one("matmul", [x, w]), w])], names=["y"]), classes=5)


# -- number formats ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("formats", [{"*": "bf16"}, {"*": "f16"}, {"*": "bf16", "*w2*": "f32"}])
def test_a_step_s_products_in_another_format(formats: object) -> None:
    """Parameters stay f32, in their places; a hundred steps go where those of f32 go, within what the format loses."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((64, 4)).astype(np.float32)
    batch = {"x": x, "label": (x[:, 0] + x[:, 1] > 0).astype(np.int64) + (x[:, 2] > 1)}
    trainers = [
        Trainer(perceptron(inner=32, rows=64), optimizer=SGD(0.3), formats=each, threads=1)  # type: ignore[arg-type]
        for each in (None, formats)
    ]
    losses = [[trainer.step(batch) for _ in range(100)] for trainer in trainers]
    plan = trainers[1].executable.plan.text()
    assert "format bf16 of" in plan or "format f16 of" in plan
    assert all(array.dtype == np.float32 for array in trainers[1].parameters.values())
    assert losses[1][-1] < losses[1][0] / 2
    np.testing.assert_allclose(losses[1], losses[0], rtol=3e-2, atol=3e-2)
    assert losses[1] != losses[0]


@pytest.mark.parametrize("formats", ["int8", "fp8", 5, {"*": 3}])
def test_formats_that_no_step_can_have(formats: object) -> None:
    with pytest.raises(ArgumentError, match="formats"):
        Trainer(perceptron(), formats=formats)  # type: ignore[arg-type]


def test_an_optimizer_that_says_no_update() -> None:
    with pytest.raises(UnsupportedError, match="Optimizer does not say how it updates"):
        Trainer(perceptron(), optimizer=Optimizer())
