"""The TorchRL border: specs that hold, ends kept apart, resets of some rows, TorchRL's own collector."""

from __future__ import annotations

import pytest
import torch
from scripted_env import CHASERS, CLOCK, DEATH, RUNNERS, ScriptedEnv
from tensordict import TensorDict
from torchrl.collectors import Collector
from torchrl.envs.utils import check_env_specs

from hypermarl.envs import make
from hypermarl.envs.interface import Step
from hypermarl.envs.torchrl import TorchRLEnv

E = 4
ENVS = {
    "temporal game": lambda: make("games", "specialisation", num_envs=E),
    "one-choice game": lambda: make("games", "synchronisation", num_envs=E, options={"n_agents": 3, "temporal": False}),
    "game that terminates": lambda: make("games", "synchronisation", num_envs=E, options={"terminate": True}),
    "spread": lambda: make("spread", "bps_1", num_envs=E, max_steps=2),
    "spread of 9": lambda: make("spread", "bps_4", num_envs=E, options={"n_agents": 9}),
    "groups, masks, deaths": lambda: ScriptedEnv(E),
    "all die": lambda: ScriptedEnv(E, kill_all_at=3),
    "one is cut off early": lambda: ScriptedEnv(E, early_cut=True),
}


@pytest.mark.parametrize("name", ENVS)
def test_specs_hold(name: str) -> None:
    env = TorchRLEnv(ENVS[name]())
    check_env_specs(env, seed=0)
    check_env_specs(env, break_when_any_done="both")
    assert env.batch_size == (E,)


def test_shapes_types_and_groups() -> None:
    env = TorchRLEnv(ScriptedEnv(E))
    assert env.group_map == {RUNNERS: ["runner_0", "runner_1"], CHASERS: ["a", "b", "c"]}
    run = env.rollout(2)
    told = {key: (tuple(each.shape), each.dtype) for key, each in run["next"].items(True, True)}
    runners = {"observation": 5, "reward": 1, "done": 1, "terminated": 1, "truncated": 1, "action_mask": 3}
    for key, size in runners.items():
        dtype = torch.float32 if key in ("observation", "reward") else torch.bool
        assert told.pop((RUNNERS, key)) == ((E, 2, 2, size), dtype), key
    assert told.pop((RUNNERS, "alive")) == ((E, 2, 2), torch.bool)
    assert told.pop((CHASERS, "observation")) == ((E, 2, 3, 6), torch.float32)
    assert told.pop((CHASERS, "reward")) == ((E, 2, 3, 1), torch.float32)
    for key in ("done", "terminated", "truncated"):
        assert told.pop((CHASERS, key)) == ((E, 2, 3, 1), torch.bool)
        assert told.pop(key) == ((E, 2, 1), torch.bool)
    assert not told
    assert run[RUNNERS, "action"].shape == (E, 2, 2)
    assert run[RUNNERS, "action"].dtype == torch.int64
    action = run[CHASERS, "action"]
    assert action.shape == (E, 2, 3, 2)
    assert action.dtype == torch.float32
    assert (action >= torch.tensor([-1.0, -2.0])).all()
    assert (action <= torch.tensor([1.0, 0.5])).all()
    assert action[..., 1].min() < -1, "the box is used, not a guess of it"


def test_random_actions_are_legal() -> None:
    env = ScriptedEnv(64)
    border = TorchRLEnv(env)
    now = border.reset()
    for _ in range(12):
        step, now = border.step_and_maybe_reset(border.rand_action(now))
        assert env.legal.all()
        assert step["next", RUNNERS, "action_mask"].any(-1).all(), "a mask is never empty"
    assert {*now[RUNNERS, "action_mask"].sum(-1).unique().tolist()} <= {1, 2}


def test_ends_are_kept_apart_and_stay() -> None:
    run = TorchRLEnv(ScriptedEnv(E)).rollout(CLOCK + 2, break_when_any_done=False)["next"]
    at = [*range(1, CLOCK + 1), 1, 2]
    for t, age in enumerate(at):
        dead, over = age >= DEATH, age == CLOCK
        runners, chasers = run[RUNNERS][:, t], run[CHASERS][:, t]
        assert (runners["terminated"][..., 0].int() == torch.tensor([int(dead), 0])).all(), t
        assert (runners["truncated"][..., 0].int() == torch.tensor([0, int(over)])).all(), t
        assert (runners["done"] == (runners["terminated"] | runners["truncated"])).all()
        assert (chasers["truncated"] == over).all()
        assert not chasers["terminated"].any()
        assert (run["done"][:, t] == over).all()
        assert (run["truncated"][:, t] == over).all()
        assert not run["terminated"][:, t].any()
        assert (runners["alive"][:, 0] == (age < DEATH)).all()
        assert runners["alive"][:, 1].all()
        paid = torch.tensor([age * (age <= DEATH), age + 0.1])
        assert torch.allclose(runners["reward"][..., 0], paid.expand(E, 2).float())


def test_environment_terminates_when_none_is_cut_off() -> None:
    run = TorchRLEnv(ScriptedEnv(E, kill_all_at=3)).rollout(4, break_when_any_done=False)["next"]
    assert run["terminated"].squeeze(-1)[0].tolist() == [False, False, True, False]
    assert not run["truncated"].any()
    assert not run[CHASERS, "truncated"].any()
    assert run[CHASERS, "done"][0, :, 0, 0].tolist() == [False, False, True, False]


def test_an_agent_cut_off_early_stays_cut_off() -> None:
    run = TorchRLEnv(ScriptedEnv(E, early_cut=True)).rollout(CLOCK, break_when_any_done=False)["next"]
    cut = [age >= DEATH for age in range(1, CLOCK + 1)]
    assert run[RUNNERS, "truncated"][0, :, 0, 0].tolist() == run[RUNNERS, "done"][0, :, 0, 0].tolist() == cut
    assert not run[RUNNERS, "terminated"].any()
    assert run["truncated"][0, :, 0].tolist() == run["done"][0, :, 0].tolist() == [False] * (CLOCK - 1) + [True]


def test_an_environment_that_is_done_leaves_no_agent_going() -> None:
    env = ScriptedEnv(E)
    step = env.step

    def silent(actions: dict[str, torch.Tensor]) -> Step:
        taken = step(actions)
        nothing = {name: flags & False for name, flags in taken.truncated.items()}
        return Step(taken.view, taken.reward, nothing, nothing, taken.final, taken.done)

    env.step = silent
    run = TorchRLEnv(env).rollout(CLOCK + 1, break_when_any_done=False)["next"]
    assert run["done"][0, :, 0].tolist() == [False] * (CLOCK - 1) + [True, False]
    assert torch.equal(run[CHASERS, "done"][..., 0], run["done"].expand(E, CLOCK + 1, 3))


def test_resets_only_the_rows_it_is_asked_to() -> None:
    env = TorchRLEnv(ScriptedEnv(E))
    now = env.reset()
    for _ in range(3):
        _, now = env.step_and_maybe_reset(env.rand_action(now))
    rows = torch.tensor([[True], [False], [True], [False]])
    before = now.clone()
    after = env.reset(now.clone().set("_reset", rows))
    age = after[CHASERS, "observation"][..., 0, 2]
    assert age.tolist() == [0, 3, 0, 3]
    assert (after[1] == before[1]).all()
    assert (after[3] == before[3]).all()
    assert not after[RUNNERS, "done"][[0, 2]].any()
    assert after[RUNNERS, "done"][[1, 3], 0].all()
    step = env.step(env.rand_action(after))["next"]
    assert step[RUNNERS, "terminated"][:, 0, 0].tolist() == [False, True, False, True], "deaths are forgotten by row"


def test_next_holds_the_last_observation_and_then_a_new_episode() -> None:
    run = TorchRLEnv(ScriptedEnv(E)).rollout(CLOCK + 1, break_when_any_done=False)
    ages = run["next", CHASERS, "observation"][0, :, 0, 2].tolist()
    assert ages == [1, 2, 3, 4, 5, 1]
    assert run[CHASERS, "observation"][0, :, 0, 2].tolist() == [0, 1, 2, 3, 4, 0]
    episode = run[CHASERS, "observation"][0, :, 0, 1]
    assert (episode[:CLOCK] == episode[0]).all()
    assert episode[CLOCK] == episode[0] + 1


def test_seed_reaches_the_environment_at_the_next_full_reset() -> None:
    env = ScriptedEnv(E)
    border = TorchRLEnv(env)
    now = border.reset()
    border.set_seed(11)
    some = torch.tensor([[True], [False], [False], [False]])
    border.reset(now.set("_reset", some))
    assert 11 not in env.seeds
    border.reset()
    border.reset()
    assert env.seeds[-2:] == [11, None]
    runs = []
    for _ in range(2):
        border = TorchRLEnv(make("spread", "bps_1", num_envs=E, max_steps=3))
        border.set_seed(5)
        torch.manual_seed(0)
        runs.append(border.rollout(7, break_when_any_done=False))
    assert (runs[0] == runs[1]).all()


def test_collector_gives_the_environments_own_episodes() -> None:
    steps, rounds = 7, 3
    torch.manual_seed(0)
    border = TorchRLEnv(make("spread", "bps_1", num_envs=E, max_steps=5))
    border.set_seed(0)
    collector = Collector(border, None, frames_per_batch=E * steps, total_frames=E * steps * rounds)
    batches = torch.cat(list(collector), dim=1)
    collector.shutdown()
    assert batches.shape == (E, steps * rounds)
    plain = make("spread", "bps_1", num_envs=E, max_steps=5)
    first = plain.reset(0)
    if not torch.equal(batches["agents", "observation"][:, 0], first.observation["agents"]):
        first = plain.reset()  # the collector tried the environment once before it began
    seen = first.observation["agents"]
    assert torch.equal(batches["agents", "observation"][:, 0], seen)
    for t in range(steps * rounds):
        step = plain.step({"agents": batches["agents", "action"][:, t]})
        now, then = batches[:, t], batches["next"][:, t]
        assert torch.equal(now["agents", "observation"], seen)
        assert torch.equal(then["agents", "observation"], step.final["agents"])
        assert torch.equal(then["agents", "reward"][..., 0], step.reward["agents"])
        assert torch.equal(then["agents", "truncated"][..., 0], step.truncated["agents"])
        assert torch.equal(then["truncated"][:, 0], step.done)
        assert not then["terminated"].any()
        seen = step.view.observation["agents"]
    assert batches["next", "done"].sum() == E * (steps * rounds // 5)


def test_collector_takes_groups_masks_and_deaths() -> None:
    border = TorchRLEnv(ScriptedEnv(E))
    collector = Collector(border, None, frames_per_batch=E * 12, total_frames=E * 12)
    (batch,) = list(collector)
    collector.shutdown()
    age = batch["next", CHASERS, "observation"][..., 0, 2]
    assert age[0].tolist()[:CLOCK] == [1, 2, 3, 4, 5]
    assert torch.equal(batch["next", RUNNERS, "terminated"][..., 0, 0], age >= DEATH)
    assert not batch["next", RUNNERS, "terminated"][..., 1, 0].any()
    assert torch.equal(batch["next", RUNNERS, "truncated"][..., 1, 0], age == CLOCK)


def test_policy_of_a_user_is_played() -> None:
    env = TorchRLEnv(make("games", "specialisation", num_envs=E, options={"n_agents": 5}))

    def differ(now: TensorDict) -> TensorDict:
        return now.set(("agents", "action"), torch.arange(5).expand(E, 5))

    run = env.rollout(10, differ)
    assert (run["next", "agents", "reward"] == 1).all()
    assert run.shape == (E, 10)
    assert run["next", "truncated"][:, -1].all()
    assert not run["next", "done"][:, :-1].any()


def test_unbounded_actions_have_an_unbounded_spec() -> None:
    env = ScriptedEnv(E)
    group = env.groups[CHASERS]
    free = type(group.action)((-float("inf"), -1.0), (float("inf"), 1.0))
    env.groups[CHASERS] = type(group)(CHASERS, group.agents, 6, free)
    border = TorchRLEnv(env)
    check_env_specs(border)
    assert border.full_action_spec[CHASERS, "action"].rand().isfinite().all()
