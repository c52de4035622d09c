"""`Trainer.fit`: what it is given, what it learns, when it stops, and what it says."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from tests.train.models import bits_of, borrowed, data, digits, perceptron, trainer

from mapsto.errors import ArgumentError, ExecutionError, ShapeError
from mapsto.train import SGD, Adam, EarlyStopping, EpochReport, StepDecay, Trainer
from mapsto.train.history import History


@pytest.fixture(autouse=True)
def _given_back() -> Iterator[None]:
    with borrowed():
        yield


def test_a_fit_is_its_steps() -> None:
    """The same bits as steps by hand over batches of the seed's permutations; the loss is weighted by examples."""
    given, by_hand = data(), trainer(seed=3)
    losses = []
    for epoch in range(2):
        places = np.random.default_rng([3, epoch]).permutation(50)
        parts = [places[at : at + 16] for at in range(0, 50, 16)]
        assert [len(part) for part in parts] == [16, 16, 16, 2]
        each = [by_hand.step({k: v[part] for k, v in given.items()}) * len(part) for part in parts]
        losses.append(sum(each) / 50)
    fitted = trainer(seed=3)
    history = fitted.fit(given, 2, batch=16)
    assert bits_of(fitted) == bits_of(by_hand) and history.series("loss") == tuple(losses)
    assert [(e.number, e.steps, e.examples, e.validation) for e in history.epochs] == [(n, 4, 50, None) for n in (1, 2)]
    other = trainer(seed=3)
    other.fit(given, 2, batch=16, seed=4)
    assert bits_of(other) != bits_of(fitted)


def test_a_second_call_goes_on_in_another_order() -> None:
    given, once, twice = data(), trainer(), trainer()
    once.fit(given, 1)
    twice.fit(given, 1)
    assert bits_of(twice) == bits_of(once)
    once.fit(given, 1)
    first = twice.steps
    places = np.random.default_rng([0, first << 20]).permutation(50)
    assert places.tolist() != np.random.default_rng([0, 0]).permutation(50).tolist()
    for part in (places[:32], places[32:]):
        twice.step({name: array[part] for name, array in given.items()})
    assert bits_of(twice) == bits_of(once)


def test_real_digits_are_learnt_with_metrics_of_data_held_apart() -> None:
    rows = {"x": digits()["image"].reshape(64, 784), "label": digits()["label"].astype(np.uint8)}
    each = Trainer(perceptron(32, 784, 10), optimizer=Adam(0.003), threads=1)
    history = each.fit(rows, 12, rows, batch=10, metrics=["accuracy", "top_5_accuracy"])
    scores = each.predict({"x": rows["x"]})["scores"]
    last = history.epochs[-1]
    assert last.metrics["accuracy"] == (scores.argmax(1) == rows["label"]).mean() > 0.95
    assert last.metrics["top_5_accuracy"] == 1.0
    assert last.validation == pytest.approx(each.evaluate(rows)[0], rel=1e-5)
    assert history.epochs[0].loss > 2 > last.loss


def test_what_is_not_shuffled_comes_in_order_and_a_last_batch_can_be_dropped() -> None:
    given, by_hand, fitted = data(), trainer(), trainer()
    for at in (0, 16, 32):
        by_hand.step({k: v[at : at + 16] for k, v in given.items()})
    history = fitted.fit(given, 1, batch=16, shuffle=False, drop_last=True)
    assert bits_of(fitted) == bits_of(by_hand) and history.epochs[0].examples == 48


def in_parts(given: dict[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    return [{k: v[at : at + 10] for k, v in given.items()} for at in range(0, 50, 10)]


class Loading:
    """An iterable without a length that starts anew each time."""

    def __init__(self, batches: list[Any]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)


def test_dicts_tuples_iterables_and_loaders_are_the_same_data() -> None:
    torch = pytest.importorskip("torch")
    given, by_hand = data(), trainer()
    for _ in range(2):
        for part in in_parts(given):
            by_hand.step(part)
    expected = bits_of(by_hand)
    tensors = torch.utils.data.TensorDataset(torch.from_numpy(given["x"]), torch.from_numpy(given["label"]))
    tuples = [(part["x"], part["label"]) for part in in_parts(given)]
    for each in (
        in_parts(given),
        tuples,
        Loading(tuples),
        Loading(in_parts(given)),
        torch.utils.data.DataLoader(tensors, batch_size=10),
        torch.utils.data.DataLoader(
            [{"x": x, "label": y} for x, y in zip(*given.values(), strict=True)], batch_size=10
        ),
    ):
        with borrowed():
            fitted = trainer()
        history = fitted.fit(each, 2, validation=each)
        assert bits_of(fitted) == expected, each
        assert history.epochs[1].examples == 50 and history.epochs[1].metrics["accuracy"] > 0.3


def test_a_generator_does_for_one_epoch() -> None:
    by_hand, fitted = trainer(), trainer()
    for part in in_parts(data()):
        by_hand.step(part)
    fitted.fit((part for part in in_parts(data())), 1)
    assert bits_of(fitted) == bits_of(by_hand)
    with pytest.raises(ArgumentError, match="data: an iterator is used up after one epoch of 2"):
        trainer().fit((part for part in in_parts(data())), 2)


def test_schedules_set_the_rate_and_compile_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    given, by_hand, fitted, again = data(), trainer(), trainer(), trainer()
    for epoch in range(3):
        by_hand.learning_rate = 0.01 * 0.5**epoch
        for part in in_parts(given):
            by_hand.step(part)
    def forbidden(*args: object, **more: object) -> None:
        raise AssertionError("a compile worker was started")

    monkeypatch.setattr("mapsto.devices.cpu.compiler.CompilePool.__init__", forbidden)
    history = fitted.fit(in_parts(given), 3, schedule=StepDecay(1, 0.5))
    assert bits_of(fitted) == bits_of(by_hand)
    assert history.series("rate") == (0.01, 0.005, 0.0025) and fitted.learning_rate == 0.01
    again.fit(in_parts(given), 3, schedule=lambda step: 0.01 * 0.5 ** (step // 5))
    assert bits_of(again) == bits_of(by_hand)


# -- stopping ----------------------------------------------------------------------------------------------------------


def test_early_stopping_waits_and_gives_the_best_back() -> None:
    """From the third epoch on the steps go uphill."""
    given, held = data(), data(30, seed=2)
    states: list[np.ndarray] = []
    fitted = trainer()

    def keep(report: EpochReport) -> None:
        states.append(fitted.parameters["w1"].copy())

    def rate(step: int) -> float:
        return 0.01 if step < 10 else -0.01

    history = fitted.fit(given, 20, held, keep, batch=10, schedule=rate, early_stopping=EarlyStopping(2))
    assert history.best == 2 and len(history.epochs) == 4
    assert history.ended == "stopped early after epoch 4: the best was epoch 2"
    assert np.array_equal(fitted.parameters["w1"], states[1]) and not np.array_equal(states[1], states[3])
    assert fitted.evaluate(held)[0] == pytest.approx(history.epochs[1].validation, rel=1e-5)
    kept = trainer()
    kept.fit(given, 20, held, batch=10, schedule=rate, early_stopping=EarlyStopping(2, restore_best=False))
    assert np.array_equal(kept.parameters["w1"], states[3])


def test_early_stopping_watches_what_it_is_told() -> None:
    given = data()
    stops = EarlyStopping(1, min_delta=10.0, monitor="loss")
    assert len(trainer().fit(given, 9, batch=10, early_stopping=stops).epochs) == 2
    stops = EarlyStopping(1, min_delta=0.9, monitor="accuracy")
    assert trainer().fit(given, 9, given, batch=10, early_stopping=stops).best == 1
    never = trainer()
    with pytest.raises(ArgumentError, match="there is no 'recall' to watch; there is loss$"):
        never.fit(given, 2, batch=10, early_stopping=EarlyStopping(monitor="recall"))
    assert never.steps == 0
    with pytest.raises(ArgumentError, match="say whether a larger f1 is better"):
        stops = EarlyStopping(monitor="f1")
        trainer().fit(given, 2, given, metrics={"f1": lambda output, wanted: 0.5}, early_stopping=stops)


def test_a_callback_stops_by_true_alone() -> None:
    seen: list[int] = []

    def stop(report: EpochReport) -> bool:
        seen.append(report.number)
        return report.number == 2

    history = trainer().fit(data(), 9, callbacks=[stop, lambda report: "more"])
    assert seen == [1, 2] and history.ended == "stopped by a callback after epoch 2"
    assert len(trainer().fit(data(), 9, callbacks=lambda report: np.bool_(report.number == 3)).epochs) == 3


# -- what is said ------------------------------------------------------------------------------------------------------


def test_progress_is_told_of_each_step() -> None:
    told: list[tuple[int, int, str]] = []
    trainer().fit(data(), 2, data(), batch=25, progress=lambda *each: told.append(each))
    assert [(done, total) for done, total, _ in told] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert told[0][2].startswith("epoch 1/2  loss ") and "accuracy" in told[3][2] and told[3][2].endswith("examples/s")


def test_a_bar_is_drawn_on_a_terminal_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer().fit(data(), 1)
    assert capsys.readouterr() == ("", "")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    trainer().fit(data(), 1, callbacks=lambda report: print("told"))
    out, err = capsys.readouterr()
    assert out == "told\n" and "epoch 1/1" in err and "examples/s" in err
    trainer().fit(data(), 1, progress=False)
    assert capsys.readouterr() == ("", "")


def test_a_history_prints_and_comes_back_as_it_was() -> None:
    history = trainer().fit(data(), 2, data(), batch=10)
    for epoch in history.epochs:
        parts = (epoch.shares.data, epoch.shares.compute, epoch.shares.update)
        assert sum(parts) == pytest.approx(1) and all(0 <= part <= 1 for part in parts)
        assert epoch.seconds > 0 and epoch.examples_per_second == pytest.approx(50 / epoch.seconds)
    assert history.epochs[0].shares.update > 0  # the step has kernels that only update
    first, _, last = str(history).splitlines()
    assert first.startswith("epoch 1: loss ") and "validation" in first and last == "all 2 epochs are done"
    data_of = history.to_json()
    assert tuple(EpochReport.from_json(each) for each in data_of["epochs"]) == history.epochs
    assert history.series("accuracy") == tuple(e.metrics["accuracy"] for e in history.epochs)
    assert isinstance(history, History) and history.series("nothing") == ()


def test_waiting_for_data_is_told_apart() -> None:
    class Slow(Loading):
        def __iter__(self) -> Iterator[Any]:
            import time

            for each in self.batches:
                time.sleep(0.05)
                yield each

    history = trainer().fit(Slow(in_parts(data())), 1)
    assert history.epochs[0].shares.data > 0.5


# -- what is not finite ------------------------------------------------------------------------------------------------


def test_the_first_bad_value_is_named_and_the_state_is_that_before() -> None:
    given = in_parts(data())
    given[3]["x"] = given[3]["x"].copy()
    given[3]["x"][2, 1] = np.inf
    by_hand, fitted = trainer(), trainer()
    for part in given[:3]:
        by_hand.step(part)
    with pytest.raises(ExecutionError) as caught:
        fitted.fit(given, 2)
    said = str(caught.value)
    assert said.startswith("epoch 1, batch 4 (step 4): the loss is nan\n")
    assert "the batch: x holds Inf in 1 of 60 elements" in said and "that before this step" in said
    assert bits_of(fitted) == bits_of(by_hand)


def test_a_value_that_overflows_is_named_with_its_source() -> None:
    fitted = trainer()
    fitted.parameters["w2"][...] = 1e38
    with pytest.raises(ExecutionError, match=r"\(of matmul, from second\) holds"):
        fitted.fit(data(), 1)
    fitted = trainer()
    fitted.parameters["b1"][1] = np.nan
    with pytest.raises(ExecutionError, match="the trainer's state: b1 holds NaN in 1 of 8 elements"):
        fitted.fit(data(), 1)


def test_a_training_that_diverges_ends_with_an_error() -> None:
    fitted = trainer(optimizer=SGD(1e30))
    with pytest.raises(ExecutionError, match="(?s)epoch 1, batch [23] .*a lower learning rate"):
        fitted.fit(data(), 3, batch=10)
    assert fitted.learning_rate == 1e30


# -- what is refused ---------------------------------------------------------------------------------------------------

WRONG: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "epochs": ({"epochs": 0}, ArgumentError, "epochs: expected an integer from 1 on, got 0"),
    "many epochs": ({"epochs": 10**7}, ArgumentError, "epochs: 10000000 is more than"),
    "batch": ({"batch": 1.5}, ArgumentError, "batch: expected an integer from 1 on, got 1.5"),
    "shuffle": ({"shuffle": "yes"}, ArgumentError, "shuffle: expected True or False"),
    "schedule": ({"schedule": 3}, ArgumentError, "schedule: expected one of"),
    "metrics": ({"metrics": ["f1"], "validation": data()}, ArgumentError, "metrics: there is no 'f1'; known: accuracy"),
    "metrics of nothing": ({"metrics": ["accuracy"]}, ArgumentError, "of validation data, and there is none"),
    "early": ({"early_stopping": "soon"}, ArgumentError, "early_stopping: expected an EarlyStopping"),
    "callbacks": ({"callbacks": [3]}, ArgumentError, "callbacks: expected functions"),
    "raises": ({"callbacks": lambda report: 1 / 0}, ArgumentError, "raised ZeroDivisionError"),
    "every": ({"checkpoint_every": 3}, ArgumentError, "checkpoint_every: there is no checkpoint"),
    "progress": ({"progress": 3}, ArgumentError, "progress: expected True, False or a function"),
    "seed": ({"seed": -1}, ArgumentError, "seed: expected an integer from 0 on"),
    "unknown": ({"rate": 3}, ArgumentError, "rate"),
    "no data": ({"data": 3}, ArgumentError, "data: expected a dict of arrays"),
    "text": ({"data": "train.npz"}, ArgumentError, "data: expected a dict of arrays"),
    "empty": ({"data": {}}, ArgumentError, "data: there is no array in it"),
    "no examples": ({"data": {k: v[:0] for k, v in data().items()}}, ShapeError, "there are no examples"),
    "lengths": ({"data": {**data(), "label": np.zeros(3, int)}}, ShapeError, r"numbers of .*\(x: 50, label: 3"),
    "number": ({"data": {**data(), "label": 3}}, ShapeError, "is a single number"),
    "objects": ({"data": {**data(), "label": np.array(["a"] * 50)}}, ArgumentError, "holds no numbers"),
    "names": ({"data": {3: np.zeros(3)}}, ArgumentError, "data: 3 is no name of an input"),
    "no batches": ({"data": []}, ArgumentError, "data: it gave no batch in epoch 1"),
    "single": ({"data": [np.zeros(3)]}, ArgumentError, r"a tuple \(x, label\)"),
    "three": ({"data": [(1, 2, 3)]}, ArgumentError, "a batch of 3 arrays was given; the model takes 2: x, label"),
    "broken": ({"data": (1 / 0 for _ in range(2))}, ArgumentError, "data raised ZeroDivisionError"),
    "shape": ({"data": {**data(), "x": np.zeros((50, 7), np.float32)}}, ShapeError, "x"),
    "missing": ({"data": {"x": data()["x"]}}, ShapeError, "label"),
    "dropped": ({"batch": 51, "drop_last": True}, ArgumentError, "drop_last leaves none"),
    "validation": ({"validation": 0.3}, ArgumentError, "validation: expected a dict of arrays"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_wrong_use_is_a_clear_error(case: str) -> None:
    options, kind, message = WRONG[case]
    with pytest.raises(kind, match=message):
        trainer().fit(**{"data": data(), **options})
