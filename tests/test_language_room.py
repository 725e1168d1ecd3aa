"""Too many agents are refused before memory runs out."""

from __future__ import annotations

import pytest
import small_language as tiny
import torch

from hypermarl.errors import UserError
from hypermarl.language import room
from hypermarl.language.rows import Sampling
from hypermarl.language.swarm import Swarm


def test_memory_that_is_there_is_read() -> None:
    found = room.available(torch.device("cpu"))
    assert found is not None and 2**20 < found < 2**50
    assert room._free_pages()


def test_what_agents_take() -> None:
    one = tiny.backbone()
    assert room.adapter_bytes(one, tiny.target()) == 4 * tiny.target().spec.numel()
    keys_and_values = 2 * tiny.LAYERS * 1 * 6
    assert room.row_bytes(one, 10) - room.row_bytes(one, 3) == 4 * 7 * (keys_and_values + 4 * (12 + 20))


def test_how_many_fit_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "available", lambda device: 5 * 300 + 299)
    room.check_room(torch.device("cpu"), 5, 300)
    with pytest.raises(UserError, match=r"6 agents need about .* GB beside the model, .* free: 5 such agents fit\."):
        room.check_room(torch.device("cpu"), 6, 300)
    monkeypatch.setattr(room, "available", lambda device: None)
    room.check_room(torch.device("cpu"), 10**9, 300)


def test_a_swarm_asks_before_it_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    agents = list("abcde")
    one = Swarm(tiny.backbone(), tiny.target(), agents, tiny.adapters(5))
    asked = []
    monkeypatch.setattr(room, "available", lambda device: asked.append(device) or 2000)
    with pytest.raises(UserError, match="5 agents need about"):
        one.generate({agent: ["red cat", "one"] for agent in agents}, Sampling(4))
    assert asked
