"""`mapsto devices`: what this machine has that mapsto can make code for, and the figures that decisions rest on."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from mapsto.cli.output import print_json, seconds_text, shown
from mapsto.devices.named import host_machine, measure_host
from mapsto.machine.spec import DeviceSpec, Machine
from mapsto.machine.text import digest, to_data
from mapsto.report import machine

if TYPE_CHECKING:
    from mapsto.devices.named import Host


def list_devices(measure: bool, as_json: bool) -> None:
    """Measures first where that is asked for."""
    host = measure_host() if measure else host_machine()
    found = [_cpu(), *_opencl()]
    if as_json:
        about = {"digest": digest(host.machine), "file": str(host.path), "missing": host.missing}
        print_json({"devices": found, "machine": to_data(host.machine) | about})
        return
    for device in found:
        facts = ", ".join(f"{key} {_plain(value)}" for key, value in device.items() if key not in ("device", "name"))
        print(f"{device['device']}: {device['name']}\n    {facts}")
    print(f"    {source_text(host)}")
    for spec in host.machine.devices:
        _print_figures(spec)


def source_text(host: Host) -> str:
    """Whether figures are measured or typical ones, in one line."""
    source = host.machine.host.source
    if not host.missing:
        return f"figures: {source} ({host.path}), machine {digest(host.machine)[:12]}"
    return (
        f"figures: {source} of {host.machine.host.code}, since {host.path} is not to be had ({host.missing}); "
        f"`mapsto devices --measure` measures this machine; machine {digest(host.machine)[:12]}"
    )


def typical_text(machine: Machine) -> str:
    """The same for a device of which nothing is measured."""
    return f"figures: {machine.host.source} of {machine.host.model}, machine {digest(machine)[:12]}"


def _print_figures(spec: DeviceSpec) -> None:
    from rich.table import Table

    peaks = Table("products", "multiply-adds a second of one unit", title=f"{spec.name}: {spec.units} units")
    for types, figure in sorted(("*".join(t.value for t in types), figure) for types, figure in spec.peaks.items()):
        peaks.add_row(types, f"{figure / 1e9:.1f} G")
    levels = Table("memory", "holds", "read", "write", "shared by", "together", title="bytes a second of one unit")
    for level in spec.levels:
        size = "everything" if level.bytes == math.inf else f"{level.bytes / 1024:.0f} KiB"
        read, write, together = (f"{rate / 1e9:.1f} G" for rate in (level.read, level.write, level.together))
        levels.add_row(level.name, size, read, write, str(level.units), together)
    rates = Table("operation", "an element", title="seconds, 32 bits, in vectors")
    for name, figure in (*sorted(spec.rates.items()), *sorted(spec.moves.items())):
        rates.add_row(name, seconds_text(figure))
    others = Table("what", "seconds", title="the rest")
    for name in ("scalar", "latency", "loop", "launch", "barrier"):
        others.add_row(name, seconds_text(getattr(spec, name)))
    for made in (peaks, levels, rates, others):
        print(shown(made))


def _plain(value: Any) -> str:
    return " ".join(value) if isinstance(value, list) else str(value)


def _cpu() -> dict[str, Any]:
    from mapsto.devices.cpu import isa
    from mapsto.runtime import cpus

    host = isa.host()
    return {
        "device": "cpu",
        "name": machine.processor_name(),
        "isa": host.name,
        "vector_bits": host.vector_bits,
        "abilities": sorted(host.abilities),
        "threads": cpus.available_cpus(),
    }


def _opencl() -> list[dict[str, Any]]:
    """Every OpenCL device, where pyopencl is installed and finds one, in the order of `opencl:NUMBER`."""
    try:
        import pyopencl as cl

        platforms = cl.get_platforms()
    except Exception:  # not installed, or no driver: then there is nothing to list
        return []
    return [
        {"device": f"opencl:{number}", "name": device.name.strip(), "platform": device.platform.name.strip()}
        for number, device in enumerate(d for platform in platforms for d in platform.get_devices())
    ]
