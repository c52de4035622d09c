"""Where the works of a network go on a machine that is only described, and a picture of a run. Nothing is run.

    python examples/placement.py                     # a small network of two branches, on a board
    python examples/placement.py model.onnx --shape x=1,3,224,224 --machine phone-npu --objective energy -o phone.png

A machine is the name of one that comes along (`mapsto advise` lists them) or a file (docs/machines.md). The picture has
a lane for each device and each bus. Needs matplotlib: pip install 'mapsto[plot]'.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from onnx import TensorProto, helper, numpy_helper

from mapsto.placement.model import latency
from mapsto.placement.problem import OBJECTIVES
from mapsto.placement.trace import timeline_text, trace_events
from mapsto.session.simulate import Simulation, read_machine, simulate

COLOURS = {"work": "#9ec5e8", "transfer": "#e8a33d"}
# Shares of the whole run: a work has its name and ops in the picture, its name upright, or where it is shorter nothing.
WIDE, NARROW = 0.04, 0.01
MOST_OPS = 3  # that fit under a name


def branched(size: int = 96, seed: int = 0) -> onnx.ModelProto:
    """A convolution and a pooling; then two branches, one of convolutions and one that begins with a pooling, which are
    joined; then a mean over all places and a linear layer. Weights are random.
    """
    rng = np.random.default_rng(seed)
    nodes: list[onnx.NodeProto] = []
    stored: list[onnx.TensorProto] = []

    def add(op: str, *inputs: str, name: str, **attributes: object) -> str:
        nodes.append(helper.make_node(op, list(inputs), [name], name, **attributes))
        return name

    def weight(name: str, *shape: int) -> str:
        array = rng.standard_normal(shape) * (2 / np.prod(shape[1:])) ** 0.5
        stored.append(numpy_helper.from_array(array.astype(np.float32), name))
        return name

    def conv(x: str, name: str, before: int, after: int, window: int) -> str:
        made = add("Conv", x, weight(f"{name}.w", after, before, window, window), name=name, pads=[window // 2] * 4)
        return add("Relu", made, name=f"{name}.relu")

    stem = add("MaxPool", conv("image", "stem", 3, 32, 3), name="halved", kernel_shape=[2, 2], strides=[2, 2])
    deep = conv(conv(stem, "narrow", 32, 32, 1), "deep", 32, 64, 3)
    pooled = add("MaxPool", stem, name="pooled", kernel_shape=[3, 3], pads=[1] * 4)
    joined = add("Concat", deep, conv(pooled, "flat", 32, 32, 1), name="joined", axis=1)
    mean = add("Flatten", add("GlobalAveragePool", conv(joined, "last", 96, 64, 3), name="mean"), name="row")
    add("Gemm", mean, weight("linear.w", 10, 64), name="scores", transB=1)
    ends = {"image": [1, 3, size, size], "scores": [1, 10]}
    image, scores = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in ends.items())
    graph = helper.make_graph(nodes, "branched", [image], [scores], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def lines_of(found: Simulation) -> list[str]:
    """Where each work runs and what it would take elsewhere; what it would take to have all on the host."""
    names = found.problem.devices
    lines = [f"one run on {found.machine.name}: {found.seconds * 1e6:.1f} us, {found.placement.said}"]
    host = latency(found.problem, [0] * len(found.works))
    lines.append(f"all on {names[0]}: {host * 1e6:.1f} us")
    for work, seat in zip(found.works, found.placement.seats, strict=True):
        takes = "  ".join(
            f"{name} {priced.seconds * 1e6:.1f} us" if not priced.reason else f"{name} -"
            for name, priced in zip(names, work.priced, strict=True)
        )
        lines.append(f"{work.name:>6} on {names[seat]:<6} {'+'.join(work.ops) or 'layout':<28} {takes}")
    return lines


def picture(found: Simulation) -> Figure:
    """A lane for each device and each bus, from the events that Perfetto is given too."""
    events = trace_events(found.problem, found.events)["traceEvents"]
    lanes = {e["tid"]: e["args"]["name"] for e in events if e["ph"] == "M"}
    spans = [e for e in events if e["ph"] == "X"]
    ops = {work.name: "\n".join([work.name, *work.ops[:MOST_OPS]]) for work in found.works}
    figure = Figure(figsize=(12, 1.2 + 0.6 * len(lanes)), layout="constrained")
    axes = figure.add_subplot()
    for span in spans:
        colour, is_work = COLOURS[span["cat"]], span["cat"] == "work"
        edge = {"edgecolor": "white" if is_work else colour, "linewidth": 0.5}  # a short transfer is to be seen
        axes.barh(span["tid"], span["dur"], left=span["ts"], height=0.85, color=colour, **edge)
        share = span["dur"] / (found.seconds * 1e6)
        if is_work and share >= NARROW:
            name, turn = (ops[span["name"]], 0) if share >= WIDE else (span["name"], 90)
            middle = span["ts"] + span["dur"] / 2
            axes.text(middle, span["tid"], name, ha="center", va="center", fontsize=7, rotation=turn)
    axes.set_xlim(0, found.seconds * 1e6)
    axes.set_ylim(len(lanes) - 0.5, -0.5)  # the host on top
    axes.set_yticks(list(lanes), list(lanes.values()))
    axes.set_xlabel("microseconds")
    axes.set_title(f"{found.machine.name}: one run, {found.placement.said} for {found.objective}; nothing was run")
    figure.legend(handles=[Patch(color=c, label=name) for name, c in COLOURS.items()], loc="outside right upper")
    return figure


def shape_of(text: str) -> tuple[str, list[int]]:
    """x=1,3,224,224 as a name and its dims."""
    name, _, dims = text.rpartition("=")
    return name, [int(dim) for dim in dims.split(",")]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path, help="an ONNX file; without it a small network is made")
    parser.add_argument("--machine", default="conv-board", help="a name, or a file (conv-board)")
    parser.add_argument("--objective", default="latency", choices=OBJECTIVES, help="what is to be least (latency)")
    parser.add_argument("--shape", type=shape_of, action="append", default=[], help="x=1,3,224,224; repeatable")
    parser.add_argument("-o", "--output", type=Path, default=Path("placement.png"), help="the picture (placement.png)")
    given = parser.parse_args(arguments)
    model = given.model or branched()
    found = simulate(model, read_machine(given.machine), dict(given.shape) or None, given.objective)
    print(*lines_of(found), sep="\n")
    print()
    print(timeline_text(found.problem, found.events))
    picture(found).savefig(given.output, dpi=150)
    print(f"\nthe picture is in {given.output}")


if __name__ == "__main__":
    main()
