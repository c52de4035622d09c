"""A language model that writes token by token, its cache of keys and values updated in place.

    python examples/decode.py                   # a small network with random weights
    python examples/decode.py --formats int4-weights
    python examples/decode.py --tokens 200 --layers 30 --hidden 576 --heads 9 --groups 3 --inner 1536 --words 49152

One executable writes every token, whatever the length of the cache. `updates` names which output takes over the
memory of which input: a token's keys and values are written into the caches where they lie, and nothing copies these.
It is compiled for one token at a time (`shapes`), as what suits a long prompt, packing the keys, is no good for one.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import mapsto

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


class Maker:
    """Nodes and weights of a graph, by short names."""

    def __init__(self, seed: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.stored: list[onnx.TensorProto] = []
        self.random = np.random.default_rng(seed)

    def node(self, op: str, *inputs: str, name: str = "", **attributes: object) -> str:
        name = name or f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name, **attributes))
        return name

    def weight(self, *shape: int) -> str:
        array = self.random.standard_normal(shape).astype(np.float32) / np.float32(shape[0] ** 0.5)
        return self.constant(array)

    def constant(self, array: np.ndarray) -> str:
        name = f"c{len(self.stored)}"
        self.stored.append(numpy_helper.from_array(array, name))
        return name

    def heads(self, x: str, count: int, size: int) -> str:
        """x[1, steps, count * size] as [1, count, steps, size]."""
        shape = self.constant(np.array([0, 0, count, size]))
        return self.node("Transpose", self.node("Reshape", x, shape), perm=[0, 2, 1, 3])

    def norm(self, x: str, hidden: int) -> str:
        return self.node("RMSNormalization", x, self.constant(np.ones(hidden, np.float32)), epsilon=1e-5)


def decoder(
    layers: int, hidden: int, heads: int, groups: int, inner: int, words: int, longest: int = 4096, seed: int = 0
) -> onnx.ModelProto:
    """Blocks as Llama has them: RMS norms, rotated queries and keys, `groups` heads of keys for `heads` of queries.

    Inputs: ids[1, steps], at[1] (how many tokens are in the caches), and for each layer keys and values
    [1, groups, capacity, size]. Outputs: next[1] (the likeliest token after the last one), and the caches.
    """
    m, size = Maker(seed), hidden // heads
    angles = np.outer(np.arange(longest), 1e4 ** (-np.arange(size // 2) / (size // 2)))
    cos, sin = (m.constant(f(angles).astype(np.float32)) for f in (np.cos, np.sin))
    zero, one, first = (m.constant(np.array(v)) for v in (0, 1, [0]))
    steps = m.node("Gather", m.node("Shape", "ids"), one)
    capacity = m.node("Gather", m.node("Shape", "keys.0"), m.constant(np.array(2)))
    places = m.node("Add", m.node("Range", zero, steps, one), "at")  # [steps]
    seen = m.node(  # [steps, capacity]: what a token may look at
        "LessOrEqual", m.node("Range", zero, capacity, one), m.node("Unsqueeze", places, one)
    )
    rows, low = m.node("Unsqueeze", places, first), m.constant(np.array(-np.inf, np.float32))
    embedding = m.weight(words, hidden)
    x, ports, caches = m.node("Gather", embedding, "ids"), [], []
    for layer in range(layers):
        y = m.norm(x, hidden)
        q, k, v = (m.node("MatMul", y, m.weight(hidden, n * size)) for n in (heads, groups, groups))
        q, k = (
            m.node("RotaryEmbedding", m.heads(p, n, size), cos, sin, rows) for p, n in ((q, heads), (k, groups))
        )  # fmt: skip
        for name, new in (("keys", k), ("values", m.heads(v, groups, size))):
            ports.append(f"{name}.{layer}")
            caches.append(m.node("TensorScatter", ports[-1], new, "at", name=f"{name}.{layer}.next", axis=-2))
        keys, values = (m.node("Unsqueeze", c, m.constant(np.array([2]))) for c in caches[-2:])
        q = m.node("Reshape", q, m.constant(np.array([1, groups, heads // groups, -1, size])))
        q = m.node("Mul", q, m.constant(np.array(size**-0.5, np.float32)))
        scores = m.node("MatMul", q, m.node("Transpose", keys, perm=[0, 1, 2, 4, 3]))
        weights = m.node("Softmax", m.node("Where", seen, scores, low))
        mixed = m.node("Reshape", m.node("MatMul", weights, values), m.constant(np.array([1, heads, -1, size])))
        mixed = m.node("Reshape", m.node("Transpose", mixed, perm=[0, 2, 1, 3]), m.constant(np.array([0, 0, hidden])))
        x = m.node("Add", x, m.node("MatMul", mixed, m.weight(hidden, hidden)))
        y = m.norm(x, hidden)
        gate, up = (m.node("MatMul", y, m.weight(hidden, inner)) for _ in range(2))
        gated = m.node("Mul", m.node("Mul", gate, m.node("Sigmoid", gate)), up)
        x = m.node("Add", x, m.node("MatMul", gated, m.weight(inner, hidden)))
    last = m.node("Gather", m.norm(x, hidden), m.constant(np.array(-1)), axis=1)
    m.node("ArgMax", m.node("MatMul", last, m.weight(hidden, words)), name="next", axis=1, keepdims=0)
    inputs = [
        helper.make_tensor_value_info("ids", INT64, [1, "steps"]),
        helper.make_tensor_value_info("at", INT64, [1]),
        *(helper.make_tensor_value_info(p, FLOAT, [1, groups, "capacity", size]) for p in ports),
    ]
    outputs = [helper.make_tensor_value_info("next", INT64, [1])]
    outputs += [helper.make_tensor_value_info(c, FLOAT, [1, groups, "capacity", size]) for c in caches]
    graph = helper.make_graph(m.nodes, "decoder", inputs, outputs, m.stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=11)


def generate(exe: mapsto.Executable, prompt: list[int], tokens: int, caches: dict[str, np.ndarray]) -> list[int]:
    """The tokens that the model puts after a prompt, each the likeliest. The caches are filled on the way."""
    found, given = list[int](), list(prompt)
    for at in range(len(prompt) + tokens - 1):
        results = exe.run({"ids": np.array([[given[at]]]), "at": np.array([at]), **caches})
        if at >= len(prompt) - 1:
            found.append(int(results["next"][0]))
            given.append(found[-1])
    return found


def compiled(
    model: onnx.ModelProto | str, caches: dict[str, np.ndarray], threads: int | None, formats: str | None = None
) -> mapsto.Executable:
    """The executable of one token, which updates the caches in place."""
    updates = {name: f"{name}.next" for name in caches}
    return mapsto.compile(model, {"ids": [1, 1]}, threads=threads, updates=updates, formats=formats)


def empty_caches(layers: int, groups: int, capacity: int, size: int) -> dict[str, np.ndarray]:
    shape = (1, groups, capacity, size)
    return {f"{name}.{k}": np.zeros(shape, np.float32) for k in range(layers) for name in ("keys", "values")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = {"layers": 4, "hidden": 96, "heads": 6, "groups": 2, "inner": 256, "words": 1000}
    for name, default in (*sizes.items(), ("tokens", 50), ("capacity", 256), ("threads", None)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--formats", help="of products: bf16-weights, int8-weights, int4-weights (docs/formats.md)")
    asked = vars(parser.parse_args())
    model = decoder(**{name: asked[name] for name in sizes})
    caches = empty_caches(asked["layers"], asked["groups"], asked["capacity"], asked["hidden"] // asked["heads"])
    exe = compiled(model, caches, asked["threads"], asked["formats"])
    generate(exe, [1, 2, 3], 2, caches)  # memory is touched
    begun = time.perf_counter()
    found = generate(exe, [1, 2, 3], asked["tokens"], caches)
    seconds = time.perf_counter() - begun
    print(*found)
    print(f"{len(found) / seconds:.1f} tokens a second")


if __name__ == "__main__":
    main()
