"""Teams with random weights, and what they may see."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import trained_run as runs

from hypermarl.envs.interface import Continuous, Discrete, Group
from hypermarl.marl.policy import build_policy
from hypermarl.marl.settings import ExperimentConfig
from hypermarl.marl.team import Team

AGENTS = ("a", "b", "c")
CHOICE = {"team": Group("team", AGENTS, 5, Discrete(4))}
BOX = {"team": Group("team", AGENTS, 5, Continuous((-1.0, 0.0), (1.0, 10.0)))}
SIDES = {
    "hunter": Group("hunter", ("h_0", "h_1"), 5, Discrete(4)),
    "prey": Group("prey", ("p_0",), 3, Continuous((-2.0,), (2.0,))),
}


def config_of(*words: str) -> ExperimentConfig:
    return runs.experiment("env=games/specialisation", *words)


def team_of(*words: str, groups: dict[str, Group] = CHOICE, greedy: bool = True) -> Team:
    config = config_of(*words)
    policies = {name: runs.stirred(build_policy(config, groups, name, 0), 3) for name in groups}
    return Team(config, policies, greedy=greedy)


def seen(agents: tuple[str, ...] = AGENTS, size: int = 5, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {agent: rng.normal(size=size).astype(np.float32) for agent in agents}


def stack(observations: dict[str, Any]) -> torch.Tensor:
    return torch.from_numpy(np.stack(list(observations.values())))
