"""What a team of uniformly random actions gets: the floor of every learning claim.

    python experiments/random_team.py ENV [EPISODES]

ENV as on the command line, for instance vmas/navigation_4_unique.
"""

from __future__ import annotations

import sys

import numpy as np
import torch

from hypermarl import config, envs
from hypermarl.envs.interface import Discrete
from hypermarl.evaluation import vectorised
from hypermarl.marl.settings import ExperimentConfig

if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    episodes = int(sys.argv[2]) if len(sys.argv) > 2 else 256
    settings = config.build(ExperimentConfig, config.compose([f"env={sys.argv[1]}"], envs.parse)).env
    env = envs.make(
        settings.kind, settings.name, num_envs=64, max_steps=settings.max_steps, options=dict(settings.options)
    )
    rng = torch.Generator().manual_seed(0)

    def act(view: object, fresh: torch.Tensor) -> dict[str, torch.Tensor]:
        actions = {}
        for name, group in env.groups.items():
            shape = (env.num_envs, len(group.agents))
            if isinstance(group.action, Discrete):
                actions[name] = torch.randint(group.action.n, shape, generator=rng)
            else:
                low, high = torch.tensor(group.action.low), torch.tensor(group.action.high)
                actions[name] = low + (high - low) * torch.rand(*shape, len(low), generator=rng)
        return actions

    played = vectorised.evaluate(env, act, episodes, 10_000)
    team = played.team
    margin = 1.96 * team.std() / np.sqrt(len(team))
    print(f"{sys.argv[1]} random: return {team.mean():.3f} +- {margin:.3f}, {len(team)} episodes")
