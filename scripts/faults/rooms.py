"""Which tests hold which room: the one table of it.

For a fault in a module the tests are, nearest first: the file named after the module; those that import it; the rest of
the room's folder; the files that the room's code is chiefly tested by, elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from faults.fault import SOURCE


@dataclass(frozen=True)
class Room:
    """own: the room's tests, files or folders. beyond: others that are meant to hold it, cheapest first.

    keeps: whether what it makes may spoil what is kept in a cache folder, so that a fault in it gets one of its own.
    """

    own: tuple[str, ...]
    beyond: tuple[str, ...] = ()
    keeps: bool = False


_LOOPS = ("tests/devices/generic", "tests/devices/contraction", "tests/devices/making", "tests/devices/routines")
_MODELS = (
    "tests/session",
    "tests/test_regressions.py",
    "tests/test_models_can_fail.py",
    "tests/test_random_graphs.py",
    "tests/test_conformance_native.py",
    "tests/test_models.py",
)
_PLANS = (
    "tests/plan",
    "tests/devices/test_described.py",
    "tests/session",
    "tests/devices/contraction",
    "tests/devices/generic",
)

ROOMS: dict[str, Room] = {
    "errors": Room(("tests/test_boundary.py",), ("tests/cli", "tests/importers/test_load.py", "tests/session")),
    "boundary": Room(("tests/test_boundary.py",), ("tests/session", "tests/cli")),
    "arguments": Room(("tests/session/test_arguments.py", "tests/session/test_overridable.py"), ("tests/cli",)),
    "files": Room(
        ("tests/test_files.py",), ("tests/test_store.py", "tests/cli/test_output.py", "tests/session/cache"), keeps=True
    ),
    "toml": Room(("tests/machine/test_machine_file.py", "tests/train/test_recipe.py")),
    "store": Room(("tests/test_store.py",), ("tests/cli/test_cache.py", "tests/session/cache"), keeps=True),
    "witness": Room(("tests/session/cache",), ("tests/importers", "tests/session"), keeps=True),
    "budget": Room(("tests/test_budget.py",), ("tests/importers", "tests/session", "tests/hostile")),
    "debug": Room(("tests/test_debug.py",)),
    "version": Room(("tests/cli",), ("tests/session/cache",)),
    "package": Room(("tests/test_boundary.py",), ("tests/session", "tests/cli")),
    "ir": Room(("tests/ir",), ("tests/passes", "tests/ops", "tests/plan", *_MODELS)),
    "kernel": Room(("tests/kernel",), ("tests/ops", "tests/plan", *_LOOPS, *_MODELS)),
    "loop": Room(("tests/loop",), (*_LOOPS, "tests/devices/opencl", *_MODELS)),
    "solve": Room(("tests/solve",), ("tests/plan", "tests/devices/test_described.py")),
    "ops": Room(("tests/ops",), ("tests/importers", "tests/passes", "tests/train", "tests/test_budget.py", *_MODELS)),
    "passes": Room(("tests/passes",), ("tests/plan", "tests/ops", *_MODELS)),
    "formats": Room(("tests/formats", "tests/session/test_formats.py")),
    "machine": Room(("tests/machine",), ("tests/plan", "tests/report", "tests/devices/cpu", "tests/cli")),
    "plan": Room(("tests/plan",), (*_PLANS[1:], "tests/benchmarks", "tests/devices/cpu", *_MODELS[1:])),
    "runtime": Room(("tests/runtime",), ("tests/session", "tests/devices/opencl/test_engine.py", "tests/cli")),
    "devices": Room(("tests/session/cache", "tests/devices/cpu", "tests/devices/making"), _PLANS, keeps=True),
    "devices/contraction": Room(
        ("tests/devices/contraction",), ("tests/devices/making", "tests/devices/cpu", *_MODELS)
    ),
    "devices/generic": Room(("tests/devices/generic",), ("tests/devices/cpu", "tests/loop", *_MODELS)),
    "devices/routines": Room(("tests/devices/routines",), ("tests/runtime", *_MODELS)),
    "devices/making": Room(
        ("tests/devices/making",), ("tests/devices/contraction", "tests/devices/cpu", "tests/plan", *_MODELS)
    ),
    "devices/cpu": Room(("tests/devices/cpu",), ("tests/machine", "tests/session", *_LOOPS, "tests/cli"), keeps=True),
    "devices/opencl": Room(
        ("tests/devices/opencl",), ("tests/devices/generic/test_on_opencl.py", "tests/cli"), keeps=True
    ),
    "devices/described": Room(("tests/devices/test_described.py",), ("tests/plan", "tests/cli")),
    "importers": Room(("tests/importers",), ("tests/session", "tests/hostile", *_MODELS[1:])),
    "importers/torch": Room(("tests/importers/torch",), ("tests/session/test_module.py", "tests/torch")),
    "exporters": Room(("tests/exporters",), ("tests/cli",)),
    "placement": Room(
        ("tests/placement",),
        ("tests/plan/test_placing.py", "tests/session/test_simulate.py", "tests/session/test_divide.py"),
    ),
    "session": Room(("tests/session",), ("tests/runtime", "tests/cli", *_MODELS[1:]), keeps=True),
    "session/cache": Room(
        ("tests/session/cache",), ("tests/cli/test_cache.py", "tests/session/test_compile.py"), keeps=True
    ),
    "torch": Room(("tests/torch",)),
    "train": Room(("tests/train",), ("tests/passes/test_gradient.py", "tests/session/test_arguments.py")),
    "report": Room(("tests/report",), ("tests/cli", "tests/test_models.py", "tests/machine")),
    "cli": Room(("tests/cli",), ("tests/session/test_predict.py", "tests/report", "tests/session/cache")),
}

# Tests of modules (or of all that begin so) that are nearest to them though their names do not tell: files, or single
# tests of files that take long.
NEAREST: dict[str, tuple[str, ...]] = {
    "devices/generic/blocks": ("tests/devices/generic/test_tiles.py::test_every_tile",),
    "devices/generic/border": ("tests/devices/generic/test_layouts.py",),
    "devices/generic/context": ("tests/devices/generic/test_folds.py::test_a_fold_in_a_fold",),
    "devices/generic/crossing": ("tests/devices/generic/test_tiles.py",),
    "devices/generic/flat": ("tests/devices/generic/test_layouts.py",),
    "devices/generic/interior": ("tests/devices/generic/test_windows.py",),
    "devices/generic/lower": ("tests/devices/generic/test_extents.py",),
    "devices/generic/reduce": ("tests/devices/generic/test_folds.py",),
    "devices/generic/running": ("tests/devices/generic/test_folds.py",),
    "devices/generic/schedule": (
        "tests/devices/generic/test_tiles.py::test_streams_side_by_side_are_moved_in_one_tile_where_half_of_the_registers_hold_them",
        "tests/devices/generic/test_tiles.py::test_moves_are_made_in_tiles",
    ),
    "devices/making/packed": ("tests/devices/making/test_packed.py",),
    "devices/making/contractions": ("tests/session/test_results.py",),
    "devices/named": ("tests/session/cache/test_executables.py",),
    "devices/routines/nonzero": ("tests/devices/routines/test_nonzero.py",),
    "devices/routines/suppression": ("tests/devices/routines/test_suppression.py",),
    "devices/routines/topk": ("tests/devices/routines/test_topk.py",),
    "devices/routines/": ("tests/devices/routines/test_recurrent.py",),
    "devices/opencl/device": ("tests/devices/opencl/test_engine.py",),
    "loop/llvm": ("tests/loop/test_llvm.py::test_a_branch_that_leaves_a_variable_alone", "tests/loop/test_llvm.py"),
    "loop/opencl": ("tests/loop/test_opencl.py",),
    "passes/": ("tests/passes/test_rules.py",),
    "plan/access": ("tests/plan/test_settle.py",),
    "plan/derive": ("tests/session/test_replay.py",),
    "plan/forecast": ("tests/plan/test_costs_decide.py",),
    "plan/guesses": ("tests/plan/test_costs_decide.py",),
    "plan/judge": ("tests/plan/test_costs_decide.py",),
    "plan/prices": ("tests/plan/test_costs_decide.py",),
    "plan/rules/": ("tests/plan/test_rules.py",),
    "plan/seats": ("tests/plan/test_costs_decide.py",),
    "plan/slices": ("tests/plan/test_decide.py",),
    "plan/votes": ("tests/plan/test_decide.py",),
}

# Files of more than some ten seconds: they come last, unless they are named after the module.
LONG = {
    "tests/cli/test_manners.py",
    "tests/loop/test_functions.py",
    "tests/plan/test_outputs.py",
    "tests/devices/contraction/test_items.py",
    "tests/devices/cpu/test_plan_native.py",
    "tests/runtime/test_artifact.py",
    "tests/runtime/test_interrupts.py",
    "tests/runtime/test_threads.py",
    "tests/importers/test_models.py",
    "tests/session/cache/test_processes.py",
    "tests/hostile/test_hostile.py",
    "tests/test_random_graphs.py",
    "tests/test_conformance_native.py",
}


def room_of(file: str) -> str:
    """The innermost room that a module belongs to."""
    inside = Path(file).relative_to(SOURCE)
    for folder in (
        inside.with_suffix("").parents if inside.name == "__init__.py" else (inside.with_suffix(""), *inside.parents)
    ):
        if str(folder) in ROOMS:
            return str(folder)
    return "package"


def stages(root: Path, file: str, beyond: Sequence[str] = ()) -> list[list[str]]:
    """Test files for a module in the order in which they are run, by stages: the nearest, those that import it, the
    room, beyond, the long ones.
    beyond: files that are meant to hold a fault in it, whatever their room.
    """
    room = ROOMS[room_of(file)]
    own = list(_files(root, room.own))
    imports = _imports(file)
    inside = file.removeprefix(f"{SOURCE}/")
    told = next((tests for start, tests in NEAREST.items() if inside.startswith(start)), ())
    named = [test for test in own if Path(test).stem in (f"test_{Path(file).stem}", f"test_{Path(file).parent.name}")]
    meant, others = list(_files(root, beyond)), list(_files(root, room.beyond))
    near = [test for test in [*own, *others] if test not in LONG and _mentions(root / test, imports)]
    short = [[test for test in tests if test not in LONG] for tests in (own, others)]
    seen: set[str] = set()
    found = []
    for stage in ([*meant, *told, *named], near, *short, [*own, *others]):
        fresh = [test for test in dict.fromkeys(stage) if test not in seen]
        seen.update(fresh)
        if fresh:
            found.append(fresh)
    return found


def _files(root: Path, targets: Sequence[str]) -> Iterator[str]:
    for target in targets:
        path = root / target
        yield from (str(each.relative_to(root)) for each in sorted(path.glob("test_*.py")) or [path])


def _imports(file: str) -> tuple[str, ...]:
    """How an import names a module."""
    parts = Path(file).relative_to("src").with_suffix("").parts
    parts = parts[:-1] if parts[-1] == "__init__" else parts
    return f"{'.'.join(parts)} import", f"from {'.'.join(parts[:-1])} import {parts[-1]}", f"import {'.'.join(parts)}"


def _mentions(test: Path, imports: tuple[str, ...]) -> bool:
    text = test.read_text()
    return any(each in text for each in imports)
