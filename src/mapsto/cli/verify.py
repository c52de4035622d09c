"""`mapsto verify`: whether a compiled model is, byte for byte, what was written."""

from __future__ import annotations

from pathlib import Path

from mapsto.cli.inputs import existing
from mapsto.cli.output import bytes_text, print_json


def verify_file(path: Path, as_json: bool) -> None:
    from mapsto.runtime import artifact, container, division_file

    if container.is_of_kind(existing(path, "compiled model"), artifact.MAGIC_OF_SEVERAL):
        size, devices = division_file.verify(path)
        if as_json:
            print_json({"file": str(path), "ok": True, "bytes": size, "devices": devices})
            return
        print(f"ok: {path}: all of {bytes_text(size)} is as written; for {', '.join(devices)}")
        return
    found = artifact.verify(path)
    if as_json:
        target = {"arch": found.target.arch, "isa": found.target.isa, "features": list(found.target.features)}
        print_json({"file": str(path), "ok": True, "bytes": found.bytes, "functions": found.objects, "target": target})
        return
    print(f"ok: {path}: all of {bytes_text(found.bytes)} is as written; for {found.target.arch}, {found.target.isa}")
