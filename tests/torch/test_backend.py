"""`torch.compile(backend=mapsto.torch.backend)`: inference with watched weights, options, what is left to torch."""

from __future__ import annotations

import sys
import threading
import warnings
from importlib import metadata
from typing import Any

import pytest

from tests.pytorch import torch  # isort: skip  (first: it skips the file where there is no torch)

import torch.nn.functional as F
from tests.importers.torch.closeness import assert_close
from tests.importers.torch.families import module_of
from torch import nn

import mapsto.torch
from mapsto.torch.account import EagerWarning


@pytest.fixture(autouse=True)
def anew() -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    mapsto.torch.reset()


def compiled(module: Any, fullgraph: bool = True, **options: Any) -> Any:
    asked = {"threads": 1, "cache": False, **options}
    return torch.compile(module, backend=mapsto.torch.backend, fullgraph=fullgraph, options=asked)


def test_it_is_registered_under_its_name() -> None:
    points = metadata.entry_points(group="torch_dynamo_backends")
    if "mapsto" not in points.names:
        pytest.skip("the package is not installed")
    x = torch.randn(3)
    assert_close(torch.compile(lambda v: v + 1, backend="mapsto", options={"threads": 1})(x), x + 1)


@torch.no_grad()
def test_sizes_that_change_are_compiled_once_more_and_never_again() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5)).eval()
    f = compiled(module)
    for batch in (4, 2, 7, 3, 1, 5):
        x = torch.randn(batch, 3, 8, 8)
        assert_close(f(x), module(x))
    said = mapsto.torch.report()
    assert "compiled: 3 inference" in said, said  # the first size, all sizes, and 1, which torch always sees apart


@torch.no_grad()
def test_weights_that_change_count() -> None:
    module, x = nn.Linear(50, 60).eval(), torch.randn(3, 50)
    f = compiled(module)
    for _ in range(4):
        assert_close(f(x), module(x))
        module.weight.data.add_(0.5)
        module.bias.mul_(2)
    assert "compiled: 1 inference" in mapsto.torch.report()


def test_views_writes_and_aliases() -> None:
    def f(x: Any, y: Any) -> Any:
        y[1:, ::2] = x[:2, :2].t()
        x.add_(1)
        view = x.view(-1)[2:6]
        return view, x, y.sum(0), x[0]

    x, y = torch.randn(4, 3), torch.randn(3, 4)
    a, b = x.clone(), y.clone()
    found, wanted = compiled(f)(x, y), f(a, b)
    assert_close((found, x, y), (wanted, a, b))
    assert found[1] is x and found[0].data_ptr() == x.data_ptr() + 8
    x.zero_()
    assert float(found[0].abs().sum()) == 0.0  # a view, as torch's own


def test_a_part_that_cannot_be_compiled_is_run_by_torch_counted_and_named_once() -> None:
    def f(x: Any) -> Any:
        return torch.special.airy_ai(x) + 1

    x = torch.randn(5)
    with pytest.warns(EagerWarning, match=r"airy_ai.*test_backend\.py:\d+: return torch"):
        assert_close(compiled(f, fullgraph=False)(x), f(x))
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compiled(f, fullgraph=False)(x)
    assert "left to torch: 2 inference" in mapsto.torch.report()


@pytest.mark.parametrize("fullgraph, options", [(True, {}), (False, {"fallback": False})])
def test_or_it_is_an_error_with_all_names(fullgraph: bool, options: dict[str, Any]) -> None:
    def f(x: Any) -> Any:
        return torch.special.airy_ai(x) + torch.special.bessel_j0(x)

    with pytest.raises(Exception, match=r"(?s)2 calls are not supported.*airy_ai.*bessel_j0"):
        compiled(f, fullgraph, **options)(torch.randn(5))


def test_graph_breaks_are_said() -> None:
    def f(x: Any) -> Any:
        y = x * 2
        torch._dynamo.graph_break()
        return y + 1

    x = torch.rand(4)
    assert_close(compiled(f, fullgraph=False)(x), f(x))
    said = mapsto.torch.report()
    assert "graph breaks by torch: 1" in said and "compiled: 2 inference" in said, said


@pytest.mark.parametrize(
    "options, said",
    [
        ({"thread": 1}, "there is no 'thread'; there are threads, isa"),
        ({"threads": 0}, "threads"),
        ({"weights": "loose"}, "weights"),
        ({"formats": "f7"}, "f7"),
        ({"fallback": 1}, "fallback"),
    ],
)
def test_wrong_options(options: dict[str, Any], said: str) -> None:
    with pytest.raises(Exception, match=said):
        torch.compile(lambda x: x + 1, backend=mapsto.torch.backend, options=options)(torch.randn(2))


def test_a_mode_is_no_option() -> None:
    with pytest.raises(Exception, match="mode"):
        torch.compile(lambda x: x + 1, backend=mapsto.torch.backend, mode="max-autotune")(torch.randn(2))


def test_random_numbers_are_torchs_own() -> None:
    def f(x: Any) -> Any:
        return F.dropout(x, 0.4) + torch.rand_like(x), torch.randn(3), torch.bernoulli(x.sigmoid())

    x = torch.randn(40, 3).t()
    g = compiled(f)
    for seed in range(2):
        torch.manual_seed(seed)
        found = g(x)
        torch.manual_seed(seed)
        assert_close(found[:2], f(x)[:2])


def test_numbers_and_sizes_come_in_and_go_out() -> None:
    def f(x: Any, n: int, scale: float) -> Any:
        return x[:n] * scale, n + 1, x.shape[0] * 2, x.new_ones(n, x.shape[0])

    g = compiled(f)
    for rows, n, scale in ((5, 2, 0.5), (7, 3, 0.25), (9, 4, 3.0)):
        x = torch.randn(rows, 2)
        assert_close(g(x, n, scale), f(x, n, scale))


@torch.no_grad()
def test_recurrent_layers_stay_whole() -> None:
    module, x = module_of("recurrent"), torch.randn(2, 5, 8)
    f = compiled(module)
    assert_close(f(x), module(x))
    assert "compiled: 1 inference\nleft to torch: none" in mapsto.torch.report()


def test_constants_in_the_code() -> None:
    def f(x: Any) -> Any:
        return torch.where(x > 0, x, torch.tensor(0.5)) + torch.tensor([1.0, 2.0, 3.0])

    x = torch.randn(4, 3, requires_grad=True)
    assert_close(compiled(f)(x), f(x))


def test_several_threads_call_at_once():
    """Each run's weights are those that it was given."""
    torch._dynamo.reset()
    module = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 8)).eval()
    made = torch.compile(module, backend=mapsto.torch.backend, options={"threads": 1, "fallback": False})
    inputs = [torch.randn(3, 64) for _ in range(4)]
    with torch.no_grad():
        made(inputs[0])
        wanted = [module(x) for x in inputs]
    right: list[bool] = []

    def calls(x, want):
        with torch.no_grad():
            right.extend(torch.allclose(made(x), want, atol=1e-5) for _ in range(200))

    threads = [threading.Thread(target=calls, args=each) for each in zip(inputs, wanted, strict=True)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # threads change between any two instructions
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert len(right) == 800 and all(right)
