"""`mapsto devices`: what this machine has that mapsto can make code for."""

from __future__ import annotations

from typing import Any

from mapsto.cli.output import print_json
from mapsto.report import machine


def list_devices(as_json: bool) -> None:
    found = [_cpu(), *_opencl()]
    if as_json:
        print_json({"devices": found})
        return
    for device in found:
        facts = ", ".join(f"{key} {_plain(value)}" for key, value in device.items() if key not in ("device", "name"))
        print(f"{device['device']}: {device['name']}\n    {facts}")


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
