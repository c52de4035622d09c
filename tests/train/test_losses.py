"""Losses against torch's functions of their names: values and gradients, f32 and f64, natively."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tests.pytorch import torch

import mapsto
from mapsto.errors import ArgumentError, ExecutionError, ShapeError
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import sym
from mapsto.ops.builder import Builder
from mapsto.passes import gradient
from mapsto.train import (
    LOSSES,
    BinaryCrossEntropy,
    CrossEntropy,
    Huber,
    KLDivergence,
    MeanAbsoluteError,
    MeanSquaredError,
    Trainer,
)
from mapsto.train.step import with_loss

F = torch.nn.functional
ROWS, CLASSES = 7, 5
WEIGHTS = (0.5, 2.0, 0.0, 1.0, 1.5)


def _labels(ignored: int | None = None, *more: int) -> np.ndarray:
    labels = np.random.default_rng(1).integers(0, CLASSES, (ROWS, *more))
    labels[0] = 1  # a class with a weight
    if ignored is not None:
        labels.reshape(-1)[::3] = ignored
    return labels


def _shares(*shape: int) -> np.ndarray:
    return np.random.default_rng(2).dirichlet(np.ones(CLASSES), shape)


def _class_weights(dtype: Any) -> Any:
    return torch.tensor(WEIGHTS, dtype=dtype)


Peer = Callable[[Any, Any], Any]
# name -> (loss, shape of the output, what is wanted, torch's)
CASES: dict[str, tuple[Any, tuple[int, ...], np.ndarray, Peer]] = {
    "labels": (CrossEntropy(), (ROWS, CLASSES), _labels(), F.cross_entropy),
    "smoothed": (
        CrossEntropy(label_smoothing=0.2), (ROWS, CLASSES), _labels(),
        lambda x, t: F.cross_entropy(x, t, label_smoothing=0.2),
    ),
    "weighed": (
        CrossEntropy(class_weights=WEIGHTS), (ROWS, CLASSES), _labels(),
        lambda x, t: F.cross_entropy(x, t, _class_weights(x.dtype)),
    ),
    "ignoring": (
        CrossEntropy(ignore_index=-100), (ROWS, CLASSES), _labels(-100),
        lambda x, t: F.cross_entropy(x, t, ignore_index=-100),
    ),
    "ignoring_a_class": (
        CrossEntropy(ignore_index=1), (ROWS, CLASSES), _labels(), lambda x, t: F.cross_entropy(x, t, ignore_index=1),
    ),
    "all_of_it": (
        CrossEntropy(0.1, WEIGHTS, ignore_index=-1), (ROWS, CLASSES, 3), _labels(-1, 3),
        lambda x, t: F.cross_entropy(x, t, _class_weights(x.dtype), ignore_index=-1, label_smoothing=0.1),
    ),
    "classes_last": (
        CrossEntropy(axis=-1), (ROWS, 3, CLASSES), _labels(None, 3),
        lambda x, t: F.cross_entropy(x.transpose(1, 2), t),
    ),
    "distributions": (CrossEntropy(distributions=True), (ROWS, CLASSES), _shares(ROWS), F.cross_entropy),
    "distributions_smoothed_and_weighed": (
        CrossEntropy(0.3, WEIGHTS, distributions=True), (ROWS, CLASSES), _shares(ROWS),
        lambda x, t: F.cross_entropy(x, t, _class_weights(x.dtype), label_smoothing=0.3),
    ),
    "squares": (MeanSquaredError(), (ROWS, 3), np.random.default_rng(3).normal(size=(ROWS, 3)), F.mse_loss),
    "sizes": (MeanAbsoluteError(), (ROWS, 3), np.random.default_rng(3).normal(size=(ROWS, 3)), F.l1_loss),
    "huber": (Huber(), (ROWS, 3), 2 * np.random.default_rng(3).normal(size=(ROWS, 3)), F.huber_loss),
    "huber_of_a_delta": (
        Huber(0.3), (ROWS, 3), np.random.default_rng(3).normal(size=(ROWS, 3)),
        lambda x, t: F.huber_loss(x, t, delta=0.3),
    ),
    "binary": (
        BinaryCrossEntropy(), (ROWS, 3), np.random.default_rng(4).uniform(size=(ROWS, 3)),
        F.binary_cross_entropy_with_logits,
    ),
    "binary_weighed": (
        BinaryCrossEntropy(positive_weight=3.0), (ROWS, 3), np.random.default_rng(4).integers(0, 2, (ROWS, 3)),
        lambda x, t: F.binary_cross_entropy_with_logits(x, t, pos_weight=torch.tensor(3.0, dtype=x.dtype)),
    ),
    "divergence": (KLDivergence(), (ROWS, CLASSES), _shares(ROWS) * (_shares(ROWS) > 0.1), F.kl_div),
    "divergence_of_logarithms": (
        KLDivergence(log_target=True, per_example=True), (ROWS, CLASSES), np.log(_shares(ROWS)),
        lambda x, t: F.kl_div(x, t, log_target=True, reduction="batchmean"),
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")
@pytest.mark.parametrize("dtype", [DType.F32, DType.F64], ids=["f32", "f64"])
@pytest.mark.parametrize("case", CASES)
def test_a_loss_is_torchs_in_value_and_gradient(case: str, dtype: DType) -> None:
    loss, shape, wanted, peer = CASES[case]
    b = Builder("t")
    x = b.input("x", dtype, (sym("rows"), *shape[1:]))
    graph = with_loss(b.finish([b.one("mul", [x, x])], names=["y"]), "y", loss, "label")
    given = np.random.default_rng(5).normal(size=shape).astype(dtype.numpy)
    label = wanted if wanted.dtype.kind == "i" and isinstance(loss, CrossEntropy) else wanted.astype(dtype.numpy)
    found = mapsto.compile(gradient(graph, "loss", ["x"]), threads=1).run({"x": given, "label": label})
    own = torch.from_numpy(given.copy()).requires_grad_()
    expected = peer(own * own, torch.from_numpy(label))
    expected.backward()
    tolerance = 2e-6 if dtype is DType.F32 else 1e-12
    np.testing.assert_allclose(found["loss"], expected.item(), rtol=tolerance)
    scale = own.grad.abs().max().item()
    np.testing.assert_allclose(found["x.gradient"], own.grad.numpy(), rtol=0, atol=tolerance * scale)


def test_every_name_has_a_case() -> None:
    assert {type(loss) for loss in LOSSES.values()} == {type(loss) for loss, *_ in CASES.values()}


def test_scores_far_from_zero_give_finite_losses() -> None:
    for loss, labels in ((CrossEntropy(), np.array([0, 1])), (BinaryCrossEntropy(), np.eye(2, dtype=np.float32))):
        b = Builder("t")
        x = b.input("x", DType.F32, (2, 2))
        graph = gradient(with_loss(b.finish([b.one("copy", [x])], names=["y"]), "y", loss, "label"), "loss", ["x"])
        given = np.array([[1000.0, -1000.0], [1000.0, -1000.0]], np.float32)
        found = mapsto.compile(graph, threads=1).run({"x": given, "label": labels})
        assert np.isfinite(found["loss"]) and found["loss"] > 100
        assert np.isfinite(found["x.gradient"]).all()


def _line(*shape: int) -> Any:
    b = Builder("line")
    x = b.input("x", DType.F32, (4, *shape[:-1], 2))
    return b.finish([b.one("matmul", [x, b.constant(np.ones((2, shape[-1]), np.float32), "w")])], names=["y"])


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8], ids=lambda kind: kind.__name__)
def test_labels_may_be_integers_of_any_kind(kind: type) -> None:
    trainer = Trainer(_line(3), optimizer="sgd", threads=1)
    assert trainer.step({"x": np.ones((4, 2), np.float32), "label": np.array([0, 1, 2, 1], kind)}) == pytest.approx(
        np.log(3), rel=1e-6
    )


def test_a_label_that_is_no_class_is_named_with_its_place() -> None:
    loss = CrossEntropy(ignore_index=-1, axis=-1)
    trainer = Trainer(_line(5, 3), loss, "sgd", threads=1, label="wanted")
    labels = np.zeros((4, 5), np.int64)
    labels[1, 2] = -1
    assert np.isfinite(trainer.step({"x": np.ones((4, 5, 2), np.float32), "wanted": labels}))
    for wrong in (3, -2):
        labels[2, 4] = wrong
        with pytest.raises(ExecutionError, match=rf"'wanted': the label {wrong} at \[2, 4\] is no class; .* 0 to 2"):
            trainer.step({"x": np.ones((4, 5, 2), np.float32), "wanted": labels})


def test_wrong_options_are_refused() -> None:
    for make, named in (
        (lambda: CrossEntropy(label_smoothing=1.5), "label_smoothing"),
        (lambda: CrossEntropy(class_weights=["a"]), "class_weights"),  # type: ignore[list-item]
        (lambda: CrossEntropy(class_weights=[-1.0]), "class_weights"),
        (lambda: CrossEntropy(ignore_index="x"), "ignore_index"),  # type: ignore[arg-type]
        (lambda: CrossEntropy(ignore_index=1, distributions=True), "ignore_index"),
        (lambda: CrossEntropy(axis=1.5), "axis"),  # type: ignore[arg-type]
        (lambda: Huber(0.0), "Huber.delta"),
        (lambda: BinaryCrossEntropy(-1.0), "positive_weight"),
        (lambda: KLDivergence(log_target=1), "log_target"),  # type: ignore[arg-type]
    ):
        with pytest.raises(ArgumentError, match=named):
            make()
    with pytest.raises(ShapeError, match="class_weights: 5 for the 3 classes"):
        Trainer(_line(3), CrossEntropy(class_weights=WEIGHTS))
    with pytest.raises(ShapeError, match="scores of shape"):
        Trainer(_line(3), replace(CrossEntropy(), axis=2))
