"""Tokens a second of a decoder of SmolLM-135M's size, random weights, beside ONNX Runtime, by turns.

    python -m benchmarks.decode --threads 1

Both write tokens one by one, each the likeliest, and update their caches in place: ONNX Runtime's are bound as inputs
and as outputs (`io_binding`).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from benchmarks.models import machine_line

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from decode import compiled, decoder, empty_caches, generate

SMOLLM = {"layers": 30, "hidden": 576, "heads": 9, "groups": 3, "inner": 1536, "words": 49152}
PROMPT = [1, 2, 3]


class Theirs:
    """ONNX Runtime behind `run`."""

    def __init__(self, path: str, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(self, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        binding = self.session.io_binding()
        binding.bind_output("next")
        # on a CPU the arrays' own memory, which lives as long as these do
        values = {name: onnxruntime.OrtValue.ortvalue_from_numpy(array) for name, array in given.items()}
        for name, value in values.items():
            binding.bind_ortvalue_input(name, value)
            if "." in name:
                binding.bind_ortvalue_output(f"{name}.next", value)
        self.session.run_with_iobinding(binding)
        return {"next": binding.get_outputs()[0].numpy()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("threads", 1), ("tokens", 200), ("rounds", 5), ("capacity", 256)):
        parser.add_argument(f"--{name}", type=int, default=default)
    asked = parser.parse_args()

    def caches() -> dict[str, np.ndarray]:
        size = SMOLLM["hidden"] // SMOLLM["heads"]
        return empty_caches(SMOLLM["layers"], SMOLLM["groups"], asked.capacity, size)

    with tempfile.TemporaryDirectory() as folder:
        path, model = f"{folder}/decoder.onnx", decoder(**SMOLLM)
        Path(path).write_bytes(model.SerializeToString())
        engines: dict[str, Any] = {
            "mapsto": compiled(path, caches(), asked.threads), "onnxruntime": Theirs(path, asked.threads),
        }  # fmt: skip
        print(machine_line(asked.threads))
        written: dict[str, list[int]] = {}
        rates: dict[str, list[float]] = {name: [] for name in engines}
        for at in range(asked.rounds + 1):
            for name, engine in engines.items():
                state, begun = caches(), time.perf_counter()
                written[name] = generate(engine, PROMPT, asked.tokens, state)
                if at:  # the first round touches the memory
                    rates[name].append((asked.tokens + len(PROMPT) - 1) / (time.perf_counter() - begun))
        print("the same tokens" if written["mapsto"] == written["onnxruntime"] else "OTHER TOKENS")
        for name, found in rates.items():
            print(f"{name:12} {statistics.median(found):7.1f} tokens a second ({asked.threads} threads)")
        touched = sum(len(t.raw_data) for t in model.graph.initializer) - 4 * SMOLLM["words"] * SMOLLM["hidden"]
        speed = statistics.median(rates["mapsto"]) * touched / 1e9
        print(f"weights of a token: {touched / 1e6:.0f} MB, read at {speed:.1f} GB/s")


if __name__ == "__main__":
    main()
