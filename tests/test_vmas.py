"""VMAS environments keep the interface's word, and give the numbers of plain VMAS."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("vmas")

from hypermarl.envs import vmas as vmas_envs  # noqa: E402

PAPER = {"n_agents": 4, "n_food": 4, "food_radius": 0.08, "penalise_by_time": True, "continuous_actions": False}


def test_time_limit_truncates_and_is_no_termination() -> None:
    env = vmas_envs.make("dispersion", num_envs=3, max_steps=4, options=PAPER)
    first = env.reset(0)
    for clock in range(1, 5):
        step = env.step({"agents": torch.zeros(3, 4, dtype=torch.int64)})
        assert step.done.all() == (clock == 4)
    assert step.truncated["agents"].all() and not step.terminated["agents"].any()
    assert not torch.equal(step.view.observation["agents"], first.observation["agents"])
    assert torch.equal(step.final["agents"], first.observation["agents"])  # nobody moved, nothing was eaten
