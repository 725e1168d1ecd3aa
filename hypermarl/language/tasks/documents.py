"""Documents of policy: what an agent has to know stands in running prose, among much that nobody asks for.

A role is what a document says, and its wordings are texts that say it: the same rules in other phrases and another
order, among other filler. Examples ask for one of the rules, and the answer is the value stated there. Documents held
out state combinations of values that no document of training has; each single value stands in some of those.
"""

from __future__ import annotations

import math
import random
import re
from collections import Counter

from hypermarl.errors import UserError
from hypermarl.language.task import Example, Part, Role, Task
from hypermarl.language.tasks.documents_prose import HEADINGS, OPENINGS, TITLES, company, filler
from hypermarl.language.tasks.documents_topics import TOPICS, Topic
from hypermarl.language.texts import sentences

Facts = dict[Topic, str]  # what a document states

_LONGEST = 10_000  # words; filler runs out at three times as many
_ROOM = 20  # words per clause at least, so that something stands between the rules
_SECTION = 7  # sentences


def make(
    documents: int = 400,
    held_out: int = 60,
    clauses: int | tuple[int, int] = 12,
    words: int | tuple[int, int] = (440, 840),
    topics: int = len(TOPICS),
    texts: int = 1,
    seed: int = 0,
) -> Task:
    """`documents` to train on and `held_out` more of part "new", each with rules on `clauses` of the first `topics`, or
    on a number between two; of those to train on there are several `texts` each.

    A text has some `words[0]` to `words[1]` words, of about 1.2 tokens each; filler makes up what the rules leave.
    (440, 1650) gives 500 to 2,000 tokens. More documents of a seed begin with those of fewer, and those held out stay
    the same. Tests ask in other words than training does.
    """
    low, high = (words, words) if isinstance(words, int) else words
    few, many = (clauses, clauses) if isinstance(clauses, int) else clauses
    _check(documents, held_out, few, many, topics, texts, low, high)
    facts: dict[str, Facts] = {}
    roles: dict[Part, list[Role]] = {"trained": [], "new": []}
    stated: set[frozenset[tuple[str, str]]] = set()
    wanted: tuple[tuple[Part, str, int], ...] = (("new", "new", held_out), ("trained", "document", documents))
    for part, kind, count in wanted:  # the new ones first: how many are trained on must not change them
        for number in range(1, count + 1):
            rng = random.Random(f"documents {seed} {part} {number}")
            known = _facts(rng, few, many, topics)
            while (key := frozenset((topic.name, value) for topic, value in known.items())) in stated:
                known = _facts(rng, few, many, topics)
            stated.add(key)
            told = [_text(known, rng.randint(low, high), rng) for _ in range(texts if part == "trained" else 1)]
            roles[part].append(Role(f"{kind}/{number:04}", "document", tuple(told), part=part))
            facts[roles[part][-1].name] = known

    def draw(role: Role, rng: random.Random, test: bool) -> Example:
        topic, value = rng.choice(list(facts[role.name].items()))
        return Example(rng.choice(topic.unseen if test else topic.questions), value, topic.values)

    return Task("documents", (*roles["trained"], *roles["new"]), draw)


def chunks(text: str, words: int = 40) -> list[str]:
    """The text in parts of whole sentences, each of at most so many words; a longer sentence is a part of its own."""
    if words < 1:
        raise UserError(f"A chunk has at least 1 word, not {words}.")
    found: list[list[str]] = []
    room = 0
    for sentence in sentences(text):
        count = len(sentence.split())
        if count > room:
            found.append([])
            room = words
        found[-1].append(sentence)
        room -= count
    return [" ".join(part) for part in found]


def top_chunks(text: str, question: str, count: int = 3, words: int = 40) -> str:
    """The chunks that share most with the question (BM25), in the order of the text: what plain retrieval reads."""
    if count < 1:
        raise UserError(f"Retrieval gives at least 1 chunk, not {count}.")
    parts = chunks(text, words)
    bags = [Counter(_stems(part)) for part in parts]
    mean = sum(bag.total() for bag in bags) / len(bags)
    scores = [0.0] * len(parts)
    for stem in set(_stems(question)):
        having = sum(stem in bag for bag in bags)
        rarity = math.log(1 + (len(bags) - having + 0.5) / (having + 0.5))
        for i, bag in enumerate(bags):
            often = bag[stem]
            scores[i] += rarity * often * 2.5 / (often + 1.5 * (0.25 + 0.75 * bag.total() / mean)) if often else 0.0
    best = sorted(range(len(parts)), key=lambda i: -scores[i])[:count]
    return "\n".join(parts[i] for i in sorted(best))


def _stems(text: str) -> list[str]:
    """Words by their first five letters: "ship" and "ships" are two, "shipped" and "shipping" one."""
    return [word[:5] for word in re.findall(r"\w+", text.lower())]


def _facts(rng: random.Random, few: int, many: int, topics: int) -> Facts:
    clauses = few if few == many else rng.randint(few, many)
    return {topic: rng.choice(topic.values) for topic in rng.sample(TOPICS[:topics], clauses)}


def _text(facts: Facts, words: int, rng: random.Random) -> str:
    """Rules in a random order, each in one of its phrasings, at random places among filler; in sections of a few."""
    name = company(rng)
    said = [_capital(rng.choice(topic.statements).format(v=value)) for topic, value in facts.items()]
    title, opening = (rng.choice(texts).format(company=name) for texts in (TITLES, OPENINGS))
    between = filler(rng)
    missing = words - sum(len(text.split()) for text in (title, opening, *said))
    while missing > 0:
        said.append(next(between))
        missing -= len(said[-1].split())
    rng.shuffle(said)
    size = max(_SECTION, -(-len(said) // len(HEADINGS)))
    headings = rng.sample(HEADINGS, len(HEADINGS))
    sections = [f"{headings[i // size]}\n{' '.join(said[i : i + size])}" for i in range(0, len(said), size)]
    return "\n\n".join((title, opening, *sections)) + "\n"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _check(documents: int, held_out: int, few: int, many: int, topics: int, texts: int, low: int, high: int) -> None:
    if documents < 1 or held_out < 0:
        raise UserError(f"The task documents needs 1 document or more and 0 held out, not {documents} and {held_out}.")
    if not 2 <= topics <= len(TOPICS):
        raise UserError(f"The task documents has 2 to {len(TOPICS)} topics, not {topics}.")
    if texts < 1:
        raise UserError(f"A document has 1 text or more, not {texts}.")
    if not 2 <= few <= many <= topics:
        told = many if few == many else f"{few} to {many}"
        raise UserError(f"A document has 2 to {topics} clauses, the fewest named first, not {told}.")
    if not _ROOM * many <= low <= high <= _LONGEST:
        raise UserError(
            f"Documents of {many} clauses have {_ROOM * many} to {_LONGEST} words, the fewest named first, "
            f"not {low} to {high}."
        )
    there = math.comb(topics, few) * 8**few  # at least eight values each
    if 2 * (documents + held_out) > there:  # beyond that, finding a new one takes long
        raise UserError(f"{few} clauses make up to {there // 2} documents, not {documents + held_out}.")
