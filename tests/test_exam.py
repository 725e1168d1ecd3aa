"""Evaluation while training: the same episodes each time, every seed judged by itself, legal and with memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scripted_env import CHASERS, CLOCK, RUNNERS, ScriptedEnv
from small import config, policies

from hypermarl import envs
from hypermarl.marl import distributions
from hypermarl.marl import exam as module
from hypermarl.marl.exam import Exam
from hypermarl.marl.policy import Policy

WORDS = ("evaluation.episodes=4",)
VMAS = ("env=vmas/navigation_2_unique", "env.num_envs=3", "env.max_steps=7", "algorithm.minibatches=3", *WORDS)


def taken(*words: str, seeds: int = 2, times: int = 1, **plot: Any) -> tuple[list[Any], dict[str, Policy]]:
    settings = config(*words, f"seeds={seeds}")
    env = envs.make(settings.env.kind, settings.env.name, num_envs=1, options=dict(settings.env.options))
    made = policies(env.groups, *words, seeds=range(seeds), stir=0.5)
    exam = Exam(settings)
    found = [exam.take(made) for _ in range(times)]
    exam.close()
    return found, made


@pytest.mark.parametrize(
    "words", [VMAS, (*VMAS, "evaluation.greedy=false"), (*VMAS, "model=gru", "algorithm.minibatches=1")]
)
def test_the_same_episodes_each_time(words: tuple[str, ...]) -> None:
    (first, again), _ = taken(*words, times=2)
    (other,), _ = taken(*words, "evaluation.seed=5")
    for s in range(2):
        assert first[s].returns.shape == (4, 2)
        assert np.array_equal(first[s].returns, again[s].returns)
        assert not np.array_equal(first[s].returns, other[s].returns), "chance is in the start states"
    assert not np.array_equal(first[0].returns, first[1].returns)


def test_greedy_is_not_sampled() -> None:
    (greedy,), _ = taken(*VMAS)
    (sampled,), _ = taken(*VMAS, "evaluation.greedy=false")
    assert not np.array_equal(greedy[0].returns, sampled[0].returns)
    (one,), _ = taken(*WORDS, "evaluation.greedy=false")
    (other,), _ = taken(*WORDS, "evaluation.greedy=false", "evaluation.seed=5")
    assert not np.array_equal(one[0].returns, other[0].returns), "the chance of actions has the seed too"


def test_every_seed_is_judged_by_its_own_policy() -> None:
    """Exchange the parameters of two seeds, and their results are exchanged; a game holds no chance of its own."""
    settings = config(*WORDS, "seeds=2")
    groups = envs.make("games", "specialisation", num_envs=1).groups
    one, other = (policies(groups, seeds=order, stir=0.5) for order in ((0, 1), (1, 0)))
    exam = Exam(settings)
    (a, b), (c, d) = exam.take(one), exam.take(other)
    assert np.array_equal(a.returns, d.returns)
    assert np.array_equal(b.returns, c.returns)
    assert not np.array_equal(a.returns, b.returns)


@pytest.mark.parametrize("words", [(), ("model=gru", "algorithm.minibatches=1")], ids=["mlp", "gru"])
def test_play_is_legal_and_remembers(monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]) -> None:
    """Against a loop over one environment at a time that keeps the whole history of the episode."""
    made_envs: list[ScriptedEnv] = []

    class Watched(ScriptedEnv):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.history: list[dict[str, torch.Tensor]] = []
            self.always_legal = True
            made_envs.append(self)

        def step(self, actions: dict[str, torch.Tensor]) -> Any:
            self.history.append({"seen": self.view(), "done": {k: v.clone() for k, v in actions.items()}})  # type: ignore[dict-item]
            found = super().step(actions)
            self.always_legal &= bool(self.legal.all())
            return found

    monkeypatch.setattr(module.envs, "make", lambda *args, num_envs, **_: Watched(num_envs))
    made = policies(ScriptedEnv(1).groups, *words, seeds=(0, 1), stir=0.3)
    settings = config(*words, *WORDS, "seeds=2", "env.num_envs=2")
    Exam(replace(settings, env=replace(settings.env, kind="pettingzoo"))).take(made)
    (env,) = made_envs
    assert env.num_envs == 4
    assert env.always_legal
    assert len(env.history) == 2 * CLOCK, "two episodes in each, the second with an empty memory"
    for name, policy in made.items():
        for start in range(0, len(env.history), CLOCK):
            episode = env.history[start : start + CLOCK]
            seen = torch.stack([each["seen"].observation[name] for each in episode]).unflatten(1, (2, 2))
            masks = None
            if name == RUNNERS:
                masks = torch.stack([each["seen"].mask[name] for each in episode]).unflatten(1, (2, 2))
            if policy.recurrent:
                blank = policy.blank_memory(2, 2).actor
                fresh = torch.zeros(seen.shape[:-1], dtype=torch.bool)
                told = policy.parameters_of(seen, masks, memory=blank, fresh=fresh)[0]
            else:
                told = policy.parameters_of(seen, masks)[0]
            expected = policy.to_environment(distributions.mode(policy.distribution, told)).flatten(1, 2)
            done = torch.stack([each["done"][name] for each in episode])
            if name == CHASERS:
                torch.testing.assert_close(done, expected, atol=1e-4, rtol=1e-4)
            else:
                alive = torch.stack([each["seen"].alive[name] for each in episode])
                assert torch.equal(done[alive], expected[alive])


def test_simulations_play_all_at_once_and_processes_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    closed: list[int] = []

    class Counted(ScriptedEnv):
        def close(self) -> None:
            closed.append(1)

    def make(*_: Any, num_envs: int, **__: Any) -> ScriptedEnv:
        sizes.append(num_envs)
        return Counted(num_envs)

    monkeypatch.setattr(module.envs, "make", make)
    made = policies(ScriptedEnv(1).groups, seeds=(0, 1))
    settings = config("evaluation.episodes=7", "env.num_envs=3", "seeds=2")
    for kind, size, episodes in (("games", 14, 7), ("pettingzoo", 6, 9)):
        exam = Exam(replace(settings, env=replace(settings.env, kind=kind)))
        for _ in range(2):
            found = exam.take(made)
            assert [len(each.lengths) for each in found] == [episodes] * 2
        assert sizes.pop() == size
        assert not sizes, "made once"
        exam.close()
        exam.close()
        assert len(closed) == 1
        closed.clear()
