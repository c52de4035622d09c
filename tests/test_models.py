"""The real models, all native, on real input: error, same bits everywhere, poisoned memory, sizes a run finds out.

The models come from scripts/fetch_models.py. Where they are not there the tests are skipped, or fail if
MAPSTO_REQUIRE_MODELS is set. MAPSTO_MODELS names another folder.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scripts.fetch_models import DEFAULT_FOLDER, model_path
from scripts.real_inputs import real_inputs

import mapsto
from mapsto.report.accuracy import judge, judge_runs
from mapsto.report.engines import Setup, open_engine

EXAMPLES = Path(__file__).parent.parent / "examples"
MODELS = Path(os.environ.get("MAPSTO_MODELS", DEFAULT_FOLDER))
FETCHED = ("nudenet", "minilm", "silero-vad", "silero-vad-ifless", "piper")

Feed = dict[str, np.ndarray]
Outputs = dict[str, np.ndarray]


@dataclass(frozen=True)
class Model:
    """A model file and real inputs for it, all of one shape."""

    path: Path
    feeds: Sequence[Feed]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: array.shape for name, array in self.feeds[0].items()}


@functools.cache
def model_of(key: str) -> Model:
    if key == "mnist-cnn":
        with np.load(EXAMPLES / "digits.npz") as digits:
            return Model(EXAMPLES / "mnist-cnn.onnx", [{"image": digits["image"][i : i + 8]} for i in range(0, 64, 8)])
    path = model_path(MODELS, key)
    if not path.exists():
        reason = f"{path} is missing: run scripts/fetch_models.py"
        pytest.fail(reason) if os.environ.get("MAPSTO_REQUIRE_MODELS") else pytest.skip(reason)
    return Model(path, real_inputs(MODELS, key))


@functools.cache
def references(key: str, engine: str) -> list[Outputs]:
    model = model_of(key)
    opened = open_engine(engine, Setup(model.path))
    return [opened.run(feed) for feed in model.feeds]


# Branches of this model give outputs of other ranks for other lengths: one must be said, the batch stays open.
LEFT_OPEN: dict[str, dict[str, tuple[int | None, ...]]] = {"silero-vad": {"input": (None, 576)}}


@functools.cache
def compiled(key: str, fixed: bool) -> Any:
    """On one thread; with the inputs' shapes said beforehand, or left open where the model leaves them open."""
    model = model_of(key)
    return mapsto.compile(model.path, shapes=model.shapes if fixed else LEFT_OPEN.get(key), threads=1)


@pytest.fixture
def two_threads(tmp_path: Path) -> Any:
    """Makes an executable on one thread into the same on two, through a saved file."""

    def again(executable: Any) -> Any:
        executable.save(tmp_path / "saved.mapsto")
        return mapsto.load(tmp_path / "saved.mapsto", threads=2)

    return again


def assert_same_bits(found: Outputs, expected: Outputs, what: str) -> None:
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape, f"{what}: {name}"
        assert found[name].tobytes() == array.tobytes(), f"{what}: {name} has other bits"


every_model = pytest.mark.parametrize(
    "key", ["mnist-cnn", *(pytest.param(k, marks=pytest.mark.models) for k in FETCHED)]
)
shapes_fixed_or_open = pytest.mark.parametrize("fixed", [True, False], ids=["fixed", "open"])


@every_model
@shapes_fixed_or_open
def test_error_is_within_the_rule(key: str, fixed: bool) -> None:
    ours = [compiled(key, fixed).run(feed) for feed in model_of(key).feeds]
    verdicts = judge_runs(references(key, "onnxruntime-unoptimised"), ours, references(key, "onnxruntime"))
    assert not [verdict for verdict in verdicts if not verdict.ok]


@every_model
@shapes_fixed_or_open
def test_same_bits_on_every_run_and_any_number_of_threads(key: str, fixed: bool, two_threads: Any) -> None:
    single = compiled(key, fixed)
    double = two_threads(single)
    for feed in model_of(key).feeds[:4]:
        expected = single.run(feed)
        assert_same_bits(single.run(feed), expected, "a second run")
        assert_same_bits(double.run(feed), expected, "two threads")
        assert_same_bits(double.run(feed), expected, "two threads, a second run")


@every_model
@shapes_fixed_or_open
def test_memory_that_nobody_may_read_is_not_read(key: str, fixed: bool, two_threads: Any) -> None:
    expected = [compiled(key, fixed).run(feed) for feed in model_of(key).feeds[:2]]
    poisoned = two_threads(compiled(key, fixed))
    poisoned.poison()
    for feed, outputs in zip(model_of(key).feeds, expected, strict=False):
        assert_same_bits(poisoned.run(feed), outputs, "poisoned memory")


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whoever starts a compile worker from here on fails."""
    import subprocess

    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError(f"a process was started: {arguments}")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    yield


@pytest.mark.models
@shapes_fixed_or_open
def test_four_sentences_of_one_shape_have_four_lengths_without_compiling_again(
    fixed: bool, request: pytest.FixtureRequest
) -> None:
    executable, model = compiled("piper", fixed), model_of("piper")
    expected = [outputs["output"].shape for outputs in references("piper", "onnxruntime-unoptimised")]
    request.getfixturevalue("no_compiler")
    found = [executable.run(feed)["output"].shape for feed in model.feeds]
    assert found == expected and len(set(found)) == len(model.feeds) == 4


@pytest.mark.models
def test_a_voice_with_noise_speaks() -> None:
    """With its own scales the voice draws random numbers: nothing to compare with, but sound of a sensible size."""
    (feed, *_) = real_inputs(MODELS, "piper-random") if model_of("piper") else []
    (sound,) = compiled("piper", False).run(feed).values()
    assert 22050 < sound.shape[-1] < 5 * 22050
    assert np.isfinite(sound).all() and 0.1 < np.abs(sound).max() < 2


def other_sizes(key: str) -> Feed:
    """Inputs of sizes that the feeds of a model do not have."""
    (feed, *_) = model_of(key).feeds
    if key == "mnist-cnn":
        return {"image": feed["image"][:5]}
    if key == "minilm":
        return {name: np.repeat(array[:, :11], 3, axis=0) for name, array in feed.items()}
    assert key == "piper"
    phonemes = feed["input"][:, :41]
    return {**feed, "input": phonemes, "input_lengths": np.array([41], np.int64)}


@pytest.mark.parametrize(
    "key", ["mnist-cnn", *(pytest.param(k, marks=pytest.mark.models) for k in ("minilm", "piper"))]
)
def test_open_sizes_may_change_without_compiling_again(key: str, request: pytest.FixtureRequest) -> None:
    executable, feed = compiled(key, False), other_sizes(key)
    setup = Setup(model_of(key).path)
    expected, peer = (open_engine(name, setup).run(feed) for name in ("onnxruntime-unoptimised", "onnxruntime"))
    request.getfixturevalue("no_compiler")
    assert not [verdict for verdict in judge(expected, executable.run(feed), peer) if not verdict.ok]


def test_the_digits_are_read() -> None:
    with np.load(EXAMPLES / "digits.npz") as digits:
        image, label = digits["image"], digits["label"]
    logits = compiled("mnist-cnn", False)(image)
    assert (logits.argmax(1) == label).mean() == 1.0
