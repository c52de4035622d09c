"""Reads the assembly of the template's innermost loops: accumulators stay in registers, nothing goes through the
stack."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import pytest
from benchmarks.contraction.cases import BF16, FP32, INT8, Convolution, Format, Product, convolution_case, product_case
from benchmarks.contraction.native import plain
from benchmarks.contraction.peak import ACCUMULATORS, peak_function
from benchmarks.contraction.shapes import GOALS
from tests.devices.contraction.plans import sized_product

from mapsto.devices.contraction.template import ContractionForm, LoopAxis, contraction, plan_contraction
from mapsto.devices.cpu import isa as isas
from mapsto.devices.cpu.compiler import compile_modules
from mapsto.devices.cpu.isa import AVX2, AVX512_FULL, SSE2, Isa
from mapsto.ir.dtypes import DType
from mapsto.loop.ast import Function, Param
from mapsto.loop.llvm import to_llvm

ZEN4 = isas.tuned(AVX512_FULL, "znver4")
FORMATS = (FP32, BF16, INT8)
_MULTIPLY = re.compile(r"^\s*v?(fmadd\d+[ps]s|vfmadd\d+[ps]s|mulps|vpdpbusd|vdpbf16ps|vpmaddwd|pmaddwd)")
_BRANCH = re.compile(r"^\s*j[a-z]+\s+(\.L\w+)")
_LABEL = re.compile(r"^(\.L\w+):")


@dataclass(frozen=True)
class Loop:
    """An innermost loop that multiplies: its lines, and whether %rbp is the frame's pointer in its function."""

    lines: tuple[str, ...]
    frame_pointer: bool

    @property
    def multiplications(self) -> int:
        return sum(bool(_MULTIPLY.match(line)) for line in self.lines)

    @property
    def stack(self) -> list[str]:
        """Lines that touch the stack."""
        pointers = r"\(%(rsp|rbp)" if self.frame_pointer else r"\(%rsp"
        return [line.strip() for line in self.lines if re.search(pointers, line)]


def inner_loops(assembly: str) -> list[Loop]:
    """Stretches from a label to a branch back to it with no other such stretch inside, that multiply."""
    lines = assembly.splitlines()
    frame = any("%rsp, %rbp" in line for line in lines)
    labels: dict[str, int] = {}
    spans: list[tuple[int, int]] = []
    for number, line in enumerate(lines):
        if label := _LABEL.match(line):
            labels[label.group(1)] = number
        elif (branch := _BRANCH.match(line)) and branch.group(1) in labels:
            spans.append((labels[branch.group(1)], number))
    innermost = [s for s in spans if not any(o != s and s[0] <= o[0] and o[1] <= s[1] for o in spans)]
    found = [Loop(tuple(lines[a : b + 1]), frame) for a, b in innermost]
    return [loop for loop in found if loop.multiplications]


def assembly_of(functions: list[Function], isa: Isa) -> list[str]:
    modules = [(f.name, to_llvm(f, isa.capabilities)) for f in functions]
    return [made.decode() for made in compile_modules(modules, isa, kind="assembly")]


def form_of(shape: Convolution | Product, fmt: Format) -> ContractionForm:
    """The form alone; a small image stands for the operands."""
    case = convolution_case(shape, fmt) if isinstance(shape, Convolution) else product_case(shape, fmt)
    return case.form


def check(forms: list[ContractionForm], isa: Isa) -> None:
    plans = [plan_contraction(form, isa.core) for form in forms]
    texts = assembly_of([contraction(plan, plain)[0] for plan in plans], isa)
    for plan, text in zip(plans, texts, strict=True):
        loops = inner_loops(text)
        assert loops, plan.form
        for loop in loops:
            assert not loop.stack, (isa.name, plan.tiling, loop.stack[:4])
        vectors = len(plan.tiling.panel) if plan.tiling.full_panels else len(plan.tiling.last)
        assert max(loop.multiplications for loop in loops) >= vectors * plan.tiling.sizes[0]


@pytest.mark.parametrize("target", [AVX2, ZEN4], ids=lambda isa: isa.name)
@pytest.mark.parametrize("fmt", FORMATS, ids=lambda fmt: fmt.name)
def test_measured_kernels_keep_off_the_stack(target: Isa, fmt: Format) -> None:
    if fmt.interleave > 1 and not target.has("dot_u8s8"):
        pytest.skip("without dot instructions the products need temporaries of their own")
    check([form_of(goal.shape, fmt) for goal in GOALS], target)


def test_little_but_products_is_in_a_round() -> None:
    """Loads and broadcasts of a step are three quarters of its products at most; what counts and branches comes once a
    round.
    """
    plans = [plan_contraction(form_of(goal.shape, FP32), AVX2.core) for goal in GOALS]
    for plan, text in zip(plans, assembly_of([contraction(p, plain)[0] for p in plans], AVX2), strict=True):
        loops = [loop for loop in inner_loops(text) if loop.multiplications >= 8 * 8]
        assert loops, plan.tiling
        for loop in loops:
            lines = [line for line in loop.lines if not line.strip().startswith("#")]
            assert len(lines) <= loop.multiplications * 7 / 4 + 20, (plan.tiling, lines)


def test_sums_of_pairs_of_16_bits_keep_their_registers() -> None:
    """Without an instruction of bytes: two a product, and what waits between them; the local array is the stack's."""
    forms = [
        replace(form_of(goal.shape, FP32), b=Param("b", DType.I16), out=Param("out", DType.I32, True))
        for goal in GOALS
    ]
    forms = [
        replace(f, a=Param("a", DType.I16), accumulator=DType.I32, interleave=1 if f.channels % 2 else 2) for f in forms
    ]
    plans = [plan_contraction(form, AVX2.core) for form in forms]
    for plan, text in zip(plans, assembly_of([contraction(p, plain)[0] for p in plans], AVX2), strict=True):
        loops = inner_loops(text)
        assert loops, plan.form
        for loop in loops:
            assert len(loop.stack) <= loop.multiplications / 8, (plan.tiling, loop.stack)


ODD = (
    Convolution(19, 21, 9, stride=2, dilation=2),
    Convolution(3, 32, 30, kernel=7, stride=2),
    Convolution(100, 72, (3, 13)),
    Product(1, 512, 512),
    Product(3, 64, 100),
    Product(50, 1024, 1000),
    Product(197, 4096, 64),
)


@pytest.mark.parametrize("target", [SSE2, AVX2, isas.AVX512, ZEN4], ids=lambda isa: f"{isa.name}-{isa.fma_per_cycle}")
@pytest.mark.parametrize("fmt", FORMATS, ids=lambda fmt: fmt.name)
def test_odd_sizes_keep_off_the_stack(target: Isa, fmt: Format) -> None:
    if fmt.interleave > 1 and not target.has("dot_u8s8"):
        pytest.skip("without dot instructions the products need temporaries of their own")
    check([form_of(shape, fmt) for shape in ODD], target)


@pytest.mark.parametrize("target", [AVX2, ZEN4], ids=lambda isa: isa.name)
def test_run_time_strides_keep_off_the_stack(target: Isa) -> None:
    """Rows whose distance is a run-time size need a pointer each: the tile leaves registers for them."""
    check([sized_product(True), replace(sized_product(False), name="packed")], target)


@pytest.mark.parametrize("fmt", FORMATS, ids=lambda fmt: fmt.name)
def test_the_peak_loop_is_nothing_but_multiplications(fmt: Format) -> None:
    (text,) = assembly_of([peak_function(fmt, ZEN4)], ZEN4)
    (loop,) = inner_loops(text)
    assert loop.multiplications == ACCUMULATORS
    assert not loop.stack
    assert len(loop.lines) <= ACCUMULATORS + 4  # label, count, compare, branch


def test_the_reader_sees_spills() -> None:
    """A loop with more accumulators than registers must be caught, or the tests above prove nothing."""
    case = convolution_case(Convolution(16, 64, 28), FP32)
    plan = plan_contraction(case.form, ZEN4.core)
    crowded = replace(plan, tiling=replace(plan.tiling, panel=(16,) * 4, full_panels=1, sizes=(14,), counts=(2,)))
    (text,) = assembly_of([contraction(crowded, plain)[0]], ZEN4)
    assert any(loop.stack for loop in inner_loops(text))


@pytest.mark.parametrize("target", [AVX2, ZEN4], ids=lambda isa: isa.name)
@pytest.mark.parametrize("element", [DType.BF16, DType.I8, DType.I4], ids=lambda element: element.value)
def test_weights_that_are_widened_as_they_come_do_not_wait(target: Isa, element: DType) -> None:
    """A row beside many columns: a vector of B is multiplied as soon as it is wide. Of eights of 4 bits a block is no
    loop: what is settled once in a block of 32 channels, its elements of A, and masks may lie on the stack, but no sum
    goes there step by step.
    """
    eights, in_blocks = 8 if element is DType.I4 else 1, element is not DType.BF16
    b = Param("b", {DType.I4: DType.I32}.get(element, element))
    form = ContractionForm(
        "kernel", Param("a", DType.F32), b, Param("out", DType.F32, True), DType.F32, 576, (LoopAxis(1, 0, 0, 576),),
        1536 // eights, channel_stride=eights, scale=Param("scale", DType.F32) if in_blocks else None,
        scaled=32 // eights if in_blocks else 0, nibbles=eights if eights > 1 else 0,
    )  # fmt: skip
    plan = plan_contraction(form, target.core)
    (text,) = assembly_of([contraction(plan, plain)[0]], target)
    loops, vectors = inner_loops(text), len(plan.tiling.panel)
    assert vectors > 4 and max(loop.multiplications for loop in loops) >= 8 * vectors
    for loop in loops:
        stored = [line for line in loop.stack if eights == 1 or line.endswith("(%rsp)")]
        assert len(stored) <= (3 * vectors + 8 if eights > 1 else 0), (target.name, plan.tiling, stored[:4])
