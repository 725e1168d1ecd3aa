"""Every agent's own recurrent network: a layer, a gated recurrent unit, and a head, with resets inside sequences.

Equations as in `torch.nn.GRU` (gates reset, update, new). Letters: `T` time, `S` seeds, `N` agents, `H` hidden width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hypermarl.spec import TargetSpec, Weights, WeightSpec
from hypermarl.targets.mlp import layer, linear_spec, run_layers


@dataclass(frozen=True, slots=True)
class History:
    """Inputs of a recurrent target over time.

    `x [T, *batch, *lead, N, D]`; `hidden [*batch, *lead, N, H]` before the first step; `fresh [T, *batch, *lead, N]`
    (bool) where a new episode begins at that step, so nothing is remembered across it.
    """

    x: Tensor
    hidden: Tensor
    fresh: Tensor


class GRUTarget:
    """`sizes` = (inputs, hidden width, head layers..., outputs): input layer, GRU, then the head's layers.

    The body (input layer and GRU) is the same for every agent if `body_shared`; the head is always the agent's own.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        activation: str = "relu",
        gain: float = math.sqrt(2.0),
        out_gain: float = 1.0,
        body_shared: bool = True,
        extra: Sequence[WeightSpec] = (),
    ) -> None:
        inputs, hidden, *head = sizes
        self.hidden = hidden
        self.first = "body.input"  # the layer that reads the inputs
        self.activation = activation
        specs = linear_spec("body.input", inputs, hidden, gain, body_shared)
        specs += linear_spec("body.gates_input", hidden, 3 * hidden, 1.0, body_shared)
        specs += linear_spec("body.gates_hidden", hidden, 3 * hidden, 1.0, body_shared)
        widths = [hidden, *head]
        self.layers = len(head)
        for i in range(self.layers):
            specs += linear_spec(f"head.{i}", widths[i], widths[i + 1], gain if i < self.layers - 1 else out_gain)
        self.spec = TargetSpec((*specs, *extra))

    def initial(self, *shape: int) -> Tensor:
        """An empty memory `[*shape, H]`, shape being `*batch, *lead, N`."""
        return torch.zeros(*shape, self.hidden)

    def apply(self, weights: Weights, inputs: History) -> tuple[Tensor, Tensor]:
        """Outputs `[T, *batch, *lead, N, A]` and the memories `[T, *batch, *lead, N, H]` after every step."""
        embedded = run_layers([layer(weights, "body.input")], inputs.x, self.activation, last=True)
        gates_input = run_layers([layer(weights, "body.gates_input")], embedded, self.activation)
        hidden = inputs.hidden
        states = []
        recur = [layer(weights, "body.gates_hidden")]
        for gates, fresh in zip(gates_input.unbind(0), inputs.fresh.unbind(0), strict=True):
            hidden = torch.where(fresh.unsqueeze(-1), torch.zeros_like(hidden), hidden)
            recurrent = run_layers(recur, hidden, self.activation)
            reset_x, update_x, new_x = gates.chunk(3, -1)
            reset_h, update_h, new_h = recurrent.chunk(3, -1)
            update = torch.sigmoid(update_x + update_h)
            new = torch.tanh(new_x + torch.sigmoid(reset_x + reset_h) * new_h)
            hidden = new + update * (hidden - new)
            states.append(hidden)
        heads = [layer(weights, f"head.{i}") for i in range(self.layers)]
        memories = torch.stack(states)
        return run_layers(heads, memories, self.activation), memories
