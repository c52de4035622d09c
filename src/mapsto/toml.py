"""Files in TOML that people write (machines, recipes of training), read so that every complaint names line and key."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Collection, Mapping
from typing import Any

from mapsto.errors import ParseError

_MOST_SHOWN = 24  # names in a message


def toml_of(text: str, where: str, does: str) -> dict[str, Any]:
    """The data of a text. where: the file; does: what it should do, for messages. Raises ParseError."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ParseError(f"{where}: {error}") from None
    except (RecursionError, ValueError) as error:  # numbers of too many digits
        raise ParseError(f"{where}: this is no TOML that {does} ({error})") from None


# ---- where things are ------------------------------------------------------------------------------------------------

_HEADER = re.compile(r"\s*(\[\[?)\s*([\w.\-]+)\s*\]")
_KEY = re.compile(r"\s*(\"[^\"]*\"|[\w\-]+)\s*=")


def lines_of(text: str) -> dict[str, int]:
    """Lines of tables and keys, by ways such as `devices[0].levels[1].read`."""
    found: dict[str, int] = {}
    counts: dict[str, int] = {}
    at, quotes = "", ""
    for number, line in enumerate(text.splitlines(), 1):
        was_open, quotes = quotes, _open_quotes(line, quotes)
        if was_open:
            continue
        if header := _HEADER.match(line):
            at = ""
            *outer, last = header[2].split(".")
            for part in outer:
                at = inside(at, part)
                if at in counts:
                    at += f"[{counts[at]}]"
            at = inside(at, last)
            if header[1] == "[[":
                found.setdefault(at, number)
                counts[at] = counts.get(at, -1) + 1
                at += f"[{counts[at]}]"
            found.setdefault(at, number)
        elif key := _KEY.match(line):
            found.setdefault(inside(at, key[1].strip('"')), number)
    return found


def _open_quotes(line: str, quotes: str) -> str:
    """The quotes of a text of several lines that is still open at the end of a line; "": there is none."""
    for found in re.findall(r'"""|\'\'\'', line):
        quotes = "" if quotes == found else quotes or found
    return quotes


def inside(at: str, key: str) -> str:
    """The way to a key of what is at `at`."""
    return f"{at}.{key}" if at else key


def _around(way: str) -> str:
    """The way to what a place lies in, which is shorter, whatever keys there are on it."""
    number = re.search(r"\[\d+\]$", way)
    return way[: number.start()] if number else way.rpartition(".")[0]


# ---- reading ---------------------------------------------------------------------------------------------------------


class TomlReader:
    """Looks at tables and values, and complains with the place. where: the file; lines: as `lines_of` gives them."""

    def __init__(self, where: str, lines: Mapping[str, int]) -> None:
        self.where, self.lines = where, lines

    def fail(self, at: str, what: str) -> ParseError:
        """at: the way to the place, whose nearest part that has a line is named with it."""
        way = at
        while way and way not in self.lines:
            way = _around(way)
        line = f", line {self.lines[way]}" if way else ""
        return ParseError(f"{self.where}{line}: {at}: {what}")

    def only(self, data: Mapping[str, Any], known: Collection[str], at: str) -> None:
        """No other keys than these."""
        for key in data:
            if key not in known:
                raise self.fail(inside(at, key), f"means nothing here{near(key, known)}")

    def mapping(self, data: Any, at: str) -> Mapping[str, Any]:
        if not isinstance(data, dict):
            raise self.fail(at, f"expected a table, found {shown_value(data)}")
        return data

    def tables(self, data: Mapping[str, Any], key: str, at: str) -> list[Mapping[str, Any]]:
        found, at = data.get(key, []), inside(at, key)
        if not isinstance(found, list):
            header = re.sub(r"\[\d+\]", "", at)
            raise self.fail(at, f"expected tables ([[{header}]]), found {shown_value(found)}")
        return [self.mapping(each, f"{at}[{n}]") for n, each in enumerate(found)]

    def word(self, data: Mapping[str, Any], key: str, at: str) -> str:
        found = data.get(key)
        if not isinstance(found, str) or not found:
            raise self.fail(inside(at, key), f"expected a text, found {shown_value(found)}")
        return found

    def names(self, data: Mapping[str, Any], key: str, at: str) -> list[str]:
        found = data.get(key)
        if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
            raise self.fail(inside(at, key), f"expected a list of names, found {shown_value(found)}")
        return list(found)

    def known(self, name: str, every: Mapping[str, Any], at: str, key: str) -> Any:
        """What a name stands for."""
        if name not in every:
            raise self.fail(inside(at, key), f"there is no {shown_value(name)}{near(name, every)}")
        return every[name]


def shown_value(value: Any) -> str:
    """A value as a message shows it."""
    if value is None:
        return "nothing"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def near(name: str, known: Collection[str]) -> str:
    """Which of them may be meant."""
    close = difflib.get_close_matches(name, known, 1)
    if close:
        return f"; {close[0]!r}?"
    names = sorted(known)
    return f"; there are: {', '.join(names[:_MOST_SHOWN])}" + (", ..." if len(names) > _MOST_SHOWN else "")
