"""Blind-Particle Spread: every agent seeks the landmark of its colour, and no agent sees any colour.

Sources: Christianos, Papoudakis, Rahman, Albrecht, "Scaling Multi-Agent Reinforcement Learning with Selective Parameter
Sharing", arXiv 2102.07475 (the task, 50 steps); Tessera and others, "HyperMARL", arXiv 2412.04233 (sizes of BPS-1 to
BPS-4). Physics as in the particle environments of that time, where velocity is updated before position; PettingZoo
turned the two about in 2023 (its pull request 965). Nothing collides.

Letters: `E` environments, `N` agents, `G` colours, `O` observation = 4 + 2 G.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .chance import row_keys, uniform
from .interface import Discrete, EnvironmentFault, Group, Step, View
from .options import nearest, read_options, whole_number

GROUP = "agents"
STEPS = 50
TIME, DAMPING, FORCE, LOCAL = 0.1, 0.25, 5.0, 0.5  # the last is the weight of an agent's own reward
AGENTS_WITHIN, LANDMARKS_WITHIN = 1.0, 3.0
PUSHES = ((0.0, 0.0), (-1.0, 0.0), (1.0, 0.0), (0.0, -1.0), (0.0, 1.0))  # stay, left, right, down, up

SCENARIOS: dict[str, tuple[int, ...]] = {
    "bps_1": (5, 5, 5),
    "bps_2": (10, 10, 10),
    "bps_3": (6, 6, 6, 6, 6),
    "bps_4": (2, 2, 2, 15, 9),
}

CATALOGUE: dict[str, str] = {
    name: f"{sum(sizes)} agents in {len(sizes)} colours that they do not see ({'-'.join(map(str, sizes))})"
    for name, sizes in SCENARIOS.items()
}


@dataclass(frozen=True)
class SpreadOptions:
    """`groups`: agents of each colour, instead of the scenario's; `n_agents`: as many, dealt evenly to the colours."""

    groups: tuple[int, ...] | None = None
    n_agents: int | None = None

    def __post_init__(self) -> None:
        if self.n_agents is not None:
            whole_number("n_agents", self.n_agents, 1)
        if self.groups is None:
            return
        given: object = self.groups  # from a user's text: any type at all
        if not isinstance(given, (tuple, list)) or not given:
            raise ValueError(f"option 'groups' must be a list of sizes, not {self.groups!r}.")
        for size in self.groups:
            whole_number("groups", size, 1)
        if self.n_agents not in (None, sum(self.groups)):
            raise ValueError(f"options disagree: groups hold {sum(self.groups)} agents, n_agents is {self.n_agents}.")

    def sizes(self, scenario: tuple[int, ...]) -> tuple[int, ...]:
        """Agents of each colour."""
        if self.groups is not None:
            return tuple(self.groups)
        if self.n_agents is None:
            return scenario
        if self.n_agents < len(scenario):
            raise ValueError(f"option 'n_agents' must be at least {len(scenario)}, one for each colour.")
        each, rest = divmod(self.n_agents, len(scenario))
        return tuple(each + (colour < rest) for colour in range(len(scenario)))


class BlindSpread:
    """E copies of Blind-Particle Spread, stepped at once on `device`.

    An agent observes its velocity (2), its position (2) and where each landmark is from it (2 G). It is paid minus half
    the distance to the landmark of its colour. Colours are dealt in order: agents 0, 1, ... have the first.
    """

    def __init__(
        self,
        sizes: tuple[int, ...],
        *,
        num_envs: int = 1,
        device: str | torch.device = "cpu",
        max_steps: int | None = None,
    ) -> None:
        self.num_envs = num_envs
        self.device = torch.device(device)
        self.max_steps = STEPS if max_steps is None else max_steps
        self.auto_reset = True
        n, colours = sum(sizes), len(sizes)
        agents = tuple(f"agent_{i}" for i in range(n))
        self.groups = {GROUP: Group(GROUP, agents, 4 + 2 * colours, Discrete(len(PUSHES)))}
        self._n, self._colours = n, colours
        self._colour = torch.repeat_interleave(torch.arange(colours), torch.tensor(sizes)).to(self.device)  # [N]
        self._agent = torch.arange(n, device=self.device)
        self._push = torch.tensor(PUSHES, device=self.device) * FORCE * TIME  # [5, 2], change of velocity; mass is 1
        self._key = row_keys(torch.Generator().seed(), num_envs, self.device)  # [E]
        self._episode = torch.zeros(num_envs, dtype=torch.int64, device=self.device)  # [E]
        self._age = torch.zeros_like(self._episode)  # [E]
        self._position = torch.zeros(num_envs, n, 2, device=self.device)
        self._velocity = torch.zeros_like(self._position)
        self._landmark = torch.zeros(num_envs, colours, 2, device=self.device)

    def reset(self, seed: int | None = None) -> View:
        if seed is not None:
            self._key = row_keys(seed, self.num_envs, self.device)
            self._episode = torch.zeros_like(self._episode)
        return self.reset_rows(torch.ones(self.num_envs, dtype=torch.bool, device=self.device))

    def reset_rows(self, rows: Tensor) -> View:
        fresh = uniform(self._key, self._episode, 2 * (self._n + self._colours)).reshape(self.num_envs, -1, 2) * 2 - 1
        which = rows[:, None, None]
        self._position = torch.where(which, fresh[:, : self._n] * AGENTS_WITHIN, self._position)
        self._landmark = torch.where(which, fresh[:, self._n :] * LANDMARKS_WITHIN, self._landmark)
        self._velocity = self._velocity.masked_fill(which, 0.0)
        self._age = self._age.masked_fill(rows, 0)
        self._episode = self._episode + rows
        return self._view(self._offset())

    def step(self, actions: dict[str, Tensor]) -> Step:
        self._velocity = self._velocity * (1 - DAMPING) + self._push[actions[GROUP]]
        self._position = self._position + self._velocity * TIME
        self._age = self._age + 1
        offset = self._offset()
        reward = -LOCAL * offset[:, self._agent, self._colour].norm(dim=-1)
        done = self._age >= self.max_steps
        last = self._view(offset)
        view = self.reset_rows(done) if self.auto_reset and bool(done.any()) else last
        late = done[:, None].expand(reward.shape)
        return Step(
            view=view,
            reward={GROUP: reward},
            terminated={GROUP: torch.zeros_like(late)},
            truncated={GROUP: late},
            final=last.observation,
            done=done,
        )

    def state_dict(self) -> dict[str, Tensor] | None:
        return {name: getattr(self, f"_{name}").clone() for name in self._STATE}

    def load_state_dict(self, state: dict[str, Tensor]) -> View:
        for name in self._STATE:
            setattr(self, f"_{name}", state[name].to(self.device, copy=True))
        return self._view(self._offset())

    def render(self) -> np.ndarray:
        from .drawing import particles

        rows = (self._position[0], self._landmark[0], self._colour)
        position, landmark, colour = (each.cpu().numpy() for each in rows)
        return particles(position, landmark, colour, LANDMARKS_WITHIN, played=int(self._age[0]), steps=self.max_steps)

    def close(self) -> None:
        """Nothing is held open."""

    _STATE = ("position", "velocity", "landmark", "age", "key", "episode")

    def _offset(self) -> Tensor:
        return self._landmark[:, None] - self._position[:, :, None]  # [E, N, G, 2]

    def _view(self, offset: Tensor) -> View:
        return View({GROUP: torch.cat([self._velocity, self._position, offset.flatten(2)], dim=-1)})


def make(
    name: str,
    *,
    num_envs: int = 1,
    device: str | torch.device = "cpu",
    max_steps: int | None = None,
    workers: int = 1,
    options: Mapping[str, Any] | None = None,
) -> BlindSpread:
    """The scenario `name`, one of `CATALOGUE`; `workers` has no effect, since all copies are one tensor."""
    env = f"spread/{name}"
    if name not in SCENARIOS:
        raise EnvironmentFault(f"Environment {env!r} does not exist; {nearest(name, SCENARIOS)}")
    try:
        sizes = read_options(SpreadOptions, options or {}, env).sizes(SCENARIOS[name])
    except EnvironmentFault:
        raise
    except ValueError as error:
        raise EnvironmentFault(f"Environment {env!r}: {error}") from error
    return BlindSpread(sizes, num_envs=num_envs, device=device, max_steps=max_steps)
