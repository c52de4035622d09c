"""Small models whose answer says which one it was, and the fixture that turns the cache on."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import mapsto
from mapsto.runtime.executable import Executable
from mapsto.session.request import Request

N = 64
PLAIN = Request("m.onnx", {}, 1, None, True, None, None, None, True, None, (), "cpu")
X = np.arange(1, N + 1, dtype=np.float32)


def on(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    """Executables are kept in this folder, and stamps are trusted at once."""
    monkeypatch.setenv("MAPSTO_CACHE", str(folder))
    monkeypatch.setattr("mapsto.session.cache.executables.BOUND", 1 << 30)
    monkeypatch.setattr("mapsto.session.cache.key.own_code", lambda: "this code")
    monkeypatch.setattr("mapsto.session.cache.content.TICK", 0)
    monkeypatch.setattr("mapsto.store._warned", set())
    return folder


def written(path: Path, factor: float, name: str = "scaled", external: bool = False) -> Path:
    """y = w x; files of different factors have the same size."""
    weights = numpy_helper.from_array(np.full(N, factor, np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "w"], ["y"], name="scale")],
        name,
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [N])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [N])],
        [weights],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if external:
        onnx.save(
            made, path, save_as_external_data=True, location=f"{path.stem}.bin", size_threshold=0,
            convert_attribute=False,
        )  # fmt: skip
    else:
        path.write_bytes(made.SerializeToString())
    return path


def overwritten(path: Path, data: bytes) -> None:
    """New bytes in the same file: its inode stays, and its mtime is set back."""
    before = path.stat()
    with path.open("r+b") as file:
        file.write(data)
    assert path.stat().st_size == before.st_size and path.stat().st_ino == before.st_ino
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def factor_of(exe: Executable) -> float:
    """Of the model that this is."""
    (found,) = {float(v) for v in exe.run({"x": X})["y"] / X}
    return found


def compiled(path: object, **options: object) -> tuple[float, str]:
    """(factor, what the cache had to do with it)"""
    exe = mapsto.compile(path, threads=1, **options)  # type: ignore[arg-type]
    return factor_of(exe), exe.cache_note
