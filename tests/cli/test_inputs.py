"""Reading shapes and inputs from a command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from mapsto.cli import inputs
from mapsto.cli.inputs import Given, existing, make_feed, parse_shapes, parse_updates, read_given, read_text
from mapsto.cli.usage import UsageError
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, sym


@dataclass(frozen=True)
class Port:
    name: str
    dtype: DType
    shape: tuple[Dim, ...]


X = Port("x", DType.F32, (2, 3))
OPEN = Port("x", DType.F32, (sym("n"), 3))
RATE = Port("sr", DType.I64, ())


def test_shapes() -> None:
    assert parse_shapes([]) is None
    assert parse_shapes(["x=1,3,224,224", "a=b=2,?", "scalar="]) == {
        "x": (1, 3, 224, 224),
        "a=b": (2, None),
        "scalar": (),
    }


@pytest.mark.parametrize("text", ["x", "=1,2", "x=1,two", "x=1,,2", "x=-1"])
def test_bad_shapes_are_quoted(text: str) -> None:
    with pytest.raises(UsageError, match=r"--shape"):
        parse_shapes([text])


def test_updates() -> None:
    assert parse_updates([]) is None
    assert parse_updates(["past=present", "a=b=c"]) == {"past": "present", "a": "b=c"}


@pytest.mark.parametrize("texts", [["x"], ["=y"], ["x="], ["x=y", "x=z"]])
def test_bad_updates_are_quoted(texts: list[str]) -> None:
    with pytest.raises(UsageError, match=r"--update x|--update =y"):
        parse_updates(texts)


def test_inputs_by_name_number_list_and_kind() -> None:
    given = Given(made={"x": "ones", "sr": "16000"})
    fed = make_feed([X, RATE], given)
    assert fed.feed["x"].dtype == np.float32 and fed.feed["x"].tolist() == [[1] * 3] * 2
    assert fed.feed["sr"].dtype == np.int64 and fed.feed["sr"].shape == () and fed.feed["sr"] == 16000
    assert make_feed([X], Given(made={"x": "[[1, 2, 3]]"})).feed["x"].tolist() == [[1, 2, 3]]
    assert make_feed([X], Given(made={"x": "0.5"})).feed["x"].tolist() == [[0.5] * 3] * 2


def test_random_inputs_are_the_same_every_time_and_differ_by_name_and_seed() -> None:
    other = Port("y", DType.F32, (2, 3))
    first, again, seeded = (make_feed([X, other], Given(), seed).feed for seed in (0, 0, 1))
    assert np.array_equal(first["x"], again["x"])
    assert not np.array_equal(first["x"], first["y"]) and not np.array_equal(first["x"], seeded["x"])
    assert set(np.unique(make_feed([Port("i", DType.I32, (100,))], Given()).feed["i"])) == {0, 1}


def test_open_sizes_need_data_or_a_shape() -> None:
    with pytest.raises(UsageError, match=r"(?s)x: f32\[n, 3\].*--shape x=N,3"):
        make_feed([OPEN], Given())
    assert make_feed([OPEN], Given({"x": np.zeros((5, 3), np.float32)})).feed["x"].shape == (5, 3)
    assert make_feed([OPEN], Given(made={"x": "[[1, 2, 3]]"})).feed["x"].shape == (1, 3)


def test_the_only_input_needs_no_name() -> None:
    array = np.ones((2, 3), np.float32)
    assert make_feed([X], Given({"": array})).feed["x"] is array
    assert make_feed([X], Given({"image": array, "label": np.arange(2)})).feed["x"] is array
    with pytest.raises(UsageError, match="say which input is meant"):
        make_feed([X, RATE], Given({"": array}))


def test_unknown_names_are_refused_with_those_that_exist() -> None:
    with pytest.raises(UsageError, match=r"no input 'z'; its inputs are: x \(f32\[2, 3\]\), sr \(i64\[\]\)"):
        make_feed([X, RATE], Given({"z": np.zeros(1)}))


def test_labels_are_kept_apart_unless_they_are_an_input() -> None:
    labels = np.arange(2)
    assert make_feed([X], Given({"label": labels})).labels is labels
    port = Port("label", DType.I64, (2,))
    fed = make_feed([X, port], Given({"label": labels}))
    assert fed.labels is None and fed.feed["label"] is labels


@pytest.mark.parametrize("what", ["rnd", "1.5", '{"a": 1}', '["a"]', "null"])
def test_literals_that_do_not_fit_are_quoted(what: str) -> None:
    with pytest.raises(UsageError, match=r"--input sr="):
        make_feed([RATE], Given(made={"sr": what}))


def test_files(tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.ones(2))
    np.savez(tmp_path / "two.npz", x=np.zeros(2), y=np.ones(3))
    given = read_given(tmp_path / "two.npz", [f"x={tmp_path}/one.npy", f"z={tmp_path}/one.npy", "s=zeros"])
    assert (
        given.arrays["x"].tolist() == [1, 1] and set(given.arrays) == {"x", "y", "z"} and given.made == {"s": "zeros"}
    )
    assert read_given(None, [f"y={tmp_path}/two.npz"]).arrays["y"].tolist() == [1, 1, 1]
    with pytest.raises(UsageError, match="holds x, y; none of them is called 'w'"):
        read_given(None, [f"w={tmp_path}/two.npz"])
    with pytest.raises(UsageError, match="no input file"):
        read_given(None, [f"w={tmp_path}/none.npy"])
    with pytest.raises(UsageError, match="is a folder"):
        existing(tmp_path)


def test_texts_up_to_a_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inputs, "LARGEST_TEXT", 8)
    path = tmp_path / "plan.txt"
    for text in ("", "12345678"):
        path.write_text(text)
        assert read_text(path, "plan") == text
    path.write_text("123456789")
    with pytest.raises(UsageError, match="is no plan: it has more than 8 bytes"):
        read_text(path, "plan")
    path.write_bytes(b"\xff")
    with pytest.raises(UsageError, match="not text in UTF-8"):
        read_text(path, "plan")
