"""Evaluation while training: whole episodes of all seeds' policies, side by side on environments of their own.

Letters: `S` seeds, `E` environments per seed, `N` agents, `A` action.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack

import torch
from torch import Tensor

from hypermarl import envs
from hypermarl.envs.interface import VectorEnv, View
from hypermarl.evaluation import vectorised
from hypermarl.evaluation.metrics import Episodes
from hypermarl.marl import distributions
from hypermarl.marl.policy import Policy
from hypermarl.marl.settings import ExperimentConfig


class Exam:
    """The same start states each time; the environments are made at the first call and kept, as that costs time."""

    def __init__(self, config: ExperimentConfig) -> None:
        self._config = config
        self._env: VectorEnv | None = None
        wanted = config.evaluation.episodes
        # simulations run more copies for little; processes do not
        self._each = min(wanted, config.env.num_envs) if config.env.kind == "pettingzoo" else wanted

    def take(self, policies: Mapping[str, Policy]) -> list[Episodes]:
        """At least the configured number of episodes of every seed; parameters of the policies carry the axis `S`."""
        if self._env is None:
            self._env = self._make()
        config = self._config.evaluation
        sitting = _Sitting(self._config, policies, self._each, torch.Generator(self._env.device))
        episodes = -(-config.episodes // self._each) * self._each * self._config.seeds
        with ExitStack() as stack:
            for policy in policies.values():
                stack.enter_context(policy.frozen())
                stack.enter_context(policy.exact())
            played = vectorised.evaluate(self._env, sitting.act, episodes, config.seed)
        return [played.select(played.environment % self._config.seeds == s) for s in range(self._config.seeds)]

    def close(self) -> None:
        if self._env is not None:
            self._env.close()
            self._env = None

    def _make(self) -> VectorEnv:
        env = self._config.env
        return envs.make(
            env.kind,
            env.name,
            num_envs=self._each * self._config.seeds,
            device=self._config.device,
            max_steps=env.max_steps,
            workers=env.workers,
            options=dict(env.options),
        )


class _Sitting:
    """Greedy (or sampled) play of frozen policies, with the memories of recurrent ones."""

    def __init__(
        self, config: ExperimentConfig, policies: Mapping[str, Policy], each: int, rng: torch.Generator
    ) -> None:
        self.policies = policies
        self.shape = (each, config.seeds)
        self.greedy = config.evaluation.greedy
        self.rng = rng.manual_seed(config.evaluation.seed)
        self.memories = {n: p.blank_memory(*self.shape).actor for n, p in policies.items() if p.recurrent}

    def act(self, view: View, fresh: Tensor) -> dict[str, Tensor]:
        """Actions `[E*S, N]` or `[E*S, N, A]` by group."""
        actions = {}
        for name, policy in self.policies.items():
            observation = self._split(view.observation[name])
            mask = self._split(view.mask[name]) if name in view.mask else None
            if policy.recurrent:
                parameters = self._remember(name, policy, observation, mask, fresh)
            else:
                parameters = policy.parameters_of(observation, mask)[0]
            if self.greedy:
                action = distributions.mode(policy.distribution, parameters)
            else:
                shape = next(iter(parameters.values())).shape
                noise = distributions.noise_like(policy.distribution, tuple(shape), self.rng)
                action = distributions.sample(policy.distribution, parameters, noise)
            actions[name] = policy.to_environment(action).flatten(0, 1)
        return actions

    def _remember(
        self, name: str, policy: Policy, observation: Tensor, mask: Tensor | None, fresh: Tensor
    ) -> distributions.Parameters:
        begin = self._split(fresh).unsqueeze(-1).expand(observation.shape[:-1])
        parameters, memory = policy.parameters_of(
            observation.unsqueeze(0),
            None if mask is None else mask.unsqueeze(0),
            memory=self.memories[name],
            fresh=begin.unsqueeze(0),
        )
        assert memory is not None
        self.memories[name] = memory[0]
        return {key: value.squeeze(0) for key, value in parameters.items()}

    def _split(self, tensor: Tensor) -> Tensor:
        """`[E*S, ...]` -> `[E, S, ...]`."""
        return tensor.reshape(*self.shape, *tensor.shape[1:])
