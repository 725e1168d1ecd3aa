"""The products of M small networks with B rows each, by the kernel that is fast for their shape.

A matrix with few columns (an actor's actions, a critic's one value) is up to nine times slower on a CPU in the order
`[in, out]` than in the order `[out, in]`, in the forward product and in the gradient (see experiments/LOG.md).

Letters: `M` networks, `B` rows of each, `D` inputs, `H` outputs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

NARROW = 11  # columns at most; from 12 on both orders are equally fast
ROWS = 8  # of each network, at least: below, turning the matrices about costs more than it gains
SAMPLES = 256  # of all networks, at least: below, the overhead of a function of our own does


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`x [M, B, D] @ weight [M, D, H] + bias [M, 1, H]` -> `[M, B, H]`."""
    networks, rows, _ = x.shape
    columns = weight.shape[-1]
    if (
        columns > NARROW
        or networks * rows < SAMPLES
        or (columns == 1 and networks == 1)
        or (columns > 1 and rows < ROWS)
        or x.device.type != "cpu"
        or torch.is_autocast_enabled("cpu")
    ):
        return torch.bmm(x, weight) if bias is None else torch.baddbmm(bias, x, weight)
    try:
        made: Tensor = _Narrow.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    except RuntimeError:  # a function that can be mapped over, as TorchRL's estimators do, costs more than it gains
        return torch.bmm(x, weight) if bias is None else torch.baddbmm(bias, x, weight)
    return made


class _Narrow(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        turned = weight.mT
        if weight.shape[-1] == 1:
            y = torch.linalg.vecdot(x, turned).unsqueeze(-1)
            return y if bias is None else y + bias
        turned = turned.contiguous().mT
        return torch.bmm(x, turned) if bias is None else torch.baddbmm(bias, x, turned)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        (g,) = gradients
        x, weight = ctx.saved_tensors
        wanted_x, wanted_weight, wanted_bias = ctx.needs_input_grad
        turned = weight.mT
        return (
            (g * turned if weight.shape[-1] == 1 else torch.bmm(g, turned)) if wanted_x else None,
            torch.bmm(g.mT, x).mT if wanted_weight else None,
            g.sum(1, keepdim=True) if wanted_bias else None,
        )
