"""Many ways to say a conditional policy, put together from phrases: `{a}` if it is `{one}`, `{b}` if not.

A dozen wordings are a dozen examples of what decides which word is for which; here there are close to three million.
What tests are worded in stands in `conditional` and is made of none of these sentences.
"""

from __future__ import annotations

import random
import re

# A phrase <name> is one of those listed under it. Sentences are begun with a capital at the end.
PHRASES: dict[str, tuple[str, ...]] = {
    "text": (
        "<when>, <say> {a}<and><otherwise>, <say> {b}.",
        "<when>, <say> {a}<and><elsewhere>, <say> {b}.",
        "<say> {a} <when><and><say> {b} <elsewhere>.",
        "<say> {b} <elsewhere><and><say> {a} <when>.",
        "<elsewhere>, <say> {b}<and><when>, <say> {a}.",
        "<usually>, <say> {b}<but><when>, <say> {a}.",
        "<say> {b} unless <it is>. <if so>, <say> {a}.",
        "unless <it is>, <say> {b}<and><if so>, <say> {a}.",
        "<if> <it is not>, <say> {b}<and><otherwise>, <say> {a}.",
        "<if> <it is not>, <say> {b}<and><when>, <say> {a}.",
        "<say> {a} <when><and><say> {b} <if> <it is not>.",
        "<say> {b} <if> <it is not><and><say> {a} <when>.",
        "{many} <get> {a}<and><all else> <gets> {b}.",
        "<all but> <gets> {b}<and>{many} <get> {a}.",
        "the word {a} <is meant> <for><and>the word {b} <is meant> <elsewhere>.",
        "the word {b} <is meant> for <all but><and>the word {a} <is meant> <for>.",
        "of {a} and {b}, the first <is meant> <for> and the second <elsewhere>.",
        "of {b} and {a}, the second <is meant> <for> and the first <elsewhere>.",
        "choose between {a} and {b}: <for> the former, <elsewhere> the latter.",
        "choose between {b} and {a}: <elsewhere> the former, <for> the latter.",
        "{many}: {a}. <all else>: {b}.",
        "<all else>: {b}. {many}: {a}.",
        "{kind}: {a}; not {kind}: {b}",
        "not {kind}: {b}; {kind}: {a}",
        "answers: {a} = {kind}, {b} = other",
        "answers: {b} = other, {a} = {kind}",
        "{one}? then {a}. no {kind}? then {b}.",
        "no {kind}? then {b}. {one}? then {a}.",
    ),
    "and": (". ", ". ", "; ", ", and "),
    "but": (". only ", ", but ", ". however, ", ", except that ", ", though "),
    "when": ("<if> <it is>", "<if> <it is>", "<for>"),
    "if": ("if", "when", "whenever", "in case", "every time"),
    "it is": (
        "it is {one}",
        "the thing is {one}",
        "you are shown {one}",
        "the word names {one}",
        "what you read is {one}",
        "{one} comes up",
        "somebody mentions {one}",
        "the item is {one}",
    ),
    "it is not": (
        "it is not {one}",
        "the thing is no {kind}",
        "you are shown something other than {one}",
        "the word does not name {one}",
        "what you read is not {one}",
        "no {kind} is mentioned",
    ),
    "for": (
        "for {many}",
        "for every {kind}",
        "for {one}",
        "in the case of {many}",
        "with {many}",
        "for any {kind}",
        "on reading of {one}",
    ),
    "elsewhere": (
        "for everything else",
        "for anything else",
        "in all other cases",
        "for the rest",
        "in any other case",
        "with all other things",
        "for things of any other sort",
        "for what is something else",
    ),
    "otherwise": ("otherwise", "else", "if not", "failing that"),
    "if so": ("in that case", "then", "if so"),
    "usually": ("by default", "as a rule", "normally", "usually", "in general", "most of the time"),
    "say": (
        "say",
        "answer",
        "reply",
        "write",
        "respond with",
        "use",
        "give",
        "put down",
        "you say",
        "your word is",
        "the answer is",
        "it must be",
    ),
    "get": ("get", "are called", "are marked", "take", "are answered with", "call for", "belong under"),
    "gets": ("gets", "is called", "is marked", "takes", "is answered with", "calls for", "belongs under"),
    "is meant": ("is right", "is meant", "is reserved"),
    "all else": ("everything else", "the rest", "anything else", "whatever else there is"),
    "all but": (
        "everything but {many}",
        "any word other than {many}",
        "all except {many}",
        "anything that is not {one}",
        "whatever is no {kind}",
    ),
}
_PHRASE = re.compile("<([^<>]+)>")
_BEGINNING = re.compile(r"(?:^|[.?] )[a-z]")


def compose(rng: random.Random, **words: str) -> str:
    """One wording; `words` are what stands for `one`, `kind`, `many`, `a` and `b`."""
    text = "<text>"
    while found := _PHRASE.search(text):
        text = text[: found.start()] + rng.choice(PHRASES[found[1]]) + text[found.end() :]
    return _BEGINNING.sub(lambda at: at[0].upper(), text.format(**words))
