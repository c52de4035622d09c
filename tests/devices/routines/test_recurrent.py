"""lstm, gru, rnn against their numpy reference and onnxruntime; memory, partition, batch and code of the steps."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.devices.routines.harness import run, values_of, vectors
from tests.devices.routines.onnx_models import run_onnxruntime

import mapsto.ops  # noqa: F401
from mapsto.devices.cpu.compiler import compile_modules
from mapsto.devices.cpu.isa import AVX512, Isa
from mapsto.devices.routines import RoutineCall, RoutineKernel, routine
from mapsto.ir.dtypes import DType, from_numpy
from mapsto.ir.expr import evaluate, sym
from mapsto.ir.graph import Node, Value
from mapsto.kernel.compose import reads
from mapsto.loop.llvm import to_llvm
from mapsto.ops.registry import op

GATES = {"lstm": 4, "gru": 3, "rnn": 1}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "lstm": ("lstm", {}),
    "gru": ("gru", {"linear_before_reset": False}),
    "gru-after": ("gru", {"linear_before_reset": True}),
    "rnn": ("rnn", {}),
    "rnn-relu": ("rnn", {"activations": (("relu", 0.0, 0.0),)}),
}
INPUTS = 19  # to layers of one step
Arrays = dict[str, np.ndarray | None]


def make(
    variant: str, sizes: tuple[int, int, int], direction: str = "forward", dtype: Any = np.float32,
    lengths: list[int] | None = None, without: tuple[str, ...] = ("p",), seed: int = 0,
) -> tuple[Node, Arrays]:  # fmt: skip
    """A node and its operands; `sizes` are time, batch, hidden units. One step multiplies x itself, if it can."""
    name, attrs = VARIANTS[variant]
    time, batch, hidden = sizes
    count, gates = 2 if direction == "bidirectional" else 1, GATES[name]
    rng = np.random.default_rng(seed)
    state = (count, batch, hidden)
    shapes = {"x": (time, batch, count * gates * hidden), "r": (count, gates * hidden, hidden), "lengths": (batch,)}
    shapes |= {"h0": state, "c0": state, "p": (count, 3 * hidden), "b": (count, hidden)}
    place = {"lstm": ("c0", "p"), "gru-after": ("b", "no p")}.get(variant, ("no c0", "no p"))
    order = ["x", "r", "lengths", "h0", *place]
    if time == 1 and variant != "gru":
        shapes |= {"x": (1, batch, INPUTS), "w": (count, gates * hidden, INPUTS), "start": (count, gates * hidden)}
        order += ["w", "start"]
    arrays: Arrays = {}
    for key in order:
        shape = shapes.get(key, ())
        scale = 1.0 if key in ("x", "h0", "c0") else 1.5 / np.sqrt(max(hidden, 1))
        arrays[key] = (
            None if key not in shapes or key in without else (rng.standard_normal(shape) * scale).astype(dtype)
        )
    computed = np.float64 if np.dtype(dtype) == np.float64 else np.float32
    for key in {"x", "start"} & {*arrays} - ({"x"} if "w" in arrays else set()):
        arrays[key] = None if (array := arrays[key]) is None else array.astype(computed)
    arrays["lengths"] = None if lengths is None else np.array(lengths, np.int32)
    element = from_numpy(np.dtype(dtype))
    outputs = [Value("out_y", element, (time, *state)), Value("out_h", element, state), Value("out_c", element, state)]
    kept = tuple(n if a is not None else "" for n, a in arrays.items())
    return Node(name, kept, tuple(outputs[: 3 if name == "lstm" else 2]), {"direction": direction, **attrs}), arrays


def exact(node: Node, arrays: Arrays) -> list[np.ndarray]:
    """The reference in float64."""
    wide = [a if a is None or a.dtype == np.int32 else a.astype(np.float64) for a in arrays.values()]
    reference = op(node.op).reference
    assert reference is not None
    return reference(wide, node.attrs, [tuple(int(d) for d in v.shape) for v in node.outputs])  # type: ignore[arg-type]


def by_onnxruntime(node: Node, arrays: Arrays) -> list[np.ndarray]:
    """Where x is W's product already, it goes through weights of ones and zeros, so that it comes out as it is."""
    x, r = arrays["x"], arrays["r"]
    assert x is not None and r is not None
    count, gates, hidden = r.shape[0], GATES[node.op], r.shape[2]
    whole, bias = arrays.get("w"), np.zeros((count, 2 * gates * hidden), x.dtype)
    if whole is None:
        whole = np.eye(count * gates * hidden, dtype=x.dtype).reshape(count, gates * hidden, -1)
    if (start := arrays.get("start")) is not None:
        bias[:, : gates * hidden] = start
    if (own := arrays.get("b")) is not None:
        bias[:, -hidden:] = own
    given: Arrays = {"x": x, "w": whole, "r": r, "b": bias, "lengths": arrays["lengths"]}
    given |= {name: arrays[name] for name in ("h0", "c0", "p") if name in arrays}
    attrs = {"hidden_size": hidden, "direction": node.attrs["direction"]}
    if node.op == "gru":
        attrs["linear_before_reset"] = int(bool(node.attrs["linear_before_reset"]))
    if node.op == "rnn":
        attrs["activations"] = ["Relu" if "activations" in node.attrs else "Tanh"] * count
    return run_onnxruntime(node.op.upper(), given, len(node.outputs), attrs)


def expect(node: Node, arrays: Arrays, **options: Any) -> None:
    """Error against float64 at most 4 times onnxruntime's, plus 1e-6 of the scale; shapes and zeros equal."""
    found = run(node, arrays, **options)
    for value, wanted, theirs in zip(node.outputs, exact(node, arrays), by_onnxruntime(node, arrays), strict=True):
        scale = max(1e-3, float(np.abs(wanted).max(initial=0)))
        allowed = 4 * np.abs(theirs - wanted).max(initial=0) + 1e-6 * scale
        np.testing.assert_allclose(found[value.name], wanted, rtol=0, atol=allowed, err_msg=value.name)
        np.testing.assert_array_equal(found[value.name][wanted == 0], 0)


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_native_code(variant: str, direction: str, isa: Isa) -> None:
    for sizes in [(5, 3, 33), (1, 1, 40), (1, 7, 33), (3, 13, 7)]:
        expect(*make(variant, sizes, direction), isa=isa, shares=2)


@settings(deadline=None, max_examples=40)
@given(
    data=st.data(),
    variant=st.sampled_from(list(VARIANTS)),
    direction=st.sampled_from(["forward", "reverse", "bidirectional"]),
    sizes=st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 9)),
    lanes=st.sampled_from([2, 4, 8]),
)
def test_any_sizes_and_operands(data, variant: str, direction: str, sizes: tuple[int, int, int], lanes: int) -> None:
    without = tuple(data.draw(st.sets(st.sampled_from(["b", "h0", "c0", "p", "start"]))))
    lengths = data.draw(st.none() | st.lists(st.integers(0, sizes[0]), min_size=sizes[1], max_size=sizes[1]))
    expect(*make(variant, sizes, direction, without=without, lengths=lengths), lanes=lanes)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("sizes", [(6, 8, 20), (1, 8, 20)])
def test_sequence_lengths(variant: str, sizes: tuple[int, int, int], isa: Isa) -> None:
    lengths = [min(n, sizes[0]) for n in (6, 0, 3, 1, 6, 2, 0, 5)]
    expect(*make(variant, sizes, "bidirectional", lengths=lengths), isa=isa)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("time", [1, 3])
def test_lengths_outside_the_sequence_are_clamped(variant: str, time: int) -> None:
    given, meant = (make(variant, (time, 2, 5), "reverse", lengths=n) for n in ([-7, 2**31 - 1], [0, time]))
    found, wanted = run(*given, lanes=4), run(*meant, lanes=4)
    for name in wanted:
        np.testing.assert_array_equal(found[name], wanted[name])


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", [DType.F64, DType.F16, DType.BF16], ids=str)
@pytest.mark.parametrize("time", [1, 4])
def test_other_element_types(variant: str, dtype: DType, time: int, isa: Isa) -> None:
    node, arrays = make(variant, (time, 5, 21), dtype=dtype.numpy)
    found = run(node, arrays, isa=isa)
    epsilon = {DType.F64: 2.0**-52, DType.F16: 2.0**-11, DType.BF16: 2.0**-8}[dtype]  # half a unit in the last place
    for value, wanted in zip(node.outputs, exact(node, arrays), strict=True):
        got = found[value.name].astype(np.float64)
        np.testing.assert_allclose(
            got, wanted, rtol=1.01 * epsilon, atol=64 * (2.0**-52 if dtype is DType.F64 else 2.0**-24)
        )


@pytest.mark.parametrize("variant", VARIANTS)
def test_one_code_for_every_time_and_batch(variant: str) -> None:
    node, arrays = make(variant, (4, 7, 6), "bidirectional")
    t, b = sym("t"), sym("b")
    inputs = tuple(v and Value(v.name, v.dtype, _symbolic(v)) for v in values_of(arrays))
    outputs = tuple(Value(v.name, v.dtype, (t, 2, b, 6) if v.rank == 4 else (2, b, 6)) for v in node.outputs)
    for time, batch in [(4, 7), (1, 1), (2, 4), (0, 2), (3, 0)]:
        _, longer = make(variant, (max(time, 2), batch, 6), "bidirectional")
        given = {**longer, "x": longer["x"][:time]}  # type: ignore[index]
        found = run(Node(node.op, node.inputs, outputs, node.attrs), given, {"t": time, "b": batch}, inputs=inputs)
        for value, wanted in zip(outputs, exact(node, given), strict=True):
            np.testing.assert_allclose(found[value.name], wanted, rtol=0, atol=3e-6)


def _symbolic(value: Value) -> tuple[Any, ...]:
    """x[t, b, d*g*h] and the states [d, b, h] with time and batch as symbols."""
    t, b = sym("t"), sym("b")
    return {"x": (t, b, *value.shape[2:]), "h0": (2, b, 6), "c0": (2, b, 6)}.get(value.name, value.shape)


@pytest.mark.parametrize("sizes", [(0, 2, 4), (3, 0, 4), (2, 2, 0), (1, 0, 4), (1, 2, 0)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_empty_sizes(variant: str, sizes: tuple[int, int, int]) -> None:
    node, arrays = make(variant, sizes)
    found = run(node, arrays)
    for value, wanted in zip(node.outputs, exact(node, arrays), strict=True):
        np.testing.assert_allclose(found[value.name], wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("time", [1, 4])
def test_same_bits_for_any_partition_and_batch(variant: str, time: int, isa: Isa) -> None:
    node, arrays = make(variant, (time, 13, 70), "bidirectional")
    whole = run(node, arrays, isa=isa)
    split = run(node, arrays, isa=isa, shares=3)
    for value in node.outputs:
        np.testing.assert_array_equal(split[value.name], whole[value.name])
    alone, _ = make(variant, (time, 1, 70), "bidirectional")
    rows = {n: a[:, 12:] if n in ("x", "h0", "c0") and a is not None else a for n, a in arrays.items()}
    one = run(alone, {n: None if a is None else np.ascontiguousarray(a) for n, a in rows.items()}, isa=isa)
    for value in node.outputs:
        np.testing.assert_array_equal(one[value.name][..., 0, :], whole[value.name][..., 12, :])


@pytest.mark.parametrize("variant, count", [("lstm", 1), ("gru", 2), ("gru-after", 1), ("rnn", 1)])
def test_packing_reads_weights_alone(variant: str, count: int) -> None:
    """So that it runs once, at compile time, where the weights are constants; one matrix for each phase of a cell."""
    node, arrays = make(variant, (5, 2, 6))
    *packs, steps = routine(node, values_of(arrays), "r", vectors(lanes=16)).parts
    assert len(packs) == count and isinstance(steps, RoutineCall)
    for pack in packs:
        assert isinstance(pack, RoutineKernel)
        assert all(reads(stmt) == {"r"} for stmt in pack.stmts)
        assert pack.scratch.name in steps.operands
    assert "r" not in steps.operands


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_batch_is_several_shares(variant: str, isa: Isa) -> None:
    """Whatever rows registers would hold: a tile is one thread's work."""
    for batch, least in [(8, 2), (16, 4), (64, 4)]:
        node, arrays = make(variant, (9, batch, 32))
        for opened in (False, True):
            values = values_of(arrays)
            if opened:
                values = tuple(
                    v and replace(v, shape=(9, sym("b"), *v.shape[2:]) if v.name == "x" else v.shape) for v in values
                )
            steps = routine(node, values, "r", vectors(isa)).parts[-1]
            assert isinstance(steps, RoutineCall)
            assert evaluate(steps.extent, {"b": batch}) >= least


def _inner_loops(assembly: str) -> Iterator[list[str]]:
    """The instructions of each loop without a loop inside."""
    lines, labels = assembly.splitlines(), {}
    for at, line in enumerate(lines):
        if label := re.match(r"(\.LBB\w+):", line):
            labels[label[1]] = at
        if (jump := re.match(r"\s+j\w+\s+(\.LBB\w+)", line)) and jump[1] in labels:
            body = lines[labels[jump[1]] : at + 1]
            if not any(line.startswith(".LBB") for line in body[1:]):
                yield body


@pytest.mark.parametrize("sizes", [(1, 1, 128), (9, 1, 128), (9, 6, 128), (9, 7, 64)])
def test_products_use_registers_alone(sizes: tuple[int, int, int]) -> None:
    """The inner loops of h R hold no stack traffic: it halved the speed of the steps once."""
    node, arrays = make("lstm", sizes)
    code = routine(node, values_of(arrays), "r", vectors(AVX512))
    functions = [call.function for call in code.parts if isinstance(call, RoutineCall)]
    text = compile_modules([("r", to_llvm(functions, AVX512.capabilities))], AVX512, 1, kind="assembly")[0].decode()
    products = [
        body
        for body in _inner_loops(text)
        if sum("vfmadd" in line for line in body) >= 2 and "vdivps" not in "".join(body)
    ]
    assert products
    for body in products:
        assert not [line for line in body if "(%rsp" in line]  # aligned spills are addressed by it, never by %rbp
