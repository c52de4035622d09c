"""The fastest format of each engine that loses no more than a budget on real data, and ours beside it.

    python examples/mnist/fetch.py --into DIGITS
    python -m benchmarks.budgets --model examples/mnist-cnn.onnx --images DIGITS/t10k-images-idx3-ubyte \\
        --labels DIGITS/t10k-labels-idx1-ubyte
    python -m benchmarks.budgets --task sentences --into FOLDER     # or text, photographs (`benchmarks.budget_tasks`)

Even examples choose: ours looks for formats on them (`mapsto.Accuracy`), ONNX Runtime's quantiser calibrates on them
(QDQ, bytes by weights of channels, min-max and entropy). Odd ones are kept apart: what a format has lost there decides
whether it keeps the budget. Times are of one example on one pinned thread, by turns, of processor time: medians of
turns.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import mapsto
from benchmarks.budget_tasks import TASKS, Arrays, Task, labelled
from benchmarks.models import machine_line
from mapsto.cli.output import seconds_text, table
from mapsto.session.accuracy import top_1

TURNS, TURN_SECONDS = 15, 0.1
OF_CHANNELS = 13  # the oldest opset whose weights are quantised by channels
CALIBRATED, ELEMENTS = 512, 1 << 20  # examples that a quantiser of the peers sees; it keeps all values of all of them


@dataclass(frozen=True)
class Way:
    """An engine in a format. run: outputs of one example by name."""

    name: str
    run: Callable[[Arrays], Mapping[str, np.ndarray]]


def ours(task: Task, budget: float) -> list[Way]:
    shapes = _shapes(task)
    plain = mapsto.compile(task.model, shapes, threads=1, cache=False)
    accuracy = mapsto.Accuracy({name: array[::2] for name, array in task.data.items()}, task.metric, budget)
    found = mapsto.compile(task.model, shapes, threads=1, cache=False, accuracy=accuracy)
    print(f"mapsto within the budget: {found.plan.accuracy or 'f32'}", file=sys.stderr)
    return [Way("mapsto f32", plain.run), Way("mapsto within the budget", found.run)]


def of_onnxruntime(name: str, model: Path) -> Way:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    names = [port.name for port in session.get_outputs()]
    return Way(f"onnxruntime {name}", lambda feed: dict(zip(names, session.run(None, feed), strict=True)))


def of_openvino(name: str, model: Path, precision: str, shapes: Mapping[str, tuple[int, ...]]) -> Way:
    import openvino

    core = openvino.Core()
    read = core.read_model(str(model))
    read.reshape({port: list(shape) for port, shape in shapes.items()})
    config = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": precision}
    compiled = core.compile_model(read, "CPU", config | {"PERFORMANCE_HINT": "LATENCY"})
    request = compiled.create_infer_request()

    def run(feed: Arrays) -> Mapping[str, np.ndarray]:
        found = request.infer(feed, share_inputs=True)
        return {port.any_name: np.asarray(found[port]) for port in compiled.outputs}

    return Way(f"openvino {name}", run)


def quantised(task: Task, folder: Path, method: str) -> Path:
    """By ONNX Runtime's static quantiser, after its own preparation."""
    import onnx
    import onnx.version_converter
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            size = sum(array[:1].size for array in (task.data[name] for name in task.inputs))
            self.left = iter(task.feeds(slice(0, 2 * min(CALIBRATED, max(16, ELEMENTS // size)), 2)))

        def get_next(self) -> Arrays | None:
            return next(self.left, None)

    prepared, path = folder / "prepared.onnx", folder / f"{method}.onnx"
    if not prepared.exists():
        model, converted = onnx.load(str(task.model)), folder / "converted.onnx"
        if model.opset_import[0].version < OF_CHANNELS:
            model = onnx.version_converter.convert_version(model, OF_CHANNELS)
        onnx.save(model, str(converted))
        quant_pre_process(str(converted), str(prepared), skip_symbolic_shape=True)
    quantize_static(
        str(prepared), str(path), Reader(), QuantFormat.QDQ, per_channel=True, activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8, calibrate_method=getattr(CalibrationMethod, method),
    )  # fmt: skip
    return path


def theirs(task: Task, folder: Path) -> list[Way]:
    shapes, model = _shapes(task), task.model
    found = [of_onnxruntime("f32", model), of_openvino("f32", model, "f32", shapes)]
    found.append(of_openvino("bf16", model, "bf16", shapes))
    for method in ("MinMax", "Entropy"):
        try:
            path = quantised(task, folder, method)
            found += [of_onnxruntime(f"int8 {method}", path), of_openvino(f"int8 {method}", path, "f32", shapes)]
        except Exception as error:  # whatever a peer raises: it has no such format then
            print(f"int8 {method}: {type(error).__name__}: {str(error)[:200]}", file=sys.stderr)
    return found


def _shapes(task: Task) -> dict[str, tuple[int, ...]]:
    return {name: (1, *task.data[name].shape[1:]) for name in task.inputs}


def score_of(way: Way, task: Task) -> float:
    """On the examples kept apart."""
    apart = slice(1, None, 2)
    outputs = [way.run(feed) for feed in task.feeds(apart)]
    metric = top_1 if task.metric == "top-1" else task.metric
    assert callable(metric)
    return float(metric(outputs, task.examples(apart)))


def seconds_by_turns(ways: list[Way], feed: Arrays) -> list[float]:
    """Of one run of each."""
    counts = []
    for way in ways:
        began = time.process_time()
        for _ in range(20):
            way.run(feed)
        counts.append(max(1, int(TURN_SECONDS / max((time.process_time() - began) / 20, 1e-6))))
    turns: list[list[float]] = [[] for _ in ways]
    for _ in range(TURNS):
        for way, count, found in zip(ways, counts, turns, strict=True):
            way.run(feed)
            began = time.process_time()
            for _ in range(count):
                way.run(feed)
            found.append((time.process_time() - began) / count)
    return [statistics.median(found) for found in turns]


def task_of(asked: argparse.Namespace, parser: argparse.ArgumentParser) -> Task:
    if asked.task:
        asked.into.mkdir(parents=True, exist_ok=True)
        return TASKS[asked.task](asked.into)
    if None in (asked.model, asked.images, asked.labels):
        parser.error("--task, or --model with --images and --labels")
    return labelled(asked.model, asked.images, asked.labels)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "images", "labels"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--task", choices=TASKS)
    parser.add_argument("--into", type=Path, default=Path.home() / ".cache" / "mapsto-budgets", help="for packages")
    parser.add_argument("--budget", type=float, default=0.005, help="of the metric (default: half a percent)")
    asked = parser.parse_args()
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    task = task_of(asked, parser)
    with tempfile.TemporaryDirectory() as folder:
        ways = [*ours(task, asked.budget), *theirs(task, Path(folder))]
        scores = [score_of(way, task) for way in ways]
        seconds = seconds_by_turns(ways, task.feeds(slice(0, 1))[0])
    keeps = [score >= scores[0] - asked.budget for score in scores]
    rows = [
        [way.name, f"{score:.4f}", "yes" if keep else "no", seconds_text(time)]
        for way, score, keep, time in zip(ways, scores, keeps, seconds, strict=True)
    ]
    count = len(task.feeds(slice(1, None, 2)))
    print(table(["engine", f"{count} kept apart", "within the budget", "one example"], rows))
    best = min(time for way, keep, time in zip(ways, keeps, seconds, strict=True) if keep and "mapsto" not in way.name)
    print(f"\nwithin {asked.budget:.1%}: {best / seconds[1]:.2f} times as fast as the fastest of the peers' formats")
    print(machine_line(1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
