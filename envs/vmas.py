"""VMAS scenarios: E copies in one simulation, with auto-reset, and with time limits that are no terminations."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from .interface import EnvironmentFault, Group, Step, View
from .options import nearest
from .vmas_memory import RowCopy, Starts, plain, restore, save
from .vmas_picture import draw
from .vmas_scenarios import CATALOGUE, scenarios
from .vmas_simulation import Simulation, Stream
from .vmas_trial import Trial

_SPAN = 50  # steps in which an environment's starts are counted
_BUILDING, _RUNNING, _POOL, _ROW, _LOOK = range(5)  # what random numbers are for: no two uses share a stream


__all__ = ["CATALOGUE", "VmasEnv", "make"]

Found = TypeVar("Found")
_found: dict[str, Any] = {}


def make(
    name: str,
    *,
    num_envs: int = 1,
    device: str | torch.device = "cpu",
    max_steps: int | None = None,
    workers: int = 1,
    options: Mapping[str, Any] | None = None,
) -> VmasEnv:
    """`num_envs` copies of the scenario `name`; `options` are the scenario's own, and `continuous_actions` (True).

    `workers` is for environments that run in processes: a simulation is one batch already, so it is not used.
    """
    if name not in scenarios():
        raise EnvironmentFault(f"Environment 'vmas/{name}': there is no such scenario; {nearest(name, scenarios())}")
    return VmasEnv(name, num_envs, torch.device(device), max_steps, dict(options or {}))


class VmasEnv:
    """A VMAS scenario as a `VectorEnv`.

    VMAS can start all environments anew, or one at a time in a Python loop that costs more than the physics. Here an
    environment that ends takes its row of a second simulation, which is started anew as a whole: row e for environment
    e, so that nothing passes between environments. Which start it gets depends on the seed, the clock in spans of 50
    steps, and how many starts it had in this span: never on who else ended. So the second simulation is started anew
    only when somebody asks for a start that nobody had before. Where a scenario's state is more than rows of tensors
    (tried out on two small copies), VMAS's own loop is used.

    Inside all is done in inference mode, which is worth a tenth of the time; what comes out are ordinary tensors.
    """

    auto_reset = True

    def __init__(
        self, name: str, num_envs: int, device: torch.device, max_steps: int | None, options: dict[str, Any]
    ) -> None:
        self.num_envs, self.device, self.max_steps = num_envs, device, max_steps
        self._name, self._options = name, options
        self._simulation = self._build(num_envs, device)
        self.groups: dict[str, Group] = self._simulation.groups
        self._stream = Stream(device, self._simulation.draws_everywhere)
        self._starts = Stream(device, self._simulation.draws_everywhere)
        self._taken = torch.zeros(num_envs, dtype=torch.int64, device=device)  # starts in the current span
        self._reseed(int(np.random.SeedSequence().generate_state(1)[0]))
        self._steps = torch.zeros(num_envs, dtype=torch.int64, device=device)
        self._observation: dict[str, Tensor] = {}
        self._drawn: dict[tuple[int, ...], tuple[Starts, dict[str, Tensor]]] = {}  # the starts of the current span

    def _build(self, num_envs: int, device: torch.device) -> Simulation:
        stream = Stream(device, everywhere=True)
        stream.seed(_BUILDING)  # colours, sizes: whatever is drawn here is the same in every copy
        with torch.inference_mode(), stream:
            return Simulation(self._name, num_envs, device, self._options)

    def _reseed(self, seed: int) -> None:
        self._seed, self._clock, self._span = seed, 0, 0
        self._taken.zero_()
        self._stream.seed(_RUNNING, seed)

    @torch.inference_mode()
    def reset(self, seed: int | None = None) -> View:
        if seed is not None:
            self._reseed(seed)
        _, observation = self._simulation.empty()
        with self._stream:
            self._simulation.reset()
            self._simulation.observe(observation)
        self._steps.zero_()
        self._observation = observation
        return View(observation)

    @torch.inference_mode()
    def step(self, actions: dict[str, Tensor]) -> Step:
        try:
            with self._stream if self._simulation.draws else nullcontext():
                reward, final, over = self._simulation.step(actions)
        except Exception as error:  # whatever a scenario raises, its user gets one sentence
            raise self._fault(f"failed in a step: {type(error).__name__}: {error}") from error
        self._check(reward, actions)
        self._clock += 1
        self._steps += 1
        with torch.inference_mode(False):
            over = over.to(torch.bool, copy=True)
            cut = torch.zeros_like(over) if self.max_steps is None else (self._steps >= self.max_steps) & ~over
            done = over | cut
            sizes = {name: len(group.agents) for name, group in self.groups.items()}
            terminated = {name: over.unsqueeze(1).expand(-1, n) for name, n in sizes.items()}
            truncated = {name: cut.unsqueeze(1).expand(-1, n) for name, n in sizes.items()}
        self._observation = final
        if self.auto_reset and bool(done.any()):
            self._begin(done)
        return Step(View(self._observation), reward, terminated, truncated, final, done)

    @torch.inference_mode()
    def reset_rows(self, rows: Tensor) -> View:
        if not self._observation:
            return self.reset()
        self._begin(rows)
        return View(self._observation)

    def _begin(self, rows: Tensor) -> None:
        """Start the environments where `rows [E]` is true anew; the others keep what they last saw."""
        if self._span != self._clock // _SPAN:
            self._span = self._clock // _SPAN
            self._taken.zero_()
        most = int((self._taken * rows).max())
        for turn in sorted(set(self._taken[rows].tolist())) if most else [0]:
            chosen = rows & (self._taken == turn)
            now = (self._seed, self._span, turn)
            fresh = self._begin_one_by_one(chosen, now) if self._pool is None else self._begin_at_once(chosen, now)
            with torch.inference_mode(False):
                seen, mask = self._observation, chosen[:, None, None]
                self._observation = {name: torch.where(mask, fresh[name], seen[name]) for name in seen}
        self._taken += rows
        self._steps.masked_fill_(rows, 0)

    def _begin_at_once(self, rows: Tensor, now: tuple[int, ...]) -> dict[str, Tensor]:
        assert self._pool is not None
        pool, copy = self._pool
        if now not in self._drawn:
            self._drawn = {when: starts for when, starts in self._drawn.items() if when[:-1] == now[:-1]}
            _, observation = pool.empty()
            self._starts.seed(_POOL, *now)
            with self._starts:
                pool.reset()
                pool.observe(observation)
            self._drawn[now] = copy.take(), observation
        starts, observation = self._drawn[now]
        copy.give(rows, starts)
        return observation

    def _begin_one_by_one(self, rows: Tensor, now: tuple[int, ...]) -> dict[str, Tensor]:
        """As VMAS does it. All at once where all end, which some scenarios need: they only then choose a new goal."""
        if bool(rows.all()):
            self._starts.seed(_POOL, *now)
            with self._starts:
                self._simulation.reset()
        else:
            for row in rows.nonzero().flatten().tolist():
                self._starts.seed(_ROW, *now, row)
                with self._starts:
                    self._simulation.reset_at(row)
        _, observation = self._simulation.empty()
        self._starts.seed(_LOOK, *now)
        with self._starts:
            self._simulation.observe(observation)
        return observation

    @cached_property
    def pooled(self) -> bool:
        """Whether environments are started from rows of a second simulation, not in a loop."""
        return self._pool is not None

    @cached_property
    @torch.inference_mode()
    def _pool(self) -> tuple[Simulation, RowCopy] | None:
        paths = self._try("rows", Trial.rows)
        if paths is None:
            return None
        pool = self._build(self.num_envs, self.device)
        self._starts.seed(_POOL)
        with self._starts:
            pool.reset()
        return pool, RowCopy(pool, self._simulation, paths)

    def _try(self, question: str, ask: Callable[[Trial], Found]) -> Found:
        """What a trial of this scenario with these options finds; one trial serves a whole process."""
        key = f"{question} {self._name} {sorted(self._options.items())}"
        if key not in _found:
            _found[key] = ask(Trial(lambda size: self._build(size, torch.device("cpu"))))
        found: Found = _found[key]
        return found

    @cached_property
    @torch.inference_mode()
    def _blank(self) -> dict[str, Any] | None:
        """The plain values of a simulation that was just built; None if it cannot be saved."""
        return plain(self._build(self.num_envs, self.device)) if self._try("save", Trial.can_save) else None

    def state_dict(self) -> dict[str, Tensor] | None:
        if self._blank is None:
            return None
        if not self._observation:
            self.reset()
        state = {f"simulation/{name}": tensor for name, tensor in save(self._simulation, self._blank).items()}
        state |= {f"observation/{name}": tensor.clone() for name, tensor in self._observation.items()}
        state |= {f"random/{i}": tensor for i, tensor in enumerate(self._stream.state())}
        state["steps"] = self._steps.clone()
        state["taken"] = self._taken.clone()
        state["clock"] = torch.tensor([self._seed, self._clock, self._span])
        return state

    @torch.inference_mode()
    def load_state_dict(self, state: dict[str, Tensor]) -> View:
        random = self._stream.state()
        widths = {name: (self.num_envs, len(group.agents), group.observation) for name, group in self.groups.items()}
        shapes: dict[str, tuple[int, ...]] = {"steps": (self.num_envs,), "taken": (self.num_envs,), "clock": (3,)}
        shapes |= {f"observation/{name}": shape for name, shape in widths.items()}
        shapes |= {f"random/{i}": tuple(tensor.shape) for i, tensor in enumerate(random)}
        fits = all(name in state and state[name].shape == shape for name, shape in shapes.items())
        if self._blank is None or not fits:
            raise self._fault(f"takes no such state: it is of another environment, or not of {self.num_envs} of them")
        told = {name: tensor for name, tensor in state.items() if name.startswith("simulation/")}
        try:
            restore(self._simulation, self._blank, {name.removeprefix("simulation/"): told[name] for name in told})
        except LookupError as error:
            raise self._fault(f"takes no such state: it is of {error}") from error
        self._stream.load([state[f"random/{i}"].cpu() for i in range(len(random))])
        self._seed, self._clock, self._span = (int(number) for number in state["clock"])
        self._steps.copy_(state["steps"])
        self._taken.copy_(state["taken"])
        with torch.inference_mode(False):
            self._observation = {name: state[f"observation/{name}"].to(self.device, copy=True) for name in self.groups}
        return View(self._observation)

    def _fault(self, what: str) -> EnvironmentFault:
        return EnvironmentFault(f"Environment 'vmas/{self._name}' {what}.")

    def _check(self, reward: dict[str, Tensor], actions: dict[str, Tensor]) -> None:
        for name, group in self.groups.items():
            if not math.isfinite(float(reward[name].sum())):
                if actions[name].is_floating_point() and not actions[name].isfinite().all():
                    raise self._fault(f"was given an action that is not a finite number by a policy of group {name!r}")
                at = int((~reward[name].isfinite()).any(dim=0).nonzero()[0])
                raise self._fault(f"gave agent {group.agents[at]!r} a reward that is not a finite number")

    def render(self) -> np.ndarray:
        if not self._observation:
            self.reset()
        with torch.inference_mode(), self._starts:  # a scenario may draw numbers for its picture
            return draw(self._simulation)

    def close(self) -> None:
        """Nothing is held open."""
