"""Every agent's own multi-layer perceptron, applied with one batched matmul per layer.

Weight matrices are `[*lead, N, in, out]`: the `nn.Linear` order is up to 1.7 times slower in backward with many agents,
and applying all networks to all samples N times (measured, see docs/design.md).
Letters: `S` seeds, `N` agents, `B` samples, `D` inputs, `M = S*N` networks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from hypermarl.activations import ACTIVATIONS
from hypermarl.spec import TargetSpec, Weights, WeightSpec


class MLPTarget:
    """`sizes` = (inputs, hidden..., outputs).

    Hidden matrices start orthogonal with gain `gain`, the last one with `out_gain`; biases start at zero.
    `extra` tensors (such as a log standard deviation) are generated beside the layers and left to the caller.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        activation: str = "relu",
        gain: float = math.sqrt(2.0),
        out_gain: float = 1.0,
        shared: bool = False,
        extra: Sequence[WeightSpec] = (),
    ) -> None:
        self.sizes = tuple(sizes)
        self.activation = activation
        self.layers = len(self.sizes) - 1
        specs: list[WeightSpec] = []
        for i in range(self.layers):
            specs += linear_spec(
                f"layers.{i}", self.sizes[i], self.sizes[i + 1], gain if i < self.layers - 1 else out_gain, shared
            )
        self.spec = TargetSpec((*specs, *extra))

    def apply(self, weights: Weights, inputs: Tensor) -> Tensor:
        """`[*batch, *lead, N, D]` -> `[*batch, *lead, N, A]`."""
        names = [f"layers.{i}" for i in range(self.layers)]
        return run_layers([(weights[f"{n}.weight"], weights[f"{n}.bias"]) for n in names], inputs, self.activation)


def linear_spec(name: str, inputs: int, outputs: int, gain: float, shared: bool = False) -> list[WeightSpec]:
    """A matrix `[in, out]` that starts orthogonal and a bias that starts at zero, each with a head of its own."""
    weight, bias = f"{name}.weight", f"{name}.bias"
    return [
        WeightSpec(weight, (inputs, outputs), weight, gain=gain, shared=shared),
        WeightSpec(bias, (outputs,), bias, shared=shared),
    ]


def run_layers(layers: Sequence[tuple[Tensor, Tensor]], inputs: Tensor, activation: str, last: bool = False) -> Tensor:
    """Apply `(weight [*lead, N, in, out], bias [*lead, N, out])` in turn; the activation also after the last if asked.

    `[*batch, *lead, N, D]` -> `[*batch, *lead, N, A]`. The agent axis of a tensor is 1 where all agents share it, that
    of the inputs where all agents read the same; if it is 1 everywhere, so is that of the outputs. Nothing is copied
    once per agent. Where all agents share every matrix, they join the batch: one plain matmul per seed.
    """
    bend = ACTIVATIONS[activation]
    lead = layers[0][0].shape[:-3]
    batch = inputs.shape[: inputs.ndim - 2 - len(lead)]
    agents = max(inputs.shape[-2], *(max(weight.shape[-3], bias.shape[-2]) for weight, bias in layers))
    joined = all(weight.shape[-3] == 1 for weight, _ in layers)
    seeds = math.prod(lead)
    x = _joined(inputs, seeds) if joined else _apart(inputs, seeds)
    shape = (math.prod(batch), inputs.shape[-2])
    for i, (weight, bias) in enumerate(layers):
        weight = weight.reshape(seeds, *weight.shape[-3:])
        bias = bias.reshape(seeds, *bias.shape[-2:])
        if joined:
            x = _shared_layer(x, weight, bias, shape)
            shape = (shape[0], max(shape[1], bias.shape[1]))
        else:
            x = _own_layer(x, weight, bias, agents)
        if last or i < len(layers) - 1:
            x = bend(x)
    if joined:
        x = x.unflatten(1, shape).transpose(0, 1)  # [B, S, N, A]
    else:
        x = x.transpose(0, 1)  # [B, S*N, A]
    return x.reshape(*batch, *lead, agents, x.shape[-1])


def _joined(x: Tensor, seeds: int) -> Tensor:
    """`[*batch, *lead, N, D]` -> `[S, B*N, D]`: a view where there is one seed."""
    if seeds == 1:
        return x.reshape(1, -1, x.shape[-1])
    return x.reshape(-1, seeds, *x.shape[-2:]).transpose(0, 1).flatten(1, 2)


def _apart(x: Tensor, seeds: int) -> Tensor:
    """`[*batch, *lead, N, D]` -> `[S*N, B, D]`, a view."""
    return x.reshape(-1, seeds * x.shape[-2], x.shape[-1]).transpose(0, 1)


def _shared_layer(x: Tensor, weight: Tensor, bias: Tensor, shape: tuple[int, int]) -> Tensor:
    """`[S, B*N, D]`, `shape` being B and N, by `[S, 1, D, H]`, plus `[S, 1 or N, H]`; in `x` N may be 1 before."""
    if bias.shape[1] == 1:
        return torch.baddbmm(bias, x, weight[:, 0])
    y = torch.bmm(x, weight[:, 0]).unflatten(1, shape) + bias.unsqueeze(1)
    return y.flatten(1, 2)


def _own_layer(x: Tensor, weight: Tensor, bias: Tensor, agents: int) -> Tensor:
    """`[S*N, B, D]` (or `[S, B, D]`: all agents read the same) by `[S, N, D, H]`, plus `[S, N, H]` -> `[S*N, B, H]`."""
    seeds = len(weight)
    flat_bias = bias.expand(-1, agents, -1).reshape(-1, 1, bias.shape[-1])
    if len(x) == seeds * agents or seeds == 1:
        x = x.expand(seeds * agents, -1, -1)
        weight = weight.expand(-1, agents, -1, -1)
        return torch.baddbmm(flat_bias, x, weight.flatten(0, 1))
    # For several seeds the inputs would have to be copied for each agent: the matrices stand side by side instead.
    side_by_side = weight.expand(-1, agents, -1, -1).transpose(1, 2).flatten(2)  # [S, D, N*H]
    y = torch.bmm(x, side_by_side).unflatten(-1, (agents, -1)).transpose(1, 2)
    return y.flatten(0, 1) + flat_bias
