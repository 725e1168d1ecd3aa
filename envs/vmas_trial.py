"""What cannot be known about a VMAS scenario is tried out, on two small simulations of it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .interface import Discrete
from .vmas_memory import Memory, RowCopy, plain, restore, save
from .vmas_simulation import Simulation, Stream

_TRIAL = 7  # environments in a trial: a number that no other axis of a scenario is likely to have
_STEPS = 12


def random_actions(simulation: Simulation, generator: torch.Generator) -> dict[str, Tensor]:
    actions = {}
    for name, group in simulation.groups.items():
        shape = (simulation.num_envs, len(group.agents))
        if isinstance(group.action, Discrete):
            actions[name] = torch.randint(group.action.n, shape, generator=generator)
        else:
            low, high = torch.tensor(group.action.low), torch.tensor(group.action.high)
            actions[name] = low + (high - low) * torch.rand((*shape, group.action.size), generator=generator)
    return actions


class Trial:
    """Two small simulations of a scenario, to try out on what cannot be known."""

    def __init__(self, build: Callable[[int], Simulation]) -> None:
        self._one, self._other = build(_TRIAL), build(_TRIAL)
        self._stream = Stream(torch.device("cpu"), self._one.draws_everywhere)
        self._choices = torch.Generator().manual_seed(0)

    def rows(self) -> tuple[str, ...] | None:
        """The tensors whose rows are all there is to an environment's start; None if there is more to it."""
        main, shadow = self._one, self._other
        self._reset(main, 1)
        self._reset(shadow, 2)
        paths = tuple(path for path, slot in Memory(shadow.scenario).tensors.items() if _has_rows(slot.read()))
        try:
            copy = RowCopy(shadow, main, paths)
            for seed in (3, 4):
                self._wander(main, 6)
                if not self._start_is_in_rows(main, shadow):
                    return None
                self._reset(shadow, seed)
                copy.give(torch.ones(_TRIAL, dtype=torch.bool), copy.take())
                if not self._agree(main, shadow):
                    return None
        except (LookupError, TypeError, ValueError, RuntimeError, AttributeError):
            return None
        return paths

    def can_save(self) -> bool:
        """Whether a simulation continues bit for bit from what `save` tells, in itself and in a fresh one."""
        main, fresh = self._one, self._other
        start, other_start = plain(main), plain(fresh)
        self._reset(main, 1)
        self._reset(fresh, 2)
        self._wander(main, 6)
        try:
            state = save(main, start)
            restore(fresh, other_start, state)
            if not self._agree(main, fresh):
                return False
            self._wander(main, 3)
            restore(main, start, state)
            restore(fresh, other_start, state)
            return self._agree(main, fresh) and plain(main) == plain(fresh)
        except (LookupError, TypeError, ValueError, RuntimeError, AttributeError):
            return False

    def _reset(self, simulation: Simulation, *seed: int) -> dict[str, Tensor]:
        _, observation = simulation.empty()
        self._stream.seed(*seed)
        with self._stream:
            simulation.reset()
            simulation.observe(observation)
        return observation

    def _wander(self, simulation: Simulation, steps: int) -> None:
        with self._stream:
            for _ in range(steps):
                simulation.step(random_actions(simulation, self._choices))

    def _start_is_in_rows(self, main: Simulation, shadow: Simulation) -> bool:
        """Whether nothing but rows tells one start from another, and a start depends on the random numbers alone."""
        seen = []
        for seed in (10, 11, 12, 13, 14, 15, 10):
            seen.append(self._reset(shadow, seed))
            here, there = Memory(main.scenario), Memory(shadow.scenario)
            for path in here.plain.keys() & there.plain.keys():
                if here.value(path) != there.value(path):
                    return False
            for path in here.tensors.keys() & there.tensors.keys():
                ours, theirs = here.tensors[path].read(), there.tensors[path].read()
                if _has_rows(ours) != _has_rows(theirs) or not (_has_rows(ours) or _equal(ours, theirs)):
                    return False
        return all(_equal(seen[0][name], seen[-1][name]) for name in seen[0])

    def _agree(self, one: Simulation, other: Simulation) -> bool:
        """Whether both give the same, bit for bit, under the same actions and random numbers."""
        for clock in range(_STEPS):
            actions = random_actions(one, self._choices)
            outcomes = []
            for simulation in (one, other):
                self._stream.seed(20, clock)
                with self._stream:
                    reward, observation, done = simulation.step(actions)
                outcomes.append([*reward.values(), *observation.values(), done])
            if not all(_equal(ours, theirs) for ours, theirs in zip(*outcomes, strict=True)):
                return False
        return True


def _has_rows(tensor: Tensor) -> bool:
    return tensor.ndim > 0 and tensor.shape[0] == _TRIAL


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool(((one == other) | (one.isnan() & other.isnan())).all())
