"""Evaluate on many copies of an environment at once, without favouring short episodes.

Letters: `E` environments, `N` agents of a group, `O` observation, `A` action.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hypermarl.errors import UserError
from hypermarl.evaluation.metrics import Episodes

Act = Callable[[Any, Tensor], dict[str, Tensor]]
"""(view, fresh) -> actions by group. `fresh [E]` marks environments at the first step of an episode, where a policy
with memory forgets; the view has `observation`, `mask` and `alive` by group."""


def quotas(episodes: int, num_envs: int) -> Tensor:
    """How many episodes each environment contributes, `[E]`: equally many, the first few one more.

    Fixed before the first step. Taking episodes in the order in which they *finish* would favour short ones.
    """
    if episodes < 1:
        raise UserError(f"An evaluation needs at least one episode, not {episodes}.")
    index = torch.arange(num_envs)
    return episodes // num_envs + (index < episodes % num_envs).long()


@torch.no_grad()
def evaluate(env: Any, act: Act, episodes: int, seed: int, *, longest: int = 100_000) -> Episodes:
    """Play `episodes` whole episodes on a vectorised environment, reset with `seed`.

    The first episodes of each environment count, as many as its quota says; what it plays after that is not looked at.
    Episodes come back ordered by their turn, then by environment. An episode of more than `longest` steps is taken
    for one that never ends, and refused.
    """
    quota = quotas(episodes, env.num_envs).to(env.device)
    names = tuple(agent for group in env.groups.values() for agent in group.agents)
    view = env.reset(seed)
    running = torch.zeros(env.num_envs, len(names), dtype=torch.float64, device=env.device)
    acted = torch.zeros(env.num_envs, len(names), dtype=torch.int64, device=env.device)
    length = torch.zeros(env.num_envs, dtype=torch.int64, device=env.device)
    turn = torch.zeros_like(length)
    fresh = torch.ones(env.num_envs, dtype=torch.bool, device=env.device)
    finished: list[tuple[Tensor, ...]] = []
    while bool((turn < quota).any()):
        alive = _alive(env, view)
        step = env.step(act(view, fresh))
        # An agent that dies in this step still earns this step's reward, so the mask is the one it acted under.
        running += torch.cat([step.reward[group] for group in env.groups], dim=1).double() * alive
        acted += alive
        length += 1
        rows = torch.nonzero(step.done & (turn < quota)).squeeze(1)
        if len(rows):
            finished.append((turn[rows], rows, length[rows], acted[rows], running[rows]))
        elif bool(((length >= longest) & (turn < quota)).any()):
            raise UserError(f"An episode did not end within {longest} steps; set env.max_steps.")
        turn += step.done.long()
        keep = ~step.done
        length *= keep
        acted *= keep[:, None]
        running = torch.where(keep[:, None], running, 0.0)  # not a product: 0 * nan is nan
        fresh, view = step.done, step.view
    return _collect(finished, names, {name: group.agents for name, group in env.groups.items()})


def _alive(env: Any, view: Any) -> Tensor:
    """Who acts now, `[E, all agents]` bool; a group that is not mentioned never loses an agent."""
    parts = []
    for name, group in env.groups.items():
        alive = view.alive.get(name)
        parts.append(
            torch.ones(env.num_envs, len(group.agents), dtype=torch.bool, device=env.device) if alive is None else alive
        )
    return torch.cat(parts, dim=1)


def _collect(
    finished: list[tuple[Tensor, ...]], names: tuple[str, ...], groups: dict[str, tuple[str, ...]]
) -> Episodes:
    turn, rows, length, acted, running = (torch.cat(part).cpu().numpy() for part in zip(*finished, strict=True))
    order = np.lexsort((rows, turn))
    return Episodes(
        agents=names,
        returns=running[order],
        lengths=length[order],
        alive=acted[order],
        environment=rows[order],
        groups=groups,
    )
