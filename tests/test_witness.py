"""What a compile has read: whether a file changed between two looks at it, and which bytes of it were used."""

from __future__ import annotations

import hashlib
from pathlib import Path

from mapsto.witness import MODEL, Witness


def test_a_file_that_is_opened_again_is_the_same_until_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.write_bytes(b"before")
    witness = Witness()
    with path.open("rb") as file:
        seen = witness.opened("weights", file.fileno())
    with path.open("rb") as file:
        assert witness.opened("weights", file.fileno()) is seen
    assert not seen.changed
    path.write_bytes(b"and after")
    with path.open("rb") as file:
        assert witness.opened("weights", file.fileno()) is seen
    assert seen.changed


def test_the_digest_is_of_the_bytes_that_were_used_each_once(tmp_path: Path) -> None:
    path = tmp_path / "model"
    path.write_bytes(b"0123456789")
    with path.open("rb") as file:
        seen = Witness().opened(MODEL, file.fileno())
    seen.read(4, b"456")
    seen.read(4, b"456", anew=False)
    seen.read(0, b"01", anew=False)
    assert seen.regions == [(4, 3), (0, 2)]
    assert seen.digest == hashlib.sha256(b"45601").hexdigest()
