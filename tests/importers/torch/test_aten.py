"""The page of operators, and some of torch's own samples."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from tests.pytorch import torch  # isort: skip  (first: it skips the file where there is no torch)

import torch.ao.quantization.fx._decomposed  # registers `quantized_decomposed`

from mapsto.importers.torch import supported_targets

PAGE = Path(__file__).parents[3] / "docs" / "aten.md"
# One in so many of torch's operators is tried; `python -m tests.importers.torch.opinfo` tries all.
_ONE_IN = 12


def test_the_page_lists_the_rows() -> None:
    listed = PAGE.read_text().split(" rows\n", 1)[1].split("\n## ", 1)[0]
    assert listed.replace("\n", " ").replace(" ", "").split(",") == supported_targets()


def test_every_row_is_of_an_operator_that_torch_has() -> None:
    for name in supported_targets():
        namespace, _, rest = name.rpartition("::")
        operator, _, overload = rest.partition(".")
        if namespace != "mapsto":
            packet = getattr(getattr(torch.ops, namespace or "aten"), operator)
            assert not overload or hasattr(packet, overload), name


def _right() -> list[str]:
    """Names of operators whose samples the page calls right."""
    if importlib.util.find_spec("expecttest") is None:
        return []
    from tests.importers.torch.opinfo import infos, name_of

    part = PAGE.read_text().split("## Samples: results\n", 1)[1].split("\n## ", 1)[0]
    wrong = {line[2:].split(":")[0] for line in part.splitlines() if line.startswith("- ")}
    return [name for info in infos() if (name := name_of(info)) not in wrong]


@pytest.mark.parametrize("name", _right()[::_ONE_IN])
def test_samples_of_torch(name: str) -> None:
    from tests.importers.torch.opinfo import infos, name_of, outcome

    (info,) = [info for info in infos() if name_of(info) == name]
    assert outcome(info, most=2) == ""
