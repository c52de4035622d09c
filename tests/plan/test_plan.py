"""The plan's text: round trip, errors that name the line, explanations."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mapsto.errors import MapstoError, ParseError
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import sym
from mapsto.plan.home import Home
from mapsto.plan.layout import blocked, permuted, plain
from mapsto.plan.plan import Control, Declined, Offer, Pins, Plan, Region, View, Work, parse
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
)
VIEW = View("g4", "v", ("x", "y z"), made("without", of("v"), of("x"), of("y z")), "it lies there")
ARMS = ((replace(WORK, name="g3"), VIEW), (Control("g5", 7),), ())
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
    (WORK, Region("g1", "q", ARMS), Control("g2", 3)),
    HOMES,
    {"out put": "t"},
    traits=Traits(0, 1, 22, 333, 4444, 5),
)
TRAITS = "traits block 16, least_blocked 8, least_columns 4, least_channels 16, least_of_a_group 16, "
PINS = Plan("net", "sse2", pins=Pins((("a", "b c"), ("d", "e")), (("a", 3), ("b c", None))))


@pytest.mark.parametrize("plan", [PLAN, PINS, Plan("", "x")], ids=["plan", "pins", "nothing"])
def test_the_text_form_round_trips(plan: Plan) -> None:
    assert parse(plan.text()) == plan
    assert parse(f"# a comment\n\n{plan.text()}  # another") == plan


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("work g0", "line 1"),
        ("grop g0", "line 1: not a line of a plan"),
        ("plan a for b\nhome x : f32[1] in x axes \"d0\" of \"1\" at \"0\"", "line 2"),
        ("plan a for b\nhome x : f99[1] in x axes \"d0*(1)\" of \"1\" at \"0\"", "line 2"),
        ("plan a for b\nhome x : f32[1] in x axes \"d3*(1)\" of \"1\" at \"0\"", "line 2: an axis of a dim"),
        ("plan a for b\n  because 1", "line 2: a detail, but no item"),
        ("plan a for b\nwork g0 rows = a\n  since \"1\"", "line 3: unknown detail 'since'"),
        ("plan a for b\nwork g0 rows = a(", "line 2: a recipe"),
        ("plan a for b\nwork g0 rows = a\nwork g0 rows = b", "line 3: line 2 says that already"),
        ("", "there is no line"),
        ("plan a for b\nplan a for c", "line 2: line 1 says that already"),
        ("plan a for b\ngraph 1 by mapsto 1\n\ngraph 2 by mapsto 1", "line 4: line 2 says that already"),
        ("plan a for b\ntraits block 16", "line 2: the traits are block, least_blocked, "),
        (f"plan a for b\ntraits {', '.join(['block 16'] * 6)}", "line 2: the traits are block, "),
        (f"plan a for b\n{TRAITS}most_waiting 8888888888", "line 2: not a line of a plan"),
        (f"plan a for b\n{TRAITS}most_waiting 8\n{TRAITS}most_waiting 8", "line 3: line 2 says that already"),
        ("plan a for b\nregion g1 q\nwork g0 rows = a", "line 3: region g1 has no arm yet"),
        ("plan a for b\nregion g1 q\narm 1 of g1", "line 3: an arm that is not the next"),
        ("plan a for b\nregion g1 q\narm 0 of g1\nend g2", "line 4: the end of a region that is not open"),
        ("plan a for b\nregion g1 q", "line 2: region g1 has no end"),
        ("plan a for b\n" + "\n".join(f"region g{i} q\narm 0 of g{i}" for i in range(60)), "nested too deep"),
        ("plan a for b\npin inner x 1\npin inner x 2", "line 3: inner x: line 2 says that already"),
        ("plan a for b\npin under x", "line 2"),
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
    with pytest.raises(MapstoError, match="closest: odd, name"):
        PLAN.explain("odd name")
