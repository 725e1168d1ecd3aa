"""A numeric PettingZoo environment put into words by a renderer of its user's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv

from .bridge import advance, begin, fault, raised
from .turns import TurnBased, as_parallel
from .words_text import AnyText, Infos, Renderer, Texts, TextStep, Words, penalty_number, read_actions


class InWords(ParallelEnv[str, str, str]):  # type: ignore[misc]
    """`env` as a `TextEnv`: `renderer` says who the agents are, what they read, and a word for each of their actions.

    `env` is a `ParallelEnv`, or an `AECEnv`; in a turn-based game only the agent to move is asked, and the others read
    an empty text. All actions must be Discrete. Masks, in a Dict observation or in the infos as `action_mask`, leave an
    agent only its legal words. A text without one costs `penalty` and counts as the first legal word.
    """

    def __init__(self, env: Any, renderer: Renderer, *, penalty: float = 1.0, name: str = "") -> None:
        self.name = name or str((getattr(env, "metadata", None) or {}).get("name") or type(env).__name__)
        self.numeric = as_parallel(env, self.name)
        self.renderer = renderer
        try:
            self.penalty = penalty_number(penalty)
        except ValueError as error:
            raise fault(self.name, str(error).rstrip(".")) from error
        self.metadata = {"name": self.name, "render_modes": [], "is_parallelizable": True}
        self.render_mode = getattr(env, "render_mode", None)
        self.possible_agents: list[str] = list(self.numeric.possible_agents)
        self.agents: list[str] = []
        self.roles = self._read_roles(env)
        self._all_words = {agent: self._vocabulary(agent) for agent in self.possible_agents}
        self.observation_spaces: dict[str, spaces.Space[str]] = {agent: AnyText() for agent in self.possible_agents}
        self.action_spaces: dict[str, spaces.Space[str]] = {agent: AnyText() for agent in self.possible_agents}
        self._legal: dict[str, tuple[str, ...]] = {}

    def observation_space(self, agent: str) -> spaces.Space[str]:
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> spaces.Space[str]:
        return self.action_spaces[agent]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Texts, Infos]:
        seen, infos = begin(self.numeric, self.name, seed, options)
        return self._tell(seen, infos), {agent: dict(infos.get(agent) or {}) for agent in seen}

    def step(self, actions: Mapping[str, str]) -> TextStep:
        said, illegal = read_actions(self.name, self._legal, actions)
        numbers = {agent: self._number(agent, said.get(agent)) for agent in self.agents}
        seen, earned, ended, cut, infos = advance(self.numeric, self.name, numbers)
        texts = self._tell(seen, infos)
        rewards = {agent: float(each) for agent, each in earned.items()}
        for agent in illegal:
            rewards[agent] = rewards.get(agent, 0.0) - self.penalty
        told = {agent: {**(infos.get(agent) or {}), "illegal": agent in illegal} for agent in {**seen, **said}}
        return texts, rewards, _flags(ended), _flags(cut), told

    def words(self, agent: str) -> Words:
        return self._legal.get(agent, ())

    def render(self) -> Any:
        return self.numeric.render()

    def close(self) -> None:
        self.numeric.close()

    def _read_roles(self, env: Any) -> dict[str, str]:
        try:
            roles = dict(self.renderer.roles(env))
        except Exception as error:
            raise raised(self.name, "the renderer's roles", error) from error
        return check_roles(roles, self.possible_agents, self.name)

    def _vocabulary(self, agent: str) -> tuple[str, ...]:
        space = self.numeric.action_space(agent)
        if not isinstance(space, spaces.Discrete):
            raise fault(self.name, f"agent {agent!r} acts in a {type(space).__name__} space; words need a Discrete one")
        try:
            words = tuple(self.renderer.words(agent))
        except Exception as error:
            raise raised(self.name, f"the renderer's words({agent!r})", error) from error
        if len(words) != space.n:
            raise fault(self.name, f"agent {agent!r} has {space.n} actions, but the renderer has {len(words)} words")
        for i, word in enumerate(words):
            if not isinstance(word, str) or not word.strip() or word != word.strip():
                raise fault(self.name, f"{word!r} is no word for agent {agent!r}; give a text without space around it")
            if word.casefold() in (each.casefold() for each in words[:i]):
                raise fault(self.name, f"two actions of agent {agent!r} have the word {word!r}")
        return words

    def _number(self, agent: str, word: str | None) -> int:
        start = int(self.numeric.action_space(agent).start)
        return start if word is None else start + self._all_words[agent].index(word)

    def _tell(self, seen: Mapping[str, Any], infos: Mapping[str, Any]) -> Texts:
        """What everybody reads; with it, what everybody may say from now on."""
        self.agents = list(self.numeric.agents)
        awake = set(seen)
        if isinstance(self.numeric, TurnBased):  # the others are shown zeros, which mean nothing
            awake = {self.numeric.aec.agent_selection} if self.agents else set()
        self._legal = {
            agent: self._masked(agent, seen.get(agent), infos.get(agent) or {}) if agent in awake else ()
            for agent in self.agents
        }
        return {
            agent: self._text(agent, each, infos.get(agent) or {}) if agent in awake else ""
            for agent, each in seen.items()
        }

    def _masked(self, agent: str, seen: Any, info: Mapping[str, Any]) -> tuple[str, ...]:
        words = self._all_words[agent]
        mask = seen.get("action_mask") if isinstance(seen, Mapping) else None
        mask = info.get("action_mask") if mask is None else mask
        if mask is None:
            return words
        legal = np.asarray(mask).astype(bool).reshape(-1)
        if len(legal) != len(words):
            raise fault(self.name, f"agent {agent!r} has {len(words)} actions, but a mask of {len(legal)}")
        return tuple(word for word, fine in zip(words, legal, strict=True) if fine)

    def _text(self, agent: str, seen: Any, info: Mapping[str, Any]) -> str:
        try:
            text = self.renderer.observation(agent, seen, info)
        except Exception as error:
            raise raised(self.name, f"the renderer's observation of {agent!r}", error) from error
        if not isinstance(text, str):
            raise fault(self.name, f"the renderer's observation of {agent!r} is a {type(text).__name__}, not a text")
        return text


def check_roles(roles: Mapping[str, Any], agents: list[str], name: str) -> dict[str, str]:
    """A text for every agent, or a fault."""
    for agent in agents:
        if not isinstance(roles.get(agent), str) or not roles[agent].strip():
            raise fault(name, f"its roles say nothing about agent {agent!r}; say in words who each agent is")
    return {agent: roles[agent] for agent in agents}


def _flags(flags: Mapping[str, Any]) -> dict[str, bool]:
    return {agent: bool(flag) for agent, flag in flags.items()}
