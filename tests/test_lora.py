"""Adapters of all agents in one pass over a frozen network, here plain ones; language models are in test_swarm."""

from __future__ import annotations

import copy

import pytest
import torch
from small import close, rng, stirred
from torch import nn

from hypermarl.actor import GeneratedActor
from hypermarl.conditioning import AgentTable
from hypermarl.errors import UserError
from hypermarl.generator import Generator, GeneratorConfig
from hypermarl.spec import Weights
from hypermarl.targets import LoRATarget
from hypermarl.targets.lora import Spread

N, S, B, D, A, R = 3, 2, 4, 5, 6, 2  # no two alike


def network() -> nn.Module:
    torch.manual_seed(0)
    made = nn.Sequential()
    for i, (inputs, outputs) in enumerate(((D, 7), (7, 7), (7, A))):
        block = nn.Sequential()
        block.add_module("up", nn.Linear(inputs, outputs))
        block.add_module("bend", nn.Tanh())
        made.add_module(str(i), block)
    return made.requires_grad_(False)


def target() -> LoRATarget:
    return LoRATarget.from_model(network(), ["up"], rank=R, alpha=3.0)


def weights(one: LoRATarget, *lead: int, seed: int = 1) -> Weights:
    g = rng(seed)
    return {weight.name: torch.randn(*lead, *weight.shape, generator=g) for weight in one.spec.weights}


def merged(one: LoRATarget, given: Weights, agent: int) -> nn.Module:
    plain = copy.deepcopy(one.network)
    for name, delta in one.deltas(given, agent).items():
        plain.get_parameter(name).add_(delta)
    return plain


def test_every_agent_gets_its_own_adapter() -> None:
    one = target()
    given, x = weights(one, N), torch.randn(B, N, D, generator=rng(2))
    y = one.apply(given, x)
    assert y.shape == (B, N, A)
    for agent in range(N):
        close(y[:, agent], merged(one, given, agent)(x[:, agent]))


def test_seeds_and_one_adapter_for_all() -> None:
    one = target()
    given, x = weights(one, S, N), torch.randn(B, S, N, D, generator=rng(2))
    y = one.apply(given, x)
    for seed in range(S):
        close(y[:, seed], one.apply({name: tensor[seed] for name, tensor in given.items()}, x[:, seed]))
    everyone = weights(one, S, 1)
    close(one.apply(everyone, x), one.apply({name: t.expand(S, N, -1, -1) for name, t in everyone.items()}, x))
    half = {name: everyone[name] if name.endswith(".A") else given[name] for name in given}
    full = {name: tensor.expand(S, N, -1, -1) for name, tensor in half.items()}
    close(one.apply(half, x), one.apply(full, x))


@pytest.mark.parametrize("rows", [1, 9])  # both ways of multiplying
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tracked", [True, False])
def test_the_start_is_the_network_to_the_bit(rows: int, dtype: torch.dtype, tracked: bool) -> None:
    one = target()
    one.network.to(dtype)
    actor = GeneratedActor(
        AgentTable(N, 4, rng()), Generator(one.spec, 4, config=GeneratorConfig(trunk=(5,)), rng=rng()), one
    )
    x = torch.randn(rows, N, D, generator=rng(2)).to(dtype)
    expected = one.network(x.transpose(0, 1).reshape(-1, D)).reshape(N, rows, A).transpose(0, 1)
    with torch.set_grad_enabled(tracked):
        assert torch.equal(actor(x), expected)
        stirred(actor)
        assert not torch.equal(actor(x), expected)


@pytest.mark.parametrize("rows", [1, 9])
def test_half_precision_is_near_the_single_one(rows: int) -> None:
    one, x = target(), torch.randn(rows, N, D, generator=rng(2))
    given = weights(one, N)
    expected = one.apply(given, x)
    one.network.bfloat16()
    for tracked in (True, False):
        with torch.set_grad_enabled(tracked):
            error = one.apply(given, x.bfloat16()).float() - expected
            assert error.norm() < 0.05 * expected.norm()


def test_gradients_reach_the_adapters_alone_and_are_those_of_merged_weights() -> None:
    one = target()
    given = {name: tensor.requires_grad_() for name, tensor in weights(one, N).items()}
    x = torch.randn(B, N, D, generator=rng(2))
    one.apply(given, x).square().sum().backward()
    assert all(parameter.grad is None for parameter in one.network.parameters())
    found = {name: tensor.grad for name, tensor in given.items()}
    for tensor in given.values():
        tensor.grad = None
    for agent in range(N):
        plain = {name: p.detach() for name, p in one.network.named_parameters()}
        own = plain | {name: plain[name] + delta for name, delta in one.deltas(given, agent).items()}
        torch.func.functional_call(one.network, own, x[:, agent]).square().sum().backward()
    for name, tensor in given.items():
        assert tensor.grad is not None
        close(found[name], tensor.grad, atol=1e-4)


def test_a_pass_without_gradient_does_not_take_it_from_the_next() -> None:
    one = target()
    one.network.bfloat16()
    given = {name: tensor.requires_grad_() for name, tensor in weights(one, N).items()}
    x = torch.randn(N * 9, D, generator=rng(2)).bfloat16()
    with one.attached(one.adapters(given)) as network:
        with torch.no_grad():
            network(x)
        network(x).float().sum().backward()
    assert all(tensor.grad is not None for tensor in given.values())


def test_the_network_is_untouched_afterwards() -> None:
    one = target()
    given, x = weights(one, N), torch.randn(N * B, D, generator=rng(2))
    before, state = one.network(x), copy.deepcopy(one.network.state_dict())
    other = LoRATarget.from_model(one.network, ["1.up"], rank=1)
    with pytest.raises(KeyError), one.attached(one.adapters(given)) as network:
        assert not torch.equal(network(x), before)
        with (
            pytest.raises(RuntimeError, match=r"1\.up carries adapters already"),
            other.attached(other.adapters(weights(other, N))),
        ):
            pass
        assert not torch.equal(network(x), before), "a refused block leaves the outer one in place"
        raise KeyError
    spread = Spread.of(torch.arange(N).repeat_interleave(B), N)
    with one.attached(one.adapters(given), spread) as network:
        assert not torch.equal(network(x), before)
        with pytest.raises(RuntimeError, match=r"carries adapters"), one.attached(one.adapters(given), spread):
            pass
    assert torch.equal(one.network(x), before)
    assert all(not module._forward_hooks for module in one.network.modules())
    assert all(torch.equal(tensor, state[name]) for name, tensor in one.network.state_dict().items())
    bad = given | {"1.up.B": given["1.up.B"][..., :-1]}
    with pytest.raises(ValueError, match="1.up.B"):
        one.adapters(bad)
    assert torch.equal(one.network(x), before)


def test_slots_are_modules_and_their_members_layers() -> None:
    class Layer(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.q_proj, self.v_proj = nn.Linear(5, width), nn.Linear(5, 4)

    model = nn.ModuleDict({"layers": nn.ModuleList(Layer(6) for _ in range(7))})
    one = LoRATarget.from_model(model, rank=2, alpha=6)
    slots = one.spec.slots()
    assert {slot: len(members) for slot, members in slots.items()} == dict.fromkeys(
        ("q_proj.A", "q_proj.B", "v_proj.A", "v_proj.B"), 7
    )
    assert [weight.name for weight in slots["v_proj.B"]] == [f"layers.{i}.v_proj.B" for i in range(7)]
    assert (slots["q_proj.A"][0].shape, slots["q_proj.B"][0].shape) == ((5, 2), (2, 6))
    assert (slots["q_proj.A"][0].std, slots["q_proj.B"][0].std) == (pytest.approx(15**-0.5), 0.0)
    unlike = nn.ModuleDict({"layers": nn.ModuleList(Layer(width) for width in (6, 8, 6))})
    assert {slot: len(members) for slot, members in LoRATarget.from_model(unlike).spec.slots().items()} == {
        "q_proj.5x6.A": 2, "q_proj.5x6.B": 2, "q_proj.5x8.A": 1, "q_proj.5x8.B": 1, "v_proj.A": 3, "v_proj.B": 3,
    }  # fmt: skip


def test_bad_input() -> None:
    with pytest.raises(UserError, match="no linear module 'upp'; did you mean 'up'[?]$"):
        LoRATarget.from_model(network(), ["upp"])
    with pytest.raises(UserError, match="no linear module 'bend'; it has up"):
        LoRATarget.from_model(network(), ["bend"])
    with pytest.raises(UserError, match="name no layer"):
        LoRATarget.from_model(network(), [])
    with pytest.raises(UserError, match="name no layer, or one twice"):
        LoRATarget.from_model(network(), ["up", "1.up"])
    with pytest.raises(UserError, match="rank of at least 1"):
        LoRATarget.from_model(network(), ["up"], rank=0)
    one = target()
    with pytest.raises(ValueError, match="inputs of 6 agents for the adapters of 3"):
        one.apply(weights(one, N), torch.zeros(B, 6, D))
    with (
        pytest.raises(ValueError, match="7 rows cannot be divided among 3 adapters"),
        one.attached(one.adapters(weights(one, N))),
    ):
        one.network(torch.zeros(7, D))
