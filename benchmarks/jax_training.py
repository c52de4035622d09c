"""Steps of training by JAX, for `benchmarks.training --jax PYTHON`: three of its modules, written for JAX (images
channels last, Adam by hand), compiled by XLA for the processor, on one thread.

    PYTHON benchmarks/jax_training.py NAME         needs jax and numpy alone

For each line that it reads it does a step, and writes the processor's time in seconds.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Params = dict[str, Any]
_LAYOUT = ("NHWC", "HWIO", "NHWC")
_rng = np.random.default_rng(0)


def _drawn(*shape: int) -> jax.Array:
    return jnp.asarray(_rng.standard_normal(shape) * (2 / max(np.prod(shape[:-1]), 1)) ** 0.5, jnp.float32)


def _conv(x: jax.Array, w: jax.Array, stride: int = 1) -> jax.Array:
    side = w.shape[0] // 2
    return lax.conv_general_dilated(x, w, (stride, stride), [(side, side)] * 2, dimension_numbers=_LAYOUT)


def _pooled(x: jax.Array) -> jax.Array:
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def mnist() -> tuple[Params, Callable[[Params, jax.Array], jax.Array], tuple[int, ...]]:
    p = {
        "w1": _drawn(3, 3, 1, 32), "b1": jnp.zeros(32), "w2": _drawn(3, 3, 32, 64), "b2": jnp.zeros(64),
        "w3": _drawn(3136, 128), "b3": jnp.zeros(128), "w4": _drawn(128, 10), "b4": jnp.zeros(10),
    }  # fmt: skip

    def forward(p: Params, x: jax.Array) -> jax.Array:
        x = _pooled(jax.nn.relu(_conv(x, p["w1"]) + p["b1"]))
        x = _pooled(jax.nn.relu(_conv(x, p["w2"]) + p["b2"]))
        x = jax.nn.relu(x.reshape(x.shape[0], -1) @ p["w3"] + p["b3"])
        return x @ p["w4"] + p["b4"]

    return p, forward, (128, 28, 28, 1)


def resnet20() -> tuple[Params, Callable[[Params, jax.Array], jax.Array], tuple[int, ...]]:
    widths = ((16, 16, 1),) * 3 + ((16, 32, 2), (32, 32, 1), (32, 32, 1), (32, 64, 2), (64, 64, 1), (64, 64, 1))
    p: Params = {"stem": _drawn(3, 3, 3, 16), "scale": jnp.ones(16), "shift": jnp.zeros(16)}
    p |= {"head": _drawn(64, 10), "bias": jnp.zeros(10)}
    for k, (i, o, _) in enumerate(widths):
        p |= {f"a{k}": _drawn(3, 3, i, o), f"b{k}": _drawn(3, 3, o, o)}
        p |= {f"{n}{k}": jnp.ones(o) if n[0] == "s" else jnp.zeros(o) for n in ("sa", "ta", "sb", "tb")}
        if i != o:
            p |= {f"c{k}": _drawn(1, 1, i, o), f"sc{k}": jnp.ones(o), f"tc{k}": jnp.zeros(o)}

    def normed(x: jax.Array, scale: jax.Array, shift: jax.Array) -> jax.Array:
        mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
        return (x - mean) * lax.rsqrt(variance + 1e-5) * scale + shift

    def forward(p: Params, x: jax.Array) -> jax.Array:
        x = jax.nn.relu(normed(_conv(x, p["stem"]), p["scale"], p["shift"]))
        for k, (i, o, stride) in enumerate(widths):
            y = jax.nn.relu(normed(_conv(x, p[f"a{k}"], stride), p[f"sa{k}"], p[f"ta{k}"]))
            y = normed(_conv(y, p[f"b{k}"]), p[f"sb{k}"], p[f"tb{k}"])
            x = x if i == o else normed(_conv(x, p[f"c{k}"], stride), p[f"sc{k}"], p[f"tc{k}"])
            x = jax.nn.relu(x + y)
        return x.mean((1, 2)) @ p["head"] + p["bias"]

    return p, forward, (64, 32, 32, 3)


def encoder() -> tuple[Params, Callable[[Params, jax.Array], jax.Array], tuple[int, ...]]:
    p: Params = {"head": _drawn(256, 10), "bias": jnp.zeros(10)}
    for k in range(4):
        for name, i, o in (("qkv", 256, 768), ("out", 256, 256), ("up", 256, 1024), ("down", 1024, 256)):
            p |= {f"{name}{k}": _drawn(i, o), f"{name}_bias{k}": jnp.zeros(o)}
        p |= {f"{name}{k}": jnp.ones(256) if name[0] == "s" else jnp.zeros(256) for name in ("s1", "t1", "s2", "t2")}

    def normed(x: jax.Array, scale: jax.Array, shift: jax.Array) -> jax.Array:
        mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
        return (x - mean) * lax.rsqrt(variance + 1e-5) * scale + shift

    def forward(p: Params, x: jax.Array) -> jax.Array:
        n, length, width = x.shape
        for k in range(4):
            qkv = (x @ p[f"qkv{k}"] + p[f"qkv_bias{k}"]).reshape(n, length, 3, 8, 32)
            q, key, v = (qkv[:, :, i].transpose(0, 2, 1, 3) for i in range(3))
            weights = jax.nn.softmax(q @ key.transpose(0, 1, 3, 2) / 32**0.5)
            seen = (weights @ v).transpose(0, 2, 1, 3).reshape(n, length, width)
            x = normed(x + seen @ p[f"out{k}"] + p[f"out_bias{k}"], p[f"s1{k}"], p[f"t1{k}"])
            inner = jax.nn.relu(x @ p[f"up{k}"] + p[f"up_bias{k}"])
            x = normed(x + inner @ p[f"down{k}"] + p[f"down_bias{k}"], p[f"s2{k}"], p[f"t2{k}"])
        return x.mean(1) @ p["head"] + p["bias"]

    return p, forward, (16, 128, 256)


NETS = {"MNIST CNN": mnist, "ResNet-20": resnet20, "encoder, 128 tokens": encoder}


def main() -> None:
    p, forward, shape = NETS[sys.argv[1]]()
    x, label = jnp.asarray(_rng.standard_normal(shape), jnp.float32), jnp.asarray(_rng.integers(0, 10, shape[0]))

    def loss(p: Params) -> jax.Array:
        return -jnp.take_along_axis(jax.nn.log_softmax(forward(p, x)), label[:, None], 1).mean()

    @partial(jax.jit, donate_argnums=(0, 1, 2))
    def step(p: Params, m: Params, v: Params, t: jax.Array) -> tuple[jax.Array, Params, Params, Params]:
        value, g = jax.value_and_grad(loss)(p)
        m = jax.tree.map(lambda a, b: 0.9 * a + 0.1 * b, m, g)
        v = jax.tree.map(lambda a, b: 0.999 * a + 0.001 * b * b, v, g)
        rate = 1e-3 * jnp.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        return value, jax.tree.map(lambda a, b, c: a - rate * b / (jnp.sqrt(c) + 1e-8), p, m, v), m, v

    m, v = (jax.tree.map(jnp.zeros_like, p) for _ in range(2))
    done = 0
    for _ in sys.stdin:
        begun, done = time.process_time(), done + 1
        value, p, m, v = step(p, m, v, jnp.float32(done))
        float(value)
        print(time.process_time() - begun, flush=True)


if __name__ == "__main__":
    main()
