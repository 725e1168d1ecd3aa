"""What is learned of a reward: advantages, the surrogate of an objective, and how far agents are from the frozen model.

Letters: `n` turns of a batch, `T` tokens of the longest answer (1 for a choice of a word), `Q` questions, `W` words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from hypermarl.language.settings import RewardConfig

SMALL = 1e-6  # a deviation below it is no difference between returns

Objective = Callable[[Tensor, Tensor, Tensor, RewardConfig], Tensor]
"""(log-probabilities, those of when it was said, advantages, settings) -> what to make small, all `[n, T]`."""


def reinforce(log_prob: Tensor, old: Tensor, advantage: Tensor, config: RewardConfig) -> Tensor:
    """The policy gradient."""
    return -advantage * log_prob


def grpo(log_prob: Tensor, old: Tensor, advantage: Tensor, config: RewardConfig) -> Tensor:
    """The clipped ratio of PPO, for advantages among answers to one prompt (arXiv 2402.03300, section 4.1.1).

    Tokens of an answer are added up, not averaged, so that with a ratio of 1 its gradient is that of `reinforce`.
    """
    ratio = (log_prob - old).exp()
    return -torch.minimum(ratio * advantage, ratio.clamp(1.0 - config.clip, 1.0 + config.clip) * advantage)


OBJECTIVES: dict[str, Objective] = {"reinforce": reinforce, "grpo": grpo}


def grouping(config: RewardConfig) -> str:
    """Among which turns returns are compared: as `normalise` says, by itself those of a prompt for grpo, else of an
    agent."""
    if config.normalise != "auto":
        return config.normalise
    return "prompt" if config.objective == "grpo" else "agent"


def returns_to_go(rewards: Sequence[float], gamma: float) -> list[float]:
    """Of every step, what is earned from it on."""
    found, running = [], 0.0
    for reward in reversed(rewards):
        running = reward + gamma * running
        found.append(running)
    return found[::-1]


def advantages(returns: Tensor, groups: Tensor) -> Tensor:
    """`[n]`: every return against those of its group, in deviations of that group; 0 where a group is of one mind.

    `groups [n]` numbers the group of every turn.
    """
    count = torch.zeros(int(groups.max()) + 1, dtype=torch.float64, device=returns.device)
    ones = torch.ones_like(returns, dtype=torch.float64)
    number = count.index_add(0, groups, ones).clamp(min=1.0)
    mean = count.index_add(0, groups, returns.double()) / number
    apart = returns.double() - mean[groups]
    deviation = (count.index_add(0, groups, apart.square()) / number).sqrt()[groups]
    return torch.where(deviation > SMALL, apart / deviation.clamp(min=SMALL), 0.0).to(returns.dtype)


def entropy(log_probs: Tensor) -> Tensor:
    """Of the last axis, in nats; -inf is never drawn."""
    return -(log_probs.exp() * _drawable(log_probs)).sum(-1)


def divergence(log_probs: Tensor, base: Tensor) -> Tensor:
    """KL of the agents from the frozen model over the last axis, exactly."""
    return (log_probs.exp() * (_drawable(log_probs) - _drawable(base))).sum(-1)


def estimated_divergence(log_prob: Tensor, base: Tensor) -> Tensor:
    """The same of tokens that were drawn, one by one: never negative and right on average (Schulman's k3)."""
    less = base - log_prob
    return less.exp() - 1.0 - less


def _drawable(log_probs: Tensor) -> Tensor:
    return torch.where(log_probs.isfinite(), log_probs, 0.0)
