"""One role as data: what it answers, what it is made of, and what it is called in words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hypermarl.errors import UserError
from hypermarl.language.task import Part, Role

Solver = Callable[[str, str], str]
"""(colour, thing) -> the answer."""

TRAINED = 6  # of the eight descriptions of a role, so many are read in training
UNSEEN = 2

# {core} is a description as one or more sentences. Four frames of training, then two that only tests use; each of them
# is a family's own, as what one says about layout one does not say about team work.
FRAMES: dict[str, tuple[str, ...]] = {
    "format": (
        "{core}",
        "You are a typesetter. {core}",
        "Your job is layout. {core}",
        "{core} Change nothing else.",
        "You look after how things are written. {core}",
        "{core} No further text, please.",
    ),
    "extraction": (
        "{core}",
        "You are an analyst. {core}",
        "Your job is finding facts. {core}",
        "{core} Leave out all the rest.",
        "You read inputs for a busy team. {core}",
        "{core} Nobody needs more than that.",
    ),
    "policy": (
        "{core}",
        "You follow a fixed policy. {core}",
        "Your job is to decide. {core}",
        "{core} Give no reasons.",
        "You apply one rule of the house. {core}",
        "{core} Never explain your choice.",
    ),
    "coordination": (
        "{core}",
        "You work in a team. {core}",
        "Your job is teamwork. {core}",
        "{core} Keep the channel free.",
        "Several agents share this task. {core}",
        "{core} Your colleagues rely on it.",
    ),
}
_OF_TRAINING = 4  # frames
_OF_TESTS = (4, 5, 0, 2)  # half of them unseen


@dataclass(frozen=True, slots=True)
class Definition:
    """`parts` name what a role is made of, so that it can be told which combinations are new.

    The first six of `cores` are for training. `sort` says between which kinds of input draws are balanced, where a
    plain draw would nearly always give the same answer; with few answers it is the answer itself.
    """

    name: str
    family: str
    parts: frozenset[str]
    answer: Solver
    cores: tuple[str, ...]
    part: Part = "trained"
    sort: Solver | None = None

    def __post_init__(self) -> None:
        if len(self.cores) != TRAINED + UNSEEN:
            raise UserError(f"Role {self.name!r} has {len(self.cores)} descriptions; it needs {TRAINED + UNSEEN}.")

    def role(self) -> Role:
        frames = FRAMES[self.family]
        said = (frame.format(core=core) for core in self.cores[:TRAINED] for frame in frames[:_OF_TRAINING])
        kept = (frames[i].format(core=core) for core in self.cores[TRAINED:] for i in _OF_TESTS)
        return Role(self.name, self.family, tuple(said), tuple(kept), self.part)


def define(
    family: str,
    name: str,
    parts: str,
    answer: Solver,
    cores: str,
    *,
    part: Part = "trained",
    sort: Solver | None = None,
) -> Definition:
    """A definition from one line per description; `parts` are words with commas between."""
    lines = tuple(line.strip() for line in cores.strip().splitlines())
    return Definition(f"{family}/{name}", family, frozenset(parts.split(", ")), answer, lines, part, sort)
