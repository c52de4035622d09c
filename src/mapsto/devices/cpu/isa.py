"""Instruction sets of x86-64 processors as data: what a register holds, how many there are, what one instruction
does."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass, replace

from mapsto.devices.contraction.core import Core
from mapsto.devices.cpu.deciding import ISA
from mapsto.errors import CompileError
from mapsto.ir.dtypes import DType
from mapsto.loop.llvm import Capabilities

_MULTIPLYING = frozenset({"fma", "dot_u8s8", "dot_bf16"})
_FENCES = frozenset({"fence"})  # LLVM, in this process, keeps them


@dataclass(frozen=True)
class Isa:
    """One instruction set. `cpu` and `features` are LLVM's words for it.

    `abilities` are those of `loop.llvm.Capabilities`; `fma_per_cycle` counts vector multiply-adds (or multiply, add
    pairs) of full width that a typical core starts per cycle, `loads_per_cycle` vector loads: the cost rule of tiles
    reads them.
    """

    name: str
    cpu: str
    features: tuple[str, ...]
    vector_bits: int
    registers: int
    abilities: frozenset[str]
    fma_per_cycle: float = 1.0
    loads_per_cycle: float = 2.0
    narrow_cost: float = 1.0  # of a multiply-add on half a register or less, against one on a whole register

    def lanes(self, element: DType) -> int:
        """Elements of a type in one register."""
        return self.vector_bits // (8 * element.size)

    @property
    def accumulator_lanes(self) -> int:
        """32-bit lanes of one register."""
        return self.core.accumulator_lanes

    @property
    def core(self) -> Core:
        """What the contraction template must know."""
        wide = self.vector_bits >= 512
        costs = self.fma_per_cycle, self.loads_per_cycle, self.narrow_cost
        return Core(self.vector_bits, self.registers, self.abilities & _MULTIPLYING | _FENCES, wide, *costs)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(self.abilities)

    def has(self, ability: str) -> bool:
        return ability in self.abilities

    @property
    def feature_text(self) -> str:
        return ",".join(self.features)


SSE2 = Isa("sse2", "x86-64", (), 128, 16, frozenset(), fma_per_cycle=2.0)
AVX2 = Isa("avx2", "x86-64-v3", (), 256, 16, frozenset({"fma", "round", "f16", "masked"}), fma_per_cycle=2.0)
AVX512 = Isa(
    "avx512",
    "x86-64-v4",
    ("-prefer-256-bit",),
    512,
    32,
    frozenset({"fma", "round", "f16", "masked", "masked_narrow", "permute_words"}),
    fma_per_cycle=2.0,
)
_EXTENSIONS = {"avx512vnni": "dot_u8s8", "avx512bf16": "dot_bf16"}
AVX512_FULL = replace(
    AVX512,
    name="avx512-vnni-bf16",
    features=(*AVX512.features, "+avx512vnni", "+avx512bf16"),
    abilities=AVX512.abilities | {"dot_u8s8", "dot_bf16", "bf16"},
)

_AVX512_NEEDS = ("avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd")
_AVX2_NEEDS = ("avx2", "fma", "f16c", "bmi", "bmi2", "lzcnt", "movbe", "popcnt")


def from_features(features: dict[str, bool]) -> Isa:
    """The widest instruction set that a processor with these LLVM feature flags runs."""
    if not all(features.get(f) for f in _AVX2_NEEDS):
        return SSE2
    if not all(features.get(f) for f in _AVX512_NEEDS):
        return AVX2
    isa = AVX512
    for feature, ability in _EXTENSIONS.items():
        if features.get(feature):
            name, more = (
                f"{isa.name}-{feature.removeprefix('avx512')}",
                {ability, "bf16"} if "bf16" in feature else {ability},
            )
            isa = replace(isa, name=name, features=(*isa.features, f"+{feature}"), abilities=isa.abilities | more)
    return isa


# Cores that differ from the typical one, by LLVM's name of the processor. Zen 4 works on 512 bits in two halves.
_TUNING: dict[str, dict[str, float]] = {"znver4": {"fma_per_cycle": 1.0, "narrow_cost": 0.5}}


def tuned(isa: Isa, processor: str) -> Isa:
    """The same instructions with the costs of a named processor."""
    known = _TUNING.get(processor, {}) if isa.vector_bits == 512 else {}
    return replace(isa, **known) if known else isa  # type: ignore[arg-type]


@functools.cache
def host() -> Isa:
    """The widest instruction set of the processor that we run on, or the narrower one that $MAPSTO_ISA names: then all
    goes as on a processor that has no more. Raises CompileError for a name that this processor does not run.
    """
    own, processor = _processor()
    name = os.environ.get(ISA) or own.name
    isa = own if name == own.name else tuned(by_name(name), processor)
    if not _within(isa, own):
        raise CompileError(f"MAPSTO_ISA={name}: the widest instruction set that this processor runs is {own.name}")
    return isa


def _processor() -> tuple[Isa, str]:
    import llvmlite.binding as llvm

    name = str(llvm.get_host_cpu_name())
    return tuned(from_features(dict(llvm.get_host_cpu_features())), name), name


def by_name(name: str) -> Isa:
    """An instruction set by its name, as saved in a plan. Raises CompileError for an unknown one."""
    known = {isa.name: isa for isa in (SSE2, AVX2, AVX512, *_avx512_variants())}
    if name not in known:
        raise CompileError(f"unknown instruction set {name!r}; known: {', '.join(sorted(known))}")
    return known[name]


def runs(isa: Isa) -> bool:
    """Whether this processor can run code made for an instruction set."""
    return _within(isa, host())


def _within(isa: Isa, own: Isa) -> bool:
    return isa.vector_bits <= own.vector_bits and isa.abilities <= own.abilities


def needs(isa: Isa) -> tuple[str, ...]:
    """LLVM's names of the processor features that code for an instruction set uses."""
    wide = _AVX2_NEEDS if isa.vector_bits >= 256 else ()
    widest = _AVX512_NEEDS if isa.vector_bits >= 512 else ()
    return (*wide, *widest, *(f[1:] for f in isa.features if f.startswith("+")))


def _avx512_variants() -> tuple[Isa, ...]:
    base = dict.fromkeys((*_AVX2_NEEDS, *_AVX512_NEEDS), True)
    vnni, bf16 = {"avx512vnni": True}, {"avx512bf16": True}
    return tuple(from_features({**base, **extra}) for extra in (vnni, bf16, {**vnni, **bf16}))
