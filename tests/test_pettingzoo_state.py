"""Going on: without automatic resets, and from a stored state of PettingZoo environments."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_pettingzoo import SPREAD, TOY, chosen, same, trajectory

from hypermarl.envs.interface import EnvironmentFault
from hypermarl.envs.pettingzoo import make


def test_without_auto_reset_the_last_observation_stays_until_reset_rows() -> None:
    env = make(SPREAD, num_envs=3, max_steps=3)
    env.auto_reset = False
    rng = torch.Generator().manual_seed(0)
    env.reset(0)
    steps = [env.step(chosen(env, rng)) for _ in range(4)]
    assert steps[2].done.all()
    assert torch.equal(steps[2].view.observation["agent"], steps[2].final["agent"])
    assert steps[3].done.all(), "who is over stays over"
    assert torch.equal(steps[3].view.observation["agent"], steps[2].view.observation["agent"])
    assert not steps[3].truncated["agent"].any()
    assert not steps[3].reward["agent"].any()
    view = env.reset_rows(torch.tensor([True, False, True]))
    following = make(SPREAD, num_envs=3, max_steps=3)
    following.reset(0)
    second = following.reset().observation["agent"]
    assert torch.equal(view.observation["agent"][[0, 2]], second[[0, 2]])
    assert not torch.equal(view.observation["agent"][1], second[1])
    step = env.step(chosen(env, rng))
    assert step.done.tolist() == [False, True, False]
    state = env.state_dict()
    assert state is not None
    assert state["length"].tolist() == [1, 3, 1]
    following.auto_reset = False
    following.load_state_dict(state)
    actions = chosen(env, rng)
    assert same(env.step(actions), following.step(actions))


@pytest.mark.parametrize(("before", "after"), [(1, 1), (1, 2), (2, 1)])
def test_a_stored_state_continues_bit_for_bit(before: int, after: int) -> None:
    settings: dict[str, Any] = {"num_envs": 3, "max_steps": 7, "options": {"mask": "info", "n": 4}}
    env = make(TOY, workers=before, **settings)
    trajectory(env, 23)
    state = env.state_dict()
    assert state is not None
    rest = [env.step(chosen(env, torch.Generator().manual_seed(t))) for t in range(15)]
    other = make(TOY, workers=after, **settings)
    other.reset(99)
    view = other.load_state_dict({key: value.clone() for key, value in state.items()})
    assert torch.equal(view.observation["piston"], state["observation/piston"])
    again = [other.step(chosen(other, torch.Generator().manual_seed(t))) for t in range(15)]
    assert all(same(a, b) for a, b in zip(rest, again, strict=True))
    assert sum(int(step.done.sum()) for step in rest) > 3
    env.close()
    other.close()


def test_a_state_holds_only_the_actions_of_running_episodes() -> None:
    env = make(SPREAD, num_envs=2)
    trajectory(env, 60)
    state = env.state_dict()
    assert state is not None
    assert state["action/agent"].shape == (10, 2, 3)
    assert len(env._past) == 10


def test_a_state_is_refused_where_it_does_not_belong() -> None:
    env = make(SPREAD, num_envs=2)
    trajectory(env, 5)
    state = env.state_dict()
    assert state is not None
    with pytest.raises(EnvironmentFault, match="another number of them"):
        make(SPREAD, num_envs=3).load_state_dict(state)
    with pytest.raises(EnvironmentFault, match="another environment"):
        make("mpe2.simple_tag_v3", num_envs=2).load_state_dict(state)
    env.close()
    assert env.state_dict() is None
    with pytest.raises(EnvironmentFault, match="cannot be continued exactly"):
        make(SPREAD, num_envs=2).load_state_dict({**state, "over": torch.tensor([False, True])})
    state["observation/agent"][1, 2, 3] += 1e-6
    with pytest.raises(EnvironmentFault, match="cannot be continued exactly"):
        make(SPREAD, num_envs=2).load_state_dict(state)


def test_what_cannot_be_replayed_has_no_state() -> None:
    env = make(TOY, num_envs=1, options={"fault": "unseeded"})
    env.reset(0)
    env.step({"piston": torch.zeros(1, 3, dtype=torch.int64)})
    assert env.state_dict() is None


def test_an_interrupted_step_leaves_no_state_that_lies() -> None:
    env = make(SPREAD, num_envs=1)
    trajectory(env, 3)
    step = env._rows.step  # type: ignore[union-attr]

    def interrupted(auto_reset: bool) -> None:
        step(auto_reset)
        raise KeyboardInterrupt

    env._rows.step = interrupted  # type: ignore[union-attr,method-assign]
    with pytest.raises(KeyboardInterrupt):
        env.step({"agent": torch.zeros(1, 3, dtype=torch.int64)})
    assert env.state_dict() is None
    env._rows.step = step  # type: ignore[union-attr,method-assign]
    trajectory(env, 3)
    assert env.state_dict() is not None
