"""Faults drawn by a seed: small changes of the syntax tree, at places that chance chooses.

What is drawn for a function hangs on the seed, the function's name and what stands in it, and on nothing else, so
that an edit elsewhere draws the same faults. A room gets its part by its number of lines, and at least one.
"""

from __future__ import annotations

import ast
import hashlib
import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from faults.fault import Fault, key_of, modules
from faults.rooms import room_of

MODULE = "<module>"
_SKIPPED_FUNCTIONS = {"__repr__", "__str__"}
_SKIPPED_NAMES = {"__all__"}
_OTHER = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.FloorDiv: ast.Mod,
    ast.Mod: ast.FloorDiv,
    ast.Div: ast.Mult,
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.And: ast.Or,
    ast.Or: ast.And,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
_FUNCTIONS = {"min": "max", "max": "min", "any": "all", "all": "any"}
_ANY_ORDER = {"isinstance", "print", "zip", "max", "min", "getattr", "range", "set", "gcd"}


@dataclass(frozen=True)
class Change:
    """One change that could be made: of what kind, of which node, into which text."""

    kind: str
    node: ast.AST
    new: str


# ---- what could be changed -------------------------------------------------------------------------------------------


def changes(function: ast.AST) -> Iterator[Change]:
    """Every change inside of a function (or of a module, outside of its functions), in the order of the text.

    Left out: docstrings, annotations, imports, our own assertions, and what errors say.
    """
    for node in _nodes(function):
        if isinstance(node, ast.expr):
            yield from _of_expression(node)
        elif isinstance(node, ast.stmt):
            yield from _dropped(node, function)


def _nodes(node: ast.AST) -> Iterator[ast.AST]:
    """What stands inside of a node, in the order of the text, as far as it may be changed."""
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "bases", "type_params", "type_comment"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if not isinstance(child, ast.AST) or isinstance(child, _LEFT_OUT) or _is_docstring(child):
                continue
            if isinstance(child, ast.Assign) and _names(child) & _SKIPPED_NAMES:
                continue
            if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
                continue
            yield child
            if not isinstance(child, ast.Raise):  # its text is an error's
                yield from _nodes(child)


_LEFT_OUT = (ast.FunctionDef, ast.ClassDef, ast.Import, ast.ImportFrom, ast.Assert, ast.JoinedStr)


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _names(node: ast.Assign) -> set[str]:
    return {target.id for target in node.targets if isinstance(target, ast.Name)}


def _of_expression(node: ast.expr) -> Iterator[Change]:
    match node:
        case ast.BinOp() if type(node.op) in _OTHER and not _is_text(node.left) and not _is_text(node.right):
            yield _changed("operator", node, op=_OTHER[type(node.op)]())
        case ast.BoolOp():
            yield _changed("operator", node, op=_OTHER[type(node.op)]())
        case ast.UnaryOp(op=ast.Not()):
            yield Change("operator", node, f"({ast.unparse(node.operand)})")
        case ast.Compare():
            for place, op in enumerate(node.ops):
                ops = [*node.ops[:place], _OTHER[type(op)](), *node.ops[place + 1 :]]
                yield _changed("operator", node, ops=ops)
        case ast.Call():
            yield from _of_call(node)
        case ast.Subscript(slice=ast.Constant(value=int() as index)) if not isinstance(index, bool):
            for other in (-1,) if index == 0 else (index - 1, index + 1):
                yield _changed("index", node, slice=ast.Constant(other))
        case ast.Subscript(slice=ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=1))):
            yield _changed("index", node, slice=ast.Constant(0))
        case ast.IfExp():
            yield _changed("condition", node, test=_negated(node.test))
    for part, operands in _parts(node):
        for place, operand in enumerate(operands):
            if isinstance(operand, ast.Constant) and type(operand.value) is int and abs(operand.value) <= 64:
                for other in (operand.value - 1, operand.value + 1):
                    values = [*operands[:place], ast.Constant(other), *operands[place + 1 :]]
                    yield _changed(
                        "bound", node, **{part: values if isinstance(getattr(node, part), list) else values[0]}
                    )
    if isinstance(node, ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp):
        for loop in node.generators:
            for test in loop.ifs:
                yield Change("condition", test, ast.unparse(_negated(test)))


def _of_call(node: ast.Call) -> Iterator[Change]:
    if isinstance(node.func, ast.Name) and node.func.id in _FUNCTIONS:
        yield _changed("operator", node, func=ast.Name(_FUNCTIONS[node.func.id]))
    if isinstance(node.func, ast.Name) and node.func.id in _ANY_ORDER:
        return
    plain = (ast.Name, ast.Attribute, ast.Subscript, ast.Constant)
    for at, (one, other) in enumerate(zip(node.args, node.args[1:], strict=False)):
        if isinstance(one, plain) and isinstance(other, plain) and ast.dump(one) != ast.dump(other):
            if isinstance(one, ast.Constant) is isinstance(other, ast.Constant):
                args = [*node.args[:at], other, one, *node.args[at + 2 :]]
                yield _changed("arguments", node, args=args)


def _parts(node: ast.expr) -> Iterator[tuple[str, list[ast.expr]]]:
    """Operands whose constants are bounds, by the field that holds them."""
    match node:
        case ast.Compare():
            yield "left", [node.left]
            yield "comparators", node.comparators
        case ast.BinOp():
            yield "left", [node.left]
            yield "right", [node.right]
        case ast.Slice():
            yield from ((name, [bound]) for name in ("lower", "upper") if (bound := getattr(node, name)) is not None)
        case ast.Call():
            yield "args", node.args


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))


def _negated(test: ast.expr) -> ast.expr:
    return (
        test.operand if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not) else ast.UnaryOp(ast.Not(), test)
    )


def _changed(kind: str, node: ast.expr, **fields: object) -> Change:
    own = {name: getattr(node, name) for name in node._fields}
    made = ast.fix_missing_locations(type(node)(**{**own, **fields}))
    text = ast.unparse(made)
    return Change(kind, node, text if isinstance(node, ast.Slice | ast.Call | ast.Subscript) else f"({text})")


def _dropped(node: ast.stmt, function: ast.AST) -> Iterator[Change]:
    """Statements that could be missing. The last one of a function that returns or raises is what it is for."""
    match node:
        case ast.If() | ast.While():
            yield Change("condition", node.test, ast.unparse(_negated(node.test)))
            if isinstance(node, ast.If) and not node.orelse:
                yield Change("statement", node, "pass")
        case ast.Expr(value=ast.Call()) | ast.AugAssign():
            yield Change("statement", node, "pass")
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript(), *_]):
            yield Change("statement", node, "pass")
        case ast.Return() | ast.Raise() | ast.Continue() | ast.Break():
            if node is not getattr(function, "body", [None])[-1]:
                yield Change("statement", node, "pass")


# ---- where -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """A function of a module: what faults are drawn for."""

    file: str
    name: str
    node: ast.AST
    text: bytes

    @property
    def lines(self) -> int:
        """Of its text, in steps of a quarter, so that a line more seldom weighs differently."""
        last, first = getattr(self.node, "end_lineno", None), getattr(self.node, "lineno", None)
        lines = (
            last - first + 1
            if first
            else len([n for n in ast.iter_child_nodes(self.node) if isinstance(n, ast.Assign)])
        )
        return round(1.25 ** round(math.log(max(lines, 1), 1.25)))

    def faults(self) -> list[Fault]:
        """Everything that could be drawn here, once each; a few may come to the same as what stands there."""
        starts = [0]
        for line in self.text.splitlines(keepends=True):
            starts.append(starts[-1] + len(line))
        found: dict[str, Fault] = {}
        for change in changes(self.node):
            node = change.node
            start = starts[node.lineno - 1] + node.col_offset  # type: ignore[attr-defined]
            end = starts[node.end_lineno - 1] + node.end_col_offset  # type: ignore[attr-defined]
            old = self.text[start:end].decode()
            before = self.text[starts[node.lineno - 1] : start]  # type: ignore[attr-defined]
            after = self.text[end : starts[node.end_lineno]]  # type: ignore[attr-defined]
            line = (before + change.new.encode() + after).decode().strip()
            key = key_of(self.file, self.name, old, change.new, line)
            what = "left out" if change.new == "pass" else f"becomes {change.new}"
            found.setdefault(key, Fault(key, change.kind, self.file, self.name, start, old, change.new, what))
        return list(found.values())


def places(root: Path) -> list[Place]:
    """Every function of the package, and what stands outside of them."""
    found = []
    for file in modules(root):
        text = (root / file).read_bytes()
        tree = ast.parse(text)
        found.append(Place(file, MODULE, tree, text))
        found += [Place(file, name, node, text) for name, node in _functions(tree, "")]
    return found


def _functions(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.AST]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.ClassDef):
            name = f"{prefix}{child.name}"
            if isinstance(child, ast.FunctionDef) and child.name not in _SKIPPED_FUNCTIONS:
                yield name, child
            yield from _functions(child, f"{name}.")
        else:
            yield from _functions(child, prefix)


# ---- drawing ---------------------------------------------------------------------------------------------------------


def draw(root: Path, seed: int, count: int, rooms: Iterable[str] = ()) -> list[Fault]:
    """`count` faults (of some rooms alone), at most one of a function, in the order of rooms."""
    by_room: dict[str, list[Place]] = defaultdict(list)
    for place in places(root):
        by_room[room_of(place.file)].append(place)
    chosen = {room: by_room[room] for room in (rooms or by_room)}
    parts = shares({room: sum(place.lines for place in found) for room, found in chosen.items()}, count)
    return [fault for room in sorted(chosen) for fault in _of_room(chosen[room], seed, parts[room])]


def shares(sizes: Mapping[str, int], count: int) -> dict[str, int]:
    """One for each, the rest by size: those with the largest remainders get what is left."""
    rest, total = max(count - len(sizes), 0), sum(sizes.values())
    exact = {name: rest * size / total for name, size in sizes.items()}
    found = {name: 1 + int(part) for name, part in exact.items()}
    by_remainder = sorted(exact, key=lambda name: (int(exact[name]) - exact[name], name))
    for name in by_remainder[: max(count - sum(found.values()), 0)]:
        found[name] += 1
    return found


def _of_room(found: list[Place], seed: int, count: int) -> list[Fault]:
    """Functions by chance, longer ones more often; in each a kind by chance, and one change of that kind."""

    def late(place: Place) -> float:
        """How late a place comes to its turn (Efraimidis and Spirakis, 2006: weighted, without replacement)."""
        return -math.log(_chance(seed, place.file, place.name)) / place.lines

    drawn: list[Fault] = []
    for place in sorted(found, key=late):
        if len(drawn) == count:
            break
        by_kind: dict[str, list[Fault]] = defaultdict(list)
        for fault in place.faults():
            by_kind[fault.kind].append(fault)
        if by_kind:
            kind = min(by_kind, key=lambda kind: _chance(seed, place.file, place.name, kind))
            ordered = sorted(by_kind[kind], key=lambda fault: _chance(seed, fault.key))
            drawn += itertools.islice((fault for fault in ordered if fault.fits(place.text)), 1)
    return drawn


def _chance(seed: int, *parts: str) -> float:
    """A number in (0, 1) that hangs on its arguments alone."""
    digest = hashlib.sha256("\0".join([str(seed), *parts]).encode()).digest()
    return (int.from_bytes(digest[:7], "big") + 1) / (2**56 + 2)


def function_at(text: bytes, start: int) -> str:
    """The qualified name of the innermost function or class around a byte of a module."""
    line, found = text[:start].count(b"\n") + 1, MODULE

    def look(node: ast.AST, prefix: str) -> None:
        nonlocal found
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                if child.lineno <= line <= (child.end_lineno or 0):
                    found = f"{prefix}{child.name}"
                    look(child, f"{found}.")
            else:
                look(child, prefix)

    look(ast.parse(text), "")
    return found
