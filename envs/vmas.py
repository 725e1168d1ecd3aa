"""VMAS scenarios: E copies in one simulation, with auto-reset and with time limits that are no terminations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .interface import EnvironmentFault, Step, View
from .options import nearest
from .vmas_simulation import Simulation, Stream


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
    return VmasEnv(name, num_envs=num_envs, device=device, max_steps=max_steps, options=options)


class VmasEnv:
    """A VMAS scenario as a `VectorEnv`."""

    auto_reset = True

    def __init__(
        self,
        name: str,
        *,
        num_envs: int = 1,
        device: str | torch.device = "cpu",
        max_steps: int | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        scenarios = _scenarios()
        if name not in scenarios:
            raise EnvironmentFault(f"Environment 'vmas/{name}': there is no such scenario; {nearest(name, scenarios)}")
        self.num_envs, self.device, self.max_steps = num_envs, torch.device(device), max_steps
        self._seed, self._clock = int(np.random.SeedSequence().generate_state(1)[0]), 0
        building = Stream(self.device, True)
        building.seed(0)
        with torch.inference_mode(), building:
            self._simulation = Simulation(name, num_envs, self.device, dict(options or {}))
        self.groups = self._simulation.groups
        self._stream = Stream(self.device, self._simulation.draws_everywhere)
        self._fresh = Stream(self.device, self._simulation.draws_everywhere)
        self._stream.seed(self._seed, 0)
        self._steps = torch.zeros(num_envs, dtype=torch.int64, device=self.device)
        self._observation: dict[str, Tensor] = {}

    @torch.inference_mode()
    def reset(self, seed: int | None = None) -> View:
        if seed is not None:
            self._seed, self._clock = seed, 0
            self._stream.seed(seed, 0)
        _, observation = self._simulation.empty()
        with self._stream:
            self._simulation.reset()
            self._simulation.observe(observation)
        self._steps.zero_()
        self._observation = observation
        return View(observation)

    @torch.inference_mode()
    def step(self, actions: dict[str, Tensor]) -> Step:
        with self._stream:
            reward, final, over = self._simulation.step(actions)
        self._clock += 1
        self._steps += 1
        with torch.inference_mode(False):
            over = over.to(torch.bool, copy=True)
            cut = ~over & (self._steps >= self.max_steps) if self.max_steps is not None else torch.zeros_like(over)
            done = over | cut
            sizes = {name: len(group.agents) for name, group in self.groups.items()}
            terminated = {name: over.unsqueeze(1).expand(-1, n) for name, n in sizes.items()}
            truncated = {name: cut.unsqueeze(1).expand(-1, n) for name, n in sizes.items()}
        self._observation = final
        if self.auto_reset and bool(done.any()):
            self._start(done)
        return Step(View(self._observation), reward, terminated, truncated, final, done)

    @torch.inference_mode()
    def reset_rows(self, rows: Tensor) -> View:
        self._start(rows)
        return View(self._observation)

    def _start(self, rows: Tensor) -> None:
        self._fresh.seed(self._seed, 1, self._clock)
        _, fresh = self._simulation.empty()
        with self._fresh:
            for row in rows.nonzero().flatten().tolist():
                self._simulation.scenario.env_reset_world_at(row)
            self._simulation.observe(fresh)
        with torch.inference_mode(False):
            mask = rows[:, None, None]
            self._observation = {name: torch.where(mask, fresh[name], old) for name, old in self._observation.items()}
        self._steps.masked_fill_(rows, 0)

    def state_dict(self) -> dict[str, Tensor] | None:
        return None

    def load_state_dict(self, state: dict[str, Tensor]) -> View:
        raise EnvironmentFault("This simulation's state cannot be restored.")

    def render(self) -> np.ndarray:
        return np.asarray(self._simulation.env.render(mode="rgb_array", env_index=0))

    def close(self) -> None:
        """Nothing is held open."""


def _scenarios() -> list[str]:
    try:
        import vmas
    except ImportError as error:
        raise EnvironmentFault("VMAS environments need the package vmas: pip install vmas") from error
    return [*vmas.scenarios, *vmas.mpe_scenarios, *vmas.debug_scenarios]
