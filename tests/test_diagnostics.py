"""What is measured while training: each agent's gradient by itself, behaviour, spread of weights."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small import close, config, group, policy, rng
from test_objectives import drawn
from torch import Tensor

from hypermarl import diversity
from hypermarl.marl import diagnostics, objectives
from hypermarl.marl.policy import Policy
from hypermarl.marl.rollout import Batch

CASES = {
    "hyper_mlp": ((), 0),
    "one network": (("sharing=shared_id",), 0),
    "own networks": (("sharing=independent",), 0),
    "low rank": (("sharing=hyper_low_rank", "sharing.generator.rank=2"), 0),
    "gru": (("model=gru",), 5),
}


def batch_of(one: Policy, steps: int = 9, envs: int = 4) -> Batch:
    """A rollout of which only observations and masks are looked at."""
    seeds, agents = next(iter(one.parameters())).shape[0], len(one.group.agents)
    shape = (steps, envs, seeds, agents)
    empty = torch.zeros(shape)
    masked = torch.ones(*shape, one.group.action.size, dtype=torch.bool) if one.group.masked else None
    seen = torch.randn(steps + 1, *shape[1:], one.group.observation, generator=rng(2))
    return Batch(seen, empty, empty, empty, empty, empty, empty, mask=masked)


@pytest.mark.parametrize("case", CASES)
def test_each_agents_gradient_is_that_of_its_own_loss(case: str) -> None:
    """Brute force: all advantages but one agent's are nothing, and the whole model is differentiated."""
    words, length = CASES[case]
    one = policy(group(3, 5, 4), *words, seeds=(0, 1))
    samples = drawn(one, rows=20, length=length)
    algorithm = replace(config(*words).algorithm, entropy=0.0)
    found = diagnostics.agent_gradients(one, samples, algorithm)
    parameters = [p for p in one.actor.parameters() if p.requires_grad]
    assert found.shape == (2, 3, sum(p[0].numel() for p in parameters))
    advantage = objectives.normalise(samples.advantage, None, "all")
    for n in range(3):
        part = replace(samples, advantage=advantage * (torch.arange(3) == n))
        with torch.no_grad():
            critic = one.critic.weights()
        count = float(advantage.numel() // 2)
        loss, _ = objectives.ppo(one, part, one.actor.weights(), critic, algorithm, count)
        own = torch.autograd.grad(loss, parameters, allow_unused=True)
        flat = [(torch.zeros_like(p) if g is None else g).flatten(1) for p, g in zip(parameters, own, strict=True)]
        close(found[:, n], torch.cat(flat, 1), atol=1e-6)
    assert all(p.grad is None for p in one.parameters()), "training does not notice"


def test_own_networks_never_conflict_and_one_network_may() -> None:
    samples = None
    cosines = {}
    for sharing in ("independent", "shared_id"):
        one = policy(group(3, 5, 4), f"sharing={sharing}")
        samples = drawn(one, rows=20)
        found = diagnostics.examine(one, batch_of(one), samples, config().algorithm)
        cosines[sharing] = float(found["diversity/gradient_cosine"])
        assert found["diversity/snd"].shape == (1,)
    assert cosines["independent"] == pytest.approx(0.0, abs=1e-6)
    assert abs(cosines["shared_id"]) > 1e-3


def test_equal_agents_are_not_diverse() -> None:
    alike, unlike = policy(group(3, 5, 4), "sharing=shared"), policy(group(3, 5, 4))
    for one, least, most in ((alike, 0.0, 1e-6), (unlike, 0.01, 1.0)):
        found = diagnostics.examine(one, batch_of(one), drawn(one, rows=20), config().algorithm)
        assert least <= float(found["diversity/snd"]) <= most
        assert least <= float(found["diversity/weight_spread"])
        assert float(found["diversity/weight_spread"]) <= (1e-6 if one is alike else 10)


@pytest.mark.parametrize("words", [(), ("model=gru",), ("model.distribution=tanh_normal",)])
@pytest.mark.parametrize("actions", [4, (1.0, 2.0)], ids=["discrete", "continuous"])
def test_behaviour_is_compared_on_the_same_observations(
    words: tuple[str, ...], actions: int | tuple[float, ...]
) -> None:
    one = policy(group(3, 5, actions, masked=actions == 4), *words, seeds=(0, 1))
    batch = batch_of(one)
    found = diagnostics.behaviour(one, batch)
    shown = diversity.same_observations(batch.observation[:-1], diagnostics.OBSERVATIONS)
    assert (shown == shown[:, :, :1]).all()

    def told(x: Tensor) -> dict[str, Tensor]:
        if not one.recurrent:
            return one.parameters_of(x)[0]
        memory = one.blank_memory(*x.shape[:2]).actor
        fresh = torch.zeros(1, *x.shape[:-1], dtype=torch.bool)
        return {k: v[0] for k, v in one.parameters_of(x[None], memory=memory, fresh=fresh)[0].items()}

    with torch.no_grad():
        given = told(shown)
    if one.distribution != "categorical":
        given = {"loc": given["loc"], "scale": given["log_std"].exp()}
    close(found, diversity.system_neural_diversity(given, one.distribution))
    assert found.shape == (2,)
    assert (found > 0.01).all()
    assert found[0] != found[1]


def test_a_single_agent_has_nobody_to_differ_from() -> None:
    one = policy(group(1, 5, 4))
    assert diagnostics.examine(one, batch_of(one), drawn(one), config().algorithm) == {}


def test_many_agents_are_sampled() -> None:
    many = policy(group(diagnostics.AGENTS + 3, 5, 4))
    found = diagnostics.agent_gradients(many, drawn(many), config().algorithm)
    assert found.shape[1] == diagnostics.AGENTS


def test_generated_weights_of_one_seed() -> None:
    one = policy(group(3, 5, 4), seeds=(0, 1))
    weights = one.actor.weights()
    for name, tensor in diagnostics.generated(one.actor, 1).items():
        assert torch.equal(tensor, weights[name][1])
        assert not tensor.requires_grad
