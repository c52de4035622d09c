"""`mapsto.compile`: shapes said or left open, one executable for all sizes, saved and loaded, several at a time."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tests.plan.graphs import small_cnn, varied
from tests.session.support import Feed, assert_close, assert_same_bits, by_onnxruntime, check, normal, parse

import mapsto
from mapsto.devices.cpu import isa as isas
from mapsto.devices.cpu.workers import Workers
from mapsto.errors import CompileError, MapstoError, ShapeError
from mapsto.ir.expr import sym
from mapsto.ops.interpret import run_graph
from mapsto.runtime.program import Run
from mapsto.session.compile import prepared

CNN = """g (float[N, 3, H, W] x) => (float[N, 10] y, float[N, 16, A, B] k) {
    h = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(x, w)
    k = Relu(h)
    m = GlobalAveragePool(k)
    f = Flatten(m)
    s = MatMul(f, v)
    y = Softmax(s)
}"""


def cnn() -> Any:
    """The model with weights of which every channel and tap shows in the result (tests/test_models_can_fail.py)."""
    model = parse(CNN)
    weights = {"w": varied(1, 16, 3, 3, 3), "v": varied(2, 10, 16).T * 8}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())
    return model


SIZES = ((1, 8, 8), (2, 9, 31), (1, 1, 1), (5, 2, 40), (1, 33, 7), (3, 64, 64), (0, 8, 8), (1, 8, 8))


def image(n: int, h: int, w: int) -> Feed:
    return {"x": normal(n, 3, h, w, seed=n + h + w)}


def forbid_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on, making code is an error."""

    def forbidden(*args: object, **more: object) -> None:
        raise AssertionError("something was compiled")

    monkeypatch.setattr("mapsto.devices.cpu.compiler._Worker.__init__", forbidden)
    monkeypatch.setattr("mapsto.devices.cpu.compiler.CompilePool.__init__", forbidden)
    monkeypatch.setattr("mapsto.runtime.native.Library.__init__", forbidden)


def environment() -> dict[str, str]:
    """Other processes find the package where this one did."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


# -- sizes -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2])
def test_one_executable_serves_all_sizes_and_compiles_nothing_again(
    threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = cnn()
    exe = mapsto.compile(model, threads=threads)
    forbid_workers(monkeypatch)
    for size in SIZES:
        feed = image(*size)
        assert_close(exe.run(feed), by_onnxruntime(model, feed))


def test_fixed_and_open_sizes_give_the_same_answers(workers: Workers) -> None:
    model = cnn()
    for size in ((2, 9, 12), (1, 16, 16)):
        for shape in ((size[0], 3, *size[1:]), (None, None, None, size[2]), ("batch", 3, "side", "side")):
            if shape[2:] != ("side", "side") or size[1] == size[2]:
                check(workers, model, image(*size), shapes={"x": shape})


def test_what_shapes_fix_is_then_expected() -> None:
    exe = mapsto.compile(cnn(), shapes={"x": (1, 3, 8, None)})
    assert [str(port) for port in exe.program.inputs] == ["x: f32[1, 3, 8, W]"]
    with pytest.raises(ShapeError, match=r"shape \(2, 3, 8, 9\) where \(1, 3, 8, 9\) was expected"):
        exe(normal(2, 3, 8, 9))


def test_shapes_of_a_graph() -> None:
    graph = small_cnn(sym("h"), sym("w"))
    exe = mapsto.compile(graph, shapes={"x": (1, 3, 20, None)})
    assert [str(port) for port in exe.program.inputs] == ["x: f32[1, 3, 20, w]"]
    feed = {"x": normal(1, 3, 20, 17)}
    assert_close(exe.run(feed), run_graph(graph, feed))
    square = mapsto.compile(graph, shapes={"x": (1, 3, "side", "side")})
    with pytest.raises(ShapeError, match="was expected"):
        square(normal(1, 3, 20, 17))
    for wrong, message in [
        ({"x": (1, 3, 20)}, "has 3 axes"),
        ({"x": (1, 4, 20, 20)}, "axis 1 is 3 in the graph, 4 was asked for"),
        ({"z": (1,)}, "no input named z; its inputs are x"),
        ({"x": (1, 3, -1, 20)}, "negative"),
        ({"x": (1, 3, 2.5, 20)}, "2.5 is no integer"),
    ]:
        with pytest.raises(ShapeError, match=message):
            mapsto.compile(graph, shapes=wrong)


# -- the same bits -----------------------------------------------------------------------------------------------------


def test_threads_poison_and_another_run_change_no_bit(workers: Workers) -> None:
    check(workers, cnn(), *(image(*size) for size in SIZES))


def test_another_instruction_set(isa: isas.Isa) -> None:
    model = cnn()
    exe = mapsto.compile(model, isa=isa.name)
    assert exe.plan.device == isa.name
    for size in SIZES[:4]:
        assert_close(exe.run(image(*size)), by_onnxruntime(model, image(*size)))


def test_an_instruction_set_that_there_is_not() -> None:
    with pytest.raises(CompileError, match="unknown instruction set 'mmx'; known: .*avx2.*sse2"):
        mapsto.compile(cnn(), isa="mmx")


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2])
def test_saved_and_loaded(threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exe = mapsto.compile(cnn())
    exe.save(tmp_path / "cnn.mapsto")
    monkeypatch.setattr("mapsto.devices.cpu.compiler.CompilePool.__init__", lambda *a: pytest.fail("it compiles"))
    again = mapsto.load(tmp_path / "cnn.mapsto", threads=threads)
    assert again.plan == exe.plan and again.threads == threads
    for size in SIZES:
        assert_same_bits(again.run(image(*size)), exe.run(image(*size)))
    again.save(tmp_path / "again.mapsto")
    assert (tmp_path / "again.mapsto").read_bytes() == (tmp_path / "cnn.mapsto").read_bytes()


def test_loaded_where_nothing_can_make_code(tmp_path: Path) -> None:
    """A process that loads a file imports neither ONNX nor the compiler."""
    exe = mapsto.compile(cnn())
    exe.save(tmp_path / "cnn.mapsto")
    expected = exe.run(image(2, 9, 12))
    np.savez(tmp_path / "expected.npz", **expected)
    np.savez(tmp_path / "x.npz", **image(2, 9, 12))
    script = f"""
import sys, numpy as np, mapsto
exe = mapsto.load({str(tmp_path / "cnn.mapsto")!r})
found, expected = exe.run(dict(np.load({str(tmp_path / "x.npz")!r}))), np.load({str(tmp_path / "expected.npz")!r})
assert all(found[n].tobytes() == expected[n].tobytes() for n in expected)
for name in ("onnx", "llvmlite", "mapsto.importers", "mapsto.passes", "mapsto.plan", "mapsto.devices"):
    assert name not in sys.modules, name
assert [name for name in sys.modules if name.startswith("mapsto.session.")] == ["mapsto.session.load"]
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60, env=environment())


@pytest.mark.parametrize("kind", ["path", "text path", "bytes", "message"])
def test_kinds_of_models(kind: str, tmp_path: Path) -> None:
    model = cnn()
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    given: dict[str, Any] = {"path": path, "text path": str(path), "bytes": path.read_bytes(), "message": model}
    assert_close(mapsto.compile(given[kind]).run(image(1, 8, 8)), by_onnxruntime(model, image(1, 8, 8)))


# -- how it goes -------------------------------------------------------------------------------------------------------


def test_progress_is_told_to_the_end() -> None:
    told: list[tuple[int, int, str]] = []
    mapsto.compile(cnn(), progress=lambda done, total, name: told.append((done, total, name)))
    assert told and [done for done, _, _ in told] == list(range(1, len(told) + 1))
    assert {total for _, total, _ in told} == {len(told)} and len({name for _, _, name in told}) == len(told)


def test_equal_kernels_are_one_function() -> None:
    model = parse("""g (float[1, 16, 8, 8] x, float[16, 16, 3, 3] w) => (float[1, 16, 8, 8] y) {
        a = Conv<pads = [1, 1, 1, 1]>(x, w)
        b = Relu(a)
        c = Conv<pads = [1, 1, 1, 1]>(b, w)
        d = Relu(c)
        e = Conv<pads = [1, 1, 1, 1]>(d, w)
        f = Relu(e)
        g1 = Conv<pads = [1, 1, 1, 1]>(f, w)
        y = Relu(g1)
    }""")
    exe = mapsto.compile(model)
    last = {s.label: s.function for s in exe.program.steps if isinstance(s, Run) and " contraction " in s.label}
    products = list(last.values())  # of each convolution, after its packing and its border
    assert len(products) == 4 and products[1] == products[2]
    assert len(exe.program.functions()) < len(exe.program.steps)


def test_several_compile_at_a_time() -> None:
    """Models of several threads neither mix nor wait for ever; each result is its own model's."""
    found: dict[int, Feed] = {}
    models = {n: parse(f"g (float[N, {n}] x) => (float[N, {n}] y) {{ h = Exp(x) y = Softmax(h) }}") for n in (3, 5, 8)}

    def work(columns: int, at: int) -> None:
        found[at] = mapsto.compile(models[columns], cache=False, threads=2).run({"x": normal(4, columns)})

    threads = [threading.Thread(target=work, args=(n, i)) for i, n in enumerate((3, 5, 8, 3))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert sorted(found) == [0, 1, 2, 3]
    for at, columns in enumerate((3, 5, 8, 3)):
        assert_close(found[at], by_onnxruntime(models[columns], {"x": normal(4, columns)}))


def test_a_script_may_compile_when_it_is_imported(tmp_path: Path) -> None:
    """Compile workers do not run the caller's script again (as `multiprocessing` would)."""
    onnx.save(cnn(), tmp_path / "model.onnx")
    script = tmp_path / "script.py"
    script.write_text(
        "import mapsto, numpy as np\n"
        "print('begun')\n"
        f"exe = mapsto.compile({str(tmp_path / 'model.onnx')!r}, cache=False)\n"
        "print(exe(np.zeros((1, 3, 8, 8), np.float32))[0].shape)\n"
    )
    done = subprocess.run(
        [sys.executable, script], check=True, timeout=120, stdout=subprocess.PIPE, text=True, env=environment()
    )
    assert done.stdout.split("\n")[:2] == ["begun", "(1, 10)"], done.stdout


# -- what cannot be compiled -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no graph"),
        (b"not a model at all" * 50, "not an ONNX model"),
        (None, "cannot be read .*No such file"),
    ],
)
def test_files_that_are_no_models(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(MapstoError, match=message) as caught:
        mapsto.compile(path)
    assert "broken" in str(caught.value)


def test_a_cut_file(tmp_path: Path) -> None:
    """An error for the user, nothing else; but where a cut falls between whole parts, it is a model still."""
    data = cnn().SerializeToString()
    path = tmp_path / "cut.onnx"
    refused = 0
    for length in range(len(data)):
        path.write_bytes(data[:length])
        try:
            prepared(path, None)
        except MapstoError:
            refused += 1
    assert refused > 0.98 * len(data)


def test_sizes_that_no_machine_has() -> None:
    model = parse("g (float[N] x) => (float[N] y) { h = Exp(x) y = Softmax(h) }")
    for extent in (1 << 62, 10**30):
        with pytest.raises(MapstoError, match="64 bits"):
            mapsto.compile(model, shapes={"x": (extent,)})


def test_a_size_that_memory_cannot_hold_at_run_time() -> None:
    model = parse("""g (float[N] x) => (float y) {
        one = Constant<value_ints = [1]>()
        zero = Constant<value_ints = [0]>()
        c = Unsqueeze(x, one)
        r = Unsqueeze(x, zero)
        d = Mul(c, r)
        e = Exp(d)
        t = Transpose(e)
        q = MatMul(e, t)
        y = ReduceSum<keepdims = 0>(q)
    }""")
    exe = mapsto.compile(model)
    expected = exe(np.ones(3, np.float32))
    with pytest.raises(MapstoError, match="bytes of scratch memory where the machine has"):
        exe(np.ones(1_000_000, np.float32))
    assert exe(np.ones(3, np.float32)) == expected
