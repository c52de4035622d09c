"""What of the machine this process may use: threads (CPU affinity, CPU quota of the control group), memory;
and the processor's name."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mapsto.arguments import brief, integer
from mapsto.errors import ExecutionError

ROOT = Path("/")
MAX_THREADS = 1024


def thread_count(asked: Any) -> int:
    """How many threads a caller asks for; None: as many as this process may keep busy.

    Raises ExecutionError for what is no integer from 1 to MAX_THREADS.
    """
    if asked is None:
        return available_cpus()
    count = integer(asked)
    if count is None or not 1 <= count <= MAX_THREADS:
        raise ExecutionError(
            f"threads: {brief(asked)} is no number of threads; give an integer from 1 to {MAX_THREADS}, or None for as "
            "many as this process may use"
        )
    return count


def available_cpus() -> int:
    """CPUs that this process may use, at least 1. A fractional quota is rounded down: a thread too many is throttled at
    every barrier.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return max(1, allowed if quota is None else min(allowed, int(quota)))


@contextlib.contextmanager
def pinned(threads: int) -> Iterator[tuple[int, ...]]:
    """This thread, and those that it starts, on so many of the CPUs that it may use; which those are (none where the
    system cannot do that). Threads that were started stay there.
    """
    if not hasattr(os, "sched_setaffinity"):
        yield ()
        return
    before = os.sched_getaffinity(0)
    taken = tuple(sorted(before)[:threads])
    os.sched_setaffinity(0, taken)
    try:
        yield taken
    finally:
        os.sched_setaffinity(0, before)


def cpu_quota(root: Path = ROOT) -> float | None:
    """CPU time per second that the control groups of this process grant (v1 and v2), None where nothing limits it.

    `root` is where `proc` and `sys` are looked for.
    """
    quotas = [_quota_of(folder) for folder in _cpu_groups(root)]
    limits = [quota for quota in quotas if quota is not None]
    return min(limits) if limits else None


def _cpu_groups(root: Path) -> list[Path]:
    """The folders of the control groups that may limit CPU time: this process's own and all above it."""
    folders: list[Path] = []
    for line in _lines(root / "proc/self/cgroup"):
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = _mount(root, v2=not controllers)
        if mount is None:
            continue
        # inside a container the path may be the host's, of which only the mount point itself is seen
        below = [part for part in path.split("/") if part not in ("", ".", "..")]
        folders.extend(mount.joinpath(*below[:depth]) for depth in range(len(below), -1, -1))
    return folders


def _mount(root: Path, v2: bool) -> Path | None:
    """Where the control groups are mounted. See proc(5), mountinfo: the fields after `-` are type, source, options."""
    for line in _lines(root / "proc/self/mountinfo"):
        left, separator, right = line.partition(" - ")
        fields, kinds = left.split(), right.split()
        if not separator or len(fields) < 5 or len(kinds) < 3:
            continue
        if kinds[0] == "cgroup2" and v2:
            return root / fields[4].lstrip("/")
        if kinds[0] == "cgroup" and not v2 and "cpu" in kinds[2].split(","):
            return root / fields[4].lstrip("/")
    return None


def _quota_of(folder: Path) -> float | None:
    both = _words(folder / "cpu.max")
    if not both:
        both = _words(folder / "cpu.cfs_quota_us") + _words(folder / "cpu.cfs_period_us")
    if len(both) != 2:
        return None
    try:
        quota, period = float(both[0]), float(both[1])
    except ValueError:  # "max": no limit
        return None
    return quota / period if quota > 0 and period > 0 else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _words(path: Path) -> list[str]:
    return " ".join(_lines(path)).split()


@functools.cache
def memory_bytes() -> int:
    """Bytes of physical memory."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@functools.cache
def processor_name() -> str:
    """The processor's own name for itself."""
    fields = (line.partition(":") for line in _lines(ROOT / "proc/cpuinfo"))
    found = (value.strip() for key, _, value in fields if key.strip() == "model name")
    return next((name for name in found if name), "") or platform.processor() or platform.machine() or "unknown"
