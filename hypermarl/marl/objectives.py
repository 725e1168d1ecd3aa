"""PPO on generated weights: advantages, losses, and the one update all sharing modes go through.

Equal to TorchRL's `MAPPOLoss`/`IPPOLoss` and multi-agent GAE to 1e-5 (tests/test_objectives.py), with a seeds axis in
which nothing leaks.

Letters: `T` time, `E` environments, `S` seeds, `N` agents, `R = T*E` rows, `B` rows of a minibatch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hypermarl.marl import distributions
from hypermarl.marl.policy import Policy
from hypermarl.marl.ranks import ALONE, Ranks
from hypermarl.marl.rollout import Batch
from hypermarl.marl.settings import AlgorithmConfig
from hypermarl.spec import Weights
from hypermarl.updates import take


@dataclass(slots=True)
class Samples:
    """What the loss reads, one row per environment step (or, recurrent, per environment with its whole sequence).

    Rows first: `[R, S, N, ...]`; recurrent: `[E, S, T, N, ...]` for everything but the memories `[E, S, N, H]`.
    """

    observation: Tensor
    critic_input: Tensor | None  # None: made of the observation
    action: Tensor
    log_prob: Tensor
    advantage: Tensor
    target: Tensor  # of the value, in the critic's own (normalised) units
    value: Tensor | None = None  # old value, same units, if the loss is clipped around it
    weight: Tensor | None = None  # 1 where the agent was alive; None: always
    mask: Tensor | None = None
    fresh: Tensor | None = None  # recurrent only
    actor_memory: Tensor | None = None
    critic_memory: Tensor | None = None
    noise: Tensor | None = None  # like the action, where entropy has no closed form

    def rows(self) -> int:
        return self.action.shape[0]

    def piece(self, start: int, stop: int) -> Samples:
        """Rows `start` to `stop`, as views."""
        return self._each(lambda field: field[start:stop])

    def take(self, index: Tensor) -> Samples:
        """Rows `[B, S]` of every field."""
        return self._each(lambda field: take(field, index))

    def _each(self, change: Callable[[Tensor], Tensor]) -> Samples:
        fields = {name: getattr(self, name) for name in self.__slots__}
        return Samples(**_changed(fields, change))


def _changed(fields: Mapping[str, Tensor | None], change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    return {name: None if field is None else change(field) for name, field in fields.items()}


@torch.no_grad()
def generalised_advantages(
    reward: Tensor,
    value: Tensor,
    terminated: Tensor,
    truncated: Tensor,
    final_value: Mapping[int, Tensor],
    gamma: float,
    lam: float,
) -> Tensor:
    """GAE `[T, *rest]` (arXiv 1506.02438), time first: reward `[T, *rest]`, value `[T+1, *rest]`.

    A terminated agent has no future; a truncated one is bootstrapped from `final_value[t]`, the value of what it would
    have seen next. The sum over later steps stops at either.
    """
    advantage = torch.empty_like(reward)
    running = torch.zeros_like(reward[0])
    for t in reversed(range(reward.shape[0])):
        following = value[t + 1]
        if t in final_value:
            following = torch.where(truncated[t], final_value[t], following)
        following = torch.where(terminated[t], 0.0, following)
        going_on = ~(terminated[t] | truncated[t])
        running = reward[t] + gamma * following - value[t] + gamma * lam * going_on * running
        advantage[t] = running
    return advantage


@torch.no_grad()
def prepare(
    policies: Mapping[str, Policy],
    batches: Mapping[str, Batch],
    config: AlgorithmConfig,
    chunk: int,
    ranks: Ranks = ALONE,
) -> dict[str, Samples]:
    """Values of all steps in one critic pass (`chunk` steps of agents at a time), advantages, rows to learn from."""
    prepared = {}
    for name, policy in policies.items():
        batch = batches[name]
        with policy.frozen():
            raw, final_raw = _values(policy, batches, name, chunk)
        norm = policy.value_norm
        value = norm.restore(raw)
        final = {t: norm.restore(v) for t, v in final_raw.items()}
        advantage = generalised_advantages(
            batch.reward, value, batch.terminated, batch.truncated, final, config.gamma, config.lam
        )
        returns = advantage + value[:-1]
        weight = None if batch.alive is None else batch.alive.to(batch.reward.dtype)
        if config.value_norm:
            norm.update(returns, weight, ranks)
        target = norm.shrink(returns) if config.value_norm else returns
        central = None  # a critic that reads this group's observations only can make its input of a minibatch's
        if policy.centralised and (len(policies) > 1 or policy.recurrent):
            central = policy.critic_inputs({n: b.observation for n, b in batches.items()})[:-1]
        fields: dict[str, Tensor | None] = {
            "observation": batch.observation[:-1],
            "critic_input": central,
            "action": batch.action,
            "log_prob": batch.log_prob,
            "advantage": advantage,
            "target": target,
            "value": raw[:-1] if config.clip_value else None,
            "weight": weight,
            "mask": batch.mask,
        }
        if policy.recurrent:
            fields["fresh"] = batch.fresh[:-1].unsqueeze(-1).expand(batch.reward.shape)
            sequences = _changed(fields, lambda field: field.movedim(0, 2))
            assert batch.memory is not None
            prepared[name] = Samples(**sequences, actor_memory=batch.memory.actor, critic_memory=batch.memory.critic)
        else:
            prepared[name] = Samples(**_changed(fields, lambda field: field.flatten(0, 1)))
    return prepared


def _values(policy: Policy, batches: Mapping[str, Batch], name: str, chunk: int) -> tuple[Tensor, dict[int, Tensor]]:
    """Critic outputs `[T+1, E, S, N]` and, where somebody was truncated at t, `[E, S, N]` of the final observations."""
    observations = {n: b.observation for n, b in batches.items()}
    batch = batches[name]
    if policy.recurrent:
        assert batch.memory is not None
        inputs = policy.critic_inputs(observations)
        fresh = batch.fresh.unsqueeze(-1).expand(inputs.shape[:-1])
        value, memories = policy.values(inputs, memory=batch.memory.critic, fresh=fresh)
        assert memories is not None
        final_values = {}
        for t in batch.final:
            last = policy.critic_inputs({n: b.final[t] for n, b in batches.items()}).unsqueeze(0)
            kept = torch.zeros(last.shape[:-1], dtype=torch.bool, device=last.device)
            final_values[t] = policy.values(last, memory=memories[t], fresh=kept)[0].squeeze(0)
        return value, final_values
    steps = batch.observation.shape[0]
    pieces = max(1, chunk // batch.reward[0].numel())
    value = torch.cat(
        [
            policy.values(policy.critic_inputs({n: o[t : t + pieces] for n, o in observations.items()}))[0]
            for t in range(0, steps, pieces)
        ]
    )
    final_values = {}
    times = list(batch.final)
    for start in range(0, len(times), pieces):
        now = times[start : start + pieces]
        stacked = {n: torch.stack([b.final[t] for t in now]) for n, b in batches.items()}
        final_values |= dict(zip(now, policy.values(policy.critic_inputs(stacked))[0], strict=True))
    return value, final_values


@dataclass(frozen=True, slots=True)
class Moments:
    """Of the advantages of one minibatch on all ranks; mean and variance in the shape that normalising wants."""

    mean: Tensor
    variance: Tensor
    count: Tensor  # [S], samples


def moments_over(samples: Samples, parts: Sequence[Tensor], how: str, ranks: Ranks) -> list[Moments | None]:
    """Of every minibatch, which hold rows `parts [B, S]` on this rank, in one message; None each if there is one rank.

    Sums are of fp64, so that they may be added before the mean is known.
    """
    if ranks.alone:
        return [None] * len(parts)
    sums = []
    for index in parts:
        x = take(samples.advantage, index).double()
        w = torch.ones_like(x) if samples.weight is None else take(samples.weight, index).double()
        axes = (0, *range(2, x.ndim - 1))
        sums.append(torch.stack([w.sum(axes), (x * w).sum(axes), (x.square() * w).sum(axes)]))  # [3, S, N]
    found: list[Moments | None] = []
    shape = (1, samples.advantage.shape[1], *([1] * (samples.advantage.ndim - 3)), -1)
    for total in ranks.totals([torch.stack(sums)])[0]:
        kept = total.sum(-1, keepdim=True) if how == "all" else total
        count, first, second = kept[0].clamp(min=1.0), kept[1], kept[2]
        mean = first / count
        variance = (second / count - mean.square()).clamp(min=0.0)
        found.append(Moments(mean.view(shape).float(), variance.view(shape).float(), total[0].sum(-1).float()))
    return found


def normalise(advantage: Tensor, weight: Tensor | None, how: str, over: Moments | None = None) -> Tensor:
    """Zero mean and unit variance per seed, over all its samples (`all`) or each agent's own (`agent`).

    `advantage [B, S, N]` or `[B, S, T, N]`; dead agents' samples do not count. `over` are the moments of more samples
    than these.
    """
    if how == "none":
        return advantage
    if over is not None:
        return (advantage - over.mean) / (over.variance.sqrt() + 1e-8)
    keep = (1,) if how == "all" else (1, advantage.ndim - 1)
    axes = tuple(i for i in range(advantage.ndim) if i not in keep)
    if weight is None:
        variance, mean = torch.var_mean(advantage, axes, correction=0, keepdim=True)
    else:
        count = weight.sum(axes, keepdim=True).clamp(min=1.0)
        mean = (advantage * weight).sum(axes, keepdim=True) / count
        variance = ((advantage - mean).square() * weight).sum(axes, keepdim=True) / count
    return (advantage - mean) / (variance.sqrt() + 1e-8)


MOST_AGENTS = 128
"""That a micro-batch counts: beyond, adding up all gradients more often costs more than a cache that fits saves."""

TERMS = ("policy", "value", "entropy", "kl", "clip_fraction")


def ppo(
    policy: Policy,
    part: Samples,
    actor: Weights,
    critic: Weights,
    config: AlgorithmConfig,
    count: Tensor | float,
    watched: bool = True,
) -> tuple[Tensor, Tensor]:
    """Clipped surrogate, clipped value loss and entropy bonus (arXiv 1707.06347): sums over `part` by `count [S]`.

    Returns the loss (a scalar: seeds have parameters of their own, so their sum trains each by itself) and the terms
    `[len(TERMS), S]` without gradient, zeros unless `watched`. `part.advantage` is normalised already.
    """
    parameters, value = evaluate(policy, part, actor, critic)
    entropy: Tensor | None = None
    if watched or config.entropy:
        log_prob, entropy = distributions.raw_log_prob_and_entropy(
            policy.distribution, parameters, part.action, part.noise
        )
    else:
        log_prob = distributions.raw_log_prob(policy.distribution, parameters, part.action)
    log_ratio = log_prob - part.log_prob
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1.0 - config.clip, 1.0 + config.clip)
    surrogate = -torch.minimum(ratio * part.advantage, clipped * part.advantage)
    error = (value - part.target).square()
    if config.clip_value:
        assert part.value is not None
        near = part.value + (value - part.value).clamp(-config.clip, config.clip)
        error = torch.maximum(error, (near - part.target).square())

    def mean(x: Tensor) -> Tensor:
        x = x if part.weight is None else x * part.weight
        axes = (0, *range(2, x.ndim))
        return x.sum(axes) / count

    policy_loss, value_loss = mean(surrogate), mean(0.5 * error)
    loss = policy_loss + config.value_coef * value_loss
    if config.entropy:
        assert entropy is not None
        loss = loss - config.entropy * mean(entropy)
    if not watched:
        return loss.sum(), torch.zeros(len(TERMS), len(loss), device=loss.device)
    with torch.no_grad():
        assert entropy is not None
        terms = [
            policy_loss,
            value_loss,
            mean(entropy),
            mean(ratio - 1.0 - log_ratio),
            mean(((ratio - 1.0).abs() > config.clip).float()),
        ]
    return loss.sum(), torch.stack([term.detach() for term in terms])


def evaluate(policy: Policy, part: Samples, actor: Weights, critic: Weights) -> tuple[distributions.Parameters, Tensor]:
    """Distribution parameters and values of samples under given weights, in the layout of the samples."""
    critic_input = part.critic_input
    if critic_input is None:
        critic_input = policy.critic_inputs({policy.group.name: part.observation})
    if not policy.recurrent:
        outputs, _ = policy.outputs(part.observation, weights=actor)
        value, _ = policy.values(critic_input, weights=critic)
        return distributions.read(policy.distribution, outputs, actor, part.mask), value
    assert part.fresh is not None
    assert part.actor_memory is not None
    assert part.critic_memory is not None

    def time_first(x: Tensor) -> Tensor:
        return x.movedim(2, 0)

    fresh = time_first(part.fresh)
    outputs, _ = policy.outputs(time_first(part.observation), memory=part.actor_memory, fresh=fresh, weights=actor)
    value, _ = policy.values(time_first(critic_input), memory=part.critic_memory, fresh=fresh, weights=critic)
    mask = None if part.mask is None else time_first(part.mask)
    parameters = distributions.read(policy.distribution, outputs, actor, mask)
    return {k: v.expand_as(outputs).movedim(0, 2) for k, v in parameters.items()}, value.movedim(0, 2)


def torchrl(
    policy: Policy,
    part: Samples,
    actor: Weights,
    critic: Weights,
    config: AlgorithmConfig,
    count: Tensor | float,
    watched: bool = True,
) -> tuple[Tensor, Tensor]:
    """The same computed by TorchRL's `MAPPOLoss` or `IPPOLoss`; slower, for comparison."""
    from hypermarl.marl.torchrl import ppo  # takes a second to load, and reads `Samples` from here

    return ppo(policy, part, actor, critic, config, count)


Objective = Callable[[Policy, Samples, Weights, Weights, AlgorithmConfig, Tensor | float, bool], tuple[Tensor, Tensor]]
OBJECTIVES: dict[str, Objective] = {"ppo": ppo, "torchrl": torchrl}


def accumulate(
    policy: Policy,
    part: Samples,
    config: AlgorithmConfig,
    micro_batch: int,
    rngs: Sequence[torch.Generator],
    watched: bool = True,
    over: Moments | None = None,
    objective: Objective | None = None,
) -> Tensor:
    """Add one minibatch's gradient to the policy's parameters; returns its terms `[len(TERMS), S]` if `watched`.

    Weights are generated once; micro-batches that fit the cache add their gradients to the generated weights, and the
    generator's backward runs once. The result is the gradient of the whole minibatch, exactly. Chance, where the
    objective needs any, comes from each seed's own `rngs[s]`. With several ranks `over` is of the minibatches of all,
    and the sum of their gradients is that of all samples. `objective` may be the configured one in a faster form.
    """
    part.advantage = normalise(part.advantage, part.weight, config.normalise_advantage, over)
    objective = objective or OBJECTIVES[config.objective]
    seeds = part.action.shape[1]
    length = part.fresh.shape[2] if part.fresh is not None else 1
    if policy.distribution == "tanh_normal" and (watched or config.entropy):
        shape = (part.rows(), *part.action.shape[2:])
        part.noise = torch.stack([torch.randn(shape, generator=rng, device=rng.device) for rng in rngs], 1)
    per_seed = part.advantage.numel() // seeds
    count: Tensor | float = float(per_seed)
    if over is not None:
        count = over.count.clamp(min=1.0)
    elif part.weight is not None:
        count = part.weight.transpose(0, 1).flatten(1).sum(1).clamp(min=1.0)
    rows = part.rows() * length
    actor, critic = policy.actor.weights(rows=rows), policy.critic.weights(rows=rows)
    actor_leaves, critic_leaves = _leaves(actor), _leaves(critic)
    size = max(1, micro_batch // (min(seeds * part.log_prob.shape[-1], MOST_AGENTS) * length))
    terms = torch.zeros(len(TERMS), seeds, device=part.action.device)
    for start in range(0, part.rows(), size):
        piece = part.piece(start, start + size)
        loss, values = objective(policy, piece, actor_leaves, critic_leaves, config, count, watched)
        torch.autograd.backward(loss)
        terms += values
    made = [
        (w, leaves[k].grad)
        for weights, leaves in ((actor, actor_leaves), (critic, critic_leaves))
        for k, w in weights.items()
    ]
    made = [(w, g) for w, g in made if g is not None and w.requires_grad]
    torch.autograd.backward([w for w, _ in made], [g for _, g in made])
    return terms


def _leaves(weights: Weights) -> Weights:
    return {name: tensor.detach().requires_grad_() for name, tensor in weights.items()}
