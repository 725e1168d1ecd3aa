"""How different the agents of a group are while they train: behaviour, generated weights, gradients.

Letters: `S` seeds, `N` agents, `B` sampled rows, `P` parameters.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hypermarl import diversity
from hypermarl.actor import GeneratedActor
from hypermarl.marl import objectives
from hypermarl.marl.objectives import Samples
from hypermarl.marl.policy import Policy
from hypermarl.marl.rollout import Batch
from hypermarl.marl.settings import AlgorithmConfig
from hypermarl.spec import Weights, whole

OBSERVATIONS = 256
ROWS = 512
AGENTS = 16  # gradients of at most so many agents are compared: each costs a backward pass through the generator


def examine(policy: Policy, batch: Batch, samples: Samples, config: AlgorithmConfig) -> dict[str, Tensor]:
    """Diversity of a group by tag, each `[S]`; empty for a single agent."""
    if len(policy.group.agents) < 2:
        return {}
    found = {"diversity/snd": behaviour(policy, batch)}
    with torch.no_grad():
        found["diversity/weight_spread"] = diversity.weight_spread(whole(policy.actor.weights())).overall
    found["diversity/gradient_cosine"] = diversity.gradient_cosine(agent_gradients(policy, samples, config))
    return found


@torch.no_grad()
def behaviour(policy: Policy, batch: Batch) -> Tensor:
    """System neural diversity `[S]` on observations of the rollout, each shown to every agent.

    A recurrent policy is compared at the first step of an episode, where it remembers nothing.
    """
    shown = diversity.same_observations(batch.observation[:-1], OBSERVATIONS)
    mask = None if batch.mask is None else diversity.same_observations(batch.mask, OBSERVATIONS)
    if policy.recurrent:
        memory = policy.blank_memory(*shown.shape[:-2]).actor
        fresh = torch.ones(1, *shown.shape[:-1], dtype=torch.bool, device=shown.device)
        parameters = policy.parameters_of(shown.unsqueeze(0), memory=memory, fresh=fresh)[0]
        parameters = {key: value.squeeze(0) for key, value in parameters.items()}
    else:
        parameters = policy.parameters_of(shown)[0]
    if policy.distribution != "categorical":
        parameters = {"loc": parameters["loc"], "scale": parameters["log_std"].exp()}
    return diversity.system_neural_diversity(parameters, policy.distribution, mask=mask)


def agent_gradients(policy: Policy, samples: Samples, config: AlgorithmConfig) -> Tensor:
    """Gradient of each agent's own policy loss for the actor's trained parameters, `[S, N, P]`, N at most `AGENTS`.

    One backward pass gives every agent's gradient for its own generated weights; each is then pulled back through the
    generator by itself.
    """
    seeds, agents = samples.action.shape[1], len(policy.group.agents)
    size = ROWS if samples.fresh is None else max(1, ROWS // samples.fresh.shape[2])
    index = torch.arange(min(size, samples.rows()), device=samples.action.device).unsqueeze(1).expand(-1, seeds)
    part = samples.take(index)
    part.advantage = objectives.normalise(part.advantage, part.weight, config.normalise_advantage)
    parameters = [p for p in policy.actor.parameters() if p.requires_grad]
    with torch.enable_grad():
        weights = policy.actor.weights()
        apart = {k: _per_agent(v, agents).detach().requires_grad_() for k, v in weights.items()}
        with torch.no_grad():
            critic = policy.critic.weights()
        loss, _ = objectives.ppo(policy, part, apart, critic, config, float(part.advantage.numel() // seeds))
        grads = torch.autograd.grad(loss, list(apart.values()), allow_unused=True)
        own = {k: torch.zeros_like(apart[k]) if g is None else g for k, g in zip(apart, grads, strict=True)}
        rows = [_pulled_back(weights, own, agent, parameters) for agent in range(min(agents, AGENTS))]
    return torch.stack(rows, 1)


def _per_agent(tensor: Tensor, agents: int) -> Tensor:
    """A shared tensor `[S, 1, ...]` as one copy per agent."""
    return tensor if tensor.shape[1] == agents else tensor.expand(-1, agents, *tensor.shape[2:])


def _pulled_back(weights: Weights, own: Weights, agent: int, parameters: list[torch.nn.Parameter]) -> Tensor:
    """One agent's gradient `[S, P]` for the generator's parameters."""
    outputs, vectors = [], []
    for name, tensor in weights.items():
        if not tensor.requires_grad:
            continue
        vector = torch.zeros_like(tensor)
        place = agent if tensor.shape[1] > 1 else 0
        vector[:, place] = own[name][:, agent]
        outputs.append(tensor)
        vectors.append(vector)
    found = torch.autograd.grad(outputs, parameters, vectors, retain_graph=True, allow_unused=True)
    flat = [(torch.zeros_like(p) if g is None else g).flatten(1) for p, g in zip(parameters, found, strict=True)]
    return torch.cat(flat, 1)


def generated(actor: GeneratedActor, seed: int) -> Weights:
    """One seed's generated weights `[N, *shape]`, for histograms."""
    with torch.no_grad():
        return {name: tensor[seed] for name, tensor in whole(actor.weights()).items()}
