"""One large contraction shared out to two devices: the latency beside that of each alone.

    python -m benchmarks.splits [--seconds 3]

The CPU's first core and an OpenCL device on its second, a thread each; products of matrices and convolutions. By turns.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import mapsto
from benchmarks.divided import drawn_feed, open_on
from benchmarks.models import machine_line
from mapsto.cli.output import seconds_text, table

HEADERS = ("contraction", "cpu", "opencl", "both", "times the better one alone", "split")


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


def row_of(name: str, model: onnx.ModelProto, cores: list[int], seconds: float) -> list[str]:
    os.sched_setaffinity(0, {cores[0]})
    one = mapsto.compile(model, threads=1)
    other = mapsto.compile(model, threads=1, device="opencl")
    both = mapsto.divide(model, ["cpu", "opencl"], threads=1)
    feed, ways = drawn_feed(both.inputs), (one, other, both)
    expected, got = one.run(feed)["y"], both.run(feed)["y"]
    np.testing.assert_allclose(got, expected, rtol=1e-2, atol=1e-4 * float(np.abs(expected).max()))
    found: list[list[float]] = [[] for _ in ways]
    end = time.monotonic() + seconds
    while time.monotonic() < end or len(found[0]) < 5:
        for times, exe, places in zip(found, ways, ({cores[0]}, {cores[-1]}, {cores[0]}), strict=True):
            os.sched_setaffinity(0, places)
            begun = time.perf_counter()
            exe.run(feed)
            times.append(time.perf_counter() - begun)
    took = [statistics.median(times[1:]) for times in found]
    split = ", ".join(f"{count} on opencl" for _, count in both.plan.splits) or "whole"
    return [name, *map(seconds_text, took), f"{min(took[:2]) / took[2]:.2f}", split]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="how long each is run")
    asked = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))[:2]
    open_on(cores[-1])
    print(table(HEADERS, [row_of(name, model, cores, asked.seconds) for name, model in CASES.items()]))
    print(machine_line(1))


if __name__ == "__main__":
    main()
