"""Prints docs/aten.md: which operators of torch have rows, and how torch's own samples of its operators come out.

    python -m tests.importers.torch.opinfo --json forward.json
    python -m tests.importers.torch.opinfo --gradients --json gradients.json
    python scripts/list_aten.py forward.json gradients.json > docs/aten.md

A test compares the rows of the page with the table.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from mapsto.importers.torch import supported_targets  # noqa: E402

HEAD = """# Operators of torch

Made by `scripts/list_aten.py`. Each operator below has a row in `importers/torch/rows`: it is built from mapsto's own
ops. What has none is taken apart by torch's own decompositions, as far as it has any.

"""


def rows() -> str:
    """The part of the page that lists the table."""
    names = ", ".join(supported_targets())
    lines, line = [], ""
    for word in names.split(" "):
        if len(line) + len(word) > 118:
            lines.append(line.rstrip())
            line = ""
        line += word + " "
    return "\n".join([f"## {len(supported_targets())} rows", "", *lines, line.rstrip(), ""])


def samples(title: str, outcomes: Mapping[str, str]) -> str:
    """How the samples came out, with what is not right by name."""
    wrong = {name: said for name, said in sorted(outcomes.items()) if said}
    right = len(outcomes) - len(wrong)
    lines = [f"## {title}", "", f"{right} of {len(outcomes)} right ({right / max(len(outcomes), 1):.1%}). Others:", ""]
    return "\n".join([*lines, *(f"- {name}: {_short(said)}" for name, said in wrong.items()), ""])


def _short(said: str) -> str:
    """Why, without names of calls and places in files."""
    said = re.sub(r" in '[^']*'", "", said)
    said = re.sub(r" \([/<]\S*:\d+:.*?(\)\): |\): |$)", ": ", said)
    return re.sub(r"\s+", " ", re.sub(r"/\S*/", "", said)).replace("`", "'")[:120].rstrip(" :")


def main() -> None:
    forward, gradients = (json.loads(Path(name).read_text()) for name in sys.argv[1:3])
    parts = [
        rows(),
        samples("Samples: results", forward),
        samples("Samples: results and gradients of compiled code", gradients),
    ]
    print(HEAD + "\n".join(parts), end="")


if __name__ == "__main__":
    main()
