"""A LoRA of every agent on a shared policy (presets `lora`, `hyper_lora`): generated factors are its A and B."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable

import pytest
import torch
from small import close, config, group, policy, rng
from torch import Tensor, nn

from hypermarl.actor import GeneratedActor
from hypermarl.conditioning import AgentTable, OneHot
from hypermarl.errors import UserError
from hypermarl.generator import Generator, GeneratorConfig
from hypermarl.marl import distributions
from hypermarl.marl.policy import Policy, build_policy, parameter_counts
from hypermarl.spec import LEFT, RIGHT, Weights, whole
from hypermarl.targets import LoRATarget, MLPTarget

PRESETS = ("lora", "hyper_lora")
N, S, B, D, A, R = 3, 2, 10, 9, 6, 4  # no two alike, nor like a width
SIZES = ("model.actor=[11,7]", "model.critic=[8]", f"sharing.generator.rank={R}")
LAYERS = ("layers.0", "layers.1", "layers.2")
X = torch.randn(B, 1, N, D, generator=rng(5))


def made(sharing: str, apply: str = "factored", seeds: tuple[int, ...] = (0,), stir: float = 0.3) -> Policy:
    words = (f"sharing={sharing}", *SIZES, f"sharing.generator.apply={apply}")
    return policy(group(N, D, A), *words, seeds=seeds, stir=stir)


def plain_module(weights: Weights) -> nn.Sequential:
    """What all agents share, `[1, *shape]` each, as layers of PyTorch that train nothing."""
    parts: list[nn.Module] = []
    for name in LAYERS:
        matrix, bias = weights[f"{name}.weight"][0], weights[f"{name}.bias"][0]
        linear = nn.Linear(*matrix.shape)
        linear.load_state_dict({"weight": matrix.detach().T, "bias": bias.detach()})
        parts += [linear, nn.ReLU()]
    return nn.Sequential(*parts[:-1]).requires_grad_(False)


def lora_of(weights: Weights) -> LoRATarget:
    return LoRATarget.from_model(plain_module(weights), ("0", "2", "4"), rank=R, alpha=R)


def adapters_of(one: LoRATarget, weights: Weights) -> Weights:
    """The generated factors under the names of a LoRA; no number is touched."""
    found: Weights = {}
    for site, name in zip(one.sites, LAYERS, strict=True):
        found[site.left], found[site.right] = weights[f"{name}.weight{LEFT}"], weights[f"{name}.weight{RIGHT}"]
    return found


def of_seed(weights: Weights, seed: int) -> Weights:
    return {name: tensor[seed] for name, tensor in weights.items()}


# ------------------------------------------------------------------------------------------------ one thing, two ways


@pytest.mark.parametrize("sharing", PRESETS)
def test_the_same_tensors_are_a_lora_on_a_plain_network(sharing: str) -> None:
    one = made(sharing)
    weights = of_seed(one.actor.weights(), 0)
    lora, x = lora_of(weights), X[:, 0]
    mine, theirs = one.actor.target.apply(weights, x), lora.apply(adapters_of(lora, weights), x)
    assert theirs.shape == (B, N, A)
    close(theirs, mine)
    close(theirs, one.actor.target.apply(whole(weights), x))
    close(theirs.unsqueeze(1), one.outputs(X)[0])
    assert (theirs - lora.network(x)).abs().amax((0, 2)).min() > 0.1, "every agent has moved from the shared network"
    assert torch.pdist(theirs.transpose(0, 1).flatten(1)).min() > 0.1


@pytest.mark.parametrize("sharing", PRESETS)
def test_the_same_tensors_are_a_lora_with_seeds_side_by_side(sharing: str) -> None:
    """One network for both seeds, so both are given the first one's base; their adapters stay their own."""
    one = made(sharing, seeds=(0, 1))
    with torch.no_grad():
        for tensor in one.actor.generator.base.values():
            tensor[1] = tensor[0]
    weights, x = one.actor.weights(), torch.randn(B, S, N, D, generator=rng(6))
    lora = lora_of(of_seed(weights, 0))
    found = lora.apply(adapters_of(lora, weights), x)
    assert found.shape == (B, S, N, A)
    close(found, one.actor.target.apply(weights, x))
    assert not torch.allclose(found[:, 0], one.actor.target.apply(of_seed(weights, 1), x[:, 0]), atol=0.1)


@pytest.mark.parametrize("sharing", PRESETS)
def test_gradients_are_the_same_and_reach_the_generator_alone(sharing: str) -> None:
    """Through a LoRA on a frozen network: all of the generator but the base, which there is the network."""
    one = made(sharing)
    actor = one.actor
    names = [name for name, _ in actor.named_parameters() if not name.startswith("generator.base")]
    trained = [dict(actor.named_parameters())[name] for name in names]
    weights = of_seed(actor.weights(), 0)
    lora = lora_of(weights)
    expected = torch.autograd.grad(actor.target.apply(weights, X[:, 0]).square().mean(), trained)
    torch.autograd.backward(lora.apply(adapters_of(lora, of_seed(actor.weights(), 0)), X[:, 0]).square().mean())
    for name, parameter, gradient in zip(names, trained, expected, strict=True):
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name
        close(parameter.grad, gradient)
    assert all(tensor.grad is None for tensor in actor.generator.base.values())
    assert all(tensor.grad is None for tensor in lora.network.parameters())


# ------------------------------------------------------------------------------------------------ what agents share


@pytest.mark.parametrize("apply", ["whole", "factored"])
@pytest.mark.parametrize("sharing", PRESETS)
def test_agents_start_as_the_shared_policy_to_the_bit(sharing: str, apply: str) -> None:
    one, shared = made(sharing, apply, stir=0.0), policy(group(N, D, A), "sharing=shared", *SIZES, stir=0.0)
    assert any(LEFT in name for name in one.actor.weights()) == (apply == "factored")
    for mine, theirs in ((one.actor, shared.actor), (one.critic, shared.critic)):
        theirs.generator.base.load_state_dict(mine.generator.base.state_dict())
        expected = theirs.weights()
        for name, tensor in whole(mine.weights()).items():
            assert torch.equal(tensor, expected[name].expand_as(tensor)), name
    weights = one.actor.weights()
    if apply == "factored":
        weights = of_seed(weights, 0)
        lora = lora_of(weights)
        answers = lora.apply(adapters_of(lora, weights), X[:, 0])
        rows = lora.network(X[:, 0].transpose(0, 1).reshape(-1, D)).reshape(N, B, A)
        assert torch.equal(answers.transpose(0, 1), rows)
        close(answers.unsqueeze(1), shared.outputs(X)[0])


@pytest.mark.parametrize("seeds", [(0,), (0, 1)])
@pytest.mark.parametrize("sharing", PRESETS)
def test_agents_differ_in_their_matrices_alone_and_by_the_rank(sharing: str, seeds: tuple[int, ...]) -> None:
    one = made(sharing, "whole", seeds)
    weights, base = one.actor.weights(), dict(one.actor.generator.base.items())
    for spec in one.actor.target.spec.weights:
        tensor = weights[spec.name]
        own = tensor - base[spec.slot.replace(".", "_")]  # [S, N, *shape] - [S, 1, *shape]
        if len(spec.shape) == 1:
            assert tensor.shape == (len(seeds), 1, *spec.shape)
            assert own.count_nonzero() == 0
            continue
        assert tensor.shape == (len(seeds), N, *spec.shape)
        assert (torch.linalg.matrix_rank(own, rtol=1e-4) == R).all()
        for first, second in itertools.combinations(range(N), 2):
            assert (tensor[:, first] - tensor[:, second]).abs().amax((1, 2)).min() > 0.1


def test_other_modes_give_agents_biases_of_their_own() -> None:
    weights = made("hyper_low_rank", "whole").actor.weights()
    assert all(weights[f"{name}.bias"].shape[1] == N for name in LAYERS)


@pytest.mark.parametrize("kind", ["normal", "gru", "gru of ones own"])
@pytest.mark.parametrize("sharing", PRESETS)
def test_vectors_of_other_networks_are_shared_too(sharing: str, kind: str) -> None:
    words = [f"sharing={sharing}", *SIZES, "sharing.share_log_std=false"]
    words += ["model=gru", "model.hidden=8"] if kind != "normal" else []
    words += ["model.body=generated"] if kind == "gru of ones own" else []
    one = policy(group(N, D, (1.0,) * A), *words)
    for actor in (one.actor, one.critic):
        weights = actor.weights()
        own = {spec.name for spec in actor.target.spec.weights if weights[spec.name].shape[1] == N}
        matrices = {s.name for s in actor.target.spec.weights if len(s.shape) == 2 and not s.shared}
        assert own == matrices
        assert len(own) == {"normal": 3, "gru": 3, "gru of ones own": 6}[kind] - (actor is one.critic)


def test_shared_vectors_need_a_base() -> None:
    with pytest.raises(UserError, match="set base=true, or vectors=headed"):
        config("sharing=independent", "sharing.generator.vectors=shared")


# ------------------------------------------------------------------------------------------------ learning


def teach(logits: Callable[[], Tensor], trained: list[nn.Parameter]) -> None:
    """Agents that see the same each learn an action of their own; only `trained` is moved."""
    wanted = torch.tensor([3, 0, 5]).expand(B, N)
    optimizer = torch.optim.Adam(trained, lr=0.03)
    for _ in range(80):
        told = {"logits": logits()}
        optimizer.zero_grad()
        torch.autograd.backward(-distributions.log_prob("categorical", told, wanted).mean())
        optimizer.step()
    assert torch.equal(logits().argmax(-1), wanted)


@pytest.mark.parametrize("sharing", PRESETS)
def test_adapters_learn_on_a_base_that_stays(sharing: str) -> None:
    """As when a shared policy was trained before: what it was is left, and agents come to differ by adapters alone."""
    one = made(sharing, stir=0.0)
    actor = one.actor
    actor.generator.base.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in actor.generator.base.items()}
    x = X[:, :, :1].expand(B, 1, N, D)
    teach(lambda: one.outputs(x)[0][:, 0], [p for p in actor.parameters() if p.requires_grad])
    assert all(torch.equal(tensor, before[name]) for name, tensor in actor.generator.base.items())
    weights = actor.weights()
    for name in LAYERS:
        assert torch.equal(weights[f"{name}.weight"], before[f"{name}.weight".replace(".", "_")])
        assert weights[f"{name}.weight{RIGHT}"].abs().amax((0, 2, 3)).min() > 0


@pytest.mark.parametrize("sharing", PRESETS)
def test_a_lora_adapts_the_network_of_a_policy_that_is_frozen(sharing: str) -> None:
    """The class of the language side on a control policy: one head for A and one for B of every layer."""
    shared = policy(group(N, D, A), "sharing=shared", *SIZES)
    with shared.frozen():
        network = plain_module(of_seed(shared.actor.current(), 0))
    before, seen = copy.deepcopy(network.state_dict()), shared.outputs(X)[0]
    target = LoRATarget.from_model(network, ("0", "2", "4"), rank=R, alpha=R)
    settings = config(f"sharing={sharing}", *SIZES).sharing
    who = OneHot(N) if settings.conditioning == "one_hot" else AgentTable(N, settings.embedding, rng())
    own = GeneratorConfig(trunk=settings.generator.trunk, head="full")
    actor = GeneratedActor(who, Generator(target.spec, who.dim, config=own, rng=rng()), target)
    close(actor(X[:, 0]), seen[:, 0])
    x = X[:, 0, :1].expand(B, N, D)
    teach(lambda: actor(x), list(actor.parameters()))
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert torch.equal(shared.outputs(X)[0], seen)


# ------------------------------------------------------------------------------------------------ size


def counted(sharing: str, agents: int) -> int:
    return parameter_counts(config(f"sharing={sharing}", *SIZES), {"agents": group(agents, D, A)})["agents"]["total"]


def test_lora_grows_with_agents_and_hyper_lora_hardly() -> None:
    """By the numbers of a stored adapter, or by those of an embedding; `independent` by whole networks."""
    actor = [(D, 11), (11, 7), (7, A)]
    adapter = sum(R * (inputs + outputs) for inputs, outputs in [*actor, (D, 8)]) + 8 * 1  # 8 x 1 has no rank of 4
    network = sum(inputs * outputs + outputs for inputs, outputs in [*actor, (D, 8), (8, 1)])
    assert counted("shared", N) == counted("shared", 64) == network
    assert counted("lora", N) == network + N * adapter
    assert counted("lora", 64) == network + 64 * adapter
    embedding = config("sharing=hyper_lora").sharing.embedding
    assert counted("hyper_lora", 64) - counted("hyper_lora", N) == (64 - N) * embedding
    assert counted("independent", 64) == 64 * network
    assert counted("hyper_lora", 64) < counted("lora", 64) / 2


def test_policies_of_full_size_grow_by_less_than_a_network() -> None:
    settings = config("sharing=lora", "model.actor=[64,64]", "model.critic=[64,64]")
    few, many = (
        sum(p.numel() for p in build_policy(settings, {"agents": group(n, 16, A)}, "agents", 0).parameters())
        for n in (4, 5)
    )
    target = build_policy(settings, {"agents": group(4, 16, A)}, "agents", 0).actor.target
    assert isinstance(target, MLPTarget)
    assert many - few < target.spec.numel() / 2
