"""Models of Keras that say themselves what they take: compiled without examples, what they leave open open."""

from __future__ import annotations

from typing import Any

import pytest
from tests.keras_on_torch import keras, torch

import mapsto
from mapsto.errors import ArgumentError, ShapeError

layers = keras.layers


def two_inputs() -> tuple[Any, Any, Any]:
    """Two inputs, the second one of any length, and the model of them."""
    a, b = keras.Input((8,), name="a"), keras.Input((None, 4), name="b")
    joined = layers.Concatenate()([a, layers.GlobalAveragePooling1D()(b)])
    return a, b, keras.Model([a, b], layers.Dense(3)(joined))


def sequential(*more: Any) -> Any:
    return keras.Sequential([*more, layers.Dense(3, activation="relu"), layers.Dense(2)])


def built() -> Any:
    model = sequential()
    model.build((None, 8))
    return model


def assert_as_itself(exe: Any, model: Any, *args: Any) -> None:
    torch.testing.assert_close(exe(*args), model(*args).detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("made", [lambda: sequential(keras.Input((8,))), built])
def test_a_sequential_with_any_number_of_examples(made: Any) -> None:
    model = made()
    exe = mapsto.compile(model, threads=1, cache=False)
    for count in (1, 2, 5):
        assert_as_itself(exe, model, torch.randn(count, 8))
    assert exe(torch.zeros(0, 8)).shape == (0, 2)
    assert exe.compilations == 1


def test_inputs_in_the_structure_that_the_model_takes() -> None:
    a, b, listed = two_inputs()
    x, y = torch.randn(5, 8), torch.randn(5, 9, 4)
    assert_as_itself(mapsto.compile(listed, threads=1, cache=False), listed, [x, y])
    nested = keras.Model([a, [b]], listed([a, b]))
    assert_as_itself(mapsto.compile(nested, threads=1, cache=False), nested, [x, [y]])
    named = keras.Model({"b": b, "a": a}, listed([a, b]))
    exe = mapsto.compile(named, threads=1, cache=False)
    assert_as_itself(exe, named, {"a": x, "b": y})
    assert_as_itself(exe, named, {"b": y, "a": x})


def test_sizes_are_said_by_the_inputs_names() -> None:
    _, _, model = two_inputs()
    exe = mapsto.compile(model, {"b": ("n", 7, 4)}, threads=1, cache=False)
    assert_as_itself(exe, model, [torch.randn(3, 8), torch.randn(3, 7, 4)])
    with pytest.raises(ShapeError):
        exe([torch.randn(3, 8), torch.randn(3, 6, 4)])
    for shapes, says in (({"c": (1,)}, "no input c"), ({"b": (1, 2)}, "has 3 axes"), ({"a": (None, 9)}, "axis 1 is 8")):
        with pytest.raises(ShapeError, match=says):
            mapsto.compile(model, shapes)


def test_a_size_that_layers_fix_must_be_said() -> None:
    ids = keras.Input((None,), dtype="int32", name="ids")
    model = keras.Model(ids, layers.LSTM(3, activation="relu")(layers.Embedding(20, 4)(ids)))
    with pytest.raises(ShapeError, match=r"axis 1 of input 'ids'.*by `shapes`"):
        mapsto.compile(model, cache=False)
    exe = mapsto.compile(model, {"ids": (None, 5)}, threads=1, cache=False)
    assert_as_itself(exe, model, torch.randint(0, 20, (3, 5), dtype=torch.int32))
    masked = keras.Model(ids, layers.LSTM(3)(layers.Embedding(20, 4, mask_zero=True)(ids)))
    with pytest.raises(ShapeError, match="by `shapes`"):
        mapsto.compile(masked, {"ids": (None, 5)}, cache=False)


class Subclassed(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.dense = layers.Dense(2)

    def call(self, x: Any) -> Any:
        return self.dense(x)


def test_what_does_not_say_what_it_takes_needs_examples() -> None:
    called = Subclassed()
    called(torch.randn(2, 8))
    for model in (called, sequential(), torch.nn.Linear(2, 3)):
        with pytest.raises(ArgumentError, match="is traced with examples"):
            mapsto.compile(model)
