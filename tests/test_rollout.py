"""Collecting experience, on an environment whose numbers tell where they come from."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

import pytest
import torch
from scripted_env import CHASERS, CLOCK, DEATH, RUNNERS, ScriptedEnv
from small import close, policies, rng
from torch import Tensor

from hypermarl.envs import make
from hypermarl.envs.interface import EnvironmentFault
from hypermarl.marl import distributions
from hypermarl.marl.policy import Policy
from hypermarl.marl.rollout import Batch, Collector, Episodes
from hypermarl.monitoring.progress import Clock

E, S, T = 3, 2, 13
ROW, EPISODE, AGE, AGENT, LAST = 0, 1, 2, 3, slice(4, None)


def collected(
    env: Any, *words: str, seeds: int = S, steps: int = T, rollouts: int = 1
) -> tuple[Collector, list[tuple[dict[str, Batch], Episodes]], dict[str, Policy]]:
    # moved away from the start by little: the environment echoes actions, and would echo them louder and louder
    made = policies(env.groups, *words, seeds=range(seeds), stir=0.1)
    collector = Collector(env, made, steps, seeds)
    collector.reset(0)
    rngs = [rng(100 + s) for s in range(seeds)]
    return collector, [collector.collect(rngs, Clock()) for _ in range(rollouts)], made


@pytest.fixture(scope="module")
def scripted() -> tuple[Collector, list[tuple[dict[str, Batch], Episodes]], dict[str, Policy]]:
    return collected(ScriptedEnv(E * S), rollouts=2)


def test_shapes_are_time_first(scripted: Any) -> None:
    _, rollouts, _ = scripted
    for batches, _ in rollouts:
        for name, agents, observation in ((RUNNERS, 2, 5), (CHASERS, 3, 6)):
            batch = batches[name]
            assert batch.observation.shape == (T + 1, E, S, agents, observation)
            for each in (batch.log_prob, batch.reward, batch.terminated, batch.truncated):
                assert each.shape == (T, E, S, agents)
            assert batch.fresh.shape == (T + 1, E, S)
        assert batches[RUNNERS].action.shape == (T, E, S, 2)
        assert batches[RUNNERS].mask.shape == (T, E, S, 2, 3)
        assert batches[RUNNERS].alive.shape == (T, E, S, 2)
        assert batches[CHASERS].action.shape == (T, E, S, 3, 2)
        assert batches[CHASERS].mask is None
        assert batches[CHASERS].alive is None


def test_every_number_is_where_it_belongs(scripted: Any) -> None:
    """Environment e*S + s, step t and agent n: told by the environment in each observation."""
    _, rollouts, made = scripted
    row = (torch.arange(E)[:, None] * S + torch.arange(S)).float()
    for number, (batches, _) in enumerate(rollouts):
        time = torch.arange(T + 1) + number * T
        for name, batch in batches.items():
            seen = batch.observation
            assert torch.equal(seen[..., ROW], row[None, :, :, None].expand(seen.shape[:-1]))
            assert torch.equal(seen[:, 0, 0, 0, AGE], (time % CLOCK).float())
            assert torch.equal(seen[:, 2, 1, 0, EPISODE], (time // CLOCK + 1).float())
            assert torch.equal(seen[..., AGENT], torch.arange(seen.shape[3]).float().expand(seen.shape[:-1]))
            assert torch.equal(batch.fresh, (time % CLOCK == 0)[:, None, None].expand(T + 1, E, S))
            done = made[name].to_environment(batch.action)
            done = done.unsqueeze(-1) if name == RUNNERS else done
            assert torch.equal(seen[1:, ..., LAST], done.float()), "what was stored is what was done"


def test_rewards_and_ends_are_those_of_the_step(scripted: Any) -> None:
    _, rollouts, _ = scripted
    for number, (batches, _) in enumerate(rollouts):
        age = (torch.arange(T) + number * T) % CLOCK
        for name, batch in batches.items():
            agents = batch.reward.shape[3]
            alive = torch.ones(T, agents, dtype=torch.bool)
            dies = torch.zeros(T, agents, dtype=torch.bool)
            if name == RUNNERS:
                alive[:, 0] = age < DEATH
                dies[:, 0] = age + 1 == DEATH
                assert torch.equal(batch.alive, alive[:, None, None].expand(batch.reward.shape))
            reward = (age[:, None] + 1 + torch.arange(agents) / 10) * alive
            close(batch.reward, reward[:, None, None].expand(batch.reward.shape))
            assert torch.equal(batch.terminated, dies[:, None, None].expand(batch.reward.shape))
            late = (age[:, None] + 1 == CLOCK) & alive
            assert torch.equal(batch.truncated, late[:, None, None].expand(batch.reward.shape))


@pytest.mark.parametrize("early", [False, True])
def test_what_truncated_agents_would_have_seen_is_kept(early: bool) -> None:
    """Of all groups, since a centralised critic asks for all of them."""
    _, [(batches, _)], _ = collected(ScriptedEnv(E * S, early_cut=early))
    expected = [t for t in range(T) if (t + 1) % CLOCK == 0 or (early and (t + 1) % CLOCK == DEATH)]
    for batch in batches.values():
        assert sorted(batch.final) == expected
        for t, final in batch.final.items():
            assert final.shape == batch.observation.shape[1:]
            assert (final[..., AGE] == t % CLOCK + 1).all()
            assert (final[..., EPISODE] == t // CLOCK + 1).all(), "of the episode that ended"


def test_stored_probabilities_are_those_of_the_stored_actions(scripted: Any) -> None:
    _, rollouts, made = scripted
    for batches, _ in rollouts:
        for name, batch in batches.items():
            told, _ = made[name].parameters_of(batch.observation[:-1], batch.mask)
            close(batch.log_prob, distributions.log_prob(made[name].distribution, told, batch.action))


def test_every_action_has_chance_of_its_own(scripted: Any) -> None:
    """The noise behind an action is another one for every step, environment, seed, agent and dimension, and normal."""
    _, rollouts, made = scripted
    found = []
    for batches, _ in rollouts:
        batch = batches[CHASERS]
        told, _ = made[CHASERS].parameters_of(batch.observation[:-1])
        found.append(((batch.action - told["loc"]) / told["log_std"].exp()).detach().flatten())
    noise = torch.cat(found)
    assert noise.unique().numel() > 0.99 * noise.numel()
    apart = noise.sort().values.diff()
    assert (apart > 1e-5).float().mean() > 0.95, "nor the same number up to rounding"
    assert abs(float(noise.mean())) < 0.2
    assert 0.8 < float(noise.std()) < 1.2


def test_illegal_actions_are_never_done() -> None:
    env = ScriptedEnv(E * S)
    made = policies(env.groups, seeds=range(S), stir=2.0)  # strong opinions, often on what is illegal
    collector = Collector(env, made, 1, S)
    collector.reset(0)
    rngs = [rng(s) for s in range(S)]
    for step in range(40):
        batches, _ = collector.collect(rngs, Clock())
        assert env.legal.all()
        mask, alive = batches[RUNNERS].mask, batches[RUNNERS].alive
        assert torch.equal(mask.any(-1), alive)
        forbidden = torch.ones(3, dtype=torch.bool)
        forbidden[step % CLOCK % 3] = False
        assert torch.equal(mask[alive], forbidden.expand(mask[alive].shape))


def test_episodes_are_summed_up(scripted: Any) -> None:
    _, rollouts, _ = scripted
    for number, (_, ended) in enumerate(rollouts):
        episodes = (T * (number + 1)) // CLOCK - (T * number) // CLOCK
        assert ended.count.tolist() == [E * episodes] * S
        assert ended.length.tolist() == [E * episodes * CLOCK] * S
        once = {RUNNERS: [1.0 + 2.0, 15.5], CHASERS: [15.0, 15.5, 16.0]}  # across the border between rollouts too
        for name, returns in once.items():
            close(ended.returns[name], E * episodes * torch.tensor(returns).expand(S, -1), atol=1e-4)


def test_rollouts_follow_each_other(scripted: Any) -> None:
    _, [(first, _), (second, _)], _ = scripted
    for name in first:
        assert torch.equal(first[name].observation[-1], second[name].observation[0])
        assert torch.equal(first[name].fresh[-1], second[name].fresh[0])


def test_an_episode_may_begin_after_the_last_step() -> None:
    _, [(batches, _)], _ = collected(ScriptedEnv(E * S), steps=2 * CLOCK)
    for batch in batches.values():
        assert batch.fresh[-1].all()
        assert (batch.observation[-1, ..., AGE] == 0).all()


def test_weights_are_generated_once() -> None:
    env = ScriptedEnv(E * S)
    made = policies(env.groups, "model=gru", seeds=range(S))
    calls: list[int] = []
    for one in made.values():
        for each in (one.actor, one.critic):
            each.generator.register_forward_hook(lambda *_: calls.append(1))
    collector = Collector(env, made, T, S)
    collector.reset(0)
    collector.collect([rng(s) for s in range(S)], Clock())
    assert len(calls) == 4  # actor and critic of two groups


def test_a_seeds_chance_is_its_own() -> None:
    """A seed acts the same whoever trains beside it, and seeds act differently from each other."""
    runs = {}
    for seeds in ((0,), (1,), (2,), (0, 1, 2)):
        env = make("games", "specialisation", num_envs=E * len(seeds))
        made = policies(env.groups, seeds=seeds)
        collector = Collector(env, made, T, len(seeds))
        collector.reset(0)
        batches, _ = collector.collect([rng(100 + s) for s in seeds], Clock())
        runs[seeds] = batches["agents"]
    for s in range(3):
        for field in ("action", "observation", "reward"):
            alone, together = getattr(runs[s,], field), getattr(runs[0, 1, 2], field)
            assert torch.equal(alone[:, :, 0], together[:, :, s]), field
    assert not torch.equal(runs[0,].action, runs[1,].action)


@pytest.mark.parametrize("kill_all_at", [None, 3])
def test_memories_are_those_of_the_whole_history(kill_all_at: int | None) -> None:
    """Emptied where episodes begin, kept across the border of rollouts; as if all had been one sequence."""
    collector, rollouts, made = collected(ScriptedEnv(E * S, kill_all_at=kill_all_at), "model=gru", rollouts=3)
    for name, one in made.items():
        agents = len(one.group.agents)
        seen = torch.cat([batches[name].observation[:-1] for batches, _ in rollouts])
        fresh = torch.cat([batches[name].fresh[:-1] for batches, _ in rollouts]).unsqueeze(-1)
        fresh = fresh.expand(3 * T, E, S, agents)
        assert 5 < fresh[:, 0, 0, 0].sum() < 3 * T
        blank = one.blank_memory(E, S)
        masks = None if one.group.name == CHASERS else torch.cat([b[name].mask for b, _ in rollouts])
        told, actor = one.parameters_of(seen, masks, memory=blank.actor, fresh=fresh)
        _, critic = one.values(seen, memory=blank.critic, fresh=fresh)
        action = torch.cat([batches[name].action for batches, _ in rollouts])
        stored = torch.cat([batches[name].log_prob for batches, _ in rollouts])
        close(stored, distributions.log_prob(one.distribution, told, action))
        for number in (1, 2):
            before = rollouts[number][0][name].memory
            close(before.actor, actor[number * T - 1])
            close(before.critic, critic[number * T - 1])
        close(collector.memory[name].actor, actor[-1])


class Recycling:
    """An environment that gives the same tensors each time, changed, as one with shared arrays does."""

    def __init__(self, env: Any) -> None:
        self.env = env
        self.kept: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.env, name)

    def reset(self, seed: int | None = None) -> Any:
        return self.again("view", self.env.reset(seed))

    def step(self, actions: dict[str, Tensor]) -> Any:
        return self.again("step", self.env.step({name: action.clone() for name, action in actions.items()}))

    def again(self, place: str, value: Any) -> Any:
        if isinstance(value, Tensor):
            if place in self.kept:
                self.kept[place].copy_(value)
            else:
                self.kept[place] = value.clone()
            return self.kept[place]
        if is_dataclass(value):
            parts = {f.name: self.again(f"{place}.{f.name}", getattr(value, f.name)) for f in fields(value)}
            return type(value)(**parts)  # type: ignore[call-arg]
        return {name: self.again(f"{place}.{name}", each) for name, each in value.items()}


def test_what_the_environment_overwrites_is_copied() -> None:
    _, [(expected, _)], _ = collected(ScriptedEnv(E * S))
    _, [(found, _)], _ = collected(Recycling(ScriptedEnv(E * S)))
    for name, batch in expected.items():
        for field in (
            "observation",
            "action",
            "log_prob",
            "reward",
            "terminated",
            "truncated",
            "fresh",
            "mask",
            "alive",
        ):
            one, other = getattr(batch, field), getattr(found[name], field)
            assert one is other is None or torch.equal(one, other), (name, field)
        assert all(torch.equal(final, found[name].final[t]) for t, final in batch.final.items())


@pytest.mark.parametrize("words", [(), ("model=gru",)], ids=["mlp", "gru"])
def test_a_collector_continues_from_its_state(words: tuple[str, ...]) -> None:
    runs = []
    for interrupted in (False, True):
        env = make("games", "specialisation", num_envs=E * S, options={"episode_steps": 5})
        made = policies(env.groups, *words, seeds=range(S))
        collector, rngs = Collector(env, made, 7, S), [rng(s) for s in range(S)]
        collector.reset(0)
        collector.collect(rngs, Clock())
        if interrupted:
            state, world = collector.state_dict(), env.state_dict()
            env = make("games", "specialisation", num_envs=E * S, options={"episode_steps": 5})
            collector = Collector(env, made, 7, S)
            collector.load_state_dict(state)
            collector.view = env.load_state_dict(world)
        runs.append(collector.collect(rngs, Clock()))
    (whole, sums), (parts, sums_too) = runs
    for field in ("observation", "action", "log_prob", "reward", "fresh"):
        assert torch.equal(getattr(whole["agents"], field), getattr(parts["agents"], field)), field
    assert torch.equal(sums.returns["agents"], sums_too.returns["agents"])
    assert torch.equal(sums.length, sums_too.length)
    assert torch.equal(sums.count, sums_too.count)


def test_beginning_anew_forgets_what_was() -> None:
    collector, _, _ = collected(ScriptedEnv(E * S), "model=gru")
    collector.reset(5)
    batches, ended = collector.collect([rng(s) for s in range(S)], Clock())
    assert batches[RUNNERS].fresh[0].all()
    assert (batches[RUNNERS].observation[0, ..., AGE] == 0).all()
    assert ended.length.tolist() == [E * 2 * CLOCK] * S


def test_masks_must_be_declared() -> None:
    env = ScriptedEnv(E * S)
    runners = env.groups[RUNNERS]
    env.groups[RUNNERS] = type(runners)(runners.name, runners.agents, runners.observation, runners.action)
    with pytest.raises(EnvironmentFault, match="'runners' gives action masks but does not declare them"):
        collected(env)
