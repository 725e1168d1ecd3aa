"""Action distributions against PyTorch's own, and what masks and boxes do to them."""

from __future__ import annotations

import math

import pytest
import torch
from small import close, rng
from torch import distributions as reference
from torch.distributions.transforms import TanhTransform

from hypermarl.marl import distributions as ours

LOGITS = 2 * torch.randn(50, 3, 4, generator=rng(1))
LOC = torch.randn(50, 3, 2, generator=rng(2))
LOG_STD = 0.3 * torch.randn(50, 3, 2, generator=rng(3)) - 0.5
CONTINUOUS = {"loc": LOC, "log_std": LOG_STD}


def theirs(kind: str) -> reference.Distribution:
    if kind == "categorical":
        return reference.Categorical(logits=LOGITS)
    normal = reference.Independent(reference.Normal(LOC, LOG_STD.exp()), 1)
    return normal if kind == "normal" else reference.TransformedDistribution(normal, TanhTransform())


def parameters(kind: str) -> ours.Parameters:
    return {"logits": LOGITS} if kind == "categorical" else CONTINUOUS


@pytest.mark.parametrize("kind", ours.KINDS)
def test_densities_are_those_of_pytorch(kind: str) -> None:
    noise = ours.noise_like(kind, tuple(LOGITS.shape if kind == "categorical" else LOC.shape), rng(4))
    action = ours.sample(kind, parameters(kind), noise)
    assert action.shape == ((50, 3) if kind == "categorical" else (50, 3, 2))
    value = torch.tanh(action) if kind == "tanh_normal" else action
    close(ours.log_prob(kind, parameters(kind), action), theirs(kind).log_prob(value), atol=1e-4)
    both = ours.raw_log_prob_and_entropy(kind, parameters(kind), action, noise)
    raw = reference.Independent(reference.Normal(LOC, LOG_STD.exp()), 1) if kind == "tanh_normal" else theirs(kind)
    close(both[0], raw.log_prob(action), atol=1e-4)
    close(both[1], ours.entropy(kind, parameters(kind), noise), atol=1e-6)


@pytest.mark.parametrize("kind", ["categorical", "normal"])
def test_entropies_are_those_of_pytorch(kind: str) -> None:
    close(ours.entropy(kind, parameters(kind)), theirs(kind).entropy())


def test_the_entropy_of_a_squashed_normal_is_right_on_average() -> None:
    """Against the integral over the squashed action, on a fine grid."""
    loc, log_std = torch.tensor([[0.7]]), torch.tensor([[-0.4]])
    raw = torch.linspace(-8, 8, 200_001, dtype=torch.float64).unsqueeze(-1)
    density = ours.log_prob("tanh_normal", {"loc": loc.double(), "log_std": log_std.double()}, raw).exp()
    squashed = torch.tanh(raw).squeeze(-1)
    # the log of zero density times zero width beyond the grid's rounding is nothing
    integral = -torch.trapezoid(torch.where(density > 0, density * density.clamp(min=1e-300).log(), 0.0), squashed)
    shape = (200_000, 1, 1)
    noise = ours.noise_like("tanh_normal", shape, rng(5))
    many = {"loc": loc.expand(shape), "log_std": log_std.expand(shape)}
    found = ours.entropy("tanh_normal", many, noise)
    assert abs(float(found.mean() - integral)) < 5 * float(found.std()) / math.sqrt(shape[0])
    assert not torch.allclose(found.mean(), ours.entropy("tanh_normal", {"loc": loc, "log_std": log_std})[0], atol=0.01)


@pytest.mark.parametrize("kind", ["normal", "tanh_normal"])
def test_gradients_are_those_of_pytorch(kind: str) -> None:
    action = torch.randn(50, 3, 2, generator=rng(6)) * 0.8
    found, expected = [], []
    for store, density in ((found, ours.log_prob), (expected, None)):
        loc, log_std = LOC.clone().requires_grad_(), LOG_STD.clone().requires_grad_()
        if density is None:
            normal = reference.Independent(reference.Normal(loc, log_std.exp()), 1)
            value = normal.log_prob(action)  # the slope of tanh does not depend on the parameters
        else:
            value = density(kind, {"loc": loc, "log_std": log_std}, action)
        store += torch.autograd.grad(value.sum(), (loc, log_std))
    for x, y in zip(found, expected, strict=True):
        close(x, y, atol=1e-4)


def test_large_actions_keep_finite_densities() -> None:
    action = torch.tensor([[[40.0, -90.0]]])
    told = {"loc": torch.zeros(1, 1, 2), "log_std": torch.full((1, 1, 2), 3.0)}
    assert ours.log_prob("tanh_normal", told, action).isfinite().all()


@pytest.mark.parametrize("kind", ours.KINDS)
def test_samples_are_distributed_as_they_say(kind: str) -> None:
    rows = 40_000
    one = {key: value[:1, :1].expand(rows, -1, -1) for key, value in parameters(kind).items()}
    noise = ours.noise_like(kind, (rows, 1, 4 if kind == "categorical" else 2), rng(7))
    action = ours.sample(kind, one, noise)
    if kind == "categorical":
        share = torch.bincount(action.flatten(), minlength=4) / rows
        close(share, LOGITS[0, 0].softmax(-1), atol=0.01)
    else:
        close(action.mean((0, 1)), LOC[0, 0], atol=0.02)
        close(action.std(0)[0], LOG_STD[0, 0].exp(), atol=0.02)


def test_modes() -> None:
    assert torch.equal(ours.mode("categorical", {"logits": LOGITS}), LOGITS.argmax(-1))
    assert torch.equal(ours.mode("normal", CONTINUOUS), LOC)


def test_illegal_actions_are_never_chosen_and_cost_no_entropy() -> None:
    legal = torch.rand(50, 3, 4, generator=rng(8)) < 0.4
    legal[..., 1] |= ~legal.any(-1)
    logits = ours.masked(LOGITS, legal).requires_grad_()
    many = logits.expand(200, *logits.shape)
    action = ours.sample("categorical", {"logits": many}, ours.noise_like("categorical", tuple(many.shape), rng(9)))
    assert legal.expand(200, *legal.shape).gather(-1, action.unsqueeze(-1)).all()
    assert legal.gather(-1, ours.mode("categorical", {"logits": logits}).unsqueeze(-1)).all()
    log_prob, entropy = ours.raw_log_prob_and_entropy("categorical", {"logits": logits}, action[0])
    probability = torch.where(legal, LOGITS.exp(), 0.0)
    probability = probability / probability.sum(-1, keepdim=True)
    close(log_prob.exp(), probability.gather(-1, action[0].unsqueeze(-1)).squeeze(-1))
    close(entropy, -torch.special.xlogy(probability, probability).sum(-1))
    (gradient,) = torch.autograd.grad((log_prob + entropy).sum(), logits)
    assert gradient.isfinite().all()
    assert gradient[~legal].abs().max() < 1e-6


def test_rows_without_a_legal_action_are_left_alone() -> None:
    legal = torch.zeros(50, 3, 4, dtype=torch.bool)
    legal[10:, :, 2] = True
    found = ours.masked(LOGITS, legal)
    assert torch.equal(found[:10], LOGITS[:10])
    assert (found[10:].argmax(-1) == 2).all()
    assert ours.masked(LOGITS, None) is LOGITS


def test_no_noise_overrides_a_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exponential draw can be exactly zero, and its negative logarithm infinite."""
    monkeypatch.setattr(torch.Tensor, "exponential_", lambda self, generator=None: self.zero_())
    noise = ours.noise_like("categorical", (5, 3, 4), rng())
    assert noise.isfinite().all()
    legal = torch.zeros(5, 3, 4, dtype=torch.bool)
    legal[..., 3] = True
    action = ours.sample("categorical", {"logits": ours.masked(LOGITS[:5], legal)}, noise)
    assert (action == 3).all()


@pytest.mark.parametrize("kind", ours.KINDS)
def test_noise_is_a_function_of_its_stream(kind: str) -> None:
    torch.manual_seed(0)
    first = ours.noise_like(kind, (4, 3, 2), rng(1))
    torch.manual_seed(1)
    assert torch.equal(first, ours.noise_like(kind, (4, 3, 2), rng(1)))
    assert not torch.equal(first, ours.noise_like(kind, (4, 3, 2), rng(2)))


def test_boxes() -> None:
    low, high = torch.tensor([-1.0, 0.0]), torch.tensor([3.0, 10.0])
    raw = torch.tensor([[-1.0, 1.0], [0.0, 0.0], [1.0, -1.0]])
    found = ours.to_box("normal", raw, low, high)
    assert found.tolist() == [[-1.0, 10.0], [1.0, 5.0], [3.0, 0.0]]
    squashed = ours.to_box("tanh_normal", 50 * raw, low, high)
    assert squashed.tolist() == found.tolist()
    close(
        ours.to_box("tanh_normal", raw, low, high)[0],
        1 + 2 * torch.tanh(torch.tensor([-1.0, 0])) + torch.tensor([0, 4 + 5 * math.tanh(1.0)]),
    )
