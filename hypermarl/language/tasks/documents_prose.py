"""What stands between the rules of a company: names, headings and sentences that rule nothing.

None of it holds a value of a topic.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

_FOUNDERS = ("Harrow", "Lindgren", "Okafor", "Tanaka", "Moreau", "Castell", "Novak", "Brandt", "Silva", "Whitlock")
_TRADES = ("Instruments", "Textiles", "Foods", "Optics", "Pumps", "Ceramics", "Tiles", "Garden Supplies", "Toys")
_FORMS = ("Limited", "and Sons", "Group", "Works", "Partners")

TITLES = ("Rules of the house at {company}", "{company}: handbook for colleagues", "How things are done at {company}")
OPENINGS = (
    "This text is read by all who join {company}.",
    "At {company} these rules hold for everybody, old or new.",
    "{company} has written down here what its people ask most often.",
)
HEADINGS = (
    "What to know",
    "Day to day",
    "How we work",
    "Matters of order",
    "Further rules",
    "Good practice",
    "Between us",
    "For the record",
    "What else holds",
    "In short",
)
REMARKS = (
    "Common sense comes before the letter of a rule.",
    "Ask when in doubt; nobody minds a question.",
    "Most of this has grown over time and was never planned.",
    "Some of it will seem obvious, and is written down all the same.",
    "Suggestions are welcome and are read by more than one pair of eyes.",
    "Nothing in this part replaces the law.",
    "A short walk has solved more problems here than any memo.",
    "Please leave things the way you found them.",
    "Small mistakes are forgiven, silence about them is not.",
    "Whoever borrows something brings it back.",
    "Old habits are hard to change, and this one was.",
    "There are exceptions, but they are rare.",
)
_WHO = (
    "The founders",
    "Our neighbours",
    "Two apprentices",
    "The people in the workshop",
    "A retired engineer",
    "The gardeners",
    "The night shift",
    "Some of the older colleagues",
    "A team from the laboratory",
    "The cleaners",
    "Several volunteers",
    "The choir of the firm",
    "The painters",
    "An architect from the region",
)
_DID = (
    "repaired the roof of the old mill",
    "planted roses along the fence",
    "built a shed beside the river",
    "found a box of letters in the cellar",
    "argued about the shape of the new sign",
    "cleaned the windows of the great hall",
    "wrote a song about the founding of the firm",
    "put up a bench under the chestnut",
    "collected stories from the early years",
    "took down the rusty crane in the yard",
    "restored the mosaic at the entrance",
    "laid out a path through the meadow",
    "measured every corridor twice",
    "hung up portraits of former partners",
    "rescued a kitten from the chimney",
    "polished the brass bell above the door",
    "carved a figure from a fallen trunk",
    "rehearsed a play about the first customers",
    "drew a map of the tunnels under the courtyard",
    "caught a pike in the pond",
    "mended the flag and hoisted it again",
    "sorted buttons, screws and marbles",
    "moved the sundial to a brighter corner",
    "told the children how the dam was built",
)
_HOW = (
    "after a long winter",
    "without being asked",
    "in the year of the flood",
    "with great patience",
    "to the delight of the whole town",
    "while it rained for days on end",
    "for the summer party",
    "long before the harbour was dug",
    "and were thanked with applause",
    "although few believed in it",
    "in memory of better times",
    "with borrowed ladders and ropes",
    "and nobody has regretted it since",
    "when business was slow",
)


def company(rng: random.Random) -> str:
    return f"{rng.choice(_FOUNDERS)} {rng.choice(_TRADES)} {rng.choice(_FORMS)}"


def filler(rng: random.Random) -> Iterator[str]:
    """Sentences about nothing in particular, none twice; there are over four thousand."""
    remarks = rng.sample(REMARKS, len(REMARKS))
    told: set[str] = set()
    while len(told) < len(_WHO) * len(_DID) * len(_HOW):
        if remarks and rng.random() < 0.3:
            yield remarks.pop()
        sentence = f"{rng.choice(_WHO)} {rng.choice(_DID)} {rng.choice(_HOW)}."
        if sentence not in told:
            told.add(sentence)
            yield sentence
