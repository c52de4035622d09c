"""`mapsto.compile` of modules of torch: tensors in and out in the module's own structure, weights that are its own."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from tests.pytorch import torch  # isort: skip  (first: it skips the file where there is no torch)

from tests.importers.torch.closeness import assert_close
from torch import nn

import mapsto
import mapsto.session.weights as weights_of_modules
from mapsto.errors import ArgumentError, ShapeError, UnsupportedError


def compiled(module: Any, *examples: Any, **rest: Any) -> Any:
    return mapsto.compile(module, example_inputs=examples, threads=1, cache=False, **rest)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(70, 80), nn.Linear(80, 3, bias=False)

    def forward(self, x: Any) -> Any:
        return self.second(torch.relu(self.first(x)))


def test_importing_mapsto_does_not_import_torch() -> None:
    code = "import sys, mapsto; mapsto.compile; mapsto.load; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# -- weights -----------------------------------------------------------------------------------------------------------


def _by_optimizer(module: Any) -> None:
    module(torch.randn(2, 70)).sum().backward()
    torch.optim.SGD(module.parameters(), 0.1).step()


def _by_data(module: Any) -> None:
    module.first.weight.data[79, 69] += 1.0


def _by_numpy(module: Any) -> None:
    array = module.second.weight.detach().numpy()
    array[2, 79] += 1.0


def _by_exchange(module: Any) -> None:
    """Two words change places: their sum stays."""
    array = module.first.weight.detach().numpy().reshape(-1)
    array[:4] = array[[2, 3, 0, 1]]


def _by_replacing(module: Any) -> None:
    module.second.weight = nn.Parameter(torch.randn(3, 80))


def _by_loading(module: Any) -> None:
    module.load_state_dict(Small().state_dict())


@pytest.mark.parametrize("change", [_by_optimizer, _by_data, _by_numpy, _by_exchange, _by_replacing, _by_loading])
def test_a_changed_weight_counts_in_the_next_call(change: Any) -> None:
    module, x = Small(), torch.randn(4, 70)
    exe = compiled(module, x)
    for compilations in (1, 2, 3, 3):
        assert_close(exe(x), module(x).detach())
        assert exe.compilations == compilations
        change(module)
    assert "read in each run" in exe.report()


def test_weights_stay_where_they_are() -> None:
    module, x = Small(), torch.randn(4, 70)
    places = [p.data_ptr() for p in module.parameters()]
    exe = compiled(module, x)
    for _ in range(3):
        exe(x)
        module.first.bias.data.add_(1)
    assert places == [p.data_ptr() for p in module.parameters()]
    assert exe.compilations == 3


def test_written_without_a_change_is_not_compiled_again() -> None:
    module, x = Small(), torch.randn(4, 70)
    exe = compiled(module, x)
    with torch.no_grad():
        module.first.weight.mul_(1.0)
    exe(x)
    assert exe.compilations == 1


def test_equal_weights_elsewhere_are_not_compiled_again_and_are_watched_there() -> None:
    module, x = Small(), torch.randn(4, 70)
    exe = compiled(module, x)
    old = module.first.weight
    module.first.weight = nn.Parameter(old.detach().clone())
    old.data.zero_()
    assert_close(exe(x), module(x).detach())
    module.second.weight.data = module.second.weight.data.t().contiguous().t()  # in another order in memory
    assert_close(exe(x), module(x).detach())
    assert exe.compilations == 1
    for weight in (module.first.weight, module.second.weight):
        weight.data[1, 1] += 1.0
        assert_close(exe(x), module(x).detach())
    assert exe.compilations == 3


def test_weights_that_lie_in_another_order_are_looked_at_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Channels last: no copy of them is made; each change of one is seen, and of one that is row-major again."""
    module = nn.Sequential(nn.Conv2d(5, 6, 3), nn.Conv2d(6, 4, 3)).to(memory_format=torch.channels_last)
    x = torch.randn(2, 5, 9, 9)
    exe = compiled(module, x)
    assert not module[0].weight.is_contiguous()
    with monkeypatch.context() as during:
        during.setattr(weights_of_modules, "_bytes", None)  # which would look at the memory anew
        assert_close(exe(x), module(x).detach())
    module[0].weight.data[1, 2, 0, 1] += 1.0
    assert_close(exe(x), module(x).detach())
    assert exe.compilations == 2
    exe = compiled(module, x)
    module[1].weight.data = module[1].weight.data.contiguous()
    for _ in range(2):
        assert_close(exe(x), module(x).detach())
        assert exe.compilations == 1
    module[1].weight.data[3, 5, 2, 1] -= 1.0
    assert_close(exe(x), module(x).detach())
    assert exe.compilations == 2


def test_frozen_weights_are_never_looked_at_again() -> None:
    module, x = Small(), torch.randn(4, 70)
    exe = compiled(module, x, weights="frozen")
    before = module(x).detach()
    _by_data(module)
    assert_close(exe(x), before)


# -- structure ---------------------------------------------------------------------------------------------------------


class Structured(nn.Module):
    def forward(self, pair: Any, *, scale: Any, more: dict[str, Any], flag: bool = True) -> Any:
        x, y = pair
        return {"sum": (x + y) * scale, "rest": [more["z"] if flag else x, None, 3, x]}


def test_the_structure_of_inputs_and_results_is_the_modules() -> None:
    x, y, z, scale = torch.randn(2, 3), torch.randn(3), torch.randn(4), torch.tensor(2.0)
    exe = compiled(Structured(), (x, y), example_kwargs={"scale": scale, "more": {"z": z}})
    assert_close(exe((x, y), more={"z": z}, scale=scale), Structured()((x, y), scale=scale, more={"z": z}))
    with pytest.raises(ArgumentError, match="structure"):
        exe(x, y, scale=scale, more={"z": z})


def test_tensors_that_are_not_contiguous() -> None:
    module, x = nn.Linear(4, 3), torch.randn(4, 6)
    exe = compiled(module, x.t())
    assert_close(exe(x.t()), module(x.t()).detach())
    assert_close(exe(torch.randn(12, 8)[::2, ::2]), torch.zeros(6, 3), tolerance=100)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int32, torch.uint8, torch.bool])
def test_types(dtype: Any) -> None:
    class Doubled(nn.Module):
        def forward(self, x: Any) -> Any:
            return x + x, x * 2.5, x.sum(), x == x.max()

    x = torch.tensor([[0, 1, 2], [3, 4, 5]]).to(dtype)
    assert_close(compiled(Doubled(), x)(x), Doubled()(x), tolerance=1e-5 if dtype is not torch.bfloat16 else 1e-2)


def test_shapes_by_names_and_by_torchs_own() -> None:
    module = nn.Linear(4, 3)
    for rest in ({"shapes": {"input": ("n", None)}}, {"dynamic_shapes": ({0: torch.export.Dim("n")},)}):
        exe = compiled(module, torch.randn(5, 4), **rest)
        assert exe.executable.inputs[0].shape[1] == 4 and str(exe.executable.inputs[0].shape[0]) == "n"
        for n in (0, 1, 2, 9):
            x = torch.randn(n, 4)
            assert_close(exe(x), module(x).detach())
    with pytest.raises(ShapeError):
        exe(torch.randn(2, 5))


def test_an_exported_program() -> None:
    module, x = Small(), torch.randn(4, 70)
    exe = mapsto.compile(torch.export.export(module, (x,)), threads=1, cache=False)
    assert_close(exe(x), module(x).detach())


# -- writes ------------------------------------------------------------------------------------------------------------


class Writing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.register_buffer("cache", torch.zeros(4, 6))

    def forward(self, x: Any, state: Any, at: Any) -> Any:
        state[:, 1:3] = x.mean((2, 3))[:, :2]
        state.mul_(2)
        self.cache.index_copy_(0, at, state[:2].repeat(1, 2)[:, :6])
        self.cache[-1, ::2] += 1
        return self.norm(x), state, state[1:], self.cache.clone()


def test_writes_into_buffers_and_inputs() -> None:
    ours, theirs = Writing().train(), Writing().train()
    inputs = torch.randn(4, 3, 5, 5), torch.randn(4, 3), torch.tensor([2, 0])
    exe = compiled(ours, *inputs)
    for _ in range(3):
        x, state = torch.randn(4, 3, 5, 5), torch.randn(4, 3)
        other = state.clone()
        found, wanted = exe(x, state, inputs[2]), theirs(x, other, inputs[2])
        assert_close(found, tuple(w.detach() for w in wanted))
        assert_close(state, other)
        assert found[1] is state
        assert_close(dict(ours.named_buffers()), dict(theirs.named_buffers()))
    assert exe.compilations == 1


def test_dropout_in_training_draws_as_torch_does() -> None:
    module, x = nn.Sequential(nn.Linear(4, 64), nn.Dropout(0.5), nn.Dropout1d(0.3)).train(), torch.randn(9, 4)
    exe = compiled(module, x)
    for seed in range(3):
        torch.manual_seed(seed)
        found = exe(x)
        torch.manual_seed(seed)
        assert_close(found, module(x).detach())


# -- what passes through -----------------------------------------------------------------------------------------------


def test_a_plan_is_replayed() -> None:
    module, x = Small(), torch.randn(4, 70)
    exe = compiled(module, x)
    again = compiled(module, x, plan=exe.executable.plan)
    assert_close(again(x), exe(x), tolerance=0)
    module.first.weight.data.add_(1)
    assert_close(again(x), module(x).detach())


def test_formats() -> None:
    module, x = Small(), torch.randn(4, 70)
    exact, narrow = module(x).detach(), compiled(module, x, formats="bf16")(x)
    assert_close(narrow, exact, tolerance=3e-2)
    assert not torch.equal(narrow, exact)


# -- wrong use ---------------------------------------------------------------------------------------------------------


class Branching(nn.Module):
    def forward(self, x: Any) -> Any:
        if x.sum() > 0:  # the place
            return x
        return -x


class Refused(nn.Module):
    def forward(self, x: Any) -> Any:
        y = torch.linalg.svdvals(x)  # the first place
        return torch.special.airy_ai(y + 1)  # the second place


def test_a_branch_on_data_names_its_place_and_nothing_is_printed(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UnsupportedError, match=r"branches on the data.*test_module\.py:\d+: if x\.sum\(\) > 0"):
        compiled(Branching(), torch.randn(3))
    assert capfd.readouterr() == ("", "")


def test_all_unsupported_calls_are_named_with_their_places() -> None:
    with pytest.raises(UnsupportedError) as raised:
        compiled(Refused(), torch.randn(3, 3))
    assert len(raised.value.faults) == 2
    for fault, said in zip(raised.value.faults, ("the first place", "the second place"), strict=True):
        assert "test_module.py" in fault and said in fault


@pytest.mark.parametrize(
    "arguments, said",
    [
        ({}, "example_inputs"),
        ({"example_inputs": (torch.randn(2, 70),), "weights": "loose"}, "weights"),
        ({"example_inputs": (torch.randn(2, 70),), "overridable": ["x"]}, "overridable"),
        ({"example_inputs": (torch.randn(2, 70),), "updates": {"a": "b"}}, "updates"),
        ({"example_inputs": (torch.randn(2, 70),), "data_root": "/"}, "data_root"),
        ({"example_inputs": (torch.randn(2, 70),), "shapes": {"x": ("n", 70)}, "dynamic_shapes": {}}, "dynamic_shapes"),
        ({"example_inputs": (torch.randn(2, 70),), "formats": "int8", "calibration": {"x": np.zeros(1)}}, "frozen"),
        ({"example_inputs": (torch.randn(2, 7),)}, "cannot be traced"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises((ArgumentError, UnsupportedError), match=said):
        mapsto.compile(Small(), **arguments)


def test_examples_are_for_modules() -> None:
    with pytest.raises(ArgumentError, match="modules of torch"):
        mapsto.compile("model.onnx", example_inputs=(1,))


def test_a_module_on_another_device() -> None:
    with pytest.raises(UnsupportedError, match="'first.weight' is on meta"):
        compiled(Small().to("meta"), torch.randn(2, 70, device="meta"))


# -- branches and loops of torch ---------------------------------------------------------------------------------------


class Deciding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Any, n: Any) -> Any:
        y = torch.cond(x.sum() > 0, lambda v: self.layer(v) + 1, lambda v: -v, (x,))
        y = torch.cond(x.shape[0] > 3, lambda v: v * 2, lambda v: v + 10, (y,))
        states = torch.zeros((), dtype=torch.int64), y
        return torch._higher_order_ops.while_loop(lambda i, v: i < n, lambda i, v: (i + 1, v * 1.5 + i), states)


def test_branches_and_loops() -> None:
    module = Deciding()
    exe = compiled(module, torch.randn(5, 3), torch.tensor(2), shapes={"x": ("n", 3)})
    for rows, count, sign in ((2, 0, 1), (5, 3, -1), (4, 7, 1), (3, 1, -1)):
        x, n = torch.rand(rows, 3) * sign, torch.tensor(count)
        with torch.no_grad():
            wanted = module(x, n)
        assert_close(exe(x, n), wanted)
    assert exe.compilations == 1


class Parts(nn.Module):
    def forward(self, first: Any, *parts: Any, scale: Any) -> Any:
        return first + scale * sum(part.sum(0) for part in parts)


def test_open_sizes_of_arguments_in_any_number() -> None:
    """What `*parts` holds is parts_0, parts_1; what comes after it by name keeps its own."""
    made, scale = (torch.ones(3), torch.ones(2, 3), torch.ones(4, 3)), {"scale": torch.tensor(2.0)}
    shapes = {"parts_0": ("n", 3), "parts_1": ("m", 3)}
    exe = compiled(Parts(), *made, example_kwargs=scale, shapes=shapes)
    for n, m in ((2, 4), (1, 7), (5, 0)):
        given = torch.rand(3), torch.rand(n, 3), torch.rand(m, 3)
        assert_close(exe(*given, scale=torch.tensor(0.5)), Parts()(*given, scale=torch.tensor(0.5)))
    with pytest.raises(ShapeError, match="takes no parts_2; its arguments are first, scale, parts_0, parts_1"):
        compiled(Parts(), *made, example_kwargs=scale, shapes={"parts_2": ("k", 3)})


class Looked(nn.Module):
    """Results that look at each other's memory, and copies that do not."""

    def forward(self, x: Any) -> Any:
        y = torch.relu(x)
        return y, y.view(-1), y.unsqueeze(0), y.clone().view(-1), y.t(), y.detach()


@pytest.mark.parametrize("shapes", [None, {"x": ("n", 6)}])
def test_views_of_a_result_are_views(shapes: Any) -> None:
    exe = compiled(Looked(), torch.randn(4, 6), shapes=shapes)
    for rows in (4, 9, 1) if shapes else (4,):
        x = torch.randn(rows, 6)
        found, expected = exe(x), Looked()(x)
        assert_close(found, expected)
        assert len(exe.executable.program.outputs) == 3  # itself, the copy, the transposed one
        for made in (found, expected):  # written in place: what looks at it sees it
            made[0].add_(1)
        for one, other in zip(found[:4], expected[:4], strict=True):
            assert_close(one, other)
