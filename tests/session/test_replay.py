"""Plans that are replayed: equal plans and bits; edited ones still compute the same."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper
from tests.plan.graphs import layer_norm_rows, small_cnn
from tests.session.support import Feed, assert_close, assert_same_bits, normal, parse

import mapsto
from mapsto.devices.cpu.workers import Workers
from mapsto.errors import MapstoError, ParseError
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import sym
from mapsto.ops.builder import Builder
from mapsto.plan.plan import Pins, Plan
from mapsto.plan.plan import parse as parse_plan
from mapsto.session.compile import build, prepared

EXAMPLES = Path(__file__).parent.parent.parent / "examples"

BRANCHES = """g (float[1, 16, H, 8] x, bool c, float[16, 16, 3, 3] w) => (float[1, 16, H, 8] y) {
    r = Conv<pads = [1, 1, 1, 1]>(x, w)
    q = If (c) <
        then_branch = t () => (float[1, 16, H, 8] a) { k = Exp(r) l = Neg(k) a = Conv<pads = [1, 1, 1, 1]>(l, w) },
        else_branch = e () => (float[1, 16, H, 8] b) { b = Identity(r) }
    >
    y = Softmax(q)
}"""
# products of two phases with the same rows, whose matrices are packed in the run; then one step of one product more
RECURRENT = """g (float[T, B, 5] x, float[2, 51, 5] w, float[2, 51, 17] r, float[2, 102] b, float[1, 68, 17] v,
    float[1, 68, 17] u)
    => (float[T, 2, B, 17] y, float[1, 1, ?, 17] z) {
    y, h = GRU<hidden_size = 17, direction = "bidirectional">(x, w, r, b)
    shape = Constant<value_ints = [1, -1, 17]>()
    row = Reshape(h, shape)
    z = LSTM<hidden_size = 17>(row, v, u, , , row, row)
}"""


def digits(count: int = 4) -> Feed:
    with np.load(EXAMPLES / "digits.npz") as found:
        return {"image": found["image"][:count]}


MODELS: dict[str, tuple[Any, Feed]] = {
    "cnn": (small_cnn(), {"x": normal(1, 3, 32, 32)}),
    "open cnn": (small_cnn(sym("h"), sym("w")), {"x": normal(1, 3, 19, 24)}),
    "layer norm": (layer_norm_rows(), {"x": normal(1, 48, 40)}),
    "digits": (EXAMPLES / "mnist-cnn.onnx", digits()),
    "branches": (
        parse(BRANCHES),
        {"x": normal(1, 16, 5, 8), "c": np.array(True), "w": normal(16, 16, 3, 3, seed=1) * 0.1},
    ),
    "recurrent": (
        parse(RECURRENT),
        {
            "x": normal(4, 3, 5),
            "w": normal(2, 51, 5),
            "r": normal(2, 51, 17, seed=1) * 0.2,
            "b": normal(2, 102, seed=3) * 0.2,
            "v": normal(1, 68, 17) * 0.2,
            "u": normal(1, 68, 17, seed=2) * 0.2,
        },
    ),
}
MODELS["long rows"] = (
    parse("""g (float[32, 2048] x, float[2048] s) => (float[32, 2048] y, int64[32, 1] k) {
        y = LayerNormalization(x, s)
        k = ArgMin<axis = 1>(x)
    }"""),
    {"x": normal(32, 2048), "s": normal(2048)},
)
every_model = pytest.mark.parametrize("name", MODELS)


@every_model
def test_the_text_replayed_gives_an_equal_plan_and_the_same_bits(name: str) -> None:
    model, feed = MODELS[name]
    exe = mapsto.compile(model)
    text = exe.plan.text()
    assert parse_plan(text) == exe.plan
    for plan in (text, exe.plan):
        again = mapsto.compile(model, plan=plan)
        assert again.plan == exe.plan and again.plan.difference(exe.plan) == []
        assert_same_bits(again.run(feed), exe.run(feed))


# a slice that leaves the graph is copied from a view of what it is a slice of
SLICES = """g (float[2, 1, 40] x) => (float[1, 1, 40] y) {
    s = Constant<value_ints = [1]>()
    e = Constant<value_ints = [2]>()
    a = Constant<value_ints = [0]>()
    y = Slice(x, s, e, a)
}"""
# the concatenation and the copy to where the branch's result belongs are one kernel, which is no concatenation alone
JOINED = """g (float[4, 32] x, bool c, float[4, 32] w) => (float[8, 32] y) {
    y = If (c) <
        then_branch = t () => (float[8, 32] a) { k = Softmax(x) l = Softmax(w) a = Concat<axis = 0>(k, l) },
        else_branch = e () => (float[8, 32] b) { b = Concat<axis = 0>(x, x) }
    >
}"""


@pytest.mark.parametrize(
    ("text", "feed"),
    [
        (SLICES, {"x": normal(2, 1, 40)}),
        (JOINED, {"x": normal(4, 32), "c": np.array(True), "w": normal(4, 32, seed=1)}),
    ],
    ids=["slices", "joined"],
)
def test_a_plan_with_values_in_the_buffers_of_others_is_replayed(text: str, feed: Feed) -> None:
    exe = mapsto.compile(parse(text))
    assert_same_bits(mapsto.compile(parse(text), plan=exe.plan.text()).run(feed), exe.run(feed))


@every_model
def test_the_program_is_the_same_byte_for_byte(name: str) -> None:
    model, _ = MODELS[name]
    exe = mapsto.compile(model)
    again = mapsto.compile(model, plan=exe.plan.text())
    assert again.program == exe.program and again.objects == exe.objects


@every_model
def test_a_replay_decides_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither rules are asked whether they pay nor the device for schedules."""
    model, feed = MODELS[name]
    exe = mapsto.compile(model)

    def asked(*_: Any, **__: Any) -> Any:
        raise AssertionError("a decision")

    for where in ("mapsto.session.compile.decide", "mapsto.devices.making.code.choose_schedule",
                  "mapsto.devices.making.contractions.plan_contraction",
                  "mapsto.devices.making.handwritten.plan_contraction", "mapsto.plan.rules.base.Rule.apply",
                  "mapsto.devices.making.quotes.Quoting.offers"):  # fmt: skip
        monkeypatch.setattr(where, asked)
    again = mapsto.compile(model, plan=exe.plan.text())
    assert_same_bits(again.run(feed), exe.run(feed))


@every_model
def test_homes_in_another_order_with_comments_are_the_same(name: str) -> None:
    model, feed = MODELS[name]
    exe = mapsto.compile(model)
    blocks: list[list[str]] = []
    for line in exe.plan.text().rstrip("\n").split("\n"):
        if line.startswith("  "):
            blocks[-1].append(line)
        else:
            blocks.append([line])
    homes = [block for block in blocks if block[0].startswith("home ")]
    others = [block for block in blocks if not block[0].startswith("home ")]
    shuffled = [line for block in (*others, *reversed(homes)) for line in ("# a comment", *block, "")]
    again = mapsto.compile(model, plan="\n".join(shuffled))
    assert again.plan == exe.plan
    assert_same_bits(again.run(feed), exe.run(feed))


def pinned(exe: mapsto.Executable, pins: Pins) -> Plan:
    return parse_plan(Plan(exe.plan.graph, exe.plan.device, pins=pins).text())


@every_model
def test_every_node_by_itself(name: str, workers: Workers) -> None:
    model, feed = MODELS[name]
    exe = mapsto.compile(model, isa=workers.isa.name)
    graph = prepared(model, None)
    nodes = tuple(node.outputs[0].name for node in graph.walk() if node.outputs)
    again = build(graph, workers, 2, None, pinned(exe, Pins((nodes,))))
    assert len(again.plan.works) > len(exe.plan.works)
    assert all(len(work.nodes) <= 1 for work in again.plan.works)
    assert_close(again.run(feed), exe.run(feed))


@every_model
def test_two_nodes_parted(name: str, workers: Workers) -> None:
    """The first node of each work of several held apart from the others, one work after the other."""
    model, feed = MODELS[name]
    exe = mapsto.compile(model, isa=workers.isa.name)
    expected = exe.run(feed)
    graph = prepared(model, None)
    cut = [w for w in exe.plan.works if len(w.nodes) > 1]
    assert cut
    for work in cut:
        pins = Pins(tuple((work.nodes[0], other) for other in work.nodes[1:]))
        again = build(graph, workers, 1, None, pinned(exe, pins))
        first, rest = {work.nodes[0]}, set(work.nodes[1:])
        assert not any(first <= set(w.nodes) and rest & set(w.nodes) for w in again.plan.works)
        assert_close(again.run(feed), expected)


@every_model
@pytest.mark.parametrize("inner", [None, 0, 1, 2, 3])
def test_every_value_laid_otherwise(name: str, inner: int | None, workers: Workers) -> None:
    """All homes with another dim innermost, or row-major."""
    model, feed = MODELS[name]
    exe = mapsto.compile(model, isa=workers.isa.name)
    graph = prepared(model, None)
    ranks = {v.name: v.rank for node in graph.walk() for v in node.outputs}
    pins = tuple((n, inner) for n in exe.plan.homes if n in ranks and (inner is None or inner < ranks[n]))
    again = build(graph, workers, 2, None, pinned(exe, Pins(inner=pins)))
    again.poison()
    assert_close(again.run(feed), exe.run(feed))
    replayed = build(graph, workers, 2, None, again.plan)
    assert replayed.program == again.program


def test_a_plan_of_loops_instead_of_tiles() -> None:
    """A template that was not taken can be asked for: a line of the plan says which."""
    model, feed = MODELS["digits"]
    exe = mapsto.compile(model, isa="sse2")
    lines = exe.plan.text().split("\n")
    at = next(i for i, line in enumerate(lines) if line.startswith("  as tiles"))
    work = next(i for i in range(at, 0, -1) if lines[i - 1].startswith("work "))
    for wrong in ("rows 9 x4 of 4", "rows 1 x3 of 4", "inner x4 of 9", "inner x4 of 4 + inner x4 of 4", "tile", ""):
        lines[at] = f'  as loops "{wrong}"'
        refused(model, "\n".join(lines), f"plan, line {work}: work g[0-9]+: ", isa="sse2")
    lines[at] = '  as loops "inner x4 of 4"'
    again = mapsto.compile(model, plan="\n".join(lines), isa="sse2")
    assert sum(w.offer.template == "loops" for w in again.plan.works) > sum(
        w.offer.template == "loops" for w in exe.plan.works
    )
    assert_close(again.run(feed), exe.run(feed))


def test_a_plan_that_cannot_be_read_names_its_line() -> None:
    model, _ = MODELS["cnn"]
    with pytest.raises(ParseError, match="line 2: .*grop g0"):
        mapsto.compile(model, plan="plan cnn for avx2\ngrop g0")


# -- plans that do not fit ---------------------------------------------------------------------------------------------


def refused(model: Any, plan: Plan | str, message: str, **options: Any) -> None:
    with pytest.raises(ParseError, match=message):
        mapsto.compile(model, plan=plan, **options)


def test_a_plan_of_another_graph_or_of_other_shapes() -> None:
    model, _ = MODELS["cnn"]
    text = mapsto.compile(MODELS["layer norm"][0]).plan.text()
    refused(model, text, "plan, line 2: graph: [0-9a-f]{16}, but this one, in these shapes, is [0-9a-f]{16}")
    digits = EXAMPLES / "mnist-cnn.onnx"
    text = mapsto.compile(digits, shapes={"image": (1, 1, 28, 28)}).plan.text()
    refused(digits, text, "line 2: graph: ", shapes={"image": (2, 1, 28, 28)})


def test_a_plan_of_other_weights_is_replayed() -> None:
    """The digest is of the structure: a network that was trained further keeps its plan."""
    graph = MODELS["cnn"][0]
    trained = replace(graph, constants={k: v + np.ones_like(v) * (v.size > 8) for k, v in graph.constants.items()})
    again = mapsto.compile(trained, plan=mapsto.compile(graph).plan.text())
    assert len(again.plan.works) > 1


def test_a_plan_of_another_instruction_set() -> None:
    model, _ = MODELS["digits"]
    text = mapsto.compile(model, isa="sse2").plan.text()
    refused(
        model, text.replace(" for sse2\n", " for avx9\n", 1), "line 1: for: avx9, but code is made for sse2", isa="sse2"
    )
    lost = text.split("\n", 2)
    refused(model, f"{lost[0]}\n{lost[2]}", "no line `graph DIGEST by mapsto VERSION`", isa="sse2")
    refused(model, replace(parse_plan(text), digest=""), "no line `graph DIGEST", isa="sse2")


def test_a_plan_of_another_version_is_replayed_where_the_graph_is_the_same() -> None:
    model, feed = MODELS["digits"]
    exe = mapsto.compile(model, isa="sse2")
    newer = exe.plan.text().replace(f" by mapsto {mapsto.__version__}\n", " by mapsto 77.0\n")
    again = mapsto.compile(model, isa="sse2", plan=newer)
    assert again.plan.version == "77.0"
    for name, array in exe.run(feed).items():
        np.testing.assert_array_equal(again.run(feed)[name], array)
    other = newer.replace("\ngraph ", "\ngraph 0", 1)
    refused(model, other, r"line 2: graph: .* \(made by mapsto 77.0; this is ", isa="sse2")


def test_a_plan_laid_for_a_maker_that_asks_for_something_else() -> None:
    model, _ = MODELS["digits"]
    text = mapsto.compile(model, isa="sse2").plan.text()
    at = "line 3: traits: block 4, .*, but sse2 asks for block 16, "
    refused(model, text.replace("\ntraits block 16,", "\ntraits block 4,"), at, isa="sse2")
    lost = text.split("\n", 3)
    refused(model, "\n".join((*lost[:2], lost[3])), "traits: nothing, but sse2 asks for block 16, ", isa="sse2")


def works_of(text: str) -> list[tuple[int, str]]:
    """(line, recipe) of each work in a plan's text."""
    return [
        (number, line.partition(" = ")[2])
        for number, line in enumerate(text.split("\n"), 1)
        if line.startswith("work ")
    ]


def with_line(text: str, number: int, line: str) -> str:
    lines = text.split("\n")
    return "\n".join([*lines[: number - 1], line, *lines[number:]])


def test_each_recipe_misspelt() -> None:
    model, _ = MODELS["cnn"]
    text = mapsto.compile(model).plan.text()
    tried = 0
    for number, recipe in works_of(text):
        line = text.split("\n")[number - 1]
        for name in dict.fromkeys(re.findall(r"\w+", recipe)):
            wrong = re.sub(rf"\b{name}\b", f"{name}_x", line.partition(" = ")[2])
            refused(model, with_line(text, number, f"{line.partition(' = ')[0]} = {wrong}"), f"plan, line {number}: ")
            tried += 1
    assert tried > 20


def test_each_line_left_out_or_twice() -> None:
    """No line of a work, a home or a place can be missing or stand there twice without an error that names a line. What
    was beaten decides nothing; it may be missing.
    """
    model, _ = MODELS["cnn"]
    lines = mapsto.compile(model).plan.text().rstrip("\n").split("\n")
    for at, line in enumerate(lines):
        if line.startswith("  "):
            continue
        end = next((k for k in range(at + 1, len(lines)) if not lines[k].startswith("  ")), len(lines))
        if not line.startswith("beaten "):
            refused(model, "\n".join([*lines[:at], *lines[end:]]), "plan")
        refused(model, "\n".join([*lines, *lines[at:end]]), f"plan, line {len(lines) + 1}: ")


def test_each_pair_of_works_in_the_wrong_order() -> None:
    model, feed = MODELS["cnn"]
    exe = mapsto.compile(model)
    works = list(exe.plan.items)
    for at in range(len(works) - 1):
        swapped = replace(exe.plan, items=(*works[:at], works[at + 1], works[at], *works[at + 2 :]))
        with pytest.raises(ParseError, match="which nothing before it writes"):
            mapsto.compile(model, plan=swapped)


def test_a_plan_that_lies() -> None:
    model, _ = MODELS["digits"]
    text = mapsto.compile(model).plan.text()
    lines = text.split("\n")
    for start in ("  nodes ", "  ops ", "  from ", "  writes "):
        at = next(i for i, line in enumerate(lines) if line.startswith(start))
        wrong = f'{start}["elsewhere"]' if start == "  from " else f"{start}elsewhere"
        refused(model, with_line(text, at + 1, wrong), "its recipe says")


def test_homes_that_do_not_fit() -> None:
    model, _ = MODELS["cnn"]
    text = mapsto.compile(model).plan.text()
    lines = text.split("\n")
    at = next(i for i, line in enumerate(lines) if line.startswith("home x "))
    name = "x"
    strange = with_line(text, at + 1, lines[at].replace(f"home {name} ", "home unheard_of "))
    refused(model, strange, f"plan, line {at + 1}: home unheard_of: ")
    for old, new in (("3, 32, 32", "3, 32, 33"), ("d2*(32)", "d2*(64)"), ('of "3072"', 'of "3071"'),
                     ('at "0"', 'at "1"'), ("f32[", "f64[")):  # fmt: skip
        assert old in lines[at]
        refused(model, with_line(text, at + 1, lines[at].replace(old, new, 1)), f"line {at + 1}: home x")
    slices = [i for i, line in enumerate(lines) if line.startswith("home ") and " in concat axes" in line]
    for i in slices:
        far = re.sub(r' at "\d+"', ' at "99999999"', lines[i])
        refused(model, with_line(text, i + 1, far), f"line {i + 1}: home ")


@pytest.mark.parametrize("name", ["cnn", "open cnn", "layer norm"])
def test_no_value_lies_where_nothing_puts_it(name: str) -> None:
    """Each home moved: within its buffer, out of it, into that of each other value; sizes known or open."""
    model, _ = MODELS[name]
    plan = mapsto.compile(model).plan
    tried = 0
    for value, home in plan.homes.items():
        moved = [replace(home, layout=replace(home.layout, offset=home.layout.offset + by)) for by in (-1, 1, 10**9)]
        moved += [replace(home, buffer=other) for other in plan.homes if other != home.buffer]
        for wrong in moved:
            tried += 1
            with pytest.raises(ParseError, match="home "):
                mapsto.compile(model, plan=replace(plan, homes={**plan.homes, value: wrong}))
    assert tried >= 3 * len(plan.homes) > 0


def test_what_a_view_is_of_follows_from_its_recipe() -> None:
    model, _ = MODELS["open cnn"]
    text = mapsto.compile(model).plan.text()
    at, line = next((k, line) for k, line in enumerate(text.split("\n"), 1) if line.startswith("view "))
    head, _, recipe = line.partition(" = ")
    for wrong in (f"{head} = {recipe.replace('without(', 'compose(')}", f"{head} = conv", head):
        refused(model, with_line(text, at, wrong), f"plan, line {at}: ")


def test_pins_that_cannot_be_kept() -> None:
    model, _ = MODELS["cnn"]
    exe = mapsto.compile(model)
    head = exe.plan.text().split("\n")[0]
    refused(model, f"{head}\npin apart conv, nobody", "line 2: pin apart: no node yields 'nobody'")
    refused(model, f"{head}\npin inner nobody 1", "line 2: pin inner nobody: no node yields it")
    refused(model, f"{head}\npin inner conv 4", "line 2: pin inner conv: it has 4 dims, no dim 4")
    whole = exe.plan.text()
    refused(model, f"{whole}pin inner conv 1", f"line {whole.count(chr(10)) + 1}: pins are for a plan that is yet to")


def test_a_damaged_plan_is_an_error_or_right(workers: Workers) -> None:
    """Characters changed at random: never a crash, never another result."""
    model, feed = MODELS["layer norm"]
    exe = mapsto.compile(model, isa=workers.isa.name)
    text, expected = exe.plan.text(), exe.run(feed)
    random = np.random.default_rng(5)
    for _ in range(150):
        at = int(random.integers(len(text)))
        damaged = text[:at] + chr(int(random.integers(32, 127))) + text[at + 1 :]
        try:
            found = mapsto.compile(model, plan=damaged, isa=workers.isa.name).run(feed)
        except MapstoError:
            continue
        assert_close(found, expected)


# -- ports -------------------------------------------------------------------------------------------------------------


PORTS = """g (float[4, 6] x, float[6] unread) => (float[4, 6] y, float[4, 6] z) {
    y = Exp(x)
    z = Neg(y)
}"""


@pytest.mark.parametrize(
    ("old", "new", "refused"),
    [
        (r"home unread : .*\n  because .*\n", "", "no home for the input 'unread'"),
        (r"place z in z", "place z in x", "place z: x lies in 'x', which is no buffer of its own"),
        (r"place z in z", "place z in y", "place z: y lies in 'y', which is no buffer of its own"),
        (r'home y : (.*) axes "d0\*\(6\); d1\*\(1\)"', r'home y : \1 axes "d1*(4); d0*(1)"', "place y: y is not"),
        (r'home unread : (.*) "6"', r'home unread : \1 "7"', "home unread: "),
    ],
)
def test_ports_lie_as_a_caller_has_them(old: str, new: str, refused: str) -> None:
    """What is given and returned is row-major, each in memory of its own, whatever a plan says."""
    model = parse(PORTS)
    text = mapsto.compile(model).plan.text()
    edited, count = re.subn(old, new, text)
    assert count == 1, text
    with pytest.raises(ParseError, match=re.escape(refused)):
        mapsto.compile(model, plan=edited)


def test_an_output_has_its_own_value_in_its_place() -> None:
    """Not another one that lies as it would."""
    model = parse("g (float[4, 6] x) => (float[4, 6] z) <int64[1] k = {6}> { v, i = TopK(x, k) z = Neg(v) }")
    text = mapsto.compile(model).plan.text()
    assert "place z in z" in text and "home v : f32[4, 6] in v" in text
    with pytest.raises(ParseError, match="place z: v is another value, and no copy of z"):
        mapsto.compile(model, plan=text.replace("place z in z", "place z in v"))


@pytest.mark.parametrize("source", ["z", "x", "w"])
def test_a_copy_is_of_what_the_graph_copies(source: str) -> None:
    """Of itself, nothing would be written; of another value, the answer would be wrong."""
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [3, 5]) for name in "xyzw"]
    nodes = [
        helper.make_node("Neg", ["x"], ["y"]), helper.make_node("Identity", ["y"], ["z"]),
        helper.make_node("Exp", ["y"], ["w"]),
    ]  # fmt: skip
    graph = helper.make_graph(nodes, "copies", ports[:1], [ports[3], *ports[1:3]])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    text = mapsto.compile(model).plan.text()
    (line,) = re.findall(r"work g\d+ rows = copy\((?:y|z), (?:y|z)\)", text)
    target = line[-2]
    wrong = target if source == "z" else source
    refused(model, text.replace(line, f"{line.partition('copy')[0]}copy({wrong}, {target})"), "is no copy of|reads")


@pytest.mark.parametrize("name", ["cnn", "branches"])
def test_no_name_in_a_work_can_be_another_one(name: str) -> None:
    """Whatever value is put in another one's place, the plan is refused, or the answer is the same."""
    model, feed = MODELS[name]
    exe = mapsto.compile(model, isa="sse2")
    expected, lines = exe.run(feed), exe.plan.text().split("\n")
    homes = sorted(exe.plan.homes, key=len, reverse=True)
    every = re.compile(rf"(?<![\w.])({'|'.join(map(re.escape, homes))})(?![\w.])")
    for at, line in enumerate(lines):
        for found in every.finditer(line) if line.startswith("work ") else ():
            for other in (home for home in homes if home != found[0]):
                edited = f"{line[: found.start()]}{other}{line[found.end() :]}"
                text = "\n".join([*lines[:at], edited, *lines[at + 1 :]])
                try:
                    again = mapsto.compile(model, plan=text, isa="sse2")
                except ParseError:
                    continue
                again.poison()
                assert_close(again.run(feed), expected)


def test_an_output_twice_of_what_only_moves(workers: Workers) -> None:
    """The second one is a copy of the graph's own, which the loops that move the value make as well."""
    b = Builder("twice")
    x, w = b.input("x", DType.F32, (48, 16)), b.input("w", DType.F32, (16, 16))
    rows = b.one("matmul", [x, w])
    turned = b.one("transpose", [rows], perm=(1, 0))
    same = b.one("slice", [turned], starts=(0, 0), steps=(1, 1), shape=(16, 48))
    graph = b.finish([b.one("matmul", [rows, same]), turned, same], names=["y", "turned", "same"])
    exe = build(prepared(graph, None), workers, 1, None)
    again = mapsto.compile(graph, plan=exe.plan.text(), isa=workers.isa.name, threads=1, cache=False)
    assert again.plan.text() == exe.plan.text()
    given = {"x": np.ones((48, 16), np.float32), "w": np.eye(16, dtype=np.float32)}
    for name, array in exe.run(given).items():
        np.testing.assert_array_equal(again.run(given)[name], array)
