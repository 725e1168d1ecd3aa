"""What an environment in words is: texts to read, words to say. And how a text is read as a word."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Protocol, runtime_checkable

from gymnasium import spaces

from .interface import EnvironmentFault
from .options import nearest

Texts = dict[str, str]
Infos = dict[str, dict[str, Any]]
TextStep = tuple[Texts, dict[str, float], dict[str, bool], dict[str, bool], Infos]
Words = tuple[str, ...] | None
"""The legal words of an agent, bare (no space before them). Empty: it is not asked. None: any text will do."""

LONGEST = 100_000  # letters of a text; only a space must name a limit


@runtime_checkable
class TextEnv(Protocol):
    """A PettingZoo `ParallelEnv` whose observations and actions are texts.

    Asked are the agents that are in the observations and whose `words` are not empty; only they need be in the actions.
    One legal word leaves nothing to choose, so that agent may be left out too. A text is read for the first legal word
    in it. One that has none costs the agent a penalty and counts as its first legal word, and `infos[agent]["illegal"]`
    is then true.
    """

    possible_agents: list[str]
    agents: list[str]
    roles: Mapping[str, str]  # who each possible agent is, in words

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Texts, Infos]:
        """Begin an episode. With a seed, all that follows is a function of the seed and the actions."""

    def step(self, actions: dict[str, str]) -> TextStep:
        """Observations, rewards, terminations, truncations and infos; the last observations come with the end."""

    def words(self, agent: str) -> Words:
        """What `agent` may say now."""


class Renderer(Protocol):
    """Puts a numeric PettingZoo environment into words."""

    def roles(self, env: Any) -> Mapping[str, str]:
        """Who each possible agent is."""

    def observation(self, agent: str, observation: Any, info: Mapping[str, Any]) -> str:
        """What the agent reads for an observation, which is as the environment gave it, a mask included."""

    def words(self, agent: str) -> tuple[str, ...]:
        """A word for every action of the agent, in the order of its Discrete space."""


class AnyText(spaces.Text):
    """A text of any letters; PettingZoo's and Gymnasium's own would have to list them."""

    def __init__(self, longest: int = LONGEST) -> None:
        super().__init__(longest, min_length=0)

    def contains(self, x: Any) -> bool:
        return isinstance(x, str) and len(x) <= self.max_length

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """A short one of letters and digits: Gymnasium's would be as long as the space allows."""
        length = int(self.np_random.integers(0, 13))
        return "".join(self.np_random.choice(list(self.characters), length)) if length else ""


def read_word(text: str, words: tuple[str, ...]) -> str | None:
    """The first of `words` in `text`, whatever the case; of two that begin at one place the longer. None: it has none.

    >>> read_word(" I take the STONE, not the river.", ("river", "stone"))
    'stone'
    """
    table, pattern = _reader(words)
    plain = text.strip().casefold()
    if plain in table:
        return table[plain]
    found = pattern.search(plain)
    return table[found.group()] if found else None


@lru_cache(maxsize=1024)
def _reader(words: tuple[str, ...]) -> tuple[dict[str, str], re.Pattern[str]]:
    table = {word.casefold(): word for word in reversed(words)}
    longest_first = sorted(table, key=len, reverse=True)
    return table, re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)")


def read_actions(
    name: str, asked: Mapping[str, Words], actions: Mapping[str, str]
) -> tuple[dict[str, str], frozenset[str]]:
    """What every agent asked has said, as one of its words, and who said none of them.

    `asked` holds the words of all living agents of environment `name`; texts of agents that are not asked are ignored.
    """
    for agent in actions:
        if agent not in asked:
            raise EnvironmentFault(f"Environment {name!r} has no living agent {agent!r}; {nearest(str(agent), asked)}")
    said: dict[str, str] = {}
    illegal = set()
    for agent, words in asked.items():
        if words == ():
            continue
        text = actions.get(agent)
        if text is None and words is not None and len(words) == 1:
            said[agent] = words[0]
            continue
        if not isinstance(text, str):
            what = "no text" if text is None else f"a {type(text).__name__} for a text"
            raise EnvironmentFault(f"Environment {name!r}: agent {agent!r} was asked and gave {what}.")
        word = text if words is None else read_word(text, words)
        if word is None:
            illegal.add(agent)
        said[agent] = word if word is not None else (words or ("",))[0]
    return said, frozenset(illegal)


def penalty_number(number: Any) -> float:
    """`number` as what an illegal text costs, else ValueError with one sentence."""
    if isinstance(number, int | float) and not isinstance(number, bool) and 0 <= number < float("inf"):
        return float(number)
    raise ValueError(f"option 'penalty' must be a number of at least 0, not {number!r}.")
