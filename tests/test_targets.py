"""How generated tensors are used: every agent's own network, each by itself and all in one matmul."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small import close, rng
from torch import Tensor, nn

from hypermarl.activations import ACTIVATIONS
from hypermarl.spec import LEFT, RIGHT, TargetSpec, Weights, WeightSpec, whole
from hypermarl.targets import GRUTarget, MLPTarget
from hypermarl.targets.gru import History
from hypermarl.targets.mlp import Layer, run_layers, without_id
from hypermarl.targets.product import NARROW, ROWS, SAMPLES, product


def drawn(spec: TargetSpec, *lead: int, once: tuple[int, ...] = ()) -> Weights:
    """Random weights; tensors with the numbers `once` and the shared ones are there once for all agents."""
    source = rng(2)
    weights = {}
    for i, weight in enumerate(spec.weights):
        agents = (*lead[:-1], 1) if weight.shared or i in once else lead
        weights[weight.name] = torch.randn(*agents, *weight.shape, generator=source)
    return weights


def one_agent(weights: Weights, *place: int) -> Weights:
    """The tensors of one agent (of one seed)."""
    return {name: t[place[:-1]][min(place[-1], t[place[:-1]].shape[0] - 1)] for name, t in weights.items()}


def perceptron(target: MLPTarget, weights: Weights, x: Tensor) -> Tensor:
    """The same network as a `nn.Sequential`."""
    layers: list[nn.Module] = []
    for i in range(target.layers):
        matrix, bias = weights[f"layers.{i}.weight"], weights[f"layers.{i}.bias"]
        linear = nn.Linear(*matrix.shape)
        linear.load_state_dict({"weight": matrix.T, "bias": bias})
        layers += [linear, nn.Tanh()]
    return nn.Sequential(*layers[:-1])(x)


@pytest.mark.parametrize("once", [(), (0,), (1,), (0, 1), (4,)], ids=["none", "matrix", "bias", "layer", "last matrix"])
@pytest.mark.parametrize("lead", [(), (2,), (2, 5)])
@pytest.mark.parametrize("batch", [(), (6,), (6, 4)])
def test_apply_is_a_loop_over_agents(batch: tuple[int, ...], lead: tuple[int, ...], once: tuple[int, ...]) -> None:
    target = MLPTarget((7, 8, 9, 11), activation="tanh")
    weights = drawn(target.spec, *lead, 3, once=once)
    x = torch.randn(*batch, *lead, 3, 7, generator=rng(1))
    found = target.apply(weights, x)
    assert found.shape == (*batch, *lead, 3, 11)
    for place in torch.cartesian_prod(*[torch.arange(n) for n in (*lead, 3)]).reshape(-1, len(lead) + 1).tolist():
        index = (..., *place, slice(None))
        close(found[index], perceptron(target, one_agent(weights, *place), x[index]))


@pytest.mark.parametrize("lead", [(), (1,), (2,)])
def test_one_network_for_all(lead: tuple[int, ...]) -> None:
    target = MLPTarget((7, 8, 11), activation="tanh", shared=True)
    weights = drawn(target.spec, *lead, 3)
    assert all(w.shape[len(lead)] == 1 for w in weights.values())
    x = torch.randn(6, *lead, 3, 7, generator=rng(1))
    found = target.apply(weights, x)
    if lead:
        for s in range(*lead):
            close(found[:, s], perceptron(target, one_agent(weights, s, 0), x[:, s]))
    else:
        close(found, perceptron(target, one_agent(weights, 0), x))


@settings(max_examples=60, deadline=None)
@given(st.permutations([1, 2, 3, 4, 5, 6, 7]), st.booleans(), st.sampled_from(sorted(ACTIVATIONS)))
def test_any_shapes(sizes: list[int], shared: bool, activation: str) -> None:
    agents, seeds, batch, envs, inputs, hidden, outputs = sizes
    target = MLPTarget((inputs, hidden, outputs), activation=activation, shared=shared)
    weights = drawn(target.spec, seeds, agents)
    x = torch.randn(batch, envs, seeds, agents, inputs, generator=rng(1))
    full = {k: w.expand(seeds, agents, *w.shape[2:]) for k, w in weights.items()}
    hidden_ = torch.einsum("tesni,snih->tesnh", x, full["layers.0.weight"]) + full["layers.0.bias"]
    bent = ACTIVATIONS[activation](hidden_)
    expected = torch.einsum("tesnh,snho->tesno", bent, full["layers.1.weight"]) + full["layers.1.bias"]
    found = target.apply(weights, x)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    leaves = [w.requires_grad_() for w in weights.values()]
    cotangent = torch.randn(found.shape, generator=rng(4))
    full = {k: w.expand(seeds, agents, *w.shape[2:]) for k, w in weights.items()}
    hidden_ = torch.einsum("tesni,snih->tesnh", x, full["layers.0.weight"]) + full["layers.0.bias"]
    bent = ACTIVATIONS[activation](hidden_)
    expected = torch.einsum("tesnh,snho->tesno", bent, full["layers.1.weight"]) + full["layers.1.bias"]
    gradients = [torch.autograd.grad(y, leaves, cotangent) for y in (target.apply(weights, x), expected)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)


def test_no_samples_and_one_agent() -> None:
    target = MLPTarget((4, 5, 2))
    assert target.apply(drawn(target.spec, 3), torch.zeros(0, 3, 4)).shape == (0, 3, 2)
    assert target.apply(drawn(target.spec, 2, 1), torch.zeros(6, 2, 1, 4)).shape == (6, 2, 1, 2)
    shared = drawn(target.spec, 3, once=(0, 2))
    assert target.apply(shared, torch.zeros(0, 1, 4)).shape == (0, 3, 2)


def test_the_batch_is_read_as_a_view() -> None:
    """Rows are stored with the agents last but one; the matmul must not copy them."""
    x = torch.randn(6, 2, 3, 4)
    seen = []

    def spy(tensor: Tensor) -> Tensor:
        seen.append(tensor)
        return tensor

    ACTIVATIONS["spy"] = spy
    try:
        run_layers([Layer(torch.randn(2, 3, 4, 5), torch.randn(2, 3, 5))], x, "spy", last=True)
    finally:
        del ACTIVATIONS["spy"]
    assert seen[0].shape == (6, 6, 5)  # [M, B, out]: one matmul for all seeds and agents
    from hypermarl.targets.mlp import _apart

    assert _apart(x, 2).data_ptr() == x.data_ptr()


@pytest.mark.parametrize("once", [(), (0,), (2,), (0, 1), (0, 2, 4)], ids=["none", "first", "second", "layer", "all"])
@pytest.mark.parametrize("lead", [(), (1,), (2,), (2, 5)])
@pytest.mark.parametrize("batch", [(), (6,), (6, 4)])
def test_one_input_for_all_agents(batch: tuple[int, ...], lead: tuple[int, ...], once: tuple[int, ...]) -> None:
    """What all agents read is there once; the result is that of copies, in value and in every gradient."""
    target = MLPTarget((7, 8, 9, 11), activation="tanh")
    weights = {k: w.requires_grad_() for k, w in drawn(target.spec, *lead, 3, once=once).items()}
    x = torch.randn(*batch, *lead, 1, 7, generator=rng(1), requires_grad=True)
    found = target.apply(weights, x)
    expected = target.apply(weights, x.expand(*batch, *lead, 3, 7).contiguous())
    close(found, expected)
    leaves = [*weights.values(), x]
    cotangent = torch.randn(found.shape, generator=rng(5))
    for one, other in zip(*(torch.autograd.grad(y, leaves, cotangent) for y in (found, expected)), strict=True):
        close(one, other, atol=1e-4)


def test_one_network_on_one_input_is_applied_once() -> None:
    target = MLPTarget((7, 8, 11))
    weights = drawn(target.spec, 2, 3, once=(0, 1, 2, 3))
    assert target.apply(weights, torch.zeros(6, 2, 1, 7)).shape == (6, 2, 1, 11)


def test_one_input_is_copied_for_no_agent() -> None:
    """64 agents read 256 MB of floats if they are copied; the peak stays far below that."""
    target = MLPTarget((4096, 16))
    x = torch.randn(256, 1, 1, 4096)
    weights = drawn(target.spec, 1, 64)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as seen:
        target.apply(weights, x)
    assert max(event.cpu_memory_usage for event in seen.events()) < 4 * x.numel()


def test_the_specification_says_how_layers_start() -> None:
    extra = WeightSpec("log_std", (2,), "log_std", shared=True)
    spec = MLPTarget((4, 5, 6, 2), gain=1.5, out_gain=0.01, extra=(extra,)).spec
    assert [w.gain for w in spec.weights if w.name.endswith("weight")] == [1.5, 1.5, 0.01]
    assert all(w.std == 0 and w.gain is None for w in spec.weights if w.name.endswith("bias"))
    assert spec.weights[-1] == extra
    assert spec.numel() == 4 * 5 + 5 + 5 * 6 + 6 + 6 * 2 + 2 + 2


# ------------------------------------------------------------------------------------------------ factors and products


def thinned(spec: TargetSpec, *lead: int, rank: int = 2, own_base: bool = False) -> Weights:
    """Random weights whose matrices, but for shared ones, are what all agents share plus two factors."""
    weights = {k: 0.5 * w for k, w in drawn(spec, *lead).items()}
    source = rng(8)
    for weight in spec.weights:
        if len(weight.shape) == 2 and not weight.shared:
            name, (rows, columns) = weight.name, weight.shape
            weights[name] = weights[name] if own_base else weights[name].narrow(len(lead) - 1, 0, 1).clone()
            weights[name + LEFT] = torch.randn(*lead, rows, rank, generator=source)
            weights[name + RIGHT] = torch.randn(*lead, rank, columns, generator=source)
    return weights


def same_gradients(target: MLPTarget, weights: Weights, x: Tensor, atol: float = 1e-3) -> None:
    """Applying the factors gives the value and the gradients of applying their product."""
    leaves = [*(w.requires_grad_() for w in weights.values()), x.requires_grad_()]
    found, expected = target.apply(weights, x), target.apply(whole(weights), x)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    cotangent = torch.randn(found.shape, generator=rng(5))
    for one, other in zip(*(torch.autograd.grad(y, leaves, cotangent) for y in (found, expected)), strict=True):
        torch.testing.assert_close(one, other, atol=atol, rtol=1e-3)


@pytest.mark.parametrize("own_base", [False, True], ids=["base of all", "own base"])
@pytest.mark.parametrize("one_input", [False, True], ids=["own inputs", "one input"])
@pytest.mark.parametrize("lead", [(), (1,), (2,), (2, 5)])
@pytest.mark.parametrize("batch", [(), (6,), (6, 4)])
def test_factors_are_applied_as_their_product(
    batch: tuple[int, ...], lead: tuple[int, ...], one_input: bool, own_base: bool
) -> None:
    target = MLPTarget((7, 8, 9, 13), activation="tanh")
    x = torch.randn(*batch, *lead, 1 if one_input else 3, 7, generator=rng(1))
    same_gradients(target, thinned(target.spec, *lead, 3, own_base=own_base), x)


@pytest.mark.parametrize("shared", [True, False], ids=["shared body", "own body"])
def test_factors_are_applied_over_time(shared: bool) -> None:
    target = GRUTarget((5, 6, 8, 2), activation="tanh", body_shared=shared)
    weights = thinned(target.spec, 2, 3)
    assert ("body.input.weight#left" in weights) != shared
    x, fresh = torch.randn(7, 4, 2, 3, 5, generator=rng(1)), torch.rand(7, 4, 2, 3, generator=rng(2)) < 0.3
    history = History(x, torch.randn(4, 2, 3, 6, generator=rng(3)), fresh)
    leaves = [w.requires_grad_() for w in weights.values()]
    both = [torch.cat([y.flatten() for y in target.apply(w, history)]) for w in (weights, whole(weights))]
    close(*both, atol=1e-4)
    for one, other in zip(*(torch.autograd.grad(y.square().sum(), leaves) for y in both), strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("how", ["one matrix", "own matrices", "factors"])
@pytest.mark.parametrize("mixed", [False, True], ids=["themselves", "mixtures"])
def test_an_id_joins_the_bias(how: str, mixed: bool) -> None:
    """Agents that are told who they are, whoever shares what; newcomers may be mixtures of those there were."""
    target = MLPTarget((4 + 3, 8, 2), activation="tanh")
    agents = 5 if mixed else 3
    weights = thinned(target.spec, 2, agents) if how == "factors" else drawn(target.spec, 2, agents)
    if how == "one matrix":
        weights = {k: w[:, :1] for k, w in weights.items()}
    identity = torch.rand(agents, 3, generator=rng(6)) if mixed else torch.eye(3)
    x = torch.randn(6, 2, agents, 4, generator=rng(1))
    found = target.apply(without_id(weights, target.first, 3, identity if mixed else None), x)
    close(found, target.apply(weights, torch.cat([x, identity.expand(6, 2, agents, 3)], -1)))


@pytest.mark.parametrize("columns", [1, 2, 5, NARROW, NARROW + 1])
@pytest.mark.parametrize("rows", [1, ROWS, 300])
@pytest.mark.parametrize("networks", [1, 3, SAMPLES // ROWS])
@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
def test_a_product_is_a_product(networks: int, rows: int, columns: int, strided: bool, bias: bool) -> None:
    source = rng(1)
    x = torch.randn(rows, networks, 6, generator=source).transpose(0, 1)
    x = (x if strided else x.contiguous()).detach().requires_grad_()
    weight = torch.randn(networks, 6, columns, generator=source, requires_grad=True)
    own = torch.randn(networks, 1, columns, generator=source, requires_grad=True) if bias else None
    leaves = [leaf for leaf in (x, weight, own) if leaf is not None]
    cotangent = torch.randn(rows, networks, columns, generator=source).transpose(0, 1)
    found = product(x, weight, own)
    expected = torch.einsum("mbd,mdh->mbh", x.double(), weight.double())
    expected = (expected if own is None else expected + own).float()
    close(found, expected)
    for one, other in zip(*(torch.autograd.grad(y, leaves, cotangent) for y in (found, expected)), strict=True):
        close(one, other, atol=1e-4)


def test_a_product_in_half_precision_is_in_half_precision() -> None:
    """Under autocast the inputs are of unlike types; what is learned then must not fail in the backward pass."""
    x = torch.randn(3, 300, 6, generator=rng(1), requires_grad=True)
    weight, bias = torch.randn(3, 6, 5, generator=rng(2), requires_grad=True), torch.zeros(3, 1, 5)
    with torch.autocast("cpu", torch.bfloat16):
        found = product(x.bfloat16(), weight, bias)
    assert found.dtype == torch.bfloat16
    torch.autograd.backward(found.float().sum())
    assert weight.grad is not None
    assert x.grad is not None


# ------------------------------------------------------------------------------------------------ memory


def reference(target: GRUTarget, weights: Weights, x: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
    """One agent's network from PyTorch's own layers: `x [T, B, D]`, `hidden [B, H]`."""
    gru = nn.GRU(target.hidden, target.hidden)
    with torch.no_grad():
        gru.weight_ih_l0.copy_(weights["body.gates_input.weight"].T)
        gru.weight_hh_l0.copy_(weights["body.gates_hidden.weight"].T)
        gru.bias_ih_l0.copy_(weights["body.gates_input.bias"])
        gru.bias_hh_l0.copy_(weights["body.gates_hidden.bias"])
    embedded = torch.tanh(x @ weights["body.input.weight"] + weights["body.input.bias"])
    states, _ = gru(embedded, hidden.unsqueeze(0).contiguous())
    out = states
    for i in range(target.layers):
        out = out @ weights[f"head.{i}.weight"] + weights[f"head.{i}.bias"]
        out = torch.tanh(out) if i < target.layers - 1 else out
    return out, states


@pytest.mark.parametrize("shared", [True, False], ids=["shared body", "own body"])
@pytest.mark.parametrize("resets", [(), (0,), (3,), (0, 2, 3, 6)])
def test_memory_is_that_of_pytorch(resets: tuple[int, ...], shared: bool) -> None:
    """An episode that begins inside a sequence is a sequence of its own that begins with an empty memory."""
    steps, batch, seeds, agents = 7, 4, 2, 3
    target = GRUTarget((5, 6, 8, 2), activation="tanh", body_shared=shared)
    weights = {k: 0.5 * w for k, w in drawn(target.spec, seeds, agents).items()}
    assert weights["body.input.weight"].shape[1] == (1 if shared else agents)
    x = torch.randn(steps, batch, seeds, agents, 5, generator=rng(1))
    hidden = torch.randn(batch, seeds, agents, 6, generator=rng(3))
    fresh = torch.zeros(steps, batch, seeds, agents, dtype=torch.bool)
    who = (slice(1, 3), 1, 2)  # begins anew: two of four in the batch, one seed, one agent
    for t in resets:
        fresh[(t, *who)] = True
    found, memories = target.apply(weights, History(x, hidden, fresh))
    for s in range(seeds):
        for n in range(agents):
            own = one_agent(weights, s, n)
            expected, states = reference(target, own, x[:, :, s, n], hidden[:, s, n])
            if (s, n) == (1, 2):
                borders = sorted({0, *resets, steps})
                for start, stop in pairwise(borders):
                    before = torch.zeros(batch, 6) if start in resets else hidden[:, s, n]
                    pieces = reference(target, own, x[start:stop, :, s, n], before)
                    expected[start:stop, 1:3], states[start:stop, 1:3] = (each[:, 1:3] for each in pieces)
            close(found[:, :, s, n], expected)
            close(memories[:, :, s, n], states)


def test_a_long_sequence_is_two_short_ones() -> None:
    target = GRUTarget((5, 6, 2))
    weights = drawn(target.spec, 3)
    x, fresh = torch.randn(8, 4, 3, 5, generator=rng(1)), torch.rand(8, 4, 3, generator=rng(2)) < 0.3
    whole, memories = target.apply(weights, History(x, target.initial(4, 3), fresh))
    first, between = target.apply(weights, History(x[:5], target.initial(4, 3), fresh[:5]))
    second, last = target.apply(weights, History(x[5:], between[-1], fresh[5:]))
    close(torch.cat([first, second]), whole)
    close(last[-1], memories[-1])


def test_nothing_is_learned_across_a_reset() -> None:
    target = GRUTarget((5, 6, 2))
    weights = drawn(target.spec, 3)
    x = torch.randn(6, 4, 3, 5, generator=rng(1), requires_grad=True)
    hidden = torch.randn(4, 3, 6, generator=rng(4), requires_grad=True)
    fresh = torch.zeros(6, 4, 3, dtype=torch.bool)
    fresh[3, 1] = True
    out, _ = target.apply(weights, History(x, hidden, fresh))
    torch.autograd.backward(out[4:].sum())
    assert x.grad is not None
    assert hidden.grad is not None
    assert x.grad[:3, 1].count_nonzero() == 0
    assert hidden.grad[1].count_nonzero() == 0
    assert (x.grad[:3, [0, 2, 3]] != 0).any(-1).all()
    assert (hidden.grad[[0, 2, 3]] != 0).any(-1).all()


def test_the_head_is_always_ones_own() -> None:
    spec = GRUTarget((5, 6, 8, 2), body_shared=True, out_gain=0.01).spec
    assert {w.name for w in spec.weights if w.shared} == {w.name for w in spec.weights if w.name.startswith("body.")}
    assert [w.gain for w in spec.weights if w.name.startswith("head.") and w.gain] == [2**0.5, 0.01]
