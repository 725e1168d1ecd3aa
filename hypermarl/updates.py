"""What every training loop shares: per-seed minibatches and one descent step in which no seed touches another.

Letters: `S` seeds, `R` rows (samples of one seed), `B` rows of a minibatch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn


def minibatches(rows: int, count: int, rngs: Sequence[torch.Generator], device: torch.device) -> Iterator[Tensor]:
    """Indices `[B, S]`: every seed's rows in an order of its own, cut into `count` nearly equal parts."""
    order = torch.stack([torch.randperm(rows, generator=rng, device=rng.device) for rng in rngs], 1).to(device)
    yield from order.tensor_split(count)


def take(rows: Tensor, index: Tensor) -> Tensor:
    """Pick rows `[B, S]` of `[R, S, ...]` for each seed by itself: `[B, S, ...]`."""
    seeds = index.shape[1]
    flat = rows.reshape(-1, *rows.shape[2:])
    if seeds > 1:
        index = index * seeds + torch.arange(seeds, device=index.device)
    return flat.index_select(0, index.reshape(-1)).reshape(*index.shape, *rows.shape[2:])


def seed_norms(parameters: Sequence[nn.Parameter]) -> Tensor:
    """Gradient norm of each seed `[S]`; parameters are `[S, *shape]`."""
    squares = [p.grad.flatten(1).square().sum(1) for p in parameters if p.grad is not None]
    return torch.stack(squares).sum(0).sqrt()


def descend(
    optimizer: torch.optim.Optimizer,
    groups: Sequence[Sequence[nn.Parameter]],
    max_norm: float,
    healthy: Tensor,
) -> Tensor:
    """Clip each seed's gradient norm within each list of parameters, step, clear; returns the largest norms `[S]`.

    Seeds that are not `healthy [S]` (bool, changed in place when a norm is not finite) keep their parameters.
    """
    worst = torch.zeros(healthy.shape, device=healthy.device)
    for parameters in groups:
        norms = seed_norms(parameters)
        healthy &= norms.isfinite()
        scale = torch.where(healthy, (max_norm / (norms + 1e-6)).clamp(max=1.0), 0.0)
        worst = torch.maximum(worst, norms)
        for p in parameters:
            if p.grad is not None:
                p.grad.mul_(scale.view(-1, *([1] * (p.ndim - 1))))
    well = bool(healthy.all())
    kept = [] if well else [[p.detach().clone() for p in parameters] for parameters in groups]
    if not well:
        for parameters in groups:
            for p in parameters:
                if p.grad is not None:
                    p.grad[~healthy] = 0.0  # scaling alone would leave NaN
    optimizer.step()
    for parameters, before in zip(groups, kept, strict=False):
        for p, old in zip(parameters, before, strict=True):
            with torch.no_grad():
                p[~healthy] = old[~healthy]  # momentum must not move a stopped seed
    optimizer.zero_grad(set_to_none=True)
    return worst


def optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Moments and step counts as plain tensors, `<number of the parameter>.<name>`."""
    states = optimizer.state_dict()["state"]
    return {f"{i}.{key}": value for i, entry in states.items() for key, value in entry.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Tensor]) -> None:
    """The inverse of `optimizer_state`."""
    entries: dict[int, dict[str, Tensor]] = {}
    for key, value in state.items():
        number, name = key.split(".", 1)
        entries.setdefault(int(number), {})[name] = value
    optimizer.load_state_dict({"state": entries, "param_groups": optimizer.state_dict()["param_groups"]})
