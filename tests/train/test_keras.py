"""Keras models on torch that are trained: their own variables are moved, as Keras and torch would move them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.keras_on_torch import keras, torch

import mapsto
from mapsto.errors import UnsupportedError
from mapsto.train import SGD, Adam, Trainer

layers = keras.layers


def _sequential(dropout: float = 0.0) -> Any:
    keras.utils.set_random_seed(0)
    return keras.Sequential([
        keras.Input((8, 8, 3)), layers.Conv2D(8, 3, padding="same"), layers.BatchNormalization(), layers.ReLU(),
        layers.MaxPooling2D(2), layers.Flatten(), layers.Dropout(dropout), layers.Dense(5),
    ])  # fmt: skip


class Subclassed(keras.Model):  # type: ignore[misc]
    """What people write: layers as attributes, one of them made by the first call."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = layers.Conv2D(4, 3, padding="same", activation="relu", name="conv")
        self.pool = layers.MaxPooling2D(2, name="pool")
        self.flat, self.last = layers.Flatten(name="flat"), layers.Dense(5, name="last")

    def call(self, x: Any) -> Any:
        return self.last(self.flat(self.pool(self.conv(x))))


def _batch(seed: int = 0, count: int = 16) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((count, 8, 8, 3)).astype(np.float32), rng.integers(0, 5, count)


def _trainer(model: Any, x: np.ndarray, **options: Any) -> tuple[Trainer, str]:
    trainer = Trainer(model, "cross_entropy", example_inputs=(torch.from_numpy(x),), threads=1, **options)
    (name,) = (value.name for value in trainer.trained().inputs)
    return trainer, name


def test_steps_are_those_of_torch() -> None:
    """The loss of each step, variables and running statistics afterwards: as by a loop of torch over the model."""
    model, (x, y) = _sequential(), _batch()
    start = [w.copy() for w in model.get_weights()]
    trainer, name = _trainer(model, x, optimizer=SGD(0.05))
    losses = [trainer.step({name: x, "label": y}) for _ in range(10)]
    moved = [w.copy() for w in model.get_weights()]  # the model's own memory
    np.testing.assert_allclose(model.predict(x, verbose=0), next(iter(trainer.predict({name: x}).values())), atol=1e-5)

    model.set_weights(start)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    expected = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(torch.from_numpy(x), training=True), torch.from_numpy(y))
        loss.backward()
        optimizer.step()
        expected.append(float(loss))
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    for found, wanted in zip(moved, model.get_weights(), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


def test_names_are_kerass_paths() -> None:
    model, (x, _) = _sequential(), _batch()
    trainer, _ = _trainer(model, x, optimizer=SGD(0.05))
    own = {v.path for v in model.trainable_variables}
    assert set(trainer.parameters) == own
    moving = {v.path for v in model.non_trainable_variables if "moving" in v.path}
    assert {key.removeprefix("statistic/") for key in trainer.state() if key.startswith("statistic/")} == moving
    pointers = {v.path: v.value.data_ptr() for v in model.trainable_variables}
    assert all(array.ctypes.data == pointers[path] for path, array in trainer.parameters.items())


def test_a_subclassed_model_of_any_batch() -> None:
    model, (x, y) = Subclassed(), _batch()
    trainer = Trainer(
        model, "cross_entropy", Adam(0.01), example_inputs=(torch.from_numpy(x),), threads=1,
        shapes={"args_0": ("n", 8, 8, 3)},
    )  # fmt: skip
    (name,) = (value.name for value in trainer.trained().inputs)
    losses = [trainer.step({name: x[:n], "label": y[:n]}) for n in (16, 5, 1, 16, 16, 16, 16, 16)]
    assert losses[-1] < losses[0]
    exe = mapsto.compile(trainer.trained(), cache=False)
    np.testing.assert_allclose(exe(x), model.predict(x, verbose=0), atol=1e-5)


def test_dropout_drops_in_steps_alone() -> None:
    found = []
    for seed in (1, 1, 2):
        model, (x, y) = _sequential(0.5), _batch()
        trainer, name = _trainer(model, x, optimizer=SGD(0.05), seed=seed)
        scores = [next(iter(trainer.predict({name: x}).values())) for _ in range(2)]
        np.testing.assert_array_equal(*scores)
        found.append([trainer.step({name: x, "label": y}) for _ in range(3)])
    assert found[0] == found[1] != found[2]


def test_layers_that_are_not_to_be_trained() -> None:
    model, (x, y) = _sequential(), _batch()
    model.layers[0].trainable = False
    before = model.layers[0].get_weights()
    trainer, name = _trainer(model, x, optimizer=SGD(0.05), frozen=["*dense*/bias"])
    assert not any("conv2d" in path or ("dense" in path and path.endswith("bias")) for path in trainer.parameters)
    trainer.step({name: x, "label": y})
    for old, new in zip(before, model.layers[0].get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_epochs() -> None:
    model, (x, y) = Subclassed(), _batch(count=64)
    trainer, name = _trainer(model, x[:16], optimizer=Adam(0.01))
    history = trainer.fit({name: x, "label": y}, epochs=6, batch=16, progress=False)
    assert history.epochs[-1].loss < history.epochs[0].loss


def test_variables_of_one_path_are_refused() -> None:
    class Twins(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(name="twins")
            self.one, self.two = layers.Dense(5, name="same"), layers.Dense(5, name="same")

        def call(self, x: Any) -> Any:
            return self.two(self.one(x))

    with pytest.raises(UnsupportedError, match="one path"):
        Trainer(Twins(), "cross_entropy", SGD(0.1), example_inputs=(torch.zeros(2, 5),))
