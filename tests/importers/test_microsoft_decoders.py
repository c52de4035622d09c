"""Ops of com.microsoft that decoders are made of, against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import helper, numpy_helper

import mapsto
from mapsto.errors import MapstoError

HEADS, GROUPS, SIZE, ROOM = 4, 2, 16, 12
ANGLES = np.outer(np.arange(ROOM), 100.0 ** -np.linspace(0, 1, SIZE // 2))
CACHES = {"cos": np.cos(ANGLES).astype(np.float32), "sin": np.sin(ANGLES).astype(np.float32)}
GQA = ["q", "k", "v", "past_k", "past_v", "seqlens", "total", "cos", "sin"]


def floats(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def model_of(op: str, given: dict[str, Any], inputs: list[str], outputs: list[str], **attributes: Any) -> bytes:
    """One node; the last axis of each input is fixed, the others are open."""

    def port(name: str, array: np.ndarray) -> Any:
        dims = [f"{name}{k}" for k in range(array.ndim - 1)] + list(array.shape[-1:]) if array.ndim > 1 else None
        return helper.make_tensor_value_info(
            name, helper.np_dtype_to_tensor_dtype(array.dtype), list(array.shape) if dims is None else dims
        )

    node = helper.make_node(op, inputs, outputs, "it", domain="com.microsoft", **attributes)
    stored = [numpy_helper.from_array(a, n) for n, a in CACHES.items() if n in inputs]
    ports = [port(n, a) for n, a in given.items()]
    graph = helper.make_graph([node], "g", ports, [helper.make_empty_tensor_value_info(n) for n in outputs], stored)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    made: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    return made


def check(op: str, given: dict[str, Any], inputs: list[str], outputs: list[str], **attributes: Any) -> None:
    model = model_of(op, given, inputs, outputs, **attributes)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    wanted = session.run(None, given)
    got = mapsto.compile(model, threads=1, cache=False).run(given)
    for name, array in zip(outputs, wanted, strict=True):
        made = got[name]
        if "total" in given and name != "y":  # what lies behind is not defined: one keeps it, the other clears it
            made, array = (cache[:, :, : int(given["total"])] for cache in (made, array))
        np.testing.assert_allclose(made, array, rtol=2e-5, atol=2e-5, err_msg=name)


def step(rows: int, past: int, batch: int = 2, packed: bool = False) -> dict[str, Any]:
    caches = {n: floats(batch, GROUPS, ROOM, SIZE, seed=s) for n, s in (("past_k", 3), ("past_v", 4))}
    lengths = {"seqlens": np.full(batch, past + rows - 1, np.int32), "total": np.array(past + rows, np.int32)}
    if packed:
        return {"q": floats(batch, rows, (HEADS + 2 * GROUPS) * SIZE), **caches, **lengths}
    new = {n: floats(batch, rows, GROUPS * SIZE, seed=s) for n, s in (("k", 1), ("v", 2))}
    return {"q": floats(batch, rows, HEADS * SIZE), **new, **caches, **lengths}


FORMS: list[dict[str, Any]] = [
    {}, {"do_rotary": 1}, {"do_rotary": 1, "rotary_interleaved": 1}, {"softcap": 1.5}, {"local_window_size": 3},
    {"scale": 0.7},
]  # fmt: skip


@pytest.mark.parametrize("attributes", FORMS, ids=str)
@pytest.mark.parametrize("rows, past", [(1, 5), (4, 0), (1, ROOM - 1)])
def test_attention_of_groups(attributes: dict[str, Any], rows: int, past: int) -> None:
    inputs = GQA if "do_rotary" in attributes else GQA[:7]
    heads = {"num_heads": HEADS, "kv_num_heads": GROUPS}
    check("GroupQueryAttention", step(rows, past), inputs, ["y", "key", "value"], **heads, **attributes)


def test_attention_of_groups_with_all_in_the_query() -> None:
    inputs = ["q", "", "", *GQA[3:]]
    heads = {"num_heads": HEADS, "kv_num_heads": GROUPS, "do_rotary": 1}
    check("GroupQueryAttention", step(1, 3, packed=True), inputs, ["y", "key", "value"], **heads)


def test_a_place_behind_the_cache_is_an_error() -> None:
    given = step(1, ROOM)
    model = model_of("GroupQueryAttention", given, GQA[:7], ["y", "k2", "v2"], num_heads=HEADS, kv_num_heads=GROUPS)
    with pytest.raises(MapstoError, match="GroupQueryAttention"):
        mapsto.compile(model, threads=1, cache=False).run(given)


@pytest.mark.parametrize("interleaved", [0, 1])
@pytest.mark.parametrize("at", [np.array([3]), np.array([[0, 2, 5], [1, 1, 7]])], ids=["first", "each"])
def test_rotary(interleaved: int, at: np.ndarray) -> None:
    given = {"x": floats(2, 3, HEADS * SIZE), "at": at.astype(np.int64)}
    check("RotaryEmbedding", given, ["x", "at", "cos", "sin"], ["y"], interleaved=interleaved)


@pytest.mark.parametrize("attributes", [{}, {"unidirectional": 1}, {"scale": 0.4}], ids=str)
def test_attention_of_many_heads(attributes: dict[str, Any]) -> None:
    given = {n: floats(2, 5, HEADS * SIZE, seed=s) for s, n in enumerate("qkv")}
    check("MultiHeadAttention", given, ["q", "k", "v"], ["y"], num_heads=HEADS, **attributes)


def test_attention_of_many_heads_with_a_past_and_a_bias() -> None:
    given = {n: floats(2, 1, HEADS * SIZE, seed=s) for s, n in enumerate("qkv")}
    given |= {"bias": floats(3 * HEADS * SIZE), **{f"past_{n}": floats(2, HEADS, 4, SIZE, seed=5) for n in "kv"}}
    inputs = ["q", "k", "v", "bias", "", "", "past_k", "past_v"]
    check("MultiHeadAttention", given, inputs, ["y", "key", "value"], num_heads=HEADS)
