"""A training as a process of its own, to be killed: `python killed.py CHECKPOINT OUTPUT [STEPS A SECOND]`.

Prints a line a step, and writes the parameters to OUTPUT at the end.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[2] / "src")]

from tests.train.models import data, trainer  # noqa: E402

from mapsto.train import Cosine, EarlyStopping, Trainer  # noqa: E402

EPOCHS, STEPS = 4, 9


def trained(checkpoint: str | None, pause: float = 0.0, epochs: int = EPOCHS, **options: Any) -> tuple[Trainer, Any]:
    each = trainer(seed=5)

    def tell(done: int, total: int, label: str) -> None:
        print(f"step {done} of {total}", flush=True)
        time.sleep(pause)

    options = {"early_stopping": EarlyStopping(50), **options}
    history = each.fit(
        data(), epochs, data(20, seed=2), batch=6, schedule=Cosine(per="step"), checkpoint=checkpoint,
        checkpoint_every=None if checkpoint is None else 2, progress=tell, **options,
    )  # fmt: skip
    return each, history


if __name__ == "__main__":
    found, _ = trained(sys.argv[1], float(sys.argv[3]))
    np.savez(sys.argv[2], **found.state())
