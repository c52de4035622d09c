"""Puts faults into a copy of the tree, one at a time, and says which test notices each; fails where one survives.

    python scripts/seed_faults.py                            # those thought out, and 72 drawn with the usual seed
    python scripts/seed_faults.py --seed 5 --count 40 --drawn-only --room plan
    python scripts/seed_faults.py --list                     # what would be put in

Never touches the tree itself: faults go into a temporary copy. Results are kept line by line, so that `--resume` goes
on where a run was stopped. docs/seeded-faults.md is made by `--page`; with `--settled`, of the results that there are.
"""

from __future__ import annotations

import argparse
import queue
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from faults import listed, results
from faults.drawn import draw
from faults.fault import Fault, StaleError
from faults.reach import Reach, measured
from faults.results import EQUIVALENT, Result
from faults.rooms import ROOMS, room_of
from faults.trial import CAUGHT, MARKERS, SURVIVED, Copy, Limits, Outcome, RedError, copied

ROOT = Path(__file__).resolve().parents[1]
SEED, COUNT = 1, 72
MOST_SURVIVE = 0.05  # of those that change something


def chosen(args: argparse.Namespace) -> list[Fault]:
    """The faults that were asked for. Raises StaleError."""
    thought = [] if args.drawn_only else listed.thought(ROOT)
    drawn = draw(ROOT, args.seed, args.count, args.room) if args.count else []
    faults = [fault for fault in [*thought, *drawn] if not args.room or room_of(fault.file) in args.room]
    return [fault for fault in faults if not args.only or fault.key in args.only]


def run(faults: Sequence[Fault], args: argparse.Namespace) -> dict[str, Result]:
    """Tries each fault that has no result yet, in `args.jobs` copies of the tree. Raises RedError."""
    done = results.read(args.results) if args.resume else {}
    if not args.resume:
        args.results.unlink(missing_ok=True)
    found = {fault.key: done[fault.key] for fault in faults if fault.key in done}
    waiting: queue.SimpleQueue[Fault] = queue.SimpleQueue()
    for fault in faults:
        if fault.key not in found:
            waiting.put(fault)
    reach = Reach.read(args.reach) if args.reach else None
    failures: list[BaseException] = []
    told = threading.Lock()

    def serve() -> None:
        try:
            with copied(ROOT, Limits(test=args.seconds / 2, all=args.seconds), args.cache, reach) as copy:
                while not failures:
                    fault = waiting.get_nowait()
                    result = tried(copy, fault)
                    with told:
                        found[fault.key] = result
                        results.note(args.results, result)
                        say(result, len(found), len(faults))
        except queue.Empty:
            pass
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=serve, daemon=True) for _ in range(args.jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    with copied(ROOT, Limits(), args.cache) as copy:
        copy.see_them_pass([result.by for result in found.values() if result.how == CAUGHT])
    return {fault.key: found[fault.key] for fault in faults}


def settled(faults: Sequence[Fault], path: Path) -> dict[str, Result]:
    """The results that there are, in the order of the faults, and of those that are known to change nothing."""
    done, reasons = results.read(path), listed.equivalent()
    found = {}
    for fault in faults:
        if fault.key in reasons:
            found[fault.key] = _result(fault, Outcome(EQUIVALENT, reasons[fault.key], "", 0.0))
        elif fault.key in done:
            found[fault.key] = done[fault.key]
    return found


def tried(copy: Copy, fault: Fault) -> Result:
    """What comes of a fault; one that is known to change nothing is not tried."""
    why = listed.equivalent().get(fault.key)
    return _result(fault, copy.tried(fault) if why is None else Outcome(EQUIVALENT, why, "", 0.0))


def _result(fault: Fault, outcome: Outcome) -> Result:
    line = fault.line((ROOT / fault.file).read_bytes())
    place = (fault.key, fault.kind, fault.file, fault.function, line, fault.old, fault.new, fault.what)
    return Result(*place, outcome.how, outcome.by, outcome.note, round(outcome.seconds, 1))


def say(result: Result, place: int, of: int) -> None:
    where = f"{result.file}:{result.line} {result.function}"
    by = f" by {result.by}" if result.by else ""
    note = f" ({result.note})" if result.note else ""
    print(f"[{place}/{of}] {result.key} {where}: {result.how}{by}{note} ({result.seconds:.0f} s)", flush=True)
    if result.how == SURVIVED:
        print(f"    {result.old!r}\n    {result.new!r}", flush=True)


def parsed(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=SEED, help=f"of those drawn (default {SEED})")
    parser.add_argument("--count", type=int, default=COUNT, help=f"how many are drawn (default {COUNT})")
    parser.add_argument("--drawn-only", action="store_true", help="leave out those that were thought out")
    parser.add_argument(
        "--room", action="append", default=[], choices=sorted(ROOMS), help="of this room; may be repeated"
    )
    parser.add_argument("--only", action="append", default=[], metavar="KEY", help="this fault; may be repeated")
    parser.add_argument("--jobs", type=int, default=1, help="copies of the tree that are worked in at once (default 1)")
    parser.add_argument(
        "--seconds",
        type=float,
        default=Limits.all,
        help="of tests for each fault, half of it for one",
    )
    parser.add_argument(
        "--results", type=Path, default=ROOT / ".faults" / "results.jsonl", help="where results are kept"
    )
    parser.add_argument("--resume", action="store_true", help="leave out faults that have a result there")
    parser.add_argument("--cache", type=Path, help="a folder that keeps object code from run to run (default: none)")
    parser.add_argument(
        "--reach", type=Path, metavar="FILE", help="try faults on tests that run their functions (says FILE)"
    )
    parser.add_argument("--find-reach", type=Path, metavar="FILE", help="write FILE by running the suite, and try none")
    parser.add_argument("--page", type=Path, help="write the page of all results")
    parser.add_argument("--settled", action="store_true", help="try none: say, and write, what has a result already")
    parser.add_argument("--list", action="store_true", help="say the faults, and try none")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    args = parsed(words)
    if args.find_reach:
        with copied(ROOT, Limits(), args.cache) as copy:
            measured(copy.root, args.find_reach, ["-m", MARKERS, "-n", str(args.jobs)], copy.environment(copy.kept))
        return 0
    try:
        faults = chosen(args)
        if args.list:
            for fault in faults:
                line = fault.line((ROOT / fault.file).read_bytes())
                print(f"{fault.key} {fault.kind} {fault.file}:{line} {fault.function}")
                print(f"    {fault.old!r}\n    {fault.new!r}")
            return 0
        print(f"{len(faults)} faults; those drawn by seed {args.seed}", flush=True)
        found = settled(faults, args.results) if args.settled else run(faults, args)
    except (StaleError, RedError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if args.page:
        args.page.write_text(results.page(list(found.values()), args.seed, len(faults) - len(found)))
    survivors = [result for result in found.values() if result.how == SURVIVED]
    share = f"{100 * results.caught_share(found.values()):.1f} % of those that change something"
    untried = len(faults) - len(found)
    print(f"{results.summary(found)}; {f'{untried} more are not settled' if untried else share}")
    for result in survivors:
        print(f"survived: {result.key} {result.file}:{result.line} {result.function}: {result.what}")
    return int(bool(survivors))


if __name__ == "__main__":
    sys.exit(main())
