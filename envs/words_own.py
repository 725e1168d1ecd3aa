"""A text environment of the user's own, by name; whatever it does wrong becomes one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gymnasium import spaces
from pettingzoo import ParallelEnv

from .bridge import advance, begin, factory_of, fault, module_of, raised, unknown_option
from .interface import EnvironmentFault
from .words_text import AnyText, Infos, Texts, TextStep, Words
from .words_wrapper import check_roles

CATALOGUE: dict[str, str] = {"<module>:<make>": "a function of yours that returns a TextEnv, as in my_pkg.games:make"}
MEMBERS = ("possible_agents", "agents", "roles", "reset", "step", "words")


class Guarded(ParallelEnv[str, str, str]):  # type: ignore[misc]
    """Somebody's `TextEnv`, each answer of which is checked on its way."""

    def __init__(self, env: Any, name: str) -> None:
        self.env, self.name = env, name
        self.metadata = getattr(env, "metadata", None) or {"name": name, "render_modes": []}
        self.render_mode = getattr(env, "render_mode", None)
        self.possible_agents: list[str] = list(env.possible_agents)
        if not self.possible_agents:
            raise fault(name, "its 'possible_agents' is empty")
        if not isinstance(env.roles, Mapping):
            raise fault(name, f"its 'roles' is a {type(env.roles).__name__}, not a text for each agent's name")
        self.roles = check_roles(env.roles, self.possible_agents, name)
        self.observation_spaces: dict[str, spaces.Space[str]] = {agent: AnyText() for agent in self.possible_agents}
        self.action_spaces: dict[str, spaces.Space[str]] = {agent: AnyText() for agent in self.possible_agents}

    @property
    def agents(self) -> list[str]:
        return list(self.env.agents)

    def observation_space(self, agent: str) -> spaces.Space[str]:
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> spaces.Space[str]:
        return self.action_spaces[agent]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Texts, Infos]:
        seen, infos = begin(self.env, self.name, seed, options)
        return self._texts(seen), dict(infos)

    def step(self, actions: Mapping[str, str]) -> TextStep:
        seen, earned, ended, cut, infos = advance(self.env, self.name, dict(actions))
        for agent in actions:
            if not {agent} <= earned.keys() & ended.keys() & cut.keys():
                raise fault(self.name, f"step gave agent {agent!r} no reward, termination or truncation")
        rewards = {agent: self._reward(agent, each) for agent, each in earned.items()}
        return self._texts(seen), rewards, dict(ended), dict(cut), dict(infos)

    def words(self, agent: str) -> Words:
        try:
            words = self.env.words(agent)
        except Exception as error:
            raise raised(self.name, f"words({agent!r})", error) from error
        if words is None:
            return None
        if isinstance(words, str) or not all(isinstance(word, str) and word.strip() for word in words):
            raise fault(self.name, f"words({agent!r}) must be a tuple of words or None, not {words!r}")
        return tuple(words)

    def render(self) -> Any:
        return self.env.render()

    def close(self) -> None:
        if hasattr(self.env, "close"):
            self.env.close()

    def _texts(self, seen: Mapping[str, Any]) -> Texts:
        for agent, text in seen.items():
            if not isinstance(text, str):
                raise fault(self.name, f"what agent {agent!r} observes is a {type(text).__name__}, not a text")
        return dict(seen)

    def _reward(self, agent: str, number: Any) -> float:
        try:
            reward = float(number)
        except (TypeError, ValueError) as error:
            raise fault(self.name, f"the reward of agent {agent!r} is {number!r}, which is no number") from error
        if reward != reward or abs(reward) == float("inf"):
            raise fault(self.name, f"the reward of agent {agent!r} is {reward}")
        return reward


def make(name: str, *, options: Mapping[str, Any] | None = None) -> Guarded:
    """What the function called `name`, `my_pkg.module:make`, returns for these options."""
    path, _, attribute = name.partition(":")
    module = module_of(name, path)
    factory = factory_of(name, module, attribute)
    arguments = dict(options or {})
    try:
        env = factory(**arguments)
    except EnvironmentFault:
        raise
    except TypeError as error:
        raise unknown_option(name, module, factory, arguments) or raised(name, "making it", error) from error
    except Exception as error:
        raise raised(name, "making it", error) from error
    missing = [word for word in MEMBERS if not hasattr(env, word)]
    if "words" in missing and hasattr(env, "possible_agents") and hasattr(env, "step"):
        raise fault(name, "its agents see and do numbers; put them into words with hypermarl.envs.words.InWords")
    if missing:
        raise fault(name, f"made a {type(env).__name__}, which has no {missing[0]!r} and so is no TextEnv")
    return Guarded(env, name)
