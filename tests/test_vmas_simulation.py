"""A simulation gives the numbers of plain VMAS, bit for bit."""

from __future__ import annotations

import random
import warnings
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("vmas")

import vmas
from vmas.simulator.environment import Environment

from hypermarl.envs import vmas as vmas_envs
from hypermarl.envs.interface import Discrete
from hypermarl.envs.vmas_navigation import Navigation
from hypermarl.envs.vmas_simulation import Simulation, Stream
from hypermarl.envs.vmas_together import Dispersion
from hypermarl.envs.vmas_trial import random_actions

E = 32  # whole vectors: VMAS rounds soft contacts in those left over differently
SCENARIOS = [*vmas.scenarios, *vmas.mpe_scenarios, *vmas.debug_scenarios]
FAST = [
    ("dispersion", False),
    ("navigation", True),
    ("balance", True),
    ("simple_reference", True),
    ("simple_reference", False),
]
# every scenario with both kinds of actions
ALL = [
    pytest.param(name, continuous, marks=() if (name, continuous) in FAST else pytest.mark.slow)
    for name in SCENARIOS
    for continuous in (True, False)
]


def seed_all(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def plain(name: str, options: dict[str, Any]) -> Environment:
    """VMAS's own, built from random numbers that we know."""
    theirs = torch.get_rng_state(), np.random.get_state(), random.getstate()
    seed_all(1)
    Environment.vmas_random_state[:] = [torch.get_rng_state(), np.random.get_state(), random.getstate()]
    torch.set_rng_state(theirs[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return vmas.make_env(name, num_envs=E, clamp_actions=options["continuous_actions"], **options)


@pytest.mark.parametrize(("name", "continuous"), ALL)
def test_steps_are_those_of_plain_vmas(name: str, continuous: bool, **rest: Any) -> None:
    options = {"continuous_actions": continuous, **rest}
    reference = plain(name, options)
    seed_all(1)
    ours = Simulation(name, E, torch.device("cpu"), options)
    order = {agent.name: i for i, agent in enumerate(reference.agents)}
    members = {group: [order[agent] for agent in ours.groups[group].agents] for group in ours.groups}
    assert sorted(i for indices in members.values() for i in indices) == list(range(len(order)))

    expected = reference.reset(seed=5)
    seed_all(5)
    _, observation = ours.empty()
    ours.reset()
    ours.observe(observation)
    generator = torch.Generator().manual_seed(0)
    for _ in range(4 if name in ("pollock", "road_traffic") else 40 if rest else 10):
        for group, indices in members.items():
            assert torch.equal(observation[group], torch.stack([expected[i] for i in indices], dim=1).float())
        actions = random_actions(ours, generator)
        flat: list[Any] = [None] * len(order)
        for group, indices in members.items():
            assert isinstance(ours.groups[group].action, Discrete) != continuous
            for place, i in enumerate(indices):
                flat[i] = actions[group][:, place]
        expected, reward, done, _ = reference.step(flat)
        rewards, observation, over = ours.step(actions)
        assert torch.equal(over, done)
        for group, indices in members.items():
            assert torch.equal(rewards[group], torch.stack([reward[i].reshape(E) for i in indices], dim=1))
    for mine, theirs in zip(ours.world.entities, reference.world.entities, strict=True):
        assert torch.equal(mine.is_rendering, theirs.is_rendering)


DISPERSION = [
    {"food_radius": 0.08, "penalise_by_time": True},
    {"food_radius": 0.4, "share_reward": True, "n_food": 6},
    {"food_radius": 0.4, "share_reward": True, "penalise_by_time": True, "n_agents": 7, "n_food": 2, "pos_range": 0.4},
    {"food_radius": 0.5, "n_agents": 1, "n_food": 1},
    {"food_radius": 0.3, "n_agents": 8, "n_food": 9},
]
NAVIGATION = [
    {"n_agents": 8, "agents_with_same_goal": 4, "observe_all_goals": True, "shared_rew": False},
    {"n_agents": 3, "shared_rew": True, "final_reward": 0.5, "agent_radius": 0.25},
    {
        "n_agents": 4,
        "agents_with_same_goal": 4,
        "world_spawning_x": 0.6,
        "enforce_bounds": True,
        "pos_shaping_factor": 0.3,
    },
    {"n_agents": 4, "agents_with_same_goal": 2, "split_goals": True, "shared_rew": False},
    {"n_agents": 1, "shared_rew": False},
]


@pytest.mark.parametrize(
    "options", [("dispersion", each) for each in DISPERSION] + [("navigation", each) for each in NAVIGATION]
)
@pytest.mark.parametrize("continuous", [True, False])
def test_all_agents_at_once_are_those_of_plain_vmas(options: tuple[str, dict[str, Any]], continuous: bool) -> None:
    name, given = options
    given = given | ({"collisions": False} if name == "navigation" else {})
    assert isinstance(Simulation(name, 2, torch.device("cpu"), given)._course, (Dispersion, Navigation))
    test_steps_are_those_of_plain_vmas(name, continuous, **given)


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) for name in SCENARIOS])
def test_every_scenario_ends_and_starts_anew(name: str) -> None:
    env = vmas_envs.make(name, num_envs=2, max_steps=3)
    env.reset(0)
    generator = torch.Generator().manual_seed(0)
    age = torch.zeros(2, dtype=torch.int64)
    for _ in range(7):
        step = env.step(random_actions(env._simulation, generator))
        age += 1
        for group, each in env.groups.items():
            assert step.view.observation[group].shape == (2, len(each.agents), each.observation)
            assert step.view.observation[group].isfinite().all()
            ended = step.terminated[group] | step.truncated[group]
            assert torch.equal(ended, step.done[:, None].expand_as(ended))
        age[step.done] = 0
        assert (age < 3).all()
    assert env.render().ndim == 3


@pytest.mark.parametrize("continuous", [True, False])
def test_noise_on_actions_is_that_of_plain_vmas(continuous: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vmas.simulator.core.Action.u_noise", property(lambda _: 0.3))
    monkeypatch.setattr("vmas.simulator.core.Agent.u_noise", property(lambda _: 0.3))
    monkeypatch.setattr("vmas.simulator.core.Agent.c_noise", property(lambda _: 0.2))
    test_steps_are_those_of_plain_vmas("simple_reference", continuous)


def test_a_stream_is_a_function_of_its_seed_and_nothing_else() -> None:
    stream, other = (Stream(torch.device("cpu"), everywhere=True) for _ in range(2))

    def numbers(stream: Stream) -> list[float]:
        with stream:
            return [torch.rand(1).item(), np.random.rand(), random.random()]

    stream.seed(1, 2)
    first = numbers(stream)
    torch.manual_seed(0)
    other.seed(1, 2)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    assert numbers(other) == first
    assert numbers(other) == (second := numbers(stream)) and second != first
    after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    assert torch.equal(before[0], after[0]) and before[1:] == after[1:]
    for seed in ((1, 3), (2, 1), (1,), (-1, 2), (2**62, 5)):
        other.seed(*seed)
        assert numbers(other) != first
    state = stream.state()
    third = numbers(stream)
    stream.load(state)
    assert numbers(stream) == third


def test_a_stream_gives_numbers_back_when_the_scenario_raises() -> None:
    stream = Stream(torch.device("cpu"), everywhere=True)
    before = torch.get_rng_state(), random.getstate()
    with pytest.raises(ZeroDivisionError), stream:
        torch.rand(3)
        random.random()
        raise ZeroDivisionError
    assert torch.equal(before[0], torch.get_rng_state()) and before[1] == random.getstate()
