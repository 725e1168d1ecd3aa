"""The PettingZoo border: its own tests, agents that leave early, ends kept apart, words for what is wrong."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from pettingzoo.test import parallel_api_test, parallel_seed_test
from scripted_env import CLOCK, DEATH, ScriptedEnv

from hypermarl.envs import EnvironmentFault, make, make_parallel
from hypermarl.envs.interface import View
from hypermarl.envs.parallel import ParallelView

ALL = ["runner_0", "runner_1", "a", "b", "c"]
ENVS = {
    "temporal game": lambda: make_parallel("games", "specialisation"),
    "one-choice game": lambda: make_parallel("games", "synchronisation", options={"n_agents": 3, "temporal": False}),
    "spread": lambda: make_parallel("spread", "bps_2", max_steps=20),
    "groups, masks, deaths": lambda: ParallelView(ScriptedEnv(1)),
    "all die": lambda: ParallelView(ScriptedEnv(1, kill_all_at=3)),
    "one is cut off early": lambda: ParallelView(ScriptedEnv(1, early_cut=True)),
}


def scripted(**settings):
    return ParallelView(ScriptedEnv(1, **settings), name="plot")


def idle(env, **changed):
    still = {"runner_0": 1, "runner_1": 1} | {each: np.zeros(2, dtype=np.float32) for each in "abc"}
    return {agent: still[agent] for agent in env.agents} | changed


@pytest.mark.parametrize("name", ENVS)
def test_passes_the_tests_of_pettingzoo(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        parallel_api_test(ENVS[name](), num_cycles=120)
        parallel_seed_test(ENVS[name], num_cycles=20)


def test_an_agent_that_ends_is_told_so_once_and_leaves() -> None:
    env = scripted()
    observations, infos = env.reset(seed=0)
    assert env.agents == ALL == env.possible_agents
    assert list(observations) == list(infos) == ALL
    for age in range(1, CLOCK + 1):
        before = list(env.agents)
        observations, rewards, terminated, truncated, infos = env.step(idle(env))
        for each in (observations, rewards, terminated, truncated, infos):
            assert list(each) == before
        assert [agent for agent in before if terminated[agent]] == (["runner_0"] if age == DEATH else [])
        assert [agent for agent in before if truncated[agent]] == (ALL[1:] if age == CLOCK else [])
        assert rewards["runner_1"] == pytest.approx(age + 0.1)
        assert type(rewards["runner_1"]) is float
        assert type(terminated["a"]) is bool
        assert observations["c"][2:4].tolist() == [age, 2], "the last observation, not the next episode's"
        assert env.agents == ([] if age == CLOCK else ALL if age < DEATH else ALL[1:])
    assert env.step({}) == ({}, {}, {}, {}, {})
    assert int(env.vector.age[0]) == CLOCK, "nobody is there to step it"
    env.reset()
    assert env.agents == ALL, "the dead are back in a new episode"


def test_all_terminated_is_not_truncated() -> None:
    env = scripted(kill_all_at=1)
    env.reset()
    _, _, terminated, truncated, _ = env.step(idle(env))
    assert all(terminated.values())
    assert not any(truncated.values())
    assert env.agents == []


def test_an_environment_that_ends_without_saying_why_cuts_its_agents_off() -> None:
    inner = ScriptedEnv(1)
    env = ParallelView(inner)
    env.reset()
    step = inner.step

    def silent(actions):
        taken = step(actions)
        nothing = {name: flags & False for name, flags in taken.truncated.items()}
        return type(taken)(taken.view, taken.reward, nothing, nothing, taken.final, taken.done | True)

    inner.step = silent
    _, _, terminated, truncated, _ = env.step(idle(env))
    assert not any(terminated.values())
    assert all(truncated.values())
    assert env.agents == []


def test_an_agent_that_vanishes_is_terminated() -> None:
    inner = ScriptedEnv(1)
    env = ParallelView(inner)
    env.reset()
    step = inner.step

    def silent(actions):
        taken = step(actions)
        nothing = {name: flags & False for name, flags in taken.terminated.items()}
        return type(taken)(taken.view, taken.reward, nothing, taken.truncated, taken.final, taken.done)

    inner.step = silent
    env.step(idle(env))
    _, _, terminated, truncated, _ = env.step(idle(env))
    assert terminated["runner_0"]
    assert not truncated["runner_0"]
    assert "runner_0" not in env.agents
    assert not any(terminated[agent] for agent in ALL[1:])


def test_who_has_left_does_not_come_back() -> None:
    inner = ScriptedEnv(1)
    env = ParallelView(inner)
    env.reset()
    step = inner.step

    def forgetful(actions):
        taken = step(actions)
        view = View(taken.view.observation, taken.view.mask)  # says nothing of who is alive
        return type(taken)(view, taken.reward, taken.terminated, taken.truncated, taken.final, taken.done)

    inner.step = forgetful
    here = []
    for _ in range(CLOCK - 1):
        env.step(idle(env))
        here.append("runner_0" in env.agents)
    assert here == [age < DEATH for age in range(1, CLOCK)]


def test_actions_reach_their_agents() -> None:
    env = scripted()
    env.reset()
    observations, *_ = env.step(idle(env, runner_1=np.int64(2), b=np.array([0.25, -1.5], dtype=np.float32)))
    assert [observations[agent][4] for agent in ("runner_0", "runner_1")] == [1, 2]
    assert [observations[agent][4:].tolist() for agent in "abc"] == [[0, 0], [0.25, -1.5], [0, 0]]


def test_spaces_are_kept_and_fit() -> None:
    env = scripted()
    observations, _ = env.reset()
    for agent in ALL:
        assert env.observation_space(agent) is env.observation_space(agent)
        assert env.action_space(agent) is env.action_space(agent)
        assert env.observation_space(agent).contains(observations[agent])
    assert env.action_space("runner_0").n == 3
    assert env.action_space("a").shape == (2,)
    assert env.action_space("a").low.tolist() == [-1, -2]
    assert env.action_space("a").high.tolist() == [1, 0.5]
    assert env.action_space("a") is not env.action_space("b"), "spaces are seeded one by one"


def test_masks_say_what_is_legal_now() -> None:
    env = scripted()
    _, infos = env.reset()
    for age in range(3):
        mask = infos["runner_1"]["action_mask"]
        assert mask.dtype == np.int8
        assert mask.tolist() == [int(each != age % 3) for each in range(3)]
        assert env.action_space("runner_1").sample(mask) != age % 3
        assert infos["a"] == {}
        *_, infos = env.step(idle(env))


def test_state_is_what_all_observe() -> None:
    env = scripted()
    observations, _ = env.reset()
    state = env.state()
    assert state.shape == (2 * 5 + 3 * 6,)
    assert state.dtype == np.float32
    assert np.array_equal(state, np.concatenate([observations[agent] for agent in ALL]))


def test_renders_when_asked_to() -> None:
    env = make_parallel("games", "specialisation", render_mode="rgb_array")
    env.reset()
    picture = env.render()
    assert picture.dtype == np.uint8
    assert picture.shape[2] == 3
    assert env.metadata["render_modes"] == ["rgb_array"]
    assert env.metadata["name"] == "games/specialisation"
    assert scripted().render() is None
    with pytest.raises(EnvironmentFault, match="cannot render as 'human'"):
        make_parallel("games", "specialisation", render_mode="human")


def test_what_was_handed_out_is_the_users_own() -> None:
    env = make_parallel("games", "specialisation")
    observations, _ = env.reset()
    observations["agent_0"][:] = 7
    assert (observations["agent_1"] == -1).all()
    assert (env.state() == -1).all()


def test_same_numbers_as_the_vector_form() -> None:
    env, plain = make_parallel("spread", "bps_1"), make("spread", "bps_1", num_envs=3)
    observations, _ = env.reset(seed=4)
    view = plain.reset(4)
    for agent, group in ((agent, "agents") for agent in env.agents):
        i = plain.groups[group].agents.index(agent)
        assert np.array_equal(observations[agent], view.observation[group][0, i].numpy())


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"runner_1": 3}, "3 is no action of agent 'runner_1', whose actions are Discrete"),
        ({"runner_1": -1}, "is no action of agent 'runner_1'"),
        ({"runner_1": 1.0}, "is no action of agent 'runner_1'"),
        ({"a": np.zeros(3, dtype=np.float32)}, "is no action of agent 'a'"),
        ({"a": np.array([0, np.nan], dtype=np.float32)}, "is no action of agent 'a'"),
        ({"runner_2": 0}, "has no agent 'runner_2'; did you mean 'runner_"),
    ],
)
def test_bad_actions_are_told(changed: dict[str, object], words: str) -> None:
    env = scripted()
    env.reset()
    with pytest.raises(EnvironmentFault, match=words):
        env.step(idle(env, **changed))


def test_misuse_is_told() -> None:
    env = scripted()
    with pytest.raises(EnvironmentFault, match="must be reset before its first step"):
        env.step({})
    with pytest.raises(EnvironmentFault, match="must be reset before it has a state"):
        env.state()
    env.reset()
    with pytest.raises(EnvironmentFault, match="no action for agent 'runner_0'"):
        env.step({"runner_1": 1})
    with pytest.raises(EnvironmentFault, match="one environment, not 2"):
        ParallelView(ScriptedEnv(2))


def test_closes_the_environment() -> None:
    env = scripted()
    env.close()
    assert env.vector.closed == 1
