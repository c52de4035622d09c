"""Machines as data: text there and back, what a file may not say, rounding of measured figures."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapsto.errors import ParseError
from mapsto.ir.dtypes import DType
from mapsto.machine.spec import MOVES, RATES, DeviceSpec, Level, Link, Machine, Power, faults_of, rounded
from mapsto.machine.text import digest, parse, to_data, to_text

F32 = DType.F32


def simple_spec(name: str = "cpu") -> DeviceSpec:
    """Round figures that are easy to calculate with."""
    return DeviceSpec(
        name=name,
        maker="cpu",
        model="a processor",
        code="wide",
        peaks={(F32, F32, F32): 1e9, (DType.U8, DType.I8, DType.I32): 4e9},
        rates=dict.fromkeys(RATES, 1e-9) | {"exp": 8e-9},
        moves=dict.fromkeys(MOVES, 2e-9) | {"gather": 5e-9, "strided_load": 6e-9, "strided_store": 6e-9},
        levels=(
            Level("L1", 1000, 1e10, 1e10, 1, 1e10),
            Level("L2", 10_000, 5e9, 4e9, 1, 5e9),
            Level("memory", math.inf, 1e9, 5e8, 2, 1.5e9),
        ),
        lanes=16,
        scalar=3e-9,
        latency=4e-9,
        loop=1e-8,
        units=2,
        launch=1e-7,
        barrier=2e-7,
        source="described",
        power=Power(10.0, 5.0),
    )


MACHINE = Machine((simple_spec(), simple_spec("gpu0")), (Link("cpu", "gpu0", 1e9, 1e-5),))


def test_a_machine_as_text_is_read_as_the_same_machine() -> None:
    again = parse(to_text(MACHINE))
    assert again == MACHINE
    assert to_text(again) == to_text(MACHINE)
    assert digest(again) == digest(MACHINE) and len(digest(MACHINE)) == 64


def test_devices_and_links_are_found_by_name() -> None:
    assert MACHINE.host.name == "cpu" and MACHINE.device("gpu0").name == "gpu0"
    assert MACHINE.link("cpu", "gpu0") == MACHINE.links[0] and MACHINE.link("gpu0", "cpu") is None


def _changed(path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    data = json.loads(to_text(MACHINE))
    at = data
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return data


def _leaves(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(data, dict):
        return [leaf for key, value in data.items() for leaf in _leaves(value, (*path, key))]
    if isinstance(data, list):
        return [leaf for n, value in enumerate(data) for leaf in _leaves(value, (*path, n))]
    return [path]


def test_each_figure_is_in_the_digest() -> None:
    figures = [
        path for path in _leaves(to_data(MACHINE)) if isinstance(_at(path), (int, float)) and path[0] != "version"
    ]
    assert len(figures) > 80
    for path in figures:
        data = _changed(path, _at(path) + 1)
        assert digest(parse(json.dumps(data))) != digest(MACHINE), path


def _is_figure(path: tuple[Any, ...]) -> bool:
    return isinstance(_at(path), (int, float))


def _at(path: tuple[Any, ...]) -> Any:
    found: Any = to_data(MACHINE)
    for key in path:
        found = found[key]
    return found


def test_every_member_that_is_spoiled_is_told_by_its_place() -> None:
    for path in _leaves(to_data(MACHINE)):
        with pytest.raises(ParseError) as error:
            parse(json.dumps(_changed(path, ["spoiled"])), "a.json")
        assert str(error.value).startswith("a.json: "), path
        if path[0] == "devices" and len(path) > 2:
            assert f"devices[{path[1]}].{path[2]}" in str(error.value), path


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        (("version",), 2, "version: this version of mapsto reads 1, the file has 2"),
        (("format",), "x", "format"),
        (("devices",), [], "at least one"),
        (("devices", 1, "name"), "cpu", "a name of its own"),
        (("devices", 0, "launch"), 0, "expected a positive number, found 0"),
        (("devices", 0, "launch"), -1.0, "expected a positive number"),
        (("devices", 0, "launch"), True, "expected a number, found True"),
        (("devices", 0, "lanes"), 2.5, "whole number"),
        (("devices", 0, "source"), "guessed", "measured, typical, described"),
        (("devices", 0, "rates"), {"add": 1e-9}, "rates: no figure for exp"),
        (("devices", 0, "peaks"), {"f32*f32": 1e9}, "no `a*b*sum` of element types"),
        (("devices", 0, "levels"), [], "the last one must hold everything"),
        (("devices", 0, "levels", 1, "bytes"), 10, "each must hold more bytes than the one before"),
        (("devices", 0, "levels", 0, "units"), 1.5, "whole number"),
        (("devices", 0, "cores"), 2, "'cores' means nothing here"),
        (("links", 0, "target"), "gpu7", "there is no device 'gpu7'; there are: cpu, gpu0"),
        (("devices", 0, "power"), {"idle": 1}, "power.unit"),
    ],
)
def test_what_a_file_may_not_say(path: tuple[Any, ...], value: Any, told: str) -> None:
    with pytest.raises(ParseError, match="a.json") as error:
        parse(json.dumps(_changed(path, value)), "a.json")
    assert told in str(error.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "1", '"x"', "NaN", "[" * 100_000, "\0", "9" * 10_000])
def test_what_is_no_machine_at_all(text: str) -> None:
    with pytest.raises(ParseError, match=r"a\.json"):
        parse(text, "a.json")


def test_a_file_of_a_gigabyte_is_not_parsed() -> None:
    with pytest.raises(ParseError, match="too many"):
        parse(" " * 2_000_000)


def test_infinite_and_tiny_figures_are_refused() -> None:
    for bad in ("1e400", "-1e400", "NaN", "0"):
        text = to_text(MACHINE).replace('"launch": 1e-07', f'"launch": {bad}', 1)
        assert text != to_text(MACHINE)
        with pytest.raises(ParseError, match="launch"):
            parse(text)


def test_a_described_machine_of_wrong_figures_is_not_made() -> None:
    spec = replace(simple_spec(), latency=-1.0)
    assert faults_of(spec) == ["latency is -1.0; it must be a positive number, from 1e-30 to 1e+30"]
    with pytest.raises(AssertionError):
        Machine((spec,))


@given(st.floats(1e-12, 1e15), st.floats(-0.02, 0.02))
def test_rounding_is_to_five_percent_and_settles(figure: float, noise: float) -> None:
    found = rounded(figure)
    assert abs(found / figure - 1) < 0.031
    assert rounded(found) == found
    assert abs(rounded(figure * (1 + noise)) / found - 1) < 0.056


def _found(distance: float) -> dict[str, float]:
    return {level.name: pytest.approx(share) for level, share in simple_spec().found_in(distance)}


def test_an_operand_is_in_the_nearest_level_that_holds_all_that_was_touched_since() -> None:
    assert _found(0) == _found(1000) == {"L1": 1}
    assert _found(2000) == _found(10_000) == {"L2": 1}
    assert _found(1e12) == {"memory": 1}


def test_a_level_holds_less_and_less_up_to_twice_its_size() -> None:
    assert _found(1250) == {"L1": 0.75, "L2": 0.25}
    assert _found(15_000) == {"L2": 0.5, "memory": 0.5}


@given(st.floats(0, 1e15))
def test_all_of_an_operand_is_somewhere(distance: float) -> None:
    assert sum(share for _, share in simple_spec().found_in(distance)) == pytest.approx(1.0)


def test_peaks_that_are_not_listed() -> None:
    spec = simple_spec()
    assert spec.peak(DType.U8, DType.I8, DType.I32) == 4e9
    assert spec.peak(DType.BF16, DType.BF16, F32) == 1e9  # as the sum's type
    assert spec.peak(DType.F64, DType.F64, DType.F64) == 1.0 / (2 * 1e-9 * 2)  # two operations, half the lanes
