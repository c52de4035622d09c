"""Functions of one program as LLVM IR, each once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace

from mapsto import debug
from mapsto.budget import current
from mapsto.devices.cpu.isa import Isa
from mapsto.devices.cpu.traits import processor_of
from mapsto.loop.ast import Function
from mapsto.loop.llvm import to_llvm
from mapsto.loop.text import format_function


class Functions:
    """A `making.code.MadeFor`. submit: is given (name, LLVM IR, optimizer) of each function as soon as it is known."""

    def __init__(self, isa: Isa, submit: Callable[[str, str, str], None]) -> None:
        self.processor = processor_of(isa)
        self.core = isa.core
        self.fused = isa.has("fma")
        self._isa = isa
        self._submit = submit
        self._texts: dict[str, str] = {}

    def add(self, function: Function, optimizer: str) -> str:
        """The name under which the function is compiled; equal functions share one."""
        text = to_llvm(replace(function, name="kernel"), self._isa.capabilities)
        current().charge("code", len(text), "the code of its kernels")
        name = "k" + hashlib.sha256(text.encode()).hexdigest()[:20]
        if name not in self._texts:
            self._texts[name] = text.replace("@kernel(", f"@{name}(")
            debug.show(debug.KERNELS, f"function {name}", lambda: format_function(function))
            debug.show(debug.LLVM, f"LLVM IR of {name}", lambda: self._texts[name])
            self._submit(name, self._texts[name], optimizer)
        return name
