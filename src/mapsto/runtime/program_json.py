"""Programs as JSON values and back. Sizes stand once in a list, as text, and are named by their place in it.

What is read may be anybody's: every value's type is looked at, and `verify_program` sees to the rest.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from mapsto.errors import ModelError, ParseError
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim
from mapsto.ir.expr_text import parse_dim
from mapsto.runtime.program import (
    Address,
    Bind,
    Bounds,
    BranchIfFalse,
    Buffer,
    Check,
    Jump,
    Port,
    Program,
    Require,
    Run,
    SetSize,
    Step,
)

T = TypeVar("T")


def program_to_json(program: Program) -> dict[str, Any]:
    """All but the constants. Raises ModelError for a symbol whose name the text form of sizes cannot hold."""
    index: dict[Dim, int] = {}
    for dim in program.dims():
        index.setdefault(dim, len(index))
    return {
        "name": program.name,
        "dims": [dim_to_json(dim) for dim in index],
        "inputs": [_port_to_json(port, index) for port in program.inputs],
        "outputs": [_port_to_json(port, index) for port in program.outputs],
        "buffers": [[b.name, b.kind, index[b.bytes], b.offset] for b in program.buffers],
        "updates": [list(pair) for pair in program.updates],
        "checks": [[index[check.condition], check.message] for check in program.checks],
        "steps": [_step_to_json(step, index) for step in program.steps],
    } | ({"liftable": liftable} if (liftable := [k for k, c in enumerate(program.checks) if c.liftable]) else {})


def dim_to_json(dim: Dim) -> int | str:
    """A size as files have it. Raises ModelError for a symbol whose name the text form cannot hold."""
    if isinstance(dim, int):
        return dim
    try:
        if parse_dim(str(dim)) == dim:
            return str(dim)
    except ParseError:
        pass
    raise ModelError(f"the size {dim} cannot be saved: rename its symbols (letters, digits, _ and . only)")


def _port_to_json(port: Port, index: dict[Dim, int]) -> list[Any]:
    default = [] if port.default is None else [[port.default[0], list(port.default[1])]]
    return [port.name, port.dtype.value, [index[dim] for dim in port.shape], port.buffer, *default]


def _address_to_json(address: Address, index: dict[Dim, int]) -> list[int]:
    buffer, offset = address
    return [buffer, index[offset]]


def _step_to_json(step: Step, index: dict[Dim, int]) -> dict[str, Any]:
    common: dict[str, Any] = {"label": step.label, "provenance": list(step.provenance)}
    if isinstance(step, Run):
        return common | {
            "run": step.function,
            "operands": [_address_to_json(address, index) for address in step.operands],
            "dims": [index[dim] for dim in step.dims],
            "extent": index[step.extent],
            "writes": None if step.writes is None else list(step.writes),
            "grain": step.grain,
        }
    if isinstance(step, Bind):
        operand = _address_to_json(step.operand, index)
        return common | {"bind": step.symbol, "operand": operand, "dtype": step.dtype.value}
    if isinstance(step, SetSize):
        return common | {"set": step.symbol, "value": index[step.value]}
    if isinstance(step, BranchIfFalse):
        return common | {"branch": step.target, "operand": _address_to_json(step.operand, index)}
    if isinstance(step, Jump):
        return common | {"jump": step.target}
    if isinstance(step, Bounds):
        return common | {
            "bounds": step.kind,
            "operand": _address_to_json(step.operand, index),
            "what": step.what,
            "axis": step.axis,
            "extent": index[step.extent],
            "where": step.where,
        }
    return common | {"require": index[step.condition], "message": step.message}


def program_from_json(value: Any, constants: Any) -> Program:
    """Raises ModelError where the value is not what `program_to_json` makes."""
    top = _Reader(value, "program")
    dims = [_dim_from_json(dim) for dim in top.array("dims")]
    liftable = {_integer(k, "liftable check") for k in (top.array("liftable") if "liftable" in value else ())}
    ports = {key: tuple(_port_from_json(port, dims) for port in top.array(key)) for key in ("inputs", "outputs")}
    return Program(
        name=top.text("name"),
        inputs=ports["inputs"],
        outputs=ports["outputs"],
        buffers=tuple(_buffer_from_json(buffer, dims) for buffer in top.array("buffers")),
        steps=tuple(_step_from_json(step, dims, i) for i, step in enumerate(top.array("steps"))),
        constants=constants,
        updates=tuple(_pair(pair, "update", _string, _string) for pair in top.array("updates")),
        checks=tuple(
            Check(*_pair(check, "check", _pick(dims), _string), k in liftable)
            for k, check in enumerate(top.array("checks"))
        ),
    )


class _Reader:
    """A JSON object whose values are looked at before they are used."""

    def __init__(self, value: Any, where: str) -> None:
        if not isinstance(value, dict):
            raise ModelError(f"{where}: not an object")
        self.value = value
        self._where = where

    def get(self, key: str, read: Callable[[Any, str], T]) -> T:
        if key not in self.value:
            raise ModelError(f"{self._where}: no {key!r}")
        return read(self.value[key], f"{self._where}: {key!r}")

    def text(self, key: str) -> str:
        return self.get(key, _string)

    def integer(self, key: str) -> int:
        return self.get(key, _integer)

    def array(self, key: str) -> list[Any]:
        return self.get(key, _list)


def _string(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise ModelError(f"{where}: not a text")
    return value


def _integer(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) >= 1 << 63:
        raise ModelError(f"{where}: not a 64-bit integer")
    return value


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise ModelError(f"{where}: not a list")
    return value


def _dtype(value: Any, where: str) -> DType:
    try:
        return DType(value)
    except ValueError:
        raise ModelError(f"{where}: no element type is called {value!r}") from None


def _pick(dims: list[Dim]) -> Callable[[Any, str], Dim]:
    def read(value: Any, where: str) -> Dim:
        place = _integer(value, where)
        if not 0 <= place < len(dims):
            raise ModelError(f"{where}: there is no size {place}")
        return dims[place]

    return read


def _pair(value: Any, where: str, first: Callable[[Any, str], T], second: Callable[[Any, str], str]) -> tuple[T, str]:
    fields = _list(value, where)
    if len(fields) != 2:
        raise ModelError(f"{where}: {len(fields)} fields where 2 were expected")
    return first(fields[0], where), second(fields[1], where)


def _dim_from_json(value: Any) -> Dim:
    if not isinstance(value, str):
        return _integer(value, "size")
    try:
        return parse_dim(value)
    except ParseError as error:
        raise ModelError(f"size: {error}") from None


def _operand(value: Any, where: str, dims: list[Dim]) -> Address:
    fields = _list(value, where)
    if len(fields) != 2:
        raise ModelError(f"{where}: {len(fields)} fields where 2 were expected")
    return _integer(fields[0], where), _pick(dims)(fields[1], where)


def _port_from_json(value: Any, dims: list[Dim]) -> Port:
    fields = _list(value, "port")
    if len(fields) not in (4, 5):
        raise ModelError(f"port: {len(fields)} fields where 4 or 5 were expected")
    shape = tuple(_pick(dims)(dim, "port") for dim in _list(fields[2], "port"))
    default = _default_from_json(fields[4]) if len(fields) == 5 else None
    return Port(_string(fields[0], "port"), _dtype(fields[1], "port"), shape, _integer(fields[3], "port"), default)


def _default_from_json(value: Any) -> tuple[int, tuple[int, ...]]:
    fields = _list(value, "default")
    if len(fields) != 2:
        raise ModelError(f"default: {len(fields)} fields where 2 were expected")
    return _integer(fields[0], "default"), tuple(_integer(d, "default") for d in _list(fields[1], "default"))


def _buffer_from_json(value: Any, dims: list[Dim]) -> Buffer:
    fields = _list(value, "buffer")
    if len(fields) != 4:
        raise ModelError(f"buffer: {len(fields)} fields where 4 were expected")
    name, kind = _string(fields[0], "buffer"), _string(fields[1], "buffer")
    return Buffer(name, kind, _pick(dims)(fields[2], "buffer"), _integer(fields[3], "buffer"))


def _step_from_json(value: Any, dims: list[Dim], index: int) -> Step:
    where = f"step {index}"
    step = _Reader(value, where)
    label = step.text("label")
    provenance = tuple(_string(name, where) for name in step.array("provenance"))
    size = _pick(dims)
    if "run" in step.value:
        return _run_from_json(step, dims, where, label, provenance)
    if "bind" in step.value:
        operand = _operand(step.value.get("operand"), where, dims)
        return Bind(step.text("bind"), operand, step.get("dtype", _dtype), label, provenance)
    if "set" in step.value:
        return SetSize(step.text("set"), step.get("value", size), label, provenance)
    if "branch" in step.value:
        operand = _operand(step.value.get("operand"), where, dims)
        return BranchIfFalse(operand, step.integer("branch"), label, provenance)
    if "jump" in step.value:
        return Jump(step.integer("jump"), label, provenance)
    if "bounds" in step.value:
        operand = _operand(step.value.get("operand"), where, dims)
        kind, what, extent = step.text("bounds"), step.text("what"), step.get("extent", size)
        return Bounds(operand, kind, what, step.integer("axis"), extent, step.text("where"), label, provenance)
    if "require" in step.value:
        return Require(step.get("require", size), step.text("message"), label, provenance)
    raise ModelError(f"{where}: of no known kind")


def _run_from_json(step: _Reader, dims: list[Dim], where: str, label: str, provenance: tuple[str, ...]) -> Run:
    writes = step.value.get("writes")
    return Run(
        function=step.text("run"),
        operands=tuple(_operand(operand, where, dims) for operand in step.array("operands")),
        dims=tuple(_pick(dims)(dim, where) for dim in step.array("dims")),
        extent=step.get("extent", _pick(dims)),
        writes=None if writes is None else tuple(_integer(w, where) for w in _list(writes, where)),
        grain=step.integer("grain"),
        label=label,
        provenance=provenance,
    )
