"""Damaged plans and machine files: refused, or what they decide is made, runs between fences, and is right."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any

import numpy as np

import mapsto
from mapsto.devices.cpu import host, workers
from mapsto.errors import ArgumentError, MapstoError, ParseError
from mapsto.importers.onnx import load
from mapsto.machine import text as machine_text
from mapsto.machine.machine_file import parse_machine
from mapsto.session.simulate import known_names, shipped_machines, simulate
from tests.fuzz import jsons, lines, seeds
from tests.fuzz.children import Desk, Outcome
from tests.fuzz.models import REFUSALS, SECONDS, fenced_run, guarded, inputs

MODELS = 24  # whose plans are damaged


@dataclass(frozen=True)
class Base:
    """A model with a plan that fits it, and inputs."""

    name: str
    data: bytes
    plan: str
    feed: dict[str, np.ndarray]


@dataclass(frozen=True)
class Case:
    """A damaged text, how it came, and the number of the model that it is for."""

    text: str
    how: tuple[str, ...]
    base: int
    noise: int


@functools.cache
def bases() -> tuple[Base, ...]:
    """Small models of all kinds with their plans; what is compiled here is compiled once."""
    rng, found = random.Random("plans"), []
    pool = [s for s in seeds.models() if s.name in seeds.replayed()]
    pool += rng.sample([s for s in seeds.models() if s.name.startswith("random ")], MODELS)
    for seed in pool:
        try:
            exe = mapsto.compile(seed.data, threads=1, cache=False)
        except MapstoError:
            continue
        feed = inputs(exe, seed.feed, np.random.default_rng(0))
        if feed is not None and len(found) < MODELS and _runs(exe, feed):
            found.append(Base(seed.name, seed.data, exe.plan.text(), feed))
    return tuple(found)


def _runs(exe: mapsto.Executable, feed: dict[str, np.ndarray]) -> bool:
    try:
        exe.run(feed)
    except MapstoError:
        return False
    return True


def made(seed: int, number: int, without: frozenset[int] = frozenset()) -> Case:
    """A plan with some lines, figures or names changed."""
    rng = random.Random(f"{seed} plans {number}")
    base = rng.randrange(len(bases()))
    text, how = bases()[base].plan, [f"plan of {bases()[base].name!r}"]
    for k in range(rng.choice([1, 1, 1, 2, 2, 3, 6])):
        if k not in without:
            other = random.Random(f"{seed} plans {number} {k}")
            text, done = lines.mutate(text, other, lambda r: r.choice(bases()).plan)
            how.append(done)
    return Case(text, tuple(how), base, rng.randrange(1 << 30))


def tried(case: Case, desk: Desk) -> Outcome:
    """Replays a plan."""
    base = bases()[case.base]
    desk.stage("compile", SECONDS)
    exe = guarded(lambda: mapsto.compile(base.data, threads=1, cache=False, plan=case.text), (ParseError, *REFUSALS))
    return exe if isinstance(exe, Outcome) else _run(exe, base, case, desk)


def made_machine(seed: int, number: int, without: frozenset[int] = frozenset()) -> Case:
    """A machine file with members changed; now and then damaged as a text."""
    rng = random.Random(f"{seed} machines {number}")
    base = rng.randrange(len(bases()))
    data, how = machine_text.to_data(host.host_machine().machine), [f"machine, for {bases()[base].name!r}"]
    text, plain = "", rng.random() < 0.15
    count = rng.choice([1, 1, 2, 3, 8])
    for k in range(0 if plain else count):
        if k not in without:
            how.append(jsons.mutate(data, random.Random(f"{seed} machines {number} {k}")))
    import json

    text = json.dumps(data, indent=1)
    for k in range(count if plain else 0):
        if k not in without:
            text, done = lines.mutate(text, random.Random(f"{seed} machines {number} {k}"), lambda r: bases()[0].plan)
            how.append(done)
    return Case(text, tuple(how), base, rng.randrange(1 << 30))


def tried_machine(case: Case, desk: Desk) -> Outcome:
    """Reads a machine, and decides by it."""
    base = bases()[case.base]
    desk.stage("machine", 5)
    machine = guarded(lambda: machine_text.parse(case.text, "file"), (ParseError,))
    if isinstance(machine, Outcome):
        return machine
    again = guarded(lambda: machine_text.parse(machine_text.to_text(machine), "file"), ())
    if isinstance(again, Outcome):
        return replace(again, kind=f"unreadable again: {again.kind}")
    desk.stage("compile", SECONDS)
    with _host(machine):
        exe = guarded(lambda: mapsto.compile(base.data, threads=1, cache=False), REFUSALS)
    return exe if isinstance(exe, Outcome) else _run(exe, base, case, desk)


def made_described(seed: int, number: int, without: frozenset[int] = frozenset()) -> Case:
    """A machine that is described in TOML, damaged as a text."""
    rng = random.Random(f"{seed} described {number}")
    every = shipped_machines()
    name = rng.choice(every)
    base = rng.randrange(len(bases()))
    text, how = described(name), [f"machine {name}, for {bases()[base].name!r}"]
    for k in range(rng.choice([1, 1, 2, 3, 6])):
        if k not in without:
            other = random.Random(f"{seed} described {number} {k}")
            text, done = lines.mutate(text, other, lambda r: described(r.choice(every)))
            how.append(done)
    return Case(text, tuple(how), base, rng.randrange(1 << 30))


def described(name: str) -> str:
    return (resources.files("mapsto") / "machines" / f"{name}.toml").read_text("utf-8")


def tried_described(case: Case, desk: Desk) -> Outcome:
    """Reads a machine, and follows a model on it."""
    base = bases()[case.base]
    desk.stage("machine", 5)
    machine = guarded(lambda: parse_machine(case.text, "file", known_names()), (ParseError,))
    if isinstance(machine, Outcome):
        return machine
    desk.stage("simulate", SECONDS)
    found = guarded(lambda: simulate(base.data, machine), (*REFUSALS, ArgumentError))
    if isinstance(found, Outcome):
        return found
    if not 0 <= found.seconds or found.placement.bound > found.seconds * (1 + 1e-6):
        return Outcome("impossible", "figures", f"{found.seconds} s, bound {found.placement.bound} s", True)
    return Outcome("ran")


@contextmanager
def _host(machine: Any) -> Iterator[None]:
    """Compiles inside take this for the machine that they are on."""
    before = workers.host_machine
    workers.host_machine = lambda isa=None: replace(before(isa), machine=machine)  # type: ignore[assignment]
    try:
        yield
    finally:
        workers.host_machine = before


def _run(exe: Any, base: Base, case: Case, desk: Desk) -> Outcome:
    return fenced_run(exe, base.feed, lambda: load(base.data), case.noise, desk)
