"""What is drawn and what is made are the same in every process: nothing hangs on the order of sets."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent

PRINTS = {
    "the examples of property tests": """
        from hypothesis import HealthCheck, given, settings
        from tests.devices.generic.test_extents import kernels
        from tests.passes.graphs import graphs
        from tests.random_graphs import cases
        from mapsto.ir.text import print_graph

        quiet = settings(derandomize=True, database=None, deadline=None, max_examples=25,
                         suppress_health_check=list(HealthCheck))
        data = lambda arrays: {n: a.tobytes() for n, a in arrays.items()}
        texts = (lambda case: (case.model.SerializeToString(), data(case.feed)), print_graph,
                 lambda case: (repr(case.kernel), data(case.inputs)))
        def note(text):
            return lambda example: digest.update(repr(text(example)).encode())

        for strategy, text in zip((cases(), graphs(), kernels()), texts, strict=True):
            quiet(given(strategy)(note(text)))()
    """,
    "plans and code": """
        from pathlib import Path
        from tests.plan.graphs import layer_norm_rows, small_cnn
        from mapsto.ir.expr import sym
        import mapsto

        for model in (small_cnn(), small_cnn(sym("h"), sym("w")), layer_norm_rows(), Path("examples/mnist-cnn.onnx")):
            exe = mapsto.compile(model, isa="sse2")
            digest.update(exe.plan.text().encode() + repr(exe.program.functions()).encode())
    """,
    "graphs of the standard's cases": """
        from tests.compatibility.kept import MODELS
        from tests.conformance import conformance_cases
        from mapsto.ir.text import graph_digest
        from mapsto.session.compile import prepared

        for model in (*(case.model for case in conformance_cases()[::7]), *(make()[0] for make in MODELS.values())):
            digest.update(graph_digest(prepared(model, None)).encode())
    """,
}


def printed(body: str, seed: str) -> str:
    """What a script says of itself under a seed of Python's hashes."""
    text = f"import hashlib\ndigest = hashlib.sha256()\n{textwrap.dedent(body)}\nprint(digest.hexdigest())"
    environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, env=environment, cwd=REPOSITORY, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("what", PRINTS)
def test_the_same_under_every_seed_of_hashes(what: str) -> None:
    first, *others = (printed(PRINTS[what], seed) for seed in ("0", "1", "2718"))
    assert len(first) == 65 and others == [first, first]
