"""Reads the text form of integer expressions back: `parse_dim(str(e)) == e`.

    dim     := ["-"] term (("+" | "-") term)*
    term    := factor ("*" factor)*
    factor  := number | name | ("min" | "max" | "equal" | "broadcast") "(" dim "," dim ")"
             | name "[" dim ("," dim)* "]"
             | "(" dim ")" ("//" | "%") "(" dim ")"
    name    := a letter or "_", then letters, digits, "_", "." or "$"

The text may come from a file that nobody vouches for: depth and length are bounded and nothing is evaluated as code.
"""

from __future__ import annotations

import re

from mapsto.errors import ParseError
from mapsto.ir.expr import Dim, broadcast, floordiv, load, maximum, minimum, mod, sym, terms_of
from mapsto.ir.expr_proofs import equal

MAX_LENGTH = 100_000
MAX_DEPTH = 100
MAX_DIGITS = 19  # an int64 has no more
MAX_TERMS = 1_000  # products of sums multiply out

_FUNCTIONS = {"min": minimum, "max": maximum, "equal": equal, "broadcast": broadcast}

_TOKEN = re.compile(r"\s*(?:(?P<number>\d+)|(?P<name>[A-Za-z_][\w.$]*)|(?P<mark>//|[-+*%(),\[\]]))", re.ASCII)


def parse_dim(text: str) -> Dim:
    """The dim that `text` shows. Raises ParseError, with the column, for text that is not an expression."""
    if len(text) > MAX_LENGTH:
        raise ParseError(f"an expression of {len(text)} characters; the limit is {MAX_LENGTH}")
    parser = _Parser(text)
    result = parser.dim(0)
    if parser.kind != "end":
        raise parser.error("an operator or the end")
    return result


class _Parser:
    """One token of look-ahead over the text."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._position = 0
        self.column = 0
        self.kind = ""
        self.token = ""
        self._advance()

    def error(self, expected: str) -> ParseError:
        found = repr(self.token) if self.kind != "end" else "the end"
        return ParseError(f"column {self.column + 1}: expected {expected}, found {found} in {self._text[:200]!r}")

    def _advance(self) -> str:
        taken = self.token
        match = _TOKEN.match(self._text, self._position)
        if match is None:
            rest = self._text[self._position :].lstrip()
            self.column = len(self._text) - len(rest)
            self.kind, self.token = ("end", "") if not rest else ("unknown", rest[0])
            return taken
        self.kind = str(match.lastgroup)
        self.token = match.group(self.kind)
        self.column = match.start(self.kind)
        self._position = match.end()
        return taken

    def _take(self, mark: str) -> None:
        if self.kind != "mark" or self.token != mark:
            raise self.error(repr(mark))
        self._advance()

    def _at(self, *marks: str) -> bool:
        return self.kind == "mark" and self.token in marks

    def dim(self, depth: int) -> Dim:
        if depth > MAX_DEPTH:
            raise ParseError(f"column {self.column + 1}: nested deeper than {MAX_DEPTH}")
        negative = self._at("-")
        if negative:
            self._advance()
        total = self._term(depth)
        total = -total if negative else total
        while self._at("+", "-"):
            sign = self._advance()
            term = self._term(depth)
            total = total + term if sign == "+" else total - term
        return total

    def _term(self, depth: int) -> Dim:
        result = self._factor(depth)
        while self._at("*"):
            self._advance()
            factor = self._factor(depth)
            if len(terms_of(result)) * len(terms_of(factor)) > MAX_TERMS:
                raise ParseError(f"column {self.column + 1}: the product has more than {MAX_TERMS} terms")
            result = result * factor
        return result

    def _factor(self, depth: int) -> Dim:
        if self.kind == "number":
            return self._number()
        if self.kind == "name":
            return self._named(depth)
        if not self._at("("):
            raise self.error("a number, a name or '('")
        left = self._group(depth)
        if not self._at("//", "%"):
            raise self.error("'//' or '%'")
        operator = self._advance()
        column = self.column
        right = self._group(depth)
        try:
            return floordiv(left, right) if operator == "//" else mod(left, right)
        except ZeroDivisionError as error:
            raise ParseError(f"column {column + 1}: {error}") from None

    def _number(self) -> int:
        if len(self.token) > MAX_DIGITS:
            raise ParseError(
                f"column {self.column + 1}: a number of {len(self.token)} digits; the limit is {MAX_DIGITS}"
            )
        return int(self._advance())

    def _group(self, depth: int) -> Dim:
        self._take("(")
        inner = self.dim(depth + 1)
        self._take(")")
        return inner

    def _named(self, depth: int) -> Dim:
        name = self._advance()
        if self._at("["):
            self._advance()
            index = self._list(depth)
            self._take("]")
            return load(name, index)
        if not self._at("("):
            return sym(name)
        if name not in _FUNCTIONS:
            raise self.error(f"an operator (the functions are {', '.join(_FUNCTIONS)})")
        self._advance()
        arguments = self._list(depth)
        self._take(")")
        if len(arguments) != 2:
            raise ParseError(f"column {self.column}: {name} takes two arguments, not {len(arguments)}")
        return _FUNCTIONS[name](arguments[0], arguments[1])

    def _list(self, depth: int) -> list[Dim]:
        items = [self.dim(depth + 1)]
        while self._at(","):
            self._advance()
            items.append(self.dim(depth + 1))
        return items
