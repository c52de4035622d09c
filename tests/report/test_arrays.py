"""Named arrays in a file, there and back."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from mapsto.errors import FileError, ModelError
from mapsto.report.arrays import load_arrays, save_arrays


def test_arrays_come_back_with_names_shapes_and_dtypes(tmp_path: Path) -> None:
    arrays = {
        "file": np.arange(6, dtype=np.int64).reshape(2, 3),
        "/model/out:0": np.array(1.5, np.float32),
        "half": np.array([1, 2], ml_dtypes.bfloat16),
        "eighths": np.array([[0.5, 448]], ml_dtypes.float8_e4m3fn),
        "nibbles": np.array([-8, 7, -1], ml_dtypes.int4),
        "none": np.zeros((0, 3), bool),
        "turned": np.arange(6).reshape(2, 3).T,
    }
    save_arrays(tmp_path / "a.npz", arrays)
    found = load_arrays(tmp_path / "a.npz")
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape
        assert found[name].tobytes() == array.tobytes()


def test_numpy_reads_what_is_written(tmp_path: Path) -> None:
    save_arrays(tmp_path / "a.npz", {"x": np.arange(3)})
    with np.load(tmp_path / "a.npz") as found:
        assert found["x"].tolist() == [0, 1, 2]


def test_an_npy_file_is_one_array_without_a_name(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(3))
    assert load_arrays(tmp_path / "a.npy")[""].tolist() == [0, 1, 2]


def test_bad_files_are_the_users_errors(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="No such file"):
        load_arrays(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("hello")
    with pytest.raises(ModelError, match="cannot be read"):
        load_arrays(tmp_path / "text.npz")
    np.savez(tmp_path / "objects.npz", x=np.array([{}], object))
    with pytest.raises(ModelError, match="cannot be read"):
        load_arrays(tmp_path / "objects.npz")
    with pytest.raises(FileError, match="cannot be written"):
        save_arrays(tmp_path / "no" / "folder.npz", {})
