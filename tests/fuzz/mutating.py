"""Mutations of protobuf messages that know no message: they follow descriptors, whatever a message consists of."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

Message = Any
Field = Any

EDGES = [
    0,
    1,
    -1,
    2,
    3,
    5,
    7,
    64,
    255,
    1 << 15,
    (1 << 31) - 1,
    1 << 31,
    -(1 << 31),
    1 << 40,
    1 << 62,
    (1 << 63) - 1,
    -(1 << 63),
]
FLOATS = [0.0, -0.0, 1.0, -1.0, 0.5, 1e-45, 1e38, -1e38, 1e10, float("inf"), float("-inf"), float("nan")]
NAMES = ["n", "m", "x", "y"]
TEXTS = [
    "",
    "x",
    "y",
    "\0",
    "a/b",
    "é",
    "n" * 5000,
    "-1",
    "NOTSET",
    "SAME_UPPER",
    "linear",
    "cubic",
    "reflect",
    "constant",
]
_INTEGERS = {"int32": 32, "int64": 64, "uint32": 32, "uint64": 64}


@dataclass(frozen=True)
class Site:
    """A field of a message that can be changed."""

    message: Message
    field: Field
    depth: int


def messages(root: Message, depth: int = 0) -> Iterator[tuple[Message, int]]:
    """The message and all in it."""
    yield root, depth
    for field, value in root.ListFields():
        if field.message_type is not None:
            for inner in value if is_repeated(field) else (value,):
                yield from messages(inner, depth + 1)


def is_repeated(field: Field) -> bool:
    return (
        bool(getattr(field, "is_repeated", False))
        if hasattr(field, "is_repeated")
        else field.label == field.LABEL_REPEATED
    )


def type_name(field: Field) -> str:
    """int64, string, message, enum..."""
    return _TYPES.get(field.type, "other")


def _types() -> dict[int, str]:
    from google.protobuf.descriptor import FieldDescriptor as F

    names = ("double", "float", "int64", "uint64", "int32", "uint32", "string", "bytes", "enum", "message", "bool")
    return {getattr(F, f"TYPE_{name.upper()}"): name for name in names}


_TYPES = _types()


class Mutator:
    """Changes a message in place, once a call. `donors`: other messages, of which parts are spliced in."""

    def __init__(self, donors: Callable[[random.Random], Message]) -> None:
        self._donors = donors

    def mutate(self, root: Message, rng: random.Random, gentle: bool) -> str:
        """What was done; "" where nothing could be. gentle: a small change, so that the whole may still be right."""
        for _ in range(20):
            done = self._once(root, rng, gentle)
            if done:
                return done
        return ""

    def _once(self, root: Message, rng: random.Random, gentle: bool) -> str:
        found = list(messages(root))
        message, _ = _drawn(found, rng, gentle)
        fields = [f for f in message.DESCRIPTOR.fields if _present(message, f)]
        others = _alternatives(message)
        if others and rng.random() < 0.3:
            return self._set(message, rng.choice(others), rng, gentle, root)
        if not gentle and rng.random() < 0.1:
            absent = [f for f in message.DESCRIPTOR.fields if not _present(message, f) and f.message_type is None]
            if absent:
                return self._set(message, rng.choice(absent), rng, gentle, root)
        if not fields:
            return ""
        field = rng.choices(fields, [_liked(f, gentle) for f in fields])[0]
        where = f"{message.DESCRIPTOR.name}.{field.name}"
        if is_repeated(field):
            done = self._repeated(message, field, root, rng, gentle)
        elif field.message_type is not None:
            if gentle:
                return ""
            done = self._single(message, field, root, rng)
        else:
            return self._set(message, field, rng, gentle, root)
        return f"{where}: {done}" if done else ""

    def _repeated(self, message: Message, field: Field, root: Message, rng: random.Random, gentle: bool) -> str:
        items = getattr(message, field.name)
        if not len(items):
            return ""
        scalar = field.message_type is None
        if gentle and not scalar and rng.random() < 0.75:
            return ""
        kinds = ["set"] * 6 + ["drop", "duplicate", "swap"] if scalar else ["swap", "duplicate", "drop"]
        if scalar and gentle:
            kinds = ["set"] * 15 + ["drop", "duplicate", "swap"]
        elif not scalar and not gentle:
            kinds += ["move", "splice", "splice", "nest"]
        kind, at, to = rng.choice(kinds), rng.randrange(len(items)), rng.randrange(len(items))
        if kind == "set":
            values = list(items)
            before, values[at] = values[at], self._value(field, values[at], rng, gentle, root)
            if _same(before, values[at]):
                return ""
            return _replace(message, field, values) and f"[{at}] {_brief(before)} -> {_brief(values[at])}"
        if kind == "splice":
            return self._splice(items, field, rng)
        if kind == "nest":
            return self._nest(items[at], root, rng)
        values = list(items) if scalar else [_copied(item) for item in items]
        if kind == "drop":
            del values[at]
        elif kind == "duplicate":
            values.insert(to, values[at])
        elif at == to:
            return ""
        elif kind == "swap":
            values[at], values[to] = values[to], values[at]
        else:
            values.insert(to, values.pop(at))
        return _replace(message, field, values) and f"{kind} {at} {to} of {len(items)}"

    def _splice(self, items: Any, field: Field, rng: random.Random) -> str:
        donor = self._part(field.message_type.full_name, rng)
        if donor is None:
            return ""
        at = rng.randrange(len(items) + 1)
        if at == len(items):
            items.add().CopyFrom(donor)
        else:
            items[at].CopyFrom(donor)
        return f"[{at}] is another's"

    def _nest(self, item: Message, root: Message, rng: random.Random) -> str:
        """A part of the message becomes part of one of its own parts."""
        targets = [(m, f) for m, _ in messages(item) for f in m.DESCRIPTOR.fields if f.message_type is not None]
        if not targets:
            return ""
        message, field = rng.choice(targets)
        same = [m for m, _ in messages(root) if m.DESCRIPTOR.full_name == field.message_type.full_name]
        if not same:
            return ""
        copied = _copied(rng.choice(same))
        if copied.ByteSize() > 1 << 16:
            return ""
        if is_repeated(field):
            getattr(message, field.name).add().CopyFrom(copied)
        else:
            getattr(message, field.name).CopyFrom(copied)
        return f"nested in {message.DESCRIPTOR.name}.{field.name}"

    def _single(self, message: Message, field: Field, root: Message, rng: random.Random) -> str:
        kind = rng.choice(["clear", "other", "splice"])
        if kind == "clear":
            message.ClearField(field.name)
            return "cleared"
        name = field.message_type.full_name
        if kind == "other":
            same = [m for m, _ in messages(root) if m.DESCRIPTOR.full_name == name]
            chosen = _copied(rng.choice(same)) if same else None
        else:
            chosen = self._part(name, rng)
        if chosen is None:
            return ""
        getattr(message, field.name).CopyFrom(chosen)
        return "is another one's"

    def _set(self, message: Message, field: Field, rng: random.Random, gentle: bool, root: Message) -> str:
        where = f"{message.DESCRIPTOR.name}.{field.name}"
        if is_repeated(field):
            value = self._value(field, field.default_value, rng, gentle, root)
            return _replace(message, field, [value]) and f"{where}: [{_brief(value)}]"
        before = getattr(message, field.name)
        value = self._value(field, before, rng, gentle, root)
        if _same(before, value):
            return ""
        try:
            setattr(message, field.name, value)
        except (ValueError, TypeError):
            return ""
        return f"{where}: {_brief(before)} -> {_brief(value)}"

    def _value(self, field: Field, before: Any, rng: random.Random, gentle: bool, root: Message) -> Any:
        """Another value for a scalar field; now and then what another seed has there."""
        if type_name(field) in ("string", "bytes", "enum") and rng.random() < 0.4:
            there = [
                v for m, _ in messages(self._donors(rng)) for f, x in m.ListFields() if f.full_name == field.full_name
                for v in _each(f, x)
            ]  # fmt: skip
            if there:
                return rng.choice(there)
        return _scalar(field, before, rng, gentle, root)

    def _part(self, name: str, rng: random.Random) -> Message | None:
        """A message of this kind out of another seed."""
        same = [m for m, _ in messages(self._donors(rng)) if m.DESCRIPTOR.full_name == name and m.ByteSize() < 1 << 16]
        return rng.choice(same) if same else None


# How often a kind of message is changed beside others: what a graph consists of more often than what surrounds it.
_WEIGHTS = {"NodeProto": 6, "AttributeProto": 8, "TensorProto": 6, "Dimension": 6}
_OTHERS = 0.7
_OTHERS_GENTLE = 0.1


def _drawn(found: Sequence[tuple[Message, int]], rng: random.Random, gentle: bool) -> tuple[Message, int]:
    """A message: its kind first, so that what there is much of is not all that is changed."""
    kinds: dict[str, list[tuple[Message, int]]] = {}
    for each in found:
        kinds.setdefault(each[0].DESCRIPTOR.name, []).append(each)
    names = list(kinds)
    others = _OTHERS_GENTLE if gentle else _OTHERS
    name = rng.choices(names, [_WEIGHTS.get(n, others) for n in names])[0]
    return rng.choice(kinds[name])


# Of small changes: names, kinds and sizes hold a graph together, so most are left alone; numbers are what is changed.
_LIKED = {"data_type": 0.02, "output": 0.02, "type": 0.02, "dims": 0.05, "name": 0.1, "op_type": 0.2, "s": 0.3,
          "ints": 3.0, "raw_data": 1.5}  # fmt: skip


def _liked(field: Field, gentle: bool) -> float:
    """How often a field is changed beside others of its message."""
    return _LIKED.get(field.name, 1.0) if gentle else 1.0


def _alternatives(message: Message) -> list[Field]:
    """Scalar fields that would take the place of one that is set: a name instead of a number (an open size)."""
    found = []
    for oneof in message.DESCRIPTOR.oneofs:
        chosen = message.WhichOneof(oneof.name)
        if chosen is not None:
            found += [f for f in oneof.fields if f.name != chosen and f.message_type is None]
    return found


def _present(message: Message, field: Field) -> bool:
    return bool(len(getattr(message, field.name))) if is_repeated(field) else bool(message.HasField(field.name))


def _replace(message: Message, field: Field, values: list[Any]) -> bool:
    message_items = getattr(message, field.name)
    try:
        del message_items[:]
        message_items.extend(values)
    except (ValueError, TypeError):
        return False
    return True


def _scalar(field: Field, before: Any, rng: random.Random, gentle: bool, root: Message) -> Any:
    kind = type_name(field)
    if kind in _INTEGERS:
        return _integer(before if isinstance(before, int) else 0, kind, rng, gentle)
    if kind in ("float", "double"):
        return (
            before * rng.choice([0.5, 2, -1, 1.1]) if gentle and before and rng.random() < 0.6 else rng.choice(FLOATS)
        )
    if kind == "enum":
        values = [v.number for v in field.enum_type.values]
        return rng.choice(values)
    if kind == "bool":
        return not before
    if kind == "string":
        return _text(field, before or "", rng, gentle, root)
    if kind == "bytes":
        return _bytes(before or b"", rng, gentle)
    return before


def _integer(before: int, kind: str, rng: random.Random, gentle: bool) -> int:
    if gentle:
        value = (
            before + rng.choice([-2, -1, -1, 1, 1, 2])
            if rng.random() < 0.7
            else rng.choice([0, 1, 2, 3, 4, 5, 8, 16, -1])
        )
    else:
        value = rng.choice([before + 1, before - 1, -before, before * 2, *EDGES, *EDGES])
    bits = _INTEGERS[kind]
    low, high = (0, (1 << bits) - 1) if kind[0] == "u" else (-(1 << bits - 1), (1 << bits - 1) - 1)
    return min(max(value, low), high)


def _text(field: Field, before: str, rng: random.Random, gentle: bool, root: Message) -> str:
    """Mostly another text that is in the message already: names lead to other values."""
    if rng.random() < (0.9 if gentle else 0.6):
        there = [
            t
            for m, _ in messages(root)
            for f, v in m.ListFields()
            if f.full_name == field.full_name or (not gentle and type_name(f) == "string")
            for t in _each(f, v)
        ]
        if there:
            return rng.choice(there)
    if gentle or rng.random() < 0.2:
        return rng.choice(NAMES)
    return rng.choice(TEXTS) if rng.random() < 0.8 else before + rng.choice("0_é\n ")


def _each(field: Field, value: Any) -> list[Any]:
    return list(value) if is_repeated(field) else [value]


def _bytes(before: bytes, rng: random.Random, gentle: bool) -> bytes:
    if not before:
        return rng.choice([b"\0", b"\xff" * 8, b"linear", b"x" * 4096])
    data, kind = bytearray(before), rng.random()
    if kind < (0.8 if gentle else 0.4):
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
    elif kind < 0.9:
        del data[rng.randrange(len(data)) :]
    else:
        data += bytes(rng.choice([1, 4, 8, 4096]))
    return bytes(data)


def damaged(data: bytes, rng: random.Random) -> tuple[bytes, str]:
    """Plain damage: bytes changed, left out, put in, cut off."""
    found = bytearray(data)
    kind = rng.choice(["change", "change", "cut", "drop", "insert", "repeat"])
    if not found:
        return b"\0", "a byte"
    at = rng.randrange(len(found))
    if kind == "change":
        found[at] = rng.randrange(256)
    elif kind == "cut":
        del found[at:]
    elif kind == "drop":
        del found[at : at + rng.choice([1, 1, 2, 4, 64])]
    elif kind == "insert":
        found[at:at] = rng.randbytes(rng.choice([1, 1, 2, 8]))
    else:
        found[at:at] = found[at : at + rng.choice([1, 8, 64])]
    return bytes(found), f"{kind} at {at}"


def _copied(message: Message) -> Message:
    made = type(message)()
    made.CopyFrom(message)
    return made


def _same(a: Any, b: Any) -> bool:
    return bool(a == b)


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
