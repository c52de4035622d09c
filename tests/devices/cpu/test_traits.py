"""Nothing but the maker's traits says how wide blocks are: with others, the same numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.session.support import assert_close
from tests.session.test_replay import MODELS

import mapsto
from mapsto.devices.cpu import maker
from mapsto.devices.cpu.isa import Isa


@pytest.mark.parametrize("name", ["cnn", "open cnn", "branches"])
@pytest.mark.parametrize("block", [0, 4, 32])
def test_blocks_of_another_size(name: str, block: int, isa: Isa, monkeypatch: pytest.MonkeyPatch) -> None:
    model, feed = MODELS[name]
    usual = mapsto.compile(model, isa=isa.name)
    monkeypatch.setattr(maker, "TRAITS", replace(maker.TRAITS, block=block, least_blocked=8))
    exe = mapsto.compile(model, isa=isa.name)
    blocks = {home.layout.block[1] for home in exe.plan.homes.values() if home.layout.block}
    assert blocks == ({block} if block else set())
    assert any(work.offer.template == "tiles" for work in exe.plan.works)
    exe.poison()
    assert_close(exe.run(feed), usual.run(feed))
    assert mapsto.compile(model, isa=isa.name, plan=exe.plan.text()).program == exe.program
