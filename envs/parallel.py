"""Any `VectorEnv` of one environment as a PettingZoo `ParallelEnv`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Box, Space
from gymnasium.spaces import Discrete as DiscreteSpace
from pettingzoo import ParallelEnv
from torch import Tensor

from .interface import Discrete, EnvironmentFault, Group, Step, VectorEnv, View
from .options import nearest


class ParallelView(ParallelEnv[str, np.ndarray, Any]):  # type: ignore[misc]
    """`env`, which holds one environment, as dictionaries by agent; it takes the environment over.

    Where a group is masked, `infos[agent]["action_mask"]` is int8 `[A]`, as `Discrete.sample` wants it. An agent that
    has ended, be it terminated or cut off, is reported once more and then leaves `agents`.
    """

    def __init__(self, env: VectorEnv, *, name: str = "hypermarl", render_mode: str | None = None) -> None:
        if env.num_envs != 1:
            raise EnvironmentFault(f"Environment {name!r}: a ParallelEnv is one environment, not {env.num_envs}.")
        if render_mode not in (None, "rgb_array"):
            raise EnvironmentFault(f"Environment {name!r} cannot render as {render_mode!r}; there is 'rgb_array'.")
        env.auto_reset = False  # a ParallelEnv is reset by its user
        self.vector = env
        self.render_mode = render_mode
        self.metadata = {"name": name, "render_modes": ["rgb_array"], "is_parallelizable": True}
        self.possible_agents = [agent for group in env.groups.values() for agent in group.agents]
        self.agents: list[str] = []
        self._place = {agent: (group, i) for group in env.groups.values() for i, agent in enumerate(group.agents)}
        self.observation_spaces = {agent: _observation_space(group) for agent, (group, _) in self._place.items()}
        self.action_spaces = {agent: _action_space(group) for agent, (group, _) in self._place.items()}
        self._view: View | None = None
        self._gone: set[str] = set()

    def observation_space(self, agent: str) -> Space[Any]:
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> Space[Any]:
        return self.action_spaces[agent]

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, dict[str, Any]]]:
        view = self._view = self.vector.reset(None if seed is None else int(seed))
        self._gone = set()
        self.agents = self._present(view)
        return self._observations(view, self.agents), self._infos(view, self.agents)

    def step(
        self, actions: Mapping[str, Any]
    ) -> tuple[dict[str, np.ndarray], dict[str, float], dict[str, bool], dict[str, bool], dict[str, dict[str, Any]]]:
        if self._view is None:
            raise EnvironmentFault(f"Environment {self.metadata['name']!r} must be reset before its first step.")
        if not self.agents:
            return {}, {}, {}, {}, {}
        acting = self.agents
        step = self.vector.step(self._gather(actions))
        view = self._view = step.view
        terminated, truncated = self._endings(step, acting)
        reward = {name: each[0].tolist() for name, each in step.reward.items()}
        rewards = {agent: reward[group.name][i] for agent, group, i in self._places(acting)}
        self._gone |= {agent for agent in acting if terminated[agent] or truncated[agent]}
        self.agents = self._present(view)
        reported = acting + [agent for agent in self.agents if agent not in acting]
        return (
            self._observations(view, reported),
            rewards | dict.fromkeys(reported[len(acting) :], 0.0),
            terminated | dict.fromkeys(reported[len(acting) :], False),
            truncated | dict.fromkeys(reported[len(acting) :], False),
            self._infos(view, reported),
        )

    def state(self) -> np.ndarray:
        """What all agents observe, one after another: float32 `[sum of O]`."""
        if self._view is None:
            raise EnvironmentFault(f"Environment {self.metadata['name']!r} must be reset before it has a state.")
        parts = [self._view.observation[name][0].flatten() for name in self.vector.groups]
        return np.array(torch.cat(parts).cpu().numpy(), dtype=np.float32)

    def render(self) -> np.ndarray | None:
        return self.vector.render() if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        self.vector.close()

    def _places(self, agents: list[str]) -> list[tuple[str, Group, int]]:
        return [(agent, *self._place[agent]) for agent in agents]

    def _present(self, view: View) -> list[str]:
        alive = {name: each[0].tolist() for name, each in view.alive.items()}
        return [
            agent
            for agent, group, i in self._places(self.possible_agents)
            if agent not in self._gone and (group.name not in alive or alive[group.name][i])
        ]

    def _endings(self, step: Step, acting: list[str]) -> tuple[dict[str, bool], dict[str, bool]]:
        terminated, truncated, alive = (
            {name: each[0].tolist() for name, each in flags.items()}
            for flags in (step.terminated, step.truncated, step.view.alive)
        )
        done = bool(step.done[0])
        ended, late = {}, {}
        for agent, group, i in self._places(acting):
            name = group.name
            lost = name in alive and not alive[name][i]
            late[agent] = truncated[name][i]
            ended[agent] = terminated[name][i] or (lost and not late[agent])
            late[agent] = late[agent] or (done and not ended[agent])
        return ended, late

    def _gather(self, actions: Mapping[str, Any]) -> dict[str, Tensor]:
        name = self.metadata["name"]
        for agent in actions:
            if agent not in self._place:
                raise EnvironmentFault(f"Environment {name!r} has no agent {agent!r}; {nearest(agent, self._place)}")
        gathered = {each.name: _still(each) for each in self.vector.groups.values()}
        for agent, group, i in self._places(self.agents):
            if agent not in actions:
                raise EnvironmentFault(f"Environment {name!r} was given no action for agent {agent!r}.")
            if not _fits(actions[agent], group):
                raise EnvironmentFault(
                    f"Environment {name!r}: {actions[agent]!r} is no action of agent {agent!r}, "
                    f"whose actions are {self.action_spaces[agent]}."
                )
            gathered[group.name][0, i] = actions[agent]
        return {group: torch.from_numpy(each).to(self.vector.device) for group, each in gathered.items()}

    def _observations(self, view: View, agents: list[str]) -> dict[str, np.ndarray]:
        arrays = {name: each[0].cpu().numpy() for name, each in view.observation.items()}
        return {agent: np.array(arrays[group.name][i], dtype=np.float32) for agent, group, i in self._places(agents)}

    def _infos(self, view: View, agents: list[str]) -> dict[str, dict[str, Any]]:
        masks = {name: each[0].cpu().numpy().astype(np.int8) for name, each in view.mask.items()}
        return {
            agent: {"action_mask": masks[group.name][i].copy()} if group.masked else {}
            for agent, group, i in self._places(agents)
        }


def _observation_space(group: Group) -> Space[Any]:
    return Box(-np.inf, np.inf, (group.observation,), np.float32)


def _action_space(group: Group) -> Space[Any]:
    if isinstance(group.action, Discrete):
        return DiscreteSpace(group.action.n)
    low, high = (np.array(edge, dtype=np.float32) for edge in (group.action.low, group.action.high))
    return Box(low, high, dtype=np.float32)


def _still(group: Group) -> np.ndarray:
    """Actions for agents that are not there: `[1, N]` or `[1, N, A]`."""
    n = len(group.agents)
    if isinstance(group.action, Discrete):
        return np.zeros((1, n), dtype=np.int64)
    return np.zeros((1, n, group.action.size), dtype=np.float32)


def _fits(action: Any, group: Group) -> bool:
    if isinstance(group.action, Discrete):
        whole = np.asarray(action)
        return whole.size == 1 and whole.dtype.kind in "iu" and 0 <= int(whole.item()) < group.action.n
    numbers = np.asarray(action)
    return numbers.shape == (group.action.size,) and bool(np.isfinite(numbers.astype(np.float64)).all())
