"""How well roles were learned: exact answers by column, with the controls that must fail beside them.

An answer counts if greedy writing would give it to the last token, its end included. Columns:

    seen             trained roles under wordings of training
    unseen           trained roles under wordings that were kept for tests
    recombined       roles made of trained parts, never trained whole, under wordings that were kept for tests
    recombined_seen  the same roles under their wordings that were not
    new              roles of which nothing was trained
    shuffled         as unseen, but every role is described by another's words: a control, must collapse
    random           as unseen, but described by strings without meaning: a control, must collapse
    unrelated        what has nothing to do with any role; to be compared with the frozen model's own share

All inputs are kept from training. Examples with choices are also scored by `choice/<column>`: whether the answer is
the likeliest of them.
"""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from hypermarl.language.lessons import chosen, right
from hypermarl.language.task import Example, Role
from hypermarl.language.teaching import Teaching

BATCH = 16  # roles in one pass


@dataclass(frozen=True)
class Column:
    """Roles to be asked, and the words that describe each to the generator (or in its prompt)."""

    name: str
    roles: tuple[Role, ...]
    describe: Callable[[Role, random.Random], str]


def columns(learner: Teaching) -> list[Column]:
    """Those that make sense for the way agents are told apart: a stored adapter knows no new role and no wording."""
    most = learner.config.teach.asked
    return [replace(column, roles=_spaced(column.roles, most)) for column in _columns(learner) if column.roles]


def _columns(learner: Teaching) -> list[Column]:
    task, sharing = learner.task, learner.config.sharing
    trained = task.of("trained")
    told = learner.config.reads or sharing.id_in_observation
    found = [Column("seen", trained, _worded)]
    if not told:
        if sharing.conditioning == "none":
            found += [Column(part, task.of(part), _first) for part in ("recombined", "new")]
        return found
    others = dict(zip((r.name for r in trained), _rotated(trained), strict=True))
    found += [
        Column("unseen", tuple(r for r in trained if r.unseen), lambda role, rng: rng.choice(role.unseen)),
        Column("recombined", task.of("recombined"), _any),
        Column("recombined_seen", tuple(r for r in task.of("recombined") if r.unseen), _worded),
        Column("new", task.of("new"), _any),
        Column("shuffled", trained, lambda role, rng: _any(others[role.name], rng)),
        Column("random", trained, lambda role, rng: gibberish(rng)),
    ]
    return found


def _spaced(roles: Sequence[Role], most: int | None) -> tuple[Role, ...]:
    """`most` of them, evenly spaced; all, if there are no more."""
    if most is None or len(roles) <= most:
        return tuple(roles)
    return tuple(roles[i * len(roles) // most] for i in range(most))


@torch.no_grad()
def examine(learner: Teaching, items: int, *, seed: int = 0, only: Sequence[str] = ()) -> dict[str, float]:
    """`exact/<column>` and, where there are choices, `choice/<column>`; `seed` draws wordings and inputs."""
    found: dict[str, float] = {}
    for column in columns(learner):
        if only and column.name not in only:
            continue
        exact: list[bool] = []
        choice: list[bool] = []
        rng = random.Random(f"exam/{seed}/{column.name}")
        for start in range(0, len(column.roles), BATCH):
            roles = column.roles[start : start + BATCH]
            wordings = [column.describe(role, rng) for role in roles]
            examples = [[learner.task.draw(role, rng, True) for _ in range(items)] for role in roles]
            one, other = _asked(learner, roles, wordings, examples)
            exact += one
            choice += other
        found[f"exact/{column.name}"] = sum(exact) / len(exact)
        if choice:
            found[f"choice/{column.name}"] = sum(choice) / len(choice)
    if learner.task.unrelated_test and (not only or "unrelated" in only):
        found |= unrelated(learner)
    return found


@torch.no_grad()
def unrelated(learner: Teaching, turns: int = 1) -> dict[str, float]:
    """Shares of unrelated test examples answered rightly, each under `turns` of the trained roles, and by the frozen
    model."""
    tests = learner.task.unrelated_test
    roles = learner.task.of("trained")
    under: list[bool] = []
    base: list[bool] = []
    for start in range(0, len(tests), BATCH):
        few = [[example] for example in tests[start : start + BATCH]]
        for turn in range(turns):
            first = start + turn * len(roles) // turns
            asked = [roles[(first + i) % len(roles)] for i in range(len(few))]
            wordings = [role.wordings[0] for role in asked]
            given = learner.lesson(few, wordings, apart=True)
            under += right(learner.scores(given, learner.actor.weights(learner.who(asked, wordings))), given).tolist()
        given = learner.lesson(few, [""] * len(few), apart=True, plain=True)
        base += right(learner.scores(given), given).tolist()
    return {"exact/unrelated": sum(under) / len(under), "exact/unrelated_base": sum(base) / len(base)}


def _asked(
    learner: Teaching, roles: Sequence[Role], wordings: Sequence[str], examples: Sequence[Sequence[Example]]
) -> tuple[list[bool], list[bool]]:
    given = learner.lesson(examples, wordings)
    scores = learner.scores(given, learner.actor.weights(learner.who(roles, wordings)))
    flat = [example for few in examples for example in few]
    choice: list[bool] = []
    if all(example.choices for example in flat):
        choice = chosen(learner.backbone, learner.config.backbone.frame, scores, given, flat)
    return right(scores, given).tolist(), choice


def gibberish(rng: random.Random) -> str:
    """Ten words of no language."""
    return " ".join("".join(rng.choices(string.ascii_lowercase, k=rng.randint(3, 8))) for _ in range(10)) + "."


def _worded(role: Role, rng: random.Random) -> str:
    return rng.choice(role.wordings)


def _any(role: Role, rng: random.Random) -> str:
    return rng.choice(role.unseen or role.wordings)


def _first(role: Role, rng: random.Random) -> str:
    return role.wordings[0]


def _rotated(roles: Sequence[Role]) -> list[Role]:
    """Every role's other: a third of the way round, which as a rule is another family."""
    shift = max(1, len(roles) // 3)
    return [*roles[shift:], *roles[:shift]]
