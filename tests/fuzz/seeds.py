"""Right files that mutations begin with."""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded

from tests.conformance import conformance_cases
from tests.random_graphs import cases, with_open_sizes

ROOT = Path(__file__).parents[2]
LARGEST = 1 << 16  # bytes of a seed: larger ones are slow, and most changes of them hit weights
OLDEST = 7  # operator set
GRAPHS = 150  # random graphs


@dataclass(frozen=True)
class Seed:
    """A model, and inputs for it where there are some."""

    name: str
    data: bytes
    feed: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def proto(self) -> Any:
        return onnx.ModelProto.FromString(self.data)


@functools.cache
def models() -> tuple[Seed, ...]:
    """All of them, in an order that is always the same."""
    found = [*_conformance(), *_random(), *_light(), *_own(), *_quantised(), *_sequences()]
    return tuple(seed for seed in found if len(seed.data) <= LARGEST and _is_read(seed.proto))


def _is_read(proto: Any) -> bool:
    """Whether it is of a version that is read: what is refused for its version alone shows nothing else."""
    return all(each.version >= OLDEST for each in proto.opset_import if not each.domain)


def drawn(rng: random.Random) -> Seed:
    """One of them: one in three is a random graph, which has many nodes to change."""
    pool = models()
    graphs = [s for s in pool if s.name.startswith("random ")]
    return rng.choice(graphs if rng.random() < 0.33 and graphs else pool)


def _conformance() -> list[Seed]:
    return [
        Seed(case.name, case.model.SerializeToString(deterministic=True), case.feeds) for case in conformance_cases()
    ]


def _random() -> list[Seed]:
    found: list[Seed] = []

    @seeded(1)
    @settings(
        max_examples=GRAPHS,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(cases())
    def collect(case: Any) -> None:
        feed = dict(case.feed)
        found.append(Seed(f"random {len(found)}", case.model.SerializeToString(deterministic=True), feed))
        opened = with_open_sizes(case.model)
        found.append(Seed(f"random {len(found)}, open", opened.SerializeToString(deterministic=True), feed))

    collect()
    return found


def _light() -> list[Seed]:
    """Models of the onnx package."""
    folder = Path(onnx.__file__).parent / "backend" / "test" / "data"
    paths = sorted(folder.glob("*/**/model.onnx")) + sorted((folder / "light").glob("*.onnx"))
    return [Seed(str(p.relative_to(folder)), p.read_bytes()) for p in paths if p.stat().st_size <= LARGEST]


def replayed() -> frozenset[str]:
    """Names of models whose plans show every kind of line."""
    from tests.session.test_replay import MODELS

    return frozenset(MODELS) | {"several ops"}


def _quantised() -> list[Seed]:
    """What a quantiser writes around an op."""
    from tests.importers.test_quantised import MOVED, requantised, some_products

    made = {**{f"moved by {op}": requantised(op, 0.25, 0.25) for op in MOVED}, **some_products()}
    return [
        Seed(f"quantised: {name}", model.SerializeToString(deterministic=True), feed)
        for name, (model, feed) in made.items()
    ]


def _sequences() -> list[Seed]:
    from tests.importers.test_sequences import some_models

    return [
        Seed(f"sequences: {name}", model.SerializeToString(deterministic=True)) for name, model in some_models().items()
    ]


def _own() -> list[Seed]:
    from tests.importers.test_untrusted import WHOLE
    from tests.session.test_replay import MODELS

    found = [Seed("several ops", WHOLE)]
    for name, (model, feed) in MODELS.items():
        if isinstance(model, Path):
            model = onnx.load(model)
        if isinstance(model, onnx.ModelProto):
            found.append(Seed(name, model.SerializeToString(deterministic=True), feed))
    return found
