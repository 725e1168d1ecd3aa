"""TextArena's games as text environments: the mover alone is asked, and a missing package is named.

Most of it runs on a stand-in for the package, which is an extra; the last part runs on the package where it is there.
"""

from __future__ import annotations

import random
import socket
import subprocess
import sys
import threading
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import pytest
from pettingzoo import ParallelEnv
from pettingzoo.test import parallel_api_test

from hypermarl.config import compose, presets
from hypermarl.envs import EnvironmentFault
from hypermarl.envs.textarena import CATALOGUE, offline
from hypermarl.envs.words import TextEnv, make_text, text_catalogue


class Poker:
    """A stand-in in TextArena's manner: it draws from the shared chance and keeps its deck as shuffled last."""

    def __init__(self, max_rounds: int) -> None:
        self.rounds, self.heard, self.deck = max_rounds, [], ["J", "Q", "K"]

    def reset(self, num_players: int, seed: int) -> None:
        random.seed(seed)
        self.state = SimpleNamespace(current_player_id=1, rewards=None, game_state={}, observations={0: [], 1: []})
        self.left = self.rounds
        self._deal()

    def _deal(self) -> None:
        random.shuffle(self.deck)
        for player in range(2):  # each is told twice, as by the real one
            self.state.observations[player] += [(-1, f"Your card is {self.deck[player]}", None)] * 2
        self.state.game_state["current_legal_action_tree"] = {"check": {}, "bet": {}}

    def step(self, action: str) -> tuple[bool, dict[str, Any]]:
        self.heard.append(action)
        if action == "[bet]" and self.left == 13:
            raise KeyError("chips")
        mover = self.state.current_player_id
        for player in range(2):
            self.state.observations[player].append((mover, action, None))
        self.state.current_player_id = 1 - mover
        self.state.game_state["current_legal_action_tree"] = {"fold": "loser", "call": "showdown"}
        if mover == 0:
            self.left -= 1
            self._deal()
        over = self.left == 0
        if over:
            self.state.rewards = {0: -1, 1: 1}
        return over, {}


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    made: list[Any] = []

    def build(name: str, **options: Any) -> Poker:
        assert name == "KuhnPoker-v0-raw"
        made.append(Poker(**options))
        return made[-1]

    monkeypatch.setitem(sys.modules, "textarena", SimpleNamespace(make=build))  # type: ignore[arg-type]
    return made


def poker(**options: Any) -> Any:
    return make_text("textarena", "KuhnPoker-v0", options=options)


def test_only_the_mover_is_asked_and_all_is_told_since_the_beginning(stand_in: list[Any]) -> None:
    one = poker(max_rounds=2, penalty=0.5)
    seen, _ = one.reset(3)
    assert list(seen) == one.agents == ["player_0", "player_1"]
    card = seen["player_1"]
    assert card in ("Your card is J", "Your card is Q", "Your card is K"), "told twice, shown once"
    assert one.words("player_0") == () and one.words("player_1") == ("check", "bet")
    seen, rewards, ended, cut, infos = one.step({"player_1": "Let us BET"})
    assert one.words("player_0") == ("fold", "call") and one.words("player_1") == ()
    assert seen["player_1"] == f"{card}\nPlayer 1: [bet]" and set(rewards.values()) == {0.0}
    assert not any({**ended, **cut}.values())
    _, rewards, _, _, infos = one.step({"player_0": "hm", "player_1": "not my turn"})
    assert stand_in[-1].heard == ["[bet]", "[fold]"], "the first legal word, and nobody out of turn"
    assert rewards == {"player_0": -0.5, "player_1": 0.0}
    assert infos == {"player_0": {"illegal": True}, "player_1": {"illegal": False}}
    with pytest.raises(EnvironmentFault, match="agent 'player_1' was asked and gave no text"):
        one.step({"player_0": "call"})
    one.step({"player_1": "check"})
    seen, rewards, ended, cut, _ = one.step({"player_0": "call"})
    assert rewards == {"player_0": -1.0, "player_1": 1.0} and all(ended.values()) and not any(cut.values())
    assert one.agents == [] and set(seen) == {"player_0", "player_1"} and one.words("player_1") == ()
    assert len(one.reset()[0]["player_0"].splitlines()) == 1, "a new episode is told anew"


def test_chance_follows_the_seed_and_is_nobody_elses(stand_in: list[Any]) -> None:
    one = poker(max_rounds=6)

    def cards(seed: int) -> list[str]:
        one.reset(seed)
        while one.agents:
            random.random()  # somebody else draws
            seen, *_ = one.step({agent: one.words(agent)[0] for agent in one.agents if one.words(agent)})
        return [line for line in seen["player_0"].splitlines() if "card" in line]

    assert cards(1) == cards(1) and len({tuple(cards(seed)) for seed in range(8)}) > 4
    random.seed(5)
    expected = random.random()
    random.seed(5)
    one.reset(0)
    one.step({"player_1": "check"})
    assert random.random() == expected, "playing leaves the shared chance as it was"


def test_it_is_a_parallel_env_of_texts(stand_in: list[Any]) -> None:
    one = poker()
    assert isinstance(one, ParallelEnv) and isinstance(one, TextEnv)
    parallel_api_test(one, 20)


def test_what_a_game_raises_is_said_in_a_sentence(stand_in: list[Any]) -> None:
    one = poker(max_rounds=13)
    one.reset(0)
    with pytest.raises(EnvironmentFault, match=r"^Environment 'textarena/KuhnPoker-v0': step raised KeyError: 'chips'"):
        one.step({"player_1": "bet"})


# --------------------------------------------------------------------------------------------------- names and options


@pytest.mark.parametrize("missing", ["textarena", "openai"])
def test_a_missing_package_is_named_with_the_extra_that_has_it(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Missing:
        def __getattr__(self, word: str) -> Any:
            raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)

    monkeypatch.setitem(sys.modules, "textarena", Missing() if missing == "openai" else None)  # type: ignore[arg-type]
    with pytest.raises(EnvironmentFault) as caught:
        poker()
    assert str(caught.value) == (
        f"Environment 'textarena/KuhnPoker-v0': needs the package {missing!r}: pip install 'hypermarl[games]'."
    )


def test_games_are_listed_without_the_package() -> None:
    listed = [name for name, _ in text_catalogue() if name.startswith("textarena/")]
    assert listed == [f"textarena/{name}" for name in CATALOGUE] and len(listed) >= 2
    script = (
        "import sys; from hypermarl.envs import words; words.text_catalogue(); assert 'textarena' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize(
    "name, options, sentence",
    [
        ("KuhnPoker", {}, "is none of the adapted games; did you mean 'KuhnPoker-v0'?"),
        ("Wordle-v0", {}, "is none of the adapted games; there is"),
        ("KuhnPoker-v0", {"rounds": 2}, "has no option 'rounds'; did you mean 'max_rounds'?"),
        ("KuhnPoker-v0", {"max_rounds": 0}, "option 'max_rounds' must be a whole number of at least 1, not 0."),
        ("Nim-v0", {"piles": "345"}, "option 'piles' must be a list of whole numbers, not '345'."),
        ("Nim-v0", {"piles": [3, 0]}, "option 'piles' must be a whole number of at least 1, not 0."),
        ("IteratedPrisonersDilemma-v0", {"communication_turns": 0}, "'communication_turns' must be a whole number"),
        ("IteratedMatchingPennies-v0", {"penalty": -1}, "option 'penalty' must be a number of at least 0, not -1."),
    ],
)
def test_bad_names_and_options_are_refused_in_a_sentence(name: str, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(EnvironmentFault) as caught:
        make_text("textarena", name, options=options)
    assert str(caught.value).startswith(f"Environment 'textarena/{name}'") and sentence in str(caught.value)


def test_no_network_is_reached_while_a_game_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def call() -> None:
        socket.create_connection(("localhost", 9), timeout=1)

    reached = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: reached.append(1) or [])
    before = socket.getaddrinfo, socket.socket.connect
    with offline():
        with pytest.raises(OSError, match="no network is used here"):
            call()
        with pytest.raises(OSError, match="no network is used here"), socket.socket() as one:
            one.connect(("127.0.0.1", 9))
        assert not reached
        other = threading.Thread(target=lambda: socket.getaddrinfo("localhost", 9))
        other.start()
        other.join()
        assert reached, "other threads go on"
    assert (socket.getaddrinfo, socket.socket.connect) == before

    def build(name: str, **options: Any) -> Any:
        call()

    monkeypatch.setitem(sys.modules, "textarena", SimpleNamespace(make=build))  # type: ignore[arg-type]
    with pytest.raises(EnvironmentFault, match="making it raised OSError: no network is used here"):
        poker()


# --------------------------------------------------------------------------------------------------- the package itself

real = pytest.mark.skipif(
    find_spec("textarena") is None, reason="textarena is an extra: pip install 'hypermarl[games]'"
)


def play(one: Any, seed: int, rng: random.Random) -> tuple[list[dict[str, str]], dict[str, float]]:
    """A random episode: what was read, and the last rewards."""
    read = [one.reset(seed)[0]]
    while one.agents:
        asked = {agent: one.words(agent) for agent in one.agents if one.words(agent) != ()}
        assert len(asked) == 1
        said = {agent: rng.choice(words) if words else "Shall we?" for agent, words in asked.items()}
        seen, rewards, _, _, infos = one.step(said)
        assert not any(info["illegal"] for info in infos.values())
        read.append(seen)
    return read, rewards


@real
@pytest.mark.parametrize("name", CATALOGUE)
def test_every_adapted_game_plays_to_its_end_by_its_seed(name: str) -> None:
    one: Any = make_text("textarena", name)
    parallel_api_test(one, 30)
    outcomes = set()
    for seed in range(12):
        read, rewards = play(one, seed, random.Random(seed))
        again, _ = play(make_text("textarena", name), seed, random.Random(seed))
        assert read == again
        assert not any("invalid move" in text for text in read[-1].values())
        assert sorted(rewards.values()) in ([-1.0, 1.0], [0.0, 0.0])
        outcomes.add(rewards["player_0"])
    assert {-1.0, 1.0} <= outcomes


@real
def test_real_games_have_the_words_of_their_state() -> None:
    one: Any = make_text("textarena", "Nim-v0", options={"piles": [1, 2]})
    one.reset(0)
    assert one.words("player_0") == ("0 1", "1 1", "1 2") and one.words("player_1") == ()
    one.step({"player_0": "I take 1 2, of pile one"})
    assert one.words("player_1") == ("0 1",)
    _, rewards, *_ = one.step({})
    assert rewards == {"player_0": -1.0, "player_1": 1.0}
    talk: Any = make_text("textarena", "IteratedPrisonersDilemma-v0", options={"num_rounds": 1})
    talk.reset(0)
    assert talk.words("player_0") is None
    talk.step({"player_0": "I shall cooperate."})
    seen, *_ = talk.step({"player_1": "So shall I."})
    assert "Player 0: I shall cooperate." in seen["player_1"] and talk.words("player_0") == ("cooperate", "defect")
    talk.step({"player_0": "cooperate"})
    _, rewards, *_ = talk.step({"player_1": "I defect"})
    assert rewards == {"player_0": -1.0, "player_1": 1.0}


@pytest.mark.parametrize("preset", [name for name in presets("env") if name.startswith("textarena/")])
def test_every_preset_names_an_adapted_game_and_its_options(preset: str) -> None:
    settings = compose([f"env={preset}"], root="swarm")["env"]
    assert f"{settings['kind']}/{settings['name']}" == preset
    if find_spec("textarena") is None:
        with pytest.raises(EnvironmentFault, match="needs the package 'textarena'"):
            make_text(settings["kind"], settings["name"], options=settings["options"])
    else:
        make_text(settings["kind"], settings["name"], options=settings["options"]).reset(0)
