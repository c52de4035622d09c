"""The backend: graphs that torch's compiler captured, through AOTAutograd, to executables. Forward and backward graphs
go the same way; their weights are inputs. In inference parameters are compiled as constants and watched.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from mapsto.budget import metering
from mapsto.errors import ArgumentError, UnsupportedError
from mapsto.importers.torch import Imported, Supplied, translate
from mapsto.importers.torch.counted import WhileAnyone
from mapsto.importers.torch.decompositions import of_autograd
from mapsto.importers.torch.keras_names import name_captured
from mapsto.importers.torch.results import strides_of
from mapsto.importers.torch.strides import order_of
from mapsto.importers.torch.whole import keep_whole
from mapsto.ir.graph import Graph
from mapsto.runtime.executable import Executable
from mapsto.session.entry import executable_for
from mapsto.session.traced import TracedExecutable
from mapsto.torch.account import note_compiled, note_eager
from mapsto.torch.options import BackendOptions, options_of

INFERENCE, FORWARD, BACKWARD = "inference", "forward", "backward"


def backend(module: Any, example_inputs: Sequence[Any], *, mode: Any = None, options: Any = None) -> Any:
    """What `torch.compile(..., backend="mapsto")` calls with each graph that it captured.

    Raises ArgumentError for unknown options; with `fullgraph=True`, or `options={"fallback": False}`, UnsupportedError
    with all calls that cannot be compiled.
    """
    if mode is not None:
        raise ArgumentError(f"mode: mapsto has none, got {mode!r}; say what you want by `options`")
    asked = options_of(options)
    captured = _captured()
    asked = replace(asked, fallback=asked.fallback and not getattr(captured, "one_graph", False))
    name_captured(module.graph, getattr(getattr(captured, "output", None), "local_scope", {}))
    from torch._dynamo.backends.common import aot_autograd

    compilers = {
        name: _compiler(kind, asked)
        for name, kind in (("fw_compiler", FORWARD), ("bw_compiler", BACKWARD), ("inference_compiler", INFERENCE))
    }
    if not torch.is_grad_enabled():
        keep_whole(module)
    with _without_onednn():
        return aot_autograd(**compilers, decompositions=of_autograd())(module, example_inputs)


@contextmanager
def _onednn_off() -> Iterator[None]:
    before = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)
    try:
        yield
    finally:
        torch._C._set_mkldnn_enabled(before)


_without_onednn = WhileAnyone(_onednn_off)
"""While a graph is traced: oneDNN's recurrent layer saves what it then does not give."""


def take_recurrent_layers_in() -> None:
    """Has torch capture recurrent layers. Left to itself it runs the whole function that calls one uncompiled, and says
    nothing.
    """
    import torch._dynamo.config as config

    config.allow_rnn = True


def _captured() -> Any:
    """What torch is capturing, by its own account: whether it must be one graph (`fullgraph=True`), and the variables
    there; None where it does not say so.
    """
    try:
        from torch._dynamo.symbolic_convert import InstructionTranslator

        return InstructionTranslator.current_tx()
    except (ImportError, AttributeError):
        return None


def _compiler(kind: str, asked: BackendOptions) -> Callable[[Any, Sequence[Any]], Any]:
    def compiled(module: Any, examples: Sequence[Any]) -> Any:
        from torch._functorch.aot_autograd import make_boxed_func

        try:
            run = _Run(module, kind, asked, examples)
        except UnsupportedError as error:
            if not asked.fallback:
                raise
            note_eager(kind, error.faults or (str(error),))
            return make_boxed_func(module.forward)
        note_compiled(kind)
        return make_boxed_func(run)

    return compiled


class _Run:
    """One graph of AOTAutograd's, compiled when it is first run: its parameters' values are there only then. examples:
    tensors that lie as those of the runs will.
    """

    def __init__(self, module: Any, kind: str, asked: BackendOptions, examples: Sequence[Any]) -> None:
        self._module, self._asked = module, asked
        self._nodes = [node for node in module.graph.nodes if node.op == "placeholder"]
        self._orders = [order_of(each) if isinstance(each, torch.Tensor) else None for each in examples]
        self._static = _static_places(len(self._nodes)) if kind == INFERENCE else ()
        self._shown = _returned() if kind == FORWARD else None
        self._run = threading.local()  # what this thread's run was given: several threads may call
        self._traced: TracedExecutable | None = None
        self._first: Imported | None = self._translated(())  # what is unsupported is said now
        if kind == FORWARD:
            _report(self._first, examples)

    def _imported(self, held: Collection[int]) -> Imported:
        first, self._first = self._first, None
        return first if first is not None and not held else self._translated(held)

    def _translated(self, held: Collection[int]) -> Imported:
        feeds = [
            Supplied(node.name, held=self._run.given[at] if at in held else None, order=self._orders[at])
            for at, node in enumerate(self._nodes)
        ]
        with metering(self._asked.budget), np.errstate(all="ignore"):
            return translate(self._module, feeds, "graph", shown=self._shown)

    def _compiled(self, graph: Graph) -> Executable:
        return executable_for(replace(self._asked.request(), model=graph))

    def __call__(self, *given: Any) -> list[Any]:
        self._run.given = given
        if self._traced is None:
            weights = {
                at: (lambda at=at: self._run.given[at]) for at in self._static if isinstance(given[at], torch.Tensor)
            }
            self._traced = TracedExecutable(self._imported, self._compiled, weights, self._asked.weights)
        try:
            return self._traced(given)
        finally:
            self._run.given = ()


def _returned() -> int | None:
    """How many results of a forward graph its caller sees, as AOTAutograd says it; the others are kept for the backward
    graph. None where it does not say so.
    """
    context = torch._guards.TracingContext.try_get()
    found = getattr(getattr(context, "fw_metadata", None), "num_forward", None)
    return found if isinstance(found, int) else None


def _report(imported: Imported, examples: Sequence[Any]) -> None:
    """Tells AOTAutograd how results lie, so that the backward graph reads them so."""
    context = torch._guards.TracingContext.try_get()
    told = getattr(context, "output_strides", None)
    if isinstance(told, list) and not told:
        values = imported.graph.values()
        outputs = [values[name].shape for name in imported.graph.outputs]
        told.extend(strides_of(result, outputs, examples) for result in imported.results)


def _static_places(count: int) -> tuple[int, ...]:
    """Which inputs are parameters and buffers, as AOTAutograd says it."""
    context = torch._guards.TracingContext.try_get()
    found = getattr(getattr(context, "fw_metadata", None), "static_input_indices", None) or ()
    return tuple(at for at in found if at < count)
