"""VMAS environments keep the interface's word."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

pytest.importorskip("vmas")

from hypermarl.envs import catalogue
from hypermarl.envs import vmas as vmas_envs
from hypermarl.envs.interface import Continuous, Discrete, EnvironmentFault, VectorEnv
from hypermarl.envs.vmas import VmasEnv
from hypermarl.envs.vmas_scenarios import scenarios

PAPER = {"n_agents": 4, "n_food": 4, "food_radius": 0.08, "penalise_by_time": True, "continuous_actions": False}
REST = {"agents": torch.zeros(3, 4, dtype=torch.int64)}


def actions(env: VmasEnv, generator: torch.Generator) -> dict[str, Tensor]:
    """Anything that is allowed, for all agents."""
    chosen = {}
    for name, group in env.groups.items():
        shape = (env.num_envs, len(group.agents))
        if isinstance(group.action, Discrete):
            chosen[name] = torch.randint(group.action.n, shape, generator=generator)
        else:
            chosen[name] = torch.rand((*shape, group.action.size), generator=generator) * 2 - 1
    return chosen


def record(env: VmasEnv, steps: int, seed: int = 0) -> Iterator[list[Tensor]]:
    """All that comes out of `steps` random steps."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        step = env.step(actions(env, generator))
        for name in env.groups:
            yield [
                step.view.observation[name], step.reward[name], step.final[name],
                step.terminated[name], step.truncated[name], step.done,
            ]  # fmt: skip


def same(one: Iterator[list[Tensor]], other: Iterator[list[Tensor]]) -> bool:
    pairs = [(a, b) for ours, theirs in zip(one, other, strict=True) for a, b in zip(ours, theirs, strict=True)]
    assert pairs
    return all(torch.equal(a, b) for a, b in pairs)


def test_is_a_vector_env_of_ordinary_float_tensors() -> None:
    env = vmas_envs.make("dispersion", num_envs=3, options=PAPER)
    assert isinstance(env, VectorEnv)
    group = env.groups["agents"]
    assert (group.observation, group.action, group.agents) == (16, Discrete(9), tuple(f"agent_{i}" for i in range(4)))
    with torch.inference_mode():  # the caller's own mode must not show in what comes out
        view, step = env.reset(0), env.step(REST)
    seen = (view.observation["agents"], step.view.observation["agents"], step.reward["agents"])
    assert all(tensor.dtype == torch.float32 and not tensor.is_inference() for tensor in seen)
    ends = (step.terminated["agents"], step.truncated["agents"], step.done)
    assert all(tensor.dtype == torch.bool and not tensor.is_inference() for tensor in ends)
    assert view.observation["agents"].shape == (3, 4, 16) and step.reward["agents"].shape == (3, 4)
    assert step.done.shape == (3,) and step.terminated["agents"].shape == (3, 4)
    assert step.reward["agents"].eq(-0.01).all()  # nobody eats at the origin: the penalty of the paper's setting


def test_a_time_limit_truncates_and_is_no_termination() -> None:
    env = vmas_envs.make("dispersion", num_envs=3, max_steps=4, options=PAPER)
    first = env.reset(0)
    for clock in range(1, 5):
        step = env.step(REST)
        assert step.done.tolist() == [clock == 4] * 3
    assert step.truncated["agents"].all() and not step.terminated["agents"].any()
    assert torch.equal(step.final["agents"], first.observation["agents"])  # nobody moved, nothing was eaten
    assert not torch.equal(step.view.observation["agents"], first.observation["agents"])


def test_an_end_of_the_task_terminates_even_at_the_time_limit() -> None:
    env = vmas_envs.make("dispersion", num_envs=3, max_steps=1, options={**PAPER, "food_radius": 9.0})
    env.reset(0)
    step = env.step(REST)
    assert step.terminated["agents"].all() and not step.truncated["agents"].any() and step.done.all()


def test_without_a_clock_nothing_is_truncated() -> None:
    env = vmas_envs.make("dispersion", num_envs=3, options=PAPER)
    env.reset(0)
    assert env.max_steps is None
    assert not any(env.step(REST).done.any() for _ in range(120))


@pytest.mark.parametrize("name", ["dispersion", "simple_adversary"])  # with the second simulation, and without
def test_the_view_after_an_end_is_the_start_of_the_next_episode(name: str) -> None:
    options: dict[str, Any] = {"continuous_actions": False} | ({"food_radius": 0.001} if name == "dispersion" else {})
    env = vmas_envs.make(name, num_envs=3, max_steps=5, options=options)
    assert env.pooled == (name == "dispersion")
    last = env.reset(0).observation
    rest = {group: torch.zeros(3, len(each.agents), dtype=torch.int64) for group, each in env.groups.items()}
    for clock in range(1, 17):
        step = env.step(rest)
        seen = step.view.observation
        for group in env.groups:
            # at rest and with nothing to eat or to reach, what is seen changes only with the episode
            assert torch.equal(step.final[group], last[group])
            changed = (seen[group] != step.final[group]).any(dim=-1).any(dim=-1)
            assert changed.tolist() == step.done.tolist() == [clock % 5 == 0] * 3
        last = seen


def test_starts_after_an_end_are_distributed_as_the_scenario_says() -> None:
    env = vmas_envs.make("dispersion", num_envs=400, max_steps=1, options=PAPER)
    env.reset(0)
    rest = {"agents": torch.zeros(400, 4, dtype=torch.int64)}
    starts = []
    for _ in range(6):
        starts.append(env.step(rest).view.observation["agents"][:, 0])
    food = torch.stack(starts)[..., 4:].unflatten(-1, (4, 3))[..., :2]  # agents start at the origin
    assert food.shape == (6, 400, 4, 2)
    flat = food.flatten().sort().values
    assert (flat - torch.linspace(-1, 1, flat.numel())).abs().max() < 0.04  # Kolmogorov-Smirnov, uniform on [-1, 1]
    assert len(torch.unique(food.flatten(0, 1)[:, 0], dim=0)) == 2400  # no start is handed out to two environments
    across = np.corrcoef(food.permute(2, 3, 0, 1).reshape(8, -1).numpy())
    assert np.abs(across - np.eye(8)).max() < 0.1
    over_time = np.corrcoef(food.reshape(6, -1).numpy())
    assert np.abs(over_time - np.eye(6)).max() < 0.1


def test_one_environment_does_not_disturb_another_nor_the_callers_random_numbers() -> None:
    alone = vmas_envs.make("dropout", num_envs=4, max_steps=7)
    alone.reset(1)
    undisturbed = list(record(alone, 40))

    env = vmas_envs.make("dropout", num_envs=4, max_steps=7)
    env.reset(1)
    torch.manual_seed(123)
    np.random.seed(123)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    interrupted = []
    recording = record(env, 40)
    for i, row in enumerate(recording):
        interrupted.append(row)
        if i % 9 == 0:
            other = vmas_envs.make("dropout", num_envs=2, max_steps=3)
            other.reset(i)
            list(record(other, 4))
    assert same(iter(undisturbed), iter(interrupted))
    assert torch.equal(before[0], torch.get_rng_state()) and np.array_equal(before[1], np.random.get_state()[1])


def test_a_seed_decides_everything_and_another_gives_something_else() -> None:
    env, twin = (vmas_envs.make("simple_crypto", num_envs=5, max_steps=12) for _ in range(2))
    env.reset(3)
    list(record(env, 33, seed=9))  # a past that must not show
    first, second = env.reset(4), twin.reset(4)
    assert all(torch.equal(first.observation[name], second.observation[name]) for name in env.groups)
    assert same(record(env, 40), record(twin, 40))
    assert not torch.equal(twin.reset(5).observation["bob"], first.observation["bob"])
    assert not torch.equal(twin.reset().observation["bob"], twin.reset().observation["bob"])


@pytest.mark.parametrize("name", ["balance", "dispersion", "navigation"])
def test_a_row_does_not_depend_on_what_happens_in_others(name: str) -> None:
    options = {"dispersion": {"food_radius": 0.6}, "navigation": {"lidar_range": 0.5, "agent_radius": 0.15}}.get(
        name, {}
    )
    one, other = (vmas_envs.make(name, num_envs=12, max_steps=15, options=options) for _ in range(2))
    one.reset(0)
    other.reset(0)
    generator = torch.Generator().manual_seed(0)
    mine, ended_alone = torch.tensor([2, 7, 8]), 0
    theirs = torch.tensor([row for row in range(12) if row not in mine.tolist()])
    one.reset_rows(torch.tensor([row in (1, 4) for row in range(12)]))
    for clock in range(50):
        if clock == 7:
            one.reset_rows(torch.tensor([row in (0, 1, 3, 11) for row in range(12)]))
        chosen, changed = actions(one, generator), actions(one, generator)
        for group in chosen:
            changed[group][mine] = chosen[group][mine]
        a, b = one.step(chosen), other.step(changed)
        ended_alone += int((a.done[theirs] != b.done[theirs]).sum())
        assert torch.equal(a.done[mine], b.done[mine])
        for group in chosen:
            assert torch.equal(a.view.observation[group][mine], b.view.observation[group][mine])
            assert torch.equal(a.final[group][mine], b.final[group][mine])
            assert torch.equal(a.reward[group][mine], b.reward[group][mine])
    assert ended_alone


@pytest.mark.parametrize("name", ["dispersion", "simple_adversary"])
def test_rows_are_started_by_hand_each_time_differently(name: str) -> None:
    env = vmas_envs.make(name, num_envs=4, max_steps=9)
    env.auto_reset = False
    env.reset(0)
    list(record(env, 5))
    rows = torch.tensor([True, False, True, False])
    last = env.step(actions(env, torch.Generator().manual_seed(0))).view.observation[
        "agent" if name[0] == "s" else "agents"
    ]
    first, second = (next(reversed(env.reset_rows(rows).observation.values())) for _ in range(2))
    assert torch.equal(first[~rows], last[~rows]) and torch.equal(second[~rows], last[~rows])
    assert not torch.equal(first[0], second[0]) and not torch.equal(first[0], last[0])
    recording = list(record(env, 9))[:: len(env.groups)]
    ended = [row[-1].tolist() for row in recording]
    assert ended[2] == [False, True, False, True] and ended[8][0] and ended[8][2]


@pytest.mark.parametrize("name", ["balance", "navigation", "simple_push", "simple_reference"])
def test_a_state_continues_bit_for_bit_in_a_fresh_environment(name: str) -> None:
    from safetensors.torch import load, save

    env = vmas_envs.make(name, num_envs=4, max_steps=3)
    env.reset(2)
    list(record(env, 13))
    env.reset_rows(torch.tensor([True, False, False, True]))  # from here on they end at different times
    list(record(env, 1))
    state = env.state_dict()
    assert state is not None
    untouched = {key: tensor.clone() for key, tensor in state.items()}
    ahead = list(record(env, 20, seed=5))
    again = env.reset()
    fresh = vmas_envs.make(name, num_envs=4, max_steps=3)
    view = fresh.load_state_dict(load(save(state)))
    last = {group: state[f"observation/{group}"] for group in env.groups}
    assert all(torch.equal(view.observation[group], last[group]) for group in last)
    assert same(iter(ahead), record(fresh, 20, seed=5))
    assert all(torch.equal(again.observation[group], seen) for group, seen in fresh.reset().observation.items())
    env.load_state_dict(state)
    assert same(iter(ahead), record(env, 20, seed=5))
    assert all(torch.equal(tensor, untouched[key]) for key, tensor in state.items())


def test_a_picture_does_not_change_what_comes_after() -> None:
    env, watched = (vmas_envs.make("dispersion", num_envs=2, max_steps=6, options=PAPER) for _ in range(2))
    env.reset(0)
    watched.reset(0)
    watched.render()
    a = list(record(env, 8))
    b = []
    for row in record(watched, 8):
        b.append(row)
        watched.render()
    assert same(iter(a), iter(b))
    state = watched.state_dict()
    assert state is not None
    env.load_state_dict(state)
    assert same(record(env, 8), record(watched, 8))


def test_a_state_of_another_environment_is_refused() -> None:
    state = vmas_envs.make("dispersion", num_envs=2, options=PAPER).state_dict()
    with pytest.raises(EnvironmentFault, match="vmas/dispersion"):
        vmas_envs.make("dispersion", num_envs=3, options=PAPER).load_state_dict(state)
    with pytest.raises(EnvironmentFault, match="vmas/balance"):
        vmas_envs.make("balance", num_envs=2).load_state_dict(state)


@pytest.mark.slow
def test_what_cannot_be_saved_says_so() -> None:
    env = vmas_envs.make("road_traffic", num_envs=1)  # keeps buffers and timers of its own
    env.reset(0)
    assert env.state_dict() is None
    with pytest.raises(EnvironmentFault, match="takes no such state"):
        env.load_state_dict({})


def test_the_catalogue_is_what_vmas_brings_along() -> None:
    assert list(vmas_envs.CATALOGUE) == scenarios()
    assert ("vmas/dispersion", vmas_envs.CATALOGUE["dispersion"]) in catalogue()


def test_groups_have_agents_of_one_kind() -> None:
    tag = vmas_envs.make("simple_tag", num_envs=2).groups
    assert {name: (len(group.agents), group.observation) for name, group in tag.items()} == {
        "adversary": (3, 16),
        "agent": (1, 14),
    }
    chase = vmas_envs.make("simple_world_comm", num_envs=2).groups  # the leader also talks
    assert {name: group.action.size for name, group in chase.items()} == {
        "lead_adversary": 6,
        "adversary": 2,
        "agent": 2,
    }
    drive = vmas_envs.make("diff_drive", num_envs=2).groups
    assert {name: group.agents for name, group in drive.items()} == {
        "diff_drive": ("diff_drive_0",),
        "holo_rot": ("holo_rot_1",),
    }
    assert list(vmas_envs.make("het_mass", num_envs=2).groups) == ["agents"]  # "agent 0" has no number after a "_"


def test_agents_that_share_a_name_but_not_a_space_are_two_groups() -> None:
    groups = vmas_envs.make("football", num_envs=2, options={"ai_red_agents": False, "enable_shooting": True}).groups
    assert set(groups) == {"agent_blue", "agent_red"}
    env = vmas_envs.make("simple_crypto", num_envs=2, options={"continuous_actions": False})
    assert {name: group.action for name, group in env.groups.items()} == dict.fromkeys(
        ("eve", "bob", "alice"), Discrete(36)
    )


def test_continuous_actions_are_clipped_to_the_box() -> None:
    env, twin = (vmas_envs.make("navigation", num_envs=2) for _ in range(2))
    assert env.groups["agents"].action == Continuous((-1.0, -1.0), (1.0, 1.0))
    env.reset(0)
    twin.reset(0)
    far = env.step({"agents": torch.full((2, 4, 2), 7.0)})
    edge = twin.step({"agents": torch.ones(2, 4, 2)})
    assert torch.equal(far.view.observation["agents"], edge.view.observation["agents"])


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("dispersoin", {}, "did you mean 'dispersion'"),
        ("dispersion", {"n_agent": 3}, "no option 'n_agent'; did you mean 'n_agents'"),
        ("dispersion", {"max_steps": 3}, "'max_steps' is not an option"),
        ("dispersion", {"n_agents": "many"}, "cannot be made with n_agents='many'"),
        ("football", {"dict_obs": True}, "'agent_blue_0' a dict as observation"),
    ],
)
def test_what_cannot_be_made_is_told_in_one_sentence(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(EnvironmentFault, match=words) as caught:
        vmas_envs.make(name, num_envs=2, options=options)
    assert f"vmas/{name}" in str(caught.value) and "\n" not in str(caught.value)


def test_numbers_that_are_none_are_told_with_who_gave_them() -> None:
    env = vmas_envs.make("navigation", num_envs=2)
    env.reset(0)
    with pytest.raises(EnvironmentFault, match=r"was given an action .* group 'agents'"):
        env.step({"agents": torch.full((2, 4, 2), float("nan"))})
    env = vmas_envs.make("dropout", num_envs=2)  # any that is stepped by VMAS's own code
    env.reset(0)
    reward = env._simulation.scenario.reward
    env._simulation.scenario.reward = lambda agent: reward(agent) / (0.0 if agent.name == "agent_2" else 1.0)
    with pytest.raises(EnvironmentFault, match="gave agent 'agent_2' a reward"):
        env.step({"agents": torch.ones(2, 4, 2)})


def test_an_action_that_does_not_exist_is_told() -> None:
    env = vmas_envs.make("dispersion", num_envs=2, options=PAPER)
    env.reset(0)
    with pytest.raises(EnvironmentFault, match="failed in a step"):
        env.step({"agents": torch.full((2, 4), 9)})


@pytest.mark.parametrize("shape", [(1, 4, 2), (3, 4, 2), (2, 1, 2), (2, 3, 2)])
def test_actions_for_others_are_told(shape: tuple[int, ...]) -> None:
    env = vmas_envs.make("navigation", num_envs=2)
    env.reset(0)
    with pytest.raises(EnvironmentFault, match="not for 2 environments and 4 agents"):
        env.step({"agents": torch.zeros(shape)})


def test_navigation_is_started_from_rows() -> None:
    assert vmas_envs.make("navigation", num_envs=2).pooled


@pytest.mark.parametrize("native", [True, False])
def test_there_is_a_picture_without_a_display(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    env = vmas_envs.make("dispersion", num_envs=2, options=PAPER)
    env.reset(0)
    env._simulation.can_draw = native
    picture = env.render()
    height, width, depth = picture.shape
    assert picture.dtype == np.uint8 and depth == 3 and height % 16 == 0 and width % 16 == 0
    middle = picture[height // 2, width // 2].astype(int)
    assert middle[2] > middle[0] + 50  # the agents start at the origin, and are blue
    green = (picture[..., 1].astype(int) > picture[..., 0].astype(int) + 50).sum()
    assert green > 100  # the food
    with torch.inference_mode():
        env._simulation.world.landmarks[0].is_rendering[:] = False
    less = env.render()
    assert (less[..., 1].astype(int) > less[..., 0].astype(int) + 50).sum() < green


@pytest.mark.parametrize("name", ["balance", "ball_trajectory", "football", "passage", "simple_reference"])
def test_our_own_picture_shows_every_kind_of_body(name: str) -> None:
    env = vmas_envs.make(name, num_envs=2)
    env.reset(0)
    env._simulation.can_draw = False
    picture = env.render()
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 3
