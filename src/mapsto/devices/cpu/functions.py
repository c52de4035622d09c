"""Functions of one program as LLVM IR, each once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace

from mapsto import debug
from mapsto.budget import current
from mapsto.devices.cpu.isa import Isa
from mapsto.devices.cpu.traits import processor_of
from mapsto.devices.making.code import Unwritten
from mapsto.loop.ast import Function
from mapsto.loop.llvm import to_llvm
from mapsto.loop.llvm_convert import Capabilities
from mapsto.loop.text import format_function

CHARGED = "the code of its kernels"


class Functions:
    """A `making.code.MadeFor`. submit: is given (name, LLVM IR, optimizer) of each function as soon as it is known.
    submit_later: is given (name, source, optimizer) of those yet to be written; None: they are written at once.
    """

    def __init__(
        self,
        isa: Isa,
        submit: Callable[[str, str, str], None],
        submit_later: Callable[[str, Unwritten, str], None] | None = None,
    ) -> None:
        self.processor = processor_of(isa)
        self.core = isa.core
        self.fused = isa.has("fma")
        self._isa = isa
        self._submit = submit
        self._submit_later = submit_later
        self._known: set[str] = set()

    def add(self, function: Function, optimizer: str) -> str:
        """The name under which the function is compiled; equal functions share one."""
        text = to_llvm(replace(function, name="kernel"), self._isa.capabilities)
        current().charge("code", len(text), CHARGED)
        name = _named(text)
        if name not in self._known:
            self._give(replace(function, name=name), text.replace("@kernel(", f"@{name}("), optimizer)
        return name

    def add_later(self, source: Unwritten, optimizer: str) -> str:
        """The name under which what is written from a source is compiled; equal sources share one."""
        name = _named(f"{self._isa.name} {source.key}")
        if name in self._known:
            return name
        if self._submit_later is not None and debug.level() < debug.KERNELS:
            self._known.add(name)
            self._submit_later(name, source, optimizer)
            return name
        function = replace(source.write(), name=name)
        text = to_llvm(function, self._isa.capabilities)
        current().charge("code", len(text), CHARGED)
        self._give(function, text, optimizer)
        return name

    def _give(self, function: Function, text: str, optimizer: str) -> None:
        name = function.name
        self._known.add(name)
        debug.show(debug.KERNELS, f"function {name}", lambda: format_function(function))
        debug.show(debug.LLVM, f"LLVM IR of {name}", lambda: text)
        self._submit(name, text, optimizer)


def written(name: str, source: Unwritten, capabilities: Capabilities) -> str:
    """The LLVM IR of a function of this name."""
    return to_llvm(replace(source.write(), name=name), capabilities)


def _named(what: str) -> str:
    return "k" + hashlib.sha256(what.encode("utf-8", "surrogatepass")).hexdigest()[:20]
