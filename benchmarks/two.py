"""What benchmarks of two devices have in common: the CPU's first core, and an OpenCL device on its second."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from typing import Any

os.environ.setdefault("POCL_MAX_PTHREAD_COUNT", "1")  # before the driver is loaded
os.environ.setdefault("POCL_CPU_MAX_CU_COUNT", "1")

import numpy as np
from scripts.fetch_models import DEFAULT_FOLDER, model_path

from mapsto.cli.inputs import parse_shapes

Feed = dict[str, np.ndarray]
Shapes = dict[str, tuple[int | None, ...]]


def opened_cores() -> tuple[int, int]:
    """The first core, and the second if there is one, on which the OpenCL driver starts its thread; this thread stays
    on both.
    """
    cores = sorted(os.sched_getaffinity(0))[:2]
    first, last = cores[0], cores[-1]
    os.sched_setaffinity(0, {last})
    from mapsto.devices.opencl.device import open_device

    open_device()
    os.sched_setaffinity(0, {first, last})
    return first, last


def drawn_feed(inputs: Iterable[Any]) -> Feed:
    """Numbers by a fixed seed for inputs with names, shapes and dtypes; open dims are 1."""
    rng = np.random.default_rng(0)
    ports = [(p.name, [d if isinstance(d, int) else 1 for d in p.shape], p.dtype.numpy) for p in inputs]
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape, dtype in ports}


def add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", help="an ONNX file, and shapes of its inputs after colons (default: YOLOv8n)")


def model_of(asked: argparse.Namespace) -> tuple[str, Shapes | None]:
    path, *shapes = (asked.model or f"{model_path(DEFAULT_FOLDER, 'nudenet')}:images=1,3,320,320").split(":")
    return path, parse_shapes(shapes)
