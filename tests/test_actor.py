"""Condition, generate, apply: what is generated when, and for whom."""

from __future__ import annotations

import pytest
import torch
from small import close, rng, stirred

from hypermarl.actor import GeneratedActor
from hypermarl.conditioning import AgentTable, Features
from hypermarl.generator import Generator, GeneratorConfig
from hypermarl.targets import MLPTarget

X = torch.randn(6, 3, 5, generator=rng(4))


def actor(features: bool = False) -> GeneratedActor:
    who = Features([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]]) if features else AgentTable(3, 2, rng())
    target = MLPTarget((5, 8, 4))
    return stirred(
        GeneratedActor(who, Generator(target.spec, 2, config=GeneratorConfig(trunk=(6,)), rng=rng()), target)
    )


def count(made: GeneratedActor) -> list[int]:
    """A list that grows by one with every generation."""
    calls: list[int] = []
    made.generator.register_forward_hook(lambda *_: calls.append(1))
    return calls


def test_weights_are_generated_and_applied() -> None:
    made = actor()
    weights = made.weights()
    made.target.spec.check(weights)
    assert all(w.shape[0] == 3 for w in weights.values())
    expected = made.target.apply(weights, X)
    close(made(X), expected)
    zero = {name: torch.zeros_like(w) for name, w in weights.items()}
    assert made(X, zero).count_nonzero() == 0


def test_gradients_reach_everybody_who_has_parameters() -> None:
    made = actor()
    torch.autograd.backward(made(X).square().sum())
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in made.parameters())


def test_frozen_weights_are_generated_once_and_without_gradient() -> None:
    made = actor()
    expected, calls = made(X), count(made)
    with made.frozen() as weights:
        for _ in range(3):
            assert torch.equal(made(X), expected)
            assert not made(X).requires_grad
            assert made.current() is weights
        with made.frozen() as same:
            assert same is weights
        assert made.current() is weights, "the inner block must not end the outer one"
    assert len(calls) == 1
    assert made(X).requires_grad
    assert len(calls) == 2


def test_an_error_ends_the_block() -> None:
    made = actor()
    with pytest.raises(RuntimeError, match="inside"), made.frozen():
        raise RuntimeError("inside")
    assert made(X).requires_grad


def test_frozen_weights_do_not_follow_the_parameters() -> None:
    made = actor()
    with made.frozen():
        before = made(X)
        stirred(made, seed=7)
        assert torch.equal(made(X), before)
    assert not torch.equal(made(X), before)


def test_given_weights_are_used_inside_only() -> None:
    made = actor()
    leaves = {name: w.detach().requires_grad_() for name, w in made.weights().items()}
    calls = count(made)
    with made.using(leaves):
        torch.autograd.backward(made(X).sum())
        other = {name: 2 * w for name, w in leaves.items()}
        with made.using(other):
            assert made.current() is other
        assert made.current() is leaves
    assert not calls
    assert all(w.grad is not None for w in leaves.values())
    assert all(p.grad is None for p in made.parameters())


def test_some_agents_and_newcomers() -> None:
    made = actor()
    whole, some = made.weights(), made.weights(torch.tensor([2, 0]))
    for name in whole:
        close(some[name], whole[name][[2, 0]])
    told = actor(features=True)
    whole, new = told.weights(), told.weights(torch.tensor([[0.0, 2.0], [9.0, -1.0]]))
    for name in whole:
        close(new[name][0], whole[name][1])
        assert not torch.allclose(new[name][1], whole[name], atol=1e-3)
