"""Conversations: legal words alone, equal questions read once, free text as probable as the model says."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
import small_language as tiny
import small_words
import torch
from small import close, rng, stirred
from torch import Tensor

from hypermarl.errors import UserError
from hypermarl.language.converse import Answer, Asking, Question, Speech, converse, pieces
from hypermarl.language.player import WordPlayer
from hypermarl.language.rewarding import Rewarding

NUMBERS = {word: i for i, word in enumerate(tiny.WORDS)}
AGENTS = ("auditor", "clerk", "scout")
WEIGHTS = tiny.adapters(len(AGENTS))


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("model")


def question(agent: str, prompt: str, *words: str) -> Question:
    number = AGENTS.index(agent)
    return Question(number, tuple(NUMBERS[word] for word in prompt.split()), tuple(NUMBERS[word] for word in words))


def speech(temperature: float = 1.0, weights: Any = WEIGHTS) -> Speech:
    return Speech(tiny.backbone(), tiny.target(), weights, temperature)


def alone(agent: str | None, tokens: list[int]) -> Tensor:
    """Logits `[L, V]` of one row under one agent's adapters."""
    inputs = {"input_ids": torch.tensor([tokens]), "attention_mask": torch.ones(1, len(tokens), dtype=torch.long)}
    if agent is None:
        return tiny.backbone().model(**inputs).logits[0]
    return tiny.target().apply(tiny.agent(WEIGHTS, AGENTS.index(agent)), inputs).logits[0]


QUESTIONS = [
    question("clerk", "red cat one", "blue", "dog"),
    question("auditor", "moon", "red", "green", "blue", "two"),
    question("clerk", "red cat one", "dog", "blue"),
    question("scout", "sun two two red dog", "one", "two", "cat"),
    question("clerk", "one", "blue", "dog"),
]


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_a_choice_is_among_the_legal_words_alone(temperature: float) -> None:
    for asked, found in zip(QUESTIONS, speech(temperature).choices(QUESTIONS), strict=True):
        logits = alone(AGENTS[asked.owner], list(asked.tokens))[-1] / temperature
        close(found, logits[list(asked.words)].log_softmax(-1))
        close(found.exp().sum(), torch.tensor(1.0))
    plain = speech(weights=None).choices(QUESTIONS)
    close(plain[1], alone(None, [NUMBERS["moon"]])[-1, list(QUESTIONS[1].words)].log_softmax(-1))


def test_there_is_gradient_as_long_as_there_is_room() -> None:
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in WEIGHTS.items()}
    one = speech(weights=leaves)
    assert all(found.requires_grad for found in one.choices(QUESTIONS))
    one.room = 10
    assert not one.choices(QUESTIONS)[0].requires_grad  # twelve tokens, three of them to fill up
    assert one.choices([QUESTIONS[0]])[0].requires_grad and one.room == 7
    assert one.choices(QUESTIONS[:3])[0].requires_grad and one.room == 2  # two rows are one; moon, and one to fill up
    one.room = None
    assert all(found.requires_grad for found in one.choices(QUESTIONS))


def test_free_text_is_as_probable_as_the_model_says() -> None:
    asked = [question("scout", "sun two"), question("clerk", "red cat one"), question("scout", "moon")] * 8
    answers = speech(2.0).write(asked, 5, rng(2))
    assert {answer.ended for answer in answers} == {True, False}
    assert any(not answer.tokens for answer in answers)
    log_prob, counts, spread = speech(2.0).written(answers)
    for i, answer in enumerate(answers):
        tokens = [*answer.question.tokens, *answer.tokens]
        scores = (alone(AGENTS[answer.question.owner], tokens) / 2.0).log_softmax(-1)
        scores = scores[len(answer.question.tokens) - 1 :][: answer.length]
        wanted = [*answer.tokens, 0][: answer.length]  # <end> is the only token that ends a text here
        mine = counts[i].bool()
        assert int(mine.sum()) == answer.length and len(answer.tokens) <= 5 and 0 not in answer.tokens
        close(log_prob[i, mine], scores[range(len(wanted)), wanted])
        close(spread[i, mine], -(scores.exp() * scores).sum(-1))
        assert not log_prob[i, ~mine].any()


def test_any_token_that_ends_a_text_will_do_as_the_end() -> None:
    backbone = dataclasses.replace(tiny.backbone(), name="two ends")
    backbone.__dict__["stops"] = frozenset({0, 1})
    answer = Answer(question("clerk", "red"), (3,), True)
    log_prob, counts, _ = Speech(backbone, tiny.target(), WEIGHTS, 1.0).written([answer])
    scores = alone("clerk", [NUMBERS["red"], 3])[-1].softmax(-1)
    close(log_prob[0, -1].exp(), scores[0] + scores[1])
    assert counts.tolist() == [[1, 1]]


def test_answers_are_drawn_as_often_as_they_are_probable(folder: Path) -> None:
    one = stirred_learner(folder)
    envs = [one.make_env() for _ in range(1500)]
    found = converse(one.asking, one._spoken(one.actor.weights(one.who())), envs, [7] * 1500, rng(), 4)
    said: dict[Question, Counter[int]] = defaultdict(Counter)
    for turn in found.turns:
        said[turn.question][turn.choice] += 1
    assert len(found.known) == len(said) == 3
    for each, counts in said.items():
        for number, share in enumerate(found.known[each].exp().tolist()):
            assert abs(counts[number] / 1500 - share) < 4 * (share * (1 - share) / 1500) ** 0.5 + 1e-3


def stirred_learner(folder: Path, **env: Any) -> Rewarding:
    one = small_words.learner(folder, "hyper_linear", env)
    stirred(one.actor)
    return one


def test_everybody_says_what_is_legal_at_the_time(folder: Path) -> None:
    """The game refuses any other word; the scout has three words, then one, then none."""
    one = stirred_learner(folder, steps=4)
    found = one.converse(one._spoken(one.actor.weights(one.who())))
    for turn in found.turns:
        words = small_words.LEGAL[turn.step % 2]
        assert turn.said == words[turn.choice] and len(turn.question.words) == len(words)
        if turn.step:
            before = {t.agent: t.said for t in found.turns if (t.copy, t.step) == (turn.copy, turn.step - 1)}
            assert all(word in turn.prompt.split() for word in before.values())
    asked = Counter((turn.agent, turn.step) for turn in found.turns)
    copies = len(one.envs)
    assert asked == {(a, s): copies for a in AGENTS for s in range(4) if a != "scout" or s == 0}
    assert all(len(steps) == 4 for steps in found.rewards)


def test_copies_of_a_group_begin_alike_and_all_follows_from_seed_and_update(folder: Path) -> None:
    def talk(update: int, **sections: Any) -> list[tuple[Any, ...]]:
        one = small_words.learner(folder, "hyper_linear", {"steps": 2}, **sections)
        stirred(one.actor)
        one.update = update
        found = one.converse(one._spoken(one.actor.weights(one.who())))
        return [(turn.copy, turn.step, turn.agent, turn.prompt, turn.said) for turn in found.turns]

    first = talk(3)
    assert first == talk(3) and first != talk(4) and first != talk(3, seed=1)
    starts = {(copy // 2, prompt) for copy, step, _, prompt, _ in first if step == 0}
    assert len(starts) == 3  # groups of two of the six copies
    several = [len({prompt for _, step, _, prompt, _ in talk(u, reward={"group": 1}) if step == 0}) for u in range(6)]
    assert max(several) > 1


def test_rounds_are_added_up(folder: Path) -> None:
    one = small_words.learner(folder, env={"steps": 2}, reward={"episodes": 3})
    found = one.converse(one._spoken(one.actor.weights(one.who())))
    assert len(found.rewards) == 18 and {turn.copy for turn in found.turns} == set(range(18))
    one.iterate()
    assert one.counters() == {"episodes": 18, "turns": len(found.turns)}


def test_words_that_begin_alike_are_refused(folder: Path) -> None:
    """What the tokenizer does not know is one and the same token to it."""
    one = small_words.learner(folder)
    with pytest.raises(UserError, match="'cow' and 'owl' begin with the same token"):
        one.asking.question("clerk", "red", ("cat", "cow", "owl"))
    assert one.asking.first_tokens(("cat", "dog")) == (NUMBERS["cat"], NUMBERS["dog"])


def test_who_shares_adapters_shares_questions_unless_told_its_role(folder: Path) -> None:
    def asked(sharing: str) -> set[Question]:
        asking = small_words.learner(folder, sharing).asking
        return {asking.question(agent, "red cat", ("one", "two")) for agent in AGENTS}

    assert len(asked("shared")) == 1
    assert len(asked("shared_id")) == 3 and {each.owner for each in asked("shared_id")} == {0}
    assert {each.owner for each in asked("hyper_mlp")} == {0, 1, 2}


def test_a_prompt_longer_than_the_window_is_refused() -> None:
    with pytest.raises(UserError, match="the model reads 40"):
        speech().choices([question("clerk", "red " * 41, "blue", "dog")])
    with pytest.raises(UserError, match="the model reads 40"):
        speech().write([question("clerk", "red " * 38)], 5, rng())


def test_an_episode_without_end_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hypermarl.language.converse.LONGEST", 3)
    one = small_words.learner(folder, env={"steps": 4})
    with pytest.raises(UserError, match="did not end within 3 steps"):
        one.iterate()


def test_pieces_hold_so_many_tokens_what_begins_alike_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hypermarl.language.converse.PIECE", 12)
    draw = random.Random(0)
    for _ in range(50):
        items = [
            (draw.randint(0, 1), tuple(draw.choices((1, 2), k=draw.randint(1, 9)))) for _ in range(draw.randint(0, 20))
        ]
        found = pieces(items, lambda item: item)
        assert [item for piece in found for item in piece] == sorted(items)
        sizes = [len({(owner, row[:n]) for owner, row in piece for n in range(1, len(row) + 1)}) for piece in found]
        assert all(size <= 12 for size in sizes)
        for piece, other, size in zip(found, found[1:], sizes, strict=False):
            begun = {(owner, row[:n]) for owner, row in piece for n in range(1, len(row) + 1)}
            owner, row = other[0]
            assert size + sum((owner, row[:n]) not in begun for n in range(1, len(row) + 1)) > 12, (
                "as few as there can be"
            )


def test_a_player_says_the_likeliest_or_draws_and_asks_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = stirred_learner(folder)
    weights = {name: tensor.detach() for name, tensor in one.actor.weights(one.who()).items()}
    player = WordPlayer(one.asking, one._spoken(weights), 4)
    with pytest.raises(RuntimeError, match="attach"):
        player.reset(list(AGENTS), 0)
    env = player.attach(one.make_env())
    passes = []
    monkeypatch.setattr(player.speech, "choices", lambda q: passes.append(len(q)) or Speech.choices(player.speech, q))
    for _ in range(3):
        seen, _ = env.reset(seed=5)
        player.reset(env.agents, 5)
        said = player.act(seen)
        for agent, word in said.items():
            scores = player.speech.choices([one.asking.question(agent, seen[agent], small_words.LEGAL[0])])[0]
            assert word == small_words.LEGAL[0][int(scores.argmax())]
    assert passes.count(3) == 1

    loose = WordPlayer(one.asking, one._spoken(weights), 4, greedy=False)
    loose.attach(env)
    drawn = []
    for seed in [1, 1, *range(2, 30)]:
        seen, _ = env.reset(seed=5)
        loose.reset(env.agents, seed)
        drawn.append(tuple(loose.act(seen).values()))
    assert drawn[0] == drawn[1] and len(set(drawn)) > 1


def test_a_player_writes_free_text(folder: Path) -> None:
    one = stirred_learner(folder, free=True)
    found = one.play(3, 0, greedy=False)
    assert found.returns.shape == (3, 3) and found.lengths.tolist() == [1, 1, 1]


def test_asking_reads_roles_where_the_prompt_is_to_hold_them(folder: Path) -> None:
    one = small_words.learner(folder, "shared_id")
    asking = Asking(one.config, one.backbone, one.roles)
    told = asking.question("clerk", "red cat", None)
    assert told.words == () and one.backbone.decode(told.tokens) == "moon two cat red cat"
