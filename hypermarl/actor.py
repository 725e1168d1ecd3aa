"""Condition, generate, apply: one class for a policy, a critic and, later, a swarm of language agents."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from hypermarl.conditioning import Conditioner
from hypermarl.generator import Generator
from hypermarl.spec import TargetSpec, Weights


class Target(Protocol):
    """How generated tensors are used; owns no trained parameter."""

    spec: TargetSpec

    def apply(self, weights: Weights, inputs: Any) -> Any:
        """Outputs of every agent's own network; the agent axis is the last but one."""


class GeneratedActor(nn.Module):
    """Agents whose weights come from one generator: `.weights()`, `.forward(x)`, `.frozen()`.

    Inputs `[*batch, *lead, N, D]`, outputs `[*batch, *lead, N, A]` for the targets of control agents.
    """

    def __init__(self, conditioner: Conditioner, generator: Generator, target: Target) -> None:
        super().__init__()
        self.conditioner = conditioner
        self.generator = generator
        self.target = target
        self._frozen: Weights | None = None

    def weights(self, who: Tensor | None = None) -> Weights:
        """Generate, with gradient, the weights of the training agents, or of `who`: ids `[N]` or features `[N, f]`."""
        generated: Weights = self.generator(self.conditioner(who))
        return generated

    def forward(self, inputs: Any, weights: Weights | None = None) -> Any:
        """Apply `weights`, else the frozen ones, else freshly generated ones."""
        if weights is None:
            weights = self._frozen if self._frozen is not None else self.weights()
        return self.target.apply(weights, inputs)

    @contextmanager
    def frozen(self) -> Iterator[Weights]:
        """Generate once, without gradient, and use it for every forward inside: a rollout, an evaluation."""
        with torch.no_grad():
            self._frozen = self.weights()
        try:
            yield self._frozen
        finally:
            self._frozen = None
