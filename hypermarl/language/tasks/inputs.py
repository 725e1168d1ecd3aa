"""What roles are asked about: a coloured thing, as in `red cat`. Words are common, most of them single tokens.

Tests ask for things that training never names, and for colours that training never gives a thing it does name.
"""

from __future__ import annotations

COLOURS = ("red", "blue", "green", "black", "white", "yellow", "orange", "purple", "pink", "brown")
WARM = frozenset({"red", "yellow", "orange", "pink"})
COOL = frozenset({"blue", "green", "purple"})  # black, white and brown are neither

# The last two of a category are named in tests only.
_NAMED = {
    "animal": "cat dog horse cow lion sheep goat bear rabbit wolf",
    "food": "bread cheese cake rice apple potato pizza carrot banana soup",
    "tool": "hammer saw drill rake shovel wrench knife broom axe brush",
    "clothing": "coat hat shirt shoe dress sock jacket glove skirt boot",
    "vehicle": "car bus train bike van tractor taxi ship truck boat",
    "furniture": "chair table bed couch bench shelf cabinet drawer desk stool",
}
OBJECTS: dict[str, tuple[str, ...]] = {category: tuple(words.split()) for category, words in _NAMED.items()}
CATEGORY = {thing: category for category, things in OBJECTS.items() for thing in things}

Pair = tuple[str, str]  # a colour and a thing

_HELD_OUT = 2  # things of every category, and colours of every other thing


def pairs() -> tuple[tuple[Pair, ...], tuple[Pair, ...]]:
    """All that is asked in training, and in tests: no pair is in both."""
    train: list[Pair] = []
    test: list[Pair] = []
    known = 0
    for things in OBJECTS.values():
        test += [(colour, thing) for thing in things[-_HELD_OUT:] for colour in COLOURS]
        for thing in things[:-_HELD_OUT]:
            kept = {COLOURS[(3 * known + 5 * i) % len(COLOURS)] for i in range(_HELD_OUT)}  # every colour as often
            for colour in COLOURS:
                (test if colour in kept else train).append((colour, thing))
            known += 1
    return tuple(train), tuple(test)


def warmth(colour: str) -> str:
    """As painters sort colours."""
    return "warm" if colour in WARM else "cool" if colour in COOL else "neutral"
