"""`mapsto qdq`: a model with the integers of a plan, for other engines; the work is in `exporters.qdq`."""

from __future__ import annotations

from pathlib import Path

from mapsto.cli.inputs import read_text, writable
from mapsto.cli.output import bytes_text, print_json
from mapsto.cli.usage import UsageError
from mapsto.files import written


def write_qdq(model: Path, output: Path, plan: Path, data_root: Path | None, as_json: bool) -> None:
    from mapsto.exporters.qdq import qdq_bytes, to_qdq

    writable(output, besides=[model, plan])
    made = to_qdq(model, read_text(plan, "plan"), data_root)
    if not made.quantised:
        why = next((f" ({name}: {reason})" for name, reason in made.left.items()), "")
        raise UsageError(f"--plan {plan}: no product of it is of integers that can be written{why}")
    data = qdq_bytes(made)
    with written(output) as file:
        file.write(data)
    if as_json:
        print_json({"output": str(output), "bytes": len(data), "quantised": made.quantised, "left": dict(made.left)})
        return
    for name, reason in made.left.items():
        print(f"left as it is: {name}: {reason}")
    print(f"{len(made.quantised)} products of integers; {output} ({bytes_text(len(data))})")
