"""Discs that fly through a VMAS world, all of them moved at once: their own force, drag, walls, and collisions.

The formulas are those of VMAS 1.5, in its order: the numbers are the same bit for bit. VMAS asks for each pair of
agents whether they touch anywhere and then works on that pair in all environments; here only what touches is worked on.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

_SLACK = 1.01  # how much farther than needed we look, so that rounding decides nothing
_LANES = 64  # at least as many numbers as a processor handles in one instruction
_APART = 1e-6  # what is nearer has no direction in which to push


def flies(world: Any) -> bool:
    """Whether a step is nothing but drag, the agents' own force, walls, and collisions of any two agents, if at all.

    And all agents are alike, and none of them ever turns.
    """
    from vmas.simulator.core import Agent, Landmark, Sphere, World

    agents = world.agents
    first = agents[0]
    return (
        type(world) is World
        and all(type(landmark) is Landmark for landmark in world.landmarks)
        and not any(each.collide or each.movable or each.rotatable for each in world.landmarks)
        and not world._joints
        and not bool(world._gravity.any())
        and world._linear_friction == world._angular_friction == world.dim_c == 0
        and all(
            type(agent) is Agent
            and type(agent.shape) is Sphere
            and (agent.mass, agent.drag, agent.shape.radius) == (first.mass, first.drag, first.shape.radius)
            and agent.movable
            and agent.action_script is None
            and type(agent.dynamics).__name__ == "Holonomic"
            and agent.linear_friction is agent.angular_friction is agent.gravity is None
            and agent.max_speed is agent.v_range is agent.max_f is agent.f_range is None
            and agent.max_t is agent.t_range is None
            and not any(bool(turn.any()) for turn in (agent.state.rot, agent.state.ang_vel, agent.state.torque))
            and all(agent.collides(other) == first.collide for other in agents)
            for agent in agents
        )
    )


class Pairs(NamedTuple):
    """Agents that are near each other, every two of them twice; an agent in an environment is `i * E + e`."""

    one: Tensor  # int64 [K], sorted, and `other` for the same one too
    other: Tensor  # int64 [K]
    away: Tensor  # from the other to the one, [K, 2]


class Near:
    """Finds the agents that are nearer than `reach` to each other, or nearly so."""

    def __init__(self, count: int, reach: float, device: torch.device) -> None:
        self._limit = torch.full((count, count, 1), (reach * _SLACK) ** 2, device=device)
        self._limit.diagonal(dim1=0, dim2=1).fill_(-1.0)  # nobody is near itself

    def __call__(self, place: Tensor) -> Pairs:
        """The pairs among agents at `place [N, E, 2]`."""
        count, rows, _ = place.shape
        away = place.unsqueeze(1) - place
        x, y = (away * away).unbind(-1)
        near = x + y <= self._limit
        first, other = near.view(count, count * rows).nonzero().unbind(1)
        one = first * rows + other % rows
        flat = place.view(-1, 2)
        return Pairs(one, other, flat.index_select(0, one) - flat.index_select(0, other))


class _Contact:
    """The force between agents that overlap, which grows with how deep they do."""

    def __init__(self, world: Any) -> None:
        agents = world.agents
        self._reach = 2 * agents[0].shape.radius
        self._near = Near(len(agents), self._reach, world.device)
        self._margin, self._strength = world._contact_margin, world._collision_force
        self._zero = torch.tensor(0.0, device=world.device)

    def __call__(self, force: Tensor, place: Tensor) -> Tensor:
        """`force [N, E, 2]` and what the others add to it at `place [N, E, 2]`."""
        one, _, away = self._near(place)
        if one.shape[0] == 0:
            return force
        apart = torch.linalg.vector_norm(away, dim=-1)
        push = self._strength * away / apart.unsqueeze(-1) * self._depth(apart).unsqueeze(-1)
        touching = (apart >= _APART) & (apart <= self._reach)
        push = torch.where(touching.unsqueeze(-1), push, 0.0)
        total = force.view(-1, 2).index_put((one,), push, accumulate=True)  # in the order of the pairs, as VMAS adds
        return total.view_as(force)

    def _depth(self, apart: Tensor) -> Tensor:
        """How deep agents overlap, softened. In whole vectors: a processor rounds what is left over differently.

        And which are left over depends on who else overlaps.
        """
        count = apart.shape[0]
        deep = torch.nn.functional.pad((self._reach - apart) / self._margin, (0, -count % _LANES))
        return torch.logaddexp(self._zero, deep)[:count] * self._margin


class Flight:
    """The agents of a world in flight, `advance` for every scenario that has nothing else move.

    States are written past VMAS's setters, which check shapes and devices that are known here.
    """

    def __init__(self, scenario: Any, world: Any) -> None:
        self.scenario, self.world, self.agents = scenario, world, list(world.agents)
        self._states = [agent.state for agent in self.agents]
        drag = self.agents[0].drag
        self._keep = 1 - (world._drag if drag is None else drag)
        self._mass = self.agents[0].mass
        self._walls = [None if wall is None else float(wall) for wall in (world.x_semidim, world.y_semidim)]
        self._contact = _Contact(world) if self.agents[0].collide else None

    def places(self) -> Tensor:
        """Where the agents are, `[N, E, 2]`."""
        return torch.stack([state._pos for state in self._states])

    def speeds(self) -> Tensor:
        """How fast they are, `[N, E, 2]`."""
        return torch.stack([state._vel for state in self._states])

    def advance(self) -> None:
        force = torch.stack([agent._action._u for agent in self.agents])
        place, speed = self.places(), self.speeds() * self._keep
        pull = force / self._mass
        step = self.world._sub_dt
        for _ in range(self.world._substeps):
            if self._contact is not None:
                pull = self._contact(force, place) / self._mass
            speed = speed + pull * step
            place = place + speed * step
            for axis, wall in enumerate(self._walls):
                if wall is not None:
                    place[..., axis].clamp_(-wall, wall)
        for state, *now in zip(self._states, force.unbind(), speed.unbind(), place.unbind(), strict=True):
            state._force, state._vel, state._pos = now
