"""Losses: what a model's output has to do with what was wanted, as one float that a gradient is taken of.

Each is a frozen dataclass with torch's options, and equal to torch's function of that name in mean reduction. What is
wanted is an input of the step, which the loss makes; labels are looked at before a step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mapsto.arguments import brief, flag_of, integer, real
from mapsto.errors import ArgumentError, ExecutionError, MapstoError, ShapeError, UnsupportedError
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import product
from mapsto.ir.graph import Value
from mapsto.ops import composite
from mapsto.ops.arranging import column
from mapsto.ops.builder import Builder

Loss = Callable[[Builder, Value, str], Value]
"""(builder, the model's output, the name for the input that holds what was wanted) -> a float of shape []."""


@dataclass(frozen=True)
class CrossEntropy:
    """-log softmax(scores)[label], averaged. scores: float [N, classes, ...], `axis` being that of the classes; the
    label input: i64 of the other axes' shape, each in [0, classes); with `distributions`: of the scores' shape and
    type, the shares of the classes.

    label_smoothing: the share in [0, 1] that is spread over all classes. class_weights: a factor of each class; the
    mean is by the weights of the labels. ignore_index: a label that counts for nothing.
    """

    label_smoothing: float = 0.0
    class_weights: Sequence[float] | None = None
    ignore_index: int | None = None
    distributions: bool = False
    axis: int = 1

    def __post_init__(self) -> None:
        share = real(self.label_smoothing)
        if share is None or not 0 <= share <= 1:
            raise ArgumentError(f"label_smoothing: {brief(self.label_smoothing)} is outside [0, 1]")
        if self.class_weights is not None:
            object.__setattr__(self, "class_weights", _weights(self.class_weights))
        if self.ignore_index is not None and integer(self.ignore_index) is None:
            raise ArgumentError(f"ignore_index: {brief(self.ignore_index)} is no integer")
        if flag_of(self.distributions, "distributions") and self.ignore_index is not None:
            raise ArgumentError("ignore_index: it is a label; distributions have none")
        if integer(self.axis) is None:
            raise ArgumentError(f"axis: {brief(self.axis)} is no integer")

    def __call__(self, b: Builder, scores: Value, label: str) -> Value:
        if scores.rank < 2 or not scores.dtype.is_float or not -scores.rank <= self.axis < scores.rank:
            raise ShapeError(f"cross_entropy takes scores of shape [N, classes, ...], not {scores}")
        axis = self.axis % scores.rank
        classes = scores.shape[axis]
        logs = composite.log_softmax(b, scores, axis)
        weights = None
        if self.class_weights is not None:
            if classes != len(self.class_weights):
                raise ShapeError(f"class_weights: {len(self.class_weights)} for the {classes} classes of {scores}")
            weights = column(b, b.constant(np.array(self.class_weights), "w", scores.dtype), axis, scores.rank)
        if self.distributions:
            return self._of_distributions(b, logs, b.input(label, scores.dtype, scores.shape), weights, axis)
        return self._of_labels(b, logs, label, weights, axis)

    def _of_distributions(self, b: Builder, logs: Value, wanted: Value, weights: Value | None, axis: int) -> Value:
        if self.label_smoothing:
            wanted = _mul(b, wanted, composite.scalar(b, 1 - self.label_smoothing, wanted))
            spread = _count(b, [logs.shape[axis]], wanted)
            share = b.one("div", [composite.scalar(b, self.label_smoothing, wanted), spread])
            wanted = b.one("add", [wanted, share])
        each = _mul(b, logs, wanted if weights is None else _mul(b, wanted, weights))
        total = composite.reduce(b, each, "sum", range(each.rank), keepdims=False)
        rest = [d for k, d in enumerate(logs.shape) if k != axis]
        return b.one("neg", [b.one("div", [total, _count(b, rest, total)])])

    def _of_labels(self, b: Builder, logs: Value, label: str, weights: Value | None, axis: int) -> Value:
        shape, kept = logs.shape, [d for k, d in enumerate(logs.shape) if k != axis]
        wanted = b.input(label, DType.I64, kept)
        laid = b.one("reshape", [wanted], shape=tuple(1 if k == axis else d for k, d in enumerate(shape)))
        places = b.one("iota", [], start=0, step=1, shape=(shape[axis],), dtype=DType.I64)
        chosen = b.one("eq", [laid, column(b, places, axis, logs.rank)])
        zero = composite.scalar(b, 0.0, logs)
        counts = None  # which labels count
        if self.ignore_index is not None:
            counts = b.one("ne", [laid, composite.scalar(b, self.ignore_index, laid)])
            chosen = b.one("and", [chosen, counts])
        weighed = logs if weights is None else _mul(b, logs, weights)
        total = _whole(b, b.one("select", [chosen, weighed, zero]))
        if weights is not None:
            ones = b.one("expand", [weights], shape=shape)
            amount = _whole(b, b.one("select", [chosen, ones, zero]))
        elif counts is not None:
            amount = _whole(b, b.one("select", [counts, composite.scalar(b, 1.0, logs), zero]))
        else:
            amount = _count(b, kept, logs)
        loss = b.one("div", [total, amount])
        if self.label_smoothing:
            spread = weighed if counts is None else b.one("select", [counts, weighed, zero])
            share = b.one("div", [composite.scalar(b, self.label_smoothing, logs), _count(b, [shape[axis]], logs)])
            smooth = _mul(b, b.one("div", [_whole(b, spread), amount]), share)
            loss = b.one("add", [_mul(b, loss, composite.scalar(b, 1 - self.label_smoothing, loss)), smooth])
        return b.one("neg", [loss])


@dataclass(frozen=True)
class MeanSquaredError:
    """(output - target)^2, averaged over all elements. The target input has the type and shape of the output."""

    def __call__(self, b: Builder, output: Value, target: str) -> Value:
        difference = _difference(b, output, target, "mean_squared_error")
        return _mean(b, _mul(b, difference, difference))


@dataclass(frozen=True)
class MeanAbsoluteError:
    """|output - target|, averaged over all elements. The target input has the type and shape of the output."""

    def __call__(self, b: Builder, output: Value, target: str) -> Value:
        return _mean(b, b.one("abs", [_difference(b, output, target, "mean_absolute_error")]))


@dataclass(frozen=True)
class Huber:
    """d^2/2 where |d| <= delta, else delta (|d| - delta/2), averaged; d = output - target, of the output's shape."""

    delta: float = 1.0

    def __post_init__(self) -> None:
        number = real(self.delta)
        if number is None or not 0 < number < math.inf:
            raise ArgumentError(f"Huber.delta: {brief(self.delta)} is no finite number above 0")

    def __call__(self, b: Builder, output: Value, target: str) -> Value:
        d = _difference(b, output, target, "huber")
        size, delta = b.one("abs", [d]), composite.scalar(b, self.delta, d)
        half = composite.scalar(b, 0.5, d)
        square = _mul(b, _mul(b, d, d), half)
        line = _mul(b, delta, b.one("sub", [size, composite.scalar(b, self.delta / 2, d)]))
        return _mean(b, b.one("select", [b.one("le", [size, delta]), square, line]))


@dataclass(frozen=True)
class BinaryCrossEntropy:
    """-(t log sigmoid(x) + (1 - t) log(1 - sigmoid(x))), averaged over all elements; x are logits. The target input
    has the type and shape of the output. positive_weight: a factor of the first term.
    """

    positive_weight: float = 1.0

    def __post_init__(self) -> None:
        number = real(self.positive_weight)
        if number is None or not 0 <= number < math.inf:
            raise ArgumentError(f"positive_weight: {brief(self.positive_weight)} is no finite number of at least 0")

    def __call__(self, b: Builder, logits: Value, target: str) -> Value:
        t = _wanted(b, logits, target, "binary_cross_entropy")
        one = composite.scalar(b, 1.0, t)
        against = b.one("softplus", [b.one("neg", [logits])])  # -log sigmoid(x), of which x more is -log(1 - sigmoid)
        if self.positive_weight == 1.0:
            return _mean(b, b.one("add", [_mul(b, b.one("sub", [one, t]), logits), against]))
        more = _mul(b, t, composite.scalar(b, self.positive_weight - 1, t))
        weighed = _mul(b, b.one("add", [more, one]), against)
        return _mean(b, b.one("add", [_mul(b, b.one("sub", [one, t]), logits), weighed]))


@dataclass(frozen=True)
class KLDivergence:
    """t (log t - x), averaged over all elements; x are logarithms of shares, t shares in the output's type and shape,
    or with log_target their logarithms. per_example: the sum divided by the length of the first axis instead, which
    is the divergence by its definition.
    """

    log_target: bool = False
    per_example: bool = False

    def __post_init__(self) -> None:
        flag_of(self.log_target, "log_target")
        flag_of(self.per_example, "per_example")

    def __call__(self, b: Builder, logs: Value, target: str) -> Value:
        t = _wanted(b, logs, target, "kl_divergence")
        if self.log_target:
            each = _mul(b, b.one("exp", [t]), b.one("sub", [t, logs]))
        else:
            zero = composite.scalar(b, 0.0, t)
            is_zero = b.one("eq", [t, zero])
            own = b.one("select", [is_zero, zero, _mul(b, t, b.one("log", [t]))])
            each = b.one("sub", [own, _mul(b, t, logs)])
        if not self.per_example:
            return _mean(b, each)
        return b.one("div", [_whole(b, each), _count(b, [logs.shape[0] if logs.rank else 1], logs)])


LOSSES: Mapping[str, Loss] = {
    "cross_entropy": CrossEntropy(),
    "mean_squared_error": MeanSquaredError(),
    "mean_absolute_error": MeanAbsoluteError(),
    "huber": Huber(),
    "binary_cross_entropy": BinaryCrossEntropy(),
    "kl_divergence": KLDivergence(),
}


def loss_of(given: Any) -> Loss:
    """A loss, or the one of a name with its defaults. Raises ArgumentError, UnsupportedError. What a function of the
    user's raises becomes an ArgumentError, with that as its cause.
    """
    if isinstance(given, str):
        if given not in LOSSES:
            raise UnsupportedError(f"there is no loss {given!r}; known: {', '.join(LOSSES)}")
        return LOSSES[given]
    if not callable(given) or isinstance(given, type):
        raise ArgumentError(f"loss: expected a name or a function, got {brief(given)}; known: {', '.join(LOSSES)}")
    return given if type(given).__module__ == __name__ else _Guarded(given)


def loss_text(loss: Loss) -> str:
    """What a loss is, the same in every process; of a function its name."""
    if isinstance(loss, _Guarded):
        return str(getattr(loss.function, "__qualname__", type(loss.function).__qualname__))
    return repr(loss)


@dataclass(frozen=True)
class _Guarded:
    """A function of a user's."""

    function: Loss

    def __call__(self, b: Builder, output: Value, label: str) -> Value:
        try:
            made = self.function(b, output, label)
        except MapstoError:
            raise
        except Exception as error:
            raise ArgumentError(f"loss: {brief(self.function)} raised {type(error).__name__}: {error}") from error
        if not isinstance(made, Value):
            raise ArgumentError(f"loss: {brief(self.function)} gave {brief(made)}, which is no value of the builder")
        return made


def checked_labels(loss: Loss, name: str, given: Any, output: Value) -> Any:
    """Labels as the step takes them: integers of any kind as i64. Raises ExecutionError for one that is no class, with
    its place. What is no array of integers is given back as it is: the run says what is wrong with it.
    """
    if not isinstance(loss, CrossEntropy) or loss.distributions:
        return given
    try:
        labels = np.asarray(given)
    except Exception:  # anybody's class may be here
        return given
    if labels.dtype.kind not in "iu":
        return given
    labels = np.ascontiguousarray(labels, np.int64).reshape(labels.shape)
    classes = output.shape[loss.axis % output.rank]
    if not isinstance(classes, int) or not labels.size:
        return labels
    wrong = (labels < 0) | (labels >= classes)
    if loss.ignore_index is not None:
        wrong &= labels != loss.ignore_index
    if wrong.any():
        place = np.unravel_index(int(np.argmax(wrong)), labels.shape)
        at = ", ".join(str(int(i)) for i in place)
        raise ExecutionError(
            f"input {name!r}: the label {labels[place]} at [{at}] is no class; classes are 0 to {classes - 1}"
        )
    return labels


def _weights(given: Any) -> tuple[float, ...]:
    try:
        numbers = [real(each) for each in given]
    except Exception:  # anybody's class may be here
        raise ArgumentError(f"class_weights: expected numbers, got {brief(given)}") from None
    if not numbers or any(number is None or not 0 <= number < math.inf for number in numbers):
        raise ArgumentError(f"class_weights: {brief(given)} are not finite numbers of at least 0")
    return tuple(float(number) for number in numbers if number is not None)


def _mul(b: Builder, x: Value, y: Value) -> Value:
    return b.one("mul", [x, y])


def _mean(b: Builder, x: Value) -> Value:
    return composite.reduce(b, x, "mean", range(x.rank), keepdims=False) if x.rank else x


def _whole(b: Builder, x: Value) -> Value:
    return composite.reduce(b, x, "sum", range(x.rank), keepdims=False) if x.rank else x


def _count(b: Builder, extents: Sequence[Any], like: Value) -> Value:
    """The product of extents, in the type of `like`."""
    return b.one("full", [], shape=(), value=_as_number(product(extents)), dtype=like.dtype)


def _as_number(count: Any) -> Any:
    return float(count) if isinstance(count, int) else count


def _wanted(b: Builder, output: Value, target: str, loss: str) -> Value:
    if not output.dtype.is_float:
        raise ShapeError(f"{loss} takes a float output, not {output}")
    return b.input(target, output.dtype, output.shape)


def _difference(b: Builder, output: Value, target: str, loss: str) -> Value:
    return b.one("sub", [output, _wanted(b, output, target, loss)])
