"""Discs that fly through a VMAS world, all of them moved at once: their own force, drag, walls, and collisions.

The formulas are those of VMAS 1.5, in its order: the numbers are the same bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .vmas_contact import Spheres


def alike(agents: Sequence[Any]) -> bool:
    """Whether all are equal spheres, moved by drag, their own force and collisions at most, that never turn."""
    from vmas.simulator.core import Agent, Sphere

    first = agents[0]
    return all(
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


def flies(world: Any) -> bool:
    """Whether a step is nothing but agents that are alike, and walls; nothing else moves or collides."""
    from vmas.simulator.core import Landmark, World

    return (
        type(world) is World
        and all(type(landmark) is Landmark for landmark in world.landmarks)
        and not any(each.collide or each.movable or each.rotatable for each in world.landmarks)
        and not world._joints
        and not bool(world._gravity.any())
        and world._linear_friction == world._angular_friction == world.dim_c == 0
        and alike(world.agents)
    )


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
        self._contact = Spheres(world, self.agents) if self.agents[0].collide else None

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
