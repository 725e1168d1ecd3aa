"""It learns, and what should not be able to learn does not: greedy play after training, IQM over seeds.

The table with more seeds, agents and frames is in experiments/.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hypermarl import config, envs
from hypermarl.envs.interface import Discrete
from hypermarl.evaluation import vectorised
from hypermarl.evaluation.statistics import iqm
from hypermarl.marl.settings import ExperimentConfig
from hypermarl.marl.train import Experiment, Result

pytestmark = pytest.mark.slow


def train(folder: Path, *words: str) -> Result:
    """Train as the command line would, without bar, events and film."""
    quiet = [f"train.folder={folder}", "train.progress=false", "train.tensorboard=false", "evaluation.video=false"]
    settings = config.build(ExperimentConfig, config.compose([*words, *quiet], envs.parse))
    return Experiment(settings).run()


def game(folder: Path, name: str, agents: int, sharing: str) -> float:
    """IQM over five seeds of the mean reward per step, 1 at best."""
    words = (
        f"env=games/{name}",
        f"env.options.n_agents={agents}",
        f"sharing={sharing}",
        "seeds=5",
        "evaluation.episodes=8",
    )
    found = [float(episodes.reward_per_step.mean()) for episodes in train(folder, *words).episodes]
    return float(iqm(np.array(found)[:, None]))


@pytest.mark.parametrize("name", ["specialisation", "synchronisation"])
@pytest.mark.parametrize(("agents", "least"), [(4, 0.95), (8, 0.95), (16, 0.9)])
def test_generated_policies_learn_both_to_differ_and_to_agree(
    tmp_path: Path, name: str, agents: int, least: float
) -> None:
    assert game(tmp_path, name, agents, "hyper_mlp") >= least


@pytest.mark.parametrize("agents", [4, 8])
def test_one_policy_without_an_identity_cannot_differ(tmp_path: Path, agents: int) -> None:
    assert game(tmp_path, "specialisation", agents, "shared") == pytest.approx(1 / agents, abs=1e-6)


@pytest.mark.parametrize(("agents", "most"), [(4, 0.6), (8, 0.4)])
def test_an_identity_in_the_observation_is_not_enough_in_this_budget(tmp_path: Path, agents: int, most: float) -> None:
    assert game(tmp_path, "specialisation", agents, "shared_id") < most


def random_team(env: str) -> float:
    """Mean team return of uniformly random discrete or continuous actions."""
    settings = config.build(ExperimentConfig, config.compose([f"env={env}"], envs.parse)).env
    made = envs.make(
        settings.kind, settings.name, num_envs=16, max_steps=settings.max_steps, options=dict(settings.options)
    )
    rng = torch.Generator().manual_seed(0)

    def act(view: object, fresh: torch.Tensor) -> dict[str, torch.Tensor]:
        actions = {}
        for name, group in made.groups.items():
            if isinstance(group.action, Discrete):
                actions[name] = torch.randint(group.action.n, (16, len(group.agents)), generator=rng)
            else:
                actions[name] = 2 * torch.rand(16, len(group.agents), group.action.size, generator=rng) - 1
        return actions

    try:
        return float(vectorised.evaluate(made, act, 192, 10_000).team.mean())
    finally:
        made.close()


def test_navigation_is_learned_well_above_a_random_team(tmp_path: Path) -> None:
    env = "vmas/navigation_4_unique"
    result = train(
        tmp_path, f"env={env}", "seeds=2", "train.frames=128_000", "env.num_envs=64", "model.actor=[64,64]",
        "model.critic=[64,64]", "algorithm.lr=5e-4", "algorithm.epochs=4", "algorithm.minibatches=4",
        "evaluation.every=0", "evaluation.episodes=32",
    )  # fmt: skip
    floor = random_team(env)
    assert floor < 0.5
    assert min(float(episodes.team.mean()) for episodes in result.episodes) > floor + 0.5


def test_simple_spread_is_learned_from_pettingzoo_well_above_a_random_team(tmp_path: Path) -> None:
    env = "pettingzoo/mpe2.simple_spread_v3"
    result = train(
        tmp_path, f"env={env}", "seeds=2", "train.frames=60_000", "evaluation.every=0", "evaluation.episodes=32"
    )
    assert min(float(episodes.team.mean()) for episodes in result.episodes) > random_team(env) + 3.0
