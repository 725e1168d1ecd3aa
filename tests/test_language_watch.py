"""Monitors of learning from reward: they name what went wrong, once, and hold their tongue on healthy runs."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable

import pytest

from hypermarl.language.watch import Bounds, Watch

AGENTS = ("auditor", "clerk", "lawyer")
Curve = Callable[[int], dict[str, float]]


def told(curve: Curve, updates: int = 80, bounds: Bounds | None = None) -> list[tuple[int, str]]:
    watch = Watch(AGENTS, 16, bounds or Bounds())
    return [(update, sentence) for update in range(updates) for sentence in watch.look(curve(update))]


def run(
    reward: Callable[[int], float],
    entropy: Callable[[int], float],
    only: str | None = None,
    **more: Callable[[int], float],
) -> Curve:
    """Noisy returns around `reward`; of agents other than `only`, if given, a healthy run's."""
    rng = random.Random(4)

    def curve(update: int) -> dict[str, float]:
        values = {}
        for agent in AGENTS:
            ours = only in (None, agent)
            values[f"return/{agent}"] = (reward if ours else rising)(update) + rng.gauss(0.0, 0.02)
            values[f"policy/entropy/{agent}"] = (entropy if ours else falling)(update)
            for name, each in more.items():
                values[f"policy/{name}/{agent}"] = each(update) if ours else each(0)
        values["return/team"] = sum(values[f"return/{agent}"] for agent in AGENTS) / len(AGENTS)
        return values

    return curve


def rising(update: int) -> float:
    return 0.3 + 0.7 / (1.0 + math.exp(-(update - 20) / 4))


def falling(update: int) -> float:
    return 1.4 / (1.0 + math.exp((update - 20) / 2))


def crashed(update: int) -> float:
    return rising(update) if update < 50 else 0.12


def test_a_collapse_is_named_once_with_its_numbers() -> None:
    sentences = told(run(crashed, falling, only="clerk"))
    assert len(sentences) == 1
    update, sentence = sentences[0]
    assert 50 < update < 60
    said = re.fullmatch(
        r"clerk: .* no longer vary \(entropy 0.000\) and its .* fell from (.*) to (.*): collapsed.", sentence
    )
    assert said and float(said[1]) == pytest.approx(1.0, abs=0.03) and 0.1 < float(said[2]) < 0.6


@pytest.mark.parametrize(
    "reward",
    [
        rising,
        lambda update: -5.0 + 4.0 * rising(update),  # paid below nothing
        lambda update: 0.0,  # nothing to gain, as between two who play equally well
        lambda update: rising(update) - 0.15 * (30 <= update < 34),  # a dent
    ],
)
def test_a_run_that_settles_on_good_answers_is_healthy(reward: Callable[[int], float]) -> None:
    assert told(run(reward, falling)) == []


def test_a_fall_of_reward_alone_is_no_collapse() -> None:
    """While answers still vary it may be exploration, or the others' doing."""
    assert told(run(crashed, lambda update: 0.7)) == []


def test_noise_is_no_fall() -> None:
    rng = random.Random(1)
    assert told(run(lambda update: rng.choice([-1.0, 1.0]), lambda update: 0.0), 300) == []


def test_an_early_collapse_is_seen_against_the_start() -> None:
    sentences = told(run(lambda update: 0.6 if update < 5 else 0.25, lambda update: 1.0 if update < 5 else 0.001))
    assert sorted(sentence.split(":")[0] for _, sentence in sentences) == sorted(AGENTS)


def test_being_far_from_the_frozen_model_is_named() -> None:
    far = told(run(rising, falling, only="lawyer", kl=lambda update: 3.0 * update))
    assert [sentence.split(":")[0] for _, sentence in far] == ["lawyer"] and "nats away" in far[0][1]
    assert told(run(rising, falling, kl=lambda update: 8.0)) == []
    assert told(run(rising, falling, kl=lambda update: 3.0), bounds=Bounds(divergence=2.0)) != []


@pytest.mark.parametrize(
    "length, words",
    [
        (lambda update: 6.0 if update < 9 else 0.1, "become empty"),
        (lambda update: min(16.0, 5.0 + update), "no longer end"),
    ],
)
def test_lengths_that_vanish_or_explode_are_named(length: Callable[[int], float], words: str) -> None:
    sentences = told(run(rising, falling, only="auditor", length=length))
    assert len(sentences) == 1 and sentences[0][1].startswith("auditor") and words in sentences[0][1]


def test_answers_that_were_always_long_or_short_are_nobodys_fault() -> None:
    for length in (16.0, 0.2):
        assert told(run(rising, falling, length=lambda update, length=length: length)) == []


def test_agents_that_have_become_alike_are_named_unless_they_are_paid_for_it() -> None:
    def alike(reward: Callable[[int], float]) -> Curve:
        inner = run(reward, lambda update: 0.5)
        return lambda update: inner(update) | {"distinct": 1.0 if update < 50 else 1 / len(AGENTS)}

    sentences = told(alike(crashed))
    assert len(sentences) == 1 and "All agents say the same" in sentences[0][1]
    assert told(alike(rising)) == []


def test_it_waits_for_a_few_updates() -> None:
    short = run(rising, falling, kl=lambda update: 99.0 * (update in (5, 6, 9)))
    assert told(short) == []
    assert told(short, bounds=Bounds(patience=2)) != []
