"""All of this machine that decides what is compiled for it, as text: for keys, so without LLVM, in a millisecond."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from mapsto.devices.cpu.caches import caches
from mapsto.runtime.cpus import available_cpus
from mapsto.store import default_folder

MACHINE = "MAPSTO_MACHINE"
ISA = "MAPSTO_ISA"
FIGURES = "machines"  # the folder of measured figures, in the cache folder
_CPUINFO = Path("/proc/cpuinfo")
_MOST_BYTES = 1 << 16  # of the first processor in it
# What LLVM tells processors, and what they can do, apart by. Others change from moment to moment.
_FIELDS = ("vendor_id", "cpu family", "model", "model name", "stepping", "flags")


def deciding() -> tuple[str, ...]:
    """The processor with its caches, how many of its cores may be used, what the environment says of it, and the
    figures that were measured. Raises OSError where the machine tells nothing.
    """
    environment = (f"{name}={os.environ.get(name, '')}" for name in (ISA, MACHINE))
    return (*processor(), repr(caches()), f"cpus {available_cpus()}", *environment, figures())


def processor(path: Path = _CPUINFO) -> tuple[str, ...]:
    """The lines of the first processor that tell it from others. Raises OSError."""
    with path.open("rb", buffering=0) as file:
        head = b""
        while b"\n\n" not in head and len(head) < _MOST_BYTES and (more := file.read(8192)):
            head += more
    lines = head.partition(b"\n\n")[0].decode("utf-8", "replace").splitlines()
    told = ((key.strip(), value.strip()) for key, _, value in (line.partition(":") for line in lines))
    found = tuple(f"{key}: {value}" for key, value in told if key in _FIELDS)
    if not found:
        raise OSError(f"{path} tells nothing of the processor")
    return found


def figures() -> str:
    """A digest of what was measured of this machine, whichever file of it is taken."""
    folder = default_folder()
    if folder is None or os.environ.get(MACHINE) == "typical":
        return "typical"
    digest = hashlib.sha256()
    try:
        for path in sorted((folder / FIGURES).iterdir()):
            if path.suffix == ".json":
                digest.update(repr((path.name, path.read_bytes())).encode())
    except FileNotFoundError:
        return "typical"
    except NotADirectoryError:
        return "typical"
    return digest.hexdigest()
