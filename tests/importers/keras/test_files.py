"""Keras files, compiled, beside what Keras predicts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.keras_on_torch import keras

import mapsto
from mapsto.errors import ModelError, ShapeError, UnsupportedError
from mapsto.importers.keras import load

layers = keras.layers


def convolutional() -> keras.Model:
    image = keras.Input((12, 12, 3), name="image")
    x = layers.Conv2D(8, 3, padding="same", activation="relu")(image)
    x = layers.BatchNormalization()(layers.MaxPooling2D(2)(x))
    x = layers.Dropout(0.5)(layers.Flatten()(x))
    return keras.Model(image, layers.Dense(5, activation="softmax")(x))


def test_a_file_with_the_axis_of_examples_open(tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    model = convolutional()
    model.save(tmp_path / "m.keras")
    exe = mapsto.compile(tmp_path / "m.keras", threads=1)
    assert [port.name for port in exe.inputs] == ["image"]
    for count in (1, 2, 7):
        x = np.random.default_rng(count).random((count, 12, 12, 3), np.float32)
        np.testing.assert_allclose(exe(x), model.predict(x, verbose=0), rtol=0, atol=1e-5)
    assert exe(np.zeros((0, 12, 12, 3), np.float32)).shape == (0, 5)


def test_several_inputs_by_their_names(tmp_path: Path) -> None:
    a, b = keras.Input((6,), name="a"), keras.Input((4,), name="b")
    model = keras.Model([a, b], layers.Dense(3)(layers.Concatenate()([a, layers.Dense(6)(b)])))
    model.save(tmp_path / "m.keras")
    x, y = np.random.default_rng(0).random((2, 5, 6), np.float32)[0], np.ones((5, 4), np.float32)
    (made,) = mapsto.compile(tmp_path / "m.keras", threads=1).run({"b": y, "a": x}).values()
    np.testing.assert_allclose(made, model.predict([x, y], verbose=0), rtol=0, atol=1e-5)


def test_recurrent_layers_stay_one_node_each_and_lengths_open(tmp_path: Path) -> None:
    ids = keras.Input((None,), dtype="int32", name="ids")
    x = layers.Bidirectional(layers.LSTM(4, return_sequences=True))(layers.Embedding(20, 8)(ids))
    x = layers.LSTM(5, return_sequences=True, go_backwards=True, use_bias=False)(x)
    x = layers.GRU(6, return_sequences=True, use_bias=False)(x)
    model = keras.Model(ids, layers.Dense(2)(layers.GRU(3)(x)))
    for layer in model.layers:  # zeros would hide a bias that is left out
        layer.set_weights([np.random.default_rng(1).normal(0, 0.5, w.shape) for w in layer.get_weights()])
    model.save(tmp_path / "m.keras")
    graph = load(tmp_path / "m.keras")
    assert sorted(node.op for node in graph.walk() if node.op in ("lstm", "gru")) == ["gru"] * 2 + ["lstm"] * 3
    exe = mapsto.compile(tmp_path / "m.keras", threads=1)
    for examples, length in ((3, 5), (1, 1), (2, 9)):
        x = np.random.default_rng(length).integers(0, 20, (examples, length), np.int32)
        np.testing.assert_allclose(exe(x), model.predict(x, verbose=0), rtol=0, atol=1e-5)


def test_a_length_that_layers_fix_must_be_said(tmp_path: Path) -> None:
    ids = keras.Input((None,), dtype="int32", name="ids")
    x = layers.Bidirectional(layers.LSTM(4, return_sequences=True, activation="relu"))(layers.Embedding(20, 8)(ids))
    model = keras.Model(ids, layers.Dense(2)(layers.GRU(3, recurrent_activation="hard_sigmoid")(x)))
    model.save(tmp_path / "m.keras")
    with pytest.raises(ShapeError, match="axis 1 of input 'ids'"):
        load(tmp_path / "m.keras")
    with pytest.raises(ShapeError, match="there is no input other"):
        load(tmp_path / "m.keras", {"other": (1, 2)})
    exe = mapsto.compile(tmp_path / "m.keras", {"ids": ("n", 5)}, threads=1)
    x = np.random.default_rng(0).integers(0, 20, (3, 5), np.int32)
    np.testing.assert_allclose(exe(x), model.predict(x, verbose=0), rtol=0, atol=1e-5)


def test_what_is_no_keras_file_says_so(tmp_path: Path) -> None:
    (tmp_path / "m.keras").write_bytes(b"PK nothing")
    with pytest.raises(ModelError, match="Keras cannot read it"):
        mapsto.compile(tmp_path / "m.keras")
    with pytest.raises(ModelError, match="cannot be read"):
        mapsto.compile(tmp_path / "other.keras")
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").write_bytes(b"")
    (tmp_path / "graph.pb").write_bytes(b"\x0a\x02of another program")
    for name in ("saved", "saved/saved_model.pb", "graph.pb"):
        with pytest.raises(ModelError, match="tf2onnx"):
            mapsto.compile(tmp_path / name)
    with pytest.raises(ModelError, match="save the model as a `.keras` file"):
        mapsto.compile(tmp_path / "weights.h5")


@keras.saving.register_keras_serializable("tests")
class Sorted(layers.Layer):
    def call(self, x: object) -> object:
        return x


def test_layers_that_are_somebody_elses_are_named(tmp_path: Path) -> None:
    x = keras.Input((4,))
    keras.Model(x, Sorted(name="own")(x)).save(tmp_path / "m.keras")
    with pytest.raises((ModelError, UnsupportedError), match="Sorted|cannot read"):
        load(tmp_path / "m.keras")
