"""Prints docs/operators.md: what of the ONNX standard is read, from the table of rows and the suite that tests hold to.

    python scripts/list_operators.py > docs/operators.md

A test compares the page with what this prints. The numbers of cases are of the installed version of onnx.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from tests.conformance import conformance_cases, node_cases  # noqa: E402

from mapsto.importers.onnx import supported_ops  # noqa: E402
from mapsto.importers.onnx.reader import NEWEST_OPSET, OLDEST_OPSET  # noqa: E402
from mapsto.importers.onnx.tensors import DTYPES  # noqa: E402

VERSION = ".".join(onnx.__version__.split(".")[:2])
HEAD = f"""# Operators

What mapsto reads of ONNX, opsets {OLDEST_OPSET} to {NEWEST_OPSET}, made by `python scripts/list_operators.py`
from the table of rows (`importers/onnx/rows`) and the backend test-suite of onnx {VERSION}. What is not supported is
one error, which lists every such node of a model with its op, opset and attribute, and what to do.

- *versions*: the opsets at which the op changed.
- *types*: of the first operand, where the newest version takes them and mapsto has them. Elements of "8-bit floats"
  (f8e4m3fn, f8e4m3fnuz, f8e5m2, f8e5m2fnuz) and of "4 and 2 bits" (f4e2m1, i4, u4, i2, u2) take a byte each between
  ops and at the boundary, where they are arrays of `ml_dtypes`.
- *how*: "native" is a row, which makes kernels of the compiler's own; "body" is the function by which the standard
  defines the op, whose nodes are native; "-" is not supported.
- *cases*: of the suite's cases of this single node, how many the tests hold compiled code to, and how many there are.

Random numbers (RandomNormal, RandomUniform, Bernoulli, Multinomial, Dropout in training) are functions of a seed and an
element's place: the same for any number of threads and in every run. A node without the attribute seed takes one from
its name when it is compiled; `mapsto graph` shows it.

Sequences and optional values exist while a model is read: their elements, and positions known or of a run, become
selections and joins of tensors. A loop whose number of rounds is known reads and changes sequences as it likes; another
one may add to them. As inputs and outputs of a model they are not supported.

Products of 8-bit integers (ConvInteger, MatMulInteger, QLinearConv, QLinearMatMul, and of `com.microsoft` QGemm,
QAttention, MatMulIntegerToFloat, DynamicQuantizeMatMul) are summed in 32 bits without a rounding on the way, on every
instruction set. Nothing is added in 16 bits: ONNX Runtime does so on processors without VNNI, and saturates there.
MatMul, Gemm and Conv between DequantizeLinear and QuantizeLinear are such products too, where scales vary along the
result's channels alone and 32 bits hold any sum, or products of floats where those are predicted to take less
([formats.md](formats.md#models-that-are-quantised-already)); what only moves data between the two moves bytes.
DynamicQuantizeLSTM quantises its inputs, all at once, and its states, in every step, to 8 bits by their own ranges, as
ONNX Runtime does on one thread (with peepholes, a clip or other activations its steps are computed in f32).
MatMulNBits of f32 and f16, and MatMul and Gemm of a constant matrix that DequantizeLinear reads with a `block_size`,
are products by weights in blocks ([formats.md](formats.md#weights-in-blocks)): up to four rows read the integers of 4
or 8 bits (those of 4 bits with zero points that leave such a range, as 8). For more rows they are unpacked when
compiling, and take the memory of floats. GatherBlockQuantized gathers a table's integers, a byte each, and makes floats
of these.
"""
_OURS = {f"tensor({onnx.TensorProto.DataType.Name(number).lower()})": ours.value for number, ours in DTYPES.items()}
# Groups of types by a shorter name, the widest first.
_GROUPS = (
    ("all", tuple(ours.value for ours in DTYPES.values())),
    ("numbers, bool", tuple(ours.value for ours in DTYPES.values() if not ours.is_storage)),
    ("numbers", tuple(ours.value for ours in DTYPES.values() if ours.is_float or ours.is_integer)),
    ("floats", tuple(ours.value for ours in DTYPES.values() if ours.is_float)),
    ("integers", tuple(ours.value for ours in DTYPES.values() if ours.is_integer)),
    ("8-bit floats", ("f8e4m3fn", "f8e4m3fnuz", "f8e5m2", "f8e5m2fnuz")),
    ("4 and 2 bits", ("f4e2m1", "i4", "u4", "i2", "u2")),
)


def schemas() -> dict[tuple[str, str], list[Any]]:
    """Versions of each op of the standard, oldest first, by domain and name."""
    found: dict[tuple[str, str], list[Any]] = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        found.setdefault((schema.domain, schema.name), []).append(schema)
    return {key: sorted(versions, key=lambda s: int(s.since_version)) for key, versions in found.items()}


def types_of(schema: Any) -> str:
    """Element types of the first operand."""
    formals = list(schema.inputs) or list(schema.outputs)
    found = {_OURS[kind] for kind in (formals[0].types if formals else ()) if kind in _OURS}
    parts = []
    for name, members in _GROUPS:
        if found.issuperset(members):
            parts.append(name)
            found -= set(members)
    return ", ".join([*parts, *(ours.value for ours in DTYPES.values() if ours.value in found)])


def lines() -> Iterator[str]:
    """One line an op."""
    read = set(supported_ops())
    single = {raw.name: raw.model.graph.node[0].op_type for raw in node_cases() if len(raw.model.graph.node) == 1}
    held = Counter(single[case.name] for case in conformance_cases() if case.name in single)
    total = Counter(single.values())
    known = schemas()
    for (domain, op), versions in sorted(known.items()):
        name = f"{domain}.{op}" if domain else op
        newest = versions[-1]
        has_body = newest.has_function or newest.has_context_dependent_function
        how = "native" if name in read else "body" if has_body and held[op] else "-"
        numbers = ", ".join(str(v.since_version) for v in versions if not v.deprecated)
        cases = f"{held[op]} of {total[op]}" if total[op] else ""
        yield f"| {name} | {numbers} | {types_of(newest) if how != '-' else ''} | {how} | {cases} |"
    others = read - {f"{domain}.{op}" if domain else op for domain, op in known}
    for name in sorted(others):
        yield f"| {name} | no op of the standard | | native | |"


def page() -> str:
    """The whole page."""
    table = ["| op | versions | types | how | cases |", "|---|---|---|---|---|", *lines()]
    return HEAD + "\n" + "\n".join(table) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
