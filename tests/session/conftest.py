"""Compile workers that the tests of a file share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mapsto.session.compile import Workers


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with Workers(cache=False) as found:
        yield found
