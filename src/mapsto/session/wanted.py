"""What `mapsto.divide` is asked for, looked at before any work is done: by arguments, or by a plan that says it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from mapsto.arguments import brief, integer
from mapsto.errors import ArgumentError, ParseError
from mapsto.machine.machine_file import MachineFile
from mapsto.machine.spec import Power
from mapsto.placement.problem import OBJECTIVES, PLACERS
from mapsto.plan.division import DividedPlan
from mapsto.session.placed import AskedOf
from mapsto.session.simulate import read_machine

NOTHING_SAID = AskedOf("latency", (), "exact", (), ())


def checked(devices: Any, objective: str, placer: str) -> list[str]:
    """The names of the devices. Raises ArgumentError for what there is not."""
    is_list = isinstance(devices, (list, tuple))
    if not is_list or not all(isinstance(d, str) for d in devices):
        raise ArgumentError("devices: expected a list of names, such as ['cpu', 'opencl']")
    names = list(devices)
    if not names or names[0] != "cpu":
        raise ArgumentError(f"devices: the first one is the host, cpu; found {', '.join(names) or 'none'}")
    if len(set(names)) != len(names) or sum(name.startswith("opencl") for name in names) > 1:
        raise ArgumentError(f"devices: each may be there once, and one of OpenCL; found {', '.join(names)}")
    for what, one, every in (("objective", objective, OBJECTIVES), ("placer", placer, PLACERS)):
        if one not in every:
            raise ArgumentError(f"{what} {one!r}; there are: {', '.join(every)}")
    return names


def pinned(pins: Any) -> tuple[tuple[str, str], ...]:
    """Raises ArgumentError for what are no pairs of texts."""
    found = list(pins) if isinstance(pins, (list, tuple, set, frozenset)) else [pins]
    for pin in found:
        if not isinstance(pin, (list, tuple)) or len(pin) != 2 or not all(isinstance(each, str) for each in pin):
            such = "such as ('conv*', 'opencl')"
            raise ArgumentError(f"pins: expected pairs of a pattern and a device, {such}; got {brief(pin)}")
    return tuple((pattern, device) for pattern, device in found)


def limited(limits: Any) -> tuple[tuple[str, int], ...]:
    """Bytes by device. Raises ArgumentError for what are no limits of memory."""
    such = "such as {'opencl': {'memory': 2 << 30}}"
    if limits is None:
        return ()
    if not isinstance(limits, Mapping):
        raise ArgumentError(f"limits: expected a dict by devices, {such}; got {brief(limits)}")
    found = []
    for device, each in limits.items():
        if not isinstance(device, str) or not isinstance(each, Mapping) or set(each) != {"memory"}:
            got = f"{brief(device)}: {brief(each)}"
            raise ArgumentError(f"limits: expected the memory of each device, {such}; got {got}")
        given = each["memory"]
        count = math.floor(given) if isinstance(given, float) and math.isfinite(given) else integer(given)
        if count is None or not 0 <= count < 10**18:
            raise ArgumentError(f"limits: {device}: expected a number of bytes, got {brief(given)}")
        found.append((device, count))
    return tuple(found)


def limits_of(limits: tuple[tuple[str, int], ...], names: Sequence[str]) -> tuple[tuple[str, int], ...]:
    """The same. Raises ArgumentError for devices that there are not."""
    for device, _ in limits:
        if device not in names:
            raise ArgumentError(f"limits: there is no device {device!r}; there are: {', '.join(names)}")
    return limits


def powers_of(power: Any, names: Sequence[str]) -> tuple[tuple[str, Power], ...]:
    """Figures of power of devices, which a machine file has by the same names. Raises ArgumentError, and as
    `session.simulate.read_machine` does.
    """
    if power is None:
        return ()
    machine = power if isinstance(power, MachineFile) else read_machine(power)
    every = {device.spec.name: device.spec.power for device in machine.devices}
    if not every.keys() & set(names):
        there = ", ".join(every)
        raise ArgumentError(f"power: {machine.name} has {there}, and none of the devices {', '.join(names)}")
    return tuple((name, found) for name in names if (found := every.get(name)) is not None)


def of_plan(
    plan: DividedPlan, devices: Any, how: AskedOf, replicate: bool | None, power: Any = None
) -> tuple[AskedOf, list[str], bool | None]:
    """What a plan says of what else is asked by arguments. Raises ArgumentError where both do, ParseError for what
    there is not.
    """
    if devices is not None and (not isinstance(devices, (list, tuple)) or list(devices) != plan.names):
        raise ArgumentError(f"devices: the plan is for {', '.join(plan.names)}; got {brief(devices)}")
    if replicate is not None or power is not None or how != NOTHING_SAID:
        raise ArgumentError(
            "plan: it says objective, pins, placer, replicate, limits and power; give either it or these"
        )
    try:
        checked(plan.names, plan.objective, plan.placer)
    except ArgumentError as error:
        key = str(error).split(" ", 1)[0]
        line = plan.lines.get(key, plan.lines.get("division"))
        raise ParseError(f"plan, line {line}: {error}" if line else f"plan: {error}") from None
    powers = tuple((device.name, device.power) for device in plan.devices if device.power is not None)
    asked = AskedOf(plan.objective, plan.pins, plan.placer, (), (), plan.limits, powers)
    return asked, plan.names, plan.replicated or None
