"""AEC environments in parallel form."""

from __future__ import annotations

import numpy as np
import pytest
from mpe2 import simple_spread_v3, simple_tag_v3
from pettingzoo.classic import connect_four_v3, tictactoe_v3
from pettingzoo.test import parallel_api_test
from pettingzoo_toys import Relay

from hypermarl.envs.interface import EnvironmentFault
from hypermarl.envs.pettingzoo import make, make_parallel
from hypermarl.envs.turns import Cycle, TurnBased, as_parallel


@pytest.mark.parametrize("module", [simple_spread_v3, simple_tag_v3])
def test_a_cycle_is_pettingzoos_own_conversion(module: object) -> None:
    theirs = module.parallel_env()  # type: ignore[attr-defined]
    ours = as_parallel(module.env(), "x")  # type: ignore[attr-defined]
    assert isinstance(ours, Cycle)
    assert isinstance(as_parallel(theirs, "x"), Cycle)
    for seed in range(2):
        one, _ = theirs.reset(seed=seed)
        other, _ = ours.reset(seed=seed)
        t = 0
        while theirs.agents:
            assert ours.agents == theirs.agents
            assert all(np.array_equal(one[agent], other[agent]) for agent in theirs.agents)
            actions = {agent: (t * 3 + i * 2) % 5 for i, agent in enumerate(theirs.agents)}
            one, *mine = theirs.step(actions)
            other, *yours = ours.step(actions)
            assert [dict(each) for each in mine] == yours
            t += 1
        assert ours.agents == []


def test_a_false_claim_to_be_parallelizable_is_found() -> None:
    env = as_parallel(Relay(parallelizable=True), "relay")
    env.reset(seed=0)
    env.step({"left": 1, "right": 0})
    with pytest.raises(EnvironmentFault, match="it is the turn of 'right' when that of 'left' should come"):
        env.step({"left": 1, "right": 0})


@pytest.mark.parametrize("name", ["classic.tictactoe_v3", "pettingzoo_toys:Relay"])
def test_turn_based_games_are_not_trained_on_but_play(name: str) -> None:
    with pytest.raises(EnvironmentFault, match="turn-based .AEC. game: it can be evaluated, but not trained on"):
        make(name, num_envs=1)
    parallel_api_test(make_parallel(name), num_cycles=30)


@pytest.mark.parametrize("module", [tictactoe_v3, connect_four_v3])
def test_only_the_agent_to_move_chooses(module: object) -> None:
    aec, env = module.env(), as_parallel(module.env(), "game")  # type: ignore[attr-defined]
    assert isinstance(env, TurnBased)
    rng = np.random.default_rng(1)  # a game that somebody wins
    aec.reset(seed=0)
    seen, _ = env.reset(seed=0)
    earned = dict.fromkeys(env.possible_agents, 0.0)
    for _ in range(100):
        mover = aec.agent_selection
        real = aec.observe(mover)
        assert np.array_equal(seen[mover]["observation"], real["observation"])
        assert np.array_equal(seen[mover]["action_mask"], real["action_mask"])
        for other in set(env.agents) - {mover}:
            assert not seen[other]["observation"].any()
            assert seen[other]["action_mask"].tolist() == [1] + [0] * (real["action_mask"].size - 1)
            assert seen[other] in env.observation_space(other)
        legal = np.flatnonzero(real["action_mask"])
        actions = {agent: 0 for agent in env.agents} | {mover: int(rng.choice(legal))}
        aec.step(actions[mover])
        paid = dict(aec.rewards)
        seen, rewards, ends, _, _ = env.step(actions)
        assert rewards == paid
        earned = {agent: earned[agent] + rewards[agent] for agent in earned}
        assert ends == dict(aec.terminations)
        if any(ends.values()):
            break
    assert env.agents == []
    assert sum(earned.values()) == 0
    assert max(earned.values()) == 1


def test_a_turn_without_an_action_is_a_fault() -> None:
    env = as_parallel(tictactoe_v3.env(), "game")
    env.reset(seed=0)
    with pytest.raises(EnvironmentFault, match="the turn of 'player_1', who was given no action"):
        env.step({"player_2": 0})
