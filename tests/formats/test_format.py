"""What is asked of number formats: read, refused, matched against names."""

from __future__ import annotations

from typing import Any

import pytest

from mapsto.errors import ArgumentError
from mapsto.formats.format import FORMATS, wanted


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("f17", "'f17' is no format; there are f32, bf16, f16"),
        ({"conv": "int9"}, "'conv': 'int9' is no format"),
        ({"conv": None}, "None is no format"),
        ({1: "bf16"}, "is no format"),
        (3, "expected a format's name"),
        (["bf16"], "expected a format's name"),
    ],
)
def test_what_is_no_format(given: Any, said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        wanted(given)


def test_the_last_pattern_that_fits_counts() -> None:
    asked = wanted({"*": "bf16", "head*": "f32", "head_2": "f16"})
    assert asked.of(["conv_1"]) is FORMATS["bf16"]
    assert asked.of(["head_1"]) is None
    assert asked.of(["head_2"]) is FORMATS["f16"]
    assert asked.of(["conv_1", "head_1"]) is None  # a node that stands for both
    assert asked


def test_nothing_is_asked() -> None:
    assert not wanted(None)
    assert not wanted({})
    assert not wanted("f32")
    assert wanted(wanted("bf16")) == wanted({"": "bf16"})


def test_what_names_no_node_is_for_all_of_them() -> None:
    asked = wanted({"": "bf16", "head*": "f16"})
    assert asked.of(["conv_1"]) is FORMATS["bf16"] and asked.of(["head_1"]) is FORMATS["f16"]
    assert asked.is_for_all(["conv_1"]) and not asked.is_for_all(["head_1"])
    assert not wanted({"*": "bf16"}).is_for_all(["conv_1"]) and not wanted(None).is_for_all(["conv_1"])
    assert wanted("bf16").unmet(["conv_1"]) is None


def test_a_pattern_that_fits_nothing() -> None:
    assert wanted({"conv*": "bf16"}).unmet(["conv_1", "fc"]) is None
    assert wanted({"conv*": "bf16", "cnv_1": "f32"}).unmet(["conv_1", "fc"]) == ("cnv_1", ["conv_1"])
