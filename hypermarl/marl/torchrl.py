"""The border to TorchRL: our actors and critics as its modules, and its PPO losses as one of our objectives.

`actor_module` and `critic_module` are accepted by TorchRL's collectors and by its `MAPPOLoss`, `IPPOLoss` and
`ClipPPOLoss`, on environments of `hypermarl.envs.torchrl.TorchRLEnv`, for policies of one seed:

    policy = build_policy(config, env.vector.groups, "agents", seed=0)
    actor, critic = actor_module(policy), critic_module(policy)
    loss = IPPOLoss(actor, critic)
    loss.set_keys(value=("agents", "state_value"), ...)
    for batch in Collector(env, actor, ...): ...

Letters: `B` samples, `S` seeds (here 1), `N` agents, `O` observation, `A` action.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import Tensor, nn
from torchrl.modules import IndependentNormal, ProbabilisticActor, TanhNormal
from torchrl.objectives.multiagent import IPPOLoss, MAPPOLoss

from hypermarl.errors import UserError
from hypermarl.marl import distributions
from hypermarl.marl.objectives import Samples
from hypermarl.marl.policy import Policy
from hypermarl.marl.settings import AlgorithmConfig
from hypermarl.spec import Weights


class Acting(nn.Module):
    """Observations `[*batch, N, O]` (masks `[*batch, N, A]`) -> logits, or loc and scale in the environment's units."""

    identity: Tensor
    middle: Tensor
    halfwidth: Tensor

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.actor = policy.actor
        self.kind = policy.distribution
        self.register_buffer("identity", _identity(policy, policy.id_in_observation), persistent=False)
        self.register_buffer("middle", (policy.low + policy.high) / 2, persistent=False)
        self.register_buffer("halfwidth", (policy.high - policy.low) / 2, persistent=False)

    def forward(self, observation: Tensor, mask: Tensor | None = None) -> Tensor | tuple[Tensor, Tensor]:
        weights = self.actor.current()
        outputs = self.actor(_identified(observation, self.identity), weights)
        found = distributions.read(self.kind, outputs, weights, mask)
        if self.kind == "categorical":
            return found["logits"]
        loc, scale = found["loc"], found["log_std"].exp().expand_as(outputs)
        if self.kind == "tanh_normal":
            return loc, scale  # TorchRL's distribution squashes and scales by itself
        return loc * self.halfwidth + self.middle, scale * self.halfwidth


class Valuing(nn.Module):
    """What the critic reads `[*batch, N, D]` -> values `[*batch, N, 1]`, in its own units."""

    identity: Tensor

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.critic = policy.critic
        self.agents = len(policy.group.agents)
        self.register_buffer("identity", _identity(policy, policy.told_critic), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        inputs = inputs.expand(*inputs.shape[:-2], self.agents, -1)
        value: Tensor = self.critic(_identified(inputs, self.identity))
        return value


class Judging(nn.Module):
    """Observations `[*batch, N, O]` of some groups -> values `[*batch, N, 1]` of one, in units of the returns."""

    def __init__(self, policy: Policy, own: int) -> None:
        """`own` is the place of the policy's group among the observations."""
        super().__init__()
        self.valuing = Valuing(policy)
        self.norm = policy.value_norm
        self.own = own
        self.centralised = policy.centralised

    def forward(self, *observations: Tensor) -> Tensor:
        inputs = observations[self.own]
        if self.centralised:
            everybody = torch.cat([seen.flatten(-2) for seen in observations], -1)
            inputs = everybody.unsqueeze(-2).expand(*inputs.shape[:-1], everybody.shape[-1])
        value: Tensor = self.valuing(inputs)
        return self.norm.restore(value.squeeze(-1)).unsqueeze(-1)


def actor_module(policy: Policy) -> ProbabilisticActor:
    """The actors of `policy` for TorchRL: reads the group's observations (and action masks), writes actions.

    Weights are generated at every call, so that gradients reach the generator; within `policy.frozen()` once.
    """
    group = policy.group.name
    told: list[tuple[str, str]] = [(group, "observation")]
    told += [(group, "action_mask")] if policy.group.masked else []
    categorical = policy.distribution == "categorical"
    names = ["logits"] if categorical else ["loc", "scale"]
    _refuse_memory(policy)
    acting = Acting(policy)
    kind, options = _DISTRIBUTIONS[policy.distribution], {}
    if policy.distribution == "tanh_normal":
        options = {"low": policy.low, "high": policy.high}
    return ProbabilisticActor(
        module=TensorDictModule(acting, in_keys=told, out_keys=[(group, name) for name in names]),
        in_keys={name: (group, name) for name in names},
        out_keys=[(group, "action")],
        distribution_class=kind,
        distribution_kwargs=options,
        return_log_prob=True,
        log_prob_key=(group, "action_log_prob"),
    )


def critic_module(policy: Policy, groups: Sequence[str] = ()) -> TensorDictModule:
    """The critics of `policy` for TorchRL: writes `(group, "state_value") [*batch, N, 1]`.

    A centralised critic reads the observations of all groups: name them in the environment's order if there are more
    than the policy's own.
    """
    own = policy.group.name
    groups = groups or (own,)
    _refuse_memory(policy)
    return TensorDictModule(
        Judging(policy, list(groups).index(own)),
        in_keys=[(name, "observation") for name in groups],
        out_keys=[(own, "state_value")],
    )


_DISTRIBUTIONS: dict[str, Any] = {
    "categorical": torch.distributions.Categorical,
    "normal": IndependentNormal,
    "tanh_normal": TanhNormal,
}


def ppo(
    policy: Policy, part: Samples, actor: Weights, critic: Weights, config: AlgorithmConfig, count: Tensor | float
) -> tuple[Tensor, Tensor]:
    """TorchRL's loss as an entry of `hypermarl.marl.objectives.OBJECTIVES`, which see; for comparison, not for speed.

    Its divergence is the plain mean of log-ratios and, like its clip fraction, counts dead agents.
    """
    group = policy.group.name
    volume = _log_volume(policy)
    slope = distributions.log_slope(part.action).sum(-1) if policy.distribution == "tanh_normal" else 0.0
    critic_input = part.critic_input
    if critic_input is None:
        critic_input = policy.critic_inputs({group: part.observation})
    seen = {
        "observation": part.observation,
        "critic_input": critic_input.expand(*part.observation.shape[:-1], -1),
        "action": policy.to_environment(part.action),
        "action_log_prob": part.log_prob - slope - volume,
    }
    if part.value is not None:
        seen["state_value"] = part.value.unsqueeze(-1)
    if part.mask is not None:
        seen["action_mask"] = part.mask
    batch = TensorDict({group: seen}, part.action.shape[:2])
    batch["advantage"] = part.advantage.unsqueeze(-1)
    batch["value_target"] = part.target.unsqueeze(-1)
    share: Tensor | float = part.advantage.numel() / count
    if part.weight is not None:
        batch["collector", "mask"] = part.weight.bool().unsqueeze(-1)
        share = part.weight.sum() / count
    with policy.actor.using(actor), policy.critic.using(critic):
        found = _loss(policy, config)(batch)
    value = found.get("loss_critic", torch.zeros(()))
    loss = (found["loss_objective"] + value + found["loss_entropy"]) * share
    entropy = found["loss_entropy"] / -config.entropy if config.entropy else found["entropy"]
    terms = [
        found["loss_objective"],
        value / (config.value_coef or 1.0),
        entropy - volume,
        found["kl_approx"],
        found["clip_fraction"],
    ]
    return loss.sum(), torch.stack([(term.detach() * share).reshape(1) for term in terms])


def _loss(policy: Policy, config: AlgorithmConfig) -> MAPPOLoss:
    group = policy.group.name
    critic = TensorDictModule(Valuing(policy), in_keys=[(group, "critic_input")], out_keys=[(group, "state_value")])
    loss = (MAPPOLoss if policy.centralised else IPPOLoss)(
        actor_module(policy),
        critic,
        clip_epsilon=config.clip,
        clip_value=config.clip_value,
        entropy_coeff=config.entropy,
        critic_coeff=0.5 * config.value_coef,
        loss_critic_type="l2",
        normalize_advantage=False,  # done by the caller over the whole minibatch
        log_explained_variance=False,
        functional=False,  # so that the modules see the weights in use
    )
    loss.set_keys(action=(group, "action"), sample_log_prob=(group, "action_log_prob"), value=(group, "state_value"))
    return loss


def _log_volume(policy: Policy) -> float:
    """By how much a density in the environment's units is lower than ours, in logarithms."""
    if policy.distribution == "categorical":
        return 0.0
    return float(((policy.high - policy.low) / 2).log().sum())


def _identity(policy: Policy, told: bool) -> Tensor:
    """`[N, N]`, or `[N, 0]` where agents are not told apart by their input."""
    agents = len(policy.group.agents)
    return torch.eye(agents, agents if told else 0, device=policy.low.device)


def _identified(inputs: Tensor, identity: Tensor) -> Tensor:
    return torch.cat([inputs, identity.expand(*inputs.shape[:-1], -1)], -1)


def _refuse_memory(policy: Policy) -> None:
    if policy.recurrent:
        raise UserError("Recurrent policies have no TorchRL modules; train them with algorithm.objective=ppo.")
