"""The text form of graphs: printed, and parsed back to an equal graph.

    graph main(x: f32[n, 3], h: f32[4]) -> (y, "name with spaces") updates (h -> y) {
      const w: f32[3, 4] = base64 "AACAPw..."
      y: f32[n, 4] = matmul(x, w) from "Gemm_0"
      v: f32[n, 2], i: i64[n, 2] = topk(y) {axis: 1, k: <n>, largest: true} from "TopK_1", "Shape_2"
      bind_dim(i) {symbol: "m"}
      z: f32[4] = if(c) from "If_3" {
        graph then() -> (p) { ... }
        graph else() -> (q) { ... }
      }
    }

Names that are no plain identifiers are quoted as in JSON; an absent operand is `_`. Attributes: integers, floats
(always with a point, an exponent, inf or nan), true, false, none, strings, `:f32` for an element type, `<n + 1>` for a
symbolic dim, tuples. A nested graph has inputs where its node gives it some. For reading by eyes constants can be
elided; such a text is not parsed back.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from mapsto.errors import ParseError
from mapsto.ir.dtypes import DType, from_numpy
from mapsto.ir.expr import Dim, Expr
from mapsto.ir.expr_text import parse_dim
from mapsto.ir.graph import Graph, Node, Value

_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*\Z")
# Words that mean something at the start of a line or in a place of a name.
_RESERVED = {"graph", "const", "updates", "from", "_", "base64", "elided", "true", "false", "none", "inf", "nan"}
MAX_DEPTH = 50

# ---- printing --------------------------------------------------------------------------------------------------------


def name_text(name: str) -> str:
    return name if _PLAIN.match(name) and name not in _RESERVED else json.dumps(name)


def value_text(value: Value) -> str:
    return f"{name_text(value.name)}: {value.dtype.value}[{', '.join(str(d) for d in value.shape)}]"


def attr_text(attr: Any) -> str:
    if attr is None:
        return "none"
    if isinstance(attr, bool):
        return "true" if attr else "false"
    if isinstance(attr, DType):
        return f":{attr.value}"
    if isinstance(attr, (int, np.integer)):
        return str(int(attr))
    if isinstance(attr, (float, np.floating)):
        return repr(float(attr))
    if isinstance(attr, str):
        return json.dumps(attr)
    if isinstance(attr, Expr):
        return f"<{attr}>"
    inner = ", ".join(attr_text(a) for a in attr)
    return f"({inner},)" if len(attr) == 1 else f"({inner})"


def attrs_text(attrs: Mapping[str, Any]) -> str:
    """Attributes by name, in braces."""
    return f"{{{', '.join(f'{name_text(k)}: {attr_text(attrs[k])}' for k in sorted(attrs))}}}"


def node_text(node: Node) -> str:
    """A node's line; nested graphs are left out."""
    outputs = ", ".join(value_text(v) for v in node.outputs)
    inputs = ", ".join(name_text(n) if n else "_" for n in node.inputs)
    text = f"{outputs} = {node.op}({inputs})" if outputs else f"{node.op}({inputs})"
    if node.attrs:
        text += f" {attrs_text(node.attrs)}"
    if node.provenance:
        text += f" from {', '.join(json.dumps(p) for p in node.provenance)}"
    return text


def _constant_text(name: str, array: np.ndarray[Any, Any], elide: bool) -> str:
    value = Value(name, from_numpy(array.dtype), array.shape)
    if elide and array.size > 8:
        return f"const {value_text(value)} = elided"
    data = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    return f'const {value_text(value)} = base64 "{base64.b64encode(data).decode()}"'


def lines(graph: Graph, elide: bool = True, indent: str = "") -> Iterator[tuple[str, Node | None]]:
    """The graph's lines, each with the node that it shows."""
    inputs = ", ".join(value_text(v) for v in graph.inputs)
    outputs = ", ".join(name_text(n) for n in graph.outputs)
    head = f"graph {name_text(graph.name)}({inputs}) -> ({outputs})"
    if graph.updates:
        head += f" updates ({', '.join(f'{name_text(a)} -> {name_text(b)}' for a, b in graph.updates)})"
    yield f"{indent}{head} {{", None
    for name, array in graph.constants.items():
        yield f"{indent}  {_constant_text(name, array, elide)}", None
    for node in graph.nodes:
        yield f"{indent}  {node_text(node)}{' {' if node.graphs else ''}", node
        for inner in node.graphs:
            yield from lines(inner, elide, indent + "    ")
        if node.graphs:
            yield f"{indent}  }}", None
    yield f"{indent}}}", None


def print_graph(graph: Graph, elide: bool = False) -> str:
    """The graph as text; `elide` leaves out the data of constants with more than 8 elements."""
    return "\n".join(line for line, _ in lines(graph, elide)) + "\n"


def graph_digest(graph: Graph) -> str:
    """Tells graphs apart by what `print_graph(elide=True)` shows: all but the data of larger constants. The same in
    every process.
    """
    digest = hashlib.sha256()
    for line, _ in lines(graph):
        digest.update(line.encode())
    return digest.hexdigest()[:16]


# ---- parsing ---------------------------------------------------------------------------------------------------------

_TOKEN = re.compile(
    r"""\s*(?:(?P<string>"[^"\\]*(?:\\.[^"\\]*)*")
    |(?P<number>-?(?:(?:inf|nan)(?![\w.])|\d+(?:\.\d*)?(?:[eE][-+]?\d+)?))
    |(?P<name>[A-Za-z_][A-Za-z0-9_.]*)
    |(?P<mark>->|[(){}\[\],:=<]))""",
    re.VERBOSE,
)


def parse_graph(text: str) -> Graph:
    """The graph that `print_graph` printed. Raises ParseError naming line and column."""
    parser = _Parser(text)
    graph = parser.graph(0)
    parser.end()
    return graph


class _Parser:
    """A cursor over the text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._matched: tuple[int, re.Match[str] | None] = (-1, None)

    # -- tokens --------------------------------------------------------------------------------------------------------

    def error(self, message: str) -> ParseError:
        rest = self._text[self._at :]
        at = self._at + len(rest) - len(rest.lstrip())
        line = self._text.count("\n", 0, at) + 1
        column = at - (self._text.rfind("\n", 0, at) + 1)
        shown = self._text.splitlines()[line - 1] if line <= len(self._text.splitlines()) else ""
        start = max(0, column - 80)
        pointer = " " * (column - start) + "^"
        return ParseError(f"line {line}, column {column + 1}: {message}\n  {shown[start : start + 160]}\n  {pointer}")

    def _match(self) -> re.Match[str] | None:
        """The token at the cursor; looked up once, as the string of a constant is long."""
        if self._matched[0] != self._at:
            self._matched = self._at, _TOKEN.match(self._text, self._at)
        return self._matched[1]

    def _peek(self) -> tuple[str, str]:
        match = self._match()
        if match is None or match.lastgroup is None:
            return "end" if not self._text[self._at :].strip() else "unknown", ""
        return match.lastgroup, match.group(match.lastgroup)

    def _next(self) -> tuple[str, str]:
        kind, token = self._peek()
        match = self._match()
        if match is None:
            raise self.error("this is not understood" if kind == "unknown" else "the text ends too early")
        self._at = match.end()
        return kind, token

    def _take(self, token: str) -> bool:
        if self._peek()[1] != token or self._peek()[0] == "string":
            return False
        self._next()
        return True

    def _expect(self, token: str) -> None:
        if not self._take(token):
            raise self.error(f"expected {token!r}")

    def end(self) -> None:
        if self._peek()[0] != "end":
            raise self.error("expected the end")

    def _string(self) -> str:
        kind, token = self._peek()
        if kind != "string":
            raise self.error("expected a quoted string")
        try:
            found = json.loads(token)
        except ValueError as error:
            raise self.error(f"not a string: {error}") from None
        self._next()
        return str(found)

    def _name(self) -> str:
        kind, token = self._peek()
        if kind == "string":
            return self._string()
        if kind != "name" or token in _RESERVED:
            raise self.error("expected a name")
        self._next()
        return token

    def _list(self, close: str, element: Any) -> list[Any]:
        """element, element, ... close; a last comma may stand before the end"""
        found: list[Any] = []
        while not self._take(close):
            found.append(element())
            if not self._take(","):
                self._expect(close)
                break
        return found

    # -- dims and values -----------------------------------------------------------------------------------------------

    def _dim_until(self, stops: str) -> Dim:
        """The expression up to one of `stops` outside of brackets."""
        depth, start = 0, self._at
        at = start
        while at < len(self._text):
            c = self._text[at]
            if depth == 0 and c in stops:
                break
            depth += (c in "([") - (c in ")]")
            if depth < 0 or c in '\n"':
                break
            at += 1
        piece = self._text[start:at]
        try:
            dim = parse_dim(piece)
        except (ParseError, ZeroDivisionError) as error:
            raise self.error(f"not a dim: {error}") from None
        self._at = at
        return dim

    def _dtype(self) -> DType:
        kind, token = self._peek()
        try:
            dtype = DType(token)
        except ValueError:
            raise self.error(f"{token!r} is no element type; known: {', '.join(d.value for d in DType)}") from None
        self._next()
        return dtype

    def _value(self) -> Value:
        name = self._name()
        self._expect(":")
        dtype = self._dtype()
        self._expect("[")
        return Value(name, dtype, tuple(self._list("]", lambda: self._dim_until(",]"))))

    # -- attributes ----------------------------------------------------------------------------------------------------

    def _attr(self, depth: int = 0) -> Any:
        kind, token = self._peek()
        if depth > MAX_DEPTH:
            raise self.error("attributes nest too deeply")
        if kind == "string":
            return self._string()
        if self._take(":"):
            return self._dtype()
        if self._take("<"):
            dim = self._dim_until(">")
            if self._text[self._at : self._at + 1] != ">":
                raise self.error("expected '>'")
            self._at += 1
            return dim
        if self._take("("):
            return tuple(self._list(")", lambda: self._attr(depth + 1)))
        words = {"true": True, "false": False, "none": None}
        if kind == "name" and token in words:
            self._next()
            return words[token]
        if kind != "number":
            raise self.error("expected an attribute's value")
        return self._number()

    def _number(self) -> int | float:
        _, token = self._peek()
        if re.fullmatch(r"-?\d+", token):
            if len(token) > 40:
                raise self.error("an integer of too many digits")
            self._next()
            return int(token)
        self._next()
        return math.nan if token.endswith("nan") else float(token)

    def _attrs(self) -> dict[str, Any]:
        def pair() -> tuple[str, Any]:
            name = self._name()
            self._expect(":")
            return name, self._attr()

        return dict(self._list("}", pair))

    # -- constants, nodes, graphs --------------------------------------------------------------------------------------

    def _constant(self) -> tuple[str, np.ndarray[Any, Any]]:
        value = self._value()
        self._expect("=")
        if self._peek()[1] == "elided":
            raise self.error("the data of this constant was left out when the text was printed")
        self._expect("base64")
        if not all(isinstance(d, int) and d >= 0 for d in value.shape):
            raise self.error("a constant has a fixed shape")
        shape = tuple(int(d) for d in value.shape)  # type: ignore[arg-type]
        before = self._at
        text = self._string()
        after, self._at = self._at, before  # an error points at the data
        try:
            data = base64.b64decode(text, validate=True)
        except binascii.Error as error:
            raise self.error(f"not base64: {error}") from None
        if len(data) != math.prod(shape) * value.dtype.size:
            raise self.error(f"{len(data)} bytes do not fill {value}")
        self._at = after
        little = np.frombuffer(data, dtype=value.dtype.numpy.newbyteorder("<"))
        return value.name, little.astype(value.dtype.numpy).reshape(shape)

    def _node(self, depth: int) -> Node:
        outputs: list[Value] = []
        if not self._is_call():
            outputs.append(self._value())
            while self._take(","):
                outputs.append(self._value())
            self._expect("=")
        op = self._name()
        self._expect("(")
        inputs = tuple(self._list(")", lambda: "" if self._take("_") else self._name()))
        attrs: Mapping[str, Any] = {}
        graphs: list[Graph] = []
        provenance: list[str] = []
        if self._peek()[1] == "{" and not self._opens_graphs():
            self._next()
            attrs = self._attrs()
        if self._take("from"):
            provenance.append(self._string())
            while self._take(","):
                provenance.append(self._string())
        if self._take("{"):
            while not self._take("}"):
                graphs.append(self.graph(depth + 1))
        return Node(op, inputs, tuple(outputs), attrs, tuple(graphs), tuple(provenance))

    def _is_call(self) -> bool:
        """Whether a name with an opening parenthesis comes: an op without outputs."""
        before = self._at
        kind, _ = self._next()
        found = kind in ("name", "string") and self._peek()[1] == "("
        self._at = before
        return found

    def _opens_graphs(self) -> bool:
        before = self._at
        self._next()
        kind, token = self._peek()
        self._at = before
        return kind == "name" and token == "graph"

    def graph(self, depth: int) -> Graph:
        if depth > MAX_DEPTH:
            raise self.error("graphs nest too deeply")
        self._expect("graph")
        name = self._name()
        self._expect("(")
        inputs = tuple(self._list(")", self._value))
        self._expect("->")
        self._expect("(")
        outputs = tuple(self._list(")", self._name))
        updates: list[tuple[str, str]] = []
        if self._take("updates"):
            self._expect("(")
            updates = self._list(")", self._update)
        self._expect("{")
        constants: dict[str, np.ndarray[Any, Any]] = {}
        nodes: list[Node] = []
        while not self._take("}"):
            if self._take("const"):
                key, array = self._constant()
                constants[key] = array
            else:
                nodes.append(self._node(depth))
        return Graph(name, inputs, outputs, tuple(nodes), constants, tuple(updates))

    def _update(self) -> tuple[str, str]:
        source = self._name()
        self._expect("->")
        return source, self._name()
