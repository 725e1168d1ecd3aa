"""Games that are words from the start: be different, be alike, and pass on what only one of two sees.

Specialisation and Synchronisation pay as in `games.py` (source there); Relay is Lewis's signalling game with two roles.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from gymnasium import spaces
from pettingzoo import ParallelEnv

from .interface import EnvironmentFault
from .options import nearest, read_options, whole_number
from .words_roles import ASKING, COLOURS, RELAY_ROLES, ROLES, SEEING, WORDS
from .words_text import AnyText, Infos, Texts, TextStep, Words, penalty_number, read_actions

WAIT = ("wait",)

PAYOFFS: dict[str, Callable[[int, int], float]] = {
    "specialisation": lambda alike, agents: 1.0 / alike,
    "synchronisation": lambda alike, agents: 1.0 / (agents - alike + 1),
}

CATALOGUE: dict[str, str] = {
    "specialisation": "N agents say one of N words each and earn more the fewer said the same",
    "synchronisation": "N agents say one of N words each and earn more the more said the same",
    "relay": "a scout sees a colour and says a word, a porter hears the word and must name the colour",
}


def _check_phrasings(name: Any) -> None:
    if name not in ASKING:
        raise ValueError(f"option 'phrasings' cannot be {name!r}; {nearest(str(name), ASKING)}")


@dataclass(frozen=True)
class ChoiceOptions:
    """`phrasings`: "train" or "test", two lists of ways to ask; `penalty`: what a text without a legal word costs."""

    n_agents: int = 4
    episode_steps: int = 1
    phrasings: str = "train"
    penalty: float = 1.0

    def __post_init__(self) -> None:
        whole_number("n_agents", self.n_agents, 2, len(ROLES))
        whole_number("episode_steps", self.episode_steps, 1)
        _check_phrasings(self.phrasings)
        penalty_number(self.penalty)


@dataclass(frozen=True)
class RelayOptions:
    """`kinds`: how many colours there are, and words to signal them; the others are as for `ChoiceOptions`."""

    kinds: int = 4
    phrasings: str = "train"
    penalty: float = 1.0

    def __post_init__(self) -> None:
        whole_number("kinds", self.kinds, 2, len(COLOURS))
        _check_phrasings(self.phrasings)
        penalty_number(self.penalty)


class TextGame(ParallelEnv[str, str, str], ABC):  # type: ignore[misc]
    """What games in words share: their agents, spaces of texts, and how an episode ends for all at once."""

    def __init__(self, name: str, roles: Mapping[str, str], penalty: float) -> None:
        self.name = name
        self.metadata = {"name": name, "render_modes": [], "is_parallelizable": True}
        self.render_mode = None
        self.roles = dict(roles)
        self.possible_agents = list(roles)
        self.agents: list[str] = []
        self.penalty = float(penalty)
        self.observation_spaces: dict[str, spaces.Space[str]] = {agent: AnyText() for agent in roles}
        self.action_spaces: dict[str, spaces.Space[str]] = {agent: AnyText() for agent in roles}
        self._rng = random.Random()
        self._age = 0

    def observation_space(self, agent: str) -> spaces.Space[str]:
        return self.observation_spaces[agent]

    def action_space(self, agent: str) -> spaces.Space[str]:
        return self.action_spaces[agent]

    @abstractmethod
    def words(self, agent: str) -> Words:
        """What `agent` may say now; nothing where no episode is under way."""

    def render(self) -> None:
        """There is no picture."""

    def close(self) -> None:
        """Nothing is held open."""

    def _begin(self, seed: int | None) -> None:
        if seed is not None:
            self._rng.seed(int(seed))
        self.agents = self.possible_agents[:]
        self._age = 0

    def _read(self, actions: Mapping[str, str]) -> tuple[dict[str, str], frozenset[str]]:
        if not self.agents:
            raise EnvironmentFault(f"Environment {self.name!r} must be reset before it is stepped.")
        return read_actions(self.name, {agent: self.words(agent) for agent in self.agents}, actions)

    def _answer(
        self,
        seen: Texts,
        earned: Mapping[str, float],
        illegal: frozenset[str],
        *,
        over: bool = False,
        cut: bool = False,
    ) -> TextStep:
        """The five dictionaries for all who were alive; an end ends it for all."""
        acted = self.agents
        if over or cut:
            self.agents = []
        return (
            seen,
            {agent: earned[agent] - self.penalty * (agent in illegal) for agent in acted},
            dict.fromkeys(acted, over),
            dict.fromkeys(acted, cut),
            {agent: {"illegal": agent in illegal} for agent in acted},
        )


class Choice(TextGame):
    """Everybody reads the same short message and says one of N words; `payoff(alike, N)` is what each earns.

    With one step an episode ends for good after it; with more, the message also tells what was said last, in the order
    of the agents, and a clock cuts the episode off.
    """

    def __init__(self, name: str, payoff: Callable[[int, int], float], options: ChoiceOptions) -> None:
        agents = list(ROLES)[: options.n_agents]
        super().__init__(name, {agent: ROLES[agent] for agent in agents}, options.penalty)
        self._payoff = payoff
        self._steps = options.episode_steps
        self._phrasings = ASKING[options.phrasings]
        self._vocabulary = WORDS[: options.n_agents]
        self._asking = ""

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Texts, Infos]:
        self._begin(seed)
        self._asking = self._rng.choice(self._phrasings)
        return dict.fromkeys(self.agents, self._asking), {agent: {} for agent in self.agents}

    def step(self, actions: Mapping[str, str]) -> TextStep:
        said, illegal = self._read(actions)
        alike = Counter(said.values())
        earned = {agent: self._payoff(alike[word], len(said)) for agent, word in said.items()}
        self._age += 1
        late = self._age >= self._steps
        seen = self._asking if self._steps == 1 else f"Last: {' '.join(said.values())}. {self._asking}"
        return self._answer(
            dict.fromkeys(said, seen), earned, illegal, over=late and self._steps == 1, cut=late and self._steps > 1
        )

    def words(self, agent: str) -> tuple[str, ...]:
        return self._vocabulary if agent in self.agents else ()


class Relay(TextGame):
    """First the scout sees a colour and says a word, then the porter reads the word and names a colour.

    Both earn 1 at the end if it is the colour the scout saw, else 0. Whoever has nothing to do may say "wait" alone.
    """

    def __init__(self, name: str, options: RelayOptions) -> None:
        super().__init__(name, RELAY_ROLES, options.penalty)
        self._phrasings = SEEING[options.phrasings]
        self._colours, self._signals = COLOURS[: options.kinds], WORDS[: options.kinds]
        self._colour = ""
        self._telling = ("", "")

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Texts, Infos]:
        self._begin(seed)
        self._colour = self._rng.choice(self._colours)
        self._telling = self._rng.choice(self._phrasings)
        seen = {"scout": self._telling[0].format(self._colour), "porter": "Wait."}
        return seen, {agent: {} for agent in self.agents}

    def step(self, actions: Mapping[str, str]) -> TextStep:
        said, illegal = self._read(actions)
        self._age += 1
        if self._age == 1:
            seen = {"scout": "Wait.", "porter": self._telling[1].format(said["scout"])}
            return self._answer(seen, dict.fromkeys(said, 0.0), illegal)
        right = float(said["porter"] == self._colour)
        return self._answer(dict.fromkeys(said, "Done."), dict.fromkeys(said, right), illegal, over=True)

    def words(self, agent: str) -> tuple[str, ...]:
        if agent not in self.agents:
            return ()
        if (agent == "scout") == (self._age == 0):
            return self._signals if agent == "scout" else self._colours
        return WAIT


def make(name: str, *, options: Mapping[str, Any] | None = None) -> TextGame:
    """The game `name`, one of `CATALOGUE`."""
    if name not in CATALOGUE:
        raise EnvironmentFault(f"Environment 'words/{name}' does not exist; {nearest(name, CATALOGUE)}")
    full, given = f"words/{name}", options or {}
    if name == "relay":
        return Relay(full, read_options(RelayOptions, given, full))
    return Choice(full, PAYOFFS[name], read_options(ChoiceOptions, given, full))
