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

    Where all agents share every tensor (agent axis 1 in the weights) they join the batch: one plain matmul per seed.
    """
    bend = ACTIVATIONS[activation]
    lead = layers[0][0].shape[:-3]
    agents = inputs.shape[-2]
    shared = agents > 1 and all(weight.shape[-3] == 1 == bias.shape[-2] for weight, bias in layers)
    batch = inputs.shape[: inputs.ndim - 2 - len(lead)]
    x = _grouped(inputs, len(lead), shared)  # [M, B, D]
    for i, (weight, bias) in enumerate(layers):
        if not shared and weight.shape[-3] != agents:
            weight = weight.expand(*weight.shape[:-3], agents, *weight.shape[-2:])
        if not shared and bias.shape[-2] != agents:
            bias = bias.expand(*bias.shape[:-2], agents, bias.shape[-1])
        x = torch.baddbmm(bias.reshape(-1, 1, bias.shape[-1]), x, weight.reshape(-1, *weight.shape[-2:]))
        if last or i < len(layers) - 1:
            x = bend(x)
    return _restored(x, batch, lead, agents, shared)


def _grouped(x: Tensor, lead: int, shared: bool) -> Tensor:
    """`[*batch, *lead, N, D]` -> `[M, B, D]`: a view where networks are per agent, or where there is one lead of 1."""
    width = x.shape[-1]
    split = x.ndim - 2 - lead
    networks = math.prod(x.shape[split:-1])
    if not shared:
        return x.reshape(-1, networks, width).transpose(0, 1)
    seeds = math.prod(x.shape[split:-2])
    if seeds == 1:
        return x.reshape(1, -1, width)
    return x.reshape(-1, seeds, x.shape[-2], width).transpose(0, 1).reshape(seeds, -1, width)


def _restored(x: Tensor, batch: torch.Size, lead: torch.Size, agents: int, shared: bool) -> Tensor:
    width = x.shape[-1]
    if not shared:
        return x.transpose(0, 1).reshape(*batch, *lead, agents, width)
    if x.shape[0] == 1:
        return x.reshape(*batch, *lead, agents, width)
    return x.reshape(x.shape[0], -1, agents, width).transpose(0, 1).reshape(*batch, *lead, agents, width)
