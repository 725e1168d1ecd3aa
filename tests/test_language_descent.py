"""The optimiser of a swarm: its rate, its steps, and going on from a saved state."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from small import close, rng
from torch import nn

from hypermarl.errors import UserError
from hypermarl.language.descent import Descent
from hypermarl.language.settings import RunConfig

CONFIG = RunConfig(updates=20, lr=0.1, warmup=0.2, max_grad_norm=1e9)
TARGET = torch.randn(3, 2, generator=rng(5))


def module() -> nn.Linear:
    one = nn.Linear(3, 2, bias=False)
    with torch.no_grad():
        one.weight.copy_(torch.randn(2, 3, generator=rng(6)))
    return one


def descend(one: nn.Linear, descent: Descent, updates: range) -> list[float]:
    losses = []
    for update in updates:
        loss = (one.weight.T - TARGET).square().sum()
        loss.backward()
        descent.step(update)
        losses.append(float(loss.detach()))
    return losses


def test_the_rate_rises_in_a_line_and_falls_to_a_tenth() -> None:
    descent = Descent(module(), CONFIG)
    rates = [descent.rate(update) for update in range(20)]
    close(torch.tensor(rates[:4]), torch.tensor([0.025, 0.05, 0.075, 0.1]))
    assert all(later <= earlier for earlier, later in itertools.pairwise(rates[3:]))
    assert math.isclose(descent.rate(20), 0.01) and math.isclose(descent.rate(50), 0.01)


def test_steps_descend_and_clear_gradients() -> None:
    one = module()
    losses = descend(one, Descent(one, CONFIG), range(20))
    assert losses[-1] < 0.2 * losses[0]
    assert one.weight.grad is None


def test_the_norm_is_told_as_it_was_and_clipped() -> None:
    moved = {}
    for most in (1e9, 1e-9):  # Adam forgives the size of gradients, except beside its epsilon
        one = module()
        before = one.weight.detach().clone()
        descent = Descent(one, RunConfig(updates=20, lr=0.1, warmup=0.0, max_grad_norm=most))
        (one.weight.T - TARGET).square().sum().backward()
        assert one.weight.grad is not None
        expected = float(one.weight.grad.norm())
        assert math.isclose(descent.step(0), expected, rel_tol=1e-5)
        moved[most] = float((one.weight.detach() - before).abs().max())
    assert moved[1e-9] < 0.2 * moved[1e9]


def test_a_saved_state_goes_on_to_the_bit() -> None:
    one = module()
    descent = Descent(one, CONFIG)
    descend(one, descent, range(5))
    other = copy.deepcopy(one)
    later = Descent(other, CONFIG)
    later.load({key: value.clone() for key, value in descent.state().items()})
    assert descend(one, descent, range(5, 9)) == descend(other, later, range(5, 9))
    assert torch.equal(one.weight, other.weight)
    fresh = copy.deepcopy(one)
    assert descend(fresh, Descent(fresh, CONFIG), range(9, 12)) != descend(one, descent, range(9, 12))


def test_a_gradient_that_is_no_number_stops_with_a_sentence() -> None:
    one = module()
    (one.weight.sum() * math.nan).backward()
    before = one.weight.detach().clone()
    with pytest.raises(UserError, match="gradient of update 3 is not finite; a lower train.lr may help"):
        Descent(one, CONFIG).step(3)
    assert torch.equal(one.weight, before)


AVERAGING = RunConfig(updates=20, lr=0.1, warmup=0.2, max_grad_norm=1e9, average=0.8)


def test_an_average_follows_and_leaves_the_walk_alone() -> None:
    one, plain = module(), module()
    descent, alone = Descent(one, AVERAGING), Descent(plain, CONFIG)
    mean = one.weight.detach().clone()
    for update in range(40):
        descend(one, descent, range(update, update + 1))
        descend(plain, alone, range(update, update + 1))
        mean += (1 - min(0.8, (1 + update) / (10 + update))) * (one.weight.detach() - mean)
    with descent.averaged():
        close(one.weight.detach(), mean)
        assert not torch.equal(one.weight, plain.weight)
    assert torch.equal(one.weight, plain.weight)
    with pytest.raises(ZeroDivisionError), descent.averaged():
        raise ZeroDivisionError
    assert torch.equal(one.weight, plain.weight)


def test_without_an_average_there_is_one_set_of_numbers() -> None:
    one = module()
    descent = Descent(one, CONFIG)
    descend(one, descent, range(3))
    before = one.weight.detach().clone()
    with descent.averaged():
        assert torch.equal(one.weight, before)
    assert not any(key.startswith("walked") for key in descent.state())


def test_what_was_saved_as_an_average_goes_on_to_the_bit() -> None:
    one = module()
    descent = Descent(one, AVERAGING)
    descend(one, descent, range(7))
    state = {key: value.clone() for key, value in descent.state().items()}
    with descent.averaged():
        other = copy.deepcopy(one)
    later = Descent(other, AVERAGING)
    later.load(state)
    assert descend(one, descent, range(7, 12)) == descend(other, later, range(7, 12))
    assert torch.equal(one.weight, other.weight)
    with descent.averaged(), later.averaged():
        assert torch.equal(one.weight, other.weight)
