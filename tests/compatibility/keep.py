"""Writes what this version's folder keeps; refused where there is one already.

python -m tests.compatibility.keep
"""

from __future__ import annotations

import os

import numpy as np
import onnx

import mapsto
from mapsto.devices.cpu.host import host_machine
from mapsto.machine.text import to_text
from tests.compatibility.kept import INSTRUCTION_SETS, MODELS, ROOT, Kept


def main() -> None:
    os.environ["MAPSTO_MACHINE"] = "typical"
    folder = ROOT / mapsto.__version__
    folder.mkdir()
    (folder / "machine.json").write_text(to_text(host_machine().machine))
    for name, make in MODELS.items():
        model, feed = make()
        entry = Kept(folder, name)
        onnx.save(model, entry.model)
        answers = {}
        for isa in INSTRUCTION_SETS:
            exe = mapsto.compile(entry.model, isa=isa, threads=1, cache=False)
            exe.save(entry.artifact(isa))
            entry.plan(isa).write_text(exe.plan.text())
            answers |= {f"{isa}:{name}": array for name, array in exe.run(feed).items()}
        np.savez_compressed(entry.answers, **{f"input:{name}": array for name, array in feed.items()}, **answers)


if __name__ == "__main__":
    main()
