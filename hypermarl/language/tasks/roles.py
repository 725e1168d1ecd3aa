"""Roles-64: sixteen roles of each of four families, described in many words and asked about coloured things.

Of the 64, 52 are trained. Six are made of parts that were trained, but never together; of six nothing was trained.
"""

from __future__ import annotations

import random

from hypermarl.language.task import Example, Role, Task
from hypermarl.language.tasks import roles_coordination, roles_extraction, roles_format, roles_policy
from hypermarl.language.tasks.inputs import Pair, pairs
from hypermarl.language.tasks.roles_definition import Definition
from hypermarl.language.tasks.unrelated import UNRELATED, UNRELATED_TEST

DEFINITIONS: tuple[Definition, ...] = (
    *roles_format.ROLES,
    *roles_extraction.ROLES,
    *roles_policy.ROLES,
    *roles_coordination.ROLES,
)

_FEW = 10  # answers: with no more than these, each is drawn as often as any other


def make() -> Task:
    """All 64. Inputs are drawn such that no answer that a role gives seldom is seldom asked for."""
    asked = pairs()
    kinds = {one.name: (one, tuple(_sorted(one, part) for part in asked)) for one in DEFINITIONS}

    def draw(role: Role, rng: random.Random, test: bool) -> Example:
        one, sorts = kinds[role.name]
        colour, thing = rng.choice(rng.choice(sorts[test]))
        return Example(f"{colour} {thing}", one.answer(colour, thing))

    return Task("roles", tuple(one.role() for one in DEFINITIONS), draw, UNRELATED, UNRELATED_TEST)


def _sorted(one: Definition, asked: tuple[Pair, ...]) -> tuple[tuple[Pair, ...], ...]:
    """The inputs by what the role takes them for; all together where its answers are many."""
    sort = one.sort or one.answer
    found: dict[str, list[Pair]] = {}
    for pair in asked:
        found.setdefault(sort(*pair), []).append(pair)
    return tuple(map(tuple, found.values())) if len(found) <= _FEW else (asked,)
