"""AEC environments in parallel form: those whose agents move together, and turn-based games to be evaluated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv
from pettingzoo.utils import wrappers
from pettingzoo.utils.conversions import aec_to_parallel_wrapper, parallel_to_aec_wrapper

from .bridge import Infos, Observations, Transition, fault
from .spaces import is_masked

# These change neither rewards nor observations, and what they check is checked by whoever steps here.
_GUARDS = (wrappers.OrderEnforcingWrapper, wrappers.AssertOutOfBoundsWrapper, wrappers.ClipOutOfBoundsWrapper)


class Cycle:
    """A parallelizable AEC environment, stepped one cycle at a time; what PettingZoo's own conversion gives, faster.

    It does not ask for observations that nobody reads (`last()` at every turn), and steps inside wrappers that only
    check.
    """

    def __init__(self, aec: Any, name: str) -> None:
        self.outer, self.name = aec, name
        while type(aec) in _GUARDS:
            aec = aec.env
        self.aec = aec
        self.possible_agents: list[str] = list(aec.possible_agents)
        self.metadata = getattr(aec, "metadata", {})
        self.agents: list[str] = []
        self.observation_space = aec.observation_space
        self.action_space = aec.action_space

    @property
    def unwrapped(self) -> Any:
        return self.outer.unwrapped

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observations, Infos]:
        self.outer.reset(seed=seed, options=options)
        aec = self.aec
        self.agents = aec.agents[:]
        living = [agent for agent in aec.agents if not (aec.terminations[agent] or aec.truncations[agent])]
        return {agent: aec.observe(agent) for agent in living}, dict(aec.infos)

    def step(self, actions: Mapping[str, Any]) -> Transition:
        aec = self.aec
        rewards: dict[str, Any] = dict.fromkeys(self.agents, 0)
        for agent in self.agents:
            if agent != aec.agent_selection:
                raise fault(
                    self.name,
                    f"calls itself parallelizable, but it is the turn of {aec.agent_selection!r} when that of "
                    f"{agent!r} should come; agents must act in a fixed cycle and end only after the last of them",
                )
            aec.step(actions[agent])
            earned = aec.rewards
            for each in aec.agents:
                rewards[each] += earned[each]
        terminations, truncations, infos = dict(aec.terminations), dict(aec.truncations), dict(aec.infos)
        observations = {agent: aec.observe(agent) for agent in aec.agents}
        if any(terminations.values()) or any(truncations.values()):
            _let_the_dead_leave(aec)
            self.agents = aec.agents[:]
        return observations, rewards, terminations, truncations, infos

    def state(self) -> Any:
        return self.outer.state()

    def render(self) -> Any:
        return self.outer.render()

    def close(self) -> None:
        self.outer.close()


class TurnBased(ParallelEnv):  # type: ignore[misc]
    """A turn-based game in parallel form, to be evaluated: only the agent to move has a choice.

    The others see zeros, may do one thing, and what they do is ignored.
    """

    def __init__(self, aec: Any, name: str) -> None:
        self.aec, self.name = aec, name
        self.possible_agents = list(aec.possible_agents)
        self.metadata = getattr(aec, "metadata", {})
        self.render_mode = getattr(aec, "render_mode", None)
        self.agents: list[str] = []
        self._spaces = {agent: self._with_mask(agent) for agent in self.possible_agents}

    def observation_space(self, agent: str) -> Any:
        return self._spaces[agent]

    def action_space(self, agent: str) -> Any:
        return self.aec.action_space(agent)

    @property
    def unwrapped(self) -> Any:
        return self.aec.unwrapped

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Observations, Infos]:
        self.aec.reset(seed=seed, options=options)
        _let_the_dead_leave(self.aec)
        self.agents = self._living()
        return self._see(self.agents), self._infos(self.agents)

    def step(self, actions: Mapping[str, Any]) -> Transition:
        aec, before = self.aec, self.agents
        if aec.agent_selection not in actions:
            raise fault(self.name, f"it is the turn of {aec.agent_selection!r}, who was given no action")
        aec.step(actions[aec.agent_selection])
        rewards = {agent: aec.rewards.get(agent, 0) for agent in before}
        ended, cut = (
            {agent: bool(flags.get(agent, False)) for agent in before} for flags in (aec.terminations, aec.truncations)
        )
        _let_the_dead_leave(aec)
        self.agents = self._living()
        return self._see(before), rewards, ended, cut, self._infos(before)

    def render(self) -> Any:
        return self.aec.render()

    def close(self) -> None:
        self.aec.close()

    def _with_mask(self, agent: str) -> Any:
        space, action = self.aec.observation_space(agent), self.aec.action_space(agent)
        if is_masked(space) or not isinstance(action, spaces.Discrete):
            return space
        return spaces.Dict({"observation": space, "action_mask": spaces.Box(0, 1, (int(action.n),), np.int8)})

    def _living(self) -> list[str]:
        aec = self.aec
        return [agent for agent in aec.agents if not (aec.terminations[agent] or aec.truncations[agent])]

    def _see(self, agents: list[str]) -> Observations:
        mover = self.aec.agent_selection if self.agents else None
        return {agent: self._observe(agent) if agent == mover else _nothing(self._spaces[agent]) for agent in agents}

    def _observe(self, agent: str) -> Any:
        seen, space = self.aec.observe(agent), self._spaces[agent]
        if not is_masked(space) or is_masked(self.aec.observation_space(agent)):
            return seen
        mask = self.aec.infos.get(agent, {}).get("action_mask")
        everything = np.ones(space["action_mask"].shape, np.int8)
        return {"observation": seen, "action_mask": everything if mask is None else np.asarray(mask, np.int8)}

    def _infos(self, agents: list[str]) -> Infos:
        return {agent: dict(self.aec.infos.get(agent, {})) for agent in agents}


def _nothing(space: Any) -> Any:
    if isinstance(space, spaces.Discrete):
        return int(space.start)
    if not is_masked(space):
        return np.zeros(space.shape, space.dtype)
    mask = np.zeros(space["action_mask"].shape, space["action_mask"].dtype)
    mask[0] = 1
    return {"observation": _nothing(space["observation"]), "action_mask": mask}


def _let_the_dead_leave(aec: Any) -> None:
    while aec.agents and (aec.terminations[aec.agent_selection] or aec.truncations[aec.agent_selection]):
        aec.step(None)


def as_parallel(env: Any, name: str) -> Any:
    """`env` in parallel form: as it is, as a `Cycle`, or as a `TurnBased` game where agents do not move together."""
    if type(env) is aec_to_parallel_wrapper:
        return Cycle(env.aec_env, name)
    if not hasattr(env, "agent_iter"):
        return env
    if isinstance(env, wrappers.OrderEnforcingWrapper) and isinstance(env.env, parallel_to_aec_wrapper):
        return env.env.env
    return Cycle(env, name) if getattr(env, "metadata", {}).get("is_parallelizable", False) else TurnBased(env, name)
