"""How long a process takes from its start to a model's first answer, where the model was compiled before.

    python -m benchmarks.starts                  # 100 MB of weights, made here
    python -m benchmarks.starts --model FILE.onnx

Processes take turns: one that imports numpy and nothing else, one with mapsto and a warm cache of its own, one with
ONNX Runtime. Processor time is that of the process and of those that it started.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.models import machine_line
from mapsto.cli.output import seconds_text, table

WIDTH = 1024  # of the layers of the model that is made here: 4 MiB of weights each
_START = "import os, sys, time; began = float(sys.argv[1]); import numpy as np\n"
_END = "\nt = os.times(); print(time.time() - began, sum(t[:4]))"
_FEED = """
def fed(inputs):
    return {name: np.zeros([d if isinstance(d, int) else 1 for d in shape], dtype) for name, shape, dtype in inputs}
"""
_OURS = f"""{_FEED}
import mapsto
exe = mapsto.compile(sys.argv[2], threads=1)
exe.run(fed([(p.name, p.shape, p.dtype.numpy) for p in exe.program.inputs]))
print(exe.cache_note, file=sys.stderr)
"""
_THEIRS = f"""{_FEED}
import onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads = 1
session = ort.InferenceSession(sys.argv[2], options, providers=["CPUExecutionProvider"])
types = {{"float": "f4", "float16": "f2", "double": "f8", "int64": "i8", "int32": "i4", "uint8": "u1", "bool": "?"}}
session.run(None, fed([(p.name, p.shape, types[p.type[7:-1]]) for p in session.get_inputs()]))
"""
PROGRAMS = {"python and numpy": "", "mapsto, compiled before": _OURS, "onnxruntime": _THEIRS}
HEADERS = ("until the first answer", "processor, least", "median", "wall, least", "median")


class Start(NamedTuple):
    """Seconds from the start to the end: by the clock, and of processors."""

    wall: float
    processor: float


def make_model(path: Path, megabytes: int) -> None:
    """A chain of dense layers with so many MB of random weights."""
    rng = np.random.default_rng(0)
    nodes, weights = [], []
    for k in range(max(round(megabytes * 1e6 / (4 * WIDTH * WIDTH)), 1)):
        array = (rng.standard_normal((WIDTH, WIDTH)) / WIDTH**0.5).astype(np.float32)
        weights.append(numpy_helper.from_array(array, f"w{k}"))
        nodes.append(helper.make_node("MatMul", [f"x{k}", f"w{k}"], [f"m{k}"]))
        nodes.append(helper.make_node("Relu", [f"m{k}"], [f"x{k + 1}"]))
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, WIDTH]) for name in ("x0", nodes[-1].output[0])]
    graph = helper.make_graph(nodes, "dense", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def start(program: str, model: Path, cache: Path) -> Start:
    """One process. Raises CalledProcessError where it fails."""
    arguments = [sys.executable, "-c", _START + program + _END, repr(time.time()), str(model)]
    environment = {**os.environ, "MAPSTO_CACHE": str(cache)}
    environment.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed package has its bytecode beside it
    done = subprocess.run(arguments, env=environment, check=True, capture_output=True, text=True)
    return Start(*map(float, done.stdout.split()))


def starts(model: Path, cache: Path, count: int) -> dict[str, list[Start]]:
    """Of each program, by turns. What is compiled before is compiled here, and left alone until its stamp is old."""
    for pause in (2.5, 0.0, 0.0):  # kept; found by its content, its stamp with it; found by its stamp
        start(_OURS, model, cache)
        time.sleep(pause)
    found: dict[str, list[Start]] = {name: [] for name in PROGRAMS}
    for _ in range(count):
        for name, program in PROGRAMS.items():
            found[name].append(start(program, model, cache))
    return found


def rows_of(found: Mapping[str, Sequence[Start]]) -> list[list[str]]:
    rows = []
    for name, each in found.items():
        walls, times = [s.wall for s in each], [s.processor for s in each]
        rows.append([name, *(seconds_text(f(v)) for v in (times, walls) for f in (min, statistics.median))])
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, help="an ONNX file; without it one is made")
    parser.add_argument("--megabytes", type=int, default=100, help="of weights of the model that is made (100)")
    parser.add_argument("--count", type=int, default=15, help="starts of each (15)")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        model = given.model or Path(folder) / "dense.onnx"
        if given.model is None:
            make_model(model, given.megabytes)
        found = starts(model.resolve(), Path(folder) / "cache", given.count)
    print(machine_line(1))
    print(table(HEADERS, rows_of(found)))


if __name__ == "__main__":
    main()
