"""How bodies in a VMAS world push each other away, with VMAS 1.5's formulas, only where they touch.

VMAS asks for each pair of bodies whether they come near each other anywhere and then works on that pair in all
environments. Here a coarse look finds the pairs and environments in question, and only they are worked on.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

_SLACK = 1.01  # how much farther than needed we look, so that rounding decides nothing
_LANES = 64  # at least as many numbers as a processor handles in one instruction
_APART = 1e-6  # what is nearer has no direction in which to push


class Pairs(NamedTuple):
    """Bodies that are near each other, every two of them twice; a body in an environment is `i * E + e`."""

    one: Tensor  # int64 [K], sorted, and `other` for the same one too
    other: Tensor  # int64 [K]
    away: Tensor  # from the other to the one, [K, 2]


class Near:
    """Finds the bodies that are nearer to each other than `reach [N, N]`, or nearly so."""

    def __init__(self, reach: Tensor) -> None:
        self._limit = (reach * _SLACK).square().unsqueeze(-1)
        self._limit.diagonal(dim1=0, dim2=1).fill_(-1.0)  # nobody is near itself

    def __call__(self, place: Tensor) -> Pairs:
        """The pairs among bodies at `place [N, E, 2]`."""
        count, rows, _ = place.shape
        away = place.unsqueeze(1) - place
        x, y = (away * away).unbind(-1)
        near = x + y <= self._limit
        first, other = near.view(count, count * rows).nonzero().unbind(1)
        one = first * rows + other % rows
        flat = place.view(-1, 2)
        return Pairs(one, other, flat.index_select(0, one) - flat.index_select(0, other))


class Push:
    """The force between what touches, which grows with how deep one is in the other."""

    def __init__(self, world: Any) -> None:
        self._margin, self._strength = world._contact_margin, world._collision_force
        self._zero = torch.tensor(0.0, device=world.device)

    def __call__(self, away: Tensor, reach: Tensor) -> Tensor:
        """On who is `away [K, 2]` from another and should be at least `reach` (`[K]` or one number)."""
        apart = torch.linalg.vector_norm(away, dim=-1)
        depth = self._soft((reach - apart) / self._margin) * self._margin
        push = self._strength * away / apart.unsqueeze(-1) * depth.unsqueeze(-1)
        touching = (apart >= _APART) & (apart <= reach)
        return torch.where(touching.unsqueeze(-1), push, 0.0)

    def _soft(self, depth: Tensor) -> Tensor:
        """`log(1 + exp(depth))`, in whole vectors: a processor rounds what is left over after the last differently.

        And which are left over depends on who else touches.
        """
        count = depth.shape[0]
        return torch.logaddexp(self._zero, torch.nn.functional.pad(depth, (0, -count % _LANES)))[:count]


class Spheres:
    """The pushes among spheres of any size."""

    def __init__(self, world: Any, spheres: list[Any]) -> None:
        radii = torch.tensor([sphere.shape.radius for sphere in spheres], device=world.device)
        self._reach = radii.unsqueeze(1) + radii
        self._near, self._push = Near(self._reach), Push(world)

    def __call__(self, force: Tensor, place: Tensor) -> Tensor:
        """`force [N, E, 2]` and what the others add to it at `place [N, E, 2]`, in the order of the pairs, as VMAS."""
        one, other, away = self._near(place)
        if one.shape[0] == 0:
            return force
        rows = place.shape[1]
        push = self._push(away, self._reach[one // rows, other // rows])
        return force.view(-1, 2).index_put((one,), push, accumulate=True).view_as(force)
