"""Collect experience: time-first storage, weights generated once per rollout, truncation apart from termination.

Letters: `T` time, `E` environments per seed, `S` seeds, `N` agents, `O` observation, `A` action. An environment that
trains S seeds holds E*S copies, copy number e*S + s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import torch
from torch import Tensor

from hypermarl.envs.interface import EnvironmentFault, Step, VectorEnv, View
from hypermarl.marl import distributions
from hypermarl.marl.policy import Memory, Policy
from hypermarl.monitoring.progress import Clock


@dataclass(slots=True)
class Batch:
    """One group's rollout."""

    observation: Tensor  # [T+1, E, S, N, O]; the last is what comes next
    action: Tensor  # [T, E, S, N] or [T, E, S, N, A]
    log_prob: Tensor  # [T, E, S, N], of the raw sample
    reward: Tensor  # [T, E, S, N]
    terminated: Tensor  # [T, E, S, N] bool
    truncated: Tensor  # [T, E, S, N] bool
    fresh: Tensor  # [T+1, E, S] bool: an episode begins here
    mask: Tensor | None = None  # [T, E, S, N, A] bool
    alive: Tensor | None = None  # [T, E, S, N] bool
    memory: Memory | None = None  # before the first step
    final: dict[int, Tensor] = field(default_factory=dict)  # t -> [E, S, N, O], where somebody was truncated at t


@dataclass(slots=True)
class Episodes:
    """Sums over the episodes that ended in a rollout: returns `[S, N]` by group, count and length `[S]`."""

    returns: dict[str, Tensor]
    count: Tensor
    length: Tensor


class Collector:
    """Steps one environment with all groups' policies; remembers where it is between rollouts."""

    def __init__(self, env: VectorEnv, policies: Mapping[str, Policy], steps: int, seeds: int) -> None:
        self.env = env
        self.policies = policies
        self.steps = steps
        self.seeds = seeds
        self.envs = env.num_envs // seeds
        self.view: View | None = None
        device = env.device
        self.fresh = torch.ones(self.envs, seeds, dtype=torch.bool, device=device)
        self.memory = {n: p.blank_memory(self.envs, seeds) for n, p in policies.items() if p.recurrent}
        shape = (self.envs, seeds)
        self.returns = {n: torch.zeros(*shape, len(p.group.agents), device=device) for n, p in policies.items()}
        self.length = torch.zeros(shape, device=device)

    def reset(self, seed: int) -> None:
        """Begin anew in every environment."""
        self.view = self.env.reset(seed)
        self.fresh.fill_(True)
        self.length.zero_()
        for total in self.returns.values():
            total.zero_()

    @torch.no_grad()
    def collect(self, rngs: Sequence[torch.Generator], clock: Clock) -> tuple[dict[str, Batch], Episodes]:
        """T steps of all environments. Random numbers of a seed come from its own `rngs[s]`."""
        assert self.view is not None, "reset the collector first"
        with clock("generation"):
            stack = ExitStack()
            for policy in self.policies.values():
                stack.enter_context(policy.frozen())
        with stack:
            noise = {n: self._noise(p, rngs) for n, p in self.policies.items()}
            batches = {n: self._blank(n) for n in self.policies}
            ended = Episodes(
                {n: torch.zeros_like(r[0]) for n, r in self.returns.items()},
                torch.zeros_like(self.length[0]),
                torch.zeros_like(self.length[0]),
            )
            for t in range(self.steps):
                with clock("policy"):
                    actions = self._act(t, batches, noise)
                with clock("environment"):
                    step = self.env.step(actions)
                self.view = step.view
                self._record(t, batches, step, ended)
            for name, batch in batches.items():
                batch.observation[-1] = self._split(self.view.observation[name])
                batch.fresh[-1] = self.fresh
        return batches, ended

    def _act(self, t: int, batches: dict[str, Batch], noise: dict[str, Tensor]) -> dict[str, Tensor]:
        assert self.view is not None
        actions = {}
        for name, policy in self.policies.items():
            batch = batches[name]
            observation = self._split(self.view.observation[name])
            batch.observation[t] = observation
            batch.fresh[t] = self.fresh
            mask = self.view.mask.get(name)
            if mask is not None and batch.mask is not None:
                mask = batch.mask[t] = self._split(mask)
            if batch.alive is not None:
                batch.alive[t] = self._split(self.view.alive[name])
            parameters = self._parameters(name, policy, observation, mask)
            action = distributions.sample(policy.distribution, parameters, noise[name][t])
            batch.action[t] = action
            batch.log_prob[t] = distributions.raw_log_prob(policy.distribution, parameters, action)
            actions[name] = policy.to_environment(action).flatten(0, 1)
        return actions

    def _parameters(
        self, name: str, policy: Policy, observation: Tensor, mask: Tensor | None
    ) -> distributions.Parameters:
        if not policy.recurrent:
            return policy.parameters_of(observation, mask)[0]
        assert self.view is not None
        memory = self.memory[name]
        fresh = self.fresh.unsqueeze(-1).expand(observation.shape[:-1]).unsqueeze(0)
        parameters, actor = policy.parameters_of(
            observation.unsqueeze(0), None if mask is None else mask.unsqueeze(0), memory=memory.actor, fresh=fresh
        )
        inputs = policy.critic_inputs({n: self._split(o) for n, o in self.view.observation.items()})
        _, critic = policy.values(inputs.unsqueeze(0), memory=memory.critic, fresh=fresh)
        assert actor is not None
        assert critic is not None
        self.memory[name] = Memory(actor[0], critic[0])
        return {key: value.squeeze(0) for key, value in parameters.items()}

    def _record(self, t: int, batches: dict[str, Batch], step: Step, ended: Episodes) -> None:
        done = self._split(step.done)
        self.length += 1
        any_truncated = False
        for name, batch in batches.items():
            reward = self._split(step.reward[name])
            batch.reward[t] = reward
            batch.terminated[t] = self._split(step.terminated[name])
            batch.truncated[t] = self._split(step.truncated[name])
            total = self.returns[name]
            total += reward
            ended.returns[name] += torch.where(done.unsqueeze(-1), total, 0.0).sum(0)
            total.masked_fill_(done.unsqueeze(-1), 0.0)
            any_truncated = any_truncated or bool(batch.truncated[t].any())
        if any_truncated:
            for name, batch in batches.items():
                batch.final[t] = self._split(step.final[name]).clone()
        ended.count += done.sum(0)
        ended.length += torch.where(done, self.length, 0.0).sum(0)
        self.length.masked_fill_(done, 0.0)
        self.fresh = done

    def _split(self, tensor: Tensor) -> Tensor:
        """`[E*S, ...]` -> `[E, S, ...]`, a view."""
        return tensor.reshape(self.envs, self.seeds, *tensor.shape[1:])

    def _noise(self, policy: Policy, rngs: Sequence[torch.Generator]) -> Tensor:
        """All noise of a rollout `[T, E, S, N, A]`; each seed's is drawn from its own stream."""
        shape = (self.steps, self.envs, len(policy.group.agents), policy.group.action.size)
        drawn = [distributions.noise_like(policy.distribution, shape, rng) for rng in rngs]
        return torch.stack(drawn, 2)

    def _blank(self, name: str) -> Batch:
        policy = self.policies[name]
        group = policy.group
        view = self.view
        assert view is not None
        shape = (self.steps, self.envs, self.seeds, len(group.agents))
        device = self.env.device
        discrete = policy.distribution == "categorical"
        action = torch.empty(shape, dtype=torch.int64) if discrete else torch.empty(*shape, group.action.size)

        def flags(*size: int) -> Tensor:
            return torch.zeros(size, dtype=torch.bool, device=device)

        memory = self.memory.get(name)
        if memory is not None:  # the mask of fresh episodes is applied where it is used
            memory = Memory(memory.actor.clone(), memory.critic.clone())
        if name in view.mask and not group.masked:
            raise EnvironmentFault(f"Group {name!r} gives action masks but does not declare them.")
        return Batch(
            observation=torch.empty(self.steps + 1, *shape[1:], group.observation, device=device),
            action=action.to(device),
            log_prob=torch.empty(shape, device=device),
            reward=torch.empty(shape, device=device),
            terminated=flags(*shape),
            truncated=flags(*shape),
            fresh=flags(self.steps + 1, self.envs, self.seeds),
            mask=flags(*shape, group.action.size) if group.masked else None,
            alive=flags(*shape) if name in view.alive else None,
            memory=memory,
        )

    def state_dict(self) -> dict[str, Tensor]:
        """Where we are between rollouts, the environment's own state aside."""
        state = {"fresh": self.fresh, "length": self.length}
        state |= {f"returns.{n}": r for n, r in self.returns.items()}
        for name, memory in self.memory.items():
            state |= {f"memory.{name}.actor": memory.actor, f"memory.{name}.critic": memory.critic}
        return {key: value.clone() for key, value in state.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.fresh = state["fresh"].to(self.fresh.device)
        self.length = state["length"].to(self.length)
        self.returns = {n: state[f"returns.{n}"].to(r) for n, r in self.returns.items()}
        self.memory = {
            n: Memory(state[f"memory.{n}.actor"].to(m.actor), state[f"memory.{n}.critic"].to(m.critic))
            for n, m in self.memory.items()
        }
