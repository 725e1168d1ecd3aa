"""A group's policy and critic: sizes, starts, who sees what, values in their own units."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from small import close, config, group, policies, policy, rng, with_id
from torchrl.modules.value_norm import PopArtValueNorm

from hypermarl.conditioning import AgentTable
from hypermarl.envs.interface import Continuous, Discrete, Group
from hypermarl.errors import UserError
from hypermarl.marl.policy import ValueNorm, build_policies, build_policy, embeddings_of, parameter_counts
from hypermarl.targets.gru import History

DISPERSION = {"agents": Group("agents", tuple(f"agent_{i}" for i in range(4)), 16, Discrete(9))}
SIZES = ("model.actor=[64,64]", "model.critic=[64,64]", "env.num_envs=16")
# as in mpe2's simple_tag: fewer and larger predators, one prey that sees less
TAG = {
    "adversary": Group("adversary", ("adversary_0", "adversary_1", "adversary_2"), 16, Discrete(5)),
    "agent": Group("agent", ("agent_0",), 14, Continuous((-1.0, 0.0), (1.0, 4.0))),
}


@pytest.mark.parametrize(
    "sharing, count",
    [("shared_id", 11_658), ("independent", 44_584), ("hyper_linear", 55_730), ("hyper_mlp_paper", 728_346)],
)
def test_counts_of_the_published_layouts(sharing: str, count: int) -> None:
    """On Dispersion (arXiv 2412.04233, figure 14)."""
    settings = config(f"sharing={sharing}", *SIZES)
    told = parameter_counts(settings, DISPERSION)["agents"]
    assert told["total"] == count
    assert sum(p.numel() for p in build_policy(settings, DISPERSION, "agents", 0).parameters()) == count
    assert told["target"] == 11_146 + (8 * 64 if sharing == "shared_id" else 0)


@pytest.mark.parametrize("sharing", ["hyper_mlp", "hyper_low_rank", "hyper_chunked"])
def test_our_layouts_are_small(sharing: str) -> None:
    settings = config(f"sharing={sharing}", *SIZES)
    told = parameter_counts(settings, DISPERSION)["agents"]
    assert 11_146 < told["total"] < 100_000
    assert told["total"] == told["embedding"] + told["actor"] + told["critic"]
    assert sum(p.numel() for p in build_policy(settings, DISPERSION, "agents", 0).parameters()) == told["total"]


@pytest.mark.parametrize("sharing", ["independent", "hyper_mlp", "shared"])
def test_a_seed_starts_the_same_alone_and_among_others(sharing: str) -> None:
    settings = config(f"sharing={sharing}")
    together = build_policies(settings, TAG, [3, 4, 11])
    for s, seed in enumerate([3, 4, 11]):
        alone = build_policies(settings, TAG, [seed])
        for name in TAG:
            for key, tensor in alone[name].state_dict().items():
                assert torch.equal(together[name].state_dict()[key][s], tensor[0]), key
    first, second = (build_policy(settings, DISPERSION, "agents", seed) for seed in (0, 1))
    different = [not torch.equal(x, y) for x, y in zip(first.parameters(), second.parameters(), strict=True)]
    assert any(different)


def test_actors_and_critics_share_embeddings_or_not() -> None:
    one = policy(group())
    assert one.actor.conditioner is one.critic.conditioner
    two = policy(group(), "sharing.share_embedding=false")
    assert two.actor.conditioner is not two.critic.conditioner
    assert not torch.equal(embeddings_of(two), two.critic.conditioner())
    counts = [
        parameter_counts(config(f"sharing.share_embedding={value}"), {"agents": group()})["agents"]["embedding"]
        for value in ("true", "false")
    ]
    assert counts == [3 * 4, 2 * 3 * 4]
    assert embeddings_of(policy(group(), "sharing=shared")) is None


# ------------------------------------------------------------------------------------------------ who sees what


def test_an_id_in_the_observation_tells_agents_apart() -> None:
    x = torch.randn(6, 1, 1, 5, generator=rng()).expand(6, 1, 3, 5)
    told = policy(group(), "sharing=shared_id")
    logits, values = told.parameters_of(x)[0]["logits"], told.values(x)[0]
    assert logits.std(2).min() > 1e-3
    assert values.std(2).min() > 1e-4
    alike = policy(group(), "sharing=shared")
    assert alike.parameters_of(x)[0]["logits"].std(2).max() < 1e-6


@pytest.mark.parametrize("words", [(), ("sharing.generator.head=full", "sharing.conditioning=table"), ("model=gru",)])
@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
def test_an_id_that_is_looked_up_is_an_id_that_is_read(words: tuple[str, ...], seeds: tuple[int, ...]) -> None:
    """Values and gradients are those of networks that read the observation with the one-hot id behind it."""
    told = policy(group(), "sharing=shared_id", *words, seeds=seeds)
    x = torch.randn(6, len(seeds), 3, 5, generator=rng())
    leaves = [p for p in told.actor.parameters() if p.requires_grad]
    if told.recurrent:
        memory, fresh = told.blank_memory(6, len(seeds)), torch.zeros(1, *x.shape[:-1], dtype=torch.bool)
        history = History(with_id(told, x).unsqueeze(0), memory.actor, fresh)
        both = [told.outputs(x.unsqueeze(0), memory=memory.actor, fresh=fresh)[0], told.actor(history)[0]]
    else:
        both = [told.outputs(x)[0], told.actor(with_id(told, x))]
        close(told.values(x)[0], told.critic(with_id(told, x)).squeeze(-1), atol=1e-6)
    close(*both, atol=1e-6)
    cotangent = torch.randn(both[0].shape, generator=rng(3))
    grads = [torch.autograd.grad(y, leaves, cotangent, allow_unused=True) for y in both]
    for one, other in zip(*grads, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            close(one, other, atol=1e-5)


def test_many_agents_make_no_sample_wider() -> None:
    """512 agents of 4 copies: with the ids concatenated, one pass would take 4 MB and more."""
    told = policy(group(512), "sharing=shared_id", "model.actor=[8]")
    x = torch.randn(4, 1, 512, 5)
    with torch.no_grad(), torch.profiler.profile(profile_memory=True) as seen:
        told.outputs(x)
    assert max(event.cpu_memory_usage for event in seen.events()) < 2**20


@pytest.mark.parametrize("algorithm", ["ippo", "mappo"])
def test_what_a_critic_reads(algorithm: str) -> None:
    made = policies(TAG, f"algorithm={algorithm}", seeds=(0, 1))
    seen = {
        name: torch.randn(4, 2, len(each.agents), each.observation, generator=rng(i)).requires_grad_()
        for i, (name, each) in enumerate(TAG.items())
    }
    critic = made["adversary"]
    inputs = critic.critic_inputs(seen)
    assert inputs.shape == ((4, 2, 1, 3 * 16 + 14) if algorithm == "mappo" else (4, 2, 3, 16))
    value = critic.values(inputs)[0]
    assert value.shape == (4, 2, 3)
    torch.autograd.backward(value[1, 0, 2].sum())
    moved = {name: x.grad.abs().sum(-1) > 0 for name, x in seen.items() if x.grad is not None}
    where = torch.zeros(4, 2, 3, dtype=torch.bool)
    where[1, 0] = torch.tensor([algorithm == "mappo", algorithm == "mappo", True])
    assert torch.equal(moved["adversary"], where)
    if algorithm == "mappo":
        assert moved["agent"][1, 0].all()
        assert moved["agent"].sum() == 1
    else:
        assert "agent" not in moved


def test_groups_with_unlike_agents() -> None:
    made = policies(TAG, seeds=(0, 1))
    logits = made["adversary"].parameters_of(torch.randn(4, 2, 3, 16))[0]["logits"]
    assert logits.shape == (4, 2, 3, 5)
    told = made["agent"].parameters_of(torch.randn(4, 2, 1, 14))[0]
    assert told["loc"].shape == told["log_std"].shape == (4, 2, 1, 2)
    assert made["adversary"].distribution == "categorical"
    assert made["agent"].distribution == "normal"
    assert policies(TAG, "model.distribution=tanh_normal")["agent"].distribution == "tanh_normal"


def test_masked_actions_have_no_chance() -> None:
    one = policy(group(3, 5, 4, masked=True))
    mask = torch.rand(6, 1, 3, 4, generator=rng()) < 0.5
    mask[..., 2] = True
    x = torch.randn(6, 1, 3, 5, generator=rng(1))
    free, bound = (one.parameters_of(x, each)[0]["logits"] for each in (None, mask))
    assert torch.equal(bound[mask], free[mask])
    assert (bound.softmax(-1)[~mask] == 0).all()


# ------------------------------------------------------------------------------------------------ continuous actions


@pytest.mark.parametrize(
    "words, agents",
    [
        ((), 1),
        (("sharing.share_log_std=false",), 3),
        (("sharing=independent",), 3),
        (("sharing=independent", "sharing.share_log_std=true"), 3),
        (("sharing=shared",), 1),
    ],
)
def test_how_many_have_a_spread_of_their_own(words: tuple[str, ...], agents: int) -> None:
    weights = policy(group(3, 5, (1.0, 2.0)), *words, stir=0.0).actor.weights()
    assert weights["log_std"].shape == (1, agents, 2)
    assert weights["log_std"].count_nonzero() == 0
    assert "log_std" not in policy(group(3, 5, 4), *words).actor.weights()


@pytest.mark.parametrize("kind", ["normal", "tanh_normal"])
def test_actions_in_the_units_of_the_environment(kind: str) -> None:
    """With fewer, as many, and more seeds than agents or dimensions: the box belongs to the dimensions alone."""
    for seeds in ((0,), (0, 1), (0, 1, 2)):
        made = policies(TAG, f"model.distribution={kind}", seeds=seeds)["agent"]
        raw = torch.randn(5, len(seeds), 1, 2, generator=rng())
        found = made.to_environment(raw)
        unit = torch.tanh(raw) if kind == "tanh_normal" else raw
        close(found[..., 0], unit[..., 0])
        close(found[..., 1], 2 + 2 * unit[..., 1])


def test_boxes_must_have_bounds() -> None:
    endless = Group("agents", ("a", "b"), 3, Continuous((-1.0, -math.inf), (1.0, math.inf)))
    with pytest.raises(UserError, match="Group 'agents' has an action box without bounds"):
        build_policies(config(), {"agents": endless}, [0])


# ------------------------------------------------------------------------------------------------ newcomers


@pytest.mark.parametrize("sharing", ["hyper_mlp", "hyper_low_rank", "hyper_chunked", "hyper_mlp_paper"])
def test_a_new_agent_changes_nobody(sharing: str) -> None:
    one = build_policy(config(f"sharing={sharing}"), DISPERSION, "agents", 0)
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=rng(1)))
    before = {name: w.clone() for name, w in one.actor.weights().items()}
    who = one.actor.conditioner
    assert isinstance(who, AgentTable)
    first = who.add((who.weight[0] + who.weight[2]) / 2)
    after = one.actor.weights()
    new = one.actor.weights(torch.tensor([first]))
    for name, tensor in before.items():
        if tensor.shape[0] == 1:
            continue  # shared by all
        close(after[name][:4], tensor, atol=1e-6)
        close(after[name][4:], new[name], atol=1e-6)
    assert not torch.equal(new["layers.0.weight"][0], before["layers.0.weight"][0])


def test_features_describe_agents_that_were_not_there() -> None:
    rows = [[0.1, 0.5], [0.2, 0.4], [0.9, 0.0], [0.4, 0.4]]
    words = ("sharing.conditioning=features", f"sharing.features={rows}".replace(" ", ""))
    one = build_policy(config(*words), DISPERSION, "agents", 0)
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=rng(1)))
    whole = one.actor.weights()
    new = one.actor.weights(torch.tensor([[0.2, 0.4], [0.7, 0.7]]))
    for name in whole:
        close(new[name][0], whole[name][1], atol=1e-6)
    assert (new["layers.0.weight"][1] - whole["layers.0.weight"]).abs().flatten(1).max(1).values.min() > 1e-3


# ------------------------------------------------------------------------------------------------ memory and values


@pytest.mark.parametrize("body", ["shared", "generated"])
def test_recurrent_policies(body: str) -> None:
    one = policy(group(3, 5, 4), "model=gru", f"model.body={body}", seeds=(0, 1))
    assert one.recurrent
    memory = one.blank_memory(6, 2)
    assert memory.actor.shape == memory.critic.shape == (6, 2, 3, 4)
    x = torch.randn(8, 6, 2, 3, 5, generator=rng())
    fresh = torch.zeros(8, 6, 2, 3, dtype=torch.bool)
    told, memories = one.parameters_of(x, memory=memory.actor, fresh=fresh)
    assert told["logits"].shape == (8, 6, 2, 3, 4)
    assert memories is not None
    assert memories.shape == (8, 6, 2, 3, 4)
    values, _ = one.values(x, memory=memory.critic, fresh=fresh)
    assert values.shape == (8, 6, 2, 3)
    shared = one.actor.weights()["body.gates_hidden.weight"].shape[1]
    assert shared == (1 if body == "shared" else 3)


def norms(returns: torch.Tensor, beta: float, weight: torch.Tensor | None = None) -> tuple[Any, Any]:
    """Mean and deviation of one seed after the given batches `[K, T, E, N]`, in plain double precision."""
    mean = square = trust = 0.0
    for k, batch in enumerate(returns.double().numpy()):
        w = np.ones_like(batch) if weight is None else weight[k].double().numpy()
        mean = beta * mean + (1 - beta) * (batch * w).sum() / w.sum()
        square = beta * square + (1 - beta) * (batch**2 * w).sum() / w.sum()
        trust = beta * trust + 1 - beta
    return mean / trust, np.sqrt(square / trust - (mean / trust) ** 2)


def test_values_are_normalised_per_seed() -> None:
    """Against TorchRL's PopArt norm of each seed by itself, and against the definition."""
    scale, shift = torch.tensor([1.0, 30.0]).view(2, 1), torch.tensor([0.0, -50.0]).view(2, 1)
    batches = torch.randn(9, 6, 5, 2, 3, generator=rng()) * scale + shift
    ours = ValueNorm()
    for name in ("mean", "square", "trust"):
        setattr(ours, name, getattr(ours, name).expand(2).clone())
    x = torch.randn(4, 2, 3, generator=rng(1)) * scale + shift
    close(ours.shrink(x), x)  # until the first update nothing is changed
    theirs = [PopArtValueNorm(shape=1, beta=ours.beta) for _ in range(2)]
    for batch in batches:
        ours.update(batch)
        for s in range(2):
            theirs[s].update(batch[:, :, s].reshape(-1, 1))
    for s in range(2):
        mean, deviation = norms(batches[:, :, :, s], ours.beta)
        close(ours.shrink(x)[:, s], ((x[:, s].double() - mean) / deviation).float())
        torch.testing.assert_close(
            ours.shrink(x)[:, s].unsqueeze(-1), theirs[s].normalize(x[:, s].unsqueeze(-1)), rtol=1e-3, atol=1e-3
        )
    close(ours.restore(ours.shrink(x)), x, atol=1e-4)


def test_returns_of_the_dead_and_of_failed_seeds_do_not_count() -> None:
    batch = torch.randn(6, 5, 2, 3, generator=rng())
    weight = (torch.rand(batch.shape, generator=rng(1)) < 0.6).float()
    ours, expected = ValueNorm(), ValueNorm()
    for norm in (ours, expected):
        for name in ("mean", "square", "trust"):
            setattr(norm, name, getattr(norm, name).expand(2).clone())
    ours.update(torch.where(weight > 0, batch, 1e6), weight)
    mean, deviation = norms(batch[None, :, :, 1], ours.beta, weight[None, :, :, 1])
    x = torch.randn(4, 2, 3)
    close(ours.shrink(x)[:, 1], ((x[:, 1] - mean) / deviation).float())
    before = {key: value.clone() for key, value in ours.state_dict().items()}
    batch[2, 3, 0, 1] = float("nan")
    ours.update(batch)
    for key, value in ours.state_dict().items():
        assert value[0] == before[key][0], "a seed that failed stays as it was"
        assert value[1] != before[key][1]


@pytest.mark.parametrize("sharing", ["hyper_mlp", "shared_id", "independent"])
def test_a_critic_can_be_shared_where_policies_are_not(sharing: str) -> None:
    """Agents that see the same are worth the same to it, and with MAPPO one row is judged for all of them."""
    words = (f"sharing={sharing}", "algorithm.share_critic=true")
    one = policy(group(), *words)
    x = torch.randn(6, 1, 1, 5, generator=rng()).expand(6, 1, 3, 5)
    values = one.values(one.critic_inputs({"agents": x}))[0]
    assert values.shape == (6, 1, 3)
    assert values.std(2).max() < 1e-6
    own = torch.randn(6, 1, 3, 5, generator=rng())
    assert one.values(one.critic_inputs({"agents": own}))[0].std(2).min() > 1e-4
    assert one.parameters_of(x)[0]["logits"].shape == (6, 1, 3, 4)
    central = policy(group(), *words, "algorithm=mappo")
    inputs = central.critic_inputs({"agents": own})
    assert inputs.shape == (6, 1, 1, 15)
    assert torch.equal(inputs.flatten(-2), own.flatten(-2))
    values = central.values(inputs)[0]
    assert values.shape == (6, 1, 3)
    assert central.critic.target.apply(central.critic.weights(), inputs).shape == (6, 1, 1, 1)
    assert (values == values[..., :1]).all()
    names = {name.partition(".")[2] for name, _ in one.critic.named_parameters()}
    assert all(name.startswith("base.") for name in names), "nothing that is told who an agent is"
