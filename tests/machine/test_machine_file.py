"""Machine files: what they say, what follows where they say nothing, and what is wrong with them, by line and key."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mapsto.errors import ParseError
from mapsto.ir.dtypes import DType
from mapsto.machine.machine_file import MachineFile, Support, parse_machine

OPS = {"conv": ["conv"], "max_pool": ["max_pool"], "window": ["max_pool", "avg_pool"]}
GOOD = """\
mapsto_machine = 1
about = "two devices"
price = 2.5

[[devices]]
name = "cpu"
peaks = { "f32*f32*f32" = 1e10 }
levels = [{ name = "memory", read = 1e10 }]

[[devices]]
name = "npu"
model = "a neural unit"
units = 3
lanes = 32
memory = 2e9
static = true
types = ["i8", "i32"]
ops = ["conv", "window"]
tile = [32, 16]
peaks = { "i8*i8*i32" = 8e11 }
rates = { exp = 1e-9 }
launch = 2e-5

[devices.power]
idle = 0.5
unit = 1
byte = 1e-10
products = { "i8*i8*i32" = 2e-13 }

[[devices.levels]]
name = "buffer"
bytes = 5e5
read = 1e11
write = 5e10

[[devices.levels]]
name = "memory"
read = 1e10
units = 3
together = 2e10

[[links]]
between = ["cpu", "npu"]
bytes = 1e9
latency = 1e-5
"""


def read(text: str) -> MachineFile:
    return parse_machine(text, "box.toml", OPS)


def test_what_a_file_says() -> None:
    found = read(GOOD)
    assert (found.name, found.about, found.price) == ("box.toml", "two devices", 2.5)
    cpu, npu = found.devices
    assert cpu.support == Support() and cpu.memory == math.inf and cpu.tile == (1, 1)
    assert npu.support == Support(frozenset(["conv", "max_pool", "avg_pool"]), frozenset([DType.I8, DType.I32]), True)
    assert (npu.memory, npu.tile, npu.spec.units, npu.spec.lanes, npu.spec.launch) == (2e9, (32, 16), 3, 32, 2e-5)
    assert npu.spec.peak(DType.I8, DType.I8, DType.I32) == 8e11
    assert [(v.bytes, v.read, v.write, v.together) for v in npu.spec.levels] == [
        (5e5, 1e11, 5e10, 1e11), (math.inf, 1e10, 1e10, 2e10),
    ]  # fmt: skip
    assert npu.spec.power is not None and npu.spec.power.products == {(DType.I8, DType.I8, DType.I32): 2e-13}
    assert [(k.source, k.target, k.bytes, k.latency) for k in found.links] == [
        ("cpu", "npu", 1e9, 1e-5), ("npu", "cpu", 1e9, 1e-5),
    ]  # fmt: skip
    assert found.links[0].bus == found.links[1].bus
    assert found.machine.device("npu") is npu.spec


def test_what_follows_from_the_peak() -> None:
    """An addition as long as a multiply-add of f32; of others, operations that cost about as many additions."""
    cpu, npu = read(GOOD).devices
    assert cpu.spec.rates["add"] == pytest.approx(1e-10) and cpu.spec.rates["exp"] == pytest.approx(16e-10)
    assert npu.spec.rates["exp"] == 1e-9 and npu.spec.rates["add"] == pytest.approx(1e-11)
    assert cpu.spec.moves["contiguous"] == pytest.approx(4e-10)


def test_shared_memory_is_not_copied_and_buses_are_shared() -> None:
    shared = GOOD.replace("bytes = 1e9\nlatency = 1e-5\n", "shared = true\nbus = 'fabric'\n")
    (there, back) = read(shared).links
    assert there.bytes == math.inf and there.latency == 0.0 and there.bus == back.bus == "fabric"


BROKEN = [
    ("mapsto_machine = 1", "mapsto_machine = 7", 1, "mapsto_machine: must be 1"),
    ("price = 2.5", "price = -1", 3, "price: expected a positive number"),
    ("price = 2.5", "prize = 1", 3, "prize: means nothing here; 'price'?"),
    ('name = "npu"', 'name = "cpu"', 11, "there is a device 'cpu' already"),
    ('name = "npu"', "name = 3", 11, "expected a text, found 3"),
    ("units = 3\nlanes", "units = 2.5\nlanes", 13, "expected a whole number, found 2.5"),
    ("lanes = 32", "lanes = nan", 14, "expected a positive number, found nan"),
    ("memory = 2e9", "memory = inf", 15, "expected a positive number, found inf"),
    ("static = true", 'static = "yes"', 16, "expected true or false"),
    ('types = ["i8", "i32"]', 'types = ["int8"]', 17, "there is no 'int8'"),
    ('ops = ["conv", "window"]', 'ops = ["convv"]', 18, "there is no 'convv'; 'conv'?"),
    ('ops = ["conv", "window"]', 'ops = "conv"', 18, "expected a list of names"),
    ("tile = [32, 16]", "tile = [0, 16]", 19, "expected [rows, columns]"),
    ('peaks = { "i8*i8*i32" = 8e11 }', 'peaks = { "i8*i8" = 8e11 }', 20, "the types of a, of b and of their sum"),
    ('peaks = { "i8*i8*i32" = 8e11 }', 'peaks = { "i8*i8*i32]" = 8e11 }', 20, "the types of a, of b and of their sum"),
    ('peaks = { "i8*i8*i32" = 8e11 }', 'peaks = { "i8.[x]" = 8e11 }', 20, "the types of a, of b and of their sum"),
    ('peaks = { "i8*i8*i32" = 8e11 }', "peaks = {}", 20, "expected one figure at least"),
    ('peaks = { "i8*i8*i32" = 8e11 }', 'peaks = { "i8*i8*i32" = -8e11 }', 20, "expected a positive number"),
    ("rates = { exp = 1e-9 }", "rates = { expp = 1e-9 }", 21, "means nothing here; 'exp'?"),
    ("launch = 2e-5", "launch = true", 22, "expected a number, found True"),
    ("idle = 0.5", "idle = -0.5", 25, "expected a positive number, found -0.5"),
    ("bytes = 5e5", "byte = 5e5", 32, "means nothing here; 'bytes'?"),
    ("read = 1e11", "read = 1e-200", 33, "expected a positive number from 1e-30 to 1e+30, found 1e-200"),
    ("read = 1e11", "read = 1e200", 33, "expected a positive number from 1e-30 to 1e+30, found 1e+200"),
    ("read = 1e11", "read = 0", 33, "expected a positive number, found 0"),
    ("bytes = 5e5", "", 30, "hold more bytes than the one before"),
    ('between = ["cpu", "npu"]', 'between = ["cpu", "gpu"]', 43, "there is no 'gpu'"),
    ('between = ["cpu", "npu"]', 'between = ["cpu"]', 43, "expected two devices"),
    ("bytes = 1e9", "bytes = -1e9", 44, "expected a positive number, found -1"),
    ("bytes = 1e9", "", 42, "expected a number, found nothing"),
    ("bytes = 1e9", "bytes = 1e9\nshared = true", 44, "nothing is copied where memory is shared"),
    ("latency = 1e-5", 'latency = "10us"', 45, "expected a number, found '10us'"),
]


@pytest.mark.parametrize(("good", "bad", "line", "said"), BROKEN, ids=[f"{b[1][:20]}-{b[2]}" for b in BROKEN])
def test_a_fault_is_named_by_line_and_key(good: str, bad: str, line: int, said: str) -> None:
    assert GOOD.count(good) >= 1
    with pytest.raises(ParseError) as caught:
        read(GOOD.replace(good, bad, 1))
    message = str(caught.value)
    assert message.startswith("box.toml, line ") and said in message, message
    found = re.match(r"box\.toml, line (\d+): ([\w.\[\]*]+)", message)
    assert found is not None and abs(int(found[1]) - line) <= (3 if not bad else 0), message


def test_the_host_takes_everything() -> None:
    with pytest.raises(ParseError, match=r"line 7: devices\[0\].ops: the first device is the host"):
        read(GOOD.replace('name = "cpu"\n', 'name = "cpu"\nops = ["conv"]\n', 1))


@pytest.mark.parametrize("text", ["", "x", "a = [1,", "mapsto_machine = 1", "[[devices]]\n" * 100, "a = " + "9" * 5000])
def test_no_machine_at_all(text: str) -> None:
    with pytest.raises(ParseError, match=r"box\.toml"):
        read(text)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, len(GOOD) - 1), st.integers(0, 40), st.text(max_size=8))
def test_damage_gives_a_machine_or_an_error(start: int, length: int, text: str) -> None:
    try:
        read(GOOD[:start] + text + GOOD[start + length :])
    except ParseError as error:
        assert str(error).startswith("box.toml")
