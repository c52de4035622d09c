"""The machine that we run on, as a file in the cache folder: measured once, and typical figures until then."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

from mapsto.devices.cache import key_of
from mapsto.devices.cpu import isa as isas
from mapsto.devices.cpu.deciding import FIGURES
from mapsto.devices.cpu.deciding import MACHINE as VARIABLE
from mapsto.devices.cpu.isa import Isa
from mapsto.devices.cpu.typical import typical
from mapsto.errors import FileError, ParseError
from mapsto.files import write_text
from mapsto.machine.spec import Machine
from mapsto.machine.text import FORMAT_VERSION, parse, to_text
from mapsto.machine.tuning import MOST_BYTES, NO_TUNING, Tuning, parse_tuning, tuning_text
from mapsto.runtime.cpus import available_cpus, processor_name
from mapsto.store import default_folder, make_folder
from mapsto.version import VERSION

_MOST_BYTES = 1 << 22
_warned: set[Path] = set()  # files of tuned kernels that a warning has told of


@dataclass(frozen=True)
class Host:
    """The machine, the file that it is in (or would be), and why that file is not what it came from ("": it is)."""

    machine: Machine
    path: Path
    missing: str


def host_machine(isa: Isa | None = None) -> Host:
    """The measured machine where there is a file of it, else a typical one. Nothing is measured here. Where the
    environment has MAPSTO_MACHINE=typical, the typical one, so that plans do not hang on what was measured.
    """
    isa = isa or isas.host()
    path = machine_path(isa)
    assumed = Machine((replace(typical(isa, available_cpus()), model=processor_name()),))
    if os.environ.get(VARIABLE) == "typical":
        return Host(assumed, path, f"{VARIABLE} asks for typical figures")
    try:
        if path.stat().st_size > _MOST_BYTES:
            return Host(assumed, path, "it is too large to be one")
        return Host(parse(path.read_text(encoding="utf-8"), str(path)), path, "")
    except OSError:
        return Host(assumed, path, "not measured yet")
    except (ParseError, UnicodeDecodeError) as error:
        return Host(assumed, path, str(error))


def measure_host(isa: Isa | None = None) -> Host:
    """Measures this machine and keeps the figures. Raises FileError where the file cannot be written."""
    from mapsto.devices.cpu.measure import measured

    isa = isa or isas.host()
    path = machine_path(isa)
    units = available_cpus()
    assumed = replace(typical(isa, units), model=processor_name())
    machine = Machine((measured(isa, assumed, units),))
    _make_folders(path)
    write_text(path, to_text(machine))
    return Host(machine, path, "")


# ---- tuned kernels -------------------------------------------------------------------------------------------------


def tuning_path(isa: Isa) -> Path:
    """The file of the kernels that were tuned, beside the figures that costs are counted by."""
    path = machine_path(isa)
    return path.with_name(f"{path.stem}.tuned{path.suffix}")


def host_tuning(isa: Isa | None = None) -> Tuning:
    """The kernels that were tuned on this machine: none where typical figures are asked for, or where the file cannot
    be used, of which a warning tells once.
    """
    path = tuning_path(isa or isas.host())
    if os.environ.get(VARIABLE) == "typical":
        return NO_TUNING
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ParseError(f"{path}: it is too large to be one")
        return parse_tuning(path.read_text(encoding="utf-8"), str(path))
    except (FileNotFoundError, NotADirectoryError):  # never tuned, or nothing is kept
        return NO_TUNING
    except (OSError, ParseError, UnicodeDecodeError) as error:
        if path not in _warned:
            _warned.add(path)
            said = str(error) if isinstance(error, ParseError) else f"{path}: {error}"
            warnings.warn(
                f"what was tuned on this machine cannot be used ({said}); kernels are made as costs choose. Remove the "
                "file, and run `mapsto tune` again",
                RuntimeWarning,
                stacklevel=2,
            )
        return NO_TUNING


def tuning_refusal() -> str:
    """Why nothing that is tuned could be kept, or would be taken ("": it would)."""
    if os.environ.get(VARIABLE) == "typical":
        return f"{VARIABLE}=typical in the environment passes over what was measured; leave it out"
    if default_folder() is None:
        return "there is no cache folder to keep it in: MAPSTO_CACHE is `off`"
    return ""


def keep_tuning(tuning: Tuning, isa: Isa | None = None) -> Path:
    """Writes the kernels that were tuned, in the place of those before. Raises FileError where that cannot be done."""
    path = tuning_path(isa or isas.host())
    _make_folders(path)
    write_text(path, tuning_text(tuning))
    return path


def _make_folders(path: Path) -> None:
    try:
        make_folder(path.parent.parent)
        make_folder(path.parent)
    except OSError as error:
        reason = error.strerror or str(error)
        raise FileError(f"{path.parent} cannot be made: {reason}; MAPSTO_CACHE names another folder") from error


def machine_path(isa: Isa) -> Path:
    """One file for each processor, what of it this process may use, instruction set and version of mapsto."""
    import llvmlite.binding as llvm

    features = ",".join(sorted(name for name, on in llvm.get_host_cpu_features().items() if on))
    about = (processor_name(), str(llvm.get_host_cpu_name()), features, isa.name, str(available_cpus()))
    folder = default_folder() or Path(os.devnull)  # nothing is kept: there is no such file, and none can be written
    return folder / FIGURES / f"{key_of(str(FORMAT_VERSION), VERSION, *about)[:16]}.json"
