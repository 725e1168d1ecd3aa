"""Random play of PettingZoo environments behind the vector interface, and what is equal of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hypermarl.envs.interface import Discrete, Step, VectorEnv

TOY = "pettingzoo_toys:Pistons"
SPREAD = "mpe2.simple_spread_v3"


def chosen(env: VectorEnv, rng: torch.Generator, view: Any = None) -> dict[str, Tensor]:
    """Random actions; legal ones where a view has masks. Boxes are overstepped, to see them clipped."""
    actions = {}
    for name, group in env.groups.items():
        shape = (env.num_envs, len(group.agents))
        if isinstance(group.action, Discrete):
            weights = torch.ones(*shape, group.action.n)
            if view is not None and group.masked:
                weights = view.mask[name].float()
            actions[name] = torch.multinomial(weights.flatten(0, 1), 1, generator=rng).reshape(shape)
        else:
            actions[name] = torch.randn(*shape, group.action.size, generator=rng) * 2
    return actions


def trajectory(env: VectorEnv, steps: int, seed: int = 5) -> list[Step]:
    rng = torch.Generator().manual_seed(seed)
    view = env.reset(seed)
    made = []
    for _ in range(steps):
        made.append(env.step(chosen(env, rng, view)))
        view = made[-1].view
    return made


def same(one: Step, other: Step) -> bool:
    def equal(a: Any, b: Any) -> bool:
        return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)

    return (
        equal(one.view.observation, other.view.observation)
        and equal(one.view.mask, other.view.mask)
        and equal(one.view.alive, other.view.alive)
        and equal(one.reward, other.reward)
        and equal(one.terminated, other.terminated)
        and equal(one.truncated, other.truncated)
        and equal(one.final, other.final)
        and torch.equal(one.done, other.done)
    )
