"""Environments in words: they pay as the numeric games do, read texts as words, and say in a sentence what is wrong."""

from __future__ import annotations

import random
import re
from collections import Counter
from typing import Any

import pytest
import torch
from gymnasium import spaces
from pettingzoo import ParallelEnv
from pettingzoo.test import parallel_api_test
from pettingzoo_toys import Pistons
from pettingzoo_toys import Relay as TurnRelay

from hypermarl.config import compose, presets
from hypermarl.envs import EnvironmentFault, make, parse
from hypermarl.envs.words import InWords, TextEnv, make_text, parse_text, read_word, text_catalogue
from hypermarl.envs.words_roles import ASKING, COLOURS, RELAY_ROLES, ROLES, SEEING, WORDS


def game(name: str, **options: Any) -> Any:
    return make_text("words", name, options=options)


# --------------------------------------------------------------------------------------------------- reading a text


@pytest.mark.parametrize(
    "text, word",
    [
        ("stone", "stone"),
        ("  Stone\n", "stone"),
        ("I take the STONE, not the river.", "stone"),
        ("the river or a stone", "river"),
        ("cornerstone", None),
        ("milestones", None),
        ("a stonemason", None),
        ("by the river bed", "river bed"),
        ("", None),
        ("river bed", "river bed"),
        ("go: [ROCK]!", "[rock]"),
        ("+", "+"),
    ],
)
def test_a_text_is_read_for_the_first_legal_word_in_it(text: str, word: str | None) -> None:
    assert read_word(text, ("stone", "river", "river bed", "[rock]", "+")) == word


# --------------------------------------------------------------------------------------------------- the two games


@pytest.mark.parametrize("name", ["specialisation", "synchronisation"])
@pytest.mark.parametrize("agents, steps", [(2, 1), (4, 1), (5, 3), (64, 1)])
def test_choices_pay_and_end_as_the_numeric_game_does(name: str, agents: int, steps: int) -> None:
    rng = random.Random(agents)
    one = game(name, n_agents=agents, episode_steps=steps)
    other = make("games", name, options={"n_agents": agents, "temporal": steps > 1, "episode_steps": steps})
    for seed in range(20):
        one.reset(seed)
        other.reset()
        for _ in range(steps):
            chosen = [rng.randrange(agents) for _ in range(agents)]
            said = {agent: one.words(agent)[i] for agent, i in zip(one.agents, chosen, strict=True)}
            before = one.agents
            _, rewards, ended, cut, infos = one.step(said)
            numeric = other.step({"agents": torch.tensor([chosen])})
            assert list(rewards.values()) == pytest.approx(numeric.reward["agents"][0].tolist())
            assert list(ended.values()) == numeric.terminated["agents"][0].tolist()
            assert list(cut.values()) == numeric.truncated["agents"][0].tolist()
            assert infos == {agent: {"illegal": False} for agent in before}
        assert one.agents == [] and one.words(before[0]) == ()


def test_all_read_the_same_phrasing_which_the_seed_decides() -> None:
    for part in ("train", "test"):
        one = game("specialisation", phrasings=part)
        heard = Counter()
        for seed in range(200):
            seen, _ = one.reset(seed)
            assert len(set(seen.values())) == 1 and list(seen) == one.agents
            assert seen == one.reset(seed)[0] == game("specialisation", phrasings=part).reset(seed)[0]
            heard[seen["clerk"]] += 1
        assert set(heard) == set(ASKING[part]) and min(heard.values()) > 5
    first, second = ([game("specialisation").reset(7)[0]] for _ in range(2))
    assert first == second
    one.reset(3)
    later = [one.reset()[0]["clerk"] for _ in range(12)]
    one.reset(3)
    assert later == [one.reset()[0]["clerk"] for _ in range(12)] and len(set(later)) > 2, "a seed decides all after it"


def test_longer_games_tell_what_was_said_last_in_the_order_of_the_agents() -> None:
    one = game("synchronisation", n_agents=3, episode_steps=2)
    asking = one.reset(0)[0]["clerk"]
    assert asking in ASKING["train"]
    said = {"lawyer": "stone", "auditor": "river", "clerk": "apple"}
    seen, *_ = one.step(said)
    assert set(seen.values()) == {f"Last: river apple stone. {asking}"}
    assert one.agents == ["auditor", "clerk", "lawyer"]
    seen, *_ = one.step(dict.fromkeys(one.agents, "apple"))
    assert set(seen.values()) == {f"Last: apple apple apple. {asking}"} and not one.agents


def test_a_text_without_a_legal_word_costs_the_penalty_and_counts_as_the_first_word() -> None:
    one = game("specialisation", n_agents=3, penalty=0.25)
    one.reset(0)
    said = {"auditor": "cornerstone", "clerk": "well, a River", "lawyer": one.words("lawyer")[0]}
    _, rewards, _, _, infos = one.step(said)
    assert rewards == {"auditor": 0.25, "clerk": 1.0, "lawyer": 0.5}
    assert infos == {"auditor": {"illegal": True}, "clerk": {"illegal": False}, "lawyer": {"illegal": False}}
    one.reset(0)
    _, rewards, _, _, _ = one.step(said | {"lawyer": "tiger"})  # a word, but of a game of five
    assert rewards == {"auditor": 0.25, "clerk": 1.0, "lawyer": 0.25}


def test_roles_and_words_are_many_and_apart() -> None:
    assert len(ROLES) == 64 == len(WORDS) == len(set(WORDS))
    for agent, role in {**ROLES, **RELAY_ROLES}.items():
        assert 8 <= len(role.split()) <= 16 and f"the {agent};" in role
    assert not set(WORDS) & {*COLOURS, "wait", *ROLES}
    assert not set(ASKING["train"]) & set(ASKING["test"]) and len(ASKING["train"]) == len(ASKING["test"]) == 8
    assert not set(SEEING["train"]) & set(SEEING["test"])
    one = game("synchronisation", n_agents=64)
    assert one.roles == ROLES and one.possible_agents == list(ROLES)
    assert game("specialisation", n_agents=2).roles == {agent: ROLES[agent] for agent in ("auditor", "clerk")}


# --------------------------------------------------------------------------------------------------- relay


@pytest.mark.parametrize("kinds", [2, 4, 8])
def test_relay_pays_both_only_if_the_porter_names_what_the_scout_saw(kinds: int) -> None:
    one = game("relay", kinds=kinds)
    colours = Counter()
    for seed in range(60):
        seen, _ = one.reset(seed)
        colour = next(colour for colour in COLOURS if colour in seen["scout"])
        colours[colour] += 1
        signals = one.words("scout")
        assert len(signals) == kinds and one.words("porter") == ("wait",)
        assert not any(colour in seen["porter"] for colour in COLOURS)
        signal = signals[seed % kinds]
        seen, rewards, ended, _, _ = one.step({"scout": signal} if seed % 2 else {"scout": signal, "porter": "wait"})
        assert rewards == {"scout": 0.0, "porter": 0.0} and not any(ended.values())
        assert signal in seen["porter"] and not any(colour in seen["porter"] for colour in COLOURS)
        assert one.words("scout") == ("wait",) and one.words("porter") == COLOURS[:kinds]
        named = one.words("porter")[seed % 3 % kinds]
        _, rewards, ended, cut, _ = one.step({"porter": named})
        assert rewards == dict.fromkeys(("scout", "porter"), float(named == colour))
        assert all(ended.values()) and not any(cut.values()) and not one.agents
    assert set(colours) == set(COLOURS[:kinds]) and min(colours.values()) > 60 / kinds / 4


def test_relay_fines_only_who_spoke_out_of_turn() -> None:
    one = game("relay", penalty=2.0)
    one.reset(0)
    _, rewards, _, _, infos = one.step({"scout": "hm", "porter": "wait"})
    assert rewards == {"scout": -2.0, "porter": 0.0} and infos["scout"]["illegal"] and not infos["porter"]["illegal"]
    _, rewards, _, _, infos = one.step({"scout": "apple", "porter": "violet"})
    assert infos["scout"]["illegal"] and infos["porter"]["illegal"] and max(rewards.values()) < 0


# --------------------------------------------------------------------------------------------------- as PettingZoo's


@pytest.mark.parametrize(
    "name, options", [("specialisation", {}), ("synchronisation", {"episode_steps": 4}), ("relay", {})]
)
def test_games_are_parallel_envs_of_texts(name: str, options: dict[str, Any]) -> None:
    one = game(name, **options)
    assert isinstance(one, ParallelEnv) and isinstance(one, TextEnv)
    parallel_api_test(one, 20)
    seen, _ = one.reset(0)
    for agent, text in seen.items():
        assert isinstance(one.observation_space(agent), spaces.Text) and isinstance(
            one.action_space(agent), spaces.Text
        )
        assert text in one.observation_space(agent) and one.action_space(agent).sample() in one.action_space(agent)
        assert all(word in one.action_space(agent) for word in one.words(agent))
        assert 3 not in one.action_space(agent)


# --------------------------------------------------------------------------------------------------- the wrapper


class Plainly:
    """A renderer that says numbers; `words` are those of every agent."""

    def __init__(self, *words: str, observe: Any = None, roles: Any = None) -> None:
        self.vocabulary, self.observe, self.given = words, observe, roles

    def roles(self, env: Any) -> dict[str, str]:
        return self.given if self.given is not None else {agent: f"You are {agent}." for agent in env.possible_agents}

    def observation(self, agent: str, observation: Any, info: Any) -> str:
        if self.observe is not None:
            return self.observe(observation)
        seen = observation["observation"] if isinstance(observation, dict) else observation
        return f"{agent} sees {seen.tolist()}"

    def words(self, agent: str) -> tuple[str, ...]:
        return self.vocabulary


MOVES = ("up", "down", "left", "right")


@pytest.mark.parametrize("act", ["discrete", "shifted"])
@pytest.mark.parametrize("mask", ["no", "observation", "info"])
def test_a_numeric_environment_is_put_into_words_and_its_masks_are_honoured(mask: str, act: str) -> None:
    first = 3 if act == "shifted" else 0
    one, numeric = InWords(Pistons(act=act, mask=mask), Plainly(*MOVES)), Pistons(act=act, mask=mask)
    texts, _ = one.reset(5)
    seen, infos = numeric.reset(5)
    assert one.roles["piston_1"] == "You are piston_1."
    rng = random.Random(0)
    for _ in range(50):
        if not one.agents:
            break
        for agent in one.agents:
            bare = seen[agent]["observation"] if mask == "observation" else seen[agent]
            assert texts[agent] == f"{agent} sees {bare.tolist()}"
            legal = {"no": [1] * 4, "observation": [], "info": []}[mask]
            if mask == "observation":
                legal = seen[agent]["action_mask"]
            elif mask == "info":
                legal = infos[agent]["action_mask"]
            assert one.words(agent) == tuple(word for word, fine in zip(MOVES, legal, strict=True) if fine)
        said = {agent: rng.choice(one.words(agent)) for agent in one.agents}
        texts, rewards, ended, cut, told = one.step(said)
        numbers = {agent: first + MOVES.index(word) for agent, word in said.items()}
        seen, earned, *flags, infos = numeric.step(numbers)
        assert (rewards, [ended, cut]) == (earned, flags)
        assert not any(told[agent]["illegal"] for agent in said)
        assert one.agents == numeric.agents
    assert not one.agents and one.words("piston_0") == ()


def test_a_masked_word_is_illegal_and_counts_as_the_first_legal_one() -> None:
    one, numeric = InWords(Pistons(mask="info"), Plainly(*MOVES), penalty=0.5), Pistons(mask="info")
    one.reset(1)
    numeric.reset(1)
    assert "up" not in one.words("piston_0") and "up" in one.words("piston_1")
    _, rewards, _, _, infos = one.step({"piston_0": "Up!", "piston_1": "Up!", "piston_2": "so: right"})
    _, earned, *_ = numeric.step({"piston_0": 1, "piston_1": 0, "piston_2": 3})
    assert rewards == earned | {"piston_0": earned["piston_0"] - 0.5}
    assert [infos[f"piston_{i}"]["illegal"] for i in range(3)] == [True, False, False]


def test_a_game_of_pettingzoo_in_words() -> None:
    from pettingzoo.classic import rps_v2

    moves = ("rock", "paper", "scissors", "nothing")
    kinds = dict(enumerate(moves))
    one = InWords(rps_v2.parallel_env(max_cycles=3), Plainly(*moves[:3], observe=lambda seen: kinds[int(seen)]))
    parallel_api_test(one, 10)
    one.reset(0)
    texts, rewards, *_ = one.step({"player_0": "I choose rock", "player_1": "Paper"})
    assert texts == {"player_0": "paper", "player_1": "rock"} and rewards == {"player_0": -1.0, "player_1": 1.0}


def test_in_a_turn_based_game_only_the_mover_is_asked() -> None:
    one = InWords(TurnRelay(), Plainly("pass", "hit"))
    texts, _ = one.reset(0)
    moved = []
    while one.agents:
        asked = [agent for agent in one.agents if one.words(agent)]
        assert len(asked) == 1 and [agent for agent in texts if texts[agent]] == asked
        moved += asked
        texts, rewards, *_ = one.step({asked[0]: "hit"})
    assert moved == ["left", "right"] * 2 + ["left"] and rewards == {"left": 1.0, "right": -1.0}


@pytest.mark.parametrize(
    "env, renderer, sentence",
    [
        (Pistons(), Plainly("up", "down"), "agent 'piston_0' has 4 actions, but the renderer has 2 words"),
        (Pistons(), Plainly("up", "down", "UP", "left"), "two actions of agent 'piston_0' have the word 'UP'"),
        (Pistons(), Plainly("up", "down", " left", "right"), "' left' is no word for agent 'piston_0'"),
        (Pistons(act="box"), Plainly(*MOVES), "acts in a Box space; words need a Discrete one"),
        (Pistons(), Plainly(*MOVES, roles={"piston_0": "x"}), "its roles say nothing about agent 'piston_1'"),
        (Pistons(), Plainly(*MOVES, roles=3), "the renderer's roles raised TypeError"),
        (Pistons(), Plainly(*MOVES, observe=lambda seen: 3), "observation of 'piston_0' is a int, not a text"),
        (Pistons(), Plainly(*MOVES, observe=lambda seen: seen["x"]), "observation of 'piston_0' raised IndexError"),
        (Pistons(fault="raise in reset"), Plainly(*MOVES), "reset raised KeyError"),
    ],
)
def test_what_cannot_be_put_into_words_is_said_in_a_sentence(env: Any, renderer: Any, sentence: str) -> None:
    with pytest.raises(EnvironmentFault, match=sentence):
        InWords(env, renderer).reset(0)
    with pytest.raises(EnvironmentFault, match="option 'penalty' must be a number of at least 0"):
        InWords(Pistons(), Plainly(*MOVES), penalty=-1)


# --------------------------------------------------------------------------------------------------- one's own


class Echo:
    """Two agents; free text; pays its length. No `ParallelEnv`, but it has what a `TextEnv` has."""

    def __init__(self, fault: str = "") -> None:
        self.possible_agents, self.agents = ["a", "b"], []
        self.roles: Any = {"a": "You are a.", "b": "You are b."}
        self.fault = fault
        if fault == "roles":
            self.roles = ["You are a."]

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.agents = ["a", "b"]
        return dict.fromkeys(self.agents, 3 if self.fault == "number" else "Speak."), {"a": {}, "b": {}}

    def step(self, actions: dict[str, str]) -> Any:
        self.agents = []
        rewards: dict[str, Any] = {agent: len(text) for agent, text in actions.items()}
        if self.fault == "reward":
            rewards["a"] = float("nan")
        if self.fault == "step":
            raise KeyError("b")
        flags = dict.fromkeys(actions, True) if self.fault != "flags" else {}
        return dict.fromkeys(actions, "Bye."), rewards, flags, dict.fromkeys(actions, False), {"a": {}, "b": {}}

    def words(self, agent: str) -> Any:
        return "yes" if self.fault == "words" else None


def numbers() -> Any:
    return Pistons()


def number() -> int:
    return 3


def test_ones_own_is_opened_by_name() -> None:
    one: Any = make_text(*parse_text("test_words:Echo"))
    assert isinstance(one, TextEnv) and isinstance(one, ParallelEnv)
    parallel_api_test(one, 3)
    assert one.reset(0)[0] == {"a": "Speak.", "b": "Speak."} and one.words("a") is None
    assert one.step({"a": "hello", "b": ""})[1] == {"a": 5.0, "b": 0.0} and one.agents == []


@pytest.mark.parametrize(
    "name, options, sentence",
    [
        ("test_words:Ecko", {}, "has no function 'Ecko'; did you mean 'Echo'"),
        ("no_such_thing:make", {}, "there is no module 'no_such_thing'"),
        ("test_words:Echo", {"fualt": 1}, "has no option 'fualt'; did you mean 'fault'"),
        ("test_words:number", {}, "made a int, which has no 'possible_agents' and so is no TextEnv"),
        ("test_words:numbers", {}, "its agents see and do numbers; put them into words with .*InWords"),
        ("test_words:Echo", {"fault": "roles"}, "its 'roles' is a list, not a text for each agent's name"),
        ("test_words:Echo", {"fault": "number"}, "what agent 'a' observes is a int, not a text"),
        ("test_words:Echo", {"fault": "words"}, r"words\('a'\) must be a tuple of words or None, not 'yes'"),
        ("test_words:Echo", {"fault": "reward"}, "the reward of agent 'a' is nan"),
        ("test_words:Echo", {"fault": "flags"}, "step gave agent 'a' no reward, termination or truncation"),
        ("test_words:Echo", {"fault": "step"}, "step raised KeyError: 'b'"),
    ],
)
def test_what_ones_own_does_wrong_is_said_in_a_sentence(name: str, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(EnvironmentFault) as caught:
        one = make_text("pettingzoo", name, options=options)
        one.reset(0)
        one.words("a")
        one.step({"a": "x", "b": "y"})
    assert re.match(rf"Environment '{name}': .*{sentence}.*\.$", str(caught.value)), caught.value


# --------------------------------------------------------------------------------------------------- names and options


def test_every_environment_in_words_is_listed_and_made_by_its_string() -> None:
    listed = dict(text_catalogue())
    assert {"words/specialisation", "words/synchronisation", "words/relay", "textarena/KuhnPoker-v0"} <= set(listed)
    for string in listed:
        if string.startswith("words/"):
            one = make_text(*parse_text(string))
            assert isinstance(one, TextEnv) and one.metadata["name"] == string  # type: ignore[attr-defined]
    assert parse_text("words/relay") == ("words", "relay") and parse_text("a.b:c") == ("pettingzoo", "a.b:c")


@pytest.mark.parametrize(
    "text, sentence",
    [
        ("word/relay", "'word/relay' is of an unknown kind of text 'word'; did you mean 'words'?"),
        ("words/realy", "'words/realy' does not exist; did you mean 'relay'?"),
        ("words/", "'words/' lacks a name: write 'words/<name>'."),
        ("words", "'words' lacks a name: write 'words/<name>'."),
        ("relay", "'relay' is not of the form 'kind/name'; did you mean 'words/relay'?"),
        ("games/specialisation", "'games/specialisation' is of an unknown kind of text 'games'; there is"),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest(text: str, sentence: str) -> None:
    with pytest.raises(EnvironmentFault) as caught:
        make_text(*parse_text(text))
    assert str(caught.value).startswith(f"Environment {sentence}")


@pytest.mark.parametrize(
    "name, options, sentence",
    [
        ("specialisation", {"n_agent": 3}, "has no option 'n_agent'; did you mean 'n_agents'?"),
        ("specialisation", {"n_agents": 65}, "option 'n_agents' must be a whole number from 2 to 64, not 65."),
        ("specialisation", {"n_agents": 1}, "option 'n_agents' must be a whole number from 2 to 64, not 1."),
        (
            "synchronisation",
            {"episode_steps": 0},
            "option 'episode_steps' must be a whole number of at least 1, not 0.",
        ),
        ("synchronisation", {"phrasings": "tests"}, "option 'phrasings' cannot be 'tests'; did you mean 'test'?"),
        ("relay", {"kinds": 9}, "option 'kinds' must be a whole number from 2 to 8, not 9."),
        ("relay", {"penalty": True}, "option 'penalty' must be a number of at least 0, not True."),
        ("relay", {"penalty": float("nan")}, "option 'penalty' must be a number of at least 0, not nan."),
        ("relay", {"n_agents": 2}, "has no option 'n_agents'; there is 'kinds', 'penalty', 'phrasings'."),
    ],
)
def test_bad_options_are_refused_in_a_sentence(name: str, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(EnvironmentFault) as caught:
        game(name, **options)
    assert str(caught.value) in (f"Environment 'words/{name}' {sentence}", f"Environment 'words/{name}': {sentence}")


def test_bad_steps_are_refused_in_a_sentence() -> None:
    one = game("specialisation", n_agents=2)
    with pytest.raises(EnvironmentFault, match="must be reset before it is stepped"):
        one.step({})
    one.reset(0)
    with pytest.raises(EnvironmentFault, match="agent 'clerk' was asked and gave no text"):
        one.step({"auditor": "apple"})
    with pytest.raises(EnvironmentFault, match="agent 'clerk' was asked and gave a int for a text"):
        one.step({"auditor": "apple", "clerk": 3})
    with pytest.raises(EnvironmentFault, match="no living agent 'clark'; did you mean 'clerk'"):
        one.step({"auditor": "apple", "clark": "apple"})


@pytest.mark.parametrize("text", ["words/relay", "words/nothing", "textarena/KuhnPoker-v0"])
def test_training_of_numbers_sends_environments_in_words_elsewhere(text: str) -> None:
    with pytest.raises(EnvironmentFault, match="is played in words: train it by `hypermarl swarm train`"):
        parse(text)
    with pytest.raises(EnvironmentFault, match="is played in words: train it by `hypermarl swarm train`"):
        make(*text.split("/"))


@pytest.mark.parametrize("preset", [name for name in presets("env") if name.startswith("words/")])
def test_every_preset_makes_its_game(preset: str) -> None:
    settings = compose([f"env={preset}"], root="swarm")["env"]
    one: Any = make_text(settings["kind"], settings["name"], options=settings["options"])
    assert one.name == preset and one.reset(0)


@pytest.mark.slow
def test_words_are_one_token_each_in_the_real_vocabulary_and_messages_are_short() -> None:
    from hypermarl.language.backbone import load_backbone

    encode = load_backbone().encode
    tokens = [encode(f" {word}", chat=False) for word in (*WORDS, *COLOURS, "wait")]
    assert {len(each) for each in tokens} == {1} and len({each[0] for each in tokens}) == len(tokens)
    messages = [text for part in ASKING.values() for text in part]
    messages += [text.format("yellow") for part in SEEING.values() for pair in part for text in pair]
    assert max(len(encode(text, chat=False)) for text in messages) < 15
