"""Named arrays in a file: npz without pickle, with the element types that numpy's own format lacks."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np

from mapsto.errors import ModelError
from mapsto.files import plain_file, written

_BF16 = "::bf16"  # numpy would store bfloat16 as two bytes without a meaning


def save_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes an npz file that `np.load` reads. bfloat16 is kept as its bits (uint16) under the name `NAME::bf16`.

    Raises FileError.
    """
    # not `np.savez`: that takes names as keywords (an array called "file" would not do) and adds .npz to the path
    with written(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name, array in arrays.items():
            is_bf16 = array.dtype == np.dtype(ml_dtypes.bfloat16)
            with archive.open(f"{name}{_BF16 if is_bf16 else ''}.npy", "w", force_zip64=True) as member:
                kept = array.view(np.uint16) if is_bf16 else array
                np.lib.format.write_array(member, np.asanyarray(kept), allow_pickle=False)


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an npz file, or of an npy file under the name "". Raises ModelError."""
    with plain_file(path, "npy or npz") as file:
        try:
            found = np.load(file, allow_pickle=False)
            if isinstance(found, np.ndarray):
                return {"": found}
            with found:
                return {name.removesuffix(_BF16): _restored(name, found[name]) for name in found.files}
        except MemoryError:
            raise ModelError(f"{path} cannot be read: no memory for the arrays that it says it holds") from None
        except Exception as error:  # zipfile, zlib and numpy raise all kinds for damaged files
            raise ModelError(
                f"{path} cannot be read as npy or npz (without pickled objects): {error or type(error).__name__}"
            ) from None


def _restored(name: str, array: np.ndarray) -> np.ndarray:
    return array.view(ml_dtypes.bfloat16) if name.endswith(_BF16) else array
