"""Short two-player games of the package TextArena as text environments: whoever is to move is asked, nobody else.

Only games that need nothing from the network are adapted; others of the package download word lists or ask a model
elsewhere. Illegal texts never reach a game: they count as its first legal word, as everywhere in words.
"""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import Any

from .bridge import fault, raised
from .interface import EnvironmentFault
from .options import nearest, read_options, whole_number
from .words_games import TextGame
from .words_text import Infos, Texts, TextStep, Words, penalty_number

AGENTS = ("player_0", "player_1")
FROM_THE_GAME = -1  # who speaks, where no player does
_TURN = threading.RLock()  # two threads that go offline at once would put back each other's guards


@dataclass(frozen=True)
class RoundsOptions:
    """`num_rounds`: how many make a match; `penalty`: what a text without a legal word costs."""

    num_rounds: int = 3
    penalty: float = 1.0

    def __post_init__(self) -> None:
        whole_number("num_rounds", self.num_rounds, 1)
        penalty_number(self.penalty)


@dataclass(frozen=True)
class PokerOptions:
    """`max_rounds`: how many hands make a match; `penalty` as for `RoundsOptions`."""

    max_rounds: int = 1
    penalty: float = 1.0

    def __post_init__(self) -> None:
        whole_number("max_rounds", self.max_rounds, 1)
        penalty_number(self.penalty)


@dataclass(frozen=True)
class NimOptions:
    """`piles`: how many things lie in each; `penalty` as for `RoundsOptions`."""

    piles: tuple[int, ...] = (3, 4, 5)
    penalty: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.piles, list | tuple) or not self.piles:
            raise ValueError(f"option 'piles' must be a list of whole numbers, not {self.piles!r}.")
        for pile in self.piles:
            whole_number("piles", pile, 1)
        penalty_number(self.penalty)


@dataclass(frozen=True)
class DilemmaOptions:
    """`communication_turns`: free texts of each player before every decision; the others as for `RoundsOptions`."""

    num_rounds: int = 3
    communication_turns: int = 1
    penalty: float = 1.0

    def __post_init__(self) -> None:
        whole_number("num_rounds", self.num_rounds, 1)
        whole_number("communication_turns", self.communication_turns, 1)
        penalty_number(self.penalty)


def _nim_words(state: Mapping[str, Any]) -> Words:
    return tuple(f"{i} {some}" for i, pile in enumerate(state["piles"]) for some in range(1, pile + 1))


@dataclass(frozen=True)
class Adapted:
    """One game: what it is, whom its players are, its options, and the legal words of the mover in a state of it."""

    line: str
    roles: tuple[str, str]
    options: type[Any]
    words: Callable[[Mapping[str, Any]], Words]


GAMES: dict[str, Adapted] = {
    "IteratedRockPaperScissors-v0": Adapted(
        "rock, paper, scissors over some rounds; who wins more of them wins",
        ("You are player 0; you play rock, paper, scissors.", "You are player 1; you play rock, paper, scissors."),
        RoundsOptions,
        lambda state: ("rock", "paper", "scissors"),
    ),
    "IteratedMatchingPennies-v0": Adapted(
        "heads or tails over some rounds; player 0 wins where both are alike",
        ("You are player 0; you want both coins alike.", "You are player 1; you want the coins to differ."),
        RoundsOptions,
        lambda state: ("heads", "tails"),
    ),
    "KuhnPoker-v0": Adapted(  # in TextArena 0.7.4 a bet moves no chip, so every hand is won or lost for the ante
        "poker with three cards, one each; check, bet, call or fold",
        ("You are player 0; you play poker with one card.", "You are player 1; you play poker with one card."),
        PokerOptions,
        lambda state: tuple(state["current_legal_action_tree"]),
    ),
    "Nim-v0": Adapted(
        "take things from one of some piles; who takes the last wins; a word is '<pile> <how many>'",
        ("You are player 0; you want to take the last thing.", "You are player 1; you want to take the last thing."),
        NimOptions,
        _nim_words,
    ),
    "IteratedPrisonersDilemma-v0": Adapted(
        "free talk, then cooperate or defect, over some rounds",
        ("You are player 0; you and a partner may cooperate.", "You are player 1; you and a partner may cooperate."),
        DilemmaOptions,
        lambda state: None if state["phase"] == "conversation" else ("cooperate", "defect"),
    ),
}

CATALOGUE: dict[str, str] = {name: game.line for name, game in GAMES.items()}


class Arena(TextGame):
    """A TextArena game in parallel form; `build` makes it, anew for every episode, since some keep a shuffled deck.

    All observe all they were told since the episode began, but the words of who is not to move are empty: only the
    mover is asked. Rewards come with the end: 1 for who won, -1 for who lost, 0 each for a draw.
    """

    def __init__(self, build: Callable[[], Any], name: str, game: Adapted, penalty: float) -> None:
        super().__init__(name, dict(zip(AGENTS, game.roles, strict=True)), penalty)
        self._build = build
        self.env = build()
        self._words = game.words
        self._told: dict[str, list[str]] = {}
        self._chance = random.Random().getstate()  # the game's own, as it draws from the one all programs share

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Texts, Infos]:
        self._begin(seed)
        self._told = {agent: [] for agent in AGENTS}
        self.env = self._do("making it", self._build)
        self._do("reset", lambda: self.env.reset(num_players=len(AGENTS), seed=self._rng.getrandbits(32)))
        return self._tell(), {agent: {} for agent in AGENTS}

    def step(self, actions: Mapping[str, str]) -> TextStep:
        said, illegal = self._read(actions)
        mover = self._mover()
        text = said[mover] if self.words(mover) is None else f"[{said[mover]}]"
        over, _ = self._do("step", lambda: self.env.step(text))
        earned = (self.env.state.rewards or {}) if over else {}
        rewards = {agent: float(earned.get(i, 0.0)) for i, agent in enumerate(AGENTS)}
        return self._answer(self._tell(), rewards, illegal, over=bool(over))

    def words(self, agent: str) -> Words:
        if agent not in self.agents or agent != self._mover():
            return ()
        return self._words(self.env.state.game_state)

    def _mover(self) -> str:
        return AGENTS[self.env.state.current_player_id]

    def _tell(self) -> Texts:
        """All that each was told, one message a line; what is said twice in a row is told once."""
        for i, agent in enumerate(AGENTS):
            told = self._told[agent]
            for speaker, message, _ in self.env.state.observations[i]:
                line = message.strip() if speaker == FROM_THE_GAME else f"Player {speaker}: {message.strip()}"
                if not told or told[-1] != line:
                    told.append(line)
            self.env.state.observations[i] = []
        return {agent: "\n".join(told) for agent, told in self._told.items()}

    def _do(self, what: str, act: Callable[[], Any]) -> Any:
        """Let the game act with its own chance, and leave everybody else's as it was."""
        ours = random.getstate()
        random.setstate(self._chance)
        try:
            return act()
        except Exception as error:
            raise raised(self.name, what, error) from error
        finally:
            self._chance = random.getstate()
            random.setstate(ours)


@contextmanager
def offline() -> Iterator[None]:
    """Inside, this thread reaches no network: whoever tries fails at once instead of waiting."""
    here = threading.get_ident()

    def guarded(real: Callable[..., Any]) -> Callable[..., Any]:
        def ask(*arguments: Any, **options: Any) -> Any:
            if threading.get_ident() == here:
                raise OSError("no network is used here")
            return real(*arguments, **options)

        return ask

    with _TURN:
        find, connect = socket.getaddrinfo, socket.socket.connect
        socket.getaddrinfo, socket.socket.connect = guarded(find), guarded(connect)  # type: ignore[method-assign]
        try:
            yield
        finally:
            socket.getaddrinfo, socket.socket.connect = find, connect  # type: ignore[method-assign]


def make(name: str, *, options: Mapping[str, Any] | None = None) -> Arena:
    """The game `name`, one of `CATALOGUE`."""
    full = f"textarena/{name}"
    if name not in GAMES:
        raise EnvironmentFault(f"Environment {full!r} is none of the adapted games; {nearest(name, GAMES)}")
    game = GAMES[name]
    chosen = asdict(read_options(game.options, options or {}, full))
    penalty = chosen.pop("penalty")
    arguments = {word: list(each) if isinstance(each, tuple) else each for word, each in chosen.items()}
    with offline():
        try:
            make_game = import_module("textarena").make
            # raw: the game alone, without wrappers that put its texts together in another way
            return Arena(lambda: make_game(f"{name}-raw", **arguments), full, game, penalty)
        except ImportError as error:
            missing = error.name or "textarena"
            raise fault(full, f"needs the package {missing!r}: pip install 'hypermarl[games]'") from error
        except Exception as error:
            raise raised(full, "making it", error) from error
