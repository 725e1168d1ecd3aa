"""Gymnasium's spaces as flat rows: what agents observe as float32 `[O]`, and what policies chose as their actions."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from .interface import Continuous, Discrete, Group

Writer = Callable[[Any, np.ndarray], None]
Reader = Callable[[Any], Any]


class Misfit(ValueError):
    """A space we cannot use, or something that is not of its space; the message is the rest of a sentence."""


@dataclass(frozen=True)
class ObservationForm:
    """How one agent's observation becomes a row; agents of one group have equal forms."""

    kind: str  # "numbers" or "choices"
    shape: tuple[int, ...]
    size: int  # O
    bytes: bool = False  # an image of 0..255, brought to 0..1
    choices: tuple[tuple[int, int], ...] = ()  # (how many, the first of them), each becomes one-hot

    def writer(self) -> Writer:
        """A function that writes an observation into a row `[O]`, or raises `Misfit`."""
        return self._choices() if self.kind == "choices" else self._numbers()

    def _numbers(self) -> Writer:
        shape, size, scale = self.shape, self.size, self.bytes

        def write(value: Any, row: np.ndarray) -> None:
            array = value if isinstance(value, np.ndarray) else np.asarray(value)
            if array.shape != shape:
                raise Misfit(f"has shape {array.shape}, but its space says {shape}")
            if array.dtype.kind not in "fiub":
                raise Misfit(f"has dtype {array.dtype}, but its space is of numbers")
            row[...] = array.reshape(size)
            if scale:
                if array.dtype != np.uint8:
                    raise Misfit(f"has dtype {array.dtype}, but its space says uint8")
                row *= 1.0 / 255.0

        return write

    def _choices(self) -> Writer:
        choices, shape = self.choices, self.shape

        def write(value: Any, row: np.ndarray) -> None:
            array = np.asarray(value)
            if array.size != len(choices):
                raise Misfit(f"has shape {array.shape}, but its space says {shape}")
            row[...] = 0.0
            place = 0
            for number, (n, start) in zip(array.reshape(-1).tolist(), choices, strict=True):
                if not 0 <= number - start < n or number != int(number):
                    raise Misfit(f"is {number}, but its space has the {n} whole numbers from {start}")
                row[place + int(number) - start] = 1.0
                place += n

        return write


@dataclass(frozen=True)
class ActionForm:
    """How a policy's action becomes the agent's own."""

    action: Discrete | Continuous
    start: int = 0  # the first number of a Discrete space
    shape: tuple[int, ...] = ()
    dtype: str = "float32"

    def reader(self) -> Reader:
        """A function from a policy's action, an int or a row `[A]`, to the agent's action; a box is clipped to."""
        if isinstance(self.action, Discrete):
            start = self.start
            return lambda number: int(number) + start
        shape, dtype = self.shape, np.dtype(self.dtype)
        low, high = (np.array(edge, dtype=dtype).reshape(shape) for edge in (self.action.low, self.action.high))
        return lambda row: np.minimum(np.maximum(np.asarray(row, dtype=dtype).reshape(shape), low), high)


def observation_form(space: Any) -> ObservationForm:
    """The form of an observation space; for the Dict of `observation` and `action_mask`, that of the observation."""
    if is_masked(space):
        space = space["observation"]
    if isinstance(space, spaces.Box):
        size = int(np.prod(space.shape))
        if size == 0:
            raise Misfit("is a Box of no numbers; give the agent something to see, a constant 0 at least")
        image = space.dtype == np.uint8 and bool((space.high == 255).all())
        return ObservationForm("numbers", tuple(space.shape), size, bytes=image)
    if isinstance(space, spaces.MultiBinary):
        return ObservationForm("numbers", tuple(space.shape), int(np.prod(space.shape)))
    if isinstance(space, spaces.Discrete):
        return _one_hot((), [int(space.n)], [int(space.start)])
    if isinstance(space, spaces.MultiDiscrete):
        starts = np.asarray(space.start).reshape(-1).tolist()
        return _one_hot(tuple(space.shape), np.asarray(space.nvec).reshape(-1).tolist(), starts)
    if isinstance(space, spaces.Dict):
        raise Misfit(
            f"is a Dict of {', '.join(map(repr, space.spaces))}; flatten it into one Box, or call its parts "
            "'observation' and 'action_mask' if that is what they are"
        )
    raise Misfit(
        f"is a {type(space).__name__} space; flatten it into one Box (Box, Discrete and MultiBinary are understood)"
    )


def action_form(space: Any) -> ActionForm:
    if isinstance(space, spaces.Discrete):
        return ActionForm(Discrete(int(space.n)), start=int(space.start))
    if not isinstance(space, spaces.Box):
        raise Misfit(
            f"is a {type(space).__name__} space; actions must be one Discrete or one Box, so number the combinations"
        )
    if space.dtype is None or space.dtype.kind != "f":
        raise Misfit(f"is a Box of {space.dtype}; give it float32, or number the actions in a Discrete space")
    if int(np.prod(space.shape)) == 0:
        raise Misfit("is a Box of no numbers; an agent that cannot act should not be an agent")
    if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        raise Misfit("is a Box without finite bounds; give its low and high, since policies act within them")
    low, high = (tuple(map(float, edge.reshape(-1))) for edge in (space.low, space.high))
    return ActionForm(Continuous(low, high), shape=tuple(space.shape), dtype=str(space.dtype))


def is_masked(space: Any) -> bool:
    """Whether this is PettingZoo's way to say which actions are legal, a Dict of `observation` and `action_mask`."""
    return isinstance(space, spaces.Dict) and set(space.spaces) == {"observation", "action_mask"}


def groups_of(forms: Mapping[str, tuple[ObservationForm, ActionForm, bool]]) -> dict[str, Group]:
    """Agents with equal (observation, action, masked) form a group, in the order in which the agents come.

    A group is called by what its agents' names have in common: `adversary_0, adversary_1` are `adversary`, archers
    and knights of one form are `archer_knight`; where that is no name, or taken, by its first and last agent.
    """
    members: dict[tuple[ObservationForm, ActionForm, bool], list[str]] = {}
    for agent, form in forms.items():
        members.setdefault(form, []).append(agent)
    short = [_common_name(agents) for agents in members.values()]
    groups = {}
    for (form, agents), name in zip(members.items(), short, strict=True):
        if not name or short.count(name) > 1:
            name = _word(agents[0] if len(agents) == 1 else f"{agents[0]}_to_{agents[-1]}")
        groups[name] = Group(name, tuple(agents), form[0].size, form[1].action, form[2])
    return groups


def _one_hot(shape: tuple[int, ...], counts: list[int], starts: list[int]) -> ObservationForm:
    choices = tuple(zip(counts, starts, strict=True))
    return ObservationForm("choices", shape, sum(counts), choices=choices)


def _common_name(agents: list[str]) -> str:
    stems = list(dict.fromkeys(_word(re.sub(r"[_\-. ]*\d+$", "", agent)) for agent in agents))
    if all(stems) and len(stems) <= 3:
        return "_".join(stems)
    return "agents" if len(stems) > 3 else ""


def _word(text: str) -> str:
    return re.sub(r"\W+", "_", text)
