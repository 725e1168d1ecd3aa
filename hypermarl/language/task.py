"""What a language agent is trained to do, as data: roles described in words, and examples whose answers are computed.

A task is one function that returns a `Task`, in a module of `hypermarl.language.tasks`, and one line in `TASKS` there.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

Part = Literal["trained", "recombined", "new"]
"""Trained on; made of parts that were trained on, but never whole; made of nothing that was trained on."""


@dataclass(frozen=True, slots=True)
class Example:
    """What an agent reads, and all that it must write. `choices` are answers to choose among, where scored so."""

    prompt: str
    answer: str
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Role:
    """One thing to be: `wordings` describe it in training, `unseen` ones only in tests. A document is one wording."""

    name: str
    family: str
    wordings: tuple[str, ...]
    unseen: tuple[str, ...] = ()
    part: Part = "trained"

    def __post_init__(self) -> None:
        if not self.wordings or set(self.wordings) & set(self.unseen):
            raise ValueError(f"role {self.name!r} needs wordings, none of them among those kept for tests")


@dataclass(frozen=True)
class Task:
    """Roles, and `draw(role, rng, test)`: a random example of a role; inputs of tests are none of training's.

    `unrelated` and `unrelated_test` are examples that have nothing to do with any role: an adapter should leave them
    alone. The first may be trained on, the second only measured.
    """

    name: str
    roles: tuple[Role, ...]
    draw: Callable[[Role, random.Random, bool], Example]
    unrelated: tuple[Example, ...] = ()
    unrelated_test: tuple[Example, ...] = ()

    def __post_init__(self) -> None:
        names = [role.name for role in self.roles]
        if len(set(names)) < len(names):
            raise ValueError(f"task {self.name!r} has two roles of one name")

    def of(self, *parts: Part) -> tuple[Role, ...]:
        """The roles of these parts, in order."""
        return tuple(role for role in self.roles if role.part in parts)
