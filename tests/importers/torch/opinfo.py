"""Torch's own samples of its operators (OpInfo), through the importer.

    python -m tests.importers.torch.opinfo [--gradients] [--json FILE] [NAME ...]

Each operator that takes f32 is held to torch on some of its samples: the results of the imported graph, as the
interpreter of graphs computes them, or, with --gradients, those of compiled code and the gradients by
`torch.compile(backend=mapsto.torch.backend)`.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tests.importers.torch.closeness import assert_close
from torch import nn
from torch.testing._internal.common_methods_invocations import op_db
from torch.utils import _pytree as pytree

import mapsto.torch
from mapsto.errors import UnsupportedError
from mapsto.importers.torch import exported, translated_program
from mapsto.importers.torch.tensors import array_of, tensor_of
from mapsto.ops.interpret import run_graph
from mapsto.session.traced import drawn_arrays

SEED = 42  # which the samples of random operators set themselves


class _Called(nn.Module):
    """An operator with a sample's arguments: tensors come in, all else is part of it."""

    def __init__(self, function: Any, rest: Sequence[Any], spec: Any, tensors: Sequence[bool]) -> None:
        super().__init__()
        self.function, self.rest, self.spec, self.tensors = function, rest, spec, tensors

    def forward(self, *given: Any) -> Any:
        ours, rest = iter(given), iter(self.rest)
        leaves = [next(ours) if is_tensor else next(rest) for is_tensor in self.tensors]
        (first, args), kwargs = pytree.tree_unflatten(leaves, self.spec)
        return self.function(first, *args, **kwargs)


def _called(info: Any, sample: Any) -> tuple[_Called, list[Any]]:
    leaves, spec = pytree.tree_flatten(((sample.input, list(sample.args)), sample.kwargs))
    tensors = [isinstance(leaf, torch.Tensor) for leaf in leaves]
    given = [leaf.detach().clone() for leaf in leaves if isinstance(leaf, torch.Tensor)]
    rest = [leaf for leaf in leaves if not isinstance(leaf, torch.Tensor)]
    return _Called(info.op, rest, spec, tensors), given


def name_of(info: Any) -> str:
    return str(info.name) + (f".{info.variant_test_name}" if info.variant_test_name else "")


def infos() -> Iterator[Any]:
    """The operators that take f32."""
    return (info for info in op_db if torch.float32 in info.dtypes)


def _tensors(results: Any) -> list[Any]:
    return [r for r in pytree.tree_leaves(results) if isinstance(r, torch.Tensor)]


def imported(module: Any, given: Sequence[Any]) -> list[Any]:
    """The tensors that the imported graph gives, by the interpreter of graphs."""
    program = exported(module, given)
    made = translated_program(program, "sample")
    places = {at: k for k, at in enumerate(program.users)}
    arrays = [array_of(given[places[at]]) for at in made.inputs]
    if made.drawn:
        torch.manual_seed(SEED)
        arrays += drawn_arrays(made, arrays)
    found = run_graph(made.graph, {v.name: a for v, a in zip(made.graph.inputs, arrays, strict=True)})
    results = []
    for result, (kind, _) in zip(made.results, program.results, strict=True):
        if kind != "output":
            continue
        if result.at is not None and not result.as_number:
            array = found[made.graph.outputs[result.at]]
            results.append(tensor_of(np.array(array, order="C").reshape(array.shape)))
        elif result.feed is not None:
            held = program.feeds[result.feed].held
            results.append(given[places[result.feed]] if held is None else held)
    return results


def differentiated(module: Any, given: Sequence[Any], compiled: bool) -> tuple[list[Any], list[Any]]:
    """Results and gradients, by torch or by its compiler with our backend."""
    torch.manual_seed(SEED)
    call = module
    if compiled:
        torch._dynamo.reset()
        call = torch.compile(
            module, backend=mapsto.torch.backend, fullgraph=True, dynamic=False, options={"threads": 1, "cache": False}
        )
    leaves = [x.clone().requires_grad_() if x.is_floating_point() else x for x in given]
    results = _tensors(call(*leaves))
    parts = [r for r in results if r.requires_grad and r.is_floating_point()]
    if parts:
        sum((p * torch.linspace(-1, 2, p.numel()).view(p.shape)).sum() for p in parts).backward()
    return results, [x.grad for x in leaves if x.is_floating_point() and x.grad is not None]


def outcome(info: Any, gradients: bool = False, most: int = 3) -> str:
    """Empty where all looked at is right; else what is not."""
    try:
        samples = list(info.sample_inputs("cpu", torch.float32))
        last = len(samples) - 1
        chosen = samples if last < most else [samples[k * last // (most - 1)] for k in range(most)]
        for sample in chosen[-1:] if gradients else chosen:
            module, given = _called(info, sample)
            torch.manual_seed(SEED)
            with torch.no_grad():
                wanted = _tensors(module(*[x.clone() for x in given]))
            if gradients and info.supports_autograd:
                assert_close(differentiated(module, given, True), differentiated(module, given, False), 2e-5)
            else:
                assert_close(imported(module, given), wanted, 2e-5)
    except (KeyboardInterrupt, SystemExit):
        raise
    except UnsupportedError as error:
        return (error.faults or (str(error),))[0].splitlines()[0][:200]
    except BaseException as error:  # whatever torch's samples do
        said = [line for line in str(error).splitlines() if "Error" in line] or str(error).splitlines() or [""]
        return f"{type(error).__name__}: {said[0]}"[:200]
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gradients", action="store_true", help="through torch's compiler, with gradients")
    parser.add_argument("--json", type=Path, help="keep outcomes by name in this file, which may hold some already")
    parser.add_argument("names", nargs="*", help="operators (all that take f32)")
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    known: dict[str, str] = json.loads(asked.json.read_text()) if asked.json and asked.json.exists() else {}
    for info in infos():
        name = name_of(info)
        if (asked.names and name not in asked.names) or (not asked.names and name in known):
            continue
        known[name] = outcome(info, asked.gradients)
        print(name, known[name] or "right", flush=True)
        if asked.json:
            asked.json.write_text(json.dumps(known, indent=0))
    right = sum(not said for said in known.values())
    print(f"{right} of {len(known)} right", file=sys.stderr)


if __name__ == "__main__":
    main()
