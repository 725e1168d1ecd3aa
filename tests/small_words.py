"""A game of words for the tests of learning from reward: small, with every freedom an environment in words has."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import small_language as tiny

from hypermarl import config as settings
from hypermarl.language.rewarding import Rewarding
from hypermarl.language.settings import LanguageConfig

ROLES = {"auditor": "red one", "clerk": "moon two cat", "scout": "sun"}
PROMPTS = ("red cat one", "blue", "moon moon sun")
LEGAL = {0: ("red", "green", "blue"), 1: ("cat", "dog")}  # by the parity of the step


class Game:
    """Everybody reads one of PROMPTS and says a word; each earns 1 / (how many said the same), times its `scale`.

    From the second step on the words are others, and what was said last stands in the prompt. The scout has but one
    word then, and in the third step none. With `free` any text will do.
    """

    def __init__(self, n_agents: int = 3, steps: int = 1, free: bool = False, scale: float = 1.0) -> None:
        self.possible_agents = list(ROLES)[:n_agents]
        self.roles = {agent: ROLES[agent] for agent in self.possible_agents}
        self.agents: list[str] = []
        self.steps, self.free = steps, free
        self.scale = {agent: scale if agent == "clerk" else 1.0 for agent in self.possible_agents}
        self.heard: list[Mapping[str, str]] = []
        self.rng = random.Random()

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.rng.seed(seed)
        self.agents = self.possible_agents[:]
        self.heard = []
        self.prompt = self.rng.choice(PROMPTS)
        return dict.fromkeys(self.agents, self.prompt), {agent: {} for agent in self.agents}

    def words(self, agent: str) -> tuple[str, ...] | None:
        if agent not in self.agents:
            return ()
        if self.free:
            return None
        step = len(self.heard)
        return LEGAL[step % 2] if agent != "scout" or step == 0 else ("two",) if step == 1 else ()

    def step(self, actions: Mapping[str, str]) -> Any:
        for agent, said in actions.items():
            assert self.free or said in (self.words(agent) or ()), (agent, said)
        self.heard.append(dict(actions))
        alike = Counter(actions.values())
        earned = {agent: self.scale[agent] / alike[said] for agent, said in actions.items()}
        over = len(self.heard) >= self.steps
        acted, seen = self.agents, f"{self.prompt} {' '.join(actions.values())}"
        self.agents = [] if over else self.agents
        flags = dict.fromkeys(acted, over)
        infos = {agent: {"illegal": self.free and not actions[agent]} for agent in actions}
        rewards = {agent: earned.get(agent, 0.0) for agent in acted}
        return dict.fromkeys(acted, seen), rewards, flags, dict.fromkeys(acted, False), infos

    def close(self) -> None:
        pass


def make(**options: Any) -> Game:
    return Game(**options)


@cache
def _model(folder: Path) -> Path:
    return tiny.folder(folder)


SHARING: dict[str, dict[str, Any]] = {
    "shared": {"conditioning": "none", "generator": {"head": "none"}},
    "shared_id": {"conditioning": "none", "id_in_observation": True, "generator": {"head": "none"}},
    "independent": {"conditioning": "one_hot", "generator": {"base": False, "start": "distinct"}},
    "hyper_linear": {"conditioning": "one_hot"},
    "hyper_mlp": {"generator": {"trunk": [7], "normalise": True, "scale": 0.5}},
    "hyper_text": {"conditioning": "text", "embedding": 5},
    "hyper_text_id": {"conditioning": "text_and_id", "embedding": 5},
    "hyper_reader": {"conditioning": "reader", "embedding": 5},
}


def learner(
    folder: Path, sharing: str = "hyper_mlp", env: Mapping[str, Any] | None = None, **sections: Any
) -> Rewarding:
    """On the random model, kept in `folder`; `env` are the game's options, `sections` those of the settings."""
    given = {
        "sharing": {"name": sharing, **SHARING[sharing]},
        "env": {"kind": "pettingzoo", "name": "small_words:make", "num_envs": 6, "options": dict(env or {})},
        "backbone": {"model": str(_model(folder)), "dtype": "fp32", "frame": "{prompt}", "rank": tiny.RANK},
        "description": {"encoder": "states", "layers": [1, 2], "width": 8, "queries": 2, "blocks": 1},
        "train": {"lr": 0.02, "updates": 100},
        "reward": {"group": 2, "tokens": 4},
    }
    for name, section in sections.items():
        given[name] = {**given[name], **section} if isinstance(section, dict) else section
    return Rewarding(settings.build(LanguageConfig, given))
