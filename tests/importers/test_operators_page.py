"""docs/operators.md is what scripts/list_operators.py prints."""

from __future__ import annotations

import onnx
import pytest
from scripts.list_operators import ROOT, page

# The page is of this version of onnx; others have other cases.
WRITTEN_FOR = (1, 23)


@pytest.mark.skipif(
    tuple(int(part) for part in onnx.__version__.split(".")[:2]) != WRITTEN_FOR,
    reason="another version of onnx has other cases",
)
@pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="the package is installed without its pages")
def test_the_page_is_what_the_command_gives() -> None:
    said = (ROOT / "docs" / "operators.md").read_text()
    assert said == page(), "run: python scripts/list_operators.py > docs/operators.md"
