"""Every op by itself against onnx.reference and ONNX Runtime: 5,000 runs of drawn forms, the same ones every time.

`python -m tests.differential` tries more, and others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from mapsto.devices.cpu.workers import Workers
from tests.differential.forms import FORMS
from tests.differential.judging import difference
from tests.differential.trying import executing, form_of, tried

SEEDS = 20  # forms of each op; near 5,000 runs in all


@pytest.fixture(scope="module")
def native() -> Iterator[Workers]:
    with Workers(cache=False) as found:
        yield found


@pytest.mark.parametrize("op", sorted(FORMS))
def test_an_op_does_as_the_standard_says(op: str, native: Workers) -> None:
    counts: Counter[str] = Counter()
    findings = [f for seed in range(SEEDS) for f in tried(op, seed, executing(native), counts)]
    assert not findings, "\n".join(map(str, findings))
    assert counts["right"] + counts["right, reference differs"] >= SEEDS // 2, counts


@pytest.mark.parametrize("op", ["Add", "Softmax", "MatMul", "Transpose", "Gather", "ReduceSum"])
def test_a_wrong_result_is_found(op: str, native: Workers) -> None:
    """One element of each result is another one."""
    right = executing(native)

    def wrong(model: Any) -> Any:
        run = right(model)

        def spoilt(feed: Any) -> list[np.ndarray]:
            found = [np.array(a) for a in run(feed)]
            for array in found:
                if array.size and array.dtype != np.bool_:
                    array.flat[array.size // 2] = array.flat[array.size // 2] * 2 + 1
            return found

        return spoilt

    assert any(list(tried(op, seed, wrong, Counter())) for seed in range(3))


def test_a_refusal_is_found(native: Workers) -> None:
    from mapsto.errors import UnsupportedError

    def refusing(model: Any) -> Any:
        raise UnsupportedError("nothing is supported")

    assert list(tried("Add", 1, refusing, Counter()))


def test_forms_are_the_same_for_a_seed() -> None:
    for op in sorted(FORMS):
        (one, feeds, opened), (other, again, also) = form_of(op, 5), form_of(op, 5)
        assert one.attributes == other.attributes
        assert opened == also and len(feeds) == len(again)
        for a, b in zip(feeds, again, strict=True):
            assert not difference([a[n] for n in a], [b[n] for n in b], "exact", {}, None)
