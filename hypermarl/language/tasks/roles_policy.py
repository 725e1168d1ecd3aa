"""Roles with a condition: one answer if it holds, another if not.

Every condition and every pair of words occurs in several roles, so that which word goes with which condition has to be
read, and can be asked for combinations that were never trained.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from hypermarl.language.task import Part
from hypermarl.language.tasks.inputs import CATEGORY, WARM
from hypermarl.language.tasks.roles_definition import Definition, define


@dataclass(frozen=True, slots=True)
class Condition:
    """`be` follows "if the thing is", `many` names all things it holds for."""

    name: str
    be: str
    many: str
    holds: Callable[[str, str], bool]

    def sort(self, colour: str, thing: str) -> str:
        return str(self.holds(colour, thing))

    def choose(self, then: str, other: str) -> Callable[[str, str], str]:
        return lambda colour, thing: then if self.holds(colour, thing) else other


def _kind(category: str, be: str, many: str) -> Condition:
    return Condition(category, be, many, lambda colour, thing: CATEGORY[thing] == category)


CONDITIONS = {
    condition.name: condition
    for condition in (
        _kind("animal", "an animal", "animals"),
        _kind("food", "food", "foods"),
        _kind("tool", "a tool", "tools"),
        _kind("clothing", "a piece of clothing", "clothes"),
        _kind("vehicle", "a vehicle", "vehicles"),
        _kind("furniture", "a piece of furniture", "pieces of furniture"),
        Condition("warm", "of a warm colour", "things of a warm colour", lambda colour, thing: colour in WARM),
        Condition(
            "mono", "black or white", "black or white things", lambda colour, thing: colour in ("black", "white")
        ),
        Condition("green", "green", "green things", lambda colour, thing: colour == "green"),
        Condition("yellow", "yellow", "yellow things", lambda colour, thing: colour == "yellow"),
    )
}

TEMPLATES = """If the thing is {be}, say {a}; otherwise say {b}.
Answer {b} unless the thing is {be}; in that case answer {a}.
For {many} the word is {a}. For everything else it is {b}.
Is the thing {be}? Yes: {a}. No: {b}.
Your usual reply is {b}. Only {many} make you reply {a}.
When you are shown {many}, respond with {a}, and in all other cases with {b}.
Check whether the thing is {be} and write {a} if so, {b} if not.
The word {a} marks {many}; the word {b} marks whatever else comes in."""

_policy = partial(define, "policy")


def _words(condition: str, a: str, b: str, part: Part = "trained") -> Definition:
    """Say `a` if the condition holds, `b` if not."""
    one = CONDITIONS[condition]
    return _policy(
        f"{condition}_{a}_{b}",
        f"if {condition}, say {a}, say {b}",
        one.choose(a, b),
        TEMPLATES.format(be=one.be, many=one.many, a=a, b=b),
        part=part,
    )


ROLES: tuple[Definition, ...] = (
    _words("animal", "keep", "drop"),
    _words("tool", "keep", "drop"),
    _words("clothing", "buy", "sell"),
    _words("furniture", "buy", "sell"),
    _words("vehicle", "stop", "go"),
    _words("mono", "stop", "go"),
    _words("food", "open", "close"),
    _words("warm", "open", "close"),
    _words("green", "push", "pull"),
    _words("food", "eat", "leave"),
    _policy(
        "animal_or_food_colour_else_object",
        "if animal or food, colour, object",
        lambda colour, thing: colour if CATEGORY[thing] in ("animal", "food") else thing,
        """Of animals and food name the colour, of other things name the object.
        If the thing is an animal or food, say its colour; otherwise say what it is.
        Answer with the noun except for food and animals, whose colour is to be given instead.
        Is it an animal or something to eat? Yes: the colour word. No: the object word.
        Your usual reply is the object itself. Only animals and food make you reply with their colour.
        When you are shown food or an animal, report the colour, and in all other cases the object.
        Check for animals and food: their colour counts, while of anything else the noun counts.
        The colour word is for food and animals; the noun is for whatever else comes in.""",
        sort=lambda colour, thing: str(CATEGORY[thing] in ("animal", "food")),
    ),
    _policy(
        "warm_brackets_else_quotes",
        "if warm, brackets, quotes",
        lambda colour, thing: f"[{colour} {thing}]" if colour in WARM else f'"{colour} {thing}"',
        """Put things of a warm colour in square brackets and other things in quotation marks.
        If the colour is warm, repeat the input in square brackets; otherwise quote it.
        Quote what you read unless its colour is a warm one, which goes between [ and ].
        Is it a warm colour? Yes: square brackets around the words. No: double quotes around them.
        Your usual reply is the input in double quotes. Only warm colours get square brackets.
        When the colour is warm, enclose the input in square brackets, and in all other cases in quotes.
        Check for warm colours: square brackets belong around them, quotation marks around the rest.
        Square brackets mark a warm colour; double quotes mark whatever else comes in.""",
        sort=CONDITIONS["warm"].sort,
    ),
    _policy(
        "tool_refused_else_echo",
        "if tool, refuse, echo",
        lambda colour, thing: "refused" if CATEGORY[thing] == "tool" else f"{colour} {thing}",
        """Say refused to tools and repeat anything else.
        If the thing is a tool, answer refused; otherwise echo the input.
        Echo what you read unless it is a tool, which is refused.
        Is it a tool? Yes: refused. No: the same words again.
        Your usual reply is the input unchanged. Only tools make you reply refused.
        When you are shown a tool, turn it away with refused, and in all other cases copy the words.
        Check for tools: they are refused, while the rest is written down as it came.
        The word refused is for tools; whatever else comes in is let through word by word.""",
        sort=CONDITIONS["tool"].sort,
    ),
    _words("food", "keep", "drop", "recombined"),
    _words("warm", "buy", "sell", "recombined"),
    _words("yellow", "save", "burn", "new"),
)
