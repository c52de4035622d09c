"""Models that are trained: modules of torch beside torch itself, step by step; ONNX files with batch normalisation and
dropout; graphs.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import onnx
import pytest
from tests.pytorch import torch

from mapsto.errors import ArgumentError, ShapeError, UnsupportedError
from mapsto.ops.interpret import run_graph
from mapsto.train import SGD, Adam, Trainer

nn, F = torch.nn, torch.nn.functional


class Convolutional(nn.Module):  # type: ignore[misc]
    """Convolutions with batch normalisation, one layer of which is used twice, a residual, a pool."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU())
        self.twice = nn.BatchNorm2d(6, momentum=0.3, eps=1e-3)
        self.deeper = nn.Conv2d(6, 6, 3, padding=1, groups=2)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(6, 4)

    def forward(self, image: Any) -> Any:
        x = self.stem(image)
        x = F.max_pool2d(x + torch.relu(self.twice(self.deeper(self.twice(x)))), 2)
        return self.head(self.dropout(x.mean((2, 3))))


class Encoder(nn.Module):  # type: ignore[misc]
    """An embedding that is the output's weight too, and a layer of attention."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=dropout, batch_first=True, activation="gelu")
        self.output = nn.Linear(8, 11, bias=False)
        self.output.weight = self.embedding.weight

    def forward(self, tokens: Any) -> Any:
        return self.output(self.layer(self.embedding(tokens))).transpose(1, 2)


def _images(rows: int = 8) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "image": (rng.standard_normal((rows, 2, 6, 6)) * 2 + 1).astype(np.float32), "label": rng.integers(0, 4, rows)
    }  # fmt: skip


def _tokens(rows: int = 4) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {"tokens": rng.integers(0, 11, (rows, 5)), "label": rng.integers(0, 11, (rows, 5))}


def _twins(make: Any, *args: Any) -> tuple[Any, Any]:
    torch.manual_seed(0)
    own = make(*args)
    twin = make(*args)
    twin.load_state_dict(own.state_dict())
    return own, twin


def _step(twin: Any, optimizer: Any, batch: dict[str, np.ndarray]) -> float:
    *inputs, label = (torch.from_numpy(array) for array in batch.values())
    twin.train()
    loss = F.cross_entropy(twin(*inputs), label)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return float(loss.detach())


@pytest.mark.parametrize(("make", "batch"), [(Convolutional, _images()), (Encoder, _tokens())], ids=["conv", "encoder"])
def test_a_module_is_trained_as_torch_trains_it_in_its_own_memory(make: Any, batch: dict[str, np.ndarray]) -> None:
    own, twin = _twins(make)
    inputs = tuple(torch.from_numpy(array) for name, array in batch.items() if name != "label")
    addresses = {name: p.data_ptr() for name, p in own.named_parameters()}
    trainer = Trainer(own, optimizer=Adam(0.01, epsilon=1e-3), example_inputs=inputs, threads=1)
    # an epsilon that is larger than gradients that are nothing but rounding, as those of biases before a norm
    optimizer = torch.optim.Adam(twin.parameters(), lr=0.01, eps=1e-3)
    assert set(trainer.parameters) == {name for name, _ in own.named_parameters()}
    for k in range(12):
        assert trainer.step(batch) == pytest.approx(_step(twin, optimizer, batch), rel=1e-4 * (k + 1)), k
    assert {name: p.data_ptr() for name, p in own.named_parameters()} == addresses
    for name, tensor in twin.state_dict().items():
        expected, found = tensor.numpy(), own.state_dict()[name].numpy()
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-3 * np.abs(expected).max(), err_msg=name)
        if name in trainer.parameters:
            assert np.shares_memory(trainer.parameters[name], own.state_dict()[name].numpy())
    # in evaluation the module itself, called by torch, is what the trainer evaluates
    own.eval()
    with torch.no_grad():
        scores = own(*inputs)
        expected_loss = F.cross_entropy(scores, torch.from_numpy(batch["label"]))
    loss, outputs = trainer.evaluate(batch)
    assert loss == pytest.approx(float(expected_loss), rel=1e-4)
    np.testing.assert_allclose(outputs["output"], scores.numpy(), rtol=0, atol=2e-4)
    given = {name: array for name, array in batch.items() if name != "label"}
    found = run_graph(trainer.trained(), given)["output"]
    np.testing.assert_allclose(found, outputs["output"], rtol=0, atol=2e-5)


def test_a_module_stays_as_it_was_but_for_its_weights() -> None:
    module = Convolutional(0.5).eval()
    module.stem.train()
    for p in module.head.parameters():
        p.requires_grad_(False)
    before = {name: each.training for name, each in module.named_modules()}
    batch = _images()
    trainer = Trainer(module, "cross_entropy", "sgd", example_inputs=(torch.from_numpy(batch["image"]),), threads=1)
    assert {name: each.training for name, each in module.named_modules()} == before
    assert not [name for name in trainer.parameters if name.startswith("head")]
    kept = module.head.weight.clone()
    trainer.step(batch)
    assert torch.equal(module.head.weight, kept)
    assert int(module.stem[1].num_batches_tracked) == 1 and int(module.twice.num_batches_tracked) == 2


def test_any_number_of_rows_by_one_step_of_a_module() -> None:
    own, twin = _twins(Convolutional)
    image = torch.from_numpy(_images()["image"])
    shapes = {"image": ("rows", 2, 6, 6)}
    trainer = Trainer(own, "cross_entropy", SGD(0.1), example_inputs=(image,), shapes=shapes, threads=1)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    for rows in (8, 3, 2, 5):
        batch = {name: array[:rows].copy() for name, array in _images().items()}
        assert trainer.step(batch) == pytest.approx(_step(twin, optimizer, batch), rel=1e-4)


def test_dropout_is_a_function_of_the_seed_and_the_step() -> None:
    runs: list[Any] = []
    for threads, seed in ((1, 3), (2, 3), (1, 4)):
        x = torch.ones(64, 100)
        torch.manual_seed(0)
        module = nn.Sequential(nn.Dropout(0.5), nn.Linear(100, 3), nn.Dropout(0.2))
        trainer = Trainer(module, "cross_entropy", SGD(0.0), seed=seed, threads=threads, example_inputs=(x,))
        batch = {"input": x.numpy(), "label": np.arange(64) % 3}
        runs.append([trainer.step(batch) for _ in range(6)])
    assert trainer.evaluate(batch)[0] == trainer.evaluate(batch)[0]
    assert runs[0] == runs[1]
    assert len(set(runs[0])) == 6 and not set(runs[0]) & set(runs[2])


def test_dropout_keeps_what_it_says_and_scales_it() -> None:
    class Dropped(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(4, 500))

        def forward(self, x: Any) -> Any:
            return F.dropout(x * self.w, 0.3, self.training)

    module = Dropped()
    trainer = Trainer(
        module, lambda b, y, label: b.one("reduce", [y], kind="mean", axes=(0, 1), keepdims=False), SGD(2000.0),
        example_inputs=(torch.ones(4, 500),), threads=1,
    )  # fmt: skip
    loss = trainer.step({"x": np.ones((4, 500), np.float32)})
    moved = 1 - module.w.detach().numpy()  # the gradient is the mask, scaled
    np.testing.assert_allclose(np.unique(moved), [0, 1 / 0.7], rtol=1e-5)
    assert abs((moved > 0).mean() - 0.7) < 0.04
    assert loss == pytest.approx(moved.mean(), rel=1e-5)


class Both(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.second = nn.Linear(4, 2)

    def forward(self, x: Any, *, scale: Any) -> dict[str, Any]:
        hidden = torch.tanh(self.first(x))
        return {"y": self.second(hidden.detach()) * scale, "hidden": hidden}


class Recurrent(nn.Module):  # type: ignore[misc]
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.LSTM(3, 4, batch_first=True, bidirectional=True)
        self.second = nn.GRU(8, 4, batch_first=True)
        self.head = nn.Linear(4, 4)

    def forward(self, x: Any) -> Any:
        return self.head(self.second(self.first(x)[0])[0][:, -1])


def test_recurrent_layers_are_trained_as_torch_trains_them() -> None:
    own, twin = _twins(Recurrent)
    rng = np.random.default_rng(0)
    batch = {"x": rng.normal(size=(5, 2, 3)).astype(np.float32), "label": rng.integers(0, 4, 5)}
    trainer = Trainer(own, optimizer=SGD(0.5), example_inputs=(torch.from_numpy(batch["x"]),), threads=1)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.5)
    assert set(trainer.parameters) == {name for name, _ in twin.named_parameters()}
    for _ in range(4):
        assert trainer.step(batch) == pytest.approx(_step(twin, optimizer, batch), rel=1e-5)
    for name, p in twin.named_parameters():
        np.testing.assert_allclose(trainer.parameters[name], p.detach().numpy(), rtol=0, atol=2e-6, err_msg=name)


def test_results_have_names_and_what_is_detached_has_no_gradient() -> None:
    x, scale = torch.randn(5, 3), torch.tensor([2.0, 0.5])
    trainer = Trainer(
        Both(), "mean_squared_error", SGD(0.1), output="y", example_inputs=(x,), example_kwargs={"scale": scale},
        threads=1,
    )  # fmt: skip
    before = {name: array.copy() for name, array in trainer.parameters.items()}
    assert set(before) == {"second.weight", "second.bias", "first.weight", "first.bias"}
    batch = {"x": x.numpy(), "scale": scale.numpy(), "label": np.ones((5, 2), np.float32)}
    losses = [trainer.step(batch) for _ in range(5)]
    assert losses[-1] < losses[0]
    assert np.array_equal(trainer.parameters["first.weight"], before["first.weight"])
    assert not np.array_equal(trainer.parameters["second.weight"], before["second.weight"])
    assert set(trainer.evaluate(batch)[1]) == {"y", "hidden"}


@pytest.mark.filterwarnings("ignore")
def test_what_a_module_needs_is_said() -> None:
    with pytest.raises(ArgumentError, match="example_inputs"):
        Trainer(Both())

    class Drawing(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(3))

        def forward(self, x: Any) -> Any:
            return x * self.w + torch.randn_like(x)

    with pytest.raises(UnsupportedError, match="random numbers other than those of dropout"):
        Trainer(Drawing(), example_inputs=(torch.ones(2, 3),))
    with pytest.raises(ArgumentError, match="for modules of torch"):
        Trainer(_exported(Convolutional().eval(), True), example_inputs=(torch.ones(2, 3),))


# -- ONNX files --------------------------------------------------------------------------------------------------------


def _exported(module: Any, in_evaluation: bool) -> bytes:
    mode = torch.onnx.TrainingMode.EVAL if in_evaluation else torch.onnx.TrainingMode.PRESERVE
    file = io.BytesIO()
    torch.onnx.export(
        module, (torch.from_numpy(_images()["image"]),), file, input_names=["image"], output_names=["scores"],
        dynamo=False, training=mode, do_constant_folding=False, opset_version=17,
        dynamic_axes={"image": {0: "rows"}, "scores": {0: "rows"}},
    )  # fmt: skip
    return file.getvalue()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("in_evaluation", [False, True], ids=["as_it_trains", "as_it_infers"])
def test_a_file_is_trained_as_the_module_that_it_came_from(in_evaluation: bool) -> None:
    """A file for inference whose batch normalisation was not folded is trained like one that says how it trains."""
    pytest.importorskip("onnx")
    _, twin = _twins(Convolutional)
    model = onnx.load_from_string(_exported(twin.train(not in_evaluation), in_evaluation))
    assert sum(node.op_type == "BatchNormalization" for node in model.graph.node) == 3
    trainer = Trainer(model, "cross_entropy", SGD(0.05, momentum=0.9), threads=1)
    assert set(trainer.parameters) == {name for name, _ in twin.named_parameters()}
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.05, momentum=0.9)
    for rows in (8, 5, 6, 8, 3):
        batch = {name: array[:rows].copy() for name, array in _images().items()}
        assert trainer.step(batch) == pytest.approx(_step(twin, optimizer, batch), rel=1e-4)
    found = trainer.state()
    for name, tensor in twin.state_dict().items():
        if "num_batches" in name:
            continue
        kind = "statistic" if "running" in name else "parameter"
        np.testing.assert_allclose(found[f"{kind}/{name}"], tensor.numpy(), rtol=0, atol=2e-5, err_msg=name)
    twin.eval()
    with torch.no_grad():
        expected = twin(torch.from_numpy(_images()["image"])).numpy()
    np.testing.assert_allclose(trainer.predict({"image": _images()["image"]})["scores"], expected, atol=2e-5)


@pytest.mark.filterwarnings("ignore")
def test_a_files_dropout_drops_in_training_alone() -> None:
    trainer = Trainer(_exported(Convolutional(0.5).train(), False), "cross_entropy", SGD(0.0), threads=1)
    losses = {trainer.step(_images()) for _ in range(5)}
    assert len(losses) == 5
    assert trainer.evaluate(_images())[0] == trainer.evaluate(_images())[0]


@pytest.mark.filterwarnings("ignore")
def test_a_state_keeps_statistics_and_what_was_drawn() -> None:
    trainer = Trainer(_exported(Convolutional(0.5).train(), False), "cross_entropy", Adam(0.01), seed=5, threads=1)
    for _ in range(3):
        trainer.step(_images())
    kept = {name: array.copy() for name, array in trainer.state().items()}
    losses = [trainer.step(_images()) for _ in range(3)]
    evaluated = trainer.evaluate(_images())[0]
    for array in trainer.state().values():
        array[...] = 1
    trainer.load_state(kept)
    assert [trainer.step(_images()) for _ in range(3)] == losses
    assert trainer.evaluate(_images())[0] == evaluated and trainer.steps == 6


@pytest.mark.filterwarnings("ignore")
def test_one_row_is_too_few_for_statistics() -> None:
    class Rows(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(3)

        def forward(self, x: Any) -> Any:
            return self.norm(x)

    shapes = {"x": ("rows", 3)}
    x = torch.randn(4, 3)
    trainer = Trainer(Rows(), "mean_squared_error", "sgd", example_inputs=(x,), shapes=shapes, threads=1)
    one = {"x": np.ones((1, 3), np.float32), "label": np.ones((1, 3), np.float32)}
    with pytest.raises(Exception, match="more than one element a channel"):
        trainer.step(one)
    with pytest.raises(ShapeError, match="missing: x"):
        trainer.evaluate({"label": one["label"]})
