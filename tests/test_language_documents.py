"""Documents of policy: what they state can be read from their text alone, and what tests ask was never asked before."""

from __future__ import annotations

import random
import re
import time
from collections import Counter
from functools import cache
from typing import Any

import pytest
import torch

from hypermarl.conditioning import Described
from hypermarl.errors import UserError
from hypermarl.language.agents import Descriptions
from hypermarl.language.backbone import load_backbone
from hypermarl.language.settings import DescriptionConfig
from hypermarl.language.task import Role, Task
from hypermarl.language.tasks import make_task
from hypermarl.language.tasks.documents import chunks, top_chunks
from hypermarl.language.tasks.documents_topics import TOPICS


def task(**options: Any) -> Task:
    return make_task("documents", options)


@cache
def usual() -> Task:
    return task()


def stated(text: str, values: tuple[str, ...]) -> list[str]:
    """The values that stand in a text as words of their own, whatever the case."""
    words = f" {' '.join(re.findall(r'[a-z0-9]+', text.lower()))} "
    return [value for value in values if f" {value.lower()} " in words]


@cache
def all_stated(role: Role) -> dict[str, str]:
    found = {topic.name: stated(role.wordings[0], topic.values) for topic in TOPICS}
    assert all(len(values) <= 1 for values in found.values()), found
    return {name: values[0] for name, values in found.items() if values}


def asked(role: Role, test: bool, times: int = 1, seed: int = 0) -> list[Any]:
    rng = random.Random(seed)
    return [usual().draw(role, rng, test) for _ in range(times)]


def test_topics_have_values_of_their_own() -> None:
    assert len(TOPICS) == len({topic.name for topic in TOPICS}) == 24
    values = [value.lower() for topic in TOPICS for value in topic.values]
    assert len(values) == len(set(values)) and all(8 <= len(topic.values) <= 10 for topic in TOPICS)
    for topic in TOPICS:
        for value in topic.values:
            others = tuple(other for each in TOPICS for other in each.values if other != value)
            assert not stated(value, others), "a value within a value would be found twice"


def test_each_topic_is_stated_and_asked_in_several_ways() -> None:
    everything = tuple(value for topic in TOPICS for value in topic.values)
    for topic in TOPICS:
        assert len(set(topic.statements)) >= 3 and all(text.count("{v}") == 1 for text in topic.statements)
        assert len(set(topic.questions)) >= 3 and len(set(topic.unseen)) >= 2
        assert not set(topic.questions) & set(topic.unseen)
        for text in topic.statements + topic.questions + topic.unseen:
            assert not stated(text.format(v=""), everything), text
        for text in topic.statements:  # a wrong article would give the value away, or be wrong
            said = [text.format(v=value) for value in topic.values]
            assert not any(re.search(r"\b[Aa] [aeio]|\b[Aa]n [^aeioh]", each) for each in said), text
    questions = [text for topic in TOPICS for text in topic.questions + topic.unseen]
    assert len(questions) == len(set(questions)), "a question belongs to one topic"


def test_counts_and_lengths() -> None:
    one = usual()
    assert (len(one.of("trained")), len(one.of("new")), len(one.roles)) == (400, 60, 460)
    assert one.roles[0].name == "document/0001" and one.roles[-1].name == "new/0060"
    assert len({role.wordings for role in one.roles}) == 460
    for options, low, high in (({}, 440, 840), ({"words": [440, 1650]}, 440, 1650), ({"words": 500}, 500, 500)):
        lengths = [len(role.wordings[0].split()) for role in task(documents=150, held_out=0, **options).roles]
        assert low <= min(lengths) < low + 100 and high - 100 < max(lengths) < high + 50
    few = task(documents=3, held_out=2, clauses=24, words=600)
    assert all(len(all_stated(role)) == 24 for role in few.roles)


def test_fewer_topics_are_the_first_ones_and_every_document_may_state_them_all() -> None:
    one = task(documents=6, held_out=2, clauses=3, topics=3, words=100)
    for role in one.roles:
        asked = {one.draw(role, random.Random(i), False).choices for i in range(60)}
        assert asked == {topic.values for topic in TOPICS[:3]}


def test_every_document_states_one_value_of_as_many_topics_as_it_has_clauses() -> None:
    combinations = {role.name: frozenset(all_stated(role).items()) for role in usual().roles}
    assert {len(facts) for facts in combinations.values()} == {12}
    assert len(set(combinations.values())) == 460, "held-out documents state what no other does"
    trained = frozenset().union(*(combinations[role.name] for role in usual().of("trained")))
    assert all(facts <= trained for facts in combinations.values()), "but each value was trained"
    chosen = Counter(name for facts in combinations.values() for name, _ in facts)
    assert len(chosen) == 24 and min(chosen.values()) > 150
    where = [
        role.wordings[0].index(value) / len(role.wordings[0])
        for role in usual().roles[:100]
        for value in (asked(role, False)[0].answer,)
        if value in role.wordings[0]
    ]
    assert min(where) < 0.2 and max(where) > 0.8, "anywhere in the text"


def test_documents_may_have_more_or_fewer_clauses() -> None:
    some = task(documents=200, held_out=50, clauses=(3, 6))
    for part, least in (("trained", 30), ("new", 5)):
        counts = Counter(len(all_stated(role)) for role in some.of(part))  # type: ignore[arg-type]
        assert set(counts) == {3, 4, 5, 6} and min(counts.values()) >= least, counts


def test_no_two_documents_state_the_same_even_where_chance_would_have_it() -> None:
    """Of 800 draws among some 18,000 combinations about eighteen would be repeated."""
    one = task(documents=600, held_out=200, clauses=2, words=40)
    assert len({frozenset(all_stated(role).items()) for role in one.roles}) == 800


@pytest.mark.parametrize("test", [False, True])
def test_questions_are_of_the_documents_own_clauses_and_answers_stand_in_its_text(test: bool) -> None:
    wordings = {text: topic for topic in TOPICS for text in (topic.unseen if test else topic.questions)}
    for number, role in enumerate(usual().roles):
        known = all_stated(role)
        for example in asked(role, test, 5, number):
            topic = wordings[example.prompt]
            assert example.answer == known[topic.name]
            assert example.choices == topic.values and example.answer in example.choices


def test_all_clauses_and_questions_are_drawn_alike_and_those_of_tests_in_other_words() -> None:
    role = usual().roles[7]
    drawn = {test: asked(role, test, 6000) for test in (False, True)}
    for test, each in ((False, 4), (True, 2)):
        answers = Counter(example.answer for example in drawn[test])
        assert set(answers) == set(all_stated(role).values())
        assert all(400 < count < 600 for count in answers.values())
        assert len({example.prompt for example in drawn[test]}) == 12 * each
    assert not {example.prompt for example in drawn[False]} & {example.prompt for example in drawn[True]}


def test_values_are_balanced_over_documents() -> None:
    """Without the document, a guess is right about as often as chance."""
    for topic in TOPICS:
        held = Counter(all_stated(role).get(topic.name) for role in usual().roles)
        del held[None]
        assert set(held) == set(topic.values) and max(held.values()) < 2.2 * held.total() / len(topic.values)


def test_a_seed_decides_all_and_more_documents_begin_with_those_of_fewer() -> None:
    few, many, other = task(documents=20, held_out=5), task(documents=50, held_out=5), task(documents=20, seed=1)
    assert few.of("trained") == many.of("trained")[:20] == task(documents=20, held_out=5).of("trained")
    assert few.of("new") == many.of("new")
    assert not {role.wordings for role in few.roles} & {role.wordings for role in other.roles}
    assert asked(usual().roles[3], True, 9, 4) == asked(usual().roles[3], True, 9, 4)


def test_five_hundred_documents_take_no_time() -> None:
    start = time.process_time()
    task(documents=440, held_out=60)
    assert time.process_time() - start < 2.0  # 0.15 on an idle machine


def test_chunks_are_whole_sentences_and_lose_nothing() -> None:
    assert chunks("One two. Three!\n\nFour five six seven? Eight", 3) == [
        "One two. Three!",
        "Four five six seven?",
        "Eight",
    ]
    for role in usual().roles[:50]:
        text = role.wordings[0]
        for size in (10, 40, 100):
            parts = chunks(text, size)
            assert " ".join(parts).split() == text.split()
            ends = [line.split()[-1] for line in text.splitlines() if line]  # of headings too
            for part in parts:
                assert part[-1] in ".!?" or part.split()[-1] in ends
                assert len(part.split()) <= size or not re.search(r"[.!?] ", part)
        assert len(chunks(text, 40)) > 8


def test_retrieval_finds_the_clause_far_more_often_than_chance() -> None:
    rng, found, chance = random.Random(3), 0, 0
    for number in range(300):
        role = rng.choice(usual().roles)
        text, example = role.wordings[0], usual().draw(role, rng, number % 2 == 0)
        parts = chunks(text)
        read = top_chunks(text, example.prompt, 3)
        assert [part for part in parts if part in read.split("\n")] == read.split("\n"), "in the order of the text"
        assert len(read.split("\n")) == 3
        found += stated(read, example.choices) == [example.answer]
        chance += bool(stated("\n".join(rng.sample(parts, 3)), (example.answer,)))
    assert found > 0.9 * 300 and chance < 0.3 * 300


def test_rare_words_count_more_in_retrieval_and_long_chunks_less() -> None:
    text = "The sky is grey. The sea is calm. The parcels are shipped by sea. The sky is clear."
    assert top_chunks(text, "Is the shipping by the sky?", 1, 6) == "The parcels are shipped by sea."
    assert top_chunks("A sea of long and many other words. The sea. The sun.", "sea", 1, 2) == "The sea."
    assert top_chunks(text, "sky", 99, 6).split("\n") == chunks(text, 6)


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"documents": 0}, "needs 1 document or more and 0 held out, not 0 and 60"),
        ({"held_out": -1}, "not 400 and -1"),
        ({"clauses": 1}, "2 to 24 clauses, the fewest named first, not 1"),
        ({"clauses": 25}, "2 to 24 clauses, the fewest named first, not 25"),
        ({"clauses": 5, "topics": 4}, "2 to 4 clauses, the fewest named first, not 5"),
        ({"clauses": (6, 3)}, "not 6 to 3"),
        ({"clauses": [6]}, r"clauses must be a whole number or a list of 2, each a whole number, not \[6\]"),
        ({"topics": 25}, "2 to 24 topics, not 25"),
        ({"texts": 0}, "1 text or more, not 0"),
        ({"words": (200, 400)}, "Documents of 12 clauses have 240 to 10000 words, the fewest named first, not 200 to"),
        ({"words": (700, 400)}, "the fewest named first, not 700 to 400"),
        ({"words": 20_000}, "not 20000 to 20000"),
        ({"words": [400]}, r"words must be a whole number or a list of 2, .*not \[400\]"),
        ({"clauses": 2, "documents": 20_000}, "2 clauses make up to 8832 documents, not 20060"),
        ({"clause": 12}, "Unknown key 'task.options.clause'; did you mean 'task.options.clauses'"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        task(**options)


def test_bad_chunks_are_refused() -> None:
    with pytest.raises(UserError, match="at least 1 word, not 0"):
        chunks("One.", 0)
    with pytest.raises(UserError, match="at least 1 chunk, not 0"):
        top_chunks("One.", "Two?", 0)


@pytest.mark.slow
def test_lengths_in_tokens_of_the_real_model() -> None:
    from hypermarl.language.backbone import load_backbone

    tokenizer = load_backbone().tokenizer
    for words, low, high in (((440, 840), 500, 1000), ((440, 1650), 500, 2000)):
        roles = task(documents=100, held_out=0, words=words).roles
        counts = [len(tokenizer(role.wordings[0])["input_ids"]) for role in roles]
        assert low - 20 < min(counts) < low + 150 and high - 200 < max(counts) < high + 50, words
    for value in (value for topic in TOPICS for value in topic.values):
        alone, inside = (len(tokenizer(before + value)["input_ids"]) for before in ("", " "))
        assert min(alone, inside) <= 3 and max(alone, inside) <= 4, value


@pytest.mark.slow
def test_values_of_unseen_documents_are_read_from_sums_of_sentences_and_not_from_whole_texts() -> None:
    """By a linear map, as a generator's heads are; a control beside it: the same texts, read whole."""
    backbone = load_backbone()
    some = task(documents=120, held_out=40, topics=5, clauses=3, texts=2, words=60)
    shares = {}
    for by_sentence in (True, False):
        seen = DescriptionConfig(encoder="both", sentences=by_sentence)
        known = Descriptions(seen, backbone, whole=False)
        if by_sentence:
            known.read(text for role in some.roles for text in role.wordings)
        trained, new = some.of("trained"), some.of("new")
        texts = torch.stack([known(role.wordings) for role in trained])  # type: ignore[arg-type]
        described = Described(texts[:, 0], 40, torch.Generator().manual_seed(0), wordings=texts, evenly=True)
        facts = [(topic.name, value) for topic in TOPICS[:5] for value in topic.values]
        told = torch.tensor([[float(all_stated(role).get(name) == value) for name, value in facts] for role in trained])
        codes = torch.nn.functional.pad(described(texts.flatten(0, 1)), (0, 1), value=1.0)
        read = torch.linalg.lstsq(codes, told.repeat_interleave(2, 0)).solution
        found = torch.nn.functional.pad(described(known([role.wordings[0] for role in new])), (0, 1), value=1.0) @ read
        right = [
            max(range(len(facts)), key=lambda i: (facts[i][0] == name, float(row[i]))) == facts.index((name, value))
            for role, row in zip(new, found, strict=True)
            for name, value in all_stated(role).items()
        ]
        shares[by_sentence] = sum(right) / len(right)
    assert shares[True] > 0.68 and shares[False] < 0.55, shares
