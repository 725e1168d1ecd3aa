"""Environments in words: they pay as the numeric games do, read texts as words, and say in a sentence what is wrong."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
import torch
from gymnasium import spaces
from pettingzoo import ParallelEnv
from pettingzoo.test import parallel_api_test

from hypermarl.envs import make
from hypermarl.envs.words import TextEnv, make_text, read_word
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
