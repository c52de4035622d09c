"""The engines that are compared, behind one small interface: ours, the numpy reference, ONNX Runtime, OpenVINO.

An engine is opened with a model, fixed shapes (or none) and a number of threads; then it runs feeds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from mapsto.arguments import Shapes
from mapsto.errors import ExecutionError, MapstoError, UnsupportedError

Feed = Mapping[str, np.ndarray]


class EngineMissing(MapstoError):
    """An engine that was asked for is not installed here."""


@dataclass(frozen=True)
class Setup:
    """What an engine is opened with. `shapes`: input name -> dims; other inputs stay as the model has them. `device`:
    ours, as `mapsto.compile` takes it, or several with commas between, and `pins` of works to them. `isa`: the
    instruction set that our code is made for, where it is not the processor's widest; `plan`: what it is made by, as
    text; `exact_integers`, `formats`: as for `mapsto.compile`.
    """

    model: Path
    shapes: Shapes | None = None
    threads: int = 1
    data_root: Path | None = None
    device: str = "cpu"
    pins: tuple[tuple[str, str], ...] = ()
    isa: str | None = None
    plan: str | None = None
    exact_integers: bool = False
    formats: Mapping[str, str] | None = None


class OpenEngine(Protocol):
    def run(self, feed: Feed) -> dict[str, np.ndarray]: ...


class _Mapsto:
    def __init__(self, setup: Setup) -> None:
        import mapsto

        # no cache: what is reported as its start is a cold compilation
        where: dict[str, Any] = {
            "shapes": setup.shapes, "threads": setup.threads, "cache": False, "data_root": setup.data_root
        }  # fmt: skip
        self._executable: Any
        if "," in setup.device:
            names = [name.strip() for name in setup.device.split(",")]
            self._executable = mapsto.divide(setup.model, names, pins=setup.pins, plan=setup.plan, **where)
        else:
            by: dict[str, Any] = {"device": setup.device, "isa": setup.isa, "plan": setup.plan}
            if setup.exact_integers:  # an older version (`--before`) does not know it
                by["exact_integers"] = True
            if setup.formats:
                by["formats"] = dict(setup.formats)
            self._executable = mapsto.compile(setup.model, **by, **where)

    def run(self, feed: Feed) -> dict[str, np.ndarray]:
        outputs: dict[str, np.ndarray] = self._executable.run(feed)
        return outputs


class _Numpy:
    def __init__(self, setup: Setup) -> None:
        from mapsto.importers import onnx
        from mapsto.ops.interpret import run_graph

        self._graph = onnx.load(setup.model, setup.shapes, data_root=setup.data_root)
        self._run = run_graph

    def run(self, feed: Feed) -> dict[str, np.ndarray]:
        outputs: dict[str, np.ndarray] = self._run(self._graph, dict(feed))
        return outputs


def _need(package: str) -> None:
    """Raises EngineMissing where a package cannot be imported."""
    import importlib

    try:
        importlib.import_module(package)
    except ImportError as error:
        raise EngineMissing(f"{package} is not installed here ({error}); pip install {package}") from None


class _OnnxRuntime:
    """ONNX Runtime's CPU provider, with all its graph optimisations or with none."""

    def __init__(self, setup: Setup, optimised: bool) -> None:
        _need("onnxruntime")
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = 4  # its warnings are not our user's
        options.intra_op_num_threads = setup.threads
        options.inter_op_num_threads = 1
        level = ort.GraphOptimizationLevel
        options.graph_optimization_level = level.ORT_ENABLE_ALL if optimised else level.ORT_DISABLE_ALL
        for symbol, extent in _free_dims(setup).items():
            options.add_free_dimension_override_by_name(symbol, extent)
        try:
            self._session = ort.InferenceSession(str(setup.model), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions have no common base of their own
            raise UnsupportedError(f"onnxruntime cannot load {setup.model.name}: {error}") from None
        self._names = [output.name for output in self._session.get_outputs()]

    def run(self, feed: Feed) -> dict[str, np.ndarray]:
        try:
            values = self._session.run(self._names, dict(feed))
        except Exception as error:
            raise ExecutionError(f"onnxruntime failed: {error}") from None
        return dict(zip(self._names, values, strict=True))


def _free_dims(setup: Setup) -> dict[str, int]:
    """Named dims of the model's inputs with the extents that the given shapes give them."""
    if not setup.shapes:
        return {}
    import onnx

    found = {}
    for value in onnx.load(str(setup.model), load_external_data=False).graph.input:
        dims = value.type.tensor_type.shape.dim
        for dim, extent in zip(dims, setup.shapes.get(value.name, ()), strict=False):
            if dim.dim_param and isinstance(extent, int):
                found[dim.dim_param] = extent
    return found


class _OpenVino:
    """OpenVINO's CPU device, held to a precision, fp32 as the others are where nothing else is asked for: by itself it
    picks bfloat16 where the processor has it.
    """

    def __init__(self, setup: Setup, precision: str = "f32") -> None:
        _need("openvino")
        import openvino as ov

        try:
            core = ov.Core()
            model = core.read_model(str(setup.model))
            if setup.shapes:
                given = {name: [-1 if d is None else d for d in dims] for name, dims in setup.shapes.items()}
                named = {port: _name_of(port, given) for port in model.inputs}
                model.reshape({port: given[name] for port, name in named.items() if name is not None})
            config = {
                "INFERENCE_NUM_THREADS": setup.threads,
                "NUM_STREAMS": 1,
                "INFERENCE_PRECISION_HINT": precision,
                "PERFORMANCE_HINT": "LATENCY",
            }
            self._request = core.compile_model(model, "CPU", config).create_infer_request()
        except Exception as error:
            raise UnsupportedError(f"openvino cannot load {setup.model.name}: {error}") from None

    def run(self, feed: Feed) -> dict[str, np.ndarray]:
        try:
            results = self._request.infer(dict(feed), share_inputs=True)
        except Exception as error:
            raise ExecutionError(f"openvino failed: {error}") from None
        # an output of several names (a value that is yielded twice) counts under each
        return {name: np.asarray(value) for port, value in results.items() for name in port.get_names()}


def _name_of(port: Any, given: Mapping[str, Any]) -> str | None:
    return next((name for name in port.get_names() if name in given), None)


ENGINES: dict[str, Callable[[Setup], OpenEngine]] = {
    "mapsto": _Mapsto,
    "numpy": _Numpy,
    "onnxruntime": lambda setup: _OnnxRuntime(setup, optimised=True),
    "onnxruntime-unoptimised": lambda setup: _OnnxRuntime(setup, optimised=False),
    "openvino": _OpenVino,
    "openvino-bf16": lambda setup: _OpenVino(setup, "bf16"),
}


def open_engine(name: str, setup: Setup) -> OpenEngine:
    """Opens an engine by its name. Raises EngineMissing, UnsupportedError, or what `mapsto.compile` raises."""
    if name not in ENGINES:
        raise UnsupportedError(f"there is no engine {name!r}; known: {', '.join(ENGINES)}")
    return ENGINES[name](setup)
