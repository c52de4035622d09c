"""Where threads meet: exactly where memory says so."""

import numpy as np

from mapsto.runtime.phases import barriers, find_phases
from mapsto.runtime.program import BranchIfFalse, Buffer, Jump, Program, Run


def _program(steps, count=6, kind="arena"):
    return Program("p", (), (), tuple(Buffer(f"b{i}", kind, 64) for i in range(count)), tuple(steps))


def _run(reads, writes, **other):
    operands = tuple((b, 0) for b in (*reads, *writes))
    return Run("f", operands, writes=tuple(range(len(reads), len(operands))), **other)


def _phases(*steps):
    return find_phases(_program(steps)).of_step.tolist()


def test_a_reader_waits_for_its_writer():
    assert _phases(_run([0], [1]), _run([1], [2])) == [0, 1]


def test_a_writer_waits_for_readers_and_writers():
    assert _phases(_run([0], [1]), _run([2], [0])) == [0, 1]
    assert _phases(_run([0], [1]), _run([2], [1])) == [0, 1]


def test_independent_steps_need_not_meet():
    assert _phases(_run([0], [1]), _run([0], [2]), _run([0], [3]), _run([1, 2], [4])) == [0, 0, 0, 1]


def test_steps_that_do_not_say_what_they_write_may_write_anything():
    unknown = Run("f", ((0, 0), (1, 0)))
    assert _phases(unknown, Run("f", ((0, 0), (2, 0)))) == [0, 1]


def test_buffers_of_one_phase_do_not_share_memory():
    phases = find_phases(_program([_run([0], [1]), _run([0], [2]), _run([0], [3]), _run([3], [4])]))
    assert phases.of_step.tolist() == [0, 0, 0, 1]
    assert phases.first[:5].tolist() == [0, 0, 0, 0, 1] and phases.last[:5].tolist() == [0, 0, 0, 1, 1]


def test_a_jump_target_starts_a_phase():
    steps = [_run([0], [1]), BranchIfFalse((1, 0), 4), _run([0], [2]), Jump(5), _run([0], [2]), _run([0], [3])]
    phases = find_phases(_program(steps))
    assert phases.of_step.tolist() == [0, 1, 1, 1, 2, 3]
    assert phases.is_target.tolist() == [False, False, False, False, True, True]


def test_what_a_loop_touches_lives_through_it():
    steps = [_run([], [0]), _run([0], [1]), _run([1], [2]), _run([2], [3]), BranchIfFalse((3, 0), 1), _run([4], [5])]
    phases = find_phases(_program(steps))
    start, stop = phases.of_step[1], phases.of_step[4]
    for buffer in (0, 1, 2, 3):
        assert phases.first[buffer] <= start and phases.last[buffer] == stop
    assert phases.looped.tolist() == [True] * 4 + [False] * 2


def test_the_first_thread_does_not_meet_itself():
    steps = [_run([i], [i + 1]) for i in range(5)]
    phases = find_phases(_program(steps))
    alone = np.array([False, True, True, True, False])
    assert barriers(phases, alone).tolist() == [False, True, False, False, True]
    assert barriers(phases, np.ones(5, bool)).tolist() == [False] * 5
    assert barriers(phases, np.zeros(5, bool)).tolist() == [False, True, True, True, True]


def test_threads_always_meet_at_a_jump_target():
    steps = [_run([0], [1]), _run([1], [2]), Jump(1)]
    assert barriers(find_phases(_program(steps)), np.ones(3, bool)).tolist() == [False, True, False]
