"""Condition, generate, apply: one class for a policy, a critic and, later, a swarm of language agents."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import nn

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

    def __init__(self, conditioner: Any, generator: Generator, target: Target) -> None:
        super().__init__()
        self.conditioner = conditioner
        self.generator = generator
        self.target = target
        self._given: Weights | None = None

    def weights(self, who: Any = None, rows: int | None = None) -> Weights:
        """Generate, with gradient, the weights of the training agents, or of `who`: ids `[N]`, features `[N, f]`, or
        whatever else the conditioner reads.

        Matrices may come in factors (see `spec.Weights`), by default only where they will be applied to few `rows`.
        """
        generated: Weights = self.generator(self.conditioner(who), rows)
        return generated

    def forward(self, inputs: Any, weights: Weights | None = None) -> Any:
        """Apply `weights`, by default the current ones."""
        return self.target.apply(self.current() if weights is None else weights, inputs)

    def current(self) -> Weights:
        """The weights of the `using` or `frozen` block we are in; outside of them, freshly generated ones."""
        return self.weights() if self._given is None else self._given

    @contextmanager
    def using(self, weights: Weights) -> Iterator[Weights]:
        """Apply `weights` in every forward inside."""
        before, self._given = self._given, weights
        try:
            yield weights
        finally:
            self._given = before

    @contextmanager
    def frozen(self) -> Iterator[Weights]:
        """Generate once, without gradient, for every forward inside: a rollout, an evaluation.

        Inside another such block nothing is generated: its weights stay in use.
        """
        if self._given is not None:
            yield self._given
            return
        with torch.no_grad():  # copied: what has no head is a view of the parameters, which an update changes
            weights = {name: tensor.detach().clone() for name, tensor in self.weights().items()}
        with self.using(weights):
            yield weights
