"""Small runs of language agents for the tests: settings as words of the command line, on the random model."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import small_language as tiny

from hypermarl.config import build, compose
from hypermarl.envs.words import parse_text
from hypermarl.language import run as runs
from hypermarl.language import tasks
from hypermarl.language.settings import LanguageConfig
from hypermarl.language.task import Example, Role, Task

SMALL = (
    "description.encoder=states",
    "description.layers=[1,2]",
    "description.width=8",
    "description.queries=2",
    "description.blocks=1",
    "backbone.dtype=fp32",  # equalities are of single precision, whatever the machine multiplies
    f"backbone.rank={tiny.RANK}",
    "backbone.frame='{prompt}'",
    "train.progress=false",
    "train.tensorboard=false",
    "train.lr=0.05",
)
GAME = ("env=small_words:make", "env.num_envs=6", "reward.group=2", "reward.test_episodes=3", "reward.tokens=4")
TASK = ("task.name=colours", "teach.roles=2", "teach.items=2")
ROOTS = {GAME: "swarm", TASK: "language"}
COLOURS = {"red": "green", "blue": "red", "green": "blue"}


def words(model: Path, *more: str) -> list[str]:
    """What every small run is told; `more` comes last."""
    return [*SMALL, f"backbone.model={model}", *more]


def config(model: Path, what: tuple[str, ...], *more: str) -> LanguageConfig:
    return build(LanguageConfig, compose([*words(model), *what, *more], parse_text, ROOTS[what]))


def colours() -> Task:
    """Roles that name another colour than the one they read, in the words of the random model."""
    roles = tuple(
        Role(f"{colour}-{animal}", "colour", (f"{colour} {animal}", f"{animal} {colour}"), (f"{animal} one {colour}",))
        for colour in COLOURS
        for animal in ("cat", "dog")
    )
    parts = (*roles[:4], Role("apart", "colour", ("moon moon",), part="new"))

    def draw(role: Role, rng: random.Random, test: bool) -> Example:
        said = rng.choice(sorted(COLOURS))
        wanted = COLOURS[said] if role.name.endswith("cat") else said
        return Example(f"{said} {'two' if test else 'one'}", wanted, tuple(COLOURS))

    return Task("colours", parts, draw)


def make(**options: Any) -> Task:
    return colours(**options)


@pytest.fixture
def taught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The task `colours` among those there are."""
    monkeypatch.setitem(tasks.TASKS, "colours", "small_runs")


@cache
def trained(folder: Path, *more: str) -> runs.Result:
    """A small finished run of a swarm."""
    model = tiny.folder(folder / "model")
    (result,) = runs.train(config(model, GAME, f"train.folder={folder}", "train.updates=4", *more))
    return result
