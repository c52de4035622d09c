"""The plan's text: round trip, errors that name the line, explanations."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from mapsto.errors import MapstoError, ParseError
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import sym
from mapsto.plan.home import Home
from mapsto.plan.layout import blocked, permuted, plain
from mapsto.plan.plan import (
    Basis,
    Beaten,
    Declined,
    Offer,
    Pins,
    Plan,
    PlannedControl,
    PlannedRegion,
    PlannedView,
    Seats,
    Work,
    parse,
)
from mapsto.plan.recipe import made, of
from mapsto.plan.traits import Traits

WORK = Work(
    "g0",
    "contraction",
    made("epilogue", of("conv"), of("odd, name")),
    ("odd, name",),
    Offer("tiles", 'tile 16 columns; "so"'),
    ("conv", "odd, name"),
    ("conv", "relu"),
    ("/a/Conv", 'odd "name"'),
    "9*n multiply-adds",
    ("because so", "and so"),
    (Declined("compose", "x y", "it is read elsewhere"),),
    1.25e-05,
    (
        Beaten("as", "tiles", 'tile 32 "columns"', 3e-07),
        Beaten("as", "loops", "", 1.0),
        Beaten("apart", "x y", "", -2e-9),
    ),
)
VIEW = PlannedView("g4", "v", ("x", "y z"), made("without", of("v"), of("x"), of("y z")), "it lies there")
ARMS = ((replace(WORK, name="g3"), VIEW), (PlannedControl("g5", 7),), ())
BORDER = ((0, 0), (0, 0), (1, 1), (2, 0))
HOMES = {
    "odd, name": Home("odd, name", DType.F32, blocked((1, 32, sym("h"), 5), 1, 16, BORDER), "so"),
    "t": Home("odd, name", DType.F32, replace(plain((sym("h") * 3, 2)), offset=sym("h") + 1)),
    "s": Home("s", DType.I64, permuted((4, 5), (1, 0))),
    "scalar": Home("scalar", DType.BOOL, plain(())),
}
PLAN = Plan(
    "net",
    "avx512",
    "0123abcd",
    "1.0",
    (WORK, PlannedRegion("g1", "q", ARMS), PlannedControl("g2", 3)),
    HOMES,
    {"out put": "t"},
    traits=Traits(0, 1, 22, 333, 4444, 5, 66666),
    basis=Basis(
        "abc",
        "measured",
        (("h", 64), ("odd, size", 1)),
        Seats(
            2.5e-05,
            2.4e-05,
            3.0,
            "highs",
            False,
            (
                (("t", "odd, name"), Beaten("inner", "-", "", 1e-06)),
                (("s",), Beaten("inner", "0", "", 0.0)),
                (("s",), Beaten("inner", "1 whole", "", 0.5)),
            ),
        ),
    ),
)
TRAITS = "traits block 16, least_blocked 8, least_columns 4, least_channels 16, least_of_a_group 16, "
PINS = Plan("net", "sse2", pins=Pins((("a", "b c"), ("d", "e")), (("a", 3), ("b c", None)), (("n", 7), ("odd, n", 1))))


def test_plans_that_were_written_before_a_trait_was_known() -> None:
    for line, crowded in ((f"{TRAITS}most_waiting 8", 0), (f"{TRAITS}most_waiting 8, crowded_bytes 99", 99)):
        assert parse(f"plan a for b\n{line}\n").traits == Traits(16, 8, 4, 16, 16, 8, crowded)


def test_json_has_every_item() -> None:
    items = json.loads(json.dumps(PLAN.to_json()))["items"]
    (view,) = [item for arm in items[1]["arms"] for item in arm if item["item"] == "plannedview"]
    assert view["recipe"] == str(VIEW.recipe) and view["of"] == ["x", "y z"]
    assert items[0]["recipe"] == str(WORK.recipe) and items[2] == {"item": "plannedcontrol", "name": "g2", "node": 3}


@pytest.mark.parametrize("plan", [PLAN, PINS, Plan("", "x")], ids=["plan", "pins", "nothing"])
def test_the_text_form_round_trips(plan: Plan) -> None:
    assert parse(plan.text()) == plan
    assert parse(f"# a comment\n\n{plan.text()}  # another") == plan


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("work g0", "line 1"),
        ("grop g0", "line 1: not a line of a plan"),
        ('plan a for b\nhome x : f32[1] in x axes "d0" of "1" at "0"', "line 2"),
        ('plan a for b\nhome x : f99[1] in x axes "d0*(1)" of "1" at "0"', "line 2"),
        ('plan a for b\nhome x : f32[1] in x axes "d3*(1)" of "1" at "0"', "line 2: an axis of a dim"),
        ("plan a for b\n  because 1", "line 2: a detail, but no item"),
        ('plan a for b\nwork g0 rows = a\n  since "1"', "line 3: unknown detail 'since'"),
        ("plan a for b\nwork g0 rows = a(", "line 2: a recipe"),
        ("plan a for b\nwork g0 rows = a\nwork g0 rows = b", "line 3: line 2 says that already"),
        ("", "there is no line"),
        ("plan a for b\nplan a for c", "line 2: line 1 says that already"),
        ("plan a for b\ngraph 1 by mapsto 1\n\ngraph 2 by mapsto 1", "line 4: line 2 says that already"),
        ("plan a for b\ntraits block 16", "line 2: the traits are block, least_blocked, "),
        (f"plan a for b\ntraits {', '.join(['block 16'] * 6)}", "line 2: the traits are block, "),
        (f"plan a for b\n{TRAITS}most_waiting 8, crowded 4096", "line 2: the traits are block, "),
        (f"plan a for b\n{TRAITS}most_waiting 8888888888", "line 2: not a line of a plan"),
        (f"plan a for b\n{TRAITS}most_waiting 8\n{TRAITS}most_waiting 8", "line 3: line 2 says that already"),
        ("plan a for b\nregion g1 q\nwork g0 rows = a", "line 3: region g1 has no arm yet"),
        ("plan a for b\nregion g1 q\narm 1 of g1", "line 3: an arm that is not the next"),
        ("plan a for b\nregion g1 q\narm 0 of g1\nend g2", "line 4: the end of a region that is not open"),
        ("plan a for b\nregion g1 q", "line 2: region g1 has no end"),
        ("plan a for b\n" + "\n".join(f"region g{i} q\narm 0 of g{i}" for i in range(60)), "nested too deep"),
        ("plan a for b\npin inner x 1\npin inner x 2", "line 3: inner x: line 2 says that already"),
        ("plan a for b\npin under x", "line 2"),
        ("plan a for b\npin size n 1\npin size n 2", "line 3: size n: line 2 says that already"),
        ("plan a for b\npin size n -1", "line 2: not a line of a plan"),
        ("plan a for b\nsize n 3", "sizes or seats, but no line `machine"),
        ("plan a for b\nmachine 1 typical\nsize n 3\nsize n 4", "line 4: line 3 says that already"),
        ("plan a for b\nmachine 1 typical\nseats 1 bound 1 voted 1 by magic", "line 3: not a line of a plan"),
        ("plan a for b\nbeaten inner 0 of x by 1.0", "line 2: there is no line `seats"),
        ("plan a for b\nwork g0 rows = a\n  beaten by 1.0", "line 3: not a line of a plan"),
        ("plan a for b\nwork g0 rows = a\n  predicted soon", "line 3: 'soon' is no number of seconds"),
        ("plan a for b\nplace x in y\nplace x in z", "line 3: line 2 says that already"),
    ],
)
def test_errors_name_the_line(text: str, message: str) -> None:
    with pytest.raises(ParseError, match=message):
        parse(text)


def test_explain_names_what_is_near() -> None:
    said = PLAN.explain("/a/Conv")
    assert "together with" in said and "not compose of x y: it is read elsewhere" in said
    assert "lies in buffer" in PLAN.explain("odd, name") and "it lies" in PLAN.explain("v")
    assert "predicted: 12.5 us" in said and 'as tiles, tile 32 "columns": 0.3 us more' in said
    assert "in two works, with x y in memory between them: 0.002 us less" in said
    assert "row-major, as all 2 values that lie alike: 1 us more" in PLAN.explain("odd, name")
    with pytest.raises(MapstoError, match="closest: odd, name"):
        PLAN.explain("odd name")
