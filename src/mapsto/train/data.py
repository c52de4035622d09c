"""Data of a training: batches by name out of arrays, iterables or loaders of torch, in an order that can be had again.

Of arrays the order is a permutation by the seed and the epoch's number, so any batch of any epoch is had at once. An
iterable is gone through anew in each epoch; whether it gives the same batches again is up to it, and is looked at when
a training goes on (`digest`).
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from mapsto.arguments import brief, integer, real
from mapsto.errors import ArgumentError, MapstoError, ShapeError

Batch = Mapping[str, np.ndarray]

MOST_EPOCHS = 1 << 20  # of a call of `fit`: its epochs are numbered from a multiple of it on


class Batches(Protocol):
    """What a training reads. steps: of an epoch, None where that is not known beforehand."""

    @property
    def steps(self) -> int | None: ...

    def epoch(self, number: int, skip: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, but for the first `skip`."""
        ...

    def last_skipped(self, number: int, skip: int) -> Batch | None:
        """The batch before those that `epoch` gives, once that has given one; None where there is none."""
        ...

    def order(self) -> dict[str, Any]:
        """What must be the same for a training to go on in the middle, as plain data."""
        ...

    def mark(self) -> dict[str, np.ndarray]:
        """What an epoch's order follows from besides; to be taken before the epoch begins."""
        ...

    def restore(self, mark: Mapping[str, np.ndarray]) -> None:
        """The next epoch's order is what it was when the mark was taken."""
        ...


def batches_of(
    data: Any, names: Sequence[str], batch: int, *, shuffle: bool, drop_last: bool, seed: int, what: str = "data"
) -> Batches:
    """The batches of what a user gave. names: of the model's inputs and the label, for tuples.

    Raises ArgumentError for what gives no batches, ShapeError for arrays of different lengths.
    """
    if isinstance(data, Mapping):
        return ArrayBatches(arrays_of(data, what), batch, shuffle, drop_last, seed)
    if isinstance(data, (str, bytes, np.ndarray)) or not isinstance(data, Iterable):
        raise ArgumentError(
            f"{what}: expected a dict of arrays by the inputs' names, or an iterable of batches (dicts or tuples), "
            f"got {brief(data)}"
        )
    return (LoaderBatches if _is_loader(data) else IterableBatches)(data, tuple(names), what)


def arrays_of(data: Mapping[Any, Any], what: str = "data") -> dict[str, np.ndarray]:
    """Arrays by name, of equal length along their first axes."""
    arrays = {_name(name, what): array_of(value, f"{what}[{name!r}]") for name, value in data.items()}
    if not arrays:
        raise ArgumentError(f"{what}: there is no array in it")
    scalar = next((name for name, array in arrays.items() if not array.ndim), None)
    if scalar is not None:
        raise ShapeError(f"{what}[{scalar!r}] is a single number; the first axis counts the examples")
    if len({len(array) for array in arrays.values()}) > 1:
        said = ", ".join(f"{name}: {len(array)}" for name, array in arrays.items())
        raise ShapeError(f"{what}: the arrays have different numbers of examples ({said})")
    if not len(next(iter(arrays.values()))):
        raise ShapeError(f"{what}: there are no examples in it")
    return arrays


def array_of(value: Any, what: str) -> np.ndarray:
    """An array of numbers; tensors of torch, also those of another device, are taken as well."""
    try:
        if hasattr(value, "detach"):
            value = value.detach().cpu().numpy()
        array = np.asarray(value)
    except Exception as error:  # anybody's class may be here
        raise ArgumentError(f"{what}: {brief(value)} is no array ({error})") from error
    if array.dtype.kind in "OSUMm":
        raise ArgumentError(f"{what}: an array of {array.dtype} holds no numbers")
    return array


def digest(batch: Batch) -> int:
    """Tells batches apart by what they hold."""
    found = 0
    for name in sorted(batch):
        array = np.ascontiguousarray(batch[name])
        found = zlib.crc32(f"{name}{array.dtype.str}{array.shape}".encode(), found)
        found = zlib.crc32(array.reshape(-1).view(np.uint8).data, found)
    return found


def split(arrays: Mapping[str, np.ndarray], share: float, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arrays in two, a `share` of the examples in the second, drawn by the seed. Raises ArgumentError."""
    number = real(share)
    count = len(next(iter(arrays.values())))
    apart = 0 if number is None else round(number * count)
    if number is None or not 0 < number < 1 or not 0 < apart < count:
        raise ArgumentError(f"validation: expected a share of the {count} examples between 0 and 1, got {brief(share)}")
    places = np.random.default_rng([seed, count]).permutation(count)
    kept, held = np.sort(places[apart:]), np.sort(places[:apart])
    return {n: a[kept] for n, a in arrays.items()}, {n: a[held] for n, a in arrays.items()}


def _name(name: Any, what: str) -> str:
    if not isinstance(name, str):
        raise ArgumentError(f"{what}: {brief(name)} is no name of an input")
    return name


# ---- arrays ----------------------------------------------------------------------------------------------------------


class ArrayBatches:
    """Batches of `batch` examples out of arrays; the last one is smaller, or with `drop_last` left out."""

    def __init__(
        self, arrays: Mapping[str, np.ndarray], batch: int, shuffle: bool, drop_last: bool, seed: int
    ) -> None:
        self.arrays, self.batch, self.shuffle, self.drop_last, self.seed = arrays, batch, shuffle, drop_last, seed
        self.examples = len(next(iter(arrays.values())))
        if drop_last and batch > self.examples:
            raise ArgumentError(f"batch: {batch} is more than the {self.examples} examples, and drop_last leaves none")

    @property
    def steps(self) -> int:
        return self.examples // self.batch if self.drop_last else -(-self.examples // self.batch)

    def epoch(self, number: int, skip: int = 0) -> Iterator[Batch]:
        places = self._places(number)
        for step in range(skip, self.steps):
            yield self._batch(places, step)

    def last_skipped(self, number: int, skip: int) -> Batch | None:
        return self._batch(self._places(number), skip - 1) if 0 < skip <= self.steps else None

    def order(self) -> dict[str, Any]:
        shapes = {n: [a.dtype.name, *map(int, a.shape)] for n, a in sorted(self.arrays.items())}
        return {
            "batch": self.batch, "shuffle": self.shuffle, "drop_last": self.drop_last, "seed": self.seed, "data": shapes
        }  # fmt: skip

    def mark(self) -> dict[str, np.ndarray]:
        return {}

    def restore(self, mark: Mapping[str, np.ndarray]) -> None:
        pass

    def _places(self, epoch: int) -> np.ndarray | None:
        return np.random.default_rng([self.seed, epoch]).permutation(self.examples) if self.shuffle else None

    def _batch(self, places: np.ndarray | None, step: int) -> Batch:
        part = slice(step * self.batch, (step + 1) * self.batch)
        chosen = part if places is None else places[part]
        return {name: np.ascontiguousarray(array[chosen]) for name, array in self.arrays.items()}


# ---- iterables -------------------------------------------------------------------------------------------------------


class IterableBatches:
    """Batches that an iterable gives: dicts by name, or tuples of the model's inputs in order and the label."""

    def __init__(self, data: Iterable[Any], names: tuple[str, ...], what: str) -> None:
        self.data, self.names, self.what = data, names, what
        self._skipped: Batch | None = None
        self.once = isinstance(data, Iterator)

    @property
    def steps(self) -> int | None:
        try:
            return integer(len(self.data))  # type: ignore[arg-type]
        except Exception:  # anybody's class may be here; a loader of an iterable data set says no length
            return None

    def epoch(self, number: int, skip: int = 0) -> Iterator[Batch]:
        self._skipped, given = None, 0
        for item in self._items():
            batch = self._named(item)
            if given >= skip:
                yield batch
            elif given == skip - 1:
                self._skipped = batch
            given += 1
        if given < skip:
            raise ArgumentError(
                f"{self.what}: it gave {given} batches, and the checkpoint was written after {skip} of this epoch: "
                "these are other data; give the same, or start anew by resume=False"
            )
        if not given:
            raise ArgumentError(
                f"{self.what}: it gave no batch in epoch {number % MOST_EPOCHS + 1}; an iterator is used up after one "
                "epoch: give something that can be gone through again (a list, a loader)"
            )

    def last_skipped(self, number: int, skip: int) -> Batch | None:
        return self._skipped

    def order(self) -> dict[str, Any]:
        return {}

    def mark(self) -> dict[str, np.ndarray]:
        return {}

    def restore(self, mark: Mapping[str, np.ndarray]) -> None:
        pass

    def _items(self) -> Iterator[Any]:
        """What the iterable gives; what it raises becomes an ArgumentError, with that as its cause."""
        try:
            yield from self.data
        except MapstoError:
            raise
        except Exception as error:
            raise ArgumentError(f"{self.what} raised {type(error).__name__}: {error}") from error

    def _named(self, item: Any) -> Batch:
        if isinstance(item, Mapping):
            return arrays_of(item, f"a batch of {self.what}")
        if not isinstance(item, (tuple, list)):
            raise ArgumentError(
                f"{self.what}: a batch is a dict by the inputs' names, or a tuple ({', '.join(self.names)}); "
                f"it gave {brief(item)}"
            )
        if len(item) != len(self.names):
            raise ArgumentError(
                f"{self.what}: a batch of {len(item)} arrays was given; the model takes {len(self.names)}: "
                f"{', '.join(self.names)}"
            )
        return arrays_of(dict(zip(self.names, item, strict=True)), f"a batch of {self.what}")


class LoaderBatches(IterableBatches):
    """A loader of torch. What it shuffles by is the state of generators of torch, which a mark keeps."""

    def mark(self) -> dict[str, np.ndarray]:
        return {name: each.get_state().numpy().copy() for name, each in self._generators().items()}

    def restore(self, mark: Mapping[str, np.ndarray]) -> None:
        torch = sys.modules["torch"]
        for name, each in self._generators().items():
            if name in mark:
                try:
                    each.set_state(torch.from_numpy(np.ascontiguousarray(mark[name])))
                except Exception as error:
                    raise ArgumentError(f"{self.what}: the state of its generator cannot be set ({error})") from error

    def _generators(self) -> dict[str, Any]:
        loader: Any = self.data
        found = {
            "all": sys.modules["torch"].default_generator,
            "loader": getattr(loader, "generator", None),
            "sampler": getattr(getattr(loader, "sampler", None), "generator", None),
        }
        return {name: each for name, each in found.items() if each is not None}


def _is_loader(data: Any) -> bool:
    """Whether it is a loader of torch, which whoever has one has imported."""
    kind = getattr(sys.modules.get("torch.utils.data"), "DataLoader", None)
    return kind is not None and isinstance(data, kind)
