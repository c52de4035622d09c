"""Models of Keras on torch, compiled as the modules that they are, beside what Keras predicts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tests.keras_on_torch import keras, torch

import mapsto
import mapsto.torch
from mapsto.errors import UnsupportedError
from mapsto.importers.torch.exported import exported
from mapsto.importers.torch.places import name_of

layers = keras.layers
IMAGE, SEQUENCE, ROW = (2, 9, 9, 4), (2, 7, 6), (3, 8)

LAYERS: dict[str, tuple[tuple[int, ...], Callable[[], Any]]] = {
    "Dense": (ROW, lambda: layers.Dense(5, activation="gelu")),
    "Conv1D": (SEQUENCE, lambda: layers.Conv1D(5, 3, padding="causal")),
    "Conv2D": (IMAGE, lambda: layers.Conv2D(6, 3, strides=2, padding="same", activation="relu")),
    "Conv2D dilated": (IMAGE, lambda: layers.Conv2D(6, 3, dilation_rate=2)),
    "Conv2DTranspose": (IMAGE, lambda: layers.Conv2DTranspose(3, 3, strides=2, padding="same")),
    "Conv3D": ((1, 5, 5, 5, 2), lambda: layers.Conv3D(3, 2)),
    "DepthwiseConv2D": (IMAGE, lambda: layers.DepthwiseConv2D(3, padding="same")),
    "SeparableConv2D": (IMAGE, lambda: layers.SeparableConv2D(5, 3)),
    "MaxPooling2D": (IMAGE, lambda: layers.MaxPooling2D(3, 2, padding="same")),
    "AveragePooling2D": (IMAGE, lambda: layers.AveragePooling2D(2)),
    "GlobalAveragePooling2D": (IMAGE, lambda: layers.GlobalAveragePooling2D()),
    "GlobalMaxPooling1D": (SEQUENCE, lambda: layers.GlobalMaxPooling1D()),
    "BatchNormalization": (IMAGE, lambda: layers.BatchNormalization()),
    "LayerNormalization": (SEQUENCE, lambda: layers.LayerNormalization()),
    "GroupNormalization": (IMAGE, lambda: layers.GroupNormalization(2)),
    "UnitNormalization": (ROW, lambda: layers.UnitNormalization()),
    "Activation": (ROW, lambda: layers.Activation("selu")),
    "LeakyReLU": (ROW, lambda: layers.LeakyReLU()),
    "PReLU": (ROW, lambda: layers.PReLU()),
    "ELU": (ROW, lambda: layers.ELU()),
    "Softmax": (ROW, lambda: layers.Softmax()),
    "Flatten": (IMAGE, lambda: layers.Flatten()),
    "Reshape": (IMAGE, lambda: layers.Reshape((-1, 6))),
    "Permute": (IMAGE, lambda: layers.Permute((3, 1, 2))),
    "RepeatVector": (ROW, lambda: layers.RepeatVector(3)),
    "UpSampling2D": (IMAGE, lambda: layers.UpSampling2D(2, interpolation="bilinear")),
    "ZeroPadding2D": (IMAGE, lambda: layers.ZeroPadding2D(((1, 2), (0, 1)))),
    "Cropping2D": (IMAGE, lambda: layers.Cropping2D(2)),
    "LSTM": (SEQUENCE, lambda: layers.LSTM(5)),
    "GRU": (SEQUENCE, lambda: layers.GRU(5, return_sequences=True)),
    "SimpleRNN": (SEQUENCE, lambda: layers.SimpleRNN(5)),
    "Bidirectional": (SEQUENCE, lambda: layers.Bidirectional(layers.LSTM(4))),
    "Dropout": (ROW, lambda: layers.Dropout(0.5)),
    "SpatialDropout2D": (IMAGE, lambda: layers.SpatialDropout2D(0.5)),
}


def assert_as_predicted(model: Any, x: np.ndarray, tolerance: float = 1e-5) -> mapsto.Executable:
    want = model.predict(x, verbose=0)
    exe = mapsto.compile(model.eval(), (torch.from_numpy(x),), threads=1, cache=False)
    made = exe(torch.from_numpy(x)).numpy()
    assert made.shape == want.shape
    np.testing.assert_allclose(made, want, rtol=0, atol=tolerance * max(1.0, float(np.abs(want).max())))
    return exe


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer(name: str) -> None:
    keras.utils.set_random_seed(1)
    shape, layer = LAYERS[name]
    given = keras.Input(shape[1:])
    assert_as_predicted(keras.Model(given, layer()(given)), np.random.default_rng(0).standard_normal(shape, np.float32))


class Mnist(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.first = layers.Conv2D(32, 3, padding="same", activation="relu")
        self.second = layers.Conv2D(64, 3, padding="same", activation="relu")
        self.pools = [layers.MaxPooling2D(2), layers.MaxPooling2D(2)]
        self.flat, self.wide, self.classes = layers.Flatten(), layers.Dense(128, activation="relu"), layers.Dense(10)

    def call(self, x: Any) -> Any:
        x = self.pools[1](self.second(self.pools[0](self.first(x))))
        return self.classes(self.wide(self.flat(x)))


def test_a_subclassed_model_has_no_transposes_in_its_plan() -> None:
    exe = assert_as_predicted(Mnist(), np.random.default_rng(0).random((4, 28, 28, 1), np.float32))
    works = [line for line in exe.executable.plan_text.splitlines() if line.startswith("work ")]
    assert works and not any("transpose" in line.partition("=")[2].split("(")[0] for line in works)


def test_an_architecture_of_keras() -> None:
    keras.utils.set_random_seed(1)
    model = keras.applications.MobileNetV2((64, 64, 3), weights=None, classes=10, alpha=0.35)
    assert_as_predicted(model, np.random.default_rng(0).random((1, 64, 64, 3), np.float32))


class Strange(layers.Layer):
    def call(self, x: Any) -> Any:
        return torch.linalg.eigvals(torch.matmul(x.transpose(-1, -2), x)).real


class Choosing(layers.Layer):
    def call(self, x: Any) -> Any:
        return x * 2 if float(x.sum()) > 0 else x


def nested(layer: Any) -> Any:
    block = keras.Sequential([layers.Dense(6, name="inside"), layer], name="block")
    given = keras.Input(SEQUENCE[1:])
    return keras.Model(given, block(layers.Dense(6, name="before")(given)), name="whole").eval()


@pytest.mark.parametrize(
    ("layer", "says"),
    [(Strange(name="strange"), "whole/block/strange/"), (Choosing(name="choosing"), "in layer 'whole/block/choosing'")],
)
def test_what_is_refused_is_told_by_its_layer(layer: Any, says: str) -> None:
    with pytest.raises(UnsupportedError, match=says) as caught:
        mapsto.compile(nested(layer), (torch.ones(SEQUENCE),), cache=False)
    assert "keras/src" not in str(caught.value) and "draft_export" not in str(caught.value)


def test_torchs_compiler_tells_it_by_its_layer_as_well() -> None:
    options = {"fallback": False}
    with torch.no_grad(), pytest.raises(Exception, match="in 'whole/block/strange/"):
        torch.compile(nested(Strange(name="strange")), backend=mapsto.torch.backend, options=options)(
            torch.ones(SEQUENCE)
        )


def test_so_does_a_trainer() -> None:
    with pytest.raises(UnsupportedError, match="in 'whole/block/strange/"):
        mapsto.Trainer(nested(Strange(name="strange")), "mean_squared_error", example_inputs=(torch.ones(SEQUENCE),))


def test_calls_are_named_by_their_layers() -> None:
    """And nothing stays behind: Keras's calls are its own again."""
    before = keras.layers.Layer.__call__, torch.fx.Graph.create_node
    traced = exported(nested(layers.Dense(3, name="last")), (torch.ones(SEQUENCE),))
    names = [name_of(node) for node in traced.exported.graph.nodes if node.op == "call_function"]
    assert any(name.startswith("whole/block/last/") for name in names), names
    assert any(name.startswith("whole/before/") for name in names), names
    assert (keras.layers.Layer.__call__, torch.fx.Graph.create_node) == before
