"""Faults that random graphs found, each as the smallest model that showed it, named after what broke."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort

from mapsto.devices.cpu.workers import Workers
from mapsto.importers import onnx as importer
from mapsto.ops.interpret import run_graph
from mapsto.session.compile import build, prepared

Feed = dict[str, np.ndarray]


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def check(workers: Workers, graph: str, feed: Feed) -> None:
    """Native code, the numpy reference and ONNX Runtime agree on a model in ONNX's text form."""
    model = onnx.parser.parse_model(f'<ir_version: 9, opset_import: ["" : 20]> g {graph}')
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = session.run(None, feed)
    shapes = {name: array.shape for name, array in feed.items()}
    native = build(prepared(model, shapes), workers, 2, None).run(feed)
    reference = run_graph(importer.load(model, shapes), feed)
    for theirs, (name, ours) in zip(expected, native.items(), strict=True):
        np.testing.assert_allclose(reference[name], theirs, rtol=1e-5, atol=1e-5, err_msg=f"reference: {name}")
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5, err_msg=f"native: {name}")


def test_what_a_node_keeps_between_its_statements_has_a_type(workers: Workers) -> None:
    check(
        workers,
        "(float[5, 3] x) => (int64[3] y) { y = ArgMin <axis: int = 0, keepdims: int = 0> (x) }",
        {"x": numbers(5, 3)},
    )


def test_a_temporary_read_as_an_index_is_kept_in_memory(workers: Workers) -> None:
    graph = """(float[1, 1, 3, 5] x) => (float[1, 1, 6, 5] y)
        <float[4] s = {1, 1, 2, 1}> { y = Resize <mode: string = "linear"> (x, , s) }"""
    check(workers, graph, {"x": numbers(1, 1, 3, 5)})


def test_a_loaded_index_inside_a_division_is_placed_once(workers: Workers) -> None:
    graph = """(float[1, 16, 3, 5] x) => (float[1, 16, 6, 20] z)
        <float[4] twice = {1, 1, 2, 2}, float[4] wider = {1, 1, 1, 2}> {
            y = Resize <mode: string = "nearest", coordinate_transformation_mode: string = "asymmetric",
                        nearest_mode: string = "floor"> (x, , twice)
            z = Resize <mode: string = "linear"> (y, , wider)
        }"""
    check(workers, graph, {"x": numbers(1, 16, 3, 5)})


def test_a_remainder_of_a_loaded_index_is_no_index_from_the_end(workers: Workers) -> None:
    graph = """(float[1, 8, 3, 4] x) => (float[1, 2, 12, 16] z) <float[4] s = {1, 1, 2, 2}> {
            y = DepthToSpace <blocksize: int = 2, mode: string = "CRD"> (x)
            z = Resize <mode: string = "linear"> (y, , s)
        }"""
    check(workers, graph, {"x": numbers(1, 8, 3, 4)})


def test_updates_scattered_into_a_transposed_operand_stay(workers: Workers) -> None:
    graph = """(float[3, 4] x, float[2, 3] u) => (float[4, 3] z) <int64[2, 1] at = {2, 1}> {
            y = Transpose <perm: ints = [1, 0]> (x)
            z = ScatterND (y, at, u)
        }"""
    check(workers, graph, {"x": numbers(3, 4), "u": numbers(2, 3) + 9})


def test_a_contraction_may_read_a_scalar(workers: Workers) -> None:
    graph = """(float x, float[1, 1, 8] y) => (float[1, 1, 8] z)
        <int64[3] s = {1, 1, 1}> { a = Reshape (x, s) z = MatMul (a, y) }"""
    check(workers, graph, {"x": numbers(), "y": numbers(1, 1, 8)})


def test_none_of_the_largest(workers: Workers) -> None:
    graph = "(float[3, 9] x) => (float[3, 0] y, int64[3, 0] i) <int64[1] k = {0}> { y, i = TopK (x, k) }"
    check(workers, graph, {"x": numbers(3, 9)})


def test_what_reads_a_result_stored_on_the_way_is_not_overtaken(workers: Workers) -> None:
    """x/2 (1 + erf(x/sqrt 2)) of a convolution: where x/2 is a kernel of its own, it comes after the convolution and
    before the product.
    """
    graph = """(float[1, 1, 3, 3] x) => (float[1, 8, 3, 3] z) <float[8, 1, 1, 1] w = {1, -1, 2, 3, -2, 0.5, 4, 1}> {
            y = Conv <kernel_shape: ints = [1, 1]> (x, w)
            z = Gelu <approximate: string = "none"> (y)
        }"""
    check(workers, graph, {"x": numbers(1, 1, 3, 3)})


def test_guards_of_loaded_places_are_placed_once(workers: Workers) -> None:
    """A border, read through a table of places that has an element for each lane."""
    graph = """(float[1, 2, 3, 3] x) => (float[1, 2, 3, 8] z)
        <int64[8] p = {0, 0, 0, 0, 0, 0, 0, 1}, float[4] s = {1, 1, 1, 2}> {
            y = Pad (x, p)
            z = Resize <mode: string = "linear"> (y, , s)
        }"""
    check(workers, graph, {"x": numbers(1, 2, 3, 3)})
