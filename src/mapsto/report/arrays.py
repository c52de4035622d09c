"""Named arrays in a file: npz without pickle, with the element types that numpy's own format lacks."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mapsto.errors import ModelError
from mapsto.files import plain_file, written
from mapsto.ir.dtypes import DType, from_numpy

_MARK = "::"  # before the name of a type that numpy would store as bytes without a meaning


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes an npz file that `np.load` reads. Types that numpy lacks are kept as their bits (unsigned integers), under
    the name `NAME::bf16`, `NAME::f8e4m3fn`...

    Raises FileError.
    """
    # not `np.savez`: that takes names as keywords (an array called "file" would not do) and adds .npz to the path
    with written(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, array in arrays.items():
            marked = f"{name}{_MARK}{from_numpy(array.dtype).value}" if array.dtype.kind == "V" else name
            with archive.open(f"{marked}.npy", "w", force_zip64=True) as member:
                kept = array.view(f"u{array.dtype.itemsize}") if marked != name else array
                np.lib.format.write_array(member, np.asanyarray(kept), allow_pickle=False)


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an npz file, or of an npy file under the name "". Raises ModelError."""
    with plain_file(path, "npy or npz") as file:
        try:
            found = np.load(file, allow_pickle=False)
            if isinstance(found, np.ndarray):
                return {"": found}
            with found:
                return dict(_restored(name, found[name]) for name in found.files)
        except MemoryError:
            raise ModelError(f"{path} cannot be read: no memory for the arrays that it says it holds") from None
        except Exception as error:  # zipfile, zlib and numpy raise all kinds for damaged files
            raise ModelError(
                f"{path} cannot be read as npy or npz (without pickled objects): {error or type(error).__name__}"
            ) from None


def _restored(name: str, array: np.ndarray) -> tuple[str, np.ndarray]:
    plain, _, mark = name.rpartition(_MARK)
    dtype = next((d for d in DType if d.value == mark and d.numpy.kind == "V"), None)
    return (name, array) if dtype is None else (plain, array.view(dtype.numpy))
