"""The text of plans of several devices: what is printed is read back, and what is wrong is named by its line."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mapsto.errors import ArgumentError, ParseError
from mapsto.ir.dtypes import DType
from mapsto.machine.spec import Power
from mapsto.plan.division import (
    AXES,
    CHANNELS,
    EVERYWHERE,
    NOWHERE,
    DividedPlan,
    PlacedWork,
    PlannedDevice,
    PlannedPart,
    Total,
)
from mapsto.plan.division_text import division_text, is_division, parse_division

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8) | st.sampled_from(
    ["conv*", "a b", "work g0 on x", '"', "\\", "part 1 on b", "#", "\n", "é", "\u2028", "-", "*", "1"]
)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
seconds = st.floats(allow_nan=False) | st.just(math.inf)
watts = st.floats(0, allow_infinity=False)
factors = st.floats(0, exclude_min=True, allow_infinity=False)
plain = st.from_regex(r"[a-z][a-z0-9.:+_-]{0,6}", fullmatch=True)


def part_of(device: str, maker: str) -> PlannedPart:
    text = f'plan g for {maker}\ngraph 0123 by mapsto 0.1.0\nwork g0 rows = a\n  writes a\n  as loops "none"\n# step 0'
    return PlannedPart(device, text)


@st.composite
def some_works(draw: st.DrawFn, devices: list[str], everywhere: bool) -> tuple[PlacedWork, ...]:
    found = []
    for name in draw(st.lists(names, min_size=1, max_size=4, unique=True)):
        nodes = tuple(draw(st.lists(names, max_size=3)))
        device = NOWHERE if not nodes else EVERYWHERE if everywhere else draw(st.sampled_from(devices))
        some = st.lists(st.sampled_from(devices), unique=True)
        pairs = [tuple((d, draw(each)) for d in draw(some)) for each in (seconds, texts, seconds)]
        lists = [tuple(draw(st.lists(names, max_size=3))) for _ in range(2)]
        found.append(PlacedWork(name, device, nodes, *lists, *pairs, draw(texts), draw(st.booleans())))  # type: ignore[arg-type]
    return tuple(found)


@st.composite
def plans(draw: st.DrawFn) -> DividedPlan:
    devices = draw(st.lists(plain, min_size=1, max_size=3, unique=True))
    types = st.tuples(*[st.sampled_from(DType)] * 3)
    power = st.none() | st.builds(Power, watts, watts, watts, st.dictionaries(types, watts, max_size=3))
    copies = factors | st.just(math.inf)
    planned = tuple(
        PlannedDevice(name, draw(plain), draw(factors), draw(factors), draw(watts), draw(copies), draw(power))
        for name in devices
    )
    everywhere = draw(st.booleans())
    works = draw(some_works(devices, everywhere)) if draw(st.booleans()) else ()
    parted = draw(st.lists(st.sampled_from(planned), max_size=3)) if works else []
    parts = tuple(part_of(p.name, p.maker) for p in parted)
    pins = tuple(dict.fromkeys((draw(names), draw(st.sampled_from(devices))) for _ in range(draw(st.integers(0, 2)))))
    splits = tuple({draw(names): draw(st.integers(0, 10**9 - 1)) for _ in range(draw(st.integers(0, 2)))}.items())
    axes = tuple((value, axis) for value, _ in splits if (axis := draw(st.sampled_from(AXES))) != CHANNELS)
    others = tuple({draw(texts): draw(seconds) for _ in range(draw(st.integers(0, 2)))}.items())
    total = draw(st.none() | st.builds(Total, seconds, seconds, texts))
    limits = tuple((name, draw(st.integers(0, 10**18 - 1))) for name in devices if draw(st.booleans()))
    return DividedPlan(
        draw(names), planned, "abc", "0.1.0", "energy", "heft", pins, everywhere, splits, total, others, works, parts,
        limits, axes,
    )  # fmt: skip


@given(plans())
def test_what_is_printed_is_read_back(plan: DividedPlan) -> None:
    text = division_text(plan)
    again = parse_division(text)
    bare = tuple(replace(part, text="\n".join(part.lines())) for part in plan.parts)
    found = tuple(replace(part, text="\n".join(part.lines())) for part in again.parts)
    assert replace(again, parts=found) == replace(plan, parts=bare)
    assert division_text(again) == text and is_division(text) and not is_division("plan g for x\n")
    for what in ("works", "devices", "limits"):
        assert again.to_json()[what] == plan.to_json()[what]
    json.dumps(plan.to_json() | {"parts": []})


WHOLE = """\
division 1 of g on a, b
graph 0123 by mapsto 0.1.0
device a is x86 products 1.0 others 0.5
device b is ptx products 1.0 others 1.0
objective latency
placer exact
pin conv* on b
split y 16
total 0.001 bound 0.0005 by "search"
other "all on a" 0.002
work g0 on b
  nodes y
  ops conv
  from ["conv1"]
  takes a 0.002
  takes b 0.001
  beaten a by 0.001
  because "it is"
work g1 on -
  refuses b "no"
part 0 on b
plan g for ptx
graph 4567 by mapsto 0.1.0
work g0 rows = y
  writes y
  as loops "none"
"""

WRONG = [
    ("division 1", "division 2", 1, "a plan of form 2; this version of mapsto reads form 1"),
    ("on a, b", "on a, a", 1, "a device that is there twice"),
    ("on a, b", "on", 1, "division: expected `division 1 of GRAPH on DEVICE, DEVICE`"),
    ("division 1 of g on a, b\n", "", 1, "the first line is `division 1 of GRAPH on DEVICE, DEVICE`"),
    ("by mapsto", "from mapsto", 2, "graph: expected `graph DIGEST by mapsto VERSION`"),
    ("device b", "device a", 4, "device a: a line says that already"),
    ("others 0.5", "others half", 3, "device: expected `device DEVICE is MAKER"),
    ("device a", "device c", 3, "there is no device 'c' in this plan; there are: a, b"),
    ("objective latency", "objective", 5, "objective: expected `objective NAME`"),
    ("objective latency", "objective b", 5, "objective 'b'; there are: latency, throughput, energy"),
    ("placer exact", "placer latency", 6, "placer 'latency'; there are: greedy, heft, exact, exhaustive"),
    ("others 0.5", "others -0.5", 3, "expected a number above 0, found -0.5"),
    ("others 0.5", "others 0.5 begins -1 copies 1", 3, "expected a number from 0 on, found -1"),
    ("others 0.5", "others 0.5 begins inf copies 1", 3, "expected a number from 0 on, found inf"),
    ("others 0.5", "others 0.5 begins 0 copies 0", 3, "expected a number above 0, found 0"),
    ("placer exact", "objective exact", 6, "line 5 says that already"),
    ("conv* on b", "conv* on d", 7, "there is no device 'd'"),
    ("split y 16", "split y -16", 8, "split: expected `split VALUE COUNT of AXIS`"),
    ("split y 16", "split y 16 of lines", 8, "split y: there is no axis 'lines'; there are: channels, rows, batch"),
    ('by "search"', "by search", 9, "total: expected `total SECONDS"),
    ("bound 0.0005", "bound nan", 9, "total: expected"),
    ("work g0", "wirk g0", 11, "not a line of a plan of several devices"),
    ("g0 on b", "g0 on c", 11, "there is no device 'c'"),
    ("g0 on b", "g0 on *", 11, "works are on * where a line `replicated` stands above them"),
    ("split y 16", "replicated", 11, "works are on * where a line `replicated` stands above them"),
    ("g0 on b", "g0 on -", 11, "work g0: on -, but it has nodes"),
    ("work g1 on -", "work g1 on a", 19, "work g1: it has no nodes: write `on -`"),
    ("work g1 on -", "work g0 on -", 19, "line 11 says that already"),
    ("  ops conv", "  oops conv", 13, "unknown detail 'oops' of a work"),
    ('["conv1"]', '["conv1", 5]', 14, "from: expected a list of texts"),
    ('["conv1"]', "[conv1]", 14, "Expecting value"),
    ('["conv1"]', "[" * 100000 + "]", 14, ""),
    ("takes b", "takes a", 16, "takes a: a line says that already"),
    ("takes b 0.001", "takes b soon", 16, "takes: expected `takes DEVICE SECONDS`"),
    ("beaten a by", "beaten a", 17, "beaten: expected `beaten DEVICE by SECONDS`"),
    ('"it is"', '"it is', 18, 'because: expected `because "WHY"`'),
    ('"it is"', '"it \\q"', 18, "Invalid"),
    ("part 0 on b", "part 0 on c", 21, "there is no device 'c'"),
    ("part 0 on b", "part 0", 21, "part: expected `part NUMBER on DEVICE`"),
    ("part 0 on b", "part 0 on a", 22, r"for: ptx, but a is x86 (line 3)"),
    ("graph 4567 by mapsto 0.1.0\n", "", 21, "part 0: no line `graph DIGEST by mapsto VERSION`"),
    ("work g0 rows = y", "work g0 rose = y", 24, "not a line of a plan"),
    ("  writes y", "  wrote y", 25, "unknown detail 'wrote'"),
]


@pytest.mark.parametrize(("old", "new", "line", "said"), WRONG, ids=lambda value: str(value)[:20])
def test_what_is_wrong_is_named_by_its_line(old: str, new: str, line: int, said: str) -> None:
    assert parse_division(WHOLE).works[0].device == "b" and old in WHOLE
    with pytest.raises(ParseError) as error:
        parse_division(WHOLE.replace(old, new, 1))
    assert str(error.value).startswith(f"plan, line {line}: ") and said in str(error.value)
    assert len(str(error.value)) < 400


ASKED = "division 1 of g on a, b\npower a idle 0.1 unit 2.0 byte 1e-12 f32*f32*f32 5e-12\nlimit b memory 100\n"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("power a", "power c", "line 2: there is no device 'c'"),
        ("idle 0.1", "idle -0.1", "line 2: expected a number from 0 on, found -0.1"),
        ("5e-12", "inf", "line 2: expected a number from 0 on, found inf"),
        ("idle 0.1", "idle some", "line 2: power: expected `power DEVICE idle WATTS unit WATTS byte JOULES"),
        ("f32*f32*f32", "f32*f32*f31", "line 2: 'f31' is not a valid DType"),
        ("f32*f32*f32", "f32*f32*f32 1.0 f32*f32*f32", "line 2: types that are there twice"),
        ("limit b memory 100", "power a idle 0.1 unit 2.0 byte 0.0", "line 3: power a: a line says that already"),
        ("limit b", "limit c", "line 3: there is no device 'c'"),
        ("memory 100", "memory 1e3", "line 3: limit: expected `limit DEVICE memory BYTES`"),
        ("memory 100\n", "memory 100\nlimit b memory 200\n", "line 4: limit b: a line says that already"),
    ],
)
def test_figures_of_power_and_limits(old: str, new: str, said: str) -> None:
    assert parse_division(ASKED).limits == (("b", 100),) and old in ASKED
    with pytest.raises(ParseError) as error:
        parse_division(ASKED.replace(old, new, 1))
    assert str(error.value).startswith(f"plan, {said}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "there is no line `division"), ("# nothing\n\n", "there is no line `division"),
        ("division 1 of g on a\nwork w on a\n  nodes y\n", "there is no line `graph DIGEST"),
        ("division 1 of g on a\n  takes a 1.0\n", "line 2: a detail, but no work before it"),
        ("division 1 of g on a\npart 0 on a\n", "line 2: a part, but no work before it"),
        ("division 1 of g on " + ", ".join(f"d{k}" for k in range(65)), "line 1: more than 64 devices"),
        ("division 1 of g on a\n" + "".join(f"pin {k} on a\n" for k in range(1001)), "line 1002: more than 1000 pins"),
        ("plan g for a\n", "line 1: this is a plan of one device"),
        ("\0", "line 1: not a line"),
        ("division 1 of g on a\n" + "work w on a\n" * 3, "line 3: line 2 says that already"),
    ],
)  # fmt: skip
def test_what_is_missing_is_said(text: str, said: str) -> None:
    with pytest.raises(ParseError) as error:
        parse_division(text)
    assert said in str(error.value)


def test_what_is_no_text_is_an_argument_error() -> None:
    for wrong in (None, 5, b"division 1 of g on a\n"):
        with pytest.raises(ArgumentError, match="expected a string"):
            parse_division(wrong)  # type: ignore[arg-type]
