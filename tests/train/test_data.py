"""Batches out of arrays, iterables and loaders: their order, and that it can be had again."""

from __future__ import annotations

import numpy as np
import pytest
from tests.train.models import data

from mapsto.errors import ArgumentError
from mapsto.train.data import ArrayBatches, LoaderBatches, batches_of, digest, split

NAMES = ("x", "label")


def arrays(**options: object) -> ArrayBatches:
    found = batches_of(data(23), NAMES, 5, **{"shuffle": True, "drop_last": False, "seed": 4, **options})  # type: ignore[arg-type]
    assert isinstance(found, ArrayBatches)
    return found


def test_an_epoch_has_each_example_once_in_an_order_of_its_own() -> None:
    given, orders = data(23), []
    for epoch in range(3):
        found = list(arrays().epoch(epoch))
        assert [len(batch["x"]) for batch in found] == [5, 5, 5, 5, 3]
        rows = np.concatenate([batch["x"] for batch in found])
        labels = np.concatenate([batch["label"] for batch in found])
        places = [int(np.flatnonzero((given["x"] == row).all(1))[0]) for row in rows]
        assert sorted(places) == list(range(23)) and np.array_equal(labels, given["label"][places])
        orders.append(places)
    assert len({tuple(order) for order in orders}) == 3 and sorted(orders[0]) != orders[0]


def test_an_epoch_can_be_entered_anywhere() -> None:
    whole = [digest(batch) for batch in arrays().epoch(2)]
    assert len(set(whole)) == 5
    for skip in range(6):
        again = arrays()
        assert [digest(batch) for batch in again.epoch(2, skip)] == whole[skip:]
        last = again.last_skipped(2, skip)
        assert (last is None) == (skip == 0) and (last is None or digest(last) == whole[skip - 1])
    assert [digest(batch) for batch in arrays(seed=5).epoch(2)] != whole


def test_batches_are_contiguous_and_steps_are_counted() -> None:
    transposed = {"x": np.arange(24.0).reshape(4, 6).T, "label": np.arange(6)}
    for shuffle in (True, False):
        found = batches_of(transposed, NAMES, 4, shuffle=shuffle, drop_last=True, seed=0)
        (batch,) = found.epoch(0)
        assert batch["x"].flags.c_contiguous and found.steps == 1
    assert arrays(drop_last=True).steps == 4 and arrays().steps == 5


def test_digests_see_names_types_shapes_and_elements() -> None:
    x = np.arange(6, dtype=np.float32)
    several = [{"x": x}, {"y": x}, {"x": x.reshape(2, 3)}, {"x": x.view(np.int32)}, {"x": x[::-1]}, {"x": x, "y": x}]
    assert len({digest(batch) for batch in several}) == len(several)
    assert digest({"x": x, "y": x + 1}) == digest({"y": x + 1, "x": x})


def test_data_is_split_by_the_seed() -> None:
    given = data(40)
    kept, held = split(given, 0.25, 3)
    assert len(kept["x"]) == 30 and len(held["x"]) == 10
    rows = sorted(map(tuple, [*kept["x"].tolist(), *held["x"].tolist()]))
    assert rows == sorted(map(tuple, given["x"].tolist()))
    assert np.array_equal(split(given, 0.25, 3)[1]["x"], held["x"])
    assert not np.array_equal(split(given, 0.25, 4)[1]["x"], held["x"])
    for share in (0, 1, 0.001, 1.5, "half", None):
        with pytest.raises(ArgumentError, match="validation: expected a share of the 40 examples"):
            split(given, share, 3)  # type: ignore[arg-type]


@pytest.mark.parametrize("own", [False, True])
def test_the_order_of_a_shuffling_loader_comes_again(own: bool) -> None:
    torch = pytest.importorskip("torch")
    given = data(20)
    tensors = torch.utils.data.TensorDataset(torch.from_numpy(given["x"]), torch.from_numpy(given["label"]))

    def loader() -> LoaderBatches:
        generator = torch.Generator().manual_seed(3) if own else None
        made = torch.utils.data.DataLoader(tensors, batch_size=4, shuffle=True, generator=generator)
        found = batches_of(made, NAMES, 1, shuffle=True, drop_last=False, seed=0)
        assert isinstance(found, LoaderBatches) and found.steps == 5
        return found

    before = torch.get_rng_state()
    try:
        first = loader()
        list(first.epoch(0))
        mark = first.mark()
        orders = [[digest(batch) for batch in first.epoch(epoch)] for epoch in (1, 2)]
        again = loader()
        torch.manual_seed(99)
        again.restore(mark)
        assert [digest(batch) for batch in again.epoch(1, 2)] == orders[0][2:]
        skipped = again.last_skipped(1, 2)
        assert skipped is not None and digest(skipped) == orders[0][1]
        assert [digest(batch) for batch in again.epoch(2)] == orders[1] != orders[0]
        with pytest.raises(ArgumentError, match="data: the state of its generator cannot be set"):
            again.restore({"all": np.zeros(3, np.uint8)})
    finally:
        torch.set_rng_state(before)
