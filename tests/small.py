"""Small experiments and policies for the tests of the core: settings as the command line makes them, tiny networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor, nn

from hypermarl import config as settings
from hypermarl import envs
from hypermarl.envs.interface import Continuous, Discrete, Group
from hypermarl.marl.policy import Policy, build_policies
from hypermarl.marl.settings import ExperimentConfig

SHARINGS = tuple(settings.presets("sharing", "train"))
TINY = ("model.actor=[7,6]", "model.critic=[5]", "model.hidden=4", "env.num_envs=3", "train.steps=8")
QUIET = ("train.progress=false", "train.tensorboard=false", "evaluation.video=false", "evaluation.episodes=2")
M = TypeVar("M", bound=nn.Module)


@cache
def config(*words: str) -> ExperimentConfig:
    """An experiment on a game with networks so small that a test takes a moment; `words` win."""
    named = () if any(word.startswith("env=") for word in words) else ("env=games/specialisation",)
    return settings.build(ExperimentConfig, settings.compose([*named, *TINY, *words], envs.parse))


def group(agents: int = 3, observation: int = 5, actions: int | tuple[float, ...] = 4, masked: bool = False) -> Group:
    """A group of agents with that many actions, or with a box from minus to plus the given numbers."""
    action = Discrete(actions) if isinstance(actions, int) else Continuous(tuple(-x for x in actions), actions)
    return Group("agents", tuple(f"agent_{i}" for i in range(agents)), observation, action, masked)


def policy(one: Group, *words: str, seeds: Sequence[int] = (0,), stir: float = 0.3) -> Policy:
    """The policy of a single group, `[S, ...]`, its parameters moved away from the start by noise of size `stir`."""
    return policies({one.name: one}, *words, seeds=seeds, stir=stir)[one.name]


def policies(
    groups: Mapping[str, Group], *words: str, seeds: Sequence[int] = (0,), stir: float = 0.3
) -> dict[str, Policy]:
    made = build_policies(config(*words), groups, seeds)
    for each in made.values():
        rngs = [rng(1000 + seed) for seed in seeds]  # so that a seed is the same alone and among others
        with torch.no_grad():
            for parameter in each.parameters():
                noise = torch.stack([torch.randn(parameter.shape[1:], generator=one) for one in rngs])
                parameter.add_(stir * noise)
    return made


def with_id(one: Policy, observation: Tensor) -> Tensor:
    """`[..., N, O]`, with the one-hot id appended where the sharing mode tells agents apart by their input."""
    if not one.id_in_observation:
        return observation
    agents = len(one.group.agents)
    observation = observation.expand(*observation.shape[:-2], agents, -1)
    return torch.cat([observation, torch.eye(agents).expand(*observation.shape[:-1], -1)], -1)


def stirred(module: M, size: float = 0.3, seed: int = 1) -> M:
    """The module with noise on all its parameters: freshly built agents are equal, which hides mistakes."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=rng))
    return module


def close(actual: Tensor, expected: Tensor, atol: float = 1e-5) -> None:
    torch.testing.assert_close(actual, expected, atol=atol, rtol=1e-5)


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def factors(ways: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    """Agents as sums of two facts of four, all sixteen of them, and what is seen of each, worded in many ways:
    `[16, M, 24]`. One thing in which agents differ, too, is told so vaguely that it is of no use."""
    facts = torch.nn.functional.one_hot(torch.cartesian_prod(torch.arange(4), torch.arange(4)), 4).float().flatten(1)
    seen = facts @ torch.randn(8, 24, generator=rng(1))
    seen = seen.unsqueeze(1) + 0.05 * torch.randn(16, ways, 24, generator=rng(2))
    vague = torch.randn(24, generator=rng(3))
    return facts, seen + vague * 2.0 * torch.randn(16, ways, 1, generator=rng(4))
