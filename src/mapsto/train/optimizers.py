"""Optimizers as data: how a gradient moves a parameter, and what is kept from step to step for that.

Each is a frozen dataclass. `update` adds one parameter's update to a graph; numbers that change from step to step (the
rate, corrections of bias) are computed on the host in f64, as PyTorch does, and are inputs of the step, so that neither
a schedule nor a further step compiles anything. The formulas and their order of operations are PyTorch's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from mapsto.arguments import brief, real
from mapsto.errors import ArgumentError, UnsupportedError
from mapsto.ir.graph import Value
from mapsto.ops import composite
from mapsto.ops.builder import Builder

States = Mapping[str, Value]


@dataclass(frozen=True)
class Optimizer:
    """What all optimizers have: a rate, states of a parameter's shape, numbers of a step, an update.

    learning_rate: a finite number, 0 or more. Raises ArgumentError for settings that are none.
    """

    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.type in ("bool", bool):
                if not isinstance(value, bool):
                    raise ArgumentError(f"{self._of(field.name)}: expected True or False, got {brief(value)}")
                continue
            object.__setattr__(self, field.name, self._number(field.name, value))

    def _of(self, name: str) -> str:
        return f"{type(self).__name__}.{name}"

    def _number(self, name: str, value: Any) -> float:
        """The number of a setting: finite, not negative, and below 1 where it is a share."""
        number = real(value)
        if number is None or not math.isfinite(number) or number < 0:
            raise ArgumentError(f"{self._of(name)}: {brief(value)} is no finite number of at least 0")
        if name in _SHARES and number >= 1:
            raise ArgumentError(f"{self._of(name)}: {brief(value)} is outside [0, 1)")
        return number

    def states(self) -> Mapping[str, float]:
        """The states of a parameter by name, each of its shape, with what their elements are before the first step."""
        return {}

    def scalars(self, rate: float, step: int) -> dict[str, float]:
        """The numbers of a step, the first being 1, for a parameter that moves at this rate."""
        del step
        return {"rate": rate}

    def update(
        self, b: Builder, p: Value, g: Value, states: States, scalars: States
    ) -> tuple[Value, dict[str, Value]]:
        """The parameter after the step, and its states. g: its gradient; scalars: of the parameter's type, shape []."""
        raise UnsupportedError(f"optimizer: {type(self).__name__} does not say how it updates a parameter")


_SHARES = ("momentum", "beta1", "beta2", "alpha")


@dataclass(frozen=True)
class SGD(Optimizer):
    """Gradient descent: v <- momentum v + (1 - dampening) g, the first v being g; p <- p - rate v. With nesterov
    p <- p - rate (g + momentum v).

    Momentum as in Sutskever et al., "On the importance of initialization and momentum in deep learning" (ICML 2013),
    with the rate taken outside of v. weight_decay: g <- g + weight_decay p, before all else.
    """

    learning_rate: float = 0.1
    momentum: float = 0.0
    nesterov: bool = False
    dampening: float = 0.0
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nesterov and (not self.momentum or self.dampening):
            raise ArgumentError("SGD.nesterov: it needs a momentum, and no dampening")

    def states(self) -> Mapping[str, float]:
        return {"velocity": 0.0} if self.momentum else {}

    def scalars(self, rate: float, step: int) -> dict[str, float]:
        found = {"rate": rate}
        if self.momentum and self.dampening:
            found["share"] = 1.0 if step == 1 else 1 - self.dampening
        return found

    def update(
        self, b: Builder, p: Value, g: Value, states: States, scalars: States
    ) -> tuple[Value, dict[str, Value]]:
        g = _decayed(b, p, g, self.weight_decay)
        if not self.momentum:
            return _sub(b, p, _mul(b, g, scalars["rate"])), {}
        own = _mul(b, g, scalars["share"]) if self.dampening else g
        v = _add(b, _scaled(b, states["velocity"], self.momentum), own)
        direction = _add(b, g, _scaled(b, v, self.momentum)) if self.nesterov else v
        return _sub(b, p, _mul(b, direction, scalars["rate"])), {"velocity": v}


@dataclass(frozen=True)
class Adam(Optimizer):
    """Kingma and Ba, "Adam: A Method for Stochastic Optimization" (ICLR 2015): m and v are means of g and g^2 that
    forget; p <- p - rate/(1 - beta1^t) m / (sqrt(v)/sqrt(1 - beta2^t) + epsilon). weight_decay: g <- g +
    weight_decay p, before all else.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0

    def states(self) -> Mapping[str, float]:
        return {"mean": 0.0, "square": 0.0}

    def scalars(self, rate: float, step: int) -> dict[str, float]:
        return {"rate": rate / (1 - self.beta1**step), "unbias": 1 / math.sqrt(1 - self.beta2**step)}

    def update(
        self, b: Builder, p: Value, g: Value, states: States, scalars: States
    ) -> tuple[Value, dict[str, Value]]:
        return self._moved(b, p, _decayed(b, p, g, self.weight_decay), states, scalars)

    def _moved(
        self, b: Builder, p: Value, g: Value, states: States, scalars: States
    ) -> tuple[Value, dict[str, Value]]:
        mean = _towards(b, states["mean"], g, 1 - self.beta1)
        square = _square_mean(b, states["square"], g, self.beta2)
        root = _mul(b, b.one("sqrt", [square]), scalars["unbias"])
        step = b.one("div", [_mul(b, mean, scalars["rate"]), _add(b, root, composite.scalar(b, self.epsilon, root))])
        return _sub(b, p, step), {"mean": mean, "square": square}


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with the decay of weights apart from the gradient: p <- p (1 - rate weight_decay), then a step of Adam.
    Loshchilov and Hutter, "Decoupled Weight Decay Regularization" (ICLR 2019).
    """

    weight_decay: float = 1e-2

    def scalars(self, rate: float, step: int) -> dict[str, float]:
        return {**super().scalars(rate, step), "kept": 1 - rate * self.weight_decay}

    def update(
        self, b: Builder, p: Value, g: Value, states: States, scalars: States
    ) -> tuple[Value, dict[str, Value]]:
        return self._moved(b, _mul(b, p, scalars["kept"]), g, states, scalars)


@dataclass(frozen=True)
class RMSprop(Optimizer):
    """Hinton's lecture 6e: s is a mean of g^2 that forgets by alpha; p <- p - rate g / (sqrt(s) + epsilon). centered:
    the square of a mean of g is taken off s. momentum: of what is divided so.
    """

    learning_rate: float = 1e-2
    alpha: float = 0.99
    epsilon: float = 1e-8
    momentum: float = 0.0
    centered: bool = False
    weight_decay: float = 0.0

    def states(self) -> Mapping[str, float]:
        names = ["square", *(["mean"] if self.centered else []), *(["velocity"] if self.momentum else [])]
        return dict.fromkeys(names, 0.0)

    def update(
        self, b: Builder, p: Value, g: Value, states: States, scalars: States
    ) -> tuple[Value, dict[str, Value]]:
        g = _decayed(b, p, g, self.weight_decay)
        after = {"square": _square_mean(b, states["square"], g, self.alpha)}
        spread = after["square"]
        if self.centered:
            after["mean"] = _towards(b, states["mean"], g, 1 - self.alpha)
            spread = _sub(b, spread, _mul(b, after["mean"], after["mean"]))
        root = b.one("sqrt", [spread])
        direction = b.one("div", [g, _add(b, root, composite.scalar(b, self.epsilon, root))])
        if self.momentum:
            direction = _add(b, _scaled(b, states["velocity"], self.momentum), direction)
            after["velocity"] = direction
        return _sub(b, p, _mul(b, direction, scalars["rate"])), after


@dataclass(frozen=True)
class Adagrad(Optimizer):
    """Duchi, Hazan and Singer, "Adaptive Subgradient Methods" (JMLR 2011): s is the sum of all g^2;
    p <- p - rate/(1 + (t - 1) rate_decay) g / (sqrt(s) + epsilon). start: the sum before the first step.
    """

    learning_rate: float = 1e-2
    rate_decay: float = 0.0
    weight_decay: float = 0.0
    start: float = 0.0
    epsilon: float = 1e-10

    def states(self) -> Mapping[str, float]:
        return {"sum": self.start}

    def scalars(self, rate: float, step: int) -> dict[str, float]:
        return {"rate": rate / (1 + (step - 1) * self.rate_decay)}

    def update(
        self, b: Builder, p: Value, g: Value, states: States, scalars: States
    ) -> tuple[Value, dict[str, Value]]:
        g = _decayed(b, p, g, self.weight_decay)
        total = _add(b, states["sum"], _mul(b, g, g))
        root = b.one("sqrt", [total])
        step = b.one("div", [_mul(b, g, scalars["rate"]), _add(b, root, composite.scalar(b, self.epsilon, root))])
        return _sub(b, p, step), {"sum": total}


OPTIMIZERS: Mapping[str, type[Optimizer]] = {
    "sgd": SGD, "adam": Adam, "adamw": AdamW, "rmsprop": RMSprop, "adagrad": Adagrad,
}  # fmt: skip


def optimizer_of(given: Any) -> Optimizer:
    """An optimizer, or the one of a name with its defaults. Raises ArgumentError, UnsupportedError."""
    if isinstance(given, Optimizer):
        return given
    if not isinstance(given, str):
        raise ArgumentError(f"optimizer: expected one, or a name, got {brief(given)}; known: {', '.join(OPTIMIZERS)}")
    if given not in OPTIMIZERS:
        raise UnsupportedError(f"there is no optimizer {given!r}; known: {', '.join(OPTIMIZERS)}")
    return OPTIMIZERS[given]()


def _add(b: Builder, x: Value, y: Value) -> Value:
    return b.one("add", [x, y])


def _sub(b: Builder, x: Value, y: Value) -> Value:
    return b.one("sub", [x, y])


def _mul(b: Builder, x: Value, y: Value) -> Value:
    return b.one("mul", [x, y])


def _scaled(b: Builder, x: Value, factor: float) -> Value:
    return _mul(b, x, composite.scalar(b, factor, x))


def _decayed(b: Builder, p: Value, g: Value, decay: float) -> Value:
    return _add(b, g, _scaled(b, p, decay)) if decay else g


def _towards(b: Builder, x: Value, to: Value, share: float) -> Value:
    """x + share (to - x), from the nearer end, as PyTorch's `lerp` has it."""
    gap = _sub(b, to, x)
    return _add(b, x, _scaled(b, gap, share)) if share < 0.5 else _sub(b, to, _scaled(b, gap, 1 - share))


def _square_mean(b: Builder, mean: Value, g: Value, share: float) -> Value:
    """share mean + (1 - share) g^2"""
    return _add(b, _scaled(b, mean, share), _scaled(b, _mul(b, g, g), 1 - share))
