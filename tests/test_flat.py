"""One environment to evaluate on, shown as in training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hypermarl.envs.interface import EnvironmentFault
from hypermarl.envs.pettingzoo import make_parallel

TOY = "pettingzoo_toys:Pistons"


def played(steps: int = 6, **options: Any) -> Any:
    env = make_parallel(TOY, options=options)
    env.reset(seed=0)
    for _ in range(steps):
        env.step({agent: 0 for agent in env.agents})
    return env


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("raise", "step raised RuntimeError: the piston is stuck"),
        ("nan reward", "reward of agent 'piston_0' is nan"),
        ("word reward", "reward of agent 'piston_0' is no number but 'much'"),
        ("nan observation", "observation of agent 'piston_0' holds NaN"),
        ("shape", "observation of agent 'piston_0' has shape"),
        ("ragged", "observation of agent 'piston_0' cannot be read"),
        ("no observation", "gave no observation for agent 'piston_0'"),
    ],
)
def test_a_broken_environment_is_named_in_evaluation_too(fault: str, words: str) -> None:
    with pytest.raises(EnvironmentFault, match=words):
        played(fault=fault, at=1)
    with pytest.raises(EnvironmentFault, match="gave no action mask for agent 'piston_0'"):
        played(fault="no mask", mask="info", at=1)


def test_actions_are_checked() -> None:
    env = make_parallel(TOY)
    env.reset(seed=0)
    with pytest.raises(EnvironmentFault, match="was given no action for agent 'piston_2'"):
        env.step({"piston_0": 0, "piston_1": 0})
    for wrong in (4, -1, "up", None):
        with pytest.raises(EnvironmentFault, match="is no action of agent 'piston_0'"):
            env.step({agent: wrong for agent in env.agents})


def test_the_clock_cuts_off_those_who_live() -> None:
    options = {"n": 6, "longest": 9}
    probe = make_parallel(TOY, options=options)
    probe.reset(seed=1)
    clock = sorted(probe.env.ends.values())[2]  # somebody dies just then
    env = make_parallel(TOY, max_steps=clock, options=options)
    for _ in range(2):
        env.reset(seed=1)
        dead: set[str] = set()
        for _ in range(clock):
            assert env.agents
            _, _, ends, cuts, _ = env.step({agent: 0 for agent in env.agents})
            assert not any(ends[agent] and cuts[agent] for agent in ends)
            dead |= {agent for agent in ends if ends[agent]}
        assert env.agents == []
        assert dead == {agent for agent, end in env.env.ends.items() if end <= clock}
        assert {agent for agent in cuts if cuts[agent]} == set(env.possible_agents) - dead
        assert 0 < len(dead) < 6


def test_it_draws_as_asked_or_says_why_not() -> None:
    env = make_parallel(TOY, render_mode="rgb_array")
    env.reset(seed=0)
    assert env.render().shape == (8, 8, 3)
    assert make_parallel("mpe2.simple_spread_v3", render_mode="rgb_array").render_mode == "rgb_array"
    with pytest.raises(EnvironmentFault, match="cannot render as 'human'; its metadata say 'rgb_array'"):
        make_parallel(TOY, render_mode="human")


def test_it_shows_numbers_where_the_environment_shows_pictures() -> None:
    env = make_parallel(TOY, options={"see": "image", "act": "shifted"})
    seen, _ = env.reset(seed=0)
    assert np.allclose(seen["piston_1"], [1 / 255, 0, 0.2, 1])
    assert all(seen[agent] in env.observation_space(agent) for agent in env.agents)
    env.step({agent: 3 for agent in env.agents})
    assert env.env.actions == [dict.fromkeys(["piston_0", "piston_1", "piston_2"], 6)]
