"""Recipes: read strictly, and carried out with the files that they promise."""

from __future__ import annotations

import gzip
import json
import random
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from tests.train.models import bits_of, data

import mapsto
from mapsto.errors import ArgumentError, FileError, MapstoError, ModelError, ParseError, ShapeError, UnsupportedError
from mapsto.train import SGD, Adam, AdamW, Cosine, CrossEntropy, EarlyStopping, Trainer, Warmup, draw_curve
from mapsto.train.recipe import SearchRange, parse_set, read_recipe, recipe_of, with_sets
from mapsto.train.running import run_recipe
from mapsto.train.sources import DataSource, called, loaded, read_idx

MODEL = """
import numpy as np
from onnx import helper, numpy_helper, TensorProto

def network(seed=0, inner=8):
    rng = np.random.default_rng(seed)
    shapes = {"w1": (6, inner), "b1": (inner,), "w2": (inner, 3), "b2": (3,)}
    held = [numpy_helper.from_array((rng.standard_normal(s) * 0.5).astype(np.float32), n) for n, s in shapes.items()]
    nodes = [
        helper.make_node("Gemm", ["x", "w1", "b1"], ["h"], name="first"),
        helper.make_node("Relu", ["h"], ["r"], name="relu"),
        helper.make_node("Gemm", ["r", "w2", "b2"], ["scores"], name="second"),
    ]
    graph = helper.make_graph(
        nodes, "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 6])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 3])], held,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)

def module(inner=8):
    import torch
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = torch.nn.Linear(6, inner), torch.nn.Linear(inner, 3)
            self.norm = torch.nn.BatchNorm1d(inner)
        def forward(self, x):
            return self.second(torch.relu(self.norm(self.first(x))))
    return Net()

def points(rows=40):
    from tests.train.models import data
    return data(rows)

def broken():
    return 1 / 0
"""

RECIPE = """
[model]
function = "parts.py:network"

[data]
npz = "points.npz"
validation = 0.25

[train]
loss = "cross_entropy"
optimizer = "adam"
learning_rate = 0.01
batch = 8
epochs = 3
seed = 4
threads = 1

[output]
onnx = "trained.onnx"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "parts.py").write_text(MODEL)
    (tmp_path / "recipe.toml").write_text(RECIPE)
    np.savez(tmp_path / "points.npz", **data(40))  # type: ignore[arg-type]
    return tmp_path


def recipe(folder: Path, more: str = "", sets: dict[str, Any] | None = None) -> Any:
    (folder / "recipe.toml").write_text(RECIPE + more)
    return read_recipe(str(folder / "recipe.toml"), sets)


# -- carried out -------------------------------------------------------------------------------------------------------


def test_a_recipe_is_the_training_that_it_says(folder: Path) -> None:
    made = recipe(folder, 'weights = "w.safetensors"\nhistory = "h.json"\ncheckpoint = "c"\nartifact = "a.mapsto"\n')
    told: list[int] = []
    done = run_recipe(made, told=lambda report: told.append(report.number))
    assert told == [1, 2, 3] and set(done.files) == {"onnx", "weights", "history", "checkpoint", "artifact"}
    by_hand = Trainer(called(str(folder / "parts.py"), "network", {}, seed=4), threads=1, learning_rate=0.01, seed=4)
    from mapsto.train.data import split

    kept, held = split(data(40), 0.25, 4)
    history = by_hand.fit(kept, 3, held, batch=8)
    assert bits_of(done.trainer) == bits_of(by_hand)
    assert [epoch.validation for epoch in done.history.epochs] == [epoch.validation for epoch in history.epochs]
    x = data(5)["x"]
    scores = by_hand.predict({"x": x})["scores"]
    session = onnxruntime.InferenceSession(str(folder / "trained.onnx"), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"x": x})[0], scores, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(mapsto.compile(folder / "trained.onnx")(x), scores, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(mapsto.load(folder / "a.mapsto")(x), scores, rtol=1e-4, atol=1e-5)
    before = onnx.load_model_from_string(called(str(folder / "parts.py"), "network", {}, seed=4).SerializeToString())
    after = onnx.load(folder / "trained.onnx")
    del before.graph.initializer[:], after.graph.initializer[:]
    assert before == after
    from safetensors.numpy import load_file

    assert {n: a.tobytes() for n, a in load_file(folder / "w.safetensors").items()} == {
        n: a.tobytes() for n, a in by_hand.parameters.items()
    }
    assert json.loads((folder / "h.json").read_text()) == done.history.to_json()


def test_a_module_of_torch_gives_its_state_dict(folder: Path) -> None:
    torch = pytest.importorskip("torch")
    text = RECIPE.replace("parts.py:network", "parts.py:module").replace('onnx = "trained.onnx"', 'weights = "w"')
    (folder / "recipe.toml").write_text(text)
    done = run_recipe(read_recipe(str(folder / "recipe.toml"), {"data.test": {"npz": "points.npz"}}))
    from safetensors.torch import load_file

    torch.manual_seed(0)
    module = called(str(folder / "parts.py"), "module", {})
    module.load_state_dict(load_file(folder / "w"))
    module.eval()
    x = data(40)["x"]
    with torch.no_grad():
        scores = module(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(list(done.trainer.predict({"x": x}).values())[0], scores, rtol=1e-4, atol=1e-4)
    assert done.test is not None and done.test.examples == 40
    assert done.test.metrics["accuracy"] == (scores.argmax(1) == data(40)["label"]).mean()
    assert abs(module.norm.running_mean).max() > 0  # statistics came along
    text = text.replace("weights =", "onnx =")
    (folder / "recipe.toml").write_text(text)
    with pytest.raises(ArgumentError, match=r"output\.onnx: the model is no ONNX file.*output\.weights"):
        run_recipe(read_recipe(str(folder / "recipe.toml")))


def test_a_file_as_model_and_functions_as_data(folder: Path) -> None:
    onnx.save(called(str(folder / "parts.py"), "network", {}), folder / "m.onnx")
    text = RECIPE.replace('function = "parts.py:network"', 'file = "m.onnx"')
    text = text.replace('npz = "points.npz"', 'function = "parts.py:points"\narguments = { rows = 30 }')
    (folder / "recipe.toml").write_text(text)
    done = run_recipe(read_recipe(str(folder / "recipe.toml"), {"train.epochs": 1, "train.frozen": ["w1"]}))
    assert done.history.epochs[0].examples == 22 and "w1" not in done.trainer.parameters
    after = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(folder / "trained.onnx").graph.initializer}
    before = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(folder / "m.onnx").graph.initializer}
    assert np.array_equal(after["w1"], before["w1"]) and not np.array_equal(after["w2"], before["w2"])


def test_another_head_is_trained_and_written(folder: Path) -> None:
    """Two classes in the place of three; what is frozen stays."""
    given = {**data(40), "label": data(40)["label"] % 2}
    np.savez(folder / "two.npz", **given)  # type: ignore[arg-type]
    sets = {"data.npz": "two.npz", "train.classes": 2, "train.frozen": ["w1", "b1"], "train.epochs": 40}
    done = run_recipe(recipe(folder, "", sets))
    x = given["x"]
    scores = done.trainer.predict({"x": x})["scores"]
    assert scores.shape == (40, 2) and done.history.epochs[-1].loss < done.history.epochs[0].loss
    session = onnxruntime.InferenceSession(str(folder / "trained.onnx"), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"x": x})[0], scores, rtol=1e-4, atol=1e-5)
    (output,) = onnx.load(folder / "trained.onnx").graph.output
    assert [dim.dim_value for dim in output.type.tensor_type.shape.dim] == [0, 2]


def test_a_checkpoint_goes_on(folder: Path) -> None:
    made = recipe(folder, 'checkpoint = "c"\n')
    whole = bits_of(run_recipe(made).trainer)
    (folder / "c").unlink()
    run_recipe(with_sets(made, {"train.epochs": 1}))
    done = run_recipe(made)
    assert bits_of(done.trainer) == whole and done.history.notes[0].startswith("resumed from")
    assert run_recipe(made, resume=False).history.notes == ()


def test_a_curve_is_drawn(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    done = run_recipe(recipe(folder, 'curve = "curve.png"\n', {"train.epochs": 2, "train.early_stopping": 1}))
    for ending, head in (("png", b"\x89PNG\r\n"), ("svg", b"<?xml"), ("pdf", b"%PDF")):
        if ending != "png":
            draw_curve(done.history, folder / f"curve.{ending}")
        found = (folder / f"curve.{ending}").read_bytes()
        assert found.startswith(head) and len(found) > 5000
    with pytest.raises(UnsupportedError, match=r"a picture is a \.png, \.svg or \.pdf file"):
        draw_curve(done.history, folder / "curve.bmp")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    (folder / "trained.onnx").unlink()
    with pytest.raises(UnsupportedError, match=r"pip install 'mapsto\[plot\]'"):
        run_recipe(recipe(folder, 'curve = "curve.png"\n'))
    assert not (folder / "trained.onnx").exists()  # it was said before any work


def test_files_that_cannot_be_written_are_said_before_any_work(folder: Path) -> None:
    with pytest.raises(FileError, match="there is no folder"):
        run_recipe(recipe(folder, 'history = "none/h.json"\n'))
    with pytest.raises(ArgumentError, match=r"parts\.py:broken raised ZeroDivisionError"):
        run_recipe(recipe(folder, "", {"data": {"function": "parts.py:broken"}}))
    with pytest.raises(ModelError, match=r"none\.npz"):
        run_recipe(recipe(folder, "", {"data.npz": "none.npz"}))
    with pytest.raises(ModelError, match=r"recipe\.toml cannot be read as npz"):
        run_recipe(recipe(folder, "", {"data.npz": "recipe.toml"}))
    assert not (folder / "trained.onnx").exists()


# -- data --------------------------------------------------------------------------------------------------------------


def idx(array: np.ndarray, code: int) -> bytes:
    head = struct.pack(">BBBB", 0, 0, code, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.astype(array.dtype.newbyteorder(">")).tobytes()


def test_idx_files_of_all_types_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x"
    for code, dtype in ((8, "u1"), (9, "i1"), (11, "i2"), (12, "i4"), (13, "f4"), (14, "f8")):
        array = np.arange(24).reshape(2, 3, 4).astype(dtype)
        path.write_bytes(idx(array, code))
        found = read_idx(str(path))
        assert found.dtype == array.dtype and found.dtype.isnative and np.array_equal(found, array)
    (tmp_path / "x.gz").write_bytes(gzip.compress(idx(array, 14)))
    assert np.array_equal(read_idx(str(tmp_path / "x.gz")), array)
    source = DataSource("idx", {"image": str(path), "label": str(path)}, scale={"image": 2}, shapes={"image": (12,)})
    images = loaded(source)["image"]
    assert images.dtype == np.float32 and np.array_equal(images, array.reshape(2, 12) / 2)
    good = idx(np.arange(6, dtype=np.uint8), 8)
    for damaged in (b"", good[:3], good[:7], good[:-1], good + b"x", b"\1" + good[1:], good[:2] + b"\7" + good[3:]):
        path.write_bytes(damaged)
        with pytest.raises(ModelError):
            read_idx(str(path))
    (tmp_path / "x.gz").write_bytes(b"no")
    with pytest.raises(ModelError, match="cannot be unpacked"):
        read_idx(str(tmp_path / "x.gz"))
    with pytest.raises(ModelError, match="it is a folder"):
        read_idx(str(tmp_path))


def test_csv_files_are_read_by_columns(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('a,b, c ,kind\n1,2,3,0\n4,"5",6.5,1\n\n7,8,9,2\n')

    def read(**options: Any) -> dict[str, np.ndarray]:
        found: dict[str, np.ndarray] = loaded(DataSource("csv", {"": str(path)}, label="kind", **options))
        return found

    found = read()
    assert found["x"].dtype == np.float32 and found["x"].tolist() == [[1, 2, 3], [4, 5, 6.5], [7, 8, 9]]
    assert found["label"].dtype == np.int64 and found["label"].tolist() == [0, 1, 2]
    found = read(columns={"u": ("c", "a"), "v": ()})
    assert found["u"].tolist() == [[3, 1], [6.5, 4], [9, 7]] and found["v"].tolist() == [[2], [5], [8]]
    with pytest.raises(ModelError, match="there is no column z; there are a, b, c, kind"):
        read(columns={"u": ("z",)})
    for text, message in (
        ("", "expected a line of names"),
        ("a,kind\n", "expected a line of names"),
        ("a,kind\n1\n", "row 1 has 1 fields, the line of names 2"),
        ("a,kind\n1,2\nx,2\n", "row 2, a: 'x' is no number"),
        ('a,kind\n1,"2\n', "is no CSV file"),
    ):
        path.write_text(text)
        with pytest.raises(ModelError, match=message):
            read()
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ModelError, match="is no CSV file"):
        read()


def test_functions_are_called_with_what_they_take(folder: Path) -> None:
    path = folder / "parts.py"
    path.write_text("def f(a, seed=9):\n    return a, seed\n\ndef g(**k):\n    return k\n\nx = 3\n")
    assert called(str(path), "f", {"a": 1}, seed=5, more=6) == (1, 5)
    assert called(str(path), "f", {"a": 1, "seed": 7}, seed=5) == (1, 7)
    for name, message in (("h", "has no function 'h'; it has f, g"), ("x", "has no function 'x'")):
        with pytest.raises(ArgumentError, match=message):
            called(str(path), name, {})
    with pytest.raises(ArgumentError, match="f raised TypeError: .*missing 1 required"):
        called(str(path), "f", {})
    with pytest.raises(ModelError, match="cannot be read"):
        called(str(folder / "none.py"), "f", {})
    (folder / "wrong.py").write_text("def f(:\n")
    with pytest.raises(ArgumentError, match="raised SyntaxError"):
        called(str(folder / "wrong.py"), "f", {})
    (folder / "text").write_text("")
    with pytest.raises(ArgumentError, match=r"call it NAME\.py"):
        called(str(folder / "text"), "f", {})


def test_data_that_does_not_fit_the_recipe_is_named(folder: Path) -> None:
    with pytest.raises(ShapeError, match=r"shapes: x: an example has the shape \[6\], not \[5\]"):
        run_recipe(recipe(folder, "", {"data.shapes": {"x": [5]}}))
    with pytest.raises(ShapeError, match="label"):
        np.savez(folder / "bare.npz", x=data(40)["x"])
        run_recipe(recipe(folder, "", {"data.npz": "bare.npz"}))


# -- read strictly -----------------------------------------------------------------------------------------------------


def read(text: str, **sets: Any) -> Any:
    return recipe_of(text, "r.toml", sets)


def with_lines(train: str = "", data: str = "", model: str = "", output: str = "", more: str = "") -> str:
    return (
        f'[model]\nfile = "m.onnx"\n{model}\n[data]\nnpz = "d.npz"\n{data}\n'
        f"[train]\n{train}\n[output]\n{output}\n{more}\n"
    )


def test_everything_that_a_recipe_can_say_is_read() -> None:
    made = read(
        """
        [model]
        function = "code/net.py:build"
        arguments = { depth = 3 }
        shapes = { x = ["batch", 3, "?"] }
        [data]
        csv = "a.csv"
        columns = { x = ["a", "b"] }
        label = "kind"
        scale = { x = 10 }
        [data.validation]
        csv = "b.csv"
        [data.test]
        npz = "c.npz"
        scale = { x = 5.5 }
        [train]
        batch = 64
        epochs = 7
        seed = 3
        shuffle = false
        drop_last = true
        label = "wanted"
        frozen = ["conv*"]
        rates = { "head*" = 10 }
        clip_norm = 1
        accumulate = 2
        formats = { "*" = "bf16" }
        memory = "balanced"
        metrics = ["accuracy", "top_5_accuracy"]
        schedule = { kind = "warm-up", length = 5, then = { kind = "cosine", per = "step", least = 1e-5 } }
        [train.loss]
        name = "cross_entropy"
        label_smoothing = 0.1
        class_weights = [1, 2.5]
        [train.optimizer]
        name = "adamw"
        weight_decay = 0.1
        learning_rate = 0.5
        [train.early_stopping]
        patience = 4
        monitor = "accuracy"
        [output]
        weights = "w"
        curve = "c.svg"
        [search]
        trials = 9
        better = "accuracy"
        [search.ranges]
        learning_rate = { low = 1e-4, high = 1, scale = "log" }
        batch = [32, 64]
        accumulate = { low = 1, high = 4 }
        "optimizer.weight_decay" = { low = 0.0, high = 0.5 }
        """
    )
    assert (made.model.path, made.model.name, dict(made.model.arguments)) == ("code/net.py", "build", {"depth": 3})
    assert made.model.shapes == {"x": ("batch", 3, None)}
    assert made.data == DataSource("csv", {"": "a.csv"}, columns={"x": ("a", "b")}, label="kind", scale={"x": 10})
    assert made.validation == DataSource("csv", {"": "b.csv"}, columns={"x": ("a", "b")}, label="kind", scale={"x": 10})
    assert made.test == DataSource("npz", {"": "c.npz"}, scale={"x": 5.5})
    assert made.loss == CrossEntropy(0.1, (1.0, 2.5)) and made.optimizer == AdamW(0.5, weight_decay=0.1)
    assert made.fit["schedule"] == Warmup(5, Cosine(per="step", least=1e-5))
    assert made.fit["early_stopping"] == EarlyStopping(4, monitor="accuracy")
    assert made.fit["batch"] == 64 and made.fit["shuffle"] is False
    assert made.fit["metrics"] == ["accuracy", "top_5_accuracy"]
    assert made.trainer == {
        "label": "wanted", "seed": 3, "frozen": ["conv*"], "rates": {"head*": 10}, "clip_norm": 1, "accumulate": 2,
        "formats": {"*": "bf16"}, "memory": "balanced",
    }  # fmt: skip
    assert made.output.paths() == {"weights": "w", "curve": "c.svg"}
    assert made.search is not None and (made.search.trials, made.search.study) == (9, "r.study")
    assert made.search.ranges == (
        SearchRange("train.learning_rate", 1e-4, 1, "log"),
        SearchRange("train.batch", choices=(32, 64)),
        SearchRange("train.accumulate", 1, 4, whole=True),
        SearchRange("train.optimizer.weight_decay", 0, 0.5),
    )


def test_paths_are_beside_the_recipe() -> None:
    made = recipe_of(with_lines(output='onnx = "out/t.onnx"\ncheckpoint = "/tmp/c"'), "some/where/r.toml")
    assert (made.model.path, made.data.files[""]) == ("some/where/m.onnx", "some/where/d.npz")
    assert made.output.paths() == {"onnx": "some/where/out/t.onnx", "checkpoint": "/tmp/c"}


def test_the_command_line_may_set_any_key() -> None:
    made = read(with_lines("optimizer = 'adam'\nbatch = 'many'"), **{"train.batch": 3, "train.optimizer": "sgd"})
    assert made.fit["batch"] == 3 and made.optimizer == SGD()
    made = read(with_lines(), **{"train.optimizer.name": "sgd", "train.optimizer.momentum": 0.5})
    assert made.optimizer == SGD(momentum=0.5)
    assert with_sets(made, {"train.optimizer.momentum": 0.25}).optimizer == SGD(momentum=0.25)
    assert made.optimizer == SGD(momentum=0.5)
    made = read(with_lines("optimizer = 'adam'\nearly_stopping = 3"), **{"train.optimizer.weight_decay": 0.5})
    assert made.optimizer == Adam(weight_decay=0.5)
    assert with_sets(made, {"train.early_stopping.min_delta": 0.1}).fit["early_stopping"] == EarlyStopping(3, 0.1)
    for text, found in (
        ("a=1", ("a", 1)), ("a.b = 1e-3", ("a.b", 1e-3)), ("a=[1, 2]", ("a", [1, 2])), ("a=true", ("a", True)),
        ("a=adam", ("a", "adam")), ('a="adam"', ("a", "adam")), ("a=b=c", ("a", "b=c")),
    ):  # fmt: skip
        assert parse_set(text) == found
    for wrong in ("a", "=3", ""):
        with pytest.raises(ParseError, match="--set .*expected KEY=VALUE"):
            parse_set(wrong)
    with pytest.raises(ParseError, match=r"model\.file\.x cannot be set: file is no table"):
        read(with_lines(), **{"model.file.x": 3})


WRONG = {
    "unknown table": (with_lines(more="[trian]"), r"r\.toml, line 11: trian: means nothing here; 'train'\?"),
    "unknown key": (with_lines("bach = 3"), r"r\.toml, line 8: train\.bach: means nothing here; 'batch'\?"),
    "unknown key in data": (with_lines(data="shape = 3"), r"data\.shape: means nothing here; 'shapes'\?"),
    "unknown loss": (
        with_lines("loss = 'cross_entrpy'"),
        r"train\.loss\.name: there is no 'cross_entrpy'; 'cross_entropy'",
    ),
    "loss's key": (
        with_lines("loss = { name = 'huber', detla = 1 }"),
        r"train\.loss\.detla: means nothing here; 'delta'",
    ),
    "loss's value": (
        with_lines("loss = { name = 'cross_entropy', label_smoothing = 2 }"),
        r"line 8: train\.loss: label_smoothing: 2 is",
    ),
    "optimizer's value": (
        with_lines("optimizer = { name = 'sgd', momentum = 2 }"),
        r"train\.optimizer: SGD\.momentum: 2 is",
    ),
    "optimizer's kind": (with_lines("optimizer = 3"), r"train\.optimizer: expected a table, found 3"),
    "rate twice": (
        with_lines("learning_rate = 1\noptimizer = { name = 'sgd', learning_rate = 2 }"), "is said in .train. as well"
    ),
    "schedule without": (with_lines("schedule = { kind = 'step' }"), r"train\.schedule: .*'every'"),
    "schedule inside": (
        with_lines("schedule = { kind = 'warm-up', length = 3, then = { kind = 'cosin' } }"),
        "there is no 'cosin'; 'cosine'",
    ),
    "batch": (with_lines("batch = 0"), r"line 8: train\.batch: expected a whole number from 1 on, found 0"),
    "batch's type": (with_lines("batch = 2.5"), r"train\.batch: expected a whole number from 1 on, found 2\.5"),
    "bool for number": (with_lines("epochs = true"), r"train\.epochs: expected a whole number"),
    "seed": (with_lines("seed = -1"), r"train\.seed: expected a whole number from 0 on"),
    "rate": (with_lines("learning_rate = 'fast'"), r"train\.learning_rate: expected a number, found 'fast'"),
    "infinite": (with_lines("learning_rate = inf"), r"train\.learning_rate: expected a number, found inf"),
    "clip": (with_lines("clip_norm = 0"), r"train\.clip_norm: expected a number above 0, found 0"),
    "format": (with_lines("formats = 'int8'"), r"train\.formats: .*integers are for a model"),
    "memory": (with_lines("memory = 'balance'"), r"train\.memory: there is no 'balance'; 'balanced'\?"),
    "no format": (with_lines("formats = { a = 'fp9' }"), r"train\.formats: .*'fp9' is no format"),
    "flag": (with_lines("shuffle = 1"), r"train\.shuffle: expected true or false, found 1"),
    "names": (with_lines("frozen = 'a'"), r"train\.frozen: expected a list of names, found 'a'"),
    "metric": (with_lines("metrics = ['acuracy']"), r"train\.metrics: there is no 'acuracy'; 'accuracy'\?"),
    "early": (with_lines("early_stopping = { patience = 0 }"), r"train\.early_stopping: EarlyStopping: patience"),
    "rates": (with_lines("rates = { a = -1 }"), r"train\.rates\.a: expected a number from 0 on, found -1"),
    "two sources": (with_lines(data="csv = 'a'"), r"line 4: data: expected exactly one of .*; there is npz and csv"),
    "no source": ("[model]\nfile = 'a'\n[data]\n", r"line 3: data: expected exactly one of .*; there is none"),
    "no model": (with_lines().replace('file = "m.onnx"', ""), r'line 1: model: expected either file = "model\.onnx"'),
    "both models": (with_lines(model="function = 'a.py:f'"), "expected either file"),
    "function": (
        with_lines().replace("file", "function"),
        r"model\.function: expected \"FILE\.py:NAME\", found 'm\.onnx'",
    ),
    "no table": ("[model]\nfile = 'a'", r"r\.toml: there is no table \[data\]"),
    "columns": (with_lines(data="columns = { x = ['a'] }"), r"data\.columns: is for csv; leave it out"),
    "validation": (with_lines(data="validation = 2"), r"data\.validation: expected a number from 0 to 1, found 2"),
    "validation's key": (
        with_lines(data="validation = { npz = 'a', z = 1 }"),
        r"data\.validation\.z: means nothing here",
    ),
    "scale": (with_lines(data="scale = { x = 0 }"), r"data\.scale\.x: expected a number above 0"),
    "shapes": (with_lines(data="shapes = { x = [0] }"), r"data\.shapes\.x: expected a list of whole numbers"),
    "model's shapes": (with_lines(model="shapes = { x = [1.5] }"), r"model\.shapes\.x: expected a list of sizes"),
    "output": (with_lines(output="onxx = 'a'"), r"output\.onxx: means nothing here; 'onnx'\?"),
    "output twice": (with_lines(output="onnx = 'a'\nweights = 'a'"), r"output\.onnx: 'a' is written for another key"),
    "picture": (with_lines(output="curve = 'a.bmp'"), r"output\.curve: expected a name that ends in one of \.png"),
    "no ranges": (with_lines(more="[search]"), r"search\.ranges: expected one range at least"),
    "range of nothing": (with_lines(more="[search.ranges]\nrate = [1]"), r"there is no 'rate'; 'rates'\?"),
    "no choice": (with_lines(more="[search.ranges]\nbatch = []"), "expected one choice at least"),
    "upside down": (with_lines(more="[search.ranges]\nbatch = { low = 3, high = 2 }"), "low 3 is not below high 2"),
    "log of 0": (
        with_lines(more="[search.ranges]\nlearning_rate = { low = 0, high = 2, scale = 'log' }"), "as the scale is log"
    ),
    "scale of range": (
        with_lines(more="[search.ranges]\nbatch = { low = 1, high = 2, scale = 'lgo' }"), "there is no 'lgo'; 'log'"
    ),
    "no toml": ("[model\n", r"r\.toml: .*line 1"),
    "deep": ("x = " + "[" * 100_000, r"r\.toml"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named_with_its_line(case: str) -> None:
    text, message = WRONG[case]
    with pytest.raises(ParseError, match=message) as caught:
        read(text)
    assert isinstance(caught.value, MapstoError)


def test_a_text_that_was_changed_anywhere_is_read_or_refused() -> None:
    """500 texts, with pieces left out, doubled, swapped, or other characters in them."""
    whole = with_lines(
        'loss = { name = "huber", delta = 1.0 }\nschedule = { kind = "cosine" }\nbatch = 8\nrates = { "a*" = 2 }',
        "validation = 0.5\nscale = { x = 2 }",
        output='curve = "c.png"',
        more="[search.ranges]\nbatch = [1, 2]\nlearning_rate = { low = 1, high = 2 }",
    )
    assert read(whole).fit["batch"] == 8
    drawn, outcomes = random.Random(5), {"read": 0, "refused": 0}
    for _ in range(500):
        text = list(whole)
        for _ in range(drawn.randint(1, 2)):
            at, length = drawn.randrange(len(text)), drawn.randint(1, 4)
            piece = text[at : at + length]
            kind = drawn.randrange(4)
            if kind == 0:
                del text[at : at + length]
            elif kind == 1:
                text[at:at] = piece
            elif kind == 2:
                other = drawn.randrange(len(text))
                text[other:other] = piece
            else:
                text[at] = drawn.choice('[]{}="-.,\n #0e\x00é')
        try:
            read("".join(text))
            outcomes["read"] += 1
        except ParseError:
            outcomes["refused"] += 1
    assert outcomes["read"] > 5 and outcomes["refused"] > 200


@pytest.fixture(autouse=True)
def _no_modules_left() -> Iterator[None]:
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("_recipe_"):
            del sys.modules[name]


def test_files_that_are_no_recipes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\xff\xfe")
    with pytest.raises(ParseError, match="it is not text in UTF-8"):
        read_recipe(str(tmp_path / "a"))
    (tmp_path / "a").write_bytes(b"#" * (1 << 20) + b"\n")
    with pytest.raises(ParseError, match="too many for a recipe"):
        read_recipe(str(tmp_path / "a"))
    with pytest.raises(ModelError, match="it is a folder"):
        read_recipe(str(tmp_path))
