"""What a call costs when there is next to nothing to compute: `exe(x)` of a one-element Relu, and of longer vectors.

python -m benchmarks.latency
"""

from __future__ import annotations

import argparse
import json
import sys
import time

import numpy as np
from onnx import TensorProto, helper

import mapsto
from mapsto.cli.output import seconds_text, table
from mapsto.report.bench import Quartiles

LIMIT = 10e-6  # seconds, for one element


def relu_model(elements: int) -> bytes:
    """y = Relu(x), float32 [elements], as an ONNX file."""
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [elements]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", ports[:1], ports[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def call_times(elements: int, calls: int) -> Quartiles:
    """Seconds of one call, after a hundred that are not counted."""
    executable = mapsto.compile(relu_model(elements), threads=1)
    x = np.linspace(-1, 1, elements, dtype=np.float32)
    for _ in range(100):
        executable(x)
    times = []
    for _ in range(calls):
        began = time.perf_counter_ns()
        executable(x)
        times.append((time.perf_counter_ns() - began) / 1e9)
    return Quartiles.of(times)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--check", action="store_true", help=f"exit code 1 above {LIMIT * 1e6:.0f} us for one element")
    args = parser.parse_args()
    found = {elements: call_times(elements, args.calls) for elements in (1, 1024, 65536)}
    if args.json:
        print(json.dumps({str(elements): quartiles.to_json() for elements, quartiles in found.items()}))
    else:
        rows = [
            (str(n), seconds_text(q.median), f"{seconds_text(q.low)} - {seconds_text(q.high)}")
            for n, q in found.items()
        ]
        print(table(("elements", "median", "quartiles"), rows))
    return int(args.check and found[1].median > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
