"""Graphs as text: what is printed parses back to the same graph; what is wrong is named with line and column."""

import math
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mapsto.errors import ParseError
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import floordiv, maximum, mod, sym
from mapsto.ir.graph import Graph, Node, Value
from mapsto.ir.text import attr_text, parse_graph, print_graph

names = st.one_of(
    st.sampled_from(
        [
            "x",
            "from",
            "graph",
            "_",
            "inf",
            "nan.x",
            "model.0/conv/Conv_output_0",
            'a "quoted" name',
            "ü",
            "a b",
            "const",
            "1x",
        ]
    ),
    st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=8),
)
n, m = sym("n"), sym("m_1")
dims = st.one_of(
    st.integers(0, 1 << 40),
    st.sampled_from([n, m, n * m + 3, floordiv(n - 1, 2) + 1, mod(n, 4), maximum(n, m) - 7, floordiv(n * 12, m + 1)]),
)
scalars = st.one_of(
    st.integers(-(1 << 63), 1 << 63), st.booleans(), st.none(), st.floats(),
    st.sampled_from(list(DType)), st.text(max_size=6),
    st.sampled_from([n, n * 2 - 1, floordiv(n, 3)]),
)  # fmt: skip
attributes = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=6)


@st.composite
def arrays(draw):
    dtype = draw(st.sampled_from(list(DType)))
    shape = tuple(draw(st.lists(st.integers(0, 3), max_size=3)))
    data = draw(st.binary(min_size=int(np.prod(shape)) * dtype.size, max_size=int(np.prod(shape)) * dtype.size))
    array = np.frombuffer(data, dtype=np.uint8)
    return ((array & 1).astype(bool) if dtype is DType.BOOL else array.view(dtype.numpy)).reshape(shape)


@st.composite
def values(draw, name):
    return Value(name, draw(st.sampled_from(list(DType))), tuple(draw(st.lists(dims, max_size=3))))


@st.composite
def graphs(draw, depth=2):
    """Any structure, sensible or not: the text form does not care."""
    fresh = iter(draw(st.lists(names, min_size=12, max_size=12, unique=True)))
    inputs = tuple(draw(values(next(fresh))) for _ in range(draw(st.integers(0, 2))))
    constants = {next(fresh): draw(arrays()) for _ in range(draw(st.integers(0, 2)))}
    known = [v.name for v in inputs] + list(constants) + [""]
    nodes = []
    for _ in range(draw(st.integers(0, 3))):
        outputs = tuple(draw(values(next(fresh))) for _ in range(draw(st.integers(0, 2))))
        inner = draw(st.lists(graphs(depth=depth - 1), max_size=2)) if depth > 0 else []
        nodes.append(Node(
            draw(st.sampled_from(["add", "if", "topk"])),
            tuple(draw(st.lists(st.sampled_from(known), max_size=3))),
            outputs,
            draw(st.dictionaries(names, attributes, max_size=3)),
            tuple(inner),
            tuple(draw(st.lists(st.text(max_size=6), max_size=2))),
        ))  # fmt: skip
        known += [v.name for v in outputs]
    named = [k for k in known if k]
    results = tuple(draw(st.lists(st.sampled_from(named), max_size=2))) if named else ()
    updates = tuple((v.name, r) for v, r in zip(inputs, results, strict=False))
    return Graph(draw(names), inputs, results, tuple(nodes), constants, updates)


def same(a, b):
    assert replace(a, constants={}, nodes=()) == replace(b, constants={}, nodes=())
    assert list(a.constants) == list(b.constants)
    for name, array in a.constants.items():
        other = b.constants[name]
        assert array.dtype == other.dtype and array.shape == other.shape and array.tobytes() == other.tobytes()
    assert len(a.nodes) == len(b.nodes)
    for left, right in zip(a.nodes, b.nodes, strict=True):
        assert replace(left, attrs={}, graphs=()) == replace(right, attrs={}, graphs=())
        assert set(left.attrs) == set(right.attrs)
        for key, attr in left.attrs.items():
            assert identical(attr, right.attrs[key])
        for inner, parsed in zip(left.graphs, right.graphs, strict=True):
            same(inner, parsed)


def identical(a, b):
    """Equal in type and value; NaN equals NaN, and zero knows its sign."""
    if isinstance(a, tuple):
        return isinstance(b, tuple) and len(a) == len(b) and all(identical(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, float):
        same_value = a == b and math.copysign(1, a) == math.copysign(1, b)
        return isinstance(b, float) and (same_value or (math.isnan(a) and math.isnan(b)))
    return type(a) is type(b) and a == b


@given(graphs())
@settings(max_examples=80, deadline=None)
def test_round_trip(graph):
    text = print_graph(graph)
    parsed = parse_graph(text)
    same(graph, parsed)
    assert print_graph(parsed) == text


EXAMPLE = """graph main(x: f32[n, 3], h: f32[4]) -> (y, "a b") updates (h -> "a b") {
  const w: bf16[2] = base64 "gD8AQA=="
  y: f32[n, 4], i: i64[n] = topk(x, _, w) {axis: -1, k: <n + 1>, scales: (1.0, none), to: :f16} from "Gemm_0", "Relu_1"
  bind_dim(i) {symbol: "m"}
  "a b": f32[4] = if(x) from "If_3" {
    graph then() -> (h) {
    }
    graph else() -> (p) {
      p: f32[4] = neg(h)
    }
  }
}
"""


def test_the_form_of_the_text():
    graph = parse_graph(EXAMPLE)
    assert print_graph(graph) == EXAMPLE
    assert graph.constants["w"].tolist() == np.array([1, 2], ml_dtypes.bfloat16).tolist()
    assert graph.nodes[0].attrs["k"] == n + 1 and graph.nodes[0].inputs == ("x", "", "w")
    assert graph.updates == (("h", "a b"),)


def test_large_constants_are_elided_for_reading():
    graph = Graph("g", (), ("w",), (), {"w": np.zeros((4, 4), np.float32)})
    text = print_graph(graph, elide=True)
    assert text == "graph g() -> (w) {\n  const w: f32[4, 4] = elided\n}\n"
    with pytest.raises(ParseError, match="left out"):
        parse_graph(text)


@pytest.mark.parametrize(
    "broken,message",
    [
        (EXAMPLE.replace("f32[n, 4]", "f33[n, 4]"), "line 3, column 6: 'f33' is no element type"),
        (EXAMPLE.replace("<n + 1>", "<n + >"), "line 3, column 58: not a dim"),
        (EXAMPLE.replace("if(x)", "if x"), "line 5, column 22: expected '\\('"),
        (
            EXAMPLE.replace('base64 "gD8AQA=="', 'base64 "gD8A"'),
            "line 2, column 29: 3 bytes do not fill w: bf16\\[2\\]",
        ),
        (EXAMPLE.replace('"gD8AQA=="', '"gD8*QA=="'), "not base64"),
        (EXAMPLE[:-2], "the text ends too early|expected a name"),
        (EXAMPLE + "x", "expected the end"),
        ("graph g() -> () {\n  ?\n}", "line 2, column 3: "),
        ("graph g() -> (" + "(" * 3000, "expected a name"),
        ("graph g() -> () { a() {b: " + "(" * 3000, "nest too deeply"),
        ("graph g() -> () { " + "a() { graph g() -> () { " * 300, "nest too deeply"),
    ],
)
def test_errors_name_the_place(broken, message):
    with pytest.raises(ParseError, match=message):
        parse_graph(broken)


@given(st.integers(0, len(EXAMPLE) - 1), st.characters(codec="ascii"))
@settings(max_examples=200, deadline=None)
def test_no_text_crashes_the_parser(at, character):
    broken = EXAMPLE[:at] + character + EXAMPLE[at + 1 :]
    try:
        parse_graph(broken)
    except ParseError:
        pass


def test_attributes_keep_their_types():
    assert [attr_text(a) for a in (1, 1.0, True, -0.0, (1,), (), math.inf)] == [
        "1",
        "1.0",
        "true",
        "-0.0",
        "(1,)",
        "()",
        "inf",
    ]
