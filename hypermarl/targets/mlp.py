"""Every agent's own multi-layer perceptron, applied with one batched matmul per layer.

Weight matrices are `[*lead, N, in, out]`: the `nn.Linear` order is up to 1.7 times slower in backward with many agents,
and applying all networks to all samples N times (measured, see docs/design.md).
Letters: `S` seeds, `N` agents, `B` samples, `D` inputs, `M = S*N` networks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hypermarl.activations import ACTIVATIONS, QUICK
from hypermarl.spec import LEFT, RIGHT, TargetSpec, Weights, WeightSpec
from hypermarl.targets.product import NARROW, product


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
        self.first = "layers.0"  # the layer that reads the inputs
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
        return run_layers([layer(weights, f"layers.{i}") for i in range(self.layers)], inputs, self.activation)


def linear_spec(name: str, inputs: int, outputs: int, gain: float, shared: bool = False) -> list[WeightSpec]:
    """A matrix `[in, out]` that starts orthogonal and a bias that starts at zero, each with a head of its own."""
    weight, bias = f"{name}.weight", f"{name}.bias"
    return [
        WeightSpec(weight, (inputs, outputs), weight, gain=gain, shared=shared, factors=True),
        WeightSpec(bias, (outputs,), bias, shared=shared),
    ]


class Layer(NamedTuple):
    """`weight [*lead, N, in, out]` plus, if there, `left [*lead, N, in, r] @ right [*lead, N, r, out]`; then the bias.

    The agent axis of each is 1 where all agents share it.
    """

    weight: Tensor
    bias: Tensor  # [*lead, N, out]
    left: Tensor | None = None
    right: Tensor | None = None

    @property
    def shared(self) -> bool:
        """True if all agents have the same matrix."""
        return self.left is None and self.weight.shape[-3] == 1


def layer(weights: Weights, name: str) -> Layer:
    """The layer of that name, its matrix whole or in factors."""
    matrix = f"{name}.weight"
    return Layer(weights[matrix], weights[f"{name}.bias"], weights.get(matrix + LEFT), weights.get(matrix + RIGHT))


def without_id(weights: Weights, first: str, ids: int, identity: Tensor | None = None) -> Weights:
    """Networks that read a one-hot id as the last of their inputs as networks that need not be told who they are.

    What layer `first` adds for an id becomes part of each agent's bias: a row looked up, where concatenating the id
    would make every sample as wide as there are agents. Agents are the `ids` ones in order, or mixtures of them, the
    rows of `identity [N, ids]`.
    """
    given = layer(weights, first)
    inputs = given.weight.shape[-2] - ids

    def told(matrix: Tensor) -> tuple[Tensor, Tensor]:
        """What is left of the matrix, and each agent's row of the rest."""
        seen, rows = matrix.split([inputs, ids], -2)
        if matrix.shape[-3] == 1:
            rows = rows.squeeze(-3)
            return seen, rows if identity is None else identity @ rows
        if identity is None:
            return seen, torch.diagonal(rows, dim1=-3, dim2=-2).mT
        return seen, torch.einsum("ni,...nih->...nh", identity, rows)

    seen, own = told(given.weight)
    matrix = f"{first}.weight"
    made = weights | {matrix: seen, f"{first}.bias": given.bias + own}
    if given.left is not None and given.right is not None:
        made[matrix + LEFT], left = told(given.left)
        made[f"{first}.bias"] = made[f"{first}.bias"] + (left.unsqueeze(-2) @ given.right).squeeze(-2)
    return made


def run_layers(layers: Sequence[Layer], inputs: Tensor, activation: str, last: bool = False) -> Tensor:
    """Apply layers in turn, `[*batch, *lead, N, D]` -> `[*batch, *lead, N, A]`; bend after the last only if asked.

    The agent axis of the inputs is 1 where all agents read the same; if it is 1 in all tensors, so it is in the
    outputs. Nothing is copied once per agent. Where all agents share every matrix, they join the batch: one plain
    matmul per seed.
    """
    bend = QUICK.get(activation, ACTIVATIONS[activation])
    lead = layers[0].weight.shape[:-3]
    batch = inputs.shape[: inputs.ndim - 2 - len(lead)]
    seeds, rows, present = math.prod(lead), math.prod(batch), inputs.shape[-2]
    agents = max(present, *(t.shape[len(lead)] for each in layers for t in each if t is not None))
    joined = all(each.shared for each in layers)
    x = _joined(inputs, seeds) if joined else _apart(inputs, seeds)
    for i, each in enumerate(layers):
        # Views cost time in the backward pass too: none is made in vain. No result of a layer is one, so that it may
        # be bent in place.
        if len(lead) != 1:
            each = _merged(each, len(lead), seeds)
        if joined:
            x = _shared_layer(_shaped(x, seeds, rows * present), each, (rows, present))
            present = max(present, each.bias.shape[1])
        else:
            x = _own_layer(_shaped(x, seeds * present, rows), each, agents)
            present = agents
        if last or i < len(layers) - 1:
            x = bend(x)
    if joined:
        x = x.reshape(seeds, rows, agents, x.shape[-1]).transpose(0, 1)  # [B, S, N, A]
    else:
        x = _shaped(x, seeds * agents, rows).transpose(0, 1)  # [B, S*N, A]
    return x.reshape(*batch, *lead, agents, x.shape[-1])


def _merged(each: Layer, lead: int, seeds: int) -> Layer:
    """All leading axes as one."""

    def flat(tensor: Tensor) -> Tensor:
        return tensor.reshape(seeds, *tensor.shape[lead:])

    left, right = (None if t is None else flat(t) for t in (each.left, each.right))
    return Layer(flat(each.weight), flat(each.bias), left, right)


def _shaped(x: Tensor, *shape: int) -> Tensor:
    """`x` as `[*shape, D]`."""
    return x if x.shape[:-1] == shape else x.reshape(*shape, x.shape[-1])


def _spread(x: Tensor, agents: int) -> Tensor:
    """`[S, N or 1, ...]` as `[S*N, ...]`."""
    return (x if x.shape[1] == agents else x.expand(-1, agents, *x.shape[2:])).flatten(0, 1)


def _joined(x: Tensor, seeds: int) -> Tensor:
    """`[*batch, *lead, N, D]` -> `[S, B, N, D]`."""
    return x.reshape(-1, seeds, *x.shape[-2:]).transpose(0, 1)


def _apart(x: Tensor, seeds: int) -> Tensor:
    """`[*batch, *lead, N, D]` -> `[S*N, B, D]`, a view."""
    return x.reshape(-1, seeds * x.shape[-2], x.shape[-1]).transpose(0, 1)


def _shared_layer(x: Tensor, each: Layer, shape: tuple[int, int]) -> Tensor:
    """`[S, B*N, D]` -> `[S, B*N, H]` in any shape; `shape` is B and N, which is 1 until a bias tells agents apart."""
    matrix = each.weight.squeeze(1)
    if each.bias.shape[1] == 1:
        return product(x, matrix, each.bias)
    return product(x, matrix).unflatten(1, shape) + each.bias.unsqueeze(1)


def _own_layer(x: Tensor, each: Layer, agents: int) -> Tensor:
    """`[S*N, B, D]`, or `[S, B, D]` where all agents read the same, -> `[S*N, B, H]` in any shape."""
    seeds = len(each.weight)
    own = _spread(each.bias, agents).unsqueeze(1)  # [S*N, 1, H]
    if each.left is not None and each.right is not None:
        own = product(_own_product(x, each.left, agents), _spread(each.right, agents), own)  # [S*N, B, H]
    if each.weight.shape[1] == agents:
        fits = own.shape[1] == 1
        return _own_product(x, each.weight, agents, own) if fits else _own_product(x, each.weight, agents) + own
    everyone, matrix = _shaped(x, seeds, len(x) // seeds * x.shape[1]), each.weight.squeeze(1)
    if len(x) == len(own) and x.shape[1] == own.shape[1] and own.shape[-1] > NARROW:
        return torch.baddbmm(_shaped(own, *everyone.shape[:2]), everyone, matrix)
    y = product(everyone, matrix).reshape(seeds, len(x) // seeds, x.shape[1], -1)  # [S, N or 1, B, H]
    return y + own.unflatten(0, (seeds, agents))


def _own_product(x: Tensor, weight: Tensor, agents: int, bias: Tensor | None = None) -> Tensor:
    """`[S*N or S, B, D]` by `[S, N or 1, D, H]`, plus `[S*N, 1, H]` if given, -> `[S*N, B, H]`."""
    seeds = len(weight)
    if len(x) == seeds * agents:
        return product(x, _spread(weight, agents), bias)
    if seeds == 1:
        return product(x.expand(agents, -1, -1), _spread(weight, agents), bias)
    # For several seeds the inputs would have to be copied for each agent: the matrices stand side by side instead.
    wide = weight.expand(-1, agents, -1, -1).transpose(1, 2).flatten(2)  # [S, D, N*H]
    y = torch.bmm(x, wide).unflatten(-1, (agents, -1)).transpose(1, 2).flatten(0, 1)
    return y if bias is None else y + bias
