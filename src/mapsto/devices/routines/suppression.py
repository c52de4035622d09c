"""non_max_suppression: each class's candidates by falling score, compared with those that stayed, a vector at a time.

Two calls: every (image, class) on its own, into scratch; then all that stayed in one list.
"""

from __future__ import annotations

from dataclasses import dataclass

from mapsto.devices.routines.code import RoutineCall, RoutineCode, Scratch
from mapsto.devices.routines.sorting import Entries, StridedRow, merge_sort
from mapsto.devices.routines.writer import Writer, as_value, both, integer, splat, split_index
from mapsto.ir.dtypes import DType
from mapsto.ir.expr import Dim, minimum, mul
from mapsto.ir.graph import Node, Value
from mapsto.loop import ast as loop
from mapsto.ops.shapes import dim_min

_F32 = loop.Type(DType.F32)
BOOL = loop.Type(DType.BOOL)
# The planes of a class's kept boxes: two low and two high edges, and the area.
PLANES = 5


def non_max_suppression(node: Node, inputs: tuple[Value | None, ...], lanes: int, name: str) -> RoutineCode:
    """boxes[N, S, 4], scores[N, C, S], overlap?, least score? -> (image, class, box) i64[.., 3], and how many."""
    boxes, scores = inputs[:2]
    assert boxes is not None and scores is not None
    images, classes, count = scores.shape
    limit = dim_min(node.attrs["limit"], count)  # type: ignore[arg-type]
    rows = mul(images, classes)
    scratch = (
        Scratch(f"{name}_entries", DType.I64, (rows, 2, count)),
        Scratch(f"{name}_kept", DType.F32, (rows, PLANES, limit)),
        Scratch(f"{name}_chosen", DType.I64, (rows, limit)),
        Scratch(f"{name}_counts", DType.I64, (rows,)),
    )
    w = Writer([*boxes.shape, *scores.shape, limit])
    suppression = _Suppression(w, boxes, scores, limit, lanes, bool(node.attrs["center"]))
    first = suppression.write(inputs, scratch, f"{name}_suppress")
    return RoutineCode((first, _collect(node, scores, limit, scratch, f"{name}_collect")))


@dataclass
class _Suppression:
    """One class of one image."""

    w: Writer
    boxes: Value
    scores: Value
    limit: Dim
    lanes: int
    center: bool

    def write(self, inputs: tuple[Value | None, ...], scratch: tuple[Scratch, ...], name: str) -> RoutineCall:
        w = self.w
        w.tensor("boxes", self.boxes)
        w.tensor("scores", self.scores)
        given = dict(enumerate(inputs))
        overlap, least = given.get(2), given.get(3)
        most: loop.Value = loop.Const(0.0, _F32)
        if overlap is not None:
            most = loop.Load(w.tensor("overlap", overlap), 0, _F32)
        threshold = None if least is None else loop.Load(w.tensor("least", least), 0, _F32)
        for place, part in zip(("entries", "kept", "chosen", "counts"), scratch, strict=True):
            w.param(place, part.name, part.dtype, writes=True)
        images, classes, count = self.scores.shape
        with w.share("row") as row:
            entries = Entries("entries", w.index("own", mul(row, 2 * count)), 1, count)
            line = StridedRow("scores", DType.F32, w.index("line", mul(row, count)), 1, count, largest=True)
            found = self.candidates(line, entries, threshold)
            final = merge_sort(w, entries, found, count)
            image, _ = split_index(w, row, classes)
            self.choose(row, final, found, w.index("first_box", mul(image, count)), w.let("most", most))
        return RoutineCall(w.function(name), mul(images, classes), w.operands, scratch)

    def candidates(self, line: StridedRow, entries: Entries, threshold: loop.Value | None) -> Dim:
        """Entries of the scores above the threshold; their number. Where a vector holds none, one test passes it."""
        w = self.w
        found = w.declare("found", integer(0))
        least = None if threshold is None else w.let("least_score", threshold)
        with w.loop("chunk", 0, line.length, step=self.lanes) as chunk:
            stop = minimum(line.length, chunk + self.lanes)
            if least is None:
                self._append(line, entries, found, chunk, stop, None)
            else:
                mask = loop.LaneMask(line.length - chunk, loop.Type(DType.BOOL, self.lanes))
                scores = loop.Load(line.buffer, line.base + chunk, loop.Type(DType.F32, self.lanes), mask=mask)
                above = both(loop.Compare("gt", scores, splat(least, self.lanes)), mask)
                with w.when(loop.ReduceLanes("any", above, BOOL)):
                    self._append(line, entries, found, chunk, stop, least)
        return w.index("candidates", found)

    def _append(
        self, line: StridedRow, entries: Entries, found: loop.Var, start: Dim, stop: Dim, least: loop.Value | None
    ) -> None:
        """Writes each entry at the next place, which moves on only past a candidate."""
        w = self.w
        with w.loop("i", start, stop) as i:
            entries.store(w, w.index("place", found), line.entry(w, i))
            step: loop.Value = integer(1)
            if least is not None:
                above = loop.Compare("gt", loop.Load(line.buffer, line.base + i, _F32), least)
                step = loop.Select(above, integer(1), integer(0))
            w.assign(found, loop.Binary("add", found, step))

    def choose(self, row: Dim, entries: Entries, found: Dim, first_box: Dim, most: loop.Value) -> None:
        """Walks the candidates until the limit is reached."""
        w = self.w
        kept = w.index("planes", mul(row, PLANES * self.limit))
        count = w.declare("stayed", integer(0))
        at = w.declare("candidate", integer(0))
        going = both(loop.Compare("lt", at, as_value(found)), loop.Compare("lt", count, as_value(self.limit)))
        with w.repeat(going):
            (word,) = entries.load(w, w.index("at", at))
            box = w.index("box", loop.Binary("and", word, integer((1 << 32) - 1)))
            edges = self.edges(mul(first_box + box, 4))
            number = w.index("number", count)
            with w.when(loop.Unary("not", self.overlaps(edges, kept, number, most))):
                for plane, edge in enumerate(edges):
                    w.store("kept", kept + mul(self.limit, plane) + number, edge)
                w.store("chosen", mul(row, self.limit) + number, as_value(box))
                w.assign(count, loop.Binary("add", count, integer(1)))
            w.assign(at, loop.Binary("add", at, integer(1)))
        w.store("counts", row, count)

    def edges(self, place: Dim) -> list[loop.Value]:
        """A box as its low edges, its high edges and its area."""
        w = self.w
        a, b, c, d = (w.let("edge", loop.Load("boxes", place + i, _F32)) for i in range(4))
        pairs = []
        for first, second in ((a, c), (b, d)):
            if self.center:
                half = w.let("half", loop.Binary("mul", second, loop.Const(0.5, _F32)))
                pairs.append((loop.Binary("sub", first, half), loop.Binary("add", first, half)))
            else:
                pairs.append((loop.Binary("min", first, second), loop.Binary("max", first, second)))
        low_x, low_y, high_x, high_y = (w.let("edge", pairs[i][k]) for k in (0, 1) for i in (0, 1))
        sides = loop.Binary("sub", high_x, low_x), loop.Binary("sub", high_y, low_y)
        return [low_x, low_y, high_x, high_y, w.let("area", loop.Binary("mul", *sides))]

    def overlaps(self, edges: list[loop.Value], kept: Dim, number: Dim, most: loop.Value) -> loop.Value:
        """Whether the intersection over union with one of the kept boxes is above `most`."""
        w, wide = self.w, loop.Type(DType.F32, self.lanes)
        hit = w.declare("hit", loop.Const(False, BOOL))
        own = [w.let("own", splat(edge, self.lanes)) for edge in edges]
        with w.loop("k", 0, number, step=self.lanes) as k:
            mask = loop.LaneMask(number - k, loop.Type(DType.BOOL, self.lanes))
            places = [kept + mul(self.limit, plane) + k for plane in range(PLANES)]
            other = [w.let("other", loop.Load("kept", place, wide, mask=mask)) for place in places]
            sides = []
            for low, high in ((0, 2), (1, 3)):
                end, start = loop.Binary("min", own[high], other[high]), loop.Binary("max", own[low], other[low])
                sides.append(w.let("side", loop.Binary("sub", end, start)))
            inside = w.let("inside", loop.Binary("mul", *sides))
            union = w.let("union", loop.Binary("sub", loop.Binary("add", own[4], other[4]), inside))
            zero = loop.Const(0.0, wide)
            ratio = loop.Binary("div", inside, union)
            over = both(mask, loop.Compare("gt", ratio, splat(most, self.lanes)))
            for positive in (*sides, inside, own[4], other[4], union):
                over = both(over, loop.Compare("gt", positive, zero))
            w.assign(hit, loop.Binary("or", hit, loop.ReduceLanes("any", over, BOOL)))
        return hit


def _collect(node: Node, scores: Value, limit: Dim, scratch: tuple[Scratch, ...], name: str) -> RoutineCall:
    """What stayed, class by class, then zeros."""
    indices, count = node.outputs
    images, classes, _ = scores.shape
    w = Writer([*scores.shape, limit])
    w.param("chosen", scratch[2].name, DType.I64)
    w.param("counts", scratch[3].name, DType.I64)
    w.tensor("indices", indices, writes=True)
    w.tensor("count", count, writes=True)
    with w.share("once"):
        total = w.declare("total", integer(0))
        with w.loop("image", 0, images) as image, w.loop("class", 0, classes) as which:
            row = w.index("row", mul(image, classes) + which)
            stayed = w.index("stayed", loop.Load("counts", row, loop.Type(DType.I64)))
            start = w.index("start", total)
            with w.loop("i", 0, stayed) as i:
                box = loop.Load("chosen", mul(row, limit) + i, loop.Type(DType.I64))
                for column, value in enumerate((as_value(image), as_value(which), box)):
                    w.store("indices", 3 * (start + i) + column, value)
            w.assign(total, loop.Binary("add", total, as_value(stayed)))
        with w.loop("i", w.index("rest", mul(w.index("valid", total), 3)), mul(mul(images, classes), 3 * limit)) as i:
            w.store("indices", i, integer(0))
        w.store("count", 0, total)
    return RoutineCall(w.function(name), 1, w.operands)
