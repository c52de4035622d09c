"""Tokens a second of a decoder of SmolLM-135M's size, random weights, beside ONNX Runtime, by turns.

    python -m benchmarks.decode --threads 1
    python -m benchmarks.decode --threads 1 --formats bf16-weights --formats int4-weights --alone

Both write tokens one by one, each the likeliest, and update their caches in place: ONNX Runtime's are bound as inputs
and as outputs (`io_binding`). formats: mapsto in these as well; alone: without ONNX Runtime. One thread is timed by
what the processor gave it, so that other work does not count; several by the clock.
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

import mapsto
from benchmarks.models import machine_line

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from decode import decoder, empty_caches, generate

SMOLLM = {"layers": 30, "hidden": 576, "heads": 9, "groups": 3, "inner": 1536, "words": 49152}
PROMPT = [1, 2, 3]
COPIED = 1 << 28  # bytes


class Theirs:
    """ONNX Runtime behind `run`."""

    def __init__(self, path: str, threads: int) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4
        self.runtime = onnxruntime
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(self, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        binding = self.session.io_binding()
        binding.bind_output("next")
        # on a CPU the arrays' own memory, which lives as long as these do
        values = {name: self.runtime.OrtValue.ortvalue_from_numpy(array) for name, array in given.items()}
        for name, value in values.items():
            binding.bind_ortvalue_input(name, value)
            if "." in name:
                binding.bind_ortvalue_output(f"{name}.next", value)
        self.session.run_with_iobinding(binding)
        return {"next": binding.get_outputs()[0].numpy()}


def read_bytes(exe: mapsto.Executable) -> int:
    """Bytes of constants that a token reads: all but the table of words, of which it reads a row."""
    found = sum(int(buffer.bytes) for buffer in exe.program.buffers if buffer.kind == "constant")
    return found - 4 * SMOLLM["words"] * SMOLLM["hidden"]


def copied_rate() -> float:
    """Bytes a second that one core reads and writes, of arrays that no cache holds."""
    given, to = np.ones(COPIED, np.uint8), np.ones(COPIED, np.uint8)
    best = float("inf")
    for _ in range(5):
        begun = time.process_time()
        np.copyto(to, given)
        best = min(best, time.process_time() - begun)
    return 2 * COPIED / best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("threads", 1), ("tokens", 200), ("rounds", 5), ("capacity", 256)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--formats", action="append", default=[], help="of mapsto's products, beside f32")
    parser.add_argument("--isa", help="the instruction set that mapsto compiles for")
    parser.add_argument("--alone", action="store_true", help="without ONNX Runtime")
    asked = parser.parse_args()

    def caches() -> dict[str, np.ndarray]:
        size = SMOLLM["hidden"] // SMOLLM["heads"]
        return empty_caches(SMOLLM["layers"], SMOLLM["groups"], asked.capacity, size)

    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/decoder.onnx"
        Path(path).write_bytes(decoder(**SMOLLM).SerializeToString())
        updates = {name: f"{name}.next" for name in caches()}
        ours = {
            name: mapsto.compile(
                path, {"ids": [1, 1]}, threads=asked.threads, updates=updates, formats=name, isa=asked.isa
            )
            for name in ("f32", *asked.formats)
        }
        engines: dict[str, Any] = dict(ours) if asked.alone else {**ours, "onnxruntime": Theirs(path, asked.threads)}
        print(machine_line(asked.threads))
        clock = time.process_time if asked.threads == 1 else time.perf_counter
        written: dict[str, list[int]] = {}
        rates: dict[str, list[float]] = {name: [] for name in engines}
        for at in range(asked.rounds + 1):
            for name, engine in engines.items():
                state, begun = caches(), clock()
                written[name] = generate(engine, PROMPT, asked.tokens, state)
                if at:  # the first round touches the memory
                    rates[name].append((asked.tokens + len(PROMPT) - 1) / (clock() - begun))
    for name, found in rates.items():
        alike = sum(a == b for a, b in zip(written[name], written["f32"], strict=True))
        rate = statistics.median(found)
        read = f", {read_bytes(ours[name]) / 1e6:.0f} MB each at {rate * read_bytes(ours[name]) / 1e9:.1f} GB/s" if (
            name in ours
        ) else ""  # fmt: skip
        speed = f"{rate:7.1f} tokens a second (best {max(found):.1f}){read}"
        print(f"{name:12} {speed}; {alike} of {asked.tokens} tokens as in f32")
    print(f"a copy reads and writes {copied_rate() / 1e9:.1f} GB/s on one core")


if __name__ == "__main__":
    main()
