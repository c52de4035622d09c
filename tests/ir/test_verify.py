"""The structural verifier: each fault is found, and its message points at the line."""

from dataclasses import replace

import numpy as np
import pytest

from mapsto.errors import VerifyError
from mapsto.ir.text import parse_graph
from mapsto.ir.verify import verify

GOOD = parse_graph("""
graph main(x: f32[n, 3], c: bool[]) -> (y, z) updates (x -> y) {
  const w: f32[2] = base64 "AAAAAAAAgD8="
  y: f32[n, 3] = relu(x) from "Relu_0"
  k: i64[] = count(y) from "Count_1"
  bind_dim(k) {symbol: "m"} from "Bind_2"
  z: f32[m] = if(c) from "If_3" {
    graph then() -> (t) {
      t: f32[m] = make(w) {shape: (<m>,)} from "Make_4"
    }
    graph else() -> (e) {
      e: f32[m] = make(y) from "Make_5"
    }
  }
}
""")


def _changed(place, **changes):
    nodes = list(GOOD.nodes)
    nodes[place] = replace(nodes[place], **changes)
    return replace(GOOD, nodes=tuple(nodes))


def _branches(text, new):
    """The good graph with `new` in the place of some of its text."""
    from mapsto.ir.text import print_graph

    whole = print_graph(GOOD)
    assert text in whole
    return parse_graph(whole.replace(text, new))


def test_a_sound_graph():
    verify(GOOD)


@pytest.mark.parametrize(
    "graph,message",
    [
        (replace(GOOD, nodes=(GOOD.nodes[1], GOOD.nodes[0], *GOOD.nodes[2:])), "'y' is used before it is defined"),
        (_branches("k: i64[]", "x: i64[]"), "the name 'x' is defined twice"),
        (_branches("e: f32[m] = make(y)", "t: f32[m] = make(y)"), "the name 't' is defined twice"),
        (_branches("make(y)", "make(t)"), "'t' is used before it is defined"),
        (_branches("y: f32[n, 3]", "y: f32[q, 3]"), "the size q is not defined here"),
        (_branches("shape: (<m>,)", "shape: (<m + q>,)"), "attribute shape: the size q is not defined here"),
        (replace(GOOD, nodes=(GOOD.nodes[0], GOOD.nodes[1], GOOD.nodes[3])), "the size m is not defined here"),
        (_branches('symbol: "m"', 'symbol: "n"'), "the size 'n' is bound twice"),
        (_changed(0, provenance=()), "no provenance"),
        (replace(GOOD, outputs=("y", "t")), "yields 't', which nothing defines"),
        (replace(GOOD, updates=(("x", "z"),)), "changes the type"),
        (replace(GOOD, updates=(("w", "y"),)), "must pair an input with an output"),
        (replace(GOOD, outputs=("y", "y"), updates=(("x", "y"), ("x", "y"))), "given to two outputs"),
        (_branches("y: f32[n, 3]", "y: f32[n, -3]"), "the extent -3 is negative"),
    ],
)
def test_faults(graph, message):
    with pytest.raises(VerifyError, match=message):
        verify(graph)


def test_a_branch_does_not_define_sizes_for_what_follows():
    graph = parse_graph("""
graph main(c: bool[], k: i64[]) -> (z) {
  a: f32[2] = if(c) from "If_0" {
    graph then() -> (t) {
      bind_dim(k) {symbol: "m"} from "B"
      t: f32[2] = make(k) {n: <m>} from "M"
    }
    graph else() -> (e) {
      e: f32[2] = make(k) from "M"
    }
  }
  z: f32[m] = make(k) from "M"
}
""")
    with pytest.raises(VerifyError, match="the size m is not defined here"):
        verify(graph)


def test_the_message_shows_the_lines_around_the_fault():
    with pytest.raises(VerifyError) as found:
        verify(_branches("make(y)", "make(nowhere)"))
    lines = str(found.value).splitlines()
    assert lines[0] == "graph 'main', make -> e (from Make_5): 'nowhere' is used before it is defined"
    at = next(i for i, line in enumerate(lines) if "make(nowhere)" in line)
    assert lines[at].index("e: f32[m]") == lines[at + 1].index("^")
    assert lines[at + 1].strip("^ ") == "'nowhere' is used before it is defined"
    assert "graph else" in lines[at - 1] and lines[-1].strip() == "}"


def test_provenance_can_be_left_out():
    verify(_changed(0, provenance=()), provenance=False)


def test_constants_are_values():
    verify(replace(GOOD, constants={**GOOD.constants, "v": np.zeros(3)}))
    with pytest.raises(VerifyError, match="the name 'x' is defined twice"):
        verify(replace(GOOD, constants={"x": np.zeros(3)}))
