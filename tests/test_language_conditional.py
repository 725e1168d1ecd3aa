"""Policies with a condition: what is asked, what is kept for tests, and that every wording says the same."""

from __future__ import annotations

import random
import re
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from hypermarl.errors import UserError
from hypermarl.language.examination import columns
from hypermarl.language.task import Role, Task
from hypermarl.language.tasks import conditional_wordings as phrases
from hypermarl.language.tasks import make_task
from hypermarl.language.tasks.conditional import ACTIONS, HELD_OUT, MEMBERS, UNSEEN, WORDINGS, word_pairs

SIZES = [{}, {"categories": 8, "pairs": 12}, {"categories": 2, "pairs": 7, "wordings": 3}, {"seed": 1}]
LOOKUP = {word: category for category, words in MEMBERS.items() for word in words.split()}


def task(**options: Any) -> Task:
    return make_task("conditional", options)


def parts(role: Role) -> tuple[str, str, str]:
    category, then, other = role.name.split("/")
    return category, then, other


def test_members_and_action_words_are_told_apart() -> None:
    assert len(MEMBERS) == 15 and all(len(words.split()) == 24 for words in MEMBERS.values())
    assert len(LOOKUP) == 15 * 24, "no word in two categories"
    assert not (set(LOOKUP) | set(MEMBERS)) & set(ACTIONS) and len(set(ACTIONS)) == 12
    said = set(re.findall("[a-z]+", " ".join(WORDINGS + UNSEEN).lower()))
    assert not said & set(ACTIONS), "an action word in a wording would name a second answer"


def test_two_thirds_of_the_combinations_are_trained() -> None:
    one = task()
    assert (len(one.of("trained")), len(one.of("recombined")), len(one.roles)) == (1320, 660, 1980)
    small = task(categories=8, pairs=12)
    assert (len(small.of("trained")), len(small.of("recombined"))) == (64, 32)
    assert len({word for role in small.roles for word in parts(role)[1:]}) == 6


@pytest.mark.parametrize("options", SIZES)
def test_what_a_recombined_role_is_made_of_was_trained(options: dict[str, int]) -> None:
    one = task(**options)
    trained, recombined = one.of("trained"), one.of("recombined")
    assert recombined and not {role.name for role in trained} & {role.name for role in recombined}
    for part in (lambda role: parts(role)[0], lambda role: parts(role)[1:]):
        assert {part(role) for role in recombined} <= {part(role) for role in trained}
    together = [{(parts(role)[0], frozenset(parts(role)[1:])) for role in some} for some in (trained, recombined)]
    assert not together[0] & together[1], "a category and two words are trained in both orders or in neither"
    if len(one.roles) > 20:  # no category and no pair is trained much less than another
        for part in (lambda role: parts(role)[0], lambda role: parts(role)[1:]):
            counts = Counter(part(role) for role in trained).values()
            assert max(counts) - min(counts) <= 2


@pytest.mark.parametrize("count", [6, 7, 12, 30, 71, 132])
def test_pairs_come_in_both_orders_and_words_have_several_partners(count: int) -> None:
    pairs = word_pairs(count)
    assert len(pairs) == len(set(pairs)) == count and all(a != b for a, b in pairs)
    alone = [pair for pair in pairs if pair[::-1] not in pairs]
    assert len(alone) == count % 2
    for side in (0, 1):
        partners = Counter(pair[side] for pair in pairs)
        assert min(partners.values()) >= 2 - count % 2 and len(partners) == min(12, (count + 1) // 2)


@pytest.mark.parametrize("composed", [0, 5])
def test_every_wording_tells_both_words_and_the_category(composed: int) -> None:
    for role in task(wordings=composed).roles:
        category, then, other = parts(role)
        assert len(set(role.wordings)) == (composed or 14) and len(set(role.unseen)) == 4
        for text in role.wordings + role.unseen:
            words = re.findall("[a-z]+", text.lower())
            assert set(words) & set(ACTIONS) == {then, other}
            stem = {"country": "countr", "city": "cit"}.get(category, category)
            assert any(word.startswith(stem) for word in words), text
            assert not re.search(r"[{}]|<\w|\ba [aeiou]|\ban [^aeiou]|  |\. [a-z]|^[a-z]|[a-z,] [A-Z][a-z]", text), text


def test_wordings_put_either_word_first() -> None:
    first = [text.index("{b}") < text.index("{a}") for text in WORDINGS]
    assert 5 <= sum(first) <= 9 and 1 <= sum(text.index("{b}") < text.index("{a}") for text in UNSEEN) <= 3
    composed = [role.wordings for role in task(wordings=9).of("trained")]
    roles = [parts(role)[1:] for role in task().of("trained")]
    later = [t.lower().index(b) < t.lower().index(a) for (a, b), few in zip(roles, composed, strict=True) for t in few]
    assert 0.4 < sum(later) / len(later) < 0.6


def test_policies_have_composed_wordings_of_their_own_and_none_of_those_kept_for_tests() -> None:
    one, plain = task(wordings=6), task()
    kept = {text for role in plain.roles for text in role.unseen}
    assert [role.unseen for role in one.roles] == [role.unseen for role in plain.roles]
    assert [(role.name, role.part) for role in one.roles] == [(role.name, role.part) for role in plain.roles]
    templates = Counter(
        text.lower().replace(parts(role)[1], "A").replace(parts(role)[2], "B").replace(role.family, "C")
        for role in one.roles
        for text in role.wordings
    )
    assert len(templates) > 0.55 * 6 * len(one.roles), "most are nobody else's"
    assert not kept & {text for role in one.roles for text in role.wordings}
    used = {name for few in phrases.PHRASES.values() for phrase in few for name in re.findall("<([^>]+)>", phrase)}
    assert used | {"text"} == set(phrases.PHRASES)


def test_composed_wordings_say_which_word_is_for_which() -> None:
    """Clause by clause: a word said of others than the category is `{b}`, one said of the category `{a}`."""
    others = re.compile(
        "<otherwise>|<elsewhere>|<usually>|<it is not>|<all else>|<all but>|unless|not {kind}|no {kind}|other$"
    )
    its = re.compile("<when>|<for>|<if so>|{many}|{one}|{kind}")
    checked = 0
    for text in phrases.PHRASES["text"]:
        for clause in re.split(r"<and>|<but>|[.;] |, (?={[ab]})", text.rstrip(".")):
            words = re.findall("{([ab])}", clause)
            if len(words) == 1:
                turned = "<otherwise>" in clause and "<it is not>" in text
                assert (words[0] == "b") == (bool(others.search(clause)) != turned), (clause, text)
                assert others.search(clause) or its.search(clause), (clause, text)
                checked += 1
    assert checked == 2 * (len(phrases.PHRASES["text"]) - 4), "four name both words first, and then whose they are"


def test_order_of_words_tells_nothing_and_reversed_policies_differ() -> None:
    roles = {role.name: role for role in task().roles}
    one, reverse = roles["bird/keep/drop"], roles["bird/drop/keep"]
    assert not set(one.wordings + one.unseen) & set(reverse.wordings + reverse.unseen)


@pytest.mark.parametrize("options", SIZES)
def test_answers_follow_the_category_and_draws_are_balanced(options: dict[str, int]) -> None:
    one, rng = task(**options), random.Random(1)
    inside, names = 0, {parts(role)[0] for role in one.roles}
    for number in range(2000):
        role = rng.choice(one.roles)
        category, then, other = parts(role)
        example = one.draw(role, rng, number % 2 == 0)
        assert LOOKUP[example.prompt] in names
        assert example.answer == (then if LOOKUP[example.prompt] == category else other)
        assert example.choices == (then, other)
        inside += example.answer == then
    assert 900 < inside < 1100


def test_words_of_tests_are_never_drawn_in_training() -> None:
    one, rng = task(), random.Random(2)
    drawn = [{one.draw(role, rng, test).prompt for role in one.roles for _ in range(20)} for test in (False, True)]
    assert not drawn[0] & drawn[1] and drawn[0] | drawn[1] == set(LOOKUP)
    assert set(Counter(LOOKUP[word] for word in drawn[1]).values()) == {HELD_OUT}


def test_a_seed_decides_all() -> None:
    def shown(seed: int) -> list[Any]:
        one, rng = task(seed=seed), random.Random(5)
        return [(role, one.draw(role, rng, True)) for role in one.roles]

    assert shown(3) == shown(3) != shown(4)


@pytest.mark.parametrize(
    "options, sentence",
    [
        ({"categories": 16}, "2 to 15 categories, not 16"),
        ({"categories": 1}, "2 to 15 categories, not 1"),
        ({"pairs": 5}, "6 to 132 pairs of words, not 5"),
        ({"pairs": 133}, "6 to 132 pairs of words, not 133"),
        ({"wordings": 1}, "2 to 1000 composed wordings, or 0 for the fourteen, not 1"),
        ({"wordings": 1001}, "not 1001"),
        ({"wordings": -1}, "not -1"),
        ({"wordings": "many"}, "task.options.wordings must be a whole number, not 'many'"),
        ({"pears": 12}, "Unknown key 'task.options.pears'; did you mean 'task.options.pairs'"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        task(**options)


@pytest.mark.slow
def test_action_words_are_single_tokens_of_the_real_model() -> None:
    from hypermarl.language.backbone import load_backbone

    tokenizer = load_backbone().tokenizer
    tokens = {word: tokenizer(before + word)["input_ids"] for word in ACTIONS for before in ("", " ")}
    assert all(len(ids) == 1 for ids in tokens.values()) and len({ids[0] for ids in tokens.values()}) == 12
    single = [word for word in LOOKUP if len(tokenizer(" " + word)["input_ids"]) == 1]
    assert len(single) > 0.65 * len(LOOKUP)


def test_untrained_combinations_are_asked_for_in_wordings_of_training_and_in_others() -> None:
    one = task(categories=8, pairs=12)
    sharing = SimpleNamespace(id_in_observation=False, conditioning="text")
    config = SimpleNamespace(sharing=sharing, teach=SimpleNamespace(asked=None), reads=True)
    by_name = {column.name: column for column in columns(SimpleNamespace(task=one, config=config))}  # type: ignore[arg-type]
    rng = random.Random(3)
    for name, kept in (("recombined", True), ("recombined_seen", False), ("seen", False), ("unseen", True)):
        column = by_name[name]
        assert {role.part for role in column.roles} == {"recombined" if "re" in name else "trained"}
        for role in column.roles:
            assert column.describe(role, rng) in (role.unseen if kept else role.wordings)
