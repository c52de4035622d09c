"""Which tests run which function: found once, for all faults, so that a fault is tried on the tests that can notice it.

`measured` runs the tests in a copy of the tree whose every function notes that it was called; what it finds is kept as
a file (JSON) and read by `Reach.read`. Compile workers that a test has taken over from another one, and forked
children, tell nothing: a function that no test is known to run is tried on the tests of its room.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from faults.fault import modules

FOLDER, NOTES = "FAULTS_REACH", "faults_reach"
_CALL = f"{NOTES}_hit"
_STAGES = (10.0, 60.0)  # seconds of processor time up to whose end the tests of a stage last

# Put beside the package: notes functions by their numbers, and what each test has run when it ends. A process that a
# test has started tells at its end.
_NOTING = f'''
import atexit, json, os
seen = set()
hit = seen.add
def note(test, seconds):
    if seen and "{FOLDER}" in os.environ:
        with open(os.path.join(os.environ["{FOLDER}"], f"{{os.getpid()}}.jsonl"), "a") as file:
            file.write(json.dumps([test, round(seconds, 3), sorted(seen)]) + "\\n")
    seen.clear()
if started_by := os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" (")[0]:
    atexit.register(lambda: note(started_by, 0.0))
'''
_PLUGIN = f"""
import time, pytest, {NOTES}
@pytest.hookimpl(tryfirst=True, wrapper=True)
def pytest_runtest_protocol(item):
    {NOTES}.seen.clear()
    began = time.process_time()
    result = yield
    {NOTES}.note(item.nodeid, time.process_time() - began)
    return result
"""


@dataclass(frozen=True)
class Reach:
    """Of each function (`FILE:QUALIFIED.NAME`) the tests that run it; seconds of processor time of each test; how many
    functions it runs.
    """

    tests: Mapping[str, Sequence[str]]
    seconds: Mapping[str, float]
    functions: Mapping[str, int]

    def of(self, file: str, function: str) -> list[str]:
        """The tests that run a function, those first that run little else: they fail soonest and say most."""
        known = self.tests.get(f"{file}:{function}", ())
        return sorted(known, key=lambda test: self.functions[test] * (self.seconds[test] + 0.1))

    def parted(self, tests: Sequence[str]) -> list[list[str]]:
        """Tests in stages, the first of which are short."""
        found: list[list[str]] = [[] for _ in range(len(_STAGES) + 1)]
        took = 0.0
        for test in tests:
            took += self.seconds[test] + 0.1
            found[sum(took > limit for limit in _STAGES)].append(test)
        return [stage for stage in found if stage]

    @staticmethod
    def read(path: Path) -> Reach:
        entries = json.loads(path.read_text())
        tests: dict[str, list[str]] = defaultdict(list)
        for test, entry in entries["tests"].items():
            for number in entry["functions"]:
                tests[entries["functions"][number]].append(test)
        seconds = {test: entry["seconds"] for test, entry in entries["tests"].items()}
        return Reach(tests, seconds, {test: len(entry["functions"]) for test, entry in entries["tests"].items()})


def measured(root: Path, path: Path, options: Sequence[str], environment: Mapping[str, str]) -> None:
    """Makes every function of the copy at `root` note its calls, runs pytest in it, and writes what was found."""
    names = instrumented(root)
    folder = root / ".reach"
    folder.mkdir()
    command = [sys.executable, "-m", "pytest", "-q", "-p", f"{NOTES}_plugin", "-p", "no:cacheprovider", *options]
    subprocess.run(command, cwd=root, env={**environment, FOLDER: str(folder)}, check=False)
    path.write_text(json.dumps({"functions": names, "tests": collected(folder)}))


def collected(folder: Path) -> dict[str, dict[str, object]]:
    """What processes have noted, by test."""
    functions: dict[str, set[int]] = defaultdict(set)
    seconds: dict[str, float] = defaultdict(float)
    for path in sorted(folder.glob("*.jsonl")):
        for line in path.read_text().splitlines():
            test, took, seen = json.loads(line)
            functions[test].update(seen)
            seconds[test] += took
    return {test: {"seconds": seconds[test], "functions": sorted(functions[test])} for test in sorted(functions)}


def instrumented(root: Path) -> list[str]:
    """Rewrites each module of the tree; gives the functions' names, by number."""
    names: list[str] = []
    for file in modules(root):
        path = root / file
        tree = ast.parse(path.read_text())
        own = list(_functions(tree, ""))
        for number, (_, function) in enumerate(own, len(names)):
            function.body.insert(bool(ast.get_docstring(function)), ast.parse(f"{_CALL}({number})").body[0])
        names += [f"{file}:{name}" for name, _ in own]
        if own:
            tree.body.insert(_after_future(tree), ast.parse(f"from {NOTES} import hit as {_CALL}").body[0])
            path.write_text(ast.unparse(ast.fix_missing_locations(tree)) + "\n")
    (root / "src" / f"{NOTES}.py").write_text(_NOTING)
    (root / "src" / f"{NOTES}_plugin.py").write_text(_PLUGIN)
    return names


def _functions(node: ast.AST, within: str) -> Iterator[tuple[str, ast.FunctionDef]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef):
            yield from _functions(child, f"{within}{child.name}.")
            yield f"{within}{child.name}", child
        else:
            yield from _functions(child, f"{within}{child.name}." if isinstance(child, ast.ClassDef) else within)


def _after_future(tree: ast.Module) -> int:
    """Where a module's first own statement may stand."""
    futures = [
        at for at, stmt in enumerate(tree.body) if isinstance(stmt, ast.ImportFrom) and stmt.module == "__future__"
    ]
    return futures[-1] + 1 if futures else int(bool(ast.get_docstring(tree)))
