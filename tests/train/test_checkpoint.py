"""Checkpoints: a training that was killed, interrupted or ended goes on with the bits that it would have had."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tests.train import killed
from tests.train.killed import EPOCHS, STEPS, trained
from tests.train.models import bits_of, borrowed, data, perceptron, state_of, trainer

from mapsto.errors import ArgumentError, ExecutionError, FileError, ModelError, ShapeError, UnsupportedError
from mapsto.train import SGD, Adam, EpochReport, StepDecay, Trainer
from mapsto.train.checkpoint import read_checkpoint, write_safetensors

safetensors = pytest.importorskip("safetensors")

KILLS = int(os.environ.get("MAPSTO_KILLS", "3"))


@pytest.fixture(autouse=True)
def _given_back() -> Iterator[None]:
    with borrowed():
        yield


@pytest.fixture(scope="module")
def whole() -> tuple[dict[str, bytes], Any]:
    """The state after a training that nothing interrupted, and what it was like."""
    each, history = trained(None)
    return bits_of(each), history


class Stop(Exception):
    pass


def stopped(path: Path, at: int, raised: type[BaseException] = Stop, **options: Any) -> None:
    """A training of a process that ends in the middle of step `at`, checkpoints being written every 2 steps."""
    each = trainer(seed=5)

    def tell(done: int, total: int, label: str) -> None:
        if done == at:
            raise raised

    options = {"early_stopping": killed.EarlyStopping(50), **options}
    with pytest.raises(ArgumentError if raised is Stop else raised):
        each.fit(
            data(), EPOCHS, data(20, seed=2), batch=6, schedule=killed.Cosine(per="step"), checkpoint=path,
            checkpoint_every=2, progress=tell, **options,
        )  # fmt: skip


# -- the same bits -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [3, 9, 10, 19, 35])
def test_going_on_gives_the_bits_of_no_interruption(
    at: int, tmp_path: Path, whole: tuple[dict[str, bytes], Any]
) -> None:
    """In the middle of an epoch, at its end, at its beginning."""
    path = tmp_path / "training.safetensors"
    stopped(path, at)
    place = read_checkpoint(path).place
    assert place.steps == (at - 1) // 2 * 2 or (place.position == 0 and place.steps == (at - 1) // STEPS * STEPS)
    each, history = trained(str(path))
    assert bits_of(each) == whole[0]
    assert [figures(epoch) for epoch in history.epochs] == [figures(epoch) for epoch in whole[1].epochs]
    assert (history.best, history.ended) == (whole[1].best, whole[1].ended)
    assert history.notes[0].startswith(f"resumed from {path}: epoch {place.epoch + 1}, after {place.position} batches")


def figures(epoch: EpochReport) -> dict[str, Any]:
    """All that is no time."""
    times = ("seconds", "examples_per_second", "shares")
    return {name: value for name, value in epoch.to_json().items() if name not in times}


def test_a_training_that_is_killed_goes_on_with_the_same_bits(
    tmp_path: Path, whole: tuple[dict[str, bytes], Any]
) -> None:
    """kill -9 at random moments, MAPSTO_KILLS times; what is left is always a whole checkpoint."""
    path, output = tmp_path / "training.safetensors", tmp_path / "state.npz"
    command = [sys.executable, killed.__file__, str(path), str(output), "0.004"]
    drawn, kills, seen = random.Random(11), 0, []
    while not output.exists():
        assert len(seen) < KILLS + 30
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        if kills < KILLS:
            for _ in range(drawn.randint(1, max(2, 2 * EPOCHS * STEPS // KILLS))):
                line = process.stdout.readline()
                if not line or line.startswith(f"step {EPOCHS * STEPS} "):
                    break
            kills += 1
            process.send_signal(signal.SIGKILL)
            process.wait()
            if output.exists():  # it was done before it was killed: from the beginning again
                output.unlink()
                path.unlink()
        else:
            process.communicate(timeout=120)
        if path.exists():
            seen.append(read_checkpoint(path).place.steps)
    with np.load(output) as found:
        assert {name: array.tobytes() for name, array in dict(found).items()} == whole[0]
    assert kills == KILLS and seen[-1] == EPOCHS * STEPS


def test_an_interruption_ends_the_step_and_writes_a_checkpoint(
    tmp_path: Path, whole: tuple[dict[str, bytes], Any]
) -> None:
    path = tmp_path / "training.safetensors"
    process = subprocess.Popen(
        [sys.executable, killed.__file__, str(path), str(tmp_path / "x.npz"), "0.05"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    while not process.stdout.readline().startswith("step 12 "):
        pass
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in err and not (tmp_path / "x.npz").exists()
    place = read_checkpoint(path).place
    assert place.epoch == 1 and place.steps >= 12 and place.position == place.steps - STEPS
    assert bits_of(trained(str(path))[0]) == whole[0]


def test_an_interruption_of_waiting_for_data_writes_a_checkpoint(tmp_path: Path) -> None:
    def batches() -> Iterator[dict[str, np.ndarray]]:
        for at in range(0, 50, 10):
            if at == 30:
                raise KeyboardInterrupt
            yield {k: v[at : at + 10] for k, v in data().items()}

    each, path = trainer(), tmp_path / "c"
    with pytest.raises(KeyboardInterrupt):
        each.fit(batches(), 1, checkpoint=path)
    found = read_checkpoint(path)
    assert found.place.position == 3
    assert {n: a.tobytes() for n, a in found.state.items()} == bits_of(each)


def test_a_second_call_goes_on_in_its_own_order(tmp_path: Path) -> None:
    """What the first call has done decides the order of the second, also when that goes on from a checkpoint."""

    def fitted(at: int | None) -> Trainer:
        with borrowed():
            each = trainer()
        each.fit(data(), 1, batch=10)
        if at is not None:
            with pytest.raises(ArgumentError, match="Stop"):
                each.fit(data(), 2, batch=10, checkpoint=tmp_path / "c", checkpoint_every=1, progress=_stopping(at))
            each.load_state(state_of(Trainer(perceptron(), optimizer=Adam(0.01), threads=1)))
        each.fit(data(), 2, batch=10, checkpoint=None if at is None else tmp_path / "c")
        return each

    expected = bits_of(fitted(None))
    assert bits_of(fitted(4)) == expected


def _stopping(at: int) -> Any:
    def tell(done: int, total: int, label: str) -> None:
        if done == at:
            raise Stop

    return tell


def test_a_step_that_is_broken_off_is_not_half_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """KeyboardInterrupt out of the middle of a step, as a signal handler of the user's raises it."""
    each, path, original = trainer(), tmp_path / "c", Trainer.step
    by_hand = trainer()
    for at in (0, 10):
        by_hand.step({k: v[at : at + 10] for k, v in data().items()})

    def step(self: Trainer, batch: Any) -> float:
        loss = original(self, batch)
        if self.steps == 3:
            self.parameters["w1"][:2] += 7
            raise KeyboardInterrupt
        return loss

    monkeypatch.setattr(Trainer, "step", step)
    with pytest.raises(KeyboardInterrupt):
        each.fit(data(), 1, batch=10, shuffle=False, checkpoint=path)
    assert bits_of(each) == bits_of(by_hand)
    found = read_checkpoint(path)
    assert found.place.position == 2 and {n: a.tobytes() for n, a in found.state.items()} == bits_of(by_hand)


def test_a_training_that_is_over_is_over_and_more_epochs_go_on(
    tmp_path: Path, whole: tuple[dict[str, bytes], Any]
) -> None:
    path = tmp_path / "training.safetensors"
    trained(str(path))
    again, history = trained(str(path))
    assert bits_of(again) == whole[0] and len(history.epochs) == EPOCHS
    _, more = trained(str(path), epochs=EPOCHS + 1)
    assert len(more.epochs) == EPOCHS + 1
    assert f"epochs: {EPOCHS} when the checkpoint was written, {EPOCHS + 1} from here on" in more.notes
    _, anew = trained(str(path), epochs=1, resume=False)
    assert len(anew.epochs) == 1 and anew.notes == ()


def test_early_stopping_goes_on_waiting(tmp_path: Path) -> None:
    """Steps go uphill from the second epoch on; the training is stopped while it waits."""

    def fitted(path: Path | None, epochs: int) -> tuple[dict[str, bytes], Any]:
        with borrowed():
            each = trainer()
        history = each.fit(
            data(), epochs, data(30, seed=2), batch=10, early_stopping=3, checkpoint=path,
            schedule=lambda step: 0.01 if step < 10 else -0.01,
        )  # fmt: skip
        return bits_of(each), (history.best, history.ended)

    expected = fitted(None, 20)
    assert expected[1] == (2, "stopped early after epoch 5: the best was epoch 2")
    fitted(tmp_path / "c", 4)
    assert fitted(tmp_path / "c", 20) == expected
    assert fitted(tmp_path / "c", 20) == expected  # it is over: nothing is done


def in_tens(given: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    return [{k: v[at : at + 10] for k, v in given.items()} for at in range(0, 50, 10)]


def drawing() -> onnx.ModelProto:
    """A model with batch normalisation, which has running statistics, and dropout, which draws."""
    rng = np.random.default_rng(0)
    arrays = {
        "w1": rng.standard_normal((6, 8)), "b1": np.zeros(8), "scale": np.ones(8), "bias": np.zeros(8),
        "mean": np.zeros(8), "variance": np.ones(8), "w2": rng.standard_normal((8, 3)), "b2": np.zeros(3),
    }  # fmt: skip
    text = """
        <ir_version: 8, opset_import: ["" : 17]> net (float[n, 6] x) => (float[n, 3] scores) {
            h = Gemm(x, w1, b1)
            m = BatchNormalization(h, scale, bias, mean, variance)
            r = Relu(m)
            ratio = Constant<value_float = 0.4>()
            d = Dropout(r, ratio)
            scores = Gemm(d, w2, b2)
        }"""
    proto = onnx.parser.parse_model(text)
    held = [onnx.numpy_helper.from_array(array.astype(np.float32), name) for name, array in arrays.items()]
    proto.graph.initializer.extend(held)
    return proto


def test_what_is_drawn_and_running_statistics_go_on(tmp_path: Path) -> None:
    path, each = tmp_path / "c", trainer(drawing(), seed=3)
    start = state_of(each)

    def fitted(epochs: int = 3, **options: Any) -> dict[str, bytes]:
        each.load_state(start)
        each.fit(data(), epochs, batch=10, **options)
        return bits_of(each)

    expected = fitted()
    for at in (4, 9):
        with pytest.raises(ArgumentError, match="Stop"):
            fitted(checkpoint=path, checkpoint_every=1, progress=_stopping(at))
        assert read_checkpoint(path).place.steps == at - 1
    assert fitted(checkpoint=path) == expected
    assert expected["statistic/mean"] != start["statistic/mean"].tobytes()
    start["counter/seed"] = np.array(4)  # it draws otherwise; the order of data stays
    assert fitted(seed=3)["parameter/w1"] != expected["parameter/w1"]


@pytest.mark.parametrize("own", [False, True], ids=["of all", "of its own"])
def test_a_loader_that_shuffles_goes_on_in_its_order(tmp_path: Path, own: bool) -> None:
    """Its generator's state when the epoch began is in the checkpoint; that of the process is another by then."""
    torch = pytest.importorskip("torch")
    tensors = torch.utils.data.TensorDataset(*(torch.from_numpy(each) for each in data().values()))

    def fitted(at: int | None, seed: int) -> tuple[Trainer, Any]:
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(seed) if own else None
        loader = torch.utils.data.DataLoader(tensors, batch_size=10, shuffle=True, generator=generator)
        with borrowed():
            each = trainer()

        def tell(done: int, total: int, label: str) -> None:
            if done == at:
                raise Stop

        every, path = (2, tmp_path / "c") if at is not None else (None, None)
        return each, each.fit(loader, 3, checkpoint=path, checkpoint_every=every, progress=tell)

    before = torch.get_rng_state()
    try:
        expected = bits_of(fitted(None, 1)[0])
        for at in (9, 14):  # after 8 steps, and after 12
            with pytest.raises(ArgumentError, match="Stop"):
                fitted(at, 1 if at == 9 else 2)
        each, history = fitted(99, 3)
    finally:
        torch.set_rng_state(before)
    assert bits_of(each) == expected and len(history.epochs) == 3
    assert "the first 2 batches of epoch 3 were gone through and skipped" in history.notes[-1]


class Broken:
    """Gives batches, and raises after some."""

    def __init__(self, batches: list[Any], after: int) -> None:
        self.batches, self.after = batches, after

    def __iter__(self) -> Iterator[Any]:
        yield from self.batches[: self.after]
        raise OSError("the network")


def test_iterables_are_gone_through_again_and_others_are_refused(tmp_path: Path) -> None:
    path, batches = tmp_path / "c", in_tens(data())
    each = trainer()
    each.fit(batches, 2)
    expected = bits_of(each)
    start = state_of(trainer())
    each.load_state(start)
    with pytest.raises(ArgumentError, match="data raised OSError: the network"):
        each.fit(Broken(batches, 3), 2, checkpoint=path, checkpoint_every=1)
    kept = path.read_bytes()

    class Loading:
        def __iter__(self) -> Iterator[Any]:
            return iter(batches)

    each.load_state(start)
    history = each.fit(Loading(), 2, checkpoint=path)
    assert bits_of(each) == expected
    assert "the first 3 batches of epoch 1 were gone through and skipped" in history.notes[-1]
    for other, message in (
        ([*batches[2:], *batches[:2]], "data: batch 3 of epoch 1 is not what it was"),
        (batches[:2], "data: it gave 2 batches, and the checkpoint was written after 3"),
    ):
        path.write_bytes(kept)
        each.load_state(start)
        with pytest.raises(ArgumentError, match=message):
            each.fit(other, 1, checkpoint=path)
        assert path.read_bytes() == kept


# -- what belongs together ---------------------------------------------------------------------------------------------


def test_what_differs_is_named(tmp_path: Path) -> None:
    path = tmp_path / "c"
    stopped(path, 4)
    kept = path.read_bytes()

    def refused(kind: type[Exception], message: str, each: Trainer, given: Any = None, **options: Any) -> None:
        with pytest.raises(kind, match=message):
            each.fit(data() if given is None else given, 2, checkpoint=path, **{"batch": 6, **options})
        assert path.read_bytes() == kept

    wider = trainer(perceptron(inner=9), seed=5)
    refused(ShapeError, r"parameter/w1: float32\[6, 8\] in the checkpoint, float32\[6, 9\] here", wider)
    refused(ShapeError, "the checkpoint is of another training", wider)
    plain = trainer(optimizer=SGD(0.01), seed=5)
    refused(ShapeError, r"the model has no optimizer/mean/b1(?s:.)*optimizer: Adam\(.*in the checkpoint, SGD", plain)
    decayed = trainer(optimizer=Adam(0.01, weight_decay=0.1), seed=5)
    refused(ShapeError, "optimizer: Adam.*weight_decay=0.0.*in the checkpoint, Adam.*weight_decay=0.1", decayed)
    half = trainer(seed=5, frozen=["w1"])
    refused(ShapeError, "the model has no .*parameter/w1", half)
    clipped = trainer(seed=5, clip_norm=1.0)
    refused(ShapeError, "settings: .*clip_norm=None.* in the checkpoint, .*clip_norm=1.0", clipped)
    same = trainer(seed=5)
    refused(ArgumentError, "order of the data has changed since: batch: 6 in the checkpoint, 7 here", same, batch=7)
    refused(ArgumentError, "seed: 5 in the checkpoint, 6 here", same, seed=6)
    refused(ArgumentError, r"data: .* in the checkpoint", same, given=data(51))
    other = {**data(), "x": data()["x"] + 1}
    refused(ArgumentError, "batch 2 of epoch 1 is not what it was when the checkpoint was written", same, given=other)


def test_frozen_weights_of_another_model_are_seen(tmp_path: Path) -> None:
    path = tmp_path / "c"
    trainer(frozen=["w1"]).fit(data(), 1, checkpoint=path)
    other = trainer(perceptron(seed=1), frozen=["w1"])
    with pytest.raises(ShapeError, match=r"constants that are not trained \(frozen weights\?\) hold other numbers"):
        other.fit(data(), 2, checkpoint=path)
    trainer(frozen=["w1"]).fit(data(), 2, checkpoint=path)


def test_another_schedule_goes_on_and_is_said(tmp_path: Path) -> None:
    each = trainer()
    each.fit(data(), 1, checkpoint=tmp_path / "c")
    history = each.fit(data(), 3, checkpoint=tmp_path / "c", schedule=StepDecay(1, 0.5))
    assert any(note.startswith("schedule: None when") and "StepDecay(every=1" in note for note in history.notes)
    assert history.series("rate") == (0.01, 0.005, 0.0025)
    history = each.fit(data(), 4, batch=10, checkpoint=tmp_path / "c", seed=9)
    assert "order of the data from here on: batch: 32 in the checkpoint, 10 here" in history.notes
    assert "order of the data from here on: seed: 0 in the checkpoint, 9 here" in history.notes


# -- files -------------------------------------------------------------------------------------------------------------


def test_a_checkpoint_is_a_file_of_safetensors(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    each = trainer()
    each.fit(data(), 2, data(), checkpoint=path, early_stopping=5)
    with safetensors.safe_open(path, framework="np") as file:
        metadata, names = file.metadata(), set(file.keys())
        assert {f"state/{name}" for name in each.state()} <= names
    assert metadata["mapsto_checkpoint"] == "1"
    training = json.loads(metadata["training"])
    assert training["place"]["epoch"] == 2 and training["epochs"] == 2 and len(training["history"]) == 2
    assert {name for name in names if name.startswith("best/")} == {f"best/parameter/{n}" for n in each.parameters}
    assert os.listdir(tmp_path) == ["c.safetensors"]


def test_types_that_numpy_lacks_and_single_numbers_are_kept(tmp_path: Path) -> None:
    import ml_dtypes

    from mapsto.train.checkpoint import read_safetensors

    arrays = {
        "a": np.array([1.5, -2], ml_dtypes.bfloat16),
        "b": np.array(7, np.int64),
        "c": np.arange(6.0).reshape(2, 3).T,
        "d": np.array([True, False]),
        "e": np.zeros((0, 3), np.float16),
    }
    write_safetensors(tmp_path / "x", arrays, {"who": "me"})
    found, metadata = read_safetensors(tmp_path / "x", "file")
    assert metadata == {"who": "me"}
    assert {n: (a.dtype, a.shape, a.tobytes()) for n, a in found.items()} == {
        n: (a.dtype, a.shape, a.tobytes()) for n, a in arrays.items()
    }


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "c"
    each = trainer()
    each.fit(data(), 1, checkpoint=path)
    good = path.read_bytes()
    before = bits_of(each)

    def refused(kind: type[Exception], message: str) -> None:
        with pytest.raises(kind, match=message):
            each.fit(data(), 2, checkpoint=path)
        assert bits_of(each) == before

    for damaged in (b"", b"hello", good[:-1], good[:40], good + b"x", bytes(8) + good[8:], b"\xff" * 64):
        path.write_bytes(damaged)
        refused(ModelError, "cannot be read as safetensors")
    write_safetensors(path, each.state(), {})
    refused(ModelError, "no checkpoint of a training by mapsto")
    write_safetensors(path, {}, {"mapsto_checkpoint": "2", "training": "{}"})
    refused(UnsupportedError, "a checkpoint of version '2'; this mapsto reads 1")
    for training in ("", "{}", "[]", '{"facts": {}}', "[" * 10_000):
        write_safetensors(path, {}, {"mapsto_checkpoint": "1", "training": training})
        refused(ModelError, "damaged: what it says of its training is none")
    found = json.loads(safetensors.safe_open(_with(path, good), framework="np").metadata()["training"])
    for part, name, value in (
        ("place", "epoch", -1), ("place", "steps", "many"), ("place", "more", 1), ("place", "losses", None),
        ("history", 0, {}), ("place", "ended", 3),
    ):  # fmt: skip
        changed = json.loads(json.dumps(found))
        changed[part][name] = value
        state = {f"state/{n}": a for n, a in each.state().items()}
        write_safetensors(path, state, {"mapsto_checkpoint": "1", "training": json.dumps(changed)})
        refused(ModelError, "damaged")
    write_safetensors(path, {"lunch/x": np.zeros(1)}, {"mapsto_checkpoint": "1", "training": "{}"})
    refused(ModelError, "no checkpoint has an array 'lunch/x'")
    path.unlink()
    path.mkdir()
    refused(FileError, "it is a folder")


def test_a_file_that_was_changed_anywhere_is_read_or_refused(tmp_path: Path) -> None:
    """400 files with bytes of the header changed, in which lengths, types, shapes and all texts are."""
    path, each = tmp_path / "c", trainer()
    each.fit(data(), 1, data(20), checkpoint=path, early_stopping=2)
    good, drawn, refused = path.read_bytes(), random.Random(3), 0
    head = 8 + int.from_bytes(good[:8], "little")
    for _ in range(400):
        changed = bytearray(good)
        for _ in range(drawn.randint(1, 3)):
            changed[drawn.randrange(head)] = drawn.choice(b'0123456789"{}[],:-eaN\x00\xff')
        path.write_bytes(changed)
        try:
            read_checkpoint(path)
        except (ModelError, UnsupportedError):
            refused += 1
    assert refused > 200


def _with(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_a_place_that_cannot_be_written_is_told_before_the_first_step(tmp_path: Path) -> None:
    each = trainer()
    with pytest.raises(FileError, match="there is no folder"):
        each.fit(data(), 1, checkpoint=tmp_path / "none" / "c")
    with pytest.raises(ArgumentError, match="checkpoint: expected a path"):
        each.fit(data(), 1, checkpoint=3)  # type: ignore[arg-type]
    assert each.steps == 0


def test_a_state_that_is_not_finite_is_not_written(tmp_path: Path) -> None:
    """A parameter that no loss depends on yet is spoiled by a callback: the checkpoint before stays."""
    path = tmp_path / "c"
    each = trainer()
    each.fit(data(), 1, checkpoint=path)
    kept = path.read_bytes()

    def spoil(report: EpochReport) -> None:
        each.parameters["b1"][0] = np.inf

    with pytest.raises(ExecutionError, match="after it, parameter/b1 holds Inf in 1 of 8 elements"):
        each.fit(data(), 2, callbacks=spoil, checkpoint=path)
    assert path.read_bytes() == kept and np.isfinite(each.parameters["b1"]).all()


def test_an_epoch_is_kept_whatever_a_callback_raises(tmp_path: Path) -> None:
    each = trainer()
    for raised, kind in ((ZeroDivisionError, ArgumentError), (KeyboardInterrupt, KeyboardInterrupt)):

        def callback(report: EpochReport, raised: type[BaseException] = raised) -> None:
            raise raised

        before = each.steps
        with pytest.raises(kind):
            each.fit(data(), 9, callbacks=callback, checkpoint=tmp_path / "c")
        place = read_checkpoint(tmp_path / "c").place
        assert (place.steps, place.position) == (before + 2, 0) and place.epoch == place.steps // 2


def test_without_the_package_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    with pytest.raises(UnsupportedError, match=r"pip install 'mapsto\[train\]'"):
        trainer().fit(data(), 1, checkpoint=tmp_path / "c")
