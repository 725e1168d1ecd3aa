"""A group's policy and critic, both generated; every sharing mode is a setting of the generator.

Letters: `S` seeds, `T` time, `N` agents, `O` observation, `A` action, `H` hidden width of a recurrent policy.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hypermarl.actor import GeneratedActor
from hypermarl.conditioning import AgentTable, Conditioner, make_conditioner
from hypermarl.envs.interface import Continuous, Discrete, Group
from hypermarl.errors import UserError
from hypermarl.generator import Generator, GeneratorConfig
from hypermarl.marl import distributions
from hypermarl.marl.ranks import ALONE, Ranks
from hypermarl.marl.settings import ExperimentConfig
from hypermarl.spec import Weights, WeightSpec
from hypermarl.stacking import stacked
from hypermarl.targets import GRUTarget, MLPTarget
from hypermarl.targets.gru import History
from hypermarl.targets.mlp import without_id


@dataclass(frozen=True, slots=True)
class Memory:
    """What recurrent agents remember, `[*batch, S, N, H]` each."""

    actor: Tensor
    critic: Tensor


class ValueNorm(nn.Module):
    """Running mean and variance of the returns, per seed, debiased: the critic predicts in their units.

    As in MAPPO (arXiv 2103.01955, section 5.1). Until the first update it changes nothing.
    """

    mean: Tensor
    square: Tensor
    trust: Tensor

    def __init__(self, beta: float = 0.995) -> None:
        super().__init__()
        self.beta = beta
        for name in ("mean", "square", "trust"):
            self.register_buffer(name, torch.zeros((), dtype=torch.float64))

    def _moments(self) -> tuple[Tensor, Tensor]:
        trust = self.trust.clamp(min=1e-12)
        mean = self.mean / trust
        deviation = (self.square / trust - mean.square()).clamp(min=1e-4).sqrt()
        known = self.trust > 0
        mean, deviation = torch.where(known, mean, 0.0), torch.where(known, deviation, 1.0)
        return mean.float().unsqueeze(-1), deviation.float().unsqueeze(-1)

    def restore(self, value: Tensor) -> Tensor:
        """From the critic's units `[..., S, N]` to returns."""
        mean, deviation = self._moments()
        return value * deviation + mean

    def shrink(self, returns: Tensor) -> Tensor:
        """From returns `[..., S, N]` to the critic's units."""
        mean, deviation = self._moments()
        return (returns - mean) / deviation

    @torch.no_grad()
    def update(self, returns: Tensor, weight: Tensor | None = None, ranks: Ranks = ALONE) -> None:
        """Take in returns `[T, E, S, N]` of all ranks, each weighted (0 where the agent was dead)."""
        axes = (0, 1, 3)
        weight = torch.ones_like(returns) if weight is None else weight
        sums = [weight.sum(axes), (returns * weight).sum(axes), (returns.square() * weight).sum(axes)]
        weights, first, second = ranks.totals(sums)
        count = weights.clamp(min=1.0).double()
        mean, square = first.double() / count, second.double() / count
        known = square.isfinite()  # a seed whose returns are not is about to be stopped, and to be saved as it was
        for buffer, value in ((self.mean, mean), (self.square, square), (self.trust, torch.ones_like(mean))):
            buffer.copy_(torch.where(known, buffer * self.beta + value * (1.0 - self.beta), buffer))


class Policy(nn.Module):
    """The agents of one group: `actor` gives action distributions, `critic` values.

    A centralised critic (MAPPO) reads the observations of all agents of all groups side by side.
    """

    low: Tensor
    high: Tensor

    def __init__(
        self,
        group: Group,
        actor: GeneratedActor,
        critic: GeneratedActor,
        *,
        distribution: str,
        id_in_observation: bool,
        centralised: bool,
        share_critic: bool = False,
        narrow: bool = False,
    ) -> None:
        """With `narrow`, matrix products are bfloat16; `share_critic`: the critic is told nobody's id."""
        super().__init__()
        self.group = group
        self.actor = actor
        self.critic = critic
        self.distribution = distribution
        self.id_in_observation = id_in_observation
        self.centralised = centralised
        self.told_critic = id_in_observation and not share_critic
        self.narrow = narrow
        self.value_norm = ValueNorm()
        self.recurrent = isinstance(actor.target, GRUTarget)
        action = group.action
        low, high = (action.low, action.high) if isinstance(action, Continuous) else ((), ())
        self.register_buffer("low", torch.tensor(low, dtype=torch.float32), persistent=False)
        self.register_buffer("high", torch.tensor(high, dtype=torch.float32), persistent=False)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Generate actor and critic once, without gradient, for all calls inside."""
        with ExitStack() as stack:
            stack.enter_context(self.actor.frozen())
            stack.enter_context(self.critic.frozen())
            yield

    @contextmanager
    def exact(self) -> Iterator[None]:
        """Products in fp32 inside, whatever training uses: what is measured does not depend on it."""
        before, self.narrow = self.narrow, False
        try:
            yield
        finally:
            self.narrow = before

    def parameters_of(
        self,
        observation: Tensor,
        mask: Tensor | None = None,
        *,
        memory: Tensor | None = None,
        fresh: Tensor | None = None,
        weights: Weights | None = None,
    ) -> tuple[distributions.Parameters, Tensor | None]:
        """Action distribution parameters `[*batch, S, N, A]`, and the new memories of recurrent agents.

        Recurrent policies take a time axis first: observation `[T, *batch, S, N, O]`, `fresh [T, *batch, S, N]`,
        `memory [*batch, S, N, H]`, and return memories after every step.
        """
        weights = self.actor.current() if weights is None else weights
        outputs, memories = self.outputs(observation, memory=memory, fresh=fresh, weights=weights)
        told = distributions.read(self.distribution, outputs, weights, mask)
        return {name: value.expand_as(outputs) for name, value in told.items()}, memories

    def outputs(
        self,
        observation: Tensor,
        *,
        memory: Tensor | None = None,
        fresh: Tensor | None = None,
        weights: Weights | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """What the actors' networks emit `[*batch, S, N, A]`, and the new memories; arguments as in `parameters_of`."""
        return self._run(self.actor, self.id_in_observation, observation, memory, fresh, weights)

    def values(
        self,
        inputs: Tensor,
        *,
        memory: Tensor | None = None,
        fresh: Tensor | None = None,
        weights: Weights | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Values `[*batch, S, N]` of what `critic_inputs` gives, and the critic's memories if recurrent."""
        outputs, memories = self._run(self.critic, self.told_critic, inputs, memory, fresh, weights)
        return outputs.squeeze(-1).expand(*inputs.shape[:-2], len(self.group.agents)), memories

    def _run(
        self,
        actor: GeneratedActor,
        told: bool,
        inputs: Tensor,
        memory: Tensor | None,
        fresh: Tensor | None,
        weights: Weights | None,
    ) -> tuple[Tensor, Tensor | None]:
        """Outputs in fp32, and the memories if recurrent; with `told`, networks read their agent's id as well."""
        if told:
            assert isinstance(actor.target, MLPTarget | GRUTarget)
            weights = actor.current() if weights is None else weights
            weights = without_id(weights, actor.target.first, len(self.group.agents))
        with torch.autocast(inputs.device.type, torch.bfloat16) if self.narrow else nullcontext():
            if not self.recurrent:
                return actor(inputs, weights).float(), None
            assert memory is not None
            assert fresh is not None
            outputs, memories = actor(History(inputs, memory, fresh), weights)
            return outputs.float(), memories.float()

    def critic_inputs(self, observations: Mapping[str, Tensor]) -> Tensor:
        """What this group's critic reads, from all groups' observations `[..., S, N, O]`: own, or everybody's.

        What all agents read alike has an agent axis of 1, and so is never copied; memories are each agent's own.
        """
        own = observations[self.group.name]
        if not self.centralised:
            return own
        seen = [value.flatten(-2) for value in observations.values()]
        everybody = (seen[0] if len(seen) == 1 else torch.cat(seen, -1)).unsqueeze(-2)
        return everybody.expand(*own.shape[:-1], -1) if self.recurrent else everybody

    def to_environment(self, action: Tensor) -> Tensor:
        """Actions in the environment's units; continuous ones scaled to its box (which the environment clips to)."""
        if self.distribution == "categorical":
            return action
        return distributions.to_box(self.distribution, action, self.low, self.high)

    def blank_memory(self, *shape: int) -> Memory:
        """Memories of agents that have seen nothing, `shape` being `*batch, S`."""
        actor, critic = self.actor.target, self.critic.target
        assert isinstance(actor, GRUTarget)
        assert isinstance(critic, GRUTarget)
        device = self.low.device
        agents = len(self.group.agents)
        return Memory(actor.initial(*shape, agents).to(device), critic.initial(*shape, agents).to(device))


def build_policy(config: ExperimentConfig, groups: Mapping[str, Group], name: str, seed: int) -> Policy:
    """The policy of one group for one seed; its start is a function of the seed and the group's place only."""
    group = groups[name]
    sharing, model = config.sharing, config.model
    agents = len(group.agents)
    rng = torch.Generator().manual_seed((seed * 1_000_003 + list(groups).index(name) * 7919) % 2**63)
    ids = agents if sharing.id_in_observation else 0
    everybody = sum(len(g.agents) * g.observation for g in groups.values())
    critic_inputs = everybody if config.algorithm.centralised else group.observation
    distribution = _distribution(config, group)
    # Without a base agents have nothing in common on purpose, not even what other modes share.
    can_share = sharing.generator.base
    extra: tuple[WeightSpec, ...] = ()
    if distribution != "categorical":
        extra = (WeightSpec("log_std", (group.action.size,), "log_std", shared=sharing.share_log_std and can_share),)
    body_shared = model.body == "shared" and can_share

    def target(sizes: Sequence[int], out_gain: float, extra: Sequence[WeightSpec]) -> MLPTarget | GRUTarget:
        if model.recurrent:
            inputs, *rest = sizes
            return GRUTarget(
                (inputs, model.hidden, *rest),
                activation=model.activation,
                out_gain=out_gain,
                body_shared=body_shared,
                extra=extra,
            )
        return MLPTarget(sizes, activation=model.activation, out_gain=out_gain, extra=extra)

    def conditioner() -> Conditioner:
        return make_conditioner(sharing.conditioning, agents, sharing.embedding, sharing.features, rng)

    def generated(
        sizes: Sequence[int], out_gain: float, who: Conditioner, extra: Sequence[WeightSpec] = ()
    ) -> GeneratedActor:
        aim = target(sizes, out_gain, extra)
        generator = Generator(aim.spec, who.dim, config=sharing.generator, rng=rng)
        if sharing.generator.start == "distinct":
            generator.start_distinct(who(), rng)
        return GeneratedActor(who, generator, aim)

    who = conditioner()
    actor = generated((group.observation + ids, *model.actor, group.action.size), 0.01, who, extra)
    if config.algorithm.share_critic:
        aim = target((critic_inputs, *model.critic, 1), 1.0, ())
        alone = Generator(aim.spec, 0, config=GeneratorConfig(head="none"), rng=rng)
        critic = GeneratedActor(make_conditioner("none", agents, 0, (), rng), alone, aim)
    else:
        critic_who = who if sharing.share_embedding else conditioner()
        critic = generated((critic_inputs + ids, *model.critic, 1), 1.0, critic_who)
    return Policy(
        group,
        actor,
        critic,
        distribution=distribution,
        id_in_observation=sharing.id_in_observation,
        centralised=config.algorithm.centralised,
        share_critic=config.algorithm.share_critic,
        narrow=config.train.precision == "bf16",
    )


def build_policies(config: ExperimentConfig, groups: Mapping[str, Group], seeds: Sequence[int]) -> dict[str, Policy]:
    """Policies of all groups with every parameter `[S, ...]`, one slice per seed."""
    return {name: stacked([build_policy(config, groups, name, seed) for seed in seeds]) for name in groups}


def parameter_counts(config: ExperimentConfig, groups: Mapping[str, Group]) -> dict[str, dict[str, int]]:
    """Trained parameters by group: embedding, actor, critic, total, and `target`: those of one agent's own networks."""
    table: dict[str, dict[str, int]] = {}
    for name in groups:
        policy = build_policy(config, groups, name, config.seed)
        embeddings = {id(p): p.numel() for a in (policy.actor, policy.critic) for p in a.conditioner.parameters()}
        count = {
            "embedding": sum(embeddings.values()),
            "actor": sum(p.numel() for p in policy.actor.generator.parameters()),
            "critic": sum(p.numel() for p in policy.critic.generator.parameters()),
        }
        count["total"] = sum(count.values())
        count["target"] = policy.actor.target.spec.numel() + policy.critic.target.spec.numel()
        table[name] = count
    return table


def embeddings_of(policy: Policy) -> Tensor | None:
    """The learned embeddings `[S, N, d]`, if agents have any."""
    who = policy.actor.conditioner
    return who.weight.detach() if isinstance(who, AgentTable) else None


def _distribution(config: ExperimentConfig, group: Group) -> str:
    if isinstance(group.action, Discrete):
        return "categorical"
    if not all(math.isfinite(x) for x in (*group.action.low, *group.action.high)):
        raise UserError(f"Group {group.name!r} has an action box without bounds; give the environment finite ones.")
    return "normal" if config.model.distribution == "auto" else config.model.distribution
