"""One PettingZoo environment as its vectorised form shows it: flat observations, masks in the infos, a clock.

Letters: `O` observation, `A` action.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv

from .bridge import Infos, Observations, Transition, advance, begin, fault, survey
from .interface import Discrete, EnvironmentFault, Group
from .spaces import Misfit, is_masked


class FlatParallel(ParallelEnv):  # type: ignore[misc]
    """What policies trained on the vectorised form expect: float32 `[O]` seen, actions numbered from 0 or a row `[A]`.

    Where the environment gives masks in a Dict observation so does this one; `infos[agent]["action_mask"]` has them in
    any case. After `max_steps` all who are alive are truncated.
    """

    def __init__(self, env: Any, name: str, *, max_steps: int | None = None, render_mode: str | None = None) -> None:
        form = survey(env, name)
        self.env, self.name, self.max_steps, self.render_mode = env, name, max_steps, render_mode
        self.metadata = getattr(env, "metadata", {})
        self.possible_agents: list[str] = list(env.possible_agents)
        self.agents: list[str] = []
        self.groups = form.groups
        self._group = {agent: group for group in form.groups.values() for agent in group.agents}
        self._nested = {agent: is_masked(env.observation_space(agent)) for agent in self.possible_agents}
        self._write = {agent: form.observations[agent].writer() for agent in self.possible_agents}
        self._read = {agent: form.actions[agent].reader() for agent in self.possible_agents}
        self.observation_spaces = {
            agent: _observation_space(self._group[agent], self._nested[agent]) for agent in self.possible_agents
        }
        self.action_spaces = {agent: _action_space(self._group[agent]) for agent in self.possible_agents}
        self._length = 0

    def observation_space(self, agent: str) -> Any:
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> Any:
        return self.action_spaces[agent]

    @property
    def unwrapped(self) -> Any:
        return self.env.unwrapped

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observations, Infos]:
        observations, infos = begin(self.env, self.name, seed, options)
        self._length = 0
        self.agents = list(self.env.agents)
        return self._see(self.agents, observations, infos), self._tell(self.agents, observations, infos)

    def step(self, actions: Mapping[str, Any]) -> Transition:
        if not self.agents:
            return {}, {}, {}, {}, {}
        before = self.agents
        chosen = {agent: self._choice(agent, actions) for agent in before}
        observations, rewards, ends, cuts, infos = advance(self.env, self.name, chosen)
        self._length += 1
        late = self.max_steps is not None and self._length >= self.max_steps
        self.agents = [] if late else list(self.env.agents)
        told = before + [agent for agent in self.agents if agent not in before]
        over = {agent: bool(ends.get(agent, False)) for agent in told}
        cut = {agent: (bool(cuts.get(agent, False)) or late) and not over[agent] for agent in told}
        seen = [agent for agent in told if agent in observations or agent in self.agents]
        earned = {agent: self._reward(agent, rewards) for agent in told}
        return self._see(seen, observations, infos), earned, over, cut, self._tell(told, observations, infos)

    def render(self) -> Any:
        return self.env.render()

    def state(self) -> np.ndarray:
        return np.asarray(self.env.state())

    def close(self) -> None:
        self.env.close()

    def _choice(self, agent: str, actions: Mapping[str, Any]) -> Any:
        if agent not in actions:
            raise fault(self.name, f"was given no action for agent {agent!r}")
        action, chosen = self._group[agent].action, actions[agent]
        try:
            if isinstance(action, Discrete) and not 0 <= int(chosen) < action.n:
                raise ValueError
            return self._read[agent](chosen)
        except (TypeError, ValueError) as error:
            raise fault(self.name, f"{chosen!r} is no action of agent {agent!r}, whose actions are {action}") from error

    def _reward(self, agent: str, rewards: Mapping[str, Any]) -> float:
        try:
            reward = float(rewards.get(agent, 0.0))
        except (TypeError, ValueError) as error:
            raise fault(self.name, f"the reward of agent {agent!r} is no number but {rewards[agent]!r}") from error
        if not np.isfinite(reward):
            raise fault(self.name, f"the reward of agent {agent!r} is {reward}")
        return reward

    def _see(self, agents: list[str], observations: Observations, infos: Infos) -> Observations:
        seen: Observations = {}
        for agent in agents:
            row = np.zeros(self._group[agent].observation, np.float32)
            try:
                given = observations[agent]["observation"] if self._nested[agent] else observations[agent]
                self._write[agent](given, row)
            except KeyError as error:
                raise fault(self.name, f"gave no observation for agent {agent!r}") from error
            except Misfit as error:
                raise fault(self.name, f"the observation of agent {agent!r} {error}") from error
            except (TypeError, ValueError) as error:
                raise fault(self.name, f"the observation of agent {agent!r} cannot be read: {error}") from error
            if not np.isfinite(row).all():
                raise fault(self.name, f"the observation of agent {agent!r} holds NaN or is infinite")
            nested = self._nested[agent]
            seen[agent] = {"observation": row, "action_mask": self._mask(agent, observations, infos)} if nested else row
        return seen

    def _tell(self, agents: list[str], observations: Observations, infos: Infos) -> Infos:
        told: Infos = {}
        for agent in agents:
            told[agent] = dict(infos.get(agent) or {})
            if self._group[agent].masked and (agent in observations or "action_mask" in told[agent]):
                told[agent]["action_mask"] = self._mask(agent, observations, infos)
        return told

    def _mask(self, agent: str, observations: Observations, infos: Infos) -> np.ndarray:
        try:
            given = (observations[agent] if self._nested[agent] else infos[agent])["action_mask"]
        except (KeyError, TypeError) as error:
            raise fault(self.name, f"gave no action mask for agent {agent!r}") from error
        return np.asarray(given).astype(np.int8).reshape(-1)


def flattened(env: Any, name: str, *, max_steps: int | None, render_mode: str | None) -> FlatParallel:
    """`FlatParallel`, if the environment can be drawn as asked."""
    modes = getattr(env, "metadata", {}).get("render_modes", [])
    if render_mode is not None and render_mode not in modes:
        words = ", ".join(map(repr, modes)) or "no way to"
        raise EnvironmentFault(f"Environment {name!r} cannot render as {render_mode!r}; its metadata say {words}.")
    return FlatParallel(env, name, max_steps=max_steps, render_mode=render_mode)


def _observation_space(group: Group, nested: bool) -> Any:
    seen = spaces.Box(-np.inf, np.inf, (group.observation,), np.float32)
    if not nested:
        return seen
    return spaces.Dict({"observation": seen, "action_mask": spaces.Box(0, 1, (group.action.size,), np.int8)})


def _action_space(group: Group) -> Any:
    if isinstance(group.action, Discrete):
        return spaces.Discrete(group.action.n)
    low, high = (np.array(edge, np.float32) for edge in (group.action.low, group.action.high))
    return spaces.Box(low, high, dtype=np.float32)
