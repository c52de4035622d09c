"""The meter: what is charged, what is only asked, and what an error says; and where the rooms charge it."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import mapsto
from mapsto.budget import Budget, Meter, current, defaulting, metering, metering_anew
from mapsto.errors import BudgetError, ModelError
from mapsto.importers.onnx import load
from mapsto.ir.expr import minimum, sym
from mapsto.ir.expr_proofs import known_at_least
from mapsto.ops.builder import Builder
from mapsto.passes import run_passes
from mapsto.passes.affine import AffineFolding
from mapsto.passes.dead_code import DeadCode
from mapsto.passes.identities import Identities
from mapsto.plan.decide import decide
from tests.hostile.growing import call, function
from tests.importers.models import ints, model, node
from tests.plan.support import asked


def test_charges_add_up_and_the_error_says_how_to_raise_the_limit() -> None:
    meter = Meter(Budget(nodes=10))
    meter.charge("nodes", 6, "the graph")
    with pytest.raises(BudgetError, match=r"the graph: 12 nodes are needed, 10 are allowed.*--budget nodes="):
        meter.charge("nodes", 6, "the graph")
    meter.charge("nodes", 4, "what was refused is not spent")


def test_what_need_not_be_done_is_only_asked_for() -> None:
    meter = Meter(Budget(folded_bytes=10))
    assert meter.afford("folded_bytes", 7) and not meter.afford("folded_bytes", 7) and meter.afford("folded_bytes", 3)
    meter.earn("folded_bytes", 5)
    assert meter.afford("folded_bytes", 5)


def test_time_is_looked_at_where_work_is_charged() -> None:
    meter = Meter(Budget(seconds=1e-3))
    time.sleep(2e-3)
    with pytest.raises(BudgetError, match="seconds are needed, 0.001 are allowed"):
        meter.charge("nodes", 1, "the graph")


def test_one_meter_for_all_that_is_inside() -> None:
    assert current() is not current()
    with metering(Budget(nodes=3)) as meter:
        with metering() as inner:
            assert inner is meter is current()
        with metering({"nodes": 4}) as other:
            assert other is not meter and other.budget.nodes == 4
    with defaulting({"nodes": 5}):
        assert current().budget.nodes == 5
    assert current().budget == Budget()


def test_a_meter_of_its_own_for_one_of_several() -> None:
    with metering(Budget(nodes=10)) as meter:
        for _ in range(3):
            with metering_anew() as own:
                assert current() is own and own.budget is meter.budget
                own.charge("nodes", 8, "the model's nodes")
        meter.charge("nodes", 8, "the model's nodes")
    with metering_anew() as own:
        assert own.budget == Budget()


@pytest.mark.parametrize("wrong", [{"nods": 1}, {"nodes": -1}, {"nodes": "many"}, {"nodes": float("nan")}, 7])
def test_a_budget_that_makes_no_sense_is_refused(wrong: Any) -> None:
    with pytest.raises(BudgetError, match="budget: "):
        load(model([node("Relu", ["x"])], {"x": [2]}), budget=wrong)


def test_a_budget_error_is_a_model_error() -> None:
    assert issubclass(BudgetError, ModelError)


RELU = [node("Relu", ["x"])]
SQUARE = np.ones((64, 64), np.float32)


def called(times: int) -> Any:
    """A chain of calls of one function, whose two nodes come to one node in all."""
    made = function("F", [node("Relu", ["a"], ["c"]), node("Relu", ["c"], ["b"])])
    calls = [call("F", f"v{k}", f"v{k + 1}") for k in range(times)]
    return model(calls, {"v0": [2]}, [f"v{times}"], functions=[made])


@pytest.mark.parametrize(
    ("budget", "made"),
    [
        ({"nodes": 1}, lambda: model([node("Relu", ["x"], ["h"]), node("Neg", ["h"])], {"x": [2]})),
        ({"steps": 1}, lambda: model([node("Relu", ["x"], ["h"]), node("Neg", ["h"])], {"x": [2]})),
        ({"rank": 2}, lambda: model(RELU, {"x": [1, 2, 3]})),
        ({"name": 3}, lambda: model([node("Relu", ["x"], name="long")], {"x": [2]})),
        ({"each": 1}, lambda: model([node("GridSample", ["x", "g"])], {"x": [1, 1, 4, 4], "g": [1, 2, 2, 2]})),
        ({"operands": 20}, lambda: model([node("Sum", ["x"] * 20)], {"x": [2]})),
        ({"inputs": 1}, lambda: model(RELU, {"x": [2], "z": [2]})),
        ({"outputs": 1}, lambda: model([*RELU, node("Neg", ["x"], ["z"])], {"x": [2]}, ["y", "z"])),
        ({"bodies": 10}, lambda: called(3)),
        ({"code": 100}, lambda: model(RELU, {"x": [2]})),
        ({"code": 100}, lambda: model([node("MatMul", ["x", "a"])], {"x": [9, 64]}, constants={"a": SQUARE})),
        ({"bytes": 10}, lambda: model(RELU, {"x": [2]}).SerializeToString()),
        ({"seconds": 1e-9}, lambda: model(RELU, {"x": [2]})),
    ],
)
def test_each_limit_ends_a_compile(budget: dict[str, float], made: Any) -> None:
    proto = made()
    if "each" in budget:
        proto.graph.node[0].input[:] = ["x", "g"]
        # the 4 ports of the node allow 64 nodes each besides: cubic interpolation makes more
        proto.graph.node[0].attribute.append(onnx.helper.make_attribute("mode", "bicubic"))
    with pytest.raises(BudgetError, match=f"--budget {next(iter(budget))}="):
        mapsto.compile(proto, budget=budget, threads=1)


def test_a_raised_limit_lets_the_model_through() -> None:
    proto = model([node("Unsqueeze", ["x", "a"])], {"x": [2]}, constants={"a": ints(*range(35))})
    with pytest.raises(BudgetError, match="36 axes are needed, 32 are allowed"):
        load(proto)
    assert len(load(proto, budget={"rank": 40}).nodes[0].output.shape) == 36


def test_a_product_too_dear_to_fold_is_left_to_the_run() -> None:
    a = np.ones((1200, 1200), np.float32)
    exe = mapsto.compile(
        model([node("MatMul", ["a", "a"])], {}, constants={"a": a}), threads=1, budget={"native_operations": 1}
    )
    assert any("contraction" in step.label for step in exe.program.steps if hasattr(step, "label"))
    np.testing.assert_allclose(exe.run({})["y"][:2, :2], 1200.0)


def test_large_results_of_constants_are_not_made_when_compiling() -> None:
    proto = model([node("HannWindow", ["n"], ["w"]), node("Exp", ["w"])], {}, constants={"n": np.int64(10**9)})
    exe = mapsto.compile(proto, threads=1)
    assert memoryview(exe.program.constants).nbytes < 1 << 20
    assert len(exe.program.steps) > 0


def shared_region(folder: Path, tensors: int, shift: int) -> Path:
    """Tensors that name regions of one file of 4,096 bytes, each `shift` bytes further on than the one before."""
    proto = model([node("Sum", ["x", *(f"w{k}" for k in range(tensors))])], {"x": [256]})
    for k in range(tensors):
        tensor = TensorProto(name=f"w{k}", data_type=TensorProto.FLOAT, dims=[256], data_location=TensorProto.EXTERNAL)
        for key, value in (("location", "w.bin"), ("offset", str(k * shift)), ("length", "1024")):
            tensor.external_data.add(key=key, value=value)
        proto.graph.initializer.append(tensor)
    (folder / "w.bin").write_bytes(np.arange(1024, dtype=np.float32).tobytes())
    (folder / "m.onnx").write_bytes(proto.SerializeToString())
    return folder / "m.onnx"


def test_a_region_of_external_data_is_read_once(tmp_path: Path) -> None:
    path = shared_region(tmp_path, 60, 0)
    with metering({"bytes": path.stat().st_size + 1024}) as meter:
        constants = load(path).constants
    assert meter.spent["bytes"] == path.stat().st_size + 1024
    assert len(constants) == 1


def test_a_region_seen_as_other_shapes_and_types_is_other_constants(tmp_path: Path) -> None:
    path = shared_region(tmp_path, 3, 0)
    proto = onnx.load(path, load_external_data=False)
    proto.graph.node[0].CopyFrom(node("Neg", ["x"], ["y"]))
    proto.graph.initializer[1].dims[:] = [2, 128]
    proto.graph.initializer[2].data_type = TensorProto.INT32
    proto.graph.node.extend(node("Identity", [f"w{k}"], [f"o{k}"]) for k in range(3))
    proto.graph.output.extend(onnx.ValueInfoProto(name=f"o{k}") for k in range(3))
    path.write_bytes(proto.SerializeToString())
    constants = load(path).constants.values()
    assert sorted((a.shape, a.dtype.name) for a in constants) == [
        ((2, 128), "float32"), ((256,), "float32"), ((256,), "int32"),
    ]  # fmt: skip


def test_what_reads_a_long_chain_names_each_source_once() -> None:
    """Names that were written out at each of 2,000 nodes that a rewrite removes are 2 million."""
    with metering() as meter:
        graph = run_passes(load(called(1000)))
    (kept,) = (n for n in graph.nodes if n.op == "relu")
    assert len(kept.provenance) == 2000
    assert meter.spent["sources"] <= 40 * 2000


def test_one_constant_is_not_looked_through_for_each_node_that_reads_it() -> None:
    def made(bound: dict[str, float]) -> int:
        nodes = [node("Conv", ["x", "w"], ["c"]), node("Mul", ["c", "f"], ["y"])]
        constants = {"w": np.ones((4, 4, 1, 1), np.float32), "f": np.full((4, 1, 1), 3, np.float32)}
        with metering(bound) as meter:
            graph = load(model(nodes, {"x": [1, 4, 2, 2]}, constants=constants))
            meter.earned.clear()
            return len(DeadCode()(AffineFolding()(graph)).nodes)

    assert made({}) == 1
    assert made({"folded_bytes": 1}) == made({"folded_operations": 1}) == 2


@pytest.mark.parametrize("loop", [Identities(), lambda graph: decide(graph, asked(graph))], ids=["pass", "plan"])
def test_time_is_looked_at_inside_of_passes_and_of_the_plan(loop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"v{k}" for k in range(50)]
    graph = load(model([node("Neg", [a], [b]) for a, b in itertools.pairwise(names)], {"v0": [2]}, names[-1:]))
    looks = []
    monkeypatch.setattr(Meter, "tick", lambda meter, what: looks.append(what))
    loop(graph)
    assert len(looks) >= 49


def test_regions_that_overlap_are_refused(tmp_path: Path) -> None:
    assert load(shared_region(tmp_path, 4, 1024)).constants
    with pytest.raises(ModelError, match="regions of external data overlap"):
        load(shared_region(tmp_path, 60, 4))


def test_a_proof_gives_up_after_some_steps() -> None:
    """Taken apart in every way, a difference of 40 minima and 40 sizes is 3^40 cases."""
    total = sum((minimum(sym(f"a{k}"), sym(f"b{k}")) for k in range(40)), -5)
    assert not known_at_least(total - sum(sym(f"c{k}") for k in range(40)), 0)


def test_sizes_that_are_too_long_are_not_followed() -> None:
    b = Builder("g")
    x = b.input("x", mapsto_i64(), (sym("n"),))
    value = b.known([sym("n") + 1])
    for _ in range(12):
        value = b.one("mul", [value, value])
    assert b.content(value) is None and x is not None


def mapsto_i64() -> Any:
    from mapsto.ir.dtypes import DType

    return DType.I64
