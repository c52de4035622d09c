"""One large contraction shared out to two devices: the latency beside that of each alone.

    python -m benchmarks.splits [--seconds 20]

The CPU's first core and an OpenCL device on its second, a thread each; products of matrices and convolutions. By turns,
by quiet samples (`benchmarks.quiet`), each the second of two runs: caches are as a run leaves them, not as another way
does.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from functools import partial

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import mapsto
from benchmarks.models import machine_line
from benchmarks.quiet import by_turns
from benchmarks.two import drawn_feed, opened_cores
from mapsto.cli.output import seconds_text, table

HEADERS = ("contraction", "cpu", "opencl", "both", "times the better one alone", "split", "quiet samples")


def product(rows: int, depth: int, columns: int) -> onnx.ModelProto:
    weights = np.random.default_rng(0).standard_normal((depth, columns), np.float32) / np.float32(depth**0.5)
    return _model(helper.make_node("MatMul", ["x", "w"], ["y"]), weights, (rows, depth))


def convolution(channels: int, columns: int, pixels: int) -> onnx.ModelProto:
    weights = np.random.default_rng(0).standard_normal((columns, channels, 3, 3), np.float32) / np.float32(channels)
    return _model(helper.make_node("Conv", ["x", "w"], ["y"], pads=[1] * 4), weights, (1, channels, pixels, pixels))


def _model(node: onnx.NodeProto, weights: np.ndarray, shape: tuple[int, ...]) -> onnx.ModelProto:
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "contraction", [x], [y], [numpy_helper.from_array(weights, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


CASES = {
    "768x2048 by 2048x2048": product(768, 2048, 2048), "512x4096 by 4096x1024": product(512, 4096, 1024),
    "3x3 256->256 at 56": convolution(256, 256, 56), "3x3 128->512 at 56": convolution(128, 512, 56),
}  # fmt: skip


def row_of(name: str, model: onnx.ModelProto, cores: Sequence[int], seconds: float) -> list[str]:
    os.sched_setaffinity(0, {cores[0]})
    one = mapsto.compile(model, threads=1)
    other = mapsto.compile(model, threads=1, device="opencl")
    both = mapsto.divide(model, ["cpu", "opencl"], threads=1, adapt=False)
    feed = drawn_feed(both.inputs)
    expected, got = one.run(feed)["y"], both.run(feed)["y"]
    np.testing.assert_allclose(got, expected, rtol=1e-2, atol=1e-4 * float(np.abs(expected).max()))

    def turn(exe: mapsto.Executable | mapsto.DividedExecutable, core: int) -> float:
        os.sched_setaffinity(0, {core})
        exe.run(feed)
        begun = time.perf_counter()
        exe.run(feed)
        return time.perf_counter() - begun

    ways = {"cpu": (one, cores[0]), "opencl": (other, cores[-1]), "both": (both, cores[0])}
    found = by_turns({name: partial(turn, *way) for name, way in ways.items()}, cores, seconds)
    took = [samples.median for samples in found.values()]
    quiet = min(samples.quiet for samples in found.values())
    split = ", ".join(f"{count} on opencl" for _, count in both.plan.splits) or "whole"
    return [name, *map(seconds_text, took), f"{min(took[:2]) / took[2]:.2f}", split, str(quiet)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0, help="at most, for quiet samples of each")
    asked = parser.parse_args()
    cores = opened_cores()
    print(table(HEADERS, [row_of(name, model, cores, asked.seconds) for name, model in CASES.items()]))
    print(machine_line(1))


if __name__ == "__main__":
    main()
