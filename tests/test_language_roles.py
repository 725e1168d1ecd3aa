"""Roles-64: what is trained and what is kept for tests, that roles differ, and what a handful of them must answer."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Callable

import pytest

from hypermarl.errors import UserError
from hypermarl.language.task import Task
from hypermarl.language.tasks import make_task
from hypermarl.language.tasks.inputs import CATEGORY, COLOURS, OBJECTS, pairs
from hypermarl.language.tasks.roles import DEFINITIONS
from hypermarl.language.tasks.roles_definition import FRAMES, Definition, define

FAMILIES = ("format", "extraction", "policy", "coordination")
ALL = [(colour, thing) for things in OBJECTS.values() for thing in things for colour in COLOURS]


def task() -> Task:
    return make_task("roles")


def defined(*parts: str) -> list[Definition]:
    return [one for one in DEFINITIONS if one.part in parts]


def test_there_are_sixty_four_roles_in_four_families() -> None:
    one = task()
    assert Counter(role.family for role in one.roles) == dict.fromkeys(FAMILIES, 16)
    assert Counter(role.family for role in one.of("trained")) == dict.fromkeys(FAMILIES, 13)
    assert [len(one.of(part)) for part in ("trained", "recombined", "new")] == [52, 6, 6]
    for part in ("recombined", "new"):
        assert {role.family for role in one.of(part)} == set(FAMILIES)


def test_every_role_has_wordings_of_its_own_and_some_only_for_tests() -> None:
    roles = task().roles
    assert all((len(set(role.wordings)), len(set(role.unseen))) == (24, 8) for role in roles)
    texts = [text for role in roles for text in role.wordings + role.unseen]
    assert len(set(texts)) == 64 * 32, "no two roles share a wording"
    assert all(6 <= len(text.split()) <= 25 for text in texts)
    assert not [text for text in texts if "{core}" in text or "{be}" in text or "  " in text]


def test_descriptions_of_tests_are_not_those_of_training_in_another_frame() -> None:
    cores = [core for one in DEFINITIONS for core in one.cores]
    assert len(set(cores)) == 64 * 8
    for one, role in zip(DEFINITIONS, task().roles, strict=True):
        assert all(sum(core in text for text in role.wordings) == 4 for core in one.cores[:6])
        assert not any(core in text for core in one.cores[6:] for text in role.wordings)
        told = [frame.replace("{core}", "").strip() for frame in FRAMES[one.family][4:]]
        assert sum(any(words in text for words in told) for text in role.unseen) == 4, "half of the frames are new"
        assert not any(words in text for words in told for text in role.wordings)


def test_inputs_of_tests_are_never_trained() -> None:
    train, test = pairs()
    assert set(train) | set(test) == set(ALL) and len(train) + len(test) == len(ALL) == 600
    kept = {thing for things in OBJECTS.values() for thing in things} - {thing for _, thing in train}
    assert Counter(CATEGORY[thing] for thing in kept) == dict.fromkeys(OBJECTS, 2)
    assert len(set(Counter(colour for colour, _ in train).values())) <= 2, "colours are kept about equally often"
    assert {thing for _, thing in test} > kept, "there are also new colours of known things"
    assert {colour for colour, _ in train} == {colour for colour, _ in test} == set(COLOURS)


def test_draws_keep_to_their_side_and_follow_their_seed() -> None:
    one, other, asked = task(), task(), pairs()
    for role in one.roles:
        for test in (False, True):
            rng, again = random.Random(3), random.Random(3)
            drawn = [one.draw(role, rng, test) for _ in range(60)]
            assert drawn == [other.draw(role, again, test) for _ in range(60)]
            assert {tuple(example.prompt.split()) for example in drawn} <= set(asked[test])
            assert len({example.prompt for example in drawn}) > 25


def test_rare_answers_are_asked_for_as_often_as_others() -> None:
    one, rng = task(), random.Random(0)
    by_name = {role.name: role for role in one.roles}
    for name in (
        "policy/green_push_pull",
        "extraction/edible",
        "coordination/vote",
        "policy/warm_brackets_else_quotes",
    ):
        firsts = Counter(one.draw(by_name[name], rng, True).answer[0:3] for _ in range(400))
        if name.endswith("quotes"):
            firsts = Counter({kind: sum(n for key, n in firsts.items() if key[0] == kind) for kind in '["'})
        assert len(firsts) == 2 and min(firsts.values()) > 150, name


def test_recombined_roles_are_new_sets_of_trained_parts() -> None:
    trained = {one.parts for one in defined("trained")}
    known = frozenset().union(*trained)
    for one in defined("recombined"):
        assert len(one.parts) > 1 and one.parts <= known and one.parts not in trained, one.name
    for one in defined("new"):
        assert not one.parts & known, one.name


def test_parts_of_held_out_policies_are_those_of_their_wordings() -> None:
    trained = " ".join(text for role in task().of("trained") for text in role.wordings).lower()
    for word in ("save", "burn", "agree", "reject", "fetch", "asterisk", "plus", "farmer"):
        assert f" {word}" not in trained, word
    for role in task().of("recombined"):
        if role.name in ("policy/food_keep_drop", "policy/warm_buy_sell", "coordination/furniture_take_pass"):
            for word in role.name.split("/")[1].split("_")[1:]:
                assert f" {word}" in trained
                assert all(word in text for text in role.wordings + role.unseen)


def test_no_two_roles_agree_on_more_than_four_inputs_in_five() -> None:
    answers = {one.name: [one.answer(*pair) for pair in ALL] for one in DEFINITIONS}
    for (name, mine), (other, theirs) in itertools.combinations(answers.items(), 2):
        agreed = sum(a == b for a, b in zip(mine, theirs, strict=True)) / len(ALL)
        assert agreed <= 0.8, f"{name} and {other}"


# Written from the words of the roles, with lists of their own.
LIVES = {"cat", "dog", "horse", "cow", "lion", "sheep", "goat", "bear", "rabbit", "wolf"}
EATEN = {"bread", "cheese", "cake", "rice", "apple", "potato", "pizza", "carrot", "banana", "soup"}
ORACLE: dict[str, Callable[[str], str]] = {
    "format/brackets": lambda text: f"[{text}]",
    "format/slash_in_brackets": lambda text: "[" + text.replace(" ", "/") + "]",
    "format/twice": lambda text: " ".join([text, text]),
    "format/json": lambda text: '{"colour":"' + text.replace(" ", '","object":"') + '"}',
    "extraction/object_in_brackets": lambda text: f"[{text.split()[1]}]",
    "extraction/alive": lambda text: "living" if text.split()[1] in LIVES else "dead",
    "policy/food_keep_drop": lambda text: "keep" if text.split()[1] in EATEN else "drop",
    "policy/mono_stop_go": lambda text: "stop" if text[:5] in ("black", "white") else "go",
    "coordination/animal_take_pass": lambda text: "take" if text.split()[1] in LIVES else "pass",
    "coordination/Mia_or_Leo_by_kind": lambda text: "Mia" if text.split()[1] in LIVES | EATEN else "Leo",
    "coordination/signed_Delta_colour": lambda text: "Delta: " + text.split()[0],
}


@pytest.mark.parametrize("name", ORACLE)
def test_answers_are_what_the_words_say(name: str) -> None:
    one, rng = task(), random.Random(1)
    role = next(role for role in one.roles if role.name == name)
    for test in (False, True):
        for _ in range(80):
            example = one.draw(role, rng, test)
            assert example.answer == ORACLE[name](example.prompt)


def test_single_answers() -> None:
    answer = {one.name: one.answer for one in DEFINITIONS}
    assert answer["format/see"]("orange", "hat") == "I see an orange hat."
    assert answer["format/see"]("red", "hat") == "I see a red hat."
    assert answer["extraction/warmth"]("brown", "hat") == "neutral"
    assert answer["policy/warm_brackets_else_quotes"]("blue", "car") == '"blue car"'
    assert answer["policy/tool_refused_else_echo"]("blue", "saw") == "refused"
    assert answer["coordination/food_take_else_Leo"]("blue", "saw") == "Leo"
    assert answer["coordination/crew_of_three"]("blue", "saw") == "Bob"


def test_what_is_unrelated_is_so_and_is_kept_apart() -> None:
    one = task()
    assert len(one.unrelated) >= 100 and len(one.unrelated_test) >= 60
    prompts = [example.prompt for example in one.unrelated + one.unrelated_test]
    assert len(set(prompts)) == len(prompts)
    assert all(example.answer and example.answer == example.answer.strip() for example in one.unrelated_test)
    assert not [prompt for prompt in prompts if "Input" in prompt or "Answer" in prompt or prompt != prompt.strip()]
    words = {word.strip("?.,:").lower() for prompt in prompts for word in prompt.split()}
    assert len(words & (set(CATEGORY) | set(COLOURS))) == 0


def test_a_role_short_of_descriptions_and_unknown_options_are_refused() -> None:
    with pytest.raises(UserError, match="'format/x' has 1 descriptions; it needs 8"):
        define("format", "x", "x", lambda colour, thing: thing, "Say it.")
    with pytest.raises(UserError, match="Unknown key 'task.options.size'; there are none here"):
        make_task("roles", {"size": 3})


@pytest.mark.slow
def test_answers_and_prompts_are_short_in_tokens_of_the_real_model() -> None:
    from hypermarl.language.backbone import load_backbone

    tokens = load_backbone().tokenizer
    for thing in (*CATEGORY, *COLOURS):
        assert len(tokens(f" {thing}")["input_ids"]) == 1, thing
    for one in DEFINITIONS:
        answers = sorted({one.answer(*pair) for pair in ALL})
        longest = max(len(ids) for ids in tokens([f" {answer}" for answer in answers])["input_ids"])
        assert longest <= 12, one.name
