"""Directions along which things differ more than several looks at one of them do (Fisher), and axes that suit Adam.

Letters: `N` things, `M` looks at each, `f` features, `d` directions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

STARTS, TURNS = 3, 60


@torch.no_grad()
def clear_directions(
    looks: Tensor, most: int, rng: torch.Generator, *, clear: float, ridge: float
) -> tuple[Tensor, Tensor]:
    """The centre `[f]` of `looks [N, M, f]`, and `[f, d]` onto the directions, `most` of them at most, in which the N
    differ more than `clear` times as much as the M looks at one, all of one size; in double precision.

    A share `ridge` of how things differ is added to how looks do, so that what is the same in all is not infinitely
    clear.

    Of all ways to turn the axes, the one in which things stand out along single ones is taken: Adam has a step for
    every parameter, so it matters to it which axes there are. What this alone gains was not measured.
    """
    whole = looks.double()
    centres = whole.mean(1)
    apart = centres - centres.mean(0)
    within = (whole - centres.unsqueeze(1)).flatten(0, 1)
    noisy = within.mT @ within / len(within)
    noisy += (ridge * apart.square().mean() + 1e-12) * torch.eye(len(noisy)).to(noisy)
    white = torch.linalg.inv(torch.linalg.cholesky(noisy)).mT  # in which looks at one differ alike all ways
    _, spread, directions = torch.linalg.svd(apart @ white, full_matrices=False)
    times = spread / math.sqrt(len(apart))
    count = min(most, int((times > clear).sum()))
    even = white @ directions[:count].mT / times[:count]
    return centres.mean(0), even @ sparse(apart @ even, rng)


@torch.no_grad()
def sparse(rows: Tensor, rng: torch.Generator) -> Tensor:
    """`[d, d]`, a rotation of `rows [n, d]` of variance 1 in all directions such that they lie along few axes each: of
    greatest fourth moments, as independent components are found, the best of a few starts."""
    size = rows.shape[1]
    best, most = torch.eye(size).to(rows), -math.inf
    for _ in range(STARTS):
        turn = _orthogonal(torch.randn(size, size, generator=rng).to(rows))
        for _ in range(TURNS):
            turned = rows @ turn
            turn = _orthogonal(rows.mT @ turned**3)
        if (found := float((rows @ turn).pow(4).mean())) > most:
            best, most = turn, found
    return best


def _orthogonal(matrix: Tensor) -> Tensor:
    """The nearest rotation."""
    left, _, right = torch.linalg.svd(matrix)
    rotation: Tensor = left @ right
    return rotation
