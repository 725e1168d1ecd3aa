"""The agents of one group with their weights generated once: plain networks in a batch, and room for newcomers.

Letters: `N` agents, `O` observation, `A` action, `H` hidden width, `d` conditioning, `f` features.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hypermarl.conditioning import AgentTable, Features, Nobody
from hypermarl.errors import UserError
from hypermarl.marl import distributions
from hypermarl.marl.policy import Policy
from hypermarl.spec import Weights, whole
from hypermarl.targets import GRUTarget, MLPTarget
from hypermarl.targets.gru import History
from hypermarl.targets.mlp import without_id

Likeness = str | Mapping[str, float]


class Squad:
    """Frozen weights `[N, *shape]` of a group's agents, or `[1, *shape]` where all of them share a tensor."""

    @torch.no_grad()
    def __init__(self, policy: Policy) -> None:
        """`policy` is of one seed: its parameters carry no leading axis."""
        self.policy = policy
        self.group = policy.group
        self.agents = list(policy.group.agents)
        self.weights: Weights = {name: w.detach().clone() for name, w in whole(policy.actor.weights()).items()}
        ids = len(self.agents) if policy.id_in_observation else 0
        self.identity = torch.eye(len(self.agents), ids, device=policy.low.device)  # [N, ids], joins the observation
        config = policy.actor.generator.config
        self._shared = {w.name for w in policy.actor.target.spec.weights if w.shared or config.head == "none"}

    @property
    def alike(self) -> bool:
        """True if every agent is the same network on the same input, so that anybody may join."""
        return isinstance(self.policy.actor.conditioner, Nobody) and not self.policy.id_in_observation

    def rows(self, agents: Sequence[str]) -> Tensor | None:
        """Where these agents are, `[n]`; None if they are everybody in order."""
        if list(agents) == self.agents:
            return None
        return torch.tensor([self.agents.index(agent) for agent in agents], device=self.identity.device)

    def weights_of(self, rows: Tensor | None) -> Weights:
        if rows is None:
            return self.weights
        return {n: w if n in self._shared else w.index_select(0, rows) for n, w in self.weights.items()}

    def blank(self, *shape: int) -> Tensor:
        """Memories of agents that have seen nothing, `[*shape, H]`."""
        target = self.policy.actor.target
        assert isinstance(target, GRUTarget)
        return target.initial(*shape).to(self.identity.device)

    @torch.no_grad()
    def parameters(
        self,
        observation: Tensor,
        mask: Tensor | None = None,
        *,
        rows: Tensor | None = None,
        memory: Tensor | None = None,
        fresh: Tensor | None = None,
    ) -> tuple[distributions.Parameters, Tensor | None]:
        """Action distributions of the agents at `rows`, one step: observation `[*batch, n, O]` -> `[*batch, n, A]`.

        Recurrent agents also take `memory [*batch, n, H]` and `fresh [*batch, n]`, and give the memory afterwards.
        """
        weights = self.weights_of(rows)
        target = self.policy.actor.target
        if self.policy.id_in_observation:
            assert isinstance(target, MLPTarget | GRUTarget)
            identity = self.identity if rows is None else self.identity[rows]
            weights = without_id(weights, target.first, identity.shape[1], identity)
        after: Tensor | None = None
        if self.policy.recurrent:
            assert memory is not None
            assert fresh is not None
            history = History(observation.unsqueeze(0), memory, fresh.unsqueeze(0))
            outputs, memories = target.apply(weights, history)
            outputs, after = outputs[0], memories[0]
        else:
            outputs = target.apply(weights, observation)
        if self.policy.distribution == "categorical":
            return {"logits": distributions.masked(outputs, mask)}, after
        return {"loc": outputs, "log_std": weights["log_std"].expand_as(outputs)}, after

    def choose(self, parameters: distributions.Parameters, rng: torch.Generator | None) -> Tensor:
        """Greedy actions, or sampled ones if `rng` is given, in the environment's units and inside its box."""
        kind = self.policy.distribution
        if rng is None:
            raw = distributions.mode(kind, parameters)
        else:
            shape = tuple(next(iter(parameters.values())).shape)
            noise = distributions.noise_like(kind, shape, rng).to(self.identity.device)
            raw = distributions.sample(kind, parameters, noise)
        action = self.policy.to_environment(raw)
        return action if kind == "categorical" else action.clamp(self.policy.low, self.policy.high)

    @torch.no_grad()
    def add(
        self, agent: str, like: Likeness | None, embedding: Tensor | None, features: Sequence[float] | None
    ) -> None:
        """Generate weights for a newcomer; nothing is retrained and nobody else changes."""
        mixture = None if like is None else self._mixture(agent, like)
        condition = self._condition(agent, mixture, embedding, features)
        generated = whole(self.policy.actor.generator(condition))
        for name, tensor in generated.items():
            if name not in self._shared:
                self.weights[name] = torch.cat([self.weights[name], tensor.detach()])
        identity = self.identity.new_zeros(1, self.identity.shape[1])
        if self.policy.id_in_observation:
            if mixture is None:
                raise UserError(f"Agents of this run are told apart by their input; say whom {agent!r} is like.")
            identity = mixture @ self.identity
        self.identity = torch.cat([self.identity, identity])
        self.agents.append(agent)

    def _mixture(self, agent: str, like: Likeness) -> Tensor:
        """How much of each training agent the newcomer is, `[1, N]`."""
        shares = {like: 1.0} if isinstance(like, str) else dict(like)
        known = list(self.group.agents)
        unknown = [name for name in shares if name not in known]
        if unknown or not shares:
            whom = ", ".join(unknown) or "nobody"
            raise UserError(f"{agent!r} cannot be like {whom}; trained were {', '.join(known)}.")
        row = torch.zeros(1, len(known), device=self.identity.device)
        for name, share in shares.items():
            row[0, known.index(name)] = share
        if not bool(torch.isfinite(row).all()):
            raise UserError(f"The likeness of {agent!r} must be finite numbers.")
        return row

    def _condition(
        self, agent: str, mixture: Tensor | None, embedding: Tensor | None, features: Sequence[float] | None
    ) -> Tensor:
        """What the generator reads for a newcomer, `[1, d]`."""
        who = self.policy.actor.conditioner
        device = self.identity.device
        if isinstance(who, Nobody):
            if embedding is not None or features is not None:
                raise UserError("Agents of this run share one policy; there is nothing to tell a new one apart by.")
            return who.forward()
        ways = {"like": mixture, "embedding": embedding, "features": features}
        given = [way for way, value in ways.items() if value is not None]
        if len(given) != 1:
            raise UserError(f"Say who {agent!r} is by one of like, embedding or features, not by {given or 'none'}.")
        if features is not None:
            if not isinstance(who, Features):
                raise UserError("This run tells agents apart by identity, not by features; use like or embedding.")
            return who.forward(_row(features, who.dim, f"features of {agent!r}", device))
        if embedding is not None:
            if isinstance(who, Features):
                raise UserError("This run tells agents apart by their features; use features or like.")
            return _row(embedding, who.dim, f"embedding of {agent!r}", device)
        assert mixture is not None
        if isinstance(who, Features):
            return who.forward(mixture @ who.rows)
        return mixture @ who.weight if isinstance(who, AgentTable) else mixture


def _row(values: Sequence[float] | Tensor, size: int, name: str, device: torch.device) -> Tensor:
    row = torch.as_tensor(values, dtype=torch.float32, device=device).reshape(1, -1)
    if row.shape[1] != size:
        raise UserError(f"The {name} should be {size} numbers, not {row.shape[1]}.")
    if not bool(torch.isfinite(row).all()):
        raise UserError(f"The {name} must be finite numbers.")
    return row
