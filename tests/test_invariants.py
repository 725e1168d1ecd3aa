"""What holds for every sharing mode: preset x invariant."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from small import SHARINGS, close, config, group, policy, rng, stirred, with_id
from test_objectives import drawn, gradients
from torch import Tensor, nn

from hypermarl.errors import UserError
from hypermarl.marl import distributions, objectives
from hypermarl.marl.policy import Policy, build_policy
from hypermarl.marl.settings import AlgorithmConfig
from hypermarl.marl.squad import Squad
from hypermarl.stacking import slice_of
from hypermarl.targets import MLPTarget
from hypermarl.updates import descend

X = torch.randn(10, 1, 3, 5, generator=rng(1))
SETTINGS = {sharing: config(f"sharing={sharing}") for sharing in SHARINGS}
ALIKE = [sharing for sharing, each in SETTINGS.items() if each.sharing.generator.start == "equal"]
UNLIKE = [sharing for sharing in SHARINGS if sharing not in ALIKE]
GENERATED = [sharing for sharing, each in SETTINGS.items() if each.sharing.generator.head != "none"]


def test_there_are_presets_of_each_kind() -> None:
    assert {
        "shared",
        "shared_id",
        "independent",
        "hyper_linear",
        "hyper_mlp",
        "hyper_low_rank",
        "hyper_chunked",
    } <= set(SHARINGS)
    assert UNLIKE == ["independent"]
    assert set(SHARINGS) - set(GENERATED) == {"shared", "shared_id"}


# ------------------------------------------------------------------------------------------------ the start


@pytest.mark.parametrize("agents, embedding", [(2, 1), (2, 64), (4, 4), (8, 2), (16, 64), (64, 1), (64, 16)])
@pytest.mark.parametrize("sharing", SHARINGS)
def test_every_agent_starts_exact(sharing: str, agents: int, embedding: int) -> None:
    """Orthogonal times the gain, within 1 %; 0.01 in the last layer of actors, 1 in that of critics; no biases."""
    words = (f"sharing={sharing}", f"sharing.embedding={embedding}", "model.actor=[24,16]", "model.critic=[16,24]")
    one = build_policy(config(*words), {"agents": group(agents, 9, (1.0, 1.0, 1.0))}, "agents", 3)
    for actor, last in ((one.actor, 0.01), (one.critic, 1.0)):
        weights = actor.weights()
        target = actor.target
        assert isinstance(target, MLPTarget)
        for i in range(target.layers):
            matrix = weights[f"layers.{i}.weight"]
            gain = last if i == target.layers - 1 else math.sqrt(2)
            found = torch.linalg.svdvals(matrix)
            assert found.shape[1] == min(matrix.shape[1:])
            assert (found / gain - 1).abs().max() < 0.01, (i, found.min(), found.max())
            assert weights[f"layers.{i}.bias"].abs().max() < 1e-4 * gain
        if sharing in UNLIKE:
            first = weights["layers.0.weight"].flatten(1)
            assert torch.pdist(first).min() > 1
        else:
            assert all(torch.equal(w, w[:1].expand_as(w)) for w in weights.values())
    assert one.actor.weights()["log_std"].count_nonzero() == 0


@pytest.mark.parametrize("sharing", SHARINGS)
def test_first_actions_are_almost_uniform(sharing: str) -> None:
    logits = policy(group(), f"sharing={sharing}", stir=0.0).parameters_of(X)[0]["logits"]
    assert (logits.softmax(-1) - 0.25).abs().max() < 0.02


def test_distinct_starts_need_room() -> None:
    """Ways to start distinct that exist, and one that cannot: more agents than the embedding has numbers."""
    for words in (("sharing=hyper_linear",), ("sharing=hyper_mlp", "sharing.generator.trunk=[8]")):
        one = policy(group(), *words, "sharing.generator.start=distinct", stir=0.0)
        first = one.actor.weights()["layers.0.weight"][0]
        close(torch.linalg.svdvals(first), torch.full((3, 5), math.sqrt(2)), atol=0.01)
        assert torch.pdist(first.flatten(1)).min() > 0.1
    with pytest.raises(UserError, match="start=distinct needs independent features for 3 agents"):
        policy(group(), "sharing=hyper_mlp", "sharing.generator.trunk=[2]", "sharing.generator.start=distinct")


# ------------------------------------------------------------------------------------------------ what is applied


def network(weights: dict[str, Tensor], layers: int, n: int) -> nn.Sequential:
    """Agent n's generated network as plain PyTorch layers."""
    parts: list[nn.Module] = []
    for i in range(layers):
        matrix, bias = (weights[f"layers.{i}.{name}"] for name in ("weight", "bias"))
        matrix, bias = (each[min(n, each.shape[0] - 1)].detach() for each in (matrix, bias))
        linear = nn.Linear(*matrix.shape)
        linear.load_state_dict({"weight": matrix.T, "bias": bias})
        parts += [linear, nn.ReLU()]
    return nn.Sequential(*parts[:-1])


@pytest.mark.parametrize("algorithm", ["ippo", "mappo"])
@pytest.mark.parametrize("sharing", SHARINGS)
def test_an_agent_is_its_own_plain_network(sharing: str, algorithm: str) -> None:
    one = policy(group(), f"sharing={sharing}", f"algorithm={algorithm}", seeds=(0, 1))
    x = X.expand(10, 2, 3, 5)
    logits = one.parameters_of(x)[0]["logits"]
    inputs = one.critic_inputs({"agents": x})
    values = one.values(inputs)[0]
    for s in range(2):
        actor = {name: w[s] for name, w in one.actor.weights().items()}
        critic = {name: w[s] for name, w in one.critic.weights().items()}
        for n in range(3):
            close(network(actor, 3, n)(with_id(one, x)[:, s, n]), logits[:, s, n])
            read = with_id(one, inputs.expand(10, 2, 3, -1))[:, s, n]
            close(network(critic, 2, n)(read)[:, 0], values[:, s, n])


@pytest.mark.parametrize("sharing", SHARINGS)
def test_agents_can_become_different_or_not(sharing: str) -> None:
    """Shown the same, agents of one network do the same for ever; all others can come to differ."""
    one = policy(group(), f"sharing={sharing}")
    logits = one.parameters_of(X[:, :, :1].expand_as(X))[0]["logits"]
    if sharing == "shared":
        assert logits.std(2).max() < 1e-6
    else:
        assert logits.std(2).min() > 1e-3


@pytest.mark.parametrize("sharing", SHARINGS)
def test_every_parameter_is_trained(sharing: str) -> None:
    one = policy(group(3, 5, (1.0, 2.0)), f"sharing={sharing}")
    _, found = gradients(one, drawn(one), SETTINGS[sharing].algorithm)
    assert len(found) > 5
    assert all(g.abs().sum() > 0 for g in found)


@pytest.mark.parametrize("sharing", SHARINGS)
def test_frozen_agents_are_the_same_agents(sharing: str) -> None:
    one = policy(group(), f"sharing={sharing}")
    logits, values = one.parameters_of(X)[0]["logits"], one.values(X)[0]
    with one.frozen():
        assert torch.equal(one.parameters_of(X)[0]["logits"], logits)
        assert torch.equal(one.values(X)[0], values)
        assert not one.values(X)[0].requires_grad
        with torch.no_grad():
            for parameter in one.parameters():
                parameter.mul_(1.5)
        assert torch.equal(one.parameters_of(X)[0]["logits"], logits), "an update must not change frozen weights"


@pytest.mark.parametrize("sharing", SHARINGS)
def test_saved_agents_come_back(sharing: str) -> None:
    words = (f"sharing={sharing}",)
    both = policy(group(), *words, seeds=(0, 1))
    for s in range(2):
        fresh = build_policy(config(*words), {"agents": group()}, "agents", 99)
        fresh.load_state_dict(slice_of(both.state_dict(), s))
        close(fresh.parameters_of(X[:, 0])[0]["logits"], both.parameters_of(X.expand(10, 2, 3, 5))[0]["logits"][:, s])


@pytest.mark.parametrize("kind", ["discrete", "continuous"])
@pytest.mark.parametrize("recurrent", [False, True], ids=["mlp", "gru"])
@pytest.mark.parametrize("sharing", SHARINGS)
def test_pieces_add_up_for_every_target(sharing: str, recurrent: bool, kind: str) -> None:
    words = (f"sharing={sharing}", *(("model=gru",) if recurrent else ()))
    one = policy(group(3, 5, 4 if kind == "discrete" else (1.0, 2.0)), *words, seeds=(0, 1))
    part, algorithm = drawn(one, length=4 if recurrent else 0), config(*words).algorithm
    whole, expected = gradients(one, part, algorithm)
    pieces, found = gradients(one, part, algorithm, micro=9 * (4 if recurrent else 1))
    close(pieces, whole)
    for x, y in zip(found, expected, strict=True):
        close(x, y, atol=1e-6)


@pytest.mark.parametrize("kind", ["discrete", "continuous"])
@pytest.mark.parametrize("algorithm", ["ippo", "mappo"])
@pytest.mark.parametrize("model", ["mlp", "gru", "gru of ones own"])
def test_a_low_rank_in_factors_is_the_same_policy(model: str, algorithm: str, kind: str) -> None:
    """Same actions, values and gradients, seeds side by side; frozen and taken apart for a team as well."""
    words = ["sharing=hyper_low_rank", "sharing.generator.rank=2", f"algorithm={algorithm}"]
    words += ["model=gru"] if model != "mlp" else []
    words += ["model.body=generated"] if model == "gru of ones own" else []
    both = [
        policy(
            group(3, 5, 4 if kind == "discrete" else (1.0, 2.0)), *words, f"sharing.generator.apply={how}", seeds=(0, 1)
        )
        for how in ("whole", "factored")
    ]
    assert [any("#" in name for name in one.actor.weights()) for one in both] == [False, True]
    part, settings = drawn(both[0], length=0 if model == "mlp" else 4), config(*words).algorithm
    if algorithm == "mappo":
        part.critic_input = both[0].critic_inputs({"agents": part.observation})
    (terms, expected), (found_terms, found) = (gradients(one, part, settings) for one in both)
    close(found_terms, terms)
    for x, y in zip(found, expected, strict=True):
        close(x, y, atol=1e-5)
    for one in both:
        with one.frozen():
            assert not any(w.requires_grad for w in one.actor.current().values())
    for s in range(2):
        squads = [Squad(alone(one, s)) for one in both]
        assert squads[0].weights.keys() == squads[1].weights.keys()
        for name, tensor in squads[0].weights.items():
            close(squads[1].weights[name], tensor)


@pytest.mark.parametrize("length", [0, 4], ids=["mlp", "gru"])
def test_an_update_tells_the_generator_its_rows(length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of each agent in the whole minibatch, since its weights are generated once for all of them."""
    words = ("sharing=hyper_low_rank", *(("model=gru",) if length else ()))
    one = policy(group(), *words)
    told: list[int | None] = []
    for actor in (one.actor, one.critic):
        generate = actor.generator.forward

        def spy(cond: Tensor | None, rows: int | None = None, generate: Any = generate) -> Any:
            told.append(rows)
            return generate(cond, rows)

        monkeypatch.setattr(actor.generator, "forward", spy)
    gradients(one, drawn(one, rows=12, length=length), config(*words).algorithm, micro=9 * max(1, length))
    assert told == [12 * max(1, length)] * 2


def alone(one: Policy, seed: int) -> Policy:
    """One seed's policy by itself."""
    plain = copy.deepcopy(one)
    for name, parameter in plain.named_parameters():
        parameter.data = dict(one.named_parameters())[name].detach()[seed].clone()
    return plain


# ------------------------------------------------------------------------------------------------ what is learned


def learn(one: Policy, algorithm: AlgorithmConfig, steps: int = 5) -> None:
    """Some updates as the learner makes them, on samples that change."""
    optimizer = torch.optim.Adam(one.parameters(), lr=0.01, fused=True)
    for step in range(steps):
        objectives.accumulate(one, drawn(one, seed=step), algorithm, 1000, [rng()])
        descend(optimizer, [list(one.parameters())], math.inf, torch.ones(1, dtype=torch.bool))


def plain_loss(nets: list[Any], part: Any, algorithm: AlgorithmConfig, who: list[int], x: Tensor) -> Tensor:
    """The PPO loss of agents `who` from their own plain networks, as a share of the loss of all."""
    total = torch.zeros(())
    for (actor, critic), n in zip(nets, who, strict=True):
        chance = torch.distributions.Categorical(logits=actor(x[:, 0, n]))
        ratio = (chance.log_prob(part.action[:, 0, n]) - part.log_prob[:, 0, n]).exp()
        advantage = part.advantage[:, 0, n]
        gain = torch.minimum(ratio * advantage, ratio.clamp(1 - algorithm.clip, 1 + algorithm.clip) * advantage)
        value, old, aim = critic(x[:, 0, n])[:, 0], part.value[:, 0, n], part.target[:, 0, n]
        near = old + (value - old).clamp(-algorithm.clip, algorithm.clip)
        error = torch.maximum((value - aim) ** 2, (near - aim) ** 2)
        each = -gain + algorithm.value_coef * 0.5 * error - algorithm.entropy * chance.entropy()
        total = total + each.sum() / part.advantage.numel()
    return total


@pytest.mark.parametrize("sharing, networks", [("independent", 3), ("shared", 1), ("shared_id", 1)])
def test_networks_of_ones_own_and_one_for_all(sharing: str, networks: int) -> None:
    """`independent` is N separately built and separately trained networks, `shared` is one, through many updates."""
    one = policy(group(), f"sharing={sharing}", stir=0.0)
    algorithm = replace(SETTINGS[sharing].algorithm, normalise_advantage="none")
    actor, critic = ({k: w[0] for k, w in each.weights().items()} for each in (one.actor, one.critic))
    built = [(network(actor, 3, n), network(critic, 2, n)) for n in range(networks)]
    assert sum(p.numel() for p in one.parameters()) == sum(
        p.numel() for pair in built for net in pair for p in net.parameters()
    )
    optimizers = [
        torch.optim.Adam([*a.parameters(), *c.parameters()], lr=0.01) for a, c in built
    ]  # each trained by itself
    learn(one, algorithm)
    for step in range(5):
        part = drawn(one, seed=step)
        x = with_id(one, part.observation)
        for n, optimizer in enumerate(optimizers):
            who = [n] if networks > 1 else [0, 1, 2]
            loss = plain_loss([built[n]] * len(who), part, algorithm, who, x)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
    logits, values = one.parameters_of(X)[0]["logits"], one.values(X)[0]
    inputs = with_id(one, X)
    for n in range(3):
        a, c = built[n if networks > 1 else 0]
        close(a(inputs[:, 0, n]), logits[:, 0, n], atol=1e-4)
        close(c(inputs[:, 0, n])[:, 0], values[:, 0, n], atol=1e-4)
    start = policy(group(), f"sharing={sharing}", stir=0.0).parameters_of(X)[0]["logits"]
    assert (logits - start).abs().max() > 0.01


@pytest.mark.parametrize("sharing", GENERATED)
def test_what_one_agent_learns_reaches_the_others_unless_they_are_independent(sharing: str) -> None:
    one = policy(group(), f"sharing={sharing}")
    part = drawn(one)
    part.weight = torch.zeros_like(part.advantage)
    part.weight[:, :, 1] = 1.0
    before = {k: w.detach().clone() for k, w in one.actor.weights().items()}
    gradients(one, part, SETTINGS[sharing].algorithm)
    with torch.no_grad():
        for parameter in one.parameters():
            if parameter.grad is not None:
                parameter -= 0.1 * parameter.grad
    moved = [
        (one.actor.weights()[k] - w)[0].flatten(1).norm(dim=1).expand(3)
        for k, w in before.items()
        if k.startswith("layers")
    ]
    size = torch.stack(moved).sum(0)
    assert size[1] > 1e-4
    if sharing == "independent":
        assert size[0] == size[2] == 0
    else:
        assert size[[0, 2]].min() > 1e-4


@pytest.mark.parametrize("sharing", SHARINGS)
def test_agents_can_be_taught_to_be_alike_and_unlike(sharing: str) -> None:
    """Shown the same, wanted: one action for all, then one for each. Only agents nobody can tell apart fail."""
    for wanted in (torch.tensor([2, 2, 2]), torch.tensor([3, 0, 1])):
        one = policy(group(), f"sharing={sharing}", stir=0.0)
        optimizer = torch.optim.Adam(one.parameters(), lr=0.03)
        x = X[:1, :, :1].expand(1, 1, 3, 5)
        for _ in range(60):
            told, _ = one.parameters_of(x)
            loss = -distributions.log_prob("categorical", told, wanted.expand(1, 1, 3)).mean()
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
        done = one.parameters_of(x)[0]["logits"][0, 0].argmax(-1)
        assert torch.equal(done, wanted) == (sharing != "shared" or len(set(wanted.tolist())) == 1)


@pytest.mark.parametrize("sharing", SHARINGS)
def test_one_seed_of_many_is_one_alone(sharing: str) -> None:
    """Same start, same updates: seeds in one process and in three come to the same place."""
    words = (f"sharing={sharing}",)
    alone = [policy(group(), *words, seeds=(s,)) for s in range(2)]
    together = policy(group(), *words, seeds=(0, 1))
    algorithm = SETTINGS[sharing].algorithm
    parts = [drawn(each, seed=7 + s) for s, each in enumerate(alone)]
    both = type(parts[0])(
        **{
            f: None if getattr(parts[0], f) is None else torch.cat([getattr(p, f) for p in parts], 1)
            for f in parts[0].__slots__
        }
    )
    _, whole = gradients(together, both, algorithm)
    for s in range(2):
        _, own = gradients(alone[s], parts[s], algorithm)
        for x, y in zip(whole, own, strict=True):
            close(x[s], y[0], atol=1e-6)


def test_stirring_moves_everything() -> None:
    plain, moved = policy(group(), stir=0.0), stirred(policy(group(), stir=0.0))
    assert all(not torch.equal(x, y) for x, y in zip(plain.parameters(), moved.parameters(), strict=True))
