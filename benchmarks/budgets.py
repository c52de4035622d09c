"""The fastest format of each engine that loses no more than a budget on real data, and ours beside it.

    python examples/mnist/fetch.py --into DIGITS
    python -m benchmarks.budgets --model examples/mnist-cnn.onnx --images DIGITS/t10k-images-idx3-ubyte \\
        --labels DIGITS/t10k-labels-idx1-ubyte

A classifier of images of one channel (idx files, values 0 to 255 divided by 255), on all of a test set. Even images
choose: ours looks for formats on them (`mapsto.Accuracy`, top-1), ONNX Runtime's quantiser calibrates on them (QDQ,
bytes by weights of channels, min-max and entropy). Odd images are kept apart: what a format has lost there decides
whether it keeps the budget. Times are of one image on one pinned thread, by turns, of processor time: medians of turns.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import mapsto
from benchmarks.models import machine_line
from mapsto.cli.output import seconds_text, table
from mapsto.train.sources import read_idx

TURNS, TURN_SECONDS = 15, 0.1
CALIBRATED = 512  # images that a quantiser of the peers sees


@dataclass(frozen=True)
class Way:
    """An engine in a format. run: scores of one image."""

    name: str
    run: Callable[[np.ndarray], np.ndarray]


def ours(model: Path, images: np.ndarray, labels: np.ndarray, budget: float) -> list[Way]:
    plain = mapsto.compile(model, {INPUT: images[:1].shape}, threads=1, cache=False)
    data = {INPUT: images, "label": labels}
    accuracy = mapsto.Accuracy(data, "top-1", budget)
    found = mapsto.compile(model, {INPUT: images[:1].shape}, threads=1, cache=False, accuracy=accuracy)
    print(f"mapsto within the budget: {found.plan.accuracy or 'f32'}", file=sys.stderr)
    return [Way("mapsto f32", plain), Way("mapsto within the budget", found)]


def of_onnxruntime(name: str, model: Path) -> Way:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    port = session.get_inputs()[0].name
    return Way(f"onnxruntime {name}", lambda image: np.asarray(session.run(None, {port: image})[0]))


def of_openvino(name: str, model: Path, precision: str, shape: tuple[int, ...]) -> Way:
    import openvino

    core = openvino.Core()
    read = core.read_model(str(model))
    read.reshape(list(shape))
    config = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": precision}
    request = core.compile_model(read, "CPU", config | {"PERFORMANCE_HINT": "LATENCY"}).create_infer_request()

    def run(image: np.ndarray) -> np.ndarray:
        return np.asarray(next(iter(request.infer([image], share_inputs=True).values())))

    return Way(f"openvino {name}", run)


def quantised(model: Path, images: np.ndarray, folder: Path, method: str) -> Path:
    """By ONNX Runtime's static quantiser."""
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(images[:CALIBRATED])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(({INPUT: image[None]} for image in self.left), None)

    path = folder / f"{method}.onnx"
    quantize_static(
        str(model), str(path), Reader(), QuantFormat.QDQ, per_channel=True, activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8, calibrate_method=getattr(CalibrationMethod, method),
    )  # fmt: skip
    return path


def theirs(model: Path, images: np.ndarray, folder: Path) -> list[Way]:
    shape = images[:1].shape
    found = [of_onnxruntime("f32", model), of_openvino("f32", model, "f32", shape)]
    found.append(of_openvino("bf16", model, "bf16", shape))
    for method in ("MinMax", "Entropy"):
        path = quantised(model, images, folder, method)
        found += [of_onnxruntime(f"int8 {method}", path), of_openvino(f"int8 {method}", path, "f32", shape)]
    return found


def share_right(way: Way, images: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean([way.run(image[None]).argmax() == label for image, label in zip(images, labels, strict=True)]))


def seconds_by_turns(ways: list[Way], image: np.ndarray) -> list[float]:
    """Of one run of each."""
    counts = []
    for way in ways:
        began = time.process_time()
        for _ in range(20):
            way.run(image)
        counts.append(max(1, int(TURN_SECONDS / max((time.process_time() - began) / 20, 1e-6))))
    turns: list[list[float]] = [[] for _ in ways]
    for _ in range(TURNS):
        for way, count, found in zip(ways, counts, turns, strict=True):
            way.run(image)
            began = time.process_time()
            for _ in range(count):
                way.run(image)
            found.append((time.process_time() - began) / count)
    return [statistics.median(found) for found in turns]


INPUT = "image"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "images", "labels"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--budget", type=float, default=0.005, help="of top-1 (default: half a percent)")
    asked = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    images = read_idx(str(asked.images))[:, None].astype(np.float32) / np.float32(255)
    labels = read_idx(str(asked.labels)).astype(np.int64)
    with tempfile.TemporaryDirectory() as folder:
        ways = [
            *ours(asked.model, images[::2], labels[::2], asked.budget),
            *theirs(asked.model, images[::2], Path(folder)),
        ]
        right = [share_right(way, images[1::2], labels[1::2]) for way in ways]
        seconds = seconds_by_turns(ways, images[:1])
    keeps = [score >= right[0] - asked.budget for score in right]
    rows = [
        [way.name, f"{score:.2%}", "yes" if keep else "no", seconds_text(time)]
        for way, score, keep, time in zip(ways, right, keeps, seconds, strict=True)
    ]
    print(table(["engine", f"top-1 of {len(images[1::2])} kept apart", "within the budget", "one image"], rows))
    best = min(time for way, keep, time in zip(ways, keeps, seconds, strict=True) if keep and "mapsto" not in way.name)
    print(f"\nwithin {asked.budget:.1%}: {best / seconds[1]:.2f} times as fast as the fastest of the peers' formats")
    print(machine_line(1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
