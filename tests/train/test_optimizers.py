"""Optimizers against torch's: 100 steps by the same gradients, natively, through the step's own update."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.pytorch import torch

import mapsto
from mapsto.errors import ArgumentError, ShapeError
from mapsto.ir.dtypes import DType
from mapsto.ops.builder import Builder
from mapsto.train import OPTIMIZERS, SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop, Trainer
from mapsto.train.step import ScalarInput, StateInput, Updating, updates_graph

CASES: dict[str, tuple[Optimizer, Any, dict[str, Any]]] = {
    "plain": (SGD(0.1), torch.optim.SGD, {"lr": 0.1}),
    "momentum": (SGD(0.1, momentum=0.9), torch.optim.SGD, {"lr": 0.1, "momentum": 0.9}),
    "nesterov": (
        SGD(0.05, momentum=0.8, nesterov=True, weight_decay=0.01), torch.optim.SGD,
        {"lr": 0.05, "momentum": 0.8, "nesterov": True, "weight_decay": 0.01},
    ),
    "dampened": (
        SGD(0.1, momentum=0.9, dampening=0.4), torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.4},
    ),
    "adam": (Adam(), torch.optim.Adam, {}),
    "adam_with_decay": (
        Adam(0.02, 0.8, 0.95, 1e-6, 0.1), torch.optim.Adam,
        {"lr": 0.02, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1},
    ),
    "adam_far_from_its_mean": (Adam(0.01, beta1=0.3), torch.optim.Adam, {"lr": 0.01, "betas": (0.3, 0.999)}),
    "adamw": (AdamW(0.01, weight_decay=0.1), torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.1}),
    "rmsprop": (RMSprop(weight_decay=0.01), torch.optim.RMSprop, {"weight_decay": 0.01}),
    "rmsprop_with_all": (
        RMSprop(0.003, alpha=0.9, momentum=0.5, centered=True), torch.optim.RMSprop,
        {"lr": 0.003, "alpha": 0.9, "momentum": 0.5, "centered": True},
    ),
    "adagrad": (Adagrad(), torch.optim.Adagrad, {}),
    "adagrad_with_all": (
        Adagrad(0.1, rate_decay=0.01, weight_decay=0.02, start=0.5), torch.optim.Adagrad,
        {"lr": 0.1, "lr_decay": 0.01, "weight_decay": 0.02, "initial_accumulator_value": 0.5},
    ),
}  # fmt: skip
STEPS = 100
SHAPES = {"w": (3, 17), "v": (5,), "s": ()}


class Stepping:
    """Parameters that are updated natively by gradients that are given."""

    def __init__(self, optimizer: Optimizer, arrays: dict[str, np.ndarray], **more: Any) -> None:
        self._optimizer, self._arrays = optimizer, arrays
        b = Builder("updates")
        dtype = DType.F32 if next(iter(arrays.values())).dtype == np.float32 else DType.F64
        parameters = {name: b.input(name, dtype, array.shape) for name, array in arrays.items()}
        gradients = {name: b.input(f"{name}.gradient", dtype, array.shape) for name, array in arrays.items()}
        made = updates_graph(b, parameters, gradients, Updating(optimizer, more.pop("factors", {}), **more))
        self._scalars: tuple[ScalarInput, ...] = made.scalars
        self._states = {s.name: np.full_like(arrays[s.parameter], s.start) for s in made.states}
        assert all(isinstance(s, StateInput) for s in made.states)
        self._exe = mapsto.compile(made.graph, threads=1)
        self._done = 0

    def step(self, gradients: dict[str, np.ndarray], rate: float | None = None) -> None:
        self._done += 1
        rate = self._optimizer.learning_rate if rate is None else rate
        scalars = {
            s.name: np.asarray(self._optimizer.scalars(rate * s.factor, self._done)[s.scalar], s.dtype.numpy)
            for s in self._scalars
        }
        given = {f"{name}.gradient": g for name, g in gradients.items()}
        self._exe.run({**self._arrays, **self._states, **scalars, **given})


def _start(kind: Any) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: rng.standard_normal(shape).astype(kind) for name, shape in SHAPES.items()}


def _gradients(kind: Any) -> dict[str, np.ndarray]:
    """Of changing size, with elements that stay zero."""
    rng = np.random.default_rng(1)
    return {name: (rng.standard_normal((STEPS, *shape)) * 3).astype(kind) for name, shape in SHAPES.items()}


@pytest.mark.parametrize("kind", [np.float32, np.float64], ids=["f32", "f64"])
@pytest.mark.parametrize("case", CASES)
def test_a_hundred_steps_are_torchs(case: str, kind: Any) -> None:
    optimizer, peer_class, options = CASES[case]
    own, peers = _start(kind), {n: torch.nn.Parameter(torch.from_numpy(a.copy())) for n, a in _start(kind).items()}
    stepping, peer = Stepping(optimizer, own), peer_class(list(peers.values()), **options)
    gradients = _gradients(kind)
    for array in gradients.values():
        array.reshape(STEPS, -1)[:, 1:2] = 0
    for k in range(STEPS):
        rate = optimizer.learning_rate * (1 if k < 50 else 0.3)  # a schedule
        for group in peer.param_groups:
            group["lr"] = rate
        now = {name: np.ascontiguousarray(array[k]).reshape(SHAPES[name]) for name, array in gradients.items()}
        stepping.step(now, rate)
        for name, parameter in peers.items():
            parameter.grad = torch.from_numpy(now[name].copy())
        peer.step()
    for name, parameter in peers.items():
        expected = parameter.detach().numpy()
        assert not np.allclose(expected, _start(kind)[name], atol=1e-3)
        tolerance = 1e-6 if kind is np.float32 else 1e-13
        np.testing.assert_allclose(own[name], expected, rtol=tolerance, atol=tolerance, err_msg=name)


def test_every_optimizer_has_a_case() -> None:
    assert set(OPTIMIZERS.values()) == {type(optimizer) for optimizer, *_ in CASES.values()}


def test_factors_and_clips_are_those_of_torchs_groups_and_functions() -> None:
    own = _start(np.float64)
    peers = {name: torch.nn.Parameter(torch.from_numpy(array.copy())) for name, array in own.items()}
    stepping = Stepping(Adam(0.02), own, factors={"w": 0.1, "s": 0.0}, clip_value=2.5, clip_norm=4.0)
    groups = [{"params": [p], "lr": 0.02 * {"w": 0.1, "s": 0.0}.get(n, 1.0)} for n, p in peers.items()]
    peer, gradients = torch.optim.Adam(groups), _gradients(np.float64)
    for k in range(20):
        now = {name: np.ascontiguousarray(array[k]).reshape(SHAPES[name]) for name, array in gradients.items()}
        stepping.step(now)
        for name, parameter in peers.items():
            parameter.grad = torch.from_numpy(now[name].copy())
        torch.nn.utils.clip_grad_value_(list(peers.values()), 2.5)
        norm = torch.nn.utils.clip_grad_norm_(list(peers.values()), 4.0)
        assert norm > 4
        peer.step()
    for name, parameter in peers.items():
        np.testing.assert_allclose(own[name], parameter.detach().numpy(), rtol=1e-12, atol=1e-12)
    assert own["s"] == _start(np.float64)["s"]


def test_wrong_settings_are_refused() -> None:
    for make, named in (
        (lambda: SGD(-0.1), "SGD.learning_rate: -0.1"),
        (lambda: SGD(momentum=1.5), "SGD.momentum: 1.5"),
        (lambda: SGD(nesterov=True), "SGD.nesterov"),
        (lambda: Adam(beta2="x"), "Adam.beta2"),  # type: ignore[arg-type]
        (lambda: AdamW(weight_decay=float("inf")), "AdamW.weight_decay"),
        (lambda: RMSprop(centered=1), "RMSprop.centered"),  # type: ignore[arg-type]
    ):
        with pytest.raises(ArgumentError, match=named):
            make()


# -- through the trainer -----------------------------------------------------------------------------------------------


def _line(dtype: DType = DType.F64) -> Any:
    b = Builder("line")
    x = b.input("x", dtype, (4, 3))
    w = b.constant(np.linspace(-1, 1, 6).reshape(3, 2), "w", dtype)
    return b.finish([b.one("add", [b.one("matmul", [x, w]), b.constant(np.zeros(2), "c", dtype)])], names=["y"])


def _batches(count: int) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(7)
    return [{"x": rng.normal(size=(4, 3)), "label": rng.normal(size=(4, 2))} for _ in range(count)]


def test_parts_of_a_step_are_the_step_of_all_of_them() -> None:
    parted = Trainer(_line(), "mean_squared_error", Adam(0.05), accumulate=3, threads=1)
    peer = {n: torch.nn.Parameter(torch.from_numpy(a.copy())) for n, a in parted.parameters.items()}
    optimizer = torch.optim.Adam(peer.values(), lr=0.05)
    before = parted.parameters["w"].copy()
    for k, batch in enumerate(_batches(9)):
        x, label = (torch.from_numpy(batch[n]) for n in ("x", "label"))
        loss = torch.nn.functional.mse_loss(x @ peer["w"] + peer["c"], label)
        (loss / 3).backward()
        assert parted.step(batch) == pytest.approx(loss.item(), rel=1e-12)
        assert parted.steps == (k + 1) // 3
        if k == 1:
            assert np.array_equal(parted.parameters["w"], before)
        if k % 3 == 2:
            optimizer.step()
            optimizer.zero_grad()
        for name, parameter in peer.items():
            np.testing.assert_allclose(parted.parameters[name], parameter.detach().numpy(), rtol=1e-11)


def test_a_state_goes_on_where_it_was_taken() -> None:
    batches = _batches(7)
    optimizer = RMSprop(centered=True, momentum=0.5)
    first, second = (Trainer(_line(), "mean_squared_error", optimizer, accumulate=2, threads=1) for _ in range(2))
    for batch in batches[:3]:
        first.step(batch)
    second.step(batches[5])
    arrays = second.state()
    second.load_state({name: array.copy() for name, array in first.state().items()})
    assert all(second.state()[name] is array for name, array in arrays.items())
    assert [second.step(batch) for batch in batches[3:]] == [first.step(batch) for batch in batches[3:]]
    assert all(np.array_equal(a, first.state()[n]) for n, a in second.state().items())
    assert second.steps == 3


def test_states_of_others_are_refused_before_anything_changes() -> None:
    trainer = Trainer(_line(), "mean_squared_error", Adam(0.05), threads=1)
    trainer.step(_batches(1)[0])
    before = {name: array.copy() for name, array in trainer.state().items()}
    other = Trainer(_line(), "mean_squared_error", "sgd", threads=1).state()
    with pytest.raises(ShapeError, match="missing: optimizer/mean/w"):
        trainer.load_state(other)
    with pytest.raises(ShapeError, match="unknown: parameter/other"):
        trainer.load_state({**before, "parameter/other": np.zeros(2)})
    with pytest.raises(ShapeError, match=r"parameter/w is float64\[2, 3\]; float64\[3, 2\] was expected"):
        trainer.load_state({name: array * 0 for name, array in before.items()} | {"parameter/w": np.zeros((2, 3))})
    with pytest.raises(ShapeError, match="parameter/w is float32"):
        trainer.load_state({**before, "parameter/w": np.zeros((3, 2), np.float32)})
    with pytest.raises(ArgumentError, match="state: expected a dict"):
        trainer.load_state([])  # type: ignore[arg-type]
    assert all(np.array_equal(array, before[name]) for name, array in trainer.state().items())


def test_rates_and_frozen_go_by_patterns() -> None:
    trainer = Trainer(_line(), "mean_squared_error", SGD(0.1), rates={"*": 2.0, "c": 0.5}, threads=1)
    plain = Trainer(_line(), "mean_squared_error", SGD(0.1), threads=1)
    start = {name: array.copy() for name, array in plain.parameters.items()}
    for each in (trainer, plain):
        each.step(_batches(1)[0])
    for name, factor in (("w", 2.0), ("c", 0.5)):
        moved = [(each.parameters[name] - start[name]) for each in (trainer, plain)]
        np.testing.assert_allclose(moved[0], factor * moved[1], rtol=1e-12)
    assert list(Trainer(_line(), "mean_squared_error", frozen=["w*"], threads=1).parameters) == ["c"]
    assert list(Trainer(_line(), "mean_squared_error", parameters=["[wx]"], threads=1).parameters) == ["w"]


def test_a_loss_in_evaluation_is_that_of_a_step() -> None:
    trainer = Trainer(_line(), "mean_squared_error", threads=1)
    batch = _batches(1)[0]
    loss, outputs = trainer.evaluate(batch)
    np.testing.assert_allclose(outputs["y"], batch["x"] @ trainer.parameters["w"], rtol=1e-12)
    assert trainer.steps == 0
    assert trainer.step(batch) == pytest.approx(loss, rel=1e-12)
