"""What a call takes: arrays of any kind that holds the right elements; and what it says of the wrong ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.session.support import normal, parse

import mapsto
from mapsto.errors import ShapeError
from mapsto.runtime.executable import Executable

MODEL = """g (float[N, 6] x, int64[N] i) => (float[N, 6] y, int64[N] j) {
    h = Exp(x)
    y = Softmax(h)
    j = Add(i, i)
}"""
X, I = normal(8, 6), np.arange(8)  # noqa: E741


@pytest.fixture(scope="module", params=[1, 2])
def exe(request: pytest.FixtureRequest) -> Executable:
    return mapsto.compile(parse(MODEL), threads=request.param)


class Subclass(np.ndarray):
    pass


def inside_a_larger_one() -> np.ndarray:
    whole = np.full((10, 9), np.nan, np.float32)
    whole[1:9, 2:8] = X
    return whole[1:9, 2:8]


def misaligned() -> np.ndarray:
    found: np.ndarray = np.zeros(X.nbytes + 1, np.uint8)[1:].view(np.float32).reshape(X.shape)
    found[...] = X
    return found


def read_only() -> np.ndarray:
    found = X.copy()
    found.flags.writeable = False
    return found


KINDS: dict[str, Any] = {
    "as it should be": X,
    "columns first": np.asfortranarray(X),
    "every second row": np.repeat(X, 2, 0)[::2],
    "backwards": X[::-1].copy()[::-1],
    "inside a larger one": inside_a_larger_one(),
    "broadcast": np.broadcast_to(X, X.shape),
    "misaligned": misaligned(),
    "read-only": read_only(),
    "bytes swapped": X.astype(">f4"),
    "a subclass": X.view(Subclass),
    "a list": X.tolist(),
    "a memory view": memoryview(X),
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_arrays(kind: str, exe: Executable) -> None:
    expected = exe.run({"x": X, "i": I})
    before = np.array(KINDS[kind])
    for _ in range(2):
        found = exe.run({"x": KINDS[kind], "i": I})
        assert found["y"].tobytes() == expected["y"].tobytes() and type(found["y"]) is np.ndarray
    np.testing.assert_array_equal(np.array(KINDS[kind]), before)


def test_kinds_of_integers(exe: Executable) -> None:
    for given in (I, I.tolist(), I.astype(">i8"), np.repeat(I, 3)[::3]):
        assert exe.run({"x": X, "i": given})["j"].tolist() == (2 * I).tolist()


def test_the_positional_form(exe: Executable) -> None:
    y, j = exe(X, I)
    by_name = exe.run({"i": I, "x": X})
    assert y.tobytes() == by_name["y"].tobytes() and j.tobytes() == by_name["j"].tobytes()


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, r"missing: x, i \(it takes x: f32\[N, 6\], i: i64\[N\]\)"),
    "one missing": ({"x": X}, "missing: i"),
    "one too many": ({"x": X, "i": I, "z": X}, "unknown: z"),
    "another name": ({"x": X, "z": I}, "missing: i; unknown: z"),
    "another float": ({"x": X.astype(np.float64), "i": I}, r"'x': dtype float64 where float32 was expected"),
    "another integer": ({"x": X, "i": I.astype(np.int32)}, r"'i': dtype int32 where int64 was expected"),
    "one axis less": ({"x": X[0], "i": I}, r"'x': shape \(6,\) where 2 dims were expected \(x: f32\[N, 6\]\)"),
    "another fixed extent": ({"x": X[:, :5], "i": I}, r"'x': shape \(8, 5\) where \(8, 6\) was expected"),
    "sizes that differ": ({"x": X, "i": I[:7]}, r"'i': shape \(7,\) where \(8,\) was expected .*N = 8"),
    "words": ({"x": "digits", "i": I}, "'x': dtype <U6 where float32"),
    "None": ({"x": None, "i": I}, "'x': dtype object where float32"),
    "complex numbers": ({"x": X.astype(np.complex64), "i": I}, "'x': dtype complex64"),
    "rows of other lengths": ({"x": [[1.0], [1.0, 2.0]], "i": I}, "'x'"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_inputs_name_what_was_expected(name: str, exe: Executable) -> None:
    given, message = WRONG[name]
    before = exe.run({"x": X, "i": I})
    with pytest.raises(ShapeError, match=message):
        exe.run(given)
    after = exe.run({"x": X, "i": I})
    assert all(after[n].tobytes() == before[n].tobytes() for n in before), "a refused call left something behind"


def test_a_wrong_number_of_inputs_in_the_positional_form(exe: Executable) -> None:
    for given in ((), (X,), (X, I, X)):
        with pytest.raises(ShapeError, match=f"{len(given)} inputs where g takes 2"):
            exe(*given)
