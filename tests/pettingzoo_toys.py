"""Small PettingZoo environments for tests, good and bad; workers import them by name from here."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import numpy as np
from gymnasium import Env, spaces
from pettingzoo import AECEnv, ParallelEnv


class Pistons(ParallelEnv):
    """Agents in a row, each of which lives for a number of steps that the seed decides; `fault` spoils step `at`.

    `see`: what is observed ("numbers", "image", "choice"); `act`: "discrete", "shifted" (from 3), "box"; `mask`: "no",
    "observation" or "info". The observation tells the agent's number, the step, the last action and noise.
    """

    metadata = {"name": "pistons", "render_modes": ["rgb_array"]}

    def __init__(
        self,
        n: int = 3,
        *,
        see: str = "numbers",
        act: str = "discrete",
        mask: str = "no",
        longest: int = 9,
        truncate: bool = False,
        fault: str = "",
        at: int = 3,
        render_mode: str | None = None,
    ) -> None:
        self.see, self.act, self.mask, self.longest, self.truncate = see, act, mask, longest, truncate
        self.fault, self.at, self.render_mode = fault, at, render_mode
        if fault == "making":
            raise ZeroDivisionError("no pistons")
        self.possible_agents = [f"piston_{i}" for i in range(n)] if fault != "nobody" else []
        seen: Any = {
            "numbers": spaces.Box(-100.0, 100.0, (2, 2), np.float64),
            "image": spaces.Box(0, 255, (2, 2), np.uint8),
            "choice": spaces.Discrete(20, start=-1),
        }[see]
        if fault == "dict space":
            seen = spaces.Dict({"left": seen, "right": seen})
        if mask == "observation":
            seen = spaces.Dict({"observation": seen, "action_mask": spaces.Box(0, 1, (4,), np.int8)})
        done: Any = {
            "discrete": spaces.Discrete(4),
            "shifted": spaces.Discrete(4, start=3),
            "box": spaces.Box(np.array([[-1.0], [-2.0]]), np.array([[1.0], [3.0]]), (2, 1), np.float64),
        }[act]
        if fault == "multidiscrete":
            done = spaces.MultiDiscrete([2, 3])
        self._seen = {agent: seen for agent in self.possible_agents}
        self._done = {agent: done for agent in self.possible_agents}
        self.rng = np.random.default_rng(0)
        self.actions: list[dict[str, Any]] = []

    def observation_space(self, agent: str) -> Any:
        return self._seen[agent]

    def action_space(self, agent: str) -> Any:
        return self._done[agent]

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        if seed is not None:
            self.rng = np.random.default_rng(seed)
        if self.fault == "raise in reset":
            raise KeyError("seed")
        self.t, self.actions = 0, []
        self.agents = self.possible_agents[:]
        self.ends = {agent: int(self.rng.integers(2, self.longest)) for agent in self.agents}
        self.last = dict.fromkeys(self.agents, 0.0)
        if self.fault == "reset answer":
            return self._observe()
        if self.fault in ("late", "swap"):
            self.agents = self.agents[:-1]
        seen, infos = self._observe(), self._infos()
        if self.fault == "stranger":
            self.agents = [*self.agents, "ghost"]
        return seen, infos

    def step(self, actions: dict[str, Any]) -> Any:
        assert set(actions) == set(self.agents), (actions, self.agents)
        self.actions.append(actions)
        self.t += 1
        bad = self.fault if self.t == self.at else ""
        if bad == "raise":
            raise RuntimeError("the piston\nis stuck.")
        if bad == "exit":
            os._exit(7)
        if bad == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        for agent, action in actions.items():
            self.last[agent] = float(np.sum(action))
        if bad in ("late", "swap"):
            self.agents = [*self.agents, self.possible_agents[-1]]
        observations = self._observe()
        rewards: dict[str, Any] = {agent: self.last[agent] + self.rng.normal() for agent in self.agents}
        ends = {agent: self.t >= self.ends[agent] and not self.truncate for agent in self.agents}
        cuts = {agent: self.t >= self.ends[agent] and self.truncate for agent in self.agents}
        infos = self._infos()
        first = self.agents[0] if self.agents else ""
        if bad == "nan reward":
            rewards[first] = float("nan")
        elif bad == "word reward":
            rewards[first] = "much"
        elif bad == "infinite observation":
            observations[first] = np.full((2, 2), np.inf)
        elif bad == "nan observation":
            observations[first] = np.full((2, 2), np.nan)
        elif bad == "shape":
            observations[first] = np.zeros((3, 2))
        elif bad == "words":
            observations[first] = np.full((2, 2), "a")
        elif bad == "ragged":
            observations[first] = [[1.0], [2.0, 3.0]]
        elif bad == "float image":
            observations[first] = np.zeros((2, 2), np.float32)
        elif bad == "choice":
            observations[first] = 19
        elif bad in ("no reward", "no observation", "no termination", "no truncation"):
            lost: Any = {
                "no reward": rewards,
                "no observation": observations,
                "no termination": ends,
                "no truncation": cuts,
            }
            del lost[bad][first]
        elif bad == "array flags":
            ends[first] = np.array([True, False])  # type: ignore[assignment]
        elif bad == "four answers":
            return observations, rewards, ends, infos
        elif bad == "no mask":
            infos[first] = {}
        elif bad == "mask shape":
            infos[first] = {"action_mask": np.ones(5, np.int8)}
        elif bad == "empty mask":
            infos[first] = {"action_mask": np.zeros(4, np.int8)}
        before = self.agents
        self.agents = [agent for agent in before if self.t < self.ends[agent]]
        if bad in ("vanish", "swap"):
            self.agents = self.agents[1:]
        if self.fault == "lingering":
            self.agents = before
        if bad == "revive":
            self.agents = self.possible_agents[:]
        return observations, rewards, ends, cuts, infos

    def render(self) -> Any:
        picture = np.zeros((8, 8, 3), np.uint8)
        picture[: min(self.t, 8)] = 255
        return picture if self.render_mode == "rgb_array" else None

    def _observe(self) -> dict[str, Any]:
        seen: dict[str, Any] = {}
        for i, agent in enumerate(self.agents):
            noise = float(np.random.normal()) if self.fault == "unseeded" else float(self.rng.normal())
            if self.see == "numbers":
                seen[agent] = np.array([[i, self.t], [self.last[agent], noise]])
            elif self.see == "image":
                seen[agent] = np.array([[i, self.t], [51, 255]], np.uint8)
            else:
                seen[agent] = self.t - 1
            if self.mask == "observation":
                seen[agent] = {"observation": seen[agent], "action_mask": self._mask(agent)}
        return seen

    def _infos(self) -> dict[str, Any]:
        return {agent: {"action_mask": self._mask(agent)} if self.mask == "info" else {} for agent in self.agents}

    def _mask(self, agent: str) -> np.ndarray:
        mask = np.ones(4, np.int8)
        mask[(self.t + self.possible_agents.index(agent)) % 4] = 0
        return mask


class Relay(AECEnv):
    """Turn-based: whoever moves may give one of two actions, the first to have given three 1s wins; no masks."""

    metadata = {"name": "relay", "render_modes": [], "is_parallelizable": False}

    def __init__(self, *, parallelizable: bool = False) -> None:
        self.metadata = {**Relay.metadata, "is_parallelizable": parallelizable}
        self.possible_agents = ["left", "right"]
        self.render_mode = None
        self.observation_spaces = {agent: spaces.Box(0, 9, (2,), np.float32) for agent in self.possible_agents}
        self.action_spaces = {agent: spaces.Discrete(2) for agent in self.possible_agents}

    def observation_space(self, agent: str) -> Any:
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> Any:
        return self.action_spaces[agent]

    def reset(self, seed: int | None = None, options: Any = None) -> None:
        self.agents = self.possible_agents[:]
        self.score = dict.fromkeys(self.agents, 0)
        self.rewards = dict.fromkeys(self.agents, 0)
        self._cumulative_rewards = dict.fromkeys(self.agents, 0)
        self.terminations = dict.fromkeys(self.agents, False)
        self.truncations = dict.fromkeys(self.agents, False)
        self.infos = {agent: {} for agent in self.agents}
        self.agent_selection = "left"

    def observe(self, agent: str) -> Any:
        other = "right" if agent == "left" else "left"
        return np.array([self.score[agent] + 1, self.score[other] + 1], np.float32)

    def step(self, action: Any) -> None:
        agent = self.agent_selection
        if self.terminations[agent]:
            self._was_dead_step(action)
            return
        self.score[agent] += int(action)
        self._clear_rewards()
        if self.score[agent] == 3:
            self.rewards = {each: 1 if each == agent else -1 for each in self.agents}
            self.terminations = dict.fromkeys(self.agents, True)
        if agent == "left" or self.score[agent] == 3:  # the right one moves again after a 0: no fixed cycle
            self.agent_selection = "right"
        elif action:
            self.agent_selection = "left"
        self._accumulate_rewards()

    def close(self) -> None:
        pass


class Alone(Env):
    """A Gymnasium environment, which is not one of PettingZoo's."""

    observation_space = spaces.Box(0, 1, (1,))
    action_space = spaces.Discrete(2)


def nothing() -> None:
    """A factory that forgets to return what it made."""


class Shy(Pistons):
    """Breaks only away from the process `home`."""

    def __init__(self, home: int, **options: Any) -> None:
        super().__init__(**options)
        if os.getpid() == home:
            self.fault = ""


class Careless(Pistons):
    """Works, but not as PettingZoo asks; `habit` says in what way."""

    def __init__(self, habit: str = "", **options: Any) -> None:
        self.habit = habit
        super().__init__(**options)
        if habit == "narrow":
            seen = spaces.Box(0.0, 1.0, (2, 2), np.float64)
            self._seen = dict.fromkeys(self.possible_agents, seen)
        if habit == "endless":
            self.longest = 10**9

    def observation_space(self, agent: str) -> Any:
        space = super().observation_space(agent)
        return spaces.Box(space.low, space.high, dtype=space.dtype) if self.habit == "new spaces" else space

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        seen, infos = super().reset(0 if self.habit == "fixed start" else seed, options)
        return self._spoil(seen), infos

    def step(self, actions: dict[str, Any]) -> Any:
        if self.habit == "slow":
            time.sleep(0.01)
        before = self.agents
        seen, rewards, ends, cuts, infos = super().step(actions)
        if self.habit == "both flags":
            cuts = dict(ends)
        if self.habit == "numbers for flags":
            ends = {agent: int(ends[agent]) for agent in ends}
        if self.habit == "no last word":
            seen = {agent: each for agent, each in seen.items() if not ends[agent]}
        if self.habit == "never emptied" and not self.agents:
            self.agents = before
        if self.habit == "answers for all":
            rewards = {agent: 0.0 for agent in self.possible_agents} | rewards
        if self.habit in ("no reward", "large reward"):
            rewards = {agent: 0.0 if self.habit == "no reward" else 1e4 for agent in rewards}
        return self._spoil(seen), rewards, ends, cuts, infos

    def _spoil(self, seen: dict[str, Any]) -> dict[str, Any]:
        if self.habit == "dtype":
            return {agent: each.astype(np.float32) for agent, each in seen.items()}
        if self.habit == "large":
            return {agent: each * 50 for agent, each in seen.items()}
        if self.habit == "constant":
            return {agent: np.ones((2, 2)) for agent in seen}
        return seen
