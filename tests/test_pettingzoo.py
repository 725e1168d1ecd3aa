"""PettingZoo environments behind the vector interface, against PettingZoo itself stepped one by one."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import pytest
import torch
from pettingzoo.test import parallel_api_test, parallel_seed_test
from small_pettingzoo import SPREAD, TOY, chosen, same, trajectory
from torch import Tensor
from torchrl.envs.utils import check_env_specs

from hypermarl.envs.board import episode_seed
from hypermarl.envs.interface import Continuous, Discrete, EnvironmentFault, Step, VectorEnv
from hypermarl.envs.pettingzoo import CATALOGUE, PettingZooVector, make, make_parallel
from hypermarl.envs.torchrl import TorchRLEnv


class Raw:
    """One PettingZoo environment with its own conversion, in dictionaries; what the vector must agree with."""

    def __init__(self, module: str, options: dict[str, Any], seed: int, row: int, max_steps: int | None) -> None:
        self.env = importlib.import_module(module).parallel_env(**options)
        self.seed, self.row, self.episode, self.max_steps = seed, row, -1, max_steps
        self.begin()

    def begin(self) -> None:
        self.episode, self.length = self.episode + 1, 0
        self.seen, _ = self.env.reset(seed=episode_seed(self.seed, self.row, self.episode))
        self.alive = list(self.env.agents)

    def step(self, actions: dict[str, Any]) -> dict[str, Any]:
        acting = self.alive
        seen, rewards, ends, cuts, _ = self.env.step({agent: actions[agent] for agent in acting})
        self.length += 1
        late = self.length == self.max_steps
        self.alive = [agent for agent in acting if not (ends[agent] or cuts[agent] or late)]
        result = {
            "reward": {agent: rewards[agent] for agent in acting},
            "terminated": {agent: bool(ends[agent]) for agent in acting},
            "truncated": {agent: not ends[agent] and (cuts[agent] or late) for agent in acting},
            "final": {agent: seen[agent] for agent in acting},
            "done": not self.alive,
        }
        self.seen = {agent: seen[agent] for agent in self.alive}
        if not self.alive:
            self.begin()
        return result


def check_row(env: VectorEnv, step: Step, raw: Raw, told: dict[str, Any], row: int) -> None:
    ended = any(told["terminated"].values()) or any(told["truncated"].values())
    assert bool(step.done[row]) == told["done"]
    for name, group in env.groups.items():
        for i, agent in enumerate(group.agents):
            place = (row, i)
            assert step.reward[name][place].item() == np.float32(told["reward"].get(agent, 0.0))
            assert step.terminated[name][place].item() is told["terminated"].get(agent, False)
            assert step.truncated[name][place].item() is told["truncated"].get(agent, False)
            assert step.view.alive[name][place].item() is (agent in raw.alive)
            nothing = np.zeros(group.observation, np.float32)
            seen = np.asarray(raw.seen.get(agent, nothing), np.float32).reshape(-1)
            assert np.array_equal(step.view.observation[name][place].numpy(), seen)
            last = np.asarray(told["final"].get(agent, nothing), np.float32).reshape(-1)
            if ended:
                assert np.array_equal(step.final[name][place].numpy(), last)


def own_action(group: Any, value: Tensor) -> Any:
    if isinstance(group.action, Discrete):
        return int(value)
    return np.clip(value.numpy(), group.action.low, group.action.high).astype(np.float32)


@pytest.mark.parametrize(
    ("module", "options", "max_steps", "steps"),
    [
        (SPREAD, {}, None, 60),
        (SPREAD, {"continuous_actions": True, "N": 2}, 7, 20),
        ("mpe2.simple_tag_v3", {"max_cycles": 11}, None, 30),
        ("mpe2.simple_speaker_listener_v4", {"continuous_actions": True}, 30, 60),
        ("pettingzoo.butterfly.knights_archers_zombies_v11", {"line_death": True, "max_cycles": 200}, None, 260),
        ("pettingzoo.butterfly.knights_archers_zombies_v11", {"spawn_delay": 2, "max_zombies": 40}, 250, 300),
    ],
)
def test_equals_pettingzoo_stepped_one_by_one(
    module: str, options: dict[str, Any], max_steps: int | None, steps: int
) -> None:
    env = PettingZooVector(module, num_envs=2, options=options, max_steps=max_steps)
    rng = torch.Generator().manual_seed(1)
    env.reset(11)
    raws = [Raw(module, options, 11, row, max_steps) for row in range(2)]
    ends = 0
    for _ in range(steps):
        actions = chosen(env, rng)
        step = env.step(actions)
        for row, raw in enumerate(raws):
            mine = {
                agent: own_action(group, actions[name][row, i])
                for name, group in env.groups.items()
                for i, agent in enumerate(group.agents)
            }
            told = raw.step(mine)
            ends += told["done"]
            check_row(env, step, raw, told, row)
    assert ends >= 2, "no episode ended, so nothing was tested of that"


def test_knights_and_archers_die_early_and_only_once() -> None:
    env = make("butterfly.knights_archers_zombies_v11", num_envs=3, options={"line_death": True})
    (group,) = env.groups.values()
    assert group.name == "archer_knight"
    assert len(group.agents) == 4
    early, alive = 0, env.reset(0).alive[group.name]
    assert alive.all()
    for step in trajectory(env, 200):
        gone = step.terminated[group.name] | step.truncated[group.name]
        assert not (gone & ~alive).any(), "an agent that was dead ended again"
        assert not step.reward[group.name][~alive].any()
        dead = ~step.view.alive[group.name]
        assert not step.view.observation[group.name][dead].any()
        early += int((gone & ~step.done[:, None]).sum())
        alive = step.view.alive[group.name]
    assert early > 0


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (SPREAD, {"agent": (3, 18, Discrete(5))}),
        ("mpe2.simple_tag_v3", {"adversary": (3, 16, Discrete(5)), "agent": (1, 14, Discrete(5))}),
        (
            "mpe2.simple_speaker_listener_v4",
            {"speaker": (1, 3, Discrete(3)), "listener": (1, 11, Discrete(5))},
        ),
        (f"{TOY}", {"piston": (3, 4, Discrete(4))}),
    ],
)
def test_agents_of_equal_spaces_are_a_group(name: str, expected: dict[str, Any]) -> None:
    env = make(name, num_envs=1)
    found = {g.name: (len(g.agents), g.observation, g.action) for g in env.groups.values()}
    assert found == expected
    assert list(env.groups) == list(expected)
    raw = make_parallel(name)
    assert [agent for g in env.groups.values() for agent in g.agents] == list(raw.possible_agents)


def test_more_workers_give_bit_for_bit_what_this_process_gives() -> None:
    options = {"mask": "info", "n": 4, "longest": 6}
    for name, settings, steps, workers in ((TOY, options, 40, 3), ("mpe2.simple_tag_v3", {}, 30, 2)):
        here = make(name, num_envs=5, options=settings, workers=1, max_steps=12)
        there = make(name, num_envs=5, options=settings, workers=workers, max_steps=12)
        assert len(there._crew.workers) == workers - 1  # type: ignore[union-attr]
        assert len(there._rows.envs) < 5  # type: ignore[union-attr]
        pairs = list(zip(trajectory(here, steps), trajectory(there, steps), strict=True))
        assert all(same(one, other) for one, other in pairs)
        assert sum(int(one.done.sum()) for one, _ in pairs) > 3
        here.auto_reset = there.auto_reset = False
        pairs = list(zip(trajectory(here, 14), trajectory(there, 14), strict=True))
        assert all(same(one, other) for one, other in pairs)
        assert pairs[-1][0].done.all()
        again = torch.arange(5) % 2 == 0
        one, other = here.reset_rows(again), there.reset_rows(again)
        assert all(torch.equal(one.observation[name], other.observation[name]) for name in one.observation)
        there.close()
        here.close()


def test_the_same_seed_repeats_and_each_episode_is_another() -> None:
    env = make(SPREAD, num_envs=2)
    one, other = trajectory(env, 30), trajectory(env, 30)
    assert all(same(a, b) for a, b in zip(one, other, strict=True))
    first = env.reset(5).observation["agent"]
    assert not torch.equal(first[0], first[1])
    assert not torch.equal(first, env.reset(6).observation["agent"])
    env.reset(5)
    following = env.reset().observation["agent"]
    assert not torch.equal(first, following)
    again = trajectory(env, 25)[-1]
    assert again.done.all()
    assert torch.equal(again.view.observation["agent"], following), "episode 1 began in another way"


def test_our_clock_truncates_and_bootstraps_from_what_would_come() -> None:
    short, long = (make(SPREAD, num_envs=2, max_steps=clock) for clock in (4, None))
    assert (short.max_steps, long.max_steps) == (4, 25)
    cut, free = trajectory(short, 4), trajectory(long, 4)
    assert all(same(a, b) for a, b in zip(cut[:3], free[:3], strict=True))
    assert cut[3].done.all()
    assert cut[3].truncated["agent"].all()
    assert not cut[3].terminated["agent"].any()
    assert torch.equal(cut[3].final["agent"], free[3].view.observation["agent"])
    assert not torch.equal(cut[3].view.observation["agent"], cut[3].final["agent"])


def test_death_at_the_clock_is_death() -> None:
    env = make(TOY, num_envs=8, max_steps=4)
    env.auto_reset = False
    steps = trajectory(env, 4)
    ends = torch.tensor([list(each.ends.values()) for each in env._rows.envs])  # type: ignore[union-attr]
    assert (ends == 4).any()
    assert (ends > 4).any()
    assert torch.equal(steps[-1].terminated["piston"], ends == 4)
    assert torch.equal(steps[-1].truncated["piston"], ends > 4)


def test_who_dies_need_not_say_what_it_sees() -> None:
    env = make("pettingzoo_toys:Careless", num_envs=4, options={"habit": "no last word"})
    for step in trajectory(env, 30):
        assert not step.final["piston"][step.terminated["piston"]].any()
    with pytest.raises(EnvironmentFault, match="gave no observation"):  # but a value is bootstrapped from the last
        trajectory(
            make("pettingzoo_toys:Careless", num_envs=4, max_steps=1, options={"fault": "no observation", "at": 1}), 1
        )


def test_the_environments_own_truncation_is_no_termination() -> None:
    env = make(TOY, num_envs=2, options={"truncate": True})
    steps = trajectory(env, 30)
    assert not any(step.terminated["piston"].any() for step in steps)
    early = [step for step in steps if (step.truncated["piston"] & ~step.done[:, None]).any()]
    assert early, "nobody was cut off before the episode ended"
    for step in early:
        cut = step.truncated["piston"] & ~step.done[:, None]
        assert step.final["piston"][cut].abs().sum(-1).all()
        assert not step.view.observation["piston"][cut].any()


@pytest.mark.parametrize("mask", ["info", "observation"])
def test_masks_say_what_is_legal(mask: str) -> None:
    env = make(TOY, num_envs=2, options={"mask": mask})
    assert env.groups["piston"].masked
    view = env.reset(0)
    expected = torch.ones(3, 4, dtype=torch.bool)
    expected[[0, 1, 2], [0, 1, 2]] = False
    assert torch.equal(view.mask["piston"][0], expected)
    for step in trajectory(env, 30):
        shown, alive = step.view.mask["piston"], step.view.alive["piston"]
        assert (shown.sum(-1)[alive] == 3).all()
        assert (shown.sum(-1)[~alive] == 1).all(), "one who is dead must have one action, for logits to be finite"
        assert shown[..., 0][~alive].all()


@pytest.mark.parametrize("see", ["image", "choice"])
def test_images_become_0_to_1_and_choices_one_hot(see: str) -> None:
    env = make(TOY, num_envs=1, options={"see": see})
    view = env.reset(0)
    if see == "image":
        assert torch.allclose(view.observation["piston"][0, 1], torch.tensor([1 / 255, 0.0, 0.2, 1.0]))
    else:
        assert env.groups["piston"].observation == 20
        assert view.observation["piston"][0, 1].tolist() == [1.0] + [0.0] * 19


def test_actions_reach_the_environment_as_its_space_has_them() -> None:
    env = make(TOY, num_envs=1, options={"act": "box", "n": 1})
    assert env.groups["piston"].action == Continuous((-1.0, -2.0), (1.0, 3.0))
    env.reset(0)
    env.step({"piston": torch.tensor([[[0.25, 9.0]]])})
    (given,) = env._rows.envs[0].actions  # type: ignore[union-attr]
    assert given["piston_0"].dtype == np.float64
    assert given["piston_0"].tolist() == [[0.25], [3.0]]
    env = make(TOY, num_envs=1, options={"act": "shifted", "n": 1})
    env.reset(0)
    env.step({"piston": torch.tensor([[2]])})
    assert env._rows.envs[0].actions == [{"piston_0": 5}]  # type: ignore[union-attr]


def test_actions_that_cannot_be_are_refused() -> None:
    env = make(SPREAD, num_envs=2)
    with pytest.raises(EnvironmentFault, match="must be reset"):
        env.step({"agent": torch.zeros(2, 3, dtype=torch.int64)})
    env.reset(0)
    with pytest.raises(EnvironmentFault, match=r"shape \(2, 3\), not \(3, 2\)"):
        env.step({"agent": torch.zeros(3, 2, dtype=torch.int64)})
    with pytest.raises(EnvironmentFault, match="from 0 to 4"):
        env.step({"agent": torch.full((2, 3), 5)})
    box = make(TOY, num_envs=1, options={"act": "box"})
    box.reset(0)
    with pytest.raises(EnvironmentFault, match="not finite"):
        box.step({"piston": torch.full((1, 3, 2), float("nan"))})


def test_render_shows_where_environment_0_is() -> None:
    env = make(TOY, num_envs=2, workers=2, options={"longest": 30})
    env.reset(0)
    assert not env.render().any()
    for _ in range(2):
        env.step({"piston": torch.zeros(2, 3, dtype=torch.int64)})
    picture = env.render()
    assert picture.shape == (8, 8, 3)
    assert picture.dtype == np.uint8
    assert picture[:2].all()
    assert not picture[2:].any()
    env.close()
    assert make(SPREAD, num_envs=1).render().shape == (700, 700, 3)


def test_what_cannot_be_drawn_says_so() -> None:
    with pytest.raises(EnvironmentFault, match="render_modes"):
        make("pettingzoo_toys:Relay", num_envs=1, options={"parallelizable": True}).render()
    with pytest.raises(EnvironmentFault, match="sees something else"):
        make(TOY, num_envs=1, options={"fault": "unseeded"}).render()


def test_a_fault_closes_and_is_remembered() -> None:
    env = make(TOY, num_envs=2, options={"fault": "raise", "longest": 30})
    env.reset(0)
    still = {"piston": torch.zeros(2, 3, dtype=torch.int64)}
    env.step(still)
    env.step(still)
    with pytest.raises(
        EnvironmentFault, match=r"step raised RuntimeError: the piston is stuck \(pettingzoo_toys.py, line"
    ):
        env.step(still)
    with pytest.raises(EnvironmentFault, match="closed since it failed .*the piston is stuck"):
        env.step(still)
    assert env.state_dict() is None
    env.close()
    env.close()


def test_steps_do_not_share_memory() -> None:
    env = make(SPREAD, num_envs=2)
    one, other = trajectory(env, 2)
    kept = one.view.observation["agent"].clone()
    env.reset(1)
    assert torch.equal(one.view.observation["agent"], kept)
    assert not torch.equal(one.view.observation["agent"], other.view.observation["agent"])


@pytest.mark.parametrize("name", [SPREAD, "mpe2.simple_tag_v3", "mpe2.simple_speaker_listener_v4", TOY])
def test_passes_pettingzoos_own_tests(name: str) -> None:
    parallel_api_test(make_parallel(name), num_cycles=60)
    parallel_seed_test(lambda: make_parallel(name), num_cycles=20)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        (SPREAD, {}),
        ("mpe2.simple_tag_v3", {"continuous_actions": True}),
        (TOY, {"mask": "info"}),
        (TOY, {"act": "box"}),
    ],
)
def test_passes_torchrls_own_test(name: str, options: dict[str, Any]) -> None:
    check_env_specs(TorchRLEnv(make(name, num_envs=2, options=options)), seed=0)


def test_both_forms_show_the_same() -> None:
    vector = make(TOY, num_envs=1, max_steps=6, options={"mask": "observation", "see": "image", "act": "shifted"})
    single = make_parallel(TOY, max_steps=6, options={"mask": "observation", "see": "image", "act": "shifted"})
    rng = torch.Generator().manual_seed(0)
    view = vector.reset(4)
    seen, infos = single.reset(seed=episode_seed(4, 0, 0))
    done = False
    while not done:
        for i, agent in enumerate(vector.groups["piston"].agents):
            if agent in single.agents:
                assert np.array_equal(seen[agent]["observation"], view.observation["piston"][0, i].numpy())
                assert np.array_equal(infos[agent]["action_mask"], view.mask["piston"][0, i].numpy())
                assert seen[agent] in single.observation_space(agent)
        actions = chosen(vector, rng, view)
        step = vector.step(actions)
        view, done = step.view, bool(step.done[0])
        mine = {agent: int(actions["piston"][0, i]) for i, agent in enumerate(vector.groups["piston"].agents)}
        seen, rewards, ends, cuts, infos = single.step({agent: mine[agent] for agent in single.agents})
        for i, agent in enumerate(vector.groups["piston"].agents):
            assert ends.get(agent, False) == bool(step.terminated["piston"][0, i])
            assert cuts.get(agent, False) == bool(step.truncated["piston"][0, i])
            assert np.float32(rewards.get(agent, 0.0)) == step.reward["piston"][0, i].item()
    assert single.agents == []


def test_the_catalogue_names_what_there_is() -> None:
    for name in CATALOGUE:
        try:
            env = make_parallel(name)
        except EnvironmentFault as fault:
            assert "pip install" in str(fault), fault  # not every extra is installed
            continue
        env.close()
